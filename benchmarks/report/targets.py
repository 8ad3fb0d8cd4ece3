"""The performance targets, as data: how long a case may take, compared with others of the same run."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from peers.native import NATIVE_PEERS
from suites.workloads import SIZES

from report.results import Results, format_time


class Bound(NamedTuple):
    """`case` takes at most `at_most` times what the references take together; at most so many seconds without any."""

    case: str
    at_most: float
    references: tuple[str, ...] = ()

    def measured(self, results: Results) -> float | None:
        """Return the ratio (or seconds), or None where something was not measured."""
        if any(name not in results for name in (self.case, *self.references)):
            return None
        return results.ratio(self.case, *self.references) if self.references else results.net(self.case)

    def show(self, value: float) -> str:
        return f"{value:.3g}x" if self.references else format_time(value)


class Target(NamedTuple):
    work: str
    bounds: list[Bound]


COLUMNS = ("work", "at most", "measured", "worst of", "")


class Outcome(NamedTuple):
    """The bound of a target that comes worst off, and how many are missed."""

    target: Target
    bound: Bound
    measured: float
    missed: int

    def row(self) -> tuple[str, ...]:
        verdict = "reached" if not self.missed else f"missed in {self.missed} of {len(self.target.bounds)}"
        place = self.bound.case.partition("/")[2] if len(self.target.bounds) > 1 else ""
        return self.target.work, self.bound.show(self.bound.at_most), self.bound.show(self.measured), place, verdict


def outcomes(results: Results) -> list[Outcome]:
    """Return the outcome of each target of which anything was measured."""
    found = []
    for target in TARGETS:
        measured = [(bound, value) for bound in target.bounds if (value := bound.measured(results)) is not None]
        if measured:
            worst, value = max(measured, key=lambda each: each[1] / each[0].at_most)
            found.append(Outcome(target, worst, value, sum(value > bound.at_most for bound, value in measured)))
    return found


def at_offsets(at_most: float, case: str, *references: str) -> list[Bound]:
    """Return bounds of accesses that were measured at two offsets."""
    return [
        Bound(
            f"access/{case}/offset {offset}",
            at_most,
            tuple(f"access/{name.format(offset=offset)}" for name in references),
        )
        for offset in ("0x8", "0x18000")
    ]


def native_bounds(pattern: str, peer: str, limits: dict[int, float]) -> list[Bound]:
    """Return a bound for each number of ranges; a limit holds from its number on, until the next."""
    bounds = []
    for count in SIZES:
        allowed = [limit for least, limit in limits.items() if count >= least]
        if allowed:
            references = (f"native/{peer}/{pattern}/{count}",)
            bounds.append(Bound(f"native/held read/{pattern}/{count}", allowed[-1], references))
    return bounds


def unicorn_bounds(subject: str, at_most: float) -> list[Bound]:
    return [
        Bound(f"unicorn/{operation}/{subject}", at_most, (f"unicorn/{operation}/own callback",))
        for operation in ("load", "in", "store", "out")
    ]


NATIVE_LIMITS = {
    "random": {1: 1.0, 16: 0.5},
    "same": {1: 1.0, 16: 0.5},
    "round-robin": {1: 1.3},
    "zipf": {1: 1.0},
    "unowned": {4: 1.0},
}


def native_targets() -> Iterable[Target]:
    for pattern, limits in NATIVE_LIMITS.items():
        for peer in NATIVE_PEERS:
            yield Target(
                f"native access on held tables, {pattern}, against {peer}", native_bounds(pattern, peer, limits)
            )


TARGETS: tuple[Target, ...] = (
    Target(
        "mmio_read(addr, memoryview) against its method called from C and an empty method",
        at_offsets(1.15, "mmio_read", "called from C/offset {offset}", "empty method"),
    ),
    Target(
        "mmio_write(addr, bytes) against device.write(base, offset, memoryview(b))",
        at_offsets(0.9, "mmio_write", "by hand write/offset {offset}"),
    ),
    Target(
        "mmio_read(addr, bytearray) against device.read(base, offset, memoryview(b))",
        at_offsets(0.9, "mmio_read bytearray", "by hand read/offset {offset}"),
    ),
    Target(
        "a Mutex device against the plain device",
        [
            Bound(f"access/{operation}/mutex/same/64", 1.25, (f"access/{operation}/python/same/64",))
            for operation in ("mmio_read", "mmio_write", "mmio_load", "mmio_store")
        ],
    ),
    Target(
        "a register device on integer handlers against the same device on buffer handlers",
        [
            Bound(
                f"access/{operation}/registers on integers/same/64",
                0.5,
                (f"access/{operation}/registers on buffers/same/64",),
            )
            for operation in ("mmio_load", "mmio_store")
        ],
    ),
    Target(
        "recorded firmware, device code on integers, against bisect by hand and the same code",
        [
            Bound(f"replay/{trace}/manager on integers", 0.4, (f"replay/{trace}/bisect on integers",))
            for trace in ("seabios", "u-boot", "stm32")
        ],
    ),
    Target(
        "find(addr), 64 ranges, same, against an empty method of a cdef class",
        [Bound("find/find/same/64", 1.3, ("find/empty method",))],
    ),
    Target(
        "find(addr), 64 ranges, random, against bisect over a list",
        [Bound("find/find/random/64", 1 / 4, ("find/bisect/random/64",))],
    ),
    *native_targets(),
    Target(
        "mmio_load of a native device from Python against an empty method of a cdef class",
        [Bound("access/mmio_load/native/same/64", 2.0, ("access/empty method",))],
    ),
    Target("a transaction of one device among 4096", [Bound("changes/transaction/4096", 30e-6)]),
    Target("65536 ranges registered in one transaction, each", [Bound("changes/fill/65536", 1 / 65536)]),
    Target(
        "clone() of 65536 ranges against clone() of one", [Bound("changes/clone/65536", 1.25, ("changes/clone/1",))]
    ),
    Target("Unicorn, a Python device, against Unicorn's own callback", unicorn_bounds("bridge, python", 1 / 3)),
    Target("Unicorn, a native device, against Unicorn's own callback", unicorn_bounds("bridge, native", 1 / 20)),
    Target(
        "Unicorn, a loop that reads a Ram, against Unicorn's own memory",
        [Bound("unicorn/mapped Ram", 1.2, ("unicorn/loop",))],
    ),
    Target(
        "KVM, an exit into a native device, against a loop in C that calls it",
        [
            Bound(f"kvm/{guest}/native", 1.1, (f"kvm/{guest}/raw",))
            for guest in ("in", "out", "load", "store", "string")
        ],
    ),
    Target(
        "two threads on the manager, no GIL, against one thread",
        [
            Bound(f"threads/manager, {devices}/2", 1 / 1.8, (f"threads/manager, {devices}/1",))
            for devices in ("one device", "own devices")
        ],
    ),
    Target(
        "find_many of 1e6 addresses against numpy.searchsorted and a bounds check",
        [
            Bound(f"many/find_many/random/{count}", 1 / 4, (f"many/numpy.searchsorted/random/{count}",))
            for count in (64, 256, 1024, 4096)
        ],
    ),
)
