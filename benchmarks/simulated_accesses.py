"""Native accesses for callgrind's simulation of caches and branches: see ``counting.py``."""

from __future__ import annotations

import compiled
import engines
import workloads

RANGES = (64, 4096, 65536)
SUBJECTS = ("held read", "std_map", "btree_map")
PATTERN = "random"
ACCESSES = 1 << 14


def subjects() -> list[str]:
    return [subject for subject in SUBJECTS if subject not in engines.FOREIGN or engines.library(subject) is not None]


def main() -> None:
    counted = compiled.module("counted")
    made = []
    for count in RANGES:
        ranges = workloads.address_map(count)
        made.append((engines.accesses(ranges), workloads.addresses_of(ranges, PATTERN, ACCESSES)))
    counted.start()
    for accesses, addresses in made:
        for subject in subjects():
            accesses[subject].time(addresses, 1)  # fills the caches
            accesses[subject].time(addresses, 1)


if __name__ == "__main__":
    main()
