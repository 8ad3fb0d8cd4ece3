"""Devices to use at once. Each is in a module of its own, named after the chip or the specification.

Every device takes its interrupt lines as callables of a bool (`dbs_device.interrupts.IrqLine` is one), its time as a
`dbs_device.clock.Clock` and the memory that it reads and writes by itself as a `dbs_device.memory.GuestMemory`. It is
registered at an address of the caller's choice, for `device.size` bytes.
"""
