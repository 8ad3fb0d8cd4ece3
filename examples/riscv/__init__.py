"""An RV32IMA machine that boots Linux: a CPU core in Cython that embeds the bus.

Run it with ``python -m examples.riscv``. `core` is the core, a package of its own; `board` has the devices and their
addresses, `machine` the loop that runs the core, and `guest` a program for it.
"""
