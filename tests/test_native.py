"""The base class of native devices, as used from Python: it does nothing, and a subclass may override any handler."""

from __future__ import annotations

import pytest
from helpers import ACCESSES, map_both

from dbs_device import DeviceResources, NativeDevice


def test_a_native_device_is_served_like_any_other():
    manager = map_both(NativeDevice())
    for access in ACCESSES:
        assert access(manager, 0x100, 4) == (bytes(4) if access.reads else b"")


def test_a_native_device_can_be_called_from_python():
    device = NativeDevice()
    data = bytearray(b"\1\2")
    device.read(0x1000, 4, data)
    device.write(0x1000, 4, b"\1\2")
    device.pio_read(0x60, 0, memoryview(data))
    device.pio_write(0x60, 0, data)
    assert data == b"\1\2"
    data.append(3)
    for read in (device.read, device.pio_read):
        with pytest.raises(BufferError):
            read(0, 0, b"\0")
    for handler in (device.read, device.write, device.pio_read, device.pio_write):
        with pytest.raises(TypeError):
            handler(0, 0, "text")
        with pytest.raises(OverflowError):
            handler(-1, 0, data)
    assert device.get_assigned_resources() == device.get_trapped_io_resources() == DeviceResources()
    assert map_both(device) == map_both(NativeDevice())


def test_a_python_subclass_of_a_native_device_is_called_by_what_it_overrides():
    class Overriding(NativeDevice):
        def read(self, base, offset, data):
            data[0] = 0x5A

    class OverridingOther(NativeDevice):
        def pio_write(self, base, offset, data):
            raise OSError("overridden")

    manager = map_both(Overriding())
    assert manager.mmio_load(0x100, 4) == 0x5A
    assert manager.pio_in(0x100, 4) == 0
    for access in ACCESSES:
        access(manager, 0x100, 4)
    manager = map_both(OverridingOther())
    assert manager.mmio_load(0x100, 4) == 0
    with pytest.raises(OSError, match="overridden"):
        manager.pio_out(0x100, 1, 0)
