"""A small x86 guest of our own, alive on the Unicorn CPU emulator, and the Python devices that it uses.

Run it with ``python -m examples.guest``. `guest.asm` is the guest, `devices` are the devices, `machine` puts the two
together, and `report` shows what came of it.
"""
