"""EDK2, a second firmware, whose drivers live on the interrupts of the virtual timer."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("unicorn", reason="unicorn is not installed")

from examples.virt.machine import Machine

FIRMWARE = Path("/usr/share/qemu-efi-aarch64/QEMU_EFI.fd")
RUNNING = 0xF  # acknowledged, driver, its features, ready


class Reader:
    """Stops the machine when the firmware has sent something."""

    is_interactive = True

    def __init__(self, end: bytes) -> None:
        self.output = bytearray()
        self.machine: Machine | None = None
        self._end = end

    def write(self, byte: int) -> None:
        self.output.append(byte)
        if self.output.endswith(self._end):
            assert self.machine is not None
            self.machine.stop("seen")

    def read(self, timeout: float) -> bytes:
        return b""


@pytest.mark.slow
@pytest.mark.skipif(not FIRMWARE.exists(), reason=f"{FIRMWARE} is not there: apt install qemu-efi-aarch64")
def test_edk2_finds_its_devices_and_boots_from_the_network() -> None:
    reader = Reader(b"Start PXE over IPv4")
    reader.machine = machine = Machine(FIRMWARE.read_bytes(), reader)
    assert machine.run() == "seen"
    output, board = reader.output.decode(errors="replace"), machine.board
    assert "UEFI firmware" in output
    assert 'failed to load Boot0002 "UEFI Misc Device 2" from PciRoot(0x0)/Pci(0x1,0x0): Not Found' in output
    disk, net, rng = (transport.device for transport in board.virtio[:3])
    assert [disk.status, net.status, rng.status, board.pci_disk.device.status] == [RUNNING] * 4
    assert disk.queues[0].save_state()["used"] > 0
    assert net.queues[1].save_state()["used"] > 0
    # It has formatted the second bank as its store of variables.
    assert bytes(board.flash[1].rom.view[0x28:0x2C]) == b"_FVH"
    assert board.fw_cfg.save_state()["position"] > 0
    assert not any(transport.device.guest_errors for transport in board.virtio)
