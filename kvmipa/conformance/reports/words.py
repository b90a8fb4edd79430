# SPDX-License-Identifier: Apache-2.0
"""What every form says of a report, in the same words."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from kvmipa.cli.output import runs
from kvmipa.conformance.claim import IMPLEMENTATION
from kvmipa.conformance.results import FAIL, PASS, SKIP

if TYPE_CHECKING:
    from kvmipa.conformance.results import ClaimResult, Machine, Mismatch, Report

PREFIX: Final = "kvmipa"
#: Of a check that is wrong everywhere it does not help to see every answer.
MISMATCHES: Final = 5

_LINUX: Final = "Linux "


def headline(report: Report) -> str:
    """The first line of everything: REAL or EMULATED, and what."""
    machine = report.machine
    kernel = _LINUX + machine.kernel.split(" ", 1)[0]
    return f"{machine.reality}  {machine.host}: {kernel}, {machine.page_size >> 10}K pages, mode {machine.mode}"


def facts(machine: Machine) -> list[tuple[str, str]]:
    """What is known of the machine, by name."""
    known = (
        ("model", machine.model),
        ("kernel", _LINUX + machine.kernel),
        ("architecture", machine.architecture),
        ("CPUs", f"{machine.cpus}{f': {machine.cpu}' if machine.cpu else ''}"),
        ("CPU set", machine.cpu_set),
        ("page size", f"{machine.page_size >> 10}K"),
        ("THP", machine.transparent_hugepages),
        ("PARange", f"{machine.parange_bits} bits" if machine.parange_bits else ""),
        ("IPA limit", ipa_limit(machine)),
        ("machine types", runs(machine.sizes) or "none makes a VM"),
        ("KVM mode", machine.mode),
        ("GIC", machine.gic or "none"),
        ("numbers from", machine.source),
    )
    return [(name, value) for name, value in known if value]


def ipa_limit(machine: Machine) -> str:
    """The host's IPA limit."""
    if machine.host_ipa_limit is None:
        return "not configurable (no KVM_CAP_ARM_VM_IPA_SIZE)"
    return f"{machine.host_ipa_limit} bits"


def outcome(result: ClaimResult) -> str:
    """What came of a claim beside its status: a reason, or how much was looked at."""
    if result.status == SKIP:
        return result.reason
    answers = f"{result.observations} answer{'s' * (result.observations != 1)}"
    if result.status == FAIL:
        return f"{len(result.mismatches)} of {answers} differ" if result.observations else result.mismatches[0].came
    return answers


def difference(one: Mismatch) -> str:
    """An answer that was not as expected."""
    return f"{one.what}: expected {one.expected}, came {one.came}"


def replay(report: Report, result: ClaimResult) -> str:
    """The commands that make the system calls of a failed check again; "" where it made none."""
    if not result.trace:
        return ""
    machine = report.machine
    option = f"--host {machine.host} " if machine.reality == "EMULATED" else ""
    return f"kvmipa {option}conform --claim {result.id} --traces DIR; kvmipa replay DIR/{result.id}.trace"


def summary(report: Report) -> str:
    """The counts and the time."""
    failed = [result for result in report.results if result.status == FAIL]
    of_them = sum(result.kind == IMPLEMENTATION for result in failed)
    counts = [f"{report.count(PASS)} passed", f"{len(failed)} failed", f"{report.count(SKIP)} skipped"]
    if of_them:
        counts[1] += f" ({of_them} of the implementation's)"
    if report.missing:
        counts.append(f"{len(report.missing)} not checked")
    total = len(report.results) + len(report.missing)
    return f"{total} claim{'s' * (total != 1)}: {', '.join(counts)}, in {report.seconds:.1f} s"


def interrupted(report: Report) -> str:
    """That the report is not whole, and what is not in it; "" where it is."""
    return f"INCOMPLETE: interrupted; not checked: {', '.join(report.missing)}" if report.missing else ""
