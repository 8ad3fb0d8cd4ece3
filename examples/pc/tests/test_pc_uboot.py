"""The example PC boots U-Boot, which runs in protected mode with interrupts enabled."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("unicorn", reason="the CPU of the example PC is the package unicorn")
pytest.importorskip("rich", reason="the summary of the example PC is printed with the package rich")

from examples.pc.__main__ import main

DEBIAN_UBOOT = Path("/usr/lib/u-boot/qemu-x86/u-boot.rom")


@pytest.mark.slow
@pytest.mark.skipif(not DEBIAN_UBOOT.exists(), reason=f"there is no {DEBIAN_UBOOT}: Debian has it in u-boot-qemu")
def test_uboot_reaches_its_prompt_and_answers(capsys: pytest.CaptureFixture[str]) -> None:
    """Its delays are of the time stamp counter, which is that of the host under Unicorn: the clock is, too.

    On a host that is busy with other things, a delay may be over before the guest has run, and U-Boot gives up on the
    disk. It then boots again.
    """
    answers = ["--wall-time", "--answer", "=> ", "version", "--answer", "=> ", "reset"]
    for _ in range(4):
        assert main(["--rom", str(DEBIAN_UBOOT), "--memory", "128", *answers]) == 1  # it does not power off
        console, _, summary = capsys.readouterr().out.partition("Accesses by the guest")
        boot, _, version = console.partition("=> version")
        if "PYTHON ATA DISK" in boot and "stopped: reset" in summary:
            break
    assert "\nModel: QEMU x86 (I440FX)\n" in boot
    assert "\nDRAM:  128 MiB\n" in boot
    assert "\n  Device 0: Model: PYTHON ATA DISK" in boot
    assert version.lstrip().startswith("U-Boot 20")
    assert "\n=> reset\n" in version
    assert "The machine has stopped: reset." in summary
