"""An ARM "virt" machine of the library's devices, on which Debian's U-Boot for arm64 runs under Unicorn.

Run it with ``python -m examples.virt``.

`board` wires the devices, which are all of `dbs_device.devices`, and describes them in a device tree; `cpu` is the
Unicorn CPU, with what Unicorn leaves to its users: interrupts, exceptions, the generic timer and the firmware's calls;
`machine` puts them together and runs them. The memory map is that of QEMU's machine of the same name.
"""
