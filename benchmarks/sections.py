"""The sections of the report that show what was measured. Each is empty where nothing was."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import plots
import scaling
from counting import SIMULATED, Profile
from peers import PEERS, is_installed
from plots import Curves
from render import image, nanoseconds, number, paragraph, table, times
from results import Results, format_time, format_value
from targets import CRATE
from workloads import PATTERNS, SIZES

NATIVE = {
    "held read": "dbs_device, held tables",
    "btree_map": "Rust BTreeMap",
    "std_map": "C++ std::map",
    "held load": "dbs_device, held tables, load",
    "manager load": "dbs_device, manager, load",
    "callback load": "dbs_device, C entry point",
}
Simulated = Mapping[tuple[str, int], Profile]

# ----------------------------------------------------------------------------- cost over the number of ranges


def native_section(folder: Path, results: Results) -> list[str]:
    panels: dict[str, Curves] = {}
    lines: list[str] = []
    for pattern in PATTERNS:
        curves = {
            label: [(int(count), results.net(m.name, "native/loop")) for count, m in selected]
            for subject, label in NATIVE.items()
            if (selected := results.select("native", subject, pattern, None))
        }
        if not curves:
            continue
        panels[pattern] = curves
        crate = dict(zip(SIZES, CRATE[pattern], strict=True))
        rows = [
            (count, *(nanoseconds(dict(points)[count]) for points in curves.values()), crate.get(count, ""))
            for count in sorted({count for points in curves.values() for count, _ in points})
        ]
        lines += [f"### {pattern}", "", *table(("ranges", *curves, "the crate, by the design"), rows)]
    if not panels:
        return []
    plots.costs_over_ranges(panels, folder / "native.png", "One native access from C")
    loop, call = nanoseconds(results.net("native/loop")), nanoseconds(results.net("native/idle call", "native/loop"))
    return [
        "## Native dispatch",
        "",
        *paragraph(
            "ns for one access of 4 bytes that ends in a device in C, C++ or Rust, all in the same compiled loop, "
            f"through a function pointer. The loop ({loop} ns) is subtracted; a call of a function that does nothing "
            f"({call} ns) is not. The last column is of another run, on another machine."
        ),
        *image("native.png", "cost of a native access over the number of ranges"),
        *lines,
    ]


def find_section(folder: Path, results: Results) -> list[str]:
    subjects = {"find": "dbs_device find", **{peer.name: peer.name for peer in PEERS}}
    panels: dict[str, Curves] = {}
    lines: list[str] = []
    for pattern in PATTERNS:
        curves = {
            label: [(int(count), results.net(m.name, "find/loop")) for count, m in selected]
            for subject, label in subjects.items()
            if (selected := results.select("find", subject, pattern, None))
        }
        if not curves:
            continue
        panels[pattern] = curves
        counts = sorted({count for points in curves.values() for count, _ in points})
        rows = [
            (label, *(nanoseconds(dict(points)[count]) if count in dict(points) else "" for count in counts))
            for label, points in curves.items()
        ]
        lines += [f"### {pattern}", "", *table(("ns for one; ranges:", *map(str, counts)), rows)]
    if not panels:
        return []
    plots.costs_over_ranges(panels, folder / "find.png", "Who owns this address? Asked from Python")
    return [
        "## Look-up from Python",
        "",
        *paragraph(
            "Each answers the same for every range's ends and at random, which is checked before. The Python loop is "
            "subtracted."
        ),
        *image("find.png", "cost of a look-up from Python over the number of ranges"),
        *lines,
        *many_lines(results),
        *left_out_lines(),
    ]


def many_lines(results: Results) -> list[str]:
    subjects = [name for name, _ in results.select("many", None, "random", "64")]
    if not subjects:
        return []
    counts = sorted({int(count) for name in subjects for count, _ in results.select("many", name, "random", None)})
    rows = [
        (name, *(nanoseconds(results[f"many/{name}/random/{count}"].median) for count in counts)) for name in subjects
    ]
    return ["### A million addresses at once", "", *table(("ns for each address; ranges:", *map(str, counts)), rows)]


def left_out_lines() -> list[str]:
    notes = [f"* {peer.name}: not installed." for peer in PEERS if not is_installed(peer)]
    notes += [f"* {p.name}: up to {p.largest} ranges; {p.reason}." for p in PEERS if p.reason and is_installed(p)]
    return ["Left out:", "", *notes, ""] if notes else []


# ----------------------------------------------------------------------------- one access


def access_section(results: Results) -> list[str]:
    operations = list(dict.fromkeys(m.name.split("/")[1] for m in results if m.name.startswith("access/")))
    columns = [(device, pattern) for device in ("python", "mutex", "native") for pattern in ("same", "random")]

    def net(name: str) -> str:
        in_a_python_loop = not re.match("access/(c load|called from C|[a-z]+_[a-z]+_(many|string)/)", name)
        return nanoseconds(results.net(name, "access/loop" if in_a_python_loop else None)) if name in results else ""

    rows = []
    for operation in operations:
        cells = [net(f"access/{operation}/{device}/{pattern}/64") for device, pattern in columns]
        if any(cells):
            rows.append((operation, *cells))
    if not rows:
        return []
    others = {
        "the empty method": "empty method",
        "the device's method": "plain read/offset 0x8",
        "the device's method, called from C": "called from C/offset 0x8",
        "the device's method with a memoryview made for it": "by hand read/offset 0x8",
        "mmio_load by a subclass of IoManager": "mmio_load/by a subclass/same/64",
        "mmio_load through a recorder that is off": "mmio_load/recorder off/same/64",
        "mmio_load through a recorder": "mmio_load/recorded/same/64",
        "a miss: mmio_load, raising": "mmio_load/miss, raising/unowned/64",
        "a miss: mmio_load, open bus": "mmio_load/miss, open bus/unowned/64",
        "a miss: pio_in, raising": "pio_in/miss, raising/unowned/64",
        "a miss: pio_in, open bus": "pio_in/miss, open bus/unowned/64",
    }
    beside = [(text, net(f"access/{name}")) for text, name in others.items()]
    return [
        "## Accesses from Python, and from C to Python",
        "",
        *paragraph(
            "64 ranges, devices that do nothing. `c load` is a compiled loop on held tables, which takes the GIL for "
            "each access of a Python device, or holds it. Many, and strings of port elements, are 4096 in one call."
        ),
        *table(("ns for one", *(f"{device}, {pattern}" for device, pattern in columns)), rows),
        *table(("beside them", "ns"), [row for row in beside if row[1]]),
    ]


def parts_of_accesses(results: Results) -> dict[str, dict[str, float]]:
    """Return what one access is made of, by what it costs more than the one that has a part less."""

    def net(name: str) -> float:
        return results.net(name, name.split("/")[0] + "/loop")

    needed = ("access/empty method", "find/empty method", "find/find/same/64", "access/plain read/offset 0x8")
    bars: dict[str, dict[str, float]] = {}
    if all(name in results for name in needed):
        call = net("access/empty method")
        look_up = max(net("find/find/same/64") - net("find/empty method"), 0.0)
        device = net("access/plain read/offset 0x8")
        for operation in ("mmio_read", "mmio_load"):
            name = f"access/{operation}/{{}}/same/64"
            if all(name.format(kind) in results for kind in ("python", "mutex", "native")):
                python, mutex, native = (net(name.format(kind)) for kind in ("python", "mutex", "native"))
                common = {"call from Python": call, "look-up": look_up}
                way = "the rest of the bus"
                to_python = {**common, "the device's method, in Python": device, way: python - call - look_up - device}
                bars[f"{operation}, Python device"] = to_python
                bars[f"{operation}, Mutex"] = {**to_python, "lock": mutex - python}
                bars[f"{operation}, native device"] = {**common, way: native - call - look_up}
    for operation in ("load", "in"):
        names = [f"unicorn/{operation}/{s}" for s in ("idle C callback", "bridge, native", "bridge, python")]
        if all(name in results for name in names):
            idle, native, python = map(net, names)
            bars[f"guest's {operation}, native device"] = {"Unicorn": idle, "the rest of the bus": native - idle}
            bars[f"guest's {operation}, Python device"] = {
                "Unicorn": idle,
                "the rest of the bus": native - idle,
                "from the bus to the Python device and back": python - native,
            }
    return {bar: {part: max(seconds, 0.0) for part, seconds in parts.items()} for bar, parts in bars.items()}


def parts_section(folder: Path, results: Results) -> list[str]:
    bars = parts_of_accesses(results)
    if not bars:
        return []
    plots.bars_in_parts(bars, folder / "access.png", "One access, end to end", 1e-9, "ns")
    rows = [
        (
            bar,
            "; ".join(f"{part} {nanoseconds(seconds)}" for part, seconds in parts.items()),
            nanoseconds(sum(parts.values())),
        )
        for bar, parts in bars.items()
    ]
    return [
        "## One access, end to end",
        "",
        *paragraph(
            "Each part is what an access costs more than one without it: the call of an empty method; what `find` adds "
            "to that; the device's method called by itself; what is left."
        ),
        *image("access.png", "one access split into its parts"),
        *table(("access", "parts, ns", "sum, ns"), rows),
    ]


def unicorn_section(folder: Path, results: Results) -> list[str]:
    operations = [name for name, _ in results.select("unicorn", None, "own callback")]
    if not operations:
        return []
    subjects = ("bridge, native", "bridge, python", "idle C callback", "own callback, empty", "own callback, manager")
    groups = {
        operation: {
            subject: results.net(f"unicorn/{operation}/{subject}", "unicorn/loop")
            for subject in (*subjects, "own callback")
            if f"unicorn/{operation}/{subject}" in results
        }
        for operation in operations
    }
    plots.bars(groups, folder / "unicorn.png", "One access of a guest under Unicorn", "ns")
    present = list(dict.fromkeys(subject for group in groups.values() for subject in group))
    rows = [(s, *(nanoseconds(group[s]) if s in group else "" for group in groups.values())) for s in present]
    return [
        "## Under Unicorn",
        "",
        *paragraph(
            "ns for one access of a loop of x86 instructions; the same loop on RAM is subtracted. `idle C callback` is "
            "what Unicorn takes itself: no bus can be faster."
        ),
        *image("unicorn.png", "cost of a guest's access"),
        *table(("ns for one", *operations), rows),
    ]


# ----------------------------------------------------------------------------- changes and threads


def changes_section(folder: Path, results: Results) -> list[str]:
    names = {
        "register": "register",
        "unregister": "unregister",
        "transaction": "transaction of one device",
        "clone": "clone",
        "btree_map clone": "clone of a Rust BTreeMap, as in the crate",
        "std_map clone": "clone of a C++ std::map",
        "fill": "register all in one transaction, for each range",
    }
    curves = {
        label: [(int(count), m.median) for count, m in selected]
        for name, label in names.items()
        if (selected := results.select("changes", name, None))
    }
    if not curves:
        return []
    plots.costs_over_ranges({"": curves}, folder / "changes.png", "Changes of the map")
    counts = sorted({count for points in curves.values() for count, _ in points})
    rows = [
        (label, *(format_time(dict(points)[count]) if count in dict(points) else "" for count in counts))
        for label, points in curves.items()
    ]
    memory = dict(results.select("memory", None))
    rows.append(("memory for each range", *(format_value(memory[str(c)]) if str(c) in memory else "" for c in counts)))
    imports = [(name, format_value(m)) for name, m in results.select("import", None)]
    return [
        "## Changes, memory, import",
        "",
        *image("changes.png", "cost of a change over the number of ranges"),
        *table(("ranges:", *map(str, counts)), rows),
        *(table(("a process that imports", "wall time"), imports) if imports else []),
    ]


def threads_section(results: Results) -> list[str]:
    rows = []
    for kind in ("held", "manager", "python"):
        for devices in ("one device", "own devices"):
            one, two = (f"threads/{kind}/{devices}/{threads}" for threads in (1, 2))
            if one in results and two in results:
                rate = [f"{1 / results[name].median / 1e6:.1f}" for name in (one, two)]
                rows.append((f"{kind}, {devices}", *rate, times(1 / results.ratio(two, one))))
    if not rows:
        return []
    return [
        "## Threads",
        "",
        *paragraph(
            "Millions of accesses a second, of all threads together, in wall time. Compiled loops on held tables and "
            "on the manager run without the GIL, on native devices; Python threads call a Python device."
        ),
        *table(("", "1 thread", "2 threads", "gain"), rows),
    ]


# ----------------------------------------------------------------------------- real work


def replay_section(folder: Path, results: Results) -> list[str]:
    traces = [name for name, _ in results.select("replay", None, "manager")]
    if not traces:
        return []
    groups: dict[str, dict[str, float]] = {}
    native: dict[str, dict[str, float]] = {}
    for trace in traces:
        for subject, measurement in results.select("replay", trace, None):
            if "loop" in subject:
                continue
            if subject.startswith("native "):
                label = NATIVE[subject.removeprefix("native ")]
                native.setdefault(trace, {})[label] = results.net(measurement.name, f"replay/{trace}/native loop")
            else:
                label = "dbs_device" if subject == "manager" else subject
                groups.setdefault(trace, {})[label] = results.net(measurement.name, f"replay/{trace}/loop")
    plots.bars(groups, folder / "replay.png", "Recorded firmware, for each access, from Python", "ns")
    lines = [
        "## Recorded firmware",
        "",
        *paragraph(
            "Every access of a trace, in order, into devices that do nothing; the loop around is subtracted. A peer "
            "looks up and calls the device's method with a buffer of its own."
        ),
        *image("replay.png", "cost of an access of recorded firmware"),
    ]
    for kind, all_groups in (("from Python", groups), ("native", native)):
        labels = list(dict.fromkeys(label for group in all_groups.values() for label in group))
        rows = [
            (label, *(nanoseconds(group[label]) if label in group else "" for group in all_groups.values()))
            for label in labels
        ]
        if rows:
            lines += table((f"ns for one, {kind}", *all_groups), rows)
    return lines


def boot_section(folder: Path, results: Results) -> list[str]:
    needed = (
        "pc/boot/bridge",
        "pc/boot/own callbacks",
        "pc/devices",
        "pc/accesses",
        "unicorn/in/bridge, python",
        "unicorn/in/idle C callback",
        "access/plain read/offset 0x8",
    )
    if any(name not in results for name in needed):
        return []
    accesses = results["pc/accesses"].median
    boot, devices = results["pc/boot/bridge"].median, results["pc/devices"].median
    outside = results.net("unicorn/in/idle C callback") + results.net("access/plain read/offset 0x8", "access/loop")
    bus = accesses * (results.net("unicorn/in/bridge, python") - outside)
    layers = {"devices, in Python": devices, "bus": bus, "guest, Unicorn and the machine's loop": boot - devices - bus}
    plots.bars_in_parts({"boot": layers}, folder / "boot.png", "Booting the example PC", 1e-3, "ms")
    rows = [(layer, format_time(seconds), f"{seconds / boot:.1%}") for layer, seconds in layers.items()]
    own = results["pc/boot/own callbacks"].median
    return [
        "## Booting a PC",
        "",
        *paragraph(
            f"SeaBIOS and a boot sector on the example PC: {accesses:,.0f} accesses in {format_time(boot)}; "
            f"{format_time(own)} with Unicorn's own Python callbacks in front of the bus. The devices' share is "
            "measured around their methods. The bus's is, for each access, what an IN of a Python device that does "
            "nothing takes, without Unicorn's own part and without the call of the device. The guest's is the rest."
        ),
        *image("boot.png", "share of time of each layer"),
        *table(("layer", "time", "share"), rows),
    ]


# ----------------------------------------------------------------------------- how it grows


def scaling_section(folder: Path, results: Results, simulated: Simulated) -> list[str]:
    curves: dict[str, list[tuple[float, float]]] = {}
    for suite, subject, pattern, label in (
        ("native", "held read", "random", "native access, random"),
        ("native", "held read", "unowned", "native access, unowned"),
        ("native", "btree_map", "random", "Rust BTreeMap, random"),
        ("find", "find", "random", "find from Python, random"),
        ("find", "bisect", "random", "bisect, random"),
        ("find", "list scan", "random", "list scan, random"),
    ):
        selected = results.select(suite, subject, pattern, None)
        if len(selected) > 3:
            curves[label] = [(int(count), results.net(m.name, f"{suite}/loop")) for count, m in selected]
    for name in ("transaction", "clone"):
        selected = results.select("changes", name, None)
        if len(selected) > 3:
            curves[name] = [(int(count), m.median) for count, m in selected]
    lengths = [(int(length), m.median) for length, m in results.select("length", "seabios", "manager", None)]
    if not curves:
        return []
    fits = {label: scaling.fit(points) for label, points in curves.items()}
    drawn = {label: [(count, fits[label](count)) for count, _ in points] for label, points in curves.items()}
    plots.fitted(curves, drawn, folder / "scaling.png", "Cost over the number of ranges, and the laws that fit best")
    if len(lengths) > 3:
        fits["replay of a trace, over its length"] = scaling.fit(lengths)
    rows = [
        (
            label,
            each.law,
            nanoseconds(each.constant),
            number(each.slope / 1e-9) if each.slope else "",
            f"{each.error:.0%}",
        )
        for label, each in fits.items()
    ]
    return [
        "## How it grows",
        "",
        *image("scaling.png", "cost over the number of ranges with fitted curves"),
        *paragraph(
            "Where the typical error is large, no single law holds: hints answer while there are few ranges, the "
            "bisection when there are more, and the caches decide when there are most."
        ),
        *table(("cost = constant + slope * law", "law", "constant, ns", "slope, ns", "typical error"), rows),
        *simulation_lines(simulated),
    ]


def simulation_lines(simulated: Simulated) -> list[str]:
    if not simulated:
        return []
    rows = [
        (f"{NATIVE[subject]}, {count} ranges", *(number(profile.total(event)) for event in SIMULATED.values()))
        for (subject, count), profile in simulated.items()
    ]
    return [
        *paragraph(
            "What bounds it, for one native access at random, simulated by callgrind (level 1: 48 KiB, level 2: 1 MiB):"
        ),
        *table(("", *SIMULATED), rows),
    ]
