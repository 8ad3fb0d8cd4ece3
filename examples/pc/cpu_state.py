"""The state of a Unicorn CPU, as Unicorn's own context: registers, and what they hide, such as segment descriptors."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import unicorn

from dbs_device.state import StateError

__all__ = ["CpuContext"]


class CpuContext:
    """Saves and loads the registers of a `Uc`.

    A context is the memory of a structure of Unicorn's, whose contents are not checked: restore only states that you
    trust, into the same version of Unicorn on the same kind of host.

    Parameters
    ----------
    uc : unicorn.Uc
        The CPU. It must not be running.
    """

    version = 1

    def __init__(self, uc: unicorn.Uc) -> None:
        self._uc = uc

    def save_state(self) -> dict[str, Any]:
        context = bytes(self._uc.context_save())
        return {"unicorn": unicorn.__version__, "context": context[self._header_size(context) :]}

    def check_state(self, state: Mapping[str, Any]) -> None:
        here = self.save_state()
        if not isinstance(state, Mapping) or state.keys() != here.keys() or not isinstance(state["context"], bytes):
            raise StateError(f"the state of a CPU has {', '.join(here)}")
        sizes = len(state["context"]), len(here["context"])
        if state["unicorn"] != here["unicorn"] or sizes[0] != sizes[1]:
            raise StateError(
                f"a context of Unicorn {state['unicorn']}, {sizes[0]} bytes, and here of Unicorn {here['unicorn']}, "
                f"{sizes[1]} bytes"
            )

    def load_state(self, state: Mapping[str, Any]) -> None:
        self.check_state(state)
        # The header of a context has pointers of its process.
        context = self._uc.context_save()
        old = bytes(context)
        contents = old[: self._header_size(old)] + state["context"]
        context = type(context).__new__(type(context))
        context.__setstate__((contents, len(contents), self._uc._arch, self._uc._mode))
        self._uc.context_restore(context)

    @staticmethod
    def _header_size(context: bytes) -> int:
        """Return the size of what precedes the CPU's own structure, whose size is the first member of the header."""
        return len(context) - int.from_bytes(context[:8], "little")
