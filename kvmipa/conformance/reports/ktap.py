# SPDX-License-Identifier: Apache-2.0
"""A report as KTAP 1, as kselftest, KernelCI and LKFT read it.

Flat, with dotted names that stay the same; what is to be said of a result stands before it, and "# SKIP" has nothing
behind it, for there are parsers that take that as part of the name.

Source: Documentation/dev-tools/ktap.rst; ecosystem.md 4.4.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from kvmipa.cli.output import runs
from kvmipa.conformance.reports import words
from kvmipa.conformance.reports.system_calls import before
from kvmipa.conformance.results import FAIL, PASS, SKIP

if TYPE_CHECKING:
    from collections.abc import Iterator

    from kvmipa.conformance.results import ClaimResult, Report

VERSION: Final = "KTAP version 1"


def ktap(report: Report) -> str:
    """The whole report."""
    lines = [VERSION, *_comments(_header(report)), f"1..{len(report.results) + len(report.missing)}"]
    for number, result in enumerate(report.results, 1):
        lines += _comments(_about(report, result))
        verdict = "not ok" if result.status == FAIL else "ok"
        skip = " # SKIP" if result.status == SKIP else ""
        lines.append(f"{verdict} {number} {words.PREFIX}.{result.name}{skip}")
    lines += _comments([words.interrupted(report)] if report.missing else [])
    lines.append(_totals(report))
    return "\n".join(lines)


def _totals(report: Report) -> str:
    """The last line, as tools/testing/selftests/kselftest.h, ksft_print_cnts(), has it."""
    passed, failed, skipped = map(report.count, (PASS, FAIL, SKIP))
    return f"# Totals: pass:{passed} fail:{failed} xfail:0 xpass:0 skip:{skipped} error:0"


def _header(report: Report) -> Iterator[str]:
    machine = report.machine
    yield words.headline(report)
    yield f"kvmipa {report.version}, {report.started}, {report.seconds} s"
    yield from (f"{name}: {value}" for name, value in words.facts(machine))
    yield f"ipa_limit={machine.host_ipa_limit} page_size={machine.page_size} mode={machine.mode}"
    yield f"ipa_sizes={runs(machine.sizes).replace(' ', '')}"


def _about(report: Report, result: ClaimResult) -> Iterator[str]:
    """What stands before a result."""
    if result.status == SKIP:
        yield f"{result.id}: skipped: {result.reason}"
    if result.status != FAIL:
        return
    yield f"{result.id}: {result.text} ({result.source})"
    shown = result.mismatches[: words.MISMATCHES]
    yield from map(words.difference, shown)
    if len(result.mismatches) > len(shown):
        yield f"and {len(result.mismatches) - len(shown)} more"
    yield from before(shown, result)
    if result.trace:
        yield f"to run them again: {words.replay(report, result)}"


# Linaro's parser finds results in whatever line, and in comments (automated/linux/kselftest/parse-output.py).
_LIKE_A_RESULT: Final = re.compile(r"ok (?=\d{1,5} )")


def _comments(texts: Iterator[str] | list[str]) -> Iterator[str]:
    """Each line of each text as a comment."""
    return (f"# {_LIKE_A_RESULT.sub('ok, ', line)}" for text in texts for line in text.splitlines())
