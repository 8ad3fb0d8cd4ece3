"""Writes the report of a run: report.md, the same as report.html, its plots, and a table of all cases."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import sections
from counting import Profile
from render import number, paragraph, table, times
from results import Measurement, Results, format_time, format_value
from sections import Simulated
from targets import TARGETS, Bound, Outcome, Target, outcomes

LARGEST_FUNCTIONS = 8
Profiles = Mapping[str, Profile]

# ----------------------------------------------------------------------------- targets


def describe(bound: Bound, measured: float | None) -> str:
    """Return a ratio or a time, as the bound wants it."""
    if measured is None:
        return ""
    if bound.reference is None:
        return format_time(measured)
    if bound.at_most < 0.5:
        return f"{number(1 / measured)} times faster"
    return times(measured)


def verdict(measured: Sequence[Outcome]) -> str:
    reached = sum(outcome.is_reached for outcome in measured)
    if reached == len(measured):
        return "reached"
    return "**missed**" if len(measured) == 1 else f"**missed** in {len(measured) - reached} of {len(measured)}"


def place(outcome: Outcome) -> str:
    """Return what tells a bound from the others of its target: the end of the name of its case."""
    pieces = outcome.bound.case.split("/")
    return pieces[1] if pieces[0] == "unicorn" else pieces[-1]


def measured_outcomes(target: Target, results: Results) -> list[Outcome]:
    return [outcome for outcome in outcomes(target, results) if outcome.measured is not None]


def target_section(results: Results) -> list[str]:
    rows = []
    for target in TARGETS:
        measured = measured_outcomes(target, results)
        if measured:
            worst = max(measured, key=lambda outcome: outcome.margin)
            where = f" ({place(worst)})" if len(measured) > 1 else ""
            rows.append((target.work, target.promise, describe(*worst) + where, verdict(measured)))
        else:
            rows.append((target.work, target.promise, "not measured", ""))
    return [
        "## Targets",
        "",
        *paragraph(
            "Ratios are medians over the rounds, of times without the empty loop. Where a target has several cases, "
            "the one that comes worst off is shown, and which it is: a number of ranges, an offset, an operation."
        ),
        *table(("work", "target", "measured", ""), rows),
    ]


def missed_section(results: Results, profiles: Profiles) -> list[str]:
    """Explain the targets that were missed: every case, and where the instructions go."""
    lines: list[str] = []
    explained: list[str] = []
    for target in TARGETS:
        measured = measured_outcomes(target, results)
        missed = [outcome for outcome in measured if not outcome.is_reached]
        if not missed:
            continue
        lines += [f"### {target.work}", "", f"Target: {target.promise}.", ""]
        rows = [
            (
                f"`{outcome.bound.case}`",
                describe(*outcome),
                "reached" if outcome.is_reached else "missed",
                describe(outcome.bound, outcome.bound.measure_floor(results)),
            )
            for outcome in measured
        ]
        lines += table(("case", "measured", "", "what cannot be done without"), rows)
        if target.profile and target.profile in profiles and target.profile not in explained:
            explained.append(target.profile)
            lines += profile_lines(target.profile, profiles)
        elif target.profile in explained:
            lines += [f'Its instructions: "{target.profile}", above.', ""]
    if not lines:
        return []
    return [
        "## What was missed, and where it goes",
        "",
        *paragraph(
            "What cannot be done without, in the last column, is measured too: for a Python device its method, called "
            "from a compiled loop with all its arguments ready; for a native one a call that calls the device; under "
            "Unicorn a C function that does nothing."
        ),
        *lines,
    ]


def profile_lines(name: str, profiles: Profiles) -> list[str]:
    profile = profiles[name]
    rest = profile.total() - sum(count for _, count in profile.largest(LARGEST_FUNCTIONS))
    rows = [(f"`{function}`", number(count)) for function, count in profile.largest(LARGEST_FUNCTIONS)]
    if rest > 0.5:
        rows.append(("all others", number(rest)))
    return [
        f'Instructions of "{name}": {number(profile.total())}, of which {number(profile.engine())} in our own code.',
        "",
        *table(("function, without what it calls", "instructions"), rows),
    ]


# ----------------------------------------------------------------------------- instructions and cases


def instruction_section(profiles: Profiles) -> list[str]:
    if not profiles:
        return ["## Instructions", "", *paragraph("Not counted: that takes valgrind, and a run of all cases.")]
    rows = [(name, number(profile.engine()), number(profile.total())) for name, profile in profiles.items()]
    return [
        "## Instructions",
        "",
        *paragraph(
            "For one operation, counted by callgrind; they repeat to the instruction. `make bench-check` compares them "
            "with the last ones."
        ),
        *table(("operation", "in our code", "in all"), rows),
    ]


def case_lines(results: Results) -> list[str]:
    def row(m: Measurement) -> tuple[str, str, str, str]:
        spread = format_value(m._replace(rounds=((m.spread,),)))
        return f"`{m.name}`", format_value(m), spread, m.clock

    return [
        "# All cases",
        "",
        "Medians and spreads (median distance from the median) of one access, with the loop around it.",
        "",
        *table(("case", "median", "spread", "clock"), map(row, results)),
    ]


# ----------------------------------------------------------------------------- the whole


def write(folder: Path, results: Results, profiles: Profiles, simulated: Simulated, machine: Mapping[str, str]) -> Path:
    """Write the report of some results into a folder, and return the path of its page."""
    lines = [
        "# Benchmarks",
        "",
        *table(("setting", ""), machine.items()),
        *target_section(results),
        *sections.parts_section(folder, results),
        *sections.native_section(folder, results),
        *sections.find_section(folder, results),
        *sections.access_section(results),
        *sections.unicorn_section(folder, results),
        *sections.replay_section(folder, results),
        *sections.boot_section(folder, results),
        *sections.changes_section(folder, results),
        *sections.threads_section(results),
        *sections.scaling_section(folder, results, simulated),
        *missed_section(results, profiles),
        *instruction_section(profiles),
        "[All cases](cases.md), with medians and spreads.",
    ]
    (folder / "cases.md").write_text("\n".join(case_lines(results)))
    text = "\n".join(lines) + "\n"
    (folder / "report.md").write_text(text)
    page = folder / "report.html"
    page.write_text(as_html(text))
    return page


PAGE = """<!doctype html>
<meta charset="utf-8">
<title>Benchmarks</title>
<style>
body {{ font: 15px/1.45 system-ui, sans-serif; max-width: 70rem; margin: 2rem auto; padding: 0 1rem; }}
table {{ border-collapse: collapse; margin: 1rem 0; font-size: 13px; }}
td, th {{ border: 1px solid #ddd; padding: 0.2rem 0.6rem; }}
th {{ background: #f4f6f5; text-align: left; }}
img {{ max-width: 100%; }}
</style>
{body}
"""


def as_html(text: str) -> str:
    from markdown_it import MarkdownIt

    return PAGE.format(body=MarkdownIt("commonmark").enable("table").render(text))
