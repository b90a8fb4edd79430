# SPDX-License-Identifier: Apache-2.0
"""What differs between conformance runs: the matrix machine x claim, and what is known of the machines.

Pure: reports in, differences out.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from kvmipa.conformance.results import FAIL, PASS, SKIP

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from kvmipa.conformance.results import ClaimResult, Machine, Mismatch, Report

#: A claim that a report does not have.
ABSENT: Final = "absent"
STATUSES: Final = (PASS, FAIL, SKIP, ABSENT)

#: What is asked of KVM and the CPU, and therefore compared; the other fields of Machine say which machine it is.
FACTS: Final = {
    "host_ipa_limit": "host IPA limit",
    "page_size": "page size",
    "parange_bits": "PARange",
    "mode": "mode",
    "gic": "GIC",
    "sizes": "machine types accepted",
}


@dataclass(frozen=True)
class Run:
    """One machine's run under the name that it is shown with. note: why there is no report."""

    label: str
    report: Report | None
    note: str = ""

    @property
    def machine(self) -> Machine | None:
        """What was looked at."""
        return self.report.machine if self.report else None

    @property
    def release(self) -> str:
        """The kernel's release line, for grouping; "" where it is not known.

        >>> Run("a board that was not reached", None).release
        ''
        """
        return release_line(self.report.machine.kernel) if self.report else ""


@dataclass(frozen=True)
class Claim:
    """A claim, and what came of it on each machine: its result, or None where the report does not have it."""

    id: str
    name: str
    text: str
    kind: str
    source: str
    results: tuple[ClaimResult | None, ...]

    @property
    def statuses(self) -> tuple[str, ...]:
        """PASS, FAIL, SKIP or ABSENT, of each machine."""
        return tuple(result.status if result else ABSENT for result in self.results)

    def count(self, status: str) -> int:
        """On how many machines it came out so."""
        return self.statuses.count(status)


@dataclass(frozen=True)
class Fact:
    """Something that is known of the machines, by its name in Machine and in words, with each one's value."""

    field: str
    name: str
    values: tuple[object, ...]


@dataclass(frozen=True)
class Comparison:
    """Several runs side by side."""

    runs: tuple[Run, ...]
    claims: tuple[Claim, ...]
    facts: tuple[Fact, ...]

    def _reported(self, values: Sequence[Any]) -> list[Any]:
        """Of the machines that there is a report of."""
        return [value for run, value in zip(self.runs, values, strict=True) if run.report is not None]

    @property
    def reported(self) -> int:
        """How many machines there is a report of."""
        return sum(run.report is not None for run in self.runs)

    @property
    def differing_facts(self) -> tuple[Fact, ...]:
        """Those that the reports do not agree on."""
        return tuple(fact for fact in self.facts if len(set(self._reported(fact.values))) > 1)

    @property
    def differing_claims(self) -> tuple[Claim, ...]:
        """Those that came out differently, or failed differently, or that not all reports have."""
        return tuple(claim for claim in self.claims if len(set(map(_outcome, self._reported(claim.results)))) > 1)

    @property
    def same(self) -> bool:
        """Whether nothing differs, and there is a report of every machine."""
        return not (self.differing_facts or self.differing_claims or self.reported < len(self.runs))

    def count(self, position: int, status: str) -> int:
        """How many claims came out so on one machine."""
        return sum(claim.statuses[position] == status for claim in self.claims)

    def by_release(self) -> dict[str, list[int]]:
        """Positions of runs by their kernels' release line, oldest first."""
        found: dict[str, list[int]] = {}
        for position, run in enumerate(self.runs):
            found.setdefault(run.release, []).append(position)
        return dict(sorted(found.items(), key=lambda item: tuple(map(int, re.findall(r"\d+", item[0])))))


def _outcome(result: ClaimResult | None) -> object:
    """What is compared of a result."""
    return (result.status, result.mismatches) if result else None


def compare(runs: Iterable[Run]) -> Comparison:
    """Put runs side by side.

    Claims have the order of the first report that has them; a claim is known by its name, which stays the same.
    """
    runs = tuple(runs)
    by_name = [{result.name: result for result in run.report.results} if run.report else {} for run in runs]
    names = dict.fromkeys(name for results in by_name for name in results)
    claims = []
    for name in names:
        results = tuple(found.get(name) for found in by_name)
        first = next(result for result in results if result)
        claims.append(Claim(first.id, name, first.text, first.kind, first.source, results))
    facts = [
        Fact(field, words, tuple(getattr(run.machine, field) if run.machine else None for run in runs))
        for field, words in FACTS.items()
    ]
    return Comparison(runs, tuple(claims), tuple(facts))


@dataclass(frozen=True)
class Failure:
    """A way in which a claim fails, and the machines on which it fails so, as positions in Comparison.runs."""

    claim: Claim
    mismatches: tuple[Mismatch, ...]
    positions: tuple[int, ...]


def failures(found: Comparison) -> list[Failure]:
    """Every failure once, however many machines have it; in the order of the claims."""
    made = []
    for claim in found.claims:
        ways: dict[tuple[Mismatch, ...], list[int]] = {}
        for position, result in enumerate(claim.results):
            if result and result.status == FAIL:
                ways.setdefault(result.mismatches, []).append(position)
        made += [Failure(claim, mismatches, tuple(positions)) for mismatches, positions in ways.items()]
    return made


def release_line(kernel: str) -> str:
    """The first two numbers of a kernel's name.

    >>> release_line("6.12.117+deb13-arm64 #1 SMP"), release_line("7.3")
    ('6.12', '7.3')
    """
    match = re.match(r"(\d+\.\d+)", kernel)
    return match[1] if match else ""


def labels(reports: Sequence[Report], files: Sequence[str]) -> list[str]:
    """A name for each report: its host's, with the kernel or the file too where that is not enough."""
    names = [report.machine.host for report in reports]
    for more in ([release_line(report.machine.kernel) for report in reports], files):
        names = [
            f"{name} ({extra})" if names.count(name) > 1 and extra else name
            for name, extra in zip(names, more, strict=True)
        ]
    return names


def fact_text(field: str, value: object) -> str:
    """A fact's value as text.

    >>> fact_text("page_size", 65536), fact_text("sizes", (0, 32, 33)), fact_text("host_ipa_limit", None)
    ('64K', '0, 32..33', '-')
    """
    from kvmipa.cli.output import runs as spans

    if value is None:
        return "-"
    if field == "page_size" and isinstance(value, int):
        return f"{value >> 10}K"
    if field == "sizes" and isinstance(value, tuple):
        return spans(value) or "none"
    return f"{value} bits" if field in {"host_ipa_limit", "parange_bits"} else str(value)


def as_json(found: Comparison) -> dict[str, Any]:
    """A comparison as JSON: what there is, and the names of what differs."""
    return {
        "same": found.same,
        "machines": [
            {
                "label": run.label,
                "note": run.note,
                "reality": run.machine.reality if run.machine else None,
                "host": run.machine.host if run.machine else None,
                "kernel": run.machine.kernel if run.machine else None,
                **{fact.field: fact.values[position] for fact in found.facts},
                **{status: found.count(position, status) for status in STATUSES},
            }
            for position, run in enumerate(found.runs)
        ],
        "claims": [
            {"id": claim.id, "name": claim.name, "kind": claim.kind, "statuses": list(claim.statuses)}
            for claim in found.claims
        ],
        "differing_facts": [fact.field for fact in found.differing_facts],
        "differing_claims": [claim.name for claim in found.differing_claims],
    }
