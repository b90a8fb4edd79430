# SPDX-License-Identifier: Apache-2.0
"""JUnit XML, as junitparser reads it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from kvmipa.conformance.reports.junit import junit
from tests.conformance.reports.samples import EVERY, INCOMPLETE, MIXED, REAL, TRACE
from tests.requirements import need

if TYPE_CHECKING:
    from kvmipa.conformance.results import Report


def parsed(report: Report) -> Any:
    """The one suite."""
    junitparser = need("junitparser")
    (suite,) = junitparser.JUnitXml.fromstring(junit(report).encode())
    return suite


@pytest.mark.parametrize("report", EVERY.values(), ids=EVERY)
def test_counts(report: Report) -> None:
    suite = parsed(report)
    assert suite.tests == len(report.results) + len(report.missing) == len(list(suite))
    assert (suite.failures, suite.skipped, suite.errors) == (
        report.count("fail"),
        report.count("skip"),
        len(report.missing),
    )


def test_cases_have_the_names_that_ktap_has() -> None:
    assert [f"{case.classname}.{case.name}" for case in parsed(MIXED)] == [
        "kvmipa.system.api_version",
        "kvmipa.machine_type.valid_sizes",
        "kvmipa.pkvm.size_ignored",
    ]


def test_outcomes() -> None:
    passed, failed, skipped = parsed(MIXED)
    assert passed.is_passed
    assert failed.is_failure
    assert skipped.is_skipped
    assert skipped.result[0].message == "no pKVM # here"
    assert failed.result[0].message == "KVM_CREATE_VM(53): expected EINVAL, came ok 3 VMs of <53> & more"
    said = failed.result[0].text.splitlines()
    assert failed.result[0].message in said
    assert "ioctl(kvm, KVM_CREATE_VM, 53) = vm0" in said
    assert said[-1].endswith("kvmipa replay DIR/C2.trace")
    assert failed.system_out == TRACE


def test_properties_describe_the_machine() -> None:
    found = {one.name: one.value for one in parsed(REAL).properties()}
    assert found["reality"] == "REAL"
    assert found["host"] == "/dev/kvm"
    assert found["ipa_limit"] == "44 bits"
    assert found["cpu_set"] == "0..3"
    assert found["complete"] == "yes"


def test_what_xml_cannot_say_is_replaced() -> None:
    found = {one.name: one.value for one in parsed(REAL).properties()}
    assert found["model"] == "Raspberry Pi 5 Modèle \N{REPLACEMENT CHARACTER} B"


def test_what_was_not_checked_is_an_error() -> None:
    _, *missing = parsed(INCOMPLETE)
    assert [case.result[0].type for case in missing] == ["interrupted", "interrupted"]
