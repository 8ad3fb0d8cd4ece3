"""Fixtures of the tests of the package."""

from __future__ import annotations

import sys
from collections.abc import Iterator

import pytest


@pytest.fixture
def impatient_interpreter() -> Iterator[None]:
    """Have threads take turns as often as they can; without a GIL this changes nothing."""
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(interval)
