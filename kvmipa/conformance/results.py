# SPDX-License-Identifier: Apache-2.0
"""What came of a conformance run, and its JSON, which has a version.

A report is one object: "kvmipa_report" is the version of the format; the rest are the fields of Report, of Machine, of
ClaimResult and of Mismatch by their names. Sizes are in bytes or bits as the names say; a trace is the text of a kvmipa
trace. report.schema.json, which is installed beside this module, is its JSON Schema. A later kvmipa may add fields to a
format; where one changes its meaning or goes, the format has another version, and that is refused.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, fields
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Mapping

FORMAT: Final = 1
_KIND: Final = "kvmipa_report"

PASS: Final = "pass"  # noqa: S105
FAIL: Final = "fail"
SKIP: Final = "skip"


@dataclass(frozen=True)
class Mismatch:
    """What was looked at, and the two answers.

    after: how many system calls of the check's trace had been done when it was noticed; None where nobody counted.
    """

    what: str
    expected: str
    came: str
    after: int | None = field(default=None, compare=False)


@dataclass(frozen=True)
class ClaimResult:
    """What came of one claim.

    status: PASS, FAIL or SKIP, with a reason where it was skipped. observations: how many answers were compared.
    mismatches: those that were others than expected. trace: the system calls of a check that failed, as
    ``kvmipa replay`` reads them. how: how it is tested. rests_on: ids of claims whose failure makes this one fail too.
    """

    id: str
    name: str
    kind: str
    text: str
    source: str
    status: str
    reason: str = ""
    observations: int = 0
    mismatches: tuple[Mismatch, ...] = ()
    seconds: float = 0.0
    trace: str | None = None
    how: str = ""
    rests_on: tuple[str, ...] = ()


@dataclass(frozen=True)
class Machine:
    """The machine that was looked at. None, and "": it does not show it.

    reality: "REAL" or "EMULATED". host: the preset's name, or the device. model: of the board. kernel: its release, and
    of a real one its version behind it. cpu: which ones, in words. cpu_set: those that are online, and those of them
    that the run may use where that is fewer. mode: how KVM runs. sizes: the machine types below 256 that make a VM;
    of those whose VMs take long to destroy, what the limit says.
    source: where an emulated machine's numbers are from. transparent_hugepages: the kernel's setting.
    """

    reality: str
    host: str
    model: str
    kernel: str
    architecture: str
    cpus: int
    cpu: str
    page_size: int
    parange_bits: int | None
    host_ipa_limit: int | None
    mode: str
    gic: str | None
    sizes: tuple[int, ...]
    source: str = ""
    cpu_set: str = ""
    transparent_hugepages: str = ""


@dataclass(frozen=True)
class Report:
    """One run on one machine.

    version: kvmipa's. started: in UTC, as ISO 8601 has it. missing: names of claims that were to be checked and were
    not any more, for somebody interrupted the run.
    """

    version: str
    started: str
    seconds: float
    machine: Machine
    results: tuple[ClaimResult, ...]
    missing: tuple[str, ...] = ()

    def count(self, status: str) -> int:
        """How many claims came out so."""
        return sum(result.status == status for result in self.results)

    def as_json(self) -> dict[str, Any]:
        """The object that of_json() reads."""
        return {_KIND: FORMAT, **asdict(self)}

    @classmethod
    def of_json(cls, found: Mapping[str, Any]) -> Report:
        """The inverse of as_json(); ValueError, which says why, where this is no report of a format that is known."""
        version = found.get(_KIND) if isinstance(found, dict) else None
        if version is None:
            raise ValueError("not a report of kvmipa conform")
        if version != FORMAT:
            raise ValueError(f"a report of format {version!r}; this kvmipa reads format {FORMAT}")
        try:
            machine = _made(Machine, found["machine"])
            results = tuple(_result(one) for one in found["results"])
            rest = {name: found[name] for name in ("version", "started", "seconds")}
            rest["missing"] = tuple(found.get("missing", ()))
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"a report that is not whole: {error}") from None
        return cls(**rest, machine=machine, results=results)


def _result(found: Mapping[str, Any]) -> ClaimResult:
    mismatches = tuple(_made(Mismatch, one) for one in found.get("mismatches", ()))
    made: ClaimResult = _made(ClaimResult, {**found, "mismatches": mismatches})
    return made


def _made(kind: Any, found: Mapping[str, Any]) -> Any:
    """What this version knows of it; what a later version of the same format adds is left out."""
    known = {one.name for one in fields(kind)}
    values = {name: value for name, value in found.items() if name in known}
    return kind(**{name: tuple(value) if isinstance(value, list) else value for name, value in values.items()})
