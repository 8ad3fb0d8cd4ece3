"""A small x86 guest on the Unicorn CPU emulator, and the Python devices that it uses.

Run it with ``python -m examples.guest``. `guest.asm` is the guest, `devices` has the devices, `machine` connects them,
and `report` prints the results.
"""
