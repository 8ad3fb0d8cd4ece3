"""What the engine is meant to reach, as data: each target is a list of bounds on measured cases.

A bound says how long a case may take compared with a reference of the same run, or in seconds. The figures of the Rust
crate itself stand beside (``CRATE``): they are of another run, so that they decide nothing.
"""

from __future__ import annotations

from typing import NamedTuple

from results import Results
from workloads import SIZES

# ns for each of `SIZES`: `IoManager::mmio_read` of dbs-device 0.2, by the design.
CRATE = {
    "random": (6.3, 20, 33, 43, 59, 75, 95, 244),
    "same": (6.4, 9.1, 12, 19, 23, 34, 36, 39),
    "round-robin": (6.3, 8.1, 14, 16, 21, 29, 27, 41),
    "zipf": (6.3, 18, 30, 37, 47, 61, 80, 158),
    "unowned": (4.2, 17, 31, 40, 56, 72, 92, 202),
}


class Bound(NamedTuple):
    """`case` takes at most `at_most` times what `reference` takes, or at most so many seconds where it has none.

    `floor` is a case that does only what cannot be done without, and the empty loop that is in it.
    """

    case: str
    reference: str | None
    at_most: float
    loop: str | None = None
    floor: tuple[str, str | None] | None = None
    factor: float = 1.0  # what is measured for one range counts so many times

    def measure(self, results: Results) -> float | None:
        """Return the ratio (or seconds), or None where something was not measured."""
        if any(name and name not in results for name in (self.case, self.reference, self.loop)):
            return None
        if self.reference is None:
            return self.factor * results.net(self.case, self.loop)
        return results.ratio(self.case, self.reference, self.loop)

    def measure_floor(self, results: Results) -> float | None:
        """Return the ratio of the floor, or None where there is none or something was not measured."""
        if self.floor is None or self.reference is None:
            return None
        if any(name and name not in results for name in (*self.floor, self.reference, self.loop)):
            return None
        return results.net(*self.floor) / results.net(self.reference, self.loop)


class Target(NamedTuple):
    """One promise. `profile` names the counted operation that explains it if it is missed."""

    work: str
    promise: str
    bounds: list[Bound]
    profile: str | None = None


class Outcome(NamedTuple):
    """A bound and what was measured; None where it was not."""

    bound: Bound
    measured: float | None

    @property
    def is_reached(self) -> bool:
        return self.measured is not None and self.measured <= self.bound.at_most

    @property
    def margin(self) -> float:
        """How much of what is allowed is used; above 1 the bound is missed."""
        return 0.0 if self.measured is None else self.measured / self.bound.at_most


def outcomes(target: Target, results: Results) -> list[Outcome]:
    return [Outcome(bound, bound.measure(results)) for bound in target.bounds]


def access_bounds(case: str, reference: str, at_most: float, floor: str | None = None) -> list[Bound]:
    return [
        Bound(
            f"access/{case}/offset {offset}",
            f"access/{reference}/offset {offset}",
            at_most,
            "access/loop",
            (f"access/{floor}/offset {offset}", None) if floor else None,
        )
        for offset in ("0x8", "0x18000")
    ]


def native_bounds(pattern: str, engine: str, limits: dict[int, float]) -> list[Bound]:
    """Return a bound for each number of ranges; a limit holds from its number on, until the next."""
    bounds = []
    for count in SIZES:
        allowed = [limit for least, limit in limits.items() if count >= least]
        if allowed:
            case, reference = f"native/held read/{pattern}/{count}", f"native/{engine}/{pattern}/{count}"
            bounds.append(Bound(case, reference, allowed[-1], "native/loop", ("native/direct call", "native/loop")))
    return bounds


FASTER, HALF = 1.0, 0.5

NATIVE_LIMITS = {
    "random": ("faster, half or less from 16 ranges", {1: FASTER, 16: HALF}),
    "same": ("faster, half or less from 16 ranges", {1: FASTER, 16: HALF}),
    "round-robin": ("at most 1.3 times", {1: 1.3}),
    "zipf": ("faster", {1: FASTER}),
    "unowned": ("faster from 4 ranges", {4: FASTER}),
}
ENGINE_NAMES = {"btree_map": "a Rust BTreeMap, as in the crate", "std_map": "a C++ std::map"}
NATIVE_PROFILES = {"same": "C: load, held tables, same range", "unowned": "C: load, held tables, unowned"}


def native_targets() -> list[Target]:
    return [
        Target(
            f"native dispatch on held tables, {pattern}, against {ENGINE_NAMES[engine]}",
            promise,
            native_bounds(pattern, engine, limits),
            NATIVE_PROFILES.get(pattern, "C: load, held tables, random"),
        )
        for pattern, (promise, limits) in NATIVE_LIMITS.items()
        for engine in ENGINE_NAMES
    ]


def unicorn_bounds(subject: str, times: float) -> list[Bound]:
    return [
        Bound(
            f"unicorn/{operation}/{subject}",
            f"unicorn/{operation}/own callback",
            1 / times,
            "unicorn/loop",
            (f"unicorn/{operation}/idle C callback", "unicorn/loop"),
        )
        for operation in ("load", "store", "in", "out")
    ]


TARGETS: tuple[Target, ...] = (
    Target(
        "mmio_read(addr, memoryview) of a Python device, against the plain call of its method",
        "at most 1.6 times",
        access_bounds("mmio_read", "plain read", 1.6, "called from C"),
        "Python: mmio_read memoryview",
    ),
    Target(
        "mmio_write(addr, bytes), against device.write(base, offset, memoryview(b)) by hand",
        "at most 0.9 times",
        access_bounds("mmio_write", "by hand write", 0.9),
        "Python: mmio_write bytes",
    ),
    Target(
        "mmio_read(addr, bytearray), against device.read(base, offset, memoryview(b)) by hand",
        "at most 0.9 times",
        access_bounds("mmio_read bytearray", "by hand read", 0.9),
        "Python: mmio_read bytearray",
    ),
    Target(
        "find(addr), 64 ranges, same address, against an empty method of a cdef class",
        "at most 1.3 times",
        [Bound("find/find/same/64", "find/empty method", 1.3, "find/loop")],
        "Python: find, same range",
    ),
    Target(
        "find(addr), 64 ranges, random, against bisect over a list",
        "4 times faster",
        [Bound("find/find/random/64", "find/bisect/random/64", 1 / 4, "find/loop")],
        "Python: find, random",
    ),
    *native_targets(),
    Target(
        "mmio_load of a native device from Python, 64 ranges, against an empty method of a cdef class",
        "at most 2 times",
        [Bound("access/mmio_load/native/same/64", "access/empty method", 2.0, "access/loop")],
        "Python: mmio_load, native device",
    ),
    Target(
        "begin_tx, register and commit_tx of one device among 4096",
        "at most 30 us",
        [Bound("changes/transaction/4096", None, 30e-6)],
    ),
    Target(
        "65536 ranges registered in random order in one transaction",
        "at most 1 s",
        [Bound("changes/fill/65536", None, 1.0, factor=65536)],
    ),
    Target(
        "clone() of 65536 ranges, against clone() of one",
        "the same, within a quarter",
        [Bound("changes/clone/65536", "changes/clone/1", 1.25)],
    ),
    Target(
        "a Python device under Unicorn, against Unicorn's own callback",
        "3 times faster",
        unicorn_bounds("bridge, python", 3),
        "C: callback load, same range",
    ),
    Target(
        "a native device under Unicorn, against Unicorn's own callback and the Python device",
        "20 times faster",
        unicorn_bounds("bridge, native", 20),
        "C: callback load, same range",
    ),
    Target(
        "find_many of 1e6 addresses, against numpy.searchsorted and a bounds check",
        "4 times faster",
        [
            Bound(f"many/find_many/random/{count}", f"many/numpy.searchsorted/random/{count}", 1 / 4)
            for count in (64, 256, 1024, 4096)
        ],
        "Python: find_many, per address",
    ),
)
