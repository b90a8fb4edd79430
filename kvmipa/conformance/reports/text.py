# SPDX-License-Identifier: Apache-2.0
"""A report as plain text."""

from __future__ import annotations

import textwrap
from typing import TYPE_CHECKING, Final

from kvmipa.cli.output import columns, rows
from kvmipa.conformance.reports import words
from kvmipa.conformance.reports.system_calls import calls, excerpt
from kvmipa.conformance.results import FAIL

if TYPE_CHECKING:
    from collections.abc import Iterator

    from kvmipa.conformance.results import ClaimResult, Report

_WIDTH: Final = 100
# Of a check that is wrong everywhere it does not help to see every answer.
_MISMATCHES: Final = 5


def text(report: Report) -> str:
    """The whole report; its first line begins with REAL or EMULATED."""
    parts = [
        words.headline(report),
        rows(words.facts(report.machine)),
        table(report),
        *(failure(result) for result in report.results if result.status == FAIL),
        "\n".join([*textwrap.wrap(words.interrupted(report), _WIDTH), words.summary(report)]),
    ]
    return "\n\n".join(part for part in parts if part)


def table(report: Report) -> str:
    """A line for each claim."""
    return columns(
        ("status", "claim", "name", "what came of it"),
        [(result.status.upper(), result.id, result.name, words.outcome(result)) for result in report.results],
    )


def failure(result: ClaimResult) -> str:
    """What was expected of a claim that failed, what came, and of which system calls."""
    return "\n".join(_failure(result))


def _failure(result: ClaimResult) -> Iterator[str]:
    kind = "" if result.kind == "contract" else f", {result.kind}"
    yield f"FAIL  {result.id}  {result.name}  ({result.source}{kind})"
    yield from textwrap.wrap(result.text, _WIDTH, initial_indent="  ", subsequent_indent="  ")
    if result.rests_on:
        yield f"  it rests on {', '.join(result.rests_on)}: if one of these fails, look at that first"
    for one in result.mismatches[:_MISMATCHES]:
        yield f"    what      {one.what}"
        yield f"    expected  {one.expected}"
        yield f"    came      {one.came}"
    if len(result.mismatches) > _MISMATCHES:
        yield f"    and {len(result.mismatches) - _MISMATCHES} more, which --json and --report have"
    yield from _system_calls(result)


def _system_calls(result: ClaimResult) -> Iterator[str]:
    lines = calls(result.trace) if result.trace else []
    if not lines:
        return
    after = [one.after for one in result.mismatches[:_MISMATCHES] if one.after is not None]
    yield "  system calls:"
    for line in excerpt(lines, after):
        yield f"    {line}"
    yield "  to run them again, or on another kernel:"
    yield f"    kvmipa conform --claim {result.id} --traces DIR; kvmipa replay DIR/{result.id}.trace"
