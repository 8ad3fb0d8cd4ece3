"""The example of a small VMM runs its guest, or says why not."""

from __future__ import annotations

import os
from typing import Any

import pytest

pytest.importorskip("dbs_device.kvm", reason="KVM is Linux's", exc_type=ImportError)

from examples.vmm import Kvm, KvmError, main


def test_the_guest_says_hello(capsys: pytest.CaptureFixture[str]) -> None:
    try:
        Kvm().close()
    except KvmError as error:
        pytest.skip(str(error))
    assert main() == 0
    assert capsys.readouterr().out == "Hello from a guest of KVM.\n<Exit.HLT: 5> after 28 exits\n"


def test_without_kvm(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def denied(*arguments: Any, **options: Any) -> int:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "open", denied)
    assert main() == 2
    assert capsys.readouterr().err == "KVM cannot be used: /dev/kvm: Permission denied\n"
