# SPDX-License-Identifier: Apache-2.0
"""``kvmipa conform --host all``: every machine of the presets with every release, and lists of hosts."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence

    from kvmipa.cli.output import Output
    from kvmipa.conformance.compare import Comparison
    from kvmipa.conformance.many import HostRun, ManyRuns


def conform_many(
    output: Output,
    hosts: str,
    *,
    claims: Sequence[str] | None = None,
    jobs: int | None = None,
    reports: str | None = None,
    html: str | None = None,
) -> int:
    """Run them and report; the exit status.

    hosts: the argument of --host. claims: ids, None for all. reports: a directory for a JSON report of each host. html:
    a file for the matrix. Raises ValueError for a host that does not exist.
    """
    from kvmipa.cli import INTERRUPTED
    from kvmipa.cli.conform import NOT_WRITTEN
    from kvmipa.cli.files import obstacle
    from kvmipa.conformance.many import hosts_of, run_many
    from kvmipa.conformance.reports.matrix_text import many_text

    names = hosts_of([hosts])
    for option, place, file in (("report", reports, f"{reports}/report.json"), ("html", html, html or "")):
        hindrance = obstacle(file) if place is not None else ""
        if hindrance:
            print(
                f"kvmipa: warning: --{option} {place}: {hindrance}; the checks are run, and shown here", file=sys.stderr
            )
    progress = _Progress(len(names))
    many = run_many(names, claims, jobs=jobs, done=progress.done)
    progress.clear()
    found = comparison(many)
    output.result(_as_json(many), many_text(many, found))
    written = _write(many, found, reports, html)
    if many.missing:
        return INTERRUPTED
    if not many.conform:
        return 1
    return 0 if written else NOT_WRITTEN


def comparison(many: ManyRuns) -> Comparison:
    """The runs side by side; a host without a report has a note instead."""
    from kvmipa.conformance.compare import Run, compare

    return compare(Run(run.host, run.report, _note(run)) for run in many.runs)


def _note(run: HostRun) -> str:
    return f"KVM does not start: {run.obstacle}" if run.obstacle else run.error


def _as_json(many: ManyRuns) -> dict[str, Any]:
    return {
        "command": "conform",
        "conforms": many.conform,
        "seconds": many.seconds,
        "jobs": many.jobs,
        "missing": list(many.missing),
        "hosts": [
            {
                "host": run.host,
                "machine": run.machine,
                "release": run.release,
                "outcome": run.outcome,
                "why": _note(run),
                "report": run.report.as_json() if run.report else None,
            }
            for run in many.runs
        ],
    }


def _write(many: ManyRuns, found: Comparison, reports: str | None, html: str | None) -> bool:
    """The files that were asked for; whether all could be written. What cannot be does not keep others from it."""
    import json

    from kvmipa.cli.files import write_text
    from kvmipa.cli.output import SCHEMA

    texts = {}
    if html is not None:
        from kvmipa.conformance.reports.html_matrix import matrix_html

        texts[html] = matrix_html(found, "KVM and the IPA size on emulated hosts")
    if reports is not None:
        for run in many.runs:
            if run.report is not None:
                saved = {"schema": SCHEMA, **run.report.as_json()}
                texts[f"{reports}/{run.host}.json"] = json.dumps(saved, indent=2) + "\n"
    failed: set[str] = set()
    for name, text in texts.items():
        try:
            write_text(name, text)
        except OSError as error:
            # One line for a cause, not one for each of the files in a directory.
            reason = str(error).replace(name, name if name == html else f"{reports}/")
            if reason not in failed:
                print(f"kvmipa: {reason}", file=sys.stderr)
            failed.add(reason)
    return not failed


class _Progress:
    """A line on standard error, where somebody watches."""

    def __init__(self, total: int) -> None:
        self._total = total
        self._done = self._failed = 0
        self._watched = sys.stderr is not None and sys.stderr.isatty()

    def done(self, run: HostRun) -> None:
        """One more."""
        from kvmipa.conformance.many import ERROR, FAILS

        self._done += 1
        self._failed += run.outcome in (FAILS, ERROR)
        if self._watched:
            failed = f", {self._failed} fail" if self._failed else ""
            line = f"{self._done} of {self._total} hosts{failed}: {run.host}"
            print(f"\r\033[K{line:.78}", end="", file=sys.stderr, flush=True)

    def clear(self) -> None:
        """Remove the line."""
        if self._watched:
            print("\r\033[K", end="", file=sys.stderr, flush=True)
