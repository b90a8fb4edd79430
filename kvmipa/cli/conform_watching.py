# SPDX-License-Identifier: Apache-2.0
"""A conformance run that somebody waits for."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Protocol

from kvmipa.conformance.results import FAIL
from kvmipa.conformance.runner import run

if TYPE_CHECKING:
    from collections.abc import Sequence

    from kvmipa.conformance.claim import Claim
    from kvmipa.conformance.results import ClaimResult, Machine, Report
    from kvmipa.system import Kvm


def checked(kvm: Kvm, claims: Sequence[Claim]) -> Report:
    """Run the checks, with a line that says how far they are."""
    line = progress_line("claims")
    try:
        return run(kvm, claims, _Watcher(line))
    finally:
        line.clear()


class Line(Protocol):
    """A line that says how far a run is."""

    def show(self, done: int, total: int, failed: int, what: str) -> None:
        """Replace the line."""

    def clear(self) -> None:
        """Remove the line."""


class _NoLine:
    """Where nobody watches."""

    def show(self, done: int, total: int, failed: int, what: str) -> None:
        """See Line."""

    def clear(self) -> None:
        """See Line."""


class _PlainLine:
    """On standard error; of: what is counted."""

    def __init__(self, of: str) -> None:
        self._of = of

    def show(self, done: int, total: int, failed: int, what: str) -> None:
        """See Line."""
        fails = f", {failed} failed" if failed else ""
        line = f"{done} of {total} {self._of}{fails}: {what}"
        print(f"\r\033[K{line:.78}", end="", file=sys.stderr, flush=True)

    def clear(self) -> None:
        """See Line."""
        print("\r\033[K", end="", file=sys.stderr, flush=True)


def progress_line(of: str) -> Line:
    """The best that there is here; of: what is counted, in the plural."""
    if sys.stderr is None or not sys.stderr.isatty():
        return _NoLine()
    try:
        from kvmipa.cli.rich_line import RichLine
    except ImportError:
        return _PlainLine(of)
    return RichLine()


class _Watcher:
    """Shows how far it is; see kvmipa.conformance.runner.Watcher."""

    def __init__(self, line: Line) -> None:
        self._line = line
        self._total = self._done = self._failed = 0

    def starts(self, machine: Machine, claims: Sequence[Claim]) -> None:
        """See Watcher."""
        self._total = len(claims)

    def checks(self, claim: Claim) -> None:
        """See Watcher."""
        self._line.show(self._done, self._total, self._failed, f"{claim.id} {claim.name}")

    def checked(self, result: ClaimResult) -> None:
        """See Watcher."""
        self._done += 1
        self._failed += result.status == FAIL
