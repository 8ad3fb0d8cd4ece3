"""Guests of KVM that are a few bytes of real-mode code, on the machine of ``examples/vmm.py``. x86-64 only."""

import platform
import threading
import time

import pytest

pytest.importorskip("dbs_device.kvm", reason="KVM is Linux's", exc_type=ImportError)

from examples.vmm import CODE, RAM_SIZE, Kvm, KvmError
from examples.vmm import Machine as ExampleMachine

__all__ = ["CODE", "RAM_SIZE", "Machine", "Running", "needs_kvm", "wait_for", "why_not"]

PATIENCE = 120.0  # seconds, on a machine that is busy and interprets guests in software


def why_not():
    """Return why guests cannot run here, or None."""
    if platform.machine() != "x86_64":
        return "the guests are x86 code"
    try:
        Kvm().close()
    except KvmError as error:
        return str(error)
    return None


needs_kvm = pytest.mark.skipif(why_not() is not None, reason=why_not() or "")


class Machine(ExampleMachine):
    def plug(self, device, *resources):
        self.manager.register_device_io(device, resources)
        return device


class Running(threading.Thread):
    """Runs a processor on a thread of its own, until an exit."""

    def __init__(self, vcpu):
        super().__init__(daemon=True)
        self._vcpu = vcpu
        self._result = None
        self.start()
        wait_for(lambda: vcpu.is_running or not self.is_alive())

    def run(self):
        try:
            self._result = self._vcpu.run()
        except BaseException as error:
            self._result = error

    def finish(self):
        """Wait for the exit, and return it, or the exception."""
        self.join(PATIENCE)
        assert not self.is_alive(), "the vCPU has not left its run"
        return self._result


def wait_for(condition):
    """Wait until a condition holds; fail after a long time."""
    end = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < end, "it has not happened"
        time.sleep(0.001)
