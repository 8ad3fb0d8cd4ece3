"""A PC of Python devices on `dbs_device`, which boots real firmware (SeaBIOS) on the Unicorn CPU emulator.

Run it with ``python -m examples.pc``.

`devices` holds the chips, one module each; `board` puts them on one `IoManager`; `cpu` is a Unicorn CPU; `machine` runs
it between them and the memory. Two things move while the guest runs: the ACPI registers, which lie where the firmware
puts them, and the window at 0xA0000, which belongs to the VGA or to the RAM behind it. The handler of a configuration
register changes the bus then, from inside the guest's own access.

What a PC has and this one leaves out: DMA transfers, floppy and mouse, interrupts in protected mode, those of ACPI and
of the APICs, system management mode, and a reset that goes on: it ends the run.
"""
