# SPDX-License-Identifier: Apache-2.0
"""A report as plain text."""

from __future__ import annotations

from dataclasses import replace

import pytest

from kvmipa.conformance.reports.text import text
from kvmipa.conformance.results import Mismatch, Report
from tests.conformance.reports.samples import EVERY, FAILED, GOOD, INCOMPLETE, MIXED, PASSED, REAL, of


@pytest.mark.parametrize("report", EVERY.values(), ids=EVERY)
def test_first_line_says_real_or_emulated_and_which_host(report: Report) -> None:
    first = text(report).splitlines()[0]
    assert first.startswith(f"{report.machine.reality}  {report.machine.host}: Linux 6.12")
    assert first.endswith("4K pages, mode vhe")


@pytest.mark.parametrize("report", EVERY.values(), ids=EVERY)
def test_lines_have_nothing_at_their_ends(report: Report) -> None:
    assert all(line == line.rstrip() for line in text(report).splitlines())


def test_machine_is_described() -> None:
    said = text(REAL)
    for fact in ("Arm Cortex-A76 r4p1", "CPU set        0..3", "page size      4K", "PARange        44 bits"):
        assert fact in said
    assert "machine types  0, 32..44" in said
    assert "IPA limit      44 bits" in said
    assert "GIC            v3" in said


def test_machine_without_sizes_says_so() -> None:
    said = text(of(FAILED, host_ipa_limit=None, parange_bits=None, sizes=(), gic=None))
    assert "not configurable (no KVM_CAP_ARM_VM_IPA_SIZE)" in said
    assert "none makes a VM" in said
    assert "PARange" not in said
    assert "GIC            none" in said


def test_every_claim_has_a_line_with_what_came_of_it() -> None:
    lines = text(MIXED).splitlines()
    assert "PASS    C1     system.api_version        7 answers" in lines
    assert "FAIL    C2     machine_type.valid_sizes  1 of 7 answers differ" in lines
    assert "SKIP    C4     pkvm.size_ignored         no pKVM # here" in lines


def test_failure_has_what_was_expected_what_came_and_the_system_calls() -> None:
    said = text(MIXED)
    assert "FAIL  C2  machine_type.valid_sizes\n  The text of machine_type.valid_sizes.\n  source: api.rst 4.2" in said
    assert "what      KVM_CREATE_VM(53)\n    expected  EINVAL\n    came      ok 3 VMs" in said
    option = "--host some-board-6.12"
    assert f"\n    kvmipa {option} conform --claim C2 --traces DIR; kvmipa replay DIR/C2.trace\n" in said
    assert "\n    kvmipa conform --claim C2 --traces DIR; " in text(of(FAILED, reality="REAL", host="/dev/kvm"))


def test_failure_names_what_may_be_its_cause() -> None:
    cause = replace(PASSED, status="fail", mismatches=FAILED.mismatches)
    assert "it rests on C1, which failed too: look at that first" in text(of(cause, FAILED))
    assert "it rests on C1, which this run did not check" in text(of(FAILED))
    assert "rests on" not in text(of(PASSED, FAILED))


def test_system_calls_are_those_before_what_was_noticed() -> None:
    lines = text(MIXED).splitlines()
    end = lines.index("    ioctl(kvm, KVM_CREATE_VM, 53) = vm0")
    assert lines[end - 6 : end] == [
        "    (27 calls)",
        *(f"    ioctl(kvm, KVM_CREATE_VM, {size}) = EINVAL" for size in range(35, 40)),
    ]
    assert lines[end + 1] == "    (2 calls)"


def test_system_calls_are_the_first_and_last_where_nobody_counted() -> None:
    uncounted = replace(FAILED, mismatches=(Mismatch("something", "this", "that"),))
    said = text(of(uncounted))
    assert "    ioctl(kvm, KVM_CHECK_EXTENSION, KVM_CAP_ARM_VM_IPA_SIZE) = 52\n" in said
    assert "    ioctl(vm0, KVM_CREATE_DEVICE, create_device{type=7}) = ENODEV\n    close(vm0) = 0\n" in said


def test_many_mismatches_are_cut() -> None:
    many = tuple(Mismatch(f"look {number}", "1", "2") for number in range(200))
    said = text(of(replace(FAILED, mismatches=many)))
    assert "and 195 more, which --json and --report have" in said
    assert len(said.splitlines()) < 60


def test_failure_without_a_system_call_shows_none() -> None:
    said = text(of(replace(FAILED, trace=None)))
    assert "system calls" not in said
    assert "kvmipa replay" not in said


def test_implementation_is_not_mistaken_for_the_contract() -> None:
    said = text(of(replace(FAILED, kind="implementation")))
    assert "FAIL  C2  machine_type.valid_sizes  (implementation)\n" in said
    assert "1 failed (1 of the implementation's)" in said


def test_summary_counts() -> None:
    assert text(MIXED).splitlines()[-1] == "3 claims: 1 passed, 1 failed, 1 skipped, in 0.4 s"
    assert text(GOOD).splitlines()[-1] == "1 claim: 1 passed, 0 failed, 0 skipped, in 0.4 s"


def test_incomplete_report_says_so_and_what_is_missing() -> None:
    *_, marked, summary = text(INCOMPLETE).splitlines()
    assert marked == "INCOMPLETE: interrupted; not checked: memory.top_slot, guest.reach"
    assert summary == "3 claims: 1 passed, 0 failed, 0 skipped, 2 not checked, in 0.4 s"
