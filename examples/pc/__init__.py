"""A PC of Python devices on `dbs_device`, which boots real firmware (SeaBIOS) on the Unicorn CPU emulator, or on KVM.

Run it with ``python -m examples.pc``, or ``python -m examples.pc --kvm``.

`devices` has the chips, one module each; `board` registers them on one `IoManager`; `unicorn_processor` runs the guest
on the Unicorn CPU of `cpu`, `kvm` on the host's; `machine` puts one of them together with the memory. Two ranges change
while the guest runs: that of the ACPI registers, whose base the firmware sets, and the window at 0xA0000, which belongs
to the VGA or to the RAM behind it. The handler of a configuration register then changes the bus, from inside the
guest's own access.

Not implemented: DMA transfers, floppy and mouse, interrupts in protected mode, those of ACPI and of the APICs, and
system management mode. A reset ends the run.
"""
