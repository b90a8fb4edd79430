# SPDX-License-Identifier: Apache-2.0
"""Several runs as plain text: what differs, the matrix machine x claim, and of many machines a summary."""

from __future__ import annotations

import textwrap
from typing import TYPE_CHECKING, Final

from kvmipa.backend.emulated.release import parse
from kvmipa.cli.output import columns
from kvmipa.conformance.compare import ABSENT, fact_text, failures
from kvmipa.conformance.many import ERROR, NO_KVM
from kvmipa.conformance.results import FAIL, PASS, SKIP

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from kvmipa.conformance.compare import Comparison, Failure
    from kvmipa.conformance.many import HostRun, ManyRuns

_WIDTH: Final = 100
# Names and answers that are shown of each failure; reports have all.
_NAMES: Final = 6
_MISMATCHES: Final = 3

SHORT: Final = {PASS: "pass", FAIL: "FAIL", SKIP: "skip", ABSENT: "-"}


def comparison_text(found: Comparison, *, everything: bool = False) -> str:
    """The machines, what differs, and how claims fail; everything: also the claims that came out the same."""
    numbers = [f"[{number}]" for number in range(1, len(found.runs) + 1)]
    parts = [_machines(found, numbers), _facts(found, numbers), _claims(found, numbers, everything=everything)]
    parts += [_failure(found, failure) for failure in failures(found)]
    return "\n\n".join(filter(None, parts))


def _machines(found: Comparison, numbers: list[str]) -> str:
    rows = []
    for at, (number, run) in enumerate(zip(numbers, found.runs, strict=True)):
        machine = run.machine
        counted = [str(found.count(at, kind)) if machine else "" for kind in (PASS, FAIL, SKIP)]
        kernel = f"Linux {machine.kernel.split(' ', 1)[0]}" if machine else run.note
        rows.append((number, machine.reality if machine else "-", run.label, kernel, *counted))
    return columns(("", "", "machine", "kernel", "passed", "failed", "skipped"), rows)


def _facts(found: Comparison, numbers: list[str]) -> str:
    rows = [(fact.name, *(fact_text(fact.field, value) for value in fact.values)) for fact in found.differing_facts]
    return (
        columns(("the machines differ in", *numbers), rows) if rows else "The machines do not differ in what KVM says."
    )


def _claims(found: Comparison, numbers: list[str], *, everything: bool) -> str:
    shown = found.claims if everything else found.differing_claims
    same = len(found.claims) - len(found.differing_claims)
    if not shown:
        return f"All {len(found.claims)} claims came out the same."
    rows = [(claim.id, claim.name, *(SHORT[kind] for kind in claim.statuses)) for claim in shown]
    head = "claim" if everything else "came out differently"
    table = columns(("", head, *numbers), rows)
    return table if everything else f"{table}\n\n{same} of {len(found.claims)} claims came out the same."


def _failure(found: Comparison, failure: Failure) -> str:
    """One way in which a claim fails, and where."""
    claim = failure.claim
    lines = [f"FAIL  {claim.id}  {claim.name}  ({claim.source})"]
    lines += textwrap.wrap(claim.text, _WIDTH, initial_indent="  ", subsequent_indent="  ")
    for one in failure.mismatches[:_MISMATCHES]:
        lines += [f"    what      {one.what}", f"    expected  {one.expected}", f"    came      {one.came}"]
    if len(failure.mismatches) > _MISMATCHES:
        lines.append(f"    and {len(failure.mismatches) - _MISMATCHES} more")
    names = [found.runs[at].label for at in failure.positions]
    more = f", and {len(names) - _NAMES} more" if len(names) > _NAMES else ""
    said = f"on {len(names)} of {found.reported}: {', '.join(names[:_NAMES])}{more}"
    lines += textwrap.wrap(said, _WIDTH, initial_indent="  ", subsequent_indent="  ", break_on_hyphens=False)
    return "\n".join(lines)


# ------------------------------------------------------------------------------------------------ --host all


def many_text(many: ManyRuns, found: Comparison) -> str:
    """Many emulated hosts: machine x release, each failure once, and the counts."""
    parts = [
        f"EMULATED  {len(many.runs)} hosts, by machine and kernel release: claims passed/failed/skipped",
        _by_release(many.runs),
        *(_failure(found, failure) for failure in failures(found)),
        "\n".join(_without_report(many.runs)),
        _summary(many),
    ]
    return "\n\n".join(filter(None, parts))


def _by_release(runs: Sequence[HostRun]) -> str:
    cells = {(run.machine, run.release): _cell(run) for run in runs}
    releases = sorted({run.release for run in runs}, key=parse)
    machines = dict.fromkeys(run.machine for run in runs)
    return columns(
        ("machine", *releases),
        [(machine, *(cells.get((machine, release), "") for release in releases)) for machine in machines],
    )


def _cell(run: HostRun) -> str:
    if run.report is None:
        return run.outcome
    return "/".join(str(run.report.count(kind)) for kind in (PASS, FAIL, SKIP)) + "!" * bool(run.report.count(FAIL))


def _without_report(runs: Sequence[HostRun]) -> Iterator[str]:
    for run in runs:
        if run.outcome == NO_KVM:
            yield f"NO KVM  {run.host}: {run.obstacle}"
        elif run.outcome == ERROR:
            yield f"ERROR  {run.host}: {run.error}"


def _summary(many: ManyRuns) -> str:
    """The last line, and what Ctrl-C has left out."""
    total = {kind: sum(run.report.count(kind) for run in many.runs if run.report) for kind in (PASS, FAIL, SKIP)}
    failing = sum(bool(run.report and run.report.count(FAIL)) for run in many.runs)
    said = [f"{failing} of {len(many.runs)} hosts fail"]
    said += [
        f"{many.count(kind)} {words}"
        for kind, words in ((NO_KVM, "without KVM"), (ERROR, "with errors"))
        if many.count(kind)
    ]
    text = (
        f"{', '.join(said)}; {total[PASS]} checks passed, {total[FAIL]} failed, {total[SKIP]} skipped, "
        f"in {many.seconds:.1f} s with {many.jobs} process{'es' * (many.jobs != 1)}"
    )
    if many.missing:
        text = f"INCOMPLETE: interrupted; {len(many.missing)} hosts were not run any more\n{text}"
    return text
