# SPDX-License-Identifier: Apache-2.0
"""A report for a terminal, with rich."""

from __future__ import annotations

import io
import re
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from tests.conformance.reports.samples import EVERY, FAILED, INCOMPLETE, MIXED, of
from tests.requirements import need

if TYPE_CHECKING:
    from kvmipa.conformance.results import Report


def shown(report: Report, width: int = 100, **options: Any) -> str:
    """The report on a terminal of this width."""
    console = need("rich.console").Console(file=io.StringIO(), force_terminal=True, width=width, **options)
    from kvmipa.conformance.reports.terminal import terminal

    return terminal(report, console)


def without_colours(text: str) -> str:
    return re.sub(r"\x1b\[[0-9;]*m", "", text)


@pytest.mark.parametrize("report", EVERY.values(), ids=EVERY)
def test_first_line_says_real_or_emulated_and_which_host(report: Report) -> None:
    first = without_colours(shown(report)).splitlines()[0]
    assert first.startswith(f"{report.machine.reality}  {report.machine.host}: Linux 6.12")


@pytest.mark.parametrize("width", [60, 80, 200])
def test_everything_is_there_in_any_width(width: int) -> None:
    said = without_colours(shown(MIXED, width))
    together = "".join(re.sub(r"[│╭╮╰╯─\s]", "", said))
    for word in ("PASS", "FAIL", "SKIP", "system.api_version", "nopKVM#here", "1failed", "EINVAL", "kvmipareplay"):
        assert word in together


def test_no_line_is_longer_than_the_terminal() -> None:
    _, *lines = without_colours(shown(MIXED, 60)).splitlines()
    assert max(map(len, lines)) <= 60


def test_title_and_text_of_a_failure_are_whole_where_it_is_narrow() -> None:
    long = replace(FAILED, source="api.rst 4.2; " * 9, text="Something holds, " * 9 + "always.")
    lines = without_colours(shown(of(long), 60)).splitlines()
    (title,) = (line for line in lines if line.startswith("╭─ FAIL"))
    assert title.startswith("╭─ FAIL  C2  machine_type.valid_sizes ─")
    start = next(number for number, line in enumerate(lines) if "Something" in line)
    assert all(line.startswith("│   Something holds, Something") for line in lines[start : start + 3])


def test_no_color_is_respected(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "\x1b[3" in shown(MIXED, color_system="standard")
    monkeypatch.setenv("NO_COLOR", "1")
    assert not re.search(r"\x1b\[[0-9;]*3[0-7]m", shown(MIXED, color_system="standard"))


def test_brackets_of_others_are_no_markup() -> None:
    machine = replace(MIXED.machine, model="[red]board[/red]")
    assert "[red]board[/red]" in without_colours(shown(replace(MIXED, machine=machine)))


def test_incomplete_report_says_so() -> None:
    assert "INCOMPLETE: interrupted" in without_colours(shown(INCOMPLETE))
