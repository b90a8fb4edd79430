# SPDX-License-Identifier: Apache-2.0
"""A report as plain text."""

from __future__ import annotations

import textwrap
from typing import TYPE_CHECKING, Final

from kvmipa.cli.output import columns, rows
from kvmipa.conformance.claim import CONTRACT
from kvmipa.conformance.reports import words
from kvmipa.conformance.reports.system_calls import before
from kvmipa.conformance.results import FAIL

if TYPE_CHECKING:
    from collections.abc import Iterator

    from kvmipa.conformance.results import ClaimResult, Report

_WIDTH: Final = 100


def text(report: Report) -> str:
    """The whole report; its first line begins with REAL or EMULATED."""
    parts = [
        words.headline(report),
        rows(words.facts(report.machine)),
        table(report),
        *failures(report),
        "\n".join([*textwrap.wrap(words.interrupted(report), _WIDTH), words.summary(report)]),
    ]
    return "\n\n".join(part for part in parts if part)


def table(report: Report) -> str:
    """A line for each claim."""
    return columns(
        ("status", "claim", "name", "what came of it"),
        [(result.status.upper(), result.id, result.name, words.outcome(result)) for result in report.results],
    )


def failures(report: Report, width: int = _WIDTH) -> Iterator[str]:
    """Of each claim that failed what was expected, what came, and of which system calls; its first line is a title."""
    return ("\n".join(_failure(report, result, width)) for result in report.results if result.status == FAIL)


def _failure(report: Report, result: ClaimResult, width: int) -> Iterator[str]:
    kind = "" if result.kind == CONTRACT else f"  ({result.kind})"
    yield f"FAIL  {result.id}  {result.name}{kind}"
    for said in (result.text, f"source: {result.source}", _rests_on(report, result)):
        yield from textwrap.wrap(said, width, initial_indent="  ", subsequent_indent="  ")
    shown = result.mismatches[: words.MISMATCHES]
    for one in shown:
        yield f"    what      {one.what}"
        yield f"    expected  {one.expected}"
        yield f"    came      {one.came}"
    if len(result.mismatches) > len(shown):
        yield f"    and {len(result.mismatches) - len(shown)} more, which --json and --report have"
    lines = [f"    {line}" for line in before(shown, result)]
    if lines:
        yield from ("  system calls:", *lines, "  to run them again, or on another kernel:")
        yield f"    {words.replay(report, result)}"


def _rests_on(report: Report, result: ClaimResult) -> str:
    """What may be the cause: claims that failed too, or else those that were not checked."""
    statuses = {one.id: one.status for one in report.results}
    failed = [one for one in result.rests_on if statuses.get(one) == FAIL]
    if failed:
        return f"it rests on {', '.join(failed)}, which failed too: look at that first"
    unknown = [one for one in result.rests_on if one not in statuses]
    return f"it rests on {', '.join(unknown)}, which this run did not check" if unknown else ""
