"""The pages of a run: a report with every table and plot, and a summary of the few numbers that say most."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from peers.lookups import PEERS
from suites.workloads import PATTERNS, SIZES

from report import plots
from report.results import Results, format_number, format_time

# ----------------------------------------------------------------------------- the tables


class Section(NamedTuple):
    """A table. A cell is the case whose name is `case` with the keys of its row and its column put in."""

    title: str
    case: str
    rows: Mapping[str, str]
    columns: Mapping[str, str]

    def values(self, results: Results) -> dict[str, dict[str, float]]:
        """Return by the labels of row and column what was measured, without rows and columns of nothing."""
        table = {}
        for row, label in self.rows.items():
            cells = {column: self.case.format(row=row, column=column) for column in self.columns}
            found = {self.columns[column]: results.net(case) for column, case in cells.items() if case in results}
            if found:
                table[label] = found
        return table

    def lines(self, results: Results) -> list[str]:
        values = self.values(results)
        if not values:
            return []
        present = {label for row in values.values() for label in row}
        columns = {key: label for key, label in self.columns.items() if label in present}
        rows = [
            (label, *(results.show(self.case.format(row=row, column=column)) for column in columns))
            for row, label in self.rows.items()
            if label in values
        ]
        return [*([f"### {self.title}", ""] if self.title else []), *table_lines(("", *columns.values()), rows)]


class Chapter(NamedTuple):
    """Sections that belong together, and the plot that is drawn from them."""

    title: str
    text: str
    sections: Sequence[Section]
    draw: Callable[[Mapping[str, plots.Table], Path, str], None] | None = None
    plot: str = ""

    def lines(self, folder: Path, results: Results) -> list[str]:
        """Draw the plot into the folder, and return the text."""
        tables = {section.title: values for section in self.sections if (values := section.values(results))}
        if not tables:
            return []
        lines = [f"## {self.title}", "", self.text, ""]
        if self.draw:
            self.draw(tables, folder / self.plot, self.title)
            lines += [f"![{self.title}]({self.plot})", ""]
        return [*lines, *(line for section in self.sections for line in section.lines(results))]


def named(*names: str) -> dict[str, str]:
    return {name: name for name in names}


COUNTS = {str(count): str(count) for count in SIZES}
NATIVE = {
    "held read": "dbs_device, held tables",
    "btree_map": "Rust BTreeMap",
    "std_map": "C++ std::map",
    "manager load": "dbs_device, manager",
    "entry point load": "dbs_device, C entry point",
}
FLOORS = {"idle call": "a call of a function that does nothing", "direct call": "a call that calls the device"}
LOOKUPS = {peer.name: peer.name for peer in PEERS}
TRACES = named("seabios", "u-boot", "stm32")
KINDS = {
    f"{device}/{pattern}": f"{device}, {pattern}"
    for device in ("python", "mutex", "native")
    for pattern in ("same", "random")
}
ACCESSES = (
    *("mmio_read", "mmio_read bytearray", "mmio_write", "mmio_load", "mmio_store"),
    *("pio_read", "pio_write", "pio_in", "pio_out"),
    *("c load", "c load, GIL held", "c store"),
    *("mmio_load_many", "mmio_store_many", "pio_in_string", "pio_out_string"),
)

CHAPTERS = (
    Chapter(
        "One native access from C",
        "4 bytes of a device in C, C++ or Rust, all in the same compiled loop, through a function pointer.",
        [Section(pattern, f"native/{{row}}/{pattern}/{{column}}", NATIVE, COUNTS) for pattern in PATTERNS],
        plots.draw_lines,
        "native.png",
    ),
    Chapter(
        "The floor of a native access",
        "In the same loop, without a look-up.",
        [Section("", "native/{row}", FLOORS, {"": "for one"})],
    ),
    Chapter(
        "The owner of an address, from Python",
        "Every peer finds the same owners, which is checked before. Columns are numbers of ranges.",
        [
            Section(pattern, f"find/{{row}}/{pattern}/{{column}}", {"find": "dbs_device find", **LOOKUPS}, COUNTS)
            for pattern in PATTERNS
        ],
        plots.draw_lines,
        "find.png",
    ),
    Chapter(
        "A million addresses at once",
        "For each address, one in eight of which is unowned. Columns are numbers of ranges.",
        [Section("", "many/{row}/random/{column}", {"find_many": "dbs_device find_many", **LOOKUPS}, COUNTS)],
    ),
    Chapter(
        "One access from Python, and from C to Python",
        "64 ranges, devices that do nothing. `c load` and `c store` are compiled loops on held tables, which take the "
        "GIL for each access of a Python device, or hold it. `many` and `string` are 4096 in one call, for each.",
        [
            Section("", "access/{row}/{column}/64", named(*ACCESSES), KINDS),
            Section(
                "One device, by offset",
                "access/{row}/offset {column}",
                {
                    "plain read": "the device's method",
                    "called from C": "the device's method, called from C",
                    "by hand read": "the device's read with a memoryview made for it",
                    "by hand write": "the device's write with a memoryview made for it",
                    **named("mmio_read", "mmio_read bytearray", "mmio_write"),
                },
                named("0x8", "0x18000"),
            ),
            Section(
                "A device with a value for each register",
                "access/{row}/{column}/same/64",
                named("mmio_load", "mmio_store"),
                {"registers on integers": "integer handlers", "registers on buffers": "buffer handlers"},
            ),
            Section(
                "Beside them",
                "access/{row}",
                {
                    "empty method": "an empty method of a cdef class",
                    "mmio_load/by a subclass/same/64": "mmio_load by a subclass of IoManager",
                    "mmio_load/recorder off/same/64": "mmio_load through a recorder that is off",
                    "mmio_load/recorded/same/64": "mmio_load through a recorder",
                    "mmio_load/miss, raising/unowned/64": "mmio_load of an unowned address, raising",
                    "mmio_load/miss, open bus/unowned/64": "mmio_load of an unowned address, open bus",
                    "pio_in/miss, raising/unowned/64": "pio_in of an unowned port, raising",
                    "pio_in/miss, open bus/unowned/64": "pio_in of an unowned port, open bus",
                },
                {"": "for one"},
            ),
        ],
    ),
    Chapter(
        "One access of a guest under Unicorn",
        "A loop of x86 instructions; the same loop on RAM is subtracted. An idle C callback is what Unicorn itself "
        "takes: no bus can be faster.",
        [
            Section(
                "",
                "unicorn/{column}/{row}",
                {
                    "bridge, native": "dbs_device, native device",
                    "bridge, python": "dbs_device, Python device",
                    "own callback": "Unicorn's Python callback, the device",
                    "own callback, manager": "Unicorn's Python callback, IoManager",
                    "own callback, empty": "Unicorn's Python callback, empty",
                    "idle C callback": "idle C callback",
                },
                named("load", "store", "in", "out"),
            )
        ],
        plots.draw_bars,
        "unicorn.png",
    ),
    Chapter(
        "A guest's own memory under Unicorn",
        "A turn of the same loop, which reads one word.",
        [
            Section(
                "",
                "unicorn/{row}",
                {"loop": "Unicorn's mem_map", "mapped Ram": "dbs_device, a Ram that is mapped"},
                {"": "a turn"},
            )
        ],
    ),
    Chapter(
        "Recorded firmware",
        "Every access of a trace, in order, into devices that do nothing. A peer looks up and calls the device's "
        "method with a buffer of its own.",
        [
            Section("from Python", "replay/{column}/{row}", {"manager": "dbs_device", **LOOKUPS}, TRACES),
            Section(
                "Devices on integers, with a value for each register",
                "replay/{column}/{row} on integers",
                {"manager": "dbs_device", "bisect": "bisect by hand"},
                TRACES,
            ),
            Section("from C", "replay/{column}/native {row}", NATIVE, TRACES),
        ],
        plots.draw_bars,
        "replay.png",
    ),
    Chapter(
        "Changes of the map",
        "Columns are numbers of ranges. `register all` is one transaction, for each range.",
        [
            Section(
                "",
                "changes/{row}/{column}",
                {
                    "register": "register",
                    "unregister": "unregister",
                    "transaction": "transaction of one device",
                    "clone": "clone",
                    "btree_map clone": "clone of a Rust BTreeMap",
                    "std_map clone": "clone of a C++ std::map",
                    "fill": "register all",
                },
                COUNTS,
            )
        ],
        plots.draw_lines,
        "changes.png",
    ),
    Chapter(
        "Memory, import",
        "Memory is for each range, without devices and resources. Import is the wall time of a process.",
        [
            Section("", "{row}/{column}", named("memory"), COUNTS),
            Section("", "import/{row}", named("python", "numpy", "dbs_device"), {"": "import"}),
        ],
    ),
    Chapter(
        "Guests on KVM",
        "One access of the guest, the exit included: of a register, and of each byte of a string of 1000 bytes. The "
        "loop in C calls its device, and looks nothing up.",
        [
            Section(
                "",
                "kvm/{column}/{row}",
                {
                    "raw": "a loop in C",
                    "native": "dbs_device, native device",
                    "python": "dbs_device, Python device",
                    "python loop": "a loop in Python, native device",
                },
                named("in", "out", "load", "store", "string"),
            ),
            Section(
                "The functions for strings, for each of 4096 bytes, without KVM",
                "kvm/strings, {column}/{row}",
                {
                    "native, string": "native device, one call",
                    "native, by item": "native device, a call for each byte",
                    "python, string": "Python device, one call",
                    "python, by item": "Python device, a call for each byte",
                },
                named("in", "out"),
            ),
        ],
    ),
    Chapter(
        "Threads",
        "Wall time of one access, of all threads together: half is perfect for two. Held tables and the manager are "
        "compiled loops without the GIL, on native devices; Python threads call a Python device.",
        [
            Section(
                "",
                "threads/{row}/{column}",
                named(
                    *(
                        f"{kind}, {devices}"
                        for kind in ("held", "manager", "python")
                        for devices in ("one device", "own devices")
                    )
                ),
                {"1": "1 thread", "2": "2 threads"},
            )
        ],
    ),
    Chapter(
        "Allocation",
        "One allocation in a `ResourceManager`, and its free, among so many live ranges.",
        [
            Section(
                "",
                "allocation/{row}/{column}",
                named("in a row", "lowest hole", "above all holes", "odd alignment", "device"),
                named("1", "100", "10000"),
            )
        ],
    ),
)

# ----------------------------------------------------------------------------- derived


BOOT = (
    "pc/boot/bridge",
    "pc/boot/own callbacks",
    "pc/devices",
    "pc/accesses",
    "unicorn/in/bridge, python",
    "unicorn/in/idle C callback",
    "access/plain read/offset 0x8",
)


def boot_lines(results: Results) -> list[str]:
    """Return what the layers of a boot take."""
    if any(name not in results for name in BOOT):
        return []
    boot, own, devices, accesses, bridge, idle, call = map(results.net, BOOT)
    bus = accesses * (bridge - idle - call)
    layers = {"devices, in Python": devices, "bus": bus, "guest, Unicorn and the machine's loop": boot - devices - bus}
    return [
        "## Booting a PC",
        "",
        f"SeaBIOS and a boot sector on the example PC: {accesses:,.0f} accesses in {format_time(boot)}; "
        f"{format_time(own)} with Unicorn's own Python callbacks in front of the bus. The devices' share is measured "
        "around their methods. The bus's is, for each access, what an IN of a Python device that does nothing takes, "
        "without Unicorn's own part and without the call of the device. The guest's is the rest.",
        "",
        *table_lines(
            ("layer", "time", "share"),
            [(layer, format_time(seconds), f"{seconds / boot:.1%}") for layer, seconds in layers.items()],
        ),
    ]


class Headline(NamedTuple):
    """A number of the summary: a case of ours, and what stands in its place without the bus."""

    work: str
    case: str
    peer: str
    reference: str


HEADLINES = (
    Headline(
        "C access to a native device, 64 ranges, random",
        "native/held read/random/64",
        "Rust BTreeMap, as in the crate",
        "native/btree_map/random/64",
    ),
    Headline("the same, 4096 ranges", "native/held read/random/4096", "C++ std::map", "native/std_map/random/4096"),
    Headline("`find` from Python, 64 ranges, random", "find/find/random/64", "bisect", "find/bisect/random/64"),
    Headline(
        "`find_many`, for each of 10⁶ addresses, 1024 ranges",
        "many/find_many/random/1024",
        "numpy.searchsorted",
        "many/numpy.searchsorted/random/1024",
    ),
    Headline(
        "a guest's load under Unicorn, Python device",
        "unicorn/load/bridge, python",
        "Unicorn's Python callback",
        "unicorn/load/own callback",
    ),
    Headline(
        "a guest's load under Unicorn, native device",
        "unicorn/load/bridge, native",
        "Unicorn's Python callback, Python device",
        "unicorn/load/own callback",
    ),
    Headline(
        "recorded SeaBIOS boot, for each access, from Python",
        "replay/seabios/manager",
        "bisect and the same device",
        "replay/seabios/bisect",
    ),
    Headline(
        "a transaction of one device among 4096",
        "changes/transaction/4096",
        "copy of the Rust BTreeMap alone",
        "changes/btree_map clone/4096",
    ),
    Headline(
        "the example PC boots SeaBIOS, in all",
        "pc/boot/bridge",
        "Unicorn's Python callbacks",
        "pc/boot/own callbacks",
    ),
)


def headline_rows(results: Results) -> list[tuple[str, str, str, str]]:
    return [
        (
            each.work,
            results.show(each.case),
            f"{results.show(each.reference)} ({each.peer})",
            f"{format_number(1 / results.ratio(each.case, each.reference))}x",
        )
        for each in HEADLINES
        if each.case in results and each.reference in results
    ]


HEADLINE_COLUMNS = ("", "dbs_device", "in its place", "faster")

# ----------------------------------------------------------------------------- the pages


def table_lines(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    if not rows:
        return []
    lines = [header, ["---"] + ["---:"] * (len(header) - 1), *rows]
    return [f"| {' | '.join(cells)} |" for cells in lines] + [""]


def setting_lines(results: Results) -> list[str]:
    """Return what the figures depend on."""
    known = results.metadata
    processor = f"{known.get('cpu_model_name', 'unknown processor')}, {known.get('cpu_count', '?')} CPUs"
    return [f"* {processor}", *(f"* {version}" for version in str(known.get("versions", "")).split("; ")), ""]


def skipped_lines(results: Results) -> list[str]:
    skipped = [f"* {each}" for each in str(results.metadata.get("skipped", "")).split("; ") if each]
    skipped += [f"* {peer.name}: up to {peer.largest} ranges; {peer.reason}" for peer in PEERS if peer.reason]
    return ["## Left out", "", *skipped, ""]


SUMMARY_PLOTS = {
    "native.png": "One native access from C over the number of ranges, by pattern",
    "unicorn.png": "One access of a guest under Unicorn",
    "replay.png": "Recorded firmware, for each access",
}


def summary(results: Results) -> str:
    lines = [
        "# Benchmarks",
        "",
        "One run of `make bench`, on a machine that other work shares: look at the ratios. Times are medians for one",
        "access, without the loop around it; a ratio is taken within each round of the run, and the median is shown.",
        "[benchmarks/](../../benchmarks/README.md) says what is measured and how.",
        "",
        *setting_lines(results),
        *table_lines(HEADLINE_COLUMNS, headline_rows(results)),
    ]
    for plot, text in SUMMARY_PLOTS.items():
        lines += [f"![{text}]({plot})", ""]
    return "\n".join(lines)


def write(folder: Path, results: Results) -> Path:
    """Write the report of some results into a folder, and return its path."""
    lines = [
        "# Benchmarks",
        "",
        *setting_lines(results),
        *table_lines(HEADLINE_COLUMNS, headline_rows(results)),
        *(line for chapter in CHAPTERS for line in chapter.lines(folder, results)),
        *boot_lines(results),
        *skipped_lines(results),
    ]
    path = folder / "report.md"
    path.write_text("\n".join(lines))
    return path


def publish(results: Results, folder: Path, destination: Path) -> None:
    """Write the summary, and copy its plots from the folder of the report."""
    (destination / "README.md").write_text(summary(results))
    for plot in SUMMARY_PLOTS:
        shutil.copy(folder / plot, destination / plot)
