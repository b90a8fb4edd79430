# SPDX-License-Identifier: Apache-2.0
"""A report for a terminal, with rich; the only module of kvmipa that has it, beside the line that shows progress."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from rich.console import Console, Group
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from kvmipa.conformance.reports import words
from kvmipa.conformance.reports.text import failures
from kvmipa.conformance.results import FAIL, PASS, SKIP

if TYPE_CHECKING:
    from rich.console import RenderableType

    from kvmipa.conformance.results import Report

# A panel's, with the space beside the text.
_BORDERS: Final = 4
_COLOURS: Final = {PASS: "green", FAIL: "bold red", SKIP: "yellow"}
_REALITY: Final = {"REAL": "bold green", "EMULATED": "bold magenta"}


def terminal(report: Report, console: Console | None = None) -> str:
    """The whole report, in the colours and the width of the console; NO_COLOR is respected.

    Its first line begins with REAL or EMULATED.
    """
    console = console or Console(highlight=False)
    with console.capture() as capture:
        console.print(_headline(report), soft_wrap=True)
        console.print()
        console.print(_machine(report))
        console.print()
        console.print(_claims(report))
        for failure in failures(report, console.width - _BORDERS):
            console.print(_failure(failure))
        console.print(_summary(report))
    return capture.get()


def _headline(report: Report) -> Text:
    line = Text(words.headline(report))
    line.stylize(_REALITY.get(report.machine.reality, ""), 0, len(report.machine.reality))
    return line


def _machine(report: Report) -> Table:
    grid = Table.grid(padding=(0, 2))
    for name, value in words.facts(report.machine):
        grid.add_row(Text(name, style="dim"), Text(value))
    return grid


def _claims(report: Report) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), title_justify="left", header_style="dim")
    for name in ("status", "claim", "name", "what came of it"):
        table.add_column(name, no_wrap=name in ("status", "claim"), overflow="fold")
    for result in report.results:
        style = _COLOURS[result.status]
        table.add_row(
            Text(result.status.upper(), style=style), result.id, Text(result.name), Text(words.outcome(result))
        )
    return table


def _failure(failure: str) -> RenderableType:
    title, _, rest = failure.partition("\n")
    return Panel(Text(rest), title=Text(title), title_align="left", border_style="red", padding=(0, 1))


def _summary(report: Report) -> RenderableType:
    lines = [Text(words.summary(report), style="bold")]
    if report.missing:
        lines.insert(0, Text(words.interrupted(report), style="bold red"))
    failed = report.count(FAIL) or report.missing
    skipped = report.count(SKIP) == len(report.results)
    return Panel(Group(*lines), border_style="red" if failed else "yellow" if skipped else "green", expand=False)
