# SPDX-License-Identifier: Apache-2.0
"""``kvmipa conform --host all``: every machine of the presets with every release, and lists of hosts."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from kvmipa.cli.conform_watching import Line
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
    from kvmipa.cli.conform_watching import progress_line
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
    line = progress_line("hosts")
    try:
        many = run_many(names, claims, jobs=jobs, done=_counting(line, len(names)))
    finally:
        line.clear()
    found = comparison(many)
    printed = _print(output, _as_json(many), many_text(many, found))
    written = _write(many, found, reports, html) and printed
    if many.missing:
        return INTERRUPTED
    if not many.conform:
        return 1
    return 0 if written else NOT_WRITTEN


def comparison(many: ManyRuns) -> Comparison:
    """The runs side by side; a host without a report has a note instead, and so has one that was not run any more."""
    from kvmipa.conformance.compare import Run, compare

    came = (Run(run.host, run.report, _note(run)) for run in many.runs)
    return compare((*came, *(Run(host, None, "not run any more: interrupted") for host in many.missing)))


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


def _print(output: Output, found: dict[str, Any], text: str) -> bool:
    """Whether standard output took it. What was measured is not lost with it: it is shown and written elsewhere."""
    from kvmipa.cli import _abandon_standard_output

    try:
        output.result(found, text)
        if sys.stdout is not None:
            sys.stdout.flush()
    except BrokenPipeError:
        _abandon_standard_output()  # a pager or head went away: no error
    except OSError as error:
        _abandon_standard_output()
        print(f"kvmipa: standard output: {error.strerror}\n{text}", file=sys.stderr)
        return False
    return True


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


def _counting(line: Line, total: int) -> Callable[[HostRun], None]:
    """What is told of each host as it comes, and shows how far the run is."""
    from kvmipa.conformance.many import ERROR, FAILS

    done = failed = 0

    def came(run: HostRun) -> None:
        nonlocal done, failed
        done += 1
        failed += run.outcome in (FAILS, ERROR)
        line.show(done, total, failed, run.host)

    return came
