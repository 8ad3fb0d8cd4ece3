"""The output of the demo: the guest's console as it runs, then its picture, its devices and their accesses."""

from __future__ import annotations

import time

from rich import box
from rich.console import Console
from rich.panel import Panel
from rich.style import Style
from rich.table import Table
from rich.text import Text

from dbs_device import Bus
from dbs_device.errors import format_range
from dbs_device.trace import AccessCount

from .devices import Screen
from .machine import Machine

__all__ = ["LiveConsole", "show_report"]

SECONDS_PER_CHARACTER = 10 / 9600  # ten bits at 9600 baud
UPPER_HALF = "\N{UPPER HALF BLOCK}"
BAR, LONGEST_BAR = "\N{BLACK SQUARE}", 40
FRAME_WIDTH = 4  # of its two sides, with a space each
WIDTH_BESIDE_BARS = 35  # of the other columns of the table of accesses
WHITE, BLACK = 231, 16  # of the 256 colours of a terminal


class LiveConsole:
    """Prints the guest's characters at the speed of a serial line, and the host's actions between its lines."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self.seconds_per_character = SECONDS_PER_CHARACTER if console.is_terminal else 0.0
        self.is_at_line_start = True

    def put(self, character: str) -> None:
        if self.is_at_line_start:
            self._print("guest | ", "bold green")
        self._print(character, "green")
        self.is_at_line_start = character == "\n"
        time.sleep(self.seconds_per_character)

    def tell(self, line: str) -> None:
        if not self.is_at_line_start:
            self._print("\n", "green")
        self._print(" host | ", "bold yellow")
        self._print(f"{line}\n", "yellow")
        self.is_at_line_start = True

    def _print(self, text: str, style: str) -> None:
        self.console.print(text, style=style, end="", markup=False, highlight=False, soft_wrap=True)


def show_report(machine: Machine, console: Console) -> None:
    trace = machine.recorder.trace
    console.print()
    show_picture(machine.screen.rows(), console)
    console.print(map_table(machine))
    console.print(access_table(machine, trace.summary(machine.bus), console.width))


def show_picture(rows: list[bytes], console: Console) -> None:
    """Print the picture in a frame, or, where the terminal is narrow, what fits of its middle."""
    title = "What the guest has drawn"
    if console.width >= Screen.WIDTH + FRAME_WIDTH:
        console.print(Panel(picture_of(rows, console), title=title, expand=False))
        return
    margin = max(0, Screen.WIDTH - console.width + 1) // 2
    console.print(title, style="bold")
    console.print(picture_of([row[margin : Screen.WIDTH - margin] for row in rows], console))
    console.print()


def picture_of(rows: list[bytes], console: Console) -> Text:
    """Return the cells in colour, two rows per line, or as characters of different brightness without colours."""
    picture = Text(no_wrap=True)
    if console.color_system is None or console.no_color:
        letters = {WHITE: "#", BLACK: ":"}
        picture.append("\n".join("".join(letters.get(cell, ".") for cell in row) for row in rows))
        return picture
    for upper, lower in zip(rows[::2], rows[1::2], strict=True):
        if picture:
            picture.append("\n")
        for top, bottom in zip(upper, lower, strict=True):
            picture.append(UPPER_HALF, Style(color=f"color({top})", bgcolor=f"color({bottom})"))
    return picture


def titled_table(title: str) -> Table:
    return Table(title=title, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, pad_edge=False)


def map_table(machine: Machine) -> Table:
    table = titled_table("Address map")
    table.add_column("bus", no_wrap=True)
    table.add_column("range", style="cyan", no_wrap=True)
    table.add_column("device", style="bold", no_wrap=True)
    table.add_column("what it is")
    buses: tuple[tuple[str, Bus], ...] = (("MMIO", machine.bus.mmio_bus), ("PIO", machine.bus.pio_bus))
    for name, bus in buses:
        for base, last, device in bus:
            table.add_row(name, format_range(base, last), repr(device), (type(device).__doc__ or "").rstrip("."))
    return table


def access_table(machine: Machine, counts: list[AccessCount], width: int) -> Table:
    table = titled_table("Accesses by device")
    table.show_footer = True
    reads, writes = sum(each.reads for each in counts), sum(each.writes for each in counts)
    table.add_column("device", "all", style="bold")
    table.add_column("reads", str(reads), justify="right")
    table.add_column("writes", str(writes), justify="right")
    table.add_column("")
    most = max(each.reads + each.writes for each in counts)
    longest_bar = min(LONGEST_BAR, max(1, width - WIDTH_BESIDE_BARS))
    for name, reads, writes, *_ in counts:
        if name is None:
            remark = f"the open bus answers {machine.bus.open_bus:#x}"
            table.add_row("(unowned)", str(reads), str(writes), remark, style="yellow")
        else:
            length = -(-(reads + writes) * longest_bar // most)
            table.add_row(name, str(reads), str(writes), Text(BAR * length, style="green"))
    return table
