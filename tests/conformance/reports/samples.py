# SPDX-License-Identifier: Apache-2.0
"""One report that has everything that a report may have."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Final

from kvmipa.conformance.results import FAIL, PASS, SKIP, ClaimResult, Mismatch, Report
from tests.conformance.sample_reports import report, result

TRACE: Final = "\n".join(
    (
        '{"kvmipa_trace":1,"profile":{}}',
        '{"open":"kvm","result":"new"}',
        '{"ioctl":"KVM_CHECK_EXTENSION","on":"kvm","argument":165,"result":52}',
        *(f'{{"ioctl":"KVM_CREATE_VM","on":"kvm","argument":{size},"result":"EINVAL"}}' for size in range(10, 40)),
        '{"ioctl":"KVM_CREATE_VM","on":"kvm","argument":53,"new":"vm0","result":"new"}',
        '{"ioctl":"KVM_CREATE_DEVICE","on":"vm0","argument":{"struct":"create_device","type":7},"result":"ENODEV"}',
        '{"close":"vm0"}',
        "",
    )
)

PASSED: Final = result("system.api_version", PASS)
FAILED: Final = result(
    "machine_type.valid_sizes",
    FAIL,
    mismatches=(Mismatch("KVM_CREATE_VM(53)", "EINVAL", "ok 3 VMs of <53> & more", after=33),),
    trace=TRACE,
    rests_on=("C1",),
)
SKIPPED: Final = result("pkvm.size_ignored", SKIP, reason="no pKVM # here")


def of(*results: ClaimResult, missing: tuple[str, ...] = (), **machine: Any) -> Report:
    """A report of these."""
    return replace(report(claims=results, **machine), missing=missing)


MIXED: Final = of(PASSED, FAILED, SKIPPED)
GOOD: Final = of(PASSED)
ALL_SKIPPED: Final = of(SKIPPED)
INCOMPLETE: Final = of(PASSED, missing=("memory.top_slot", "guest.reach"))
REAL: Final = of(
    PASSED,
    reality="REAL",
    host="/dev/kvm",
    model="Raspberry Pi 5 Modèle \x01 B",
    kernel="6.12.117+deb13-arm64 #1 SMP Debian 6.12.117-1",
    cpu="Arm Cortex-A76 r4p1",
    cpu_set="0..3",
)
EVERY: Final = {"mixed": MIXED, "good": GOOD, "skipped": ALL_SKIPPED, "incomplete": INCOMPLETE, "real": REAL}
