# SPDX-License-Identifier: Apache-2.0
"""KCIDB's JSON, against its own schema."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from kvmipa.conformance.reports.kcidb import kcidb
from tests.conformance.reports.samples import EVERY, INCOMPLETE, MIXED, REAL
from tests.requirements import need

if TYPE_CHECKING:
    from kvmipa.conformance.results import Report


def made(report: Report, **options: Any) -> Any:
    return json.loads(kcidb(report, **options))


@pytest.mark.parametrize("options", [{}, {"origin": "my_lab", "build_id": "maestro:67a1"}], ids=["own", "lab's"])
@pytest.mark.parametrize("report", EVERY.values(), ids=EVERY)
def test_it_is_of_the_schema(report: Report, options: dict[str, str]) -> None:
    schema = need("kcidb_io.schema.v05_03").Version
    assert schema.is_valid_exactly(made(report, **options))


def test_tests_and_their_status() -> None:
    assert [(test["path"], test["status"]) for test in made(MIXED)["tests"]] == [
        ("kvmipa.system.api_version", "PASS"),
        ("kvmipa.machine_type.valid_sizes", "FAIL"),
        ("kvmipa.pkvm.size_ignored", "SKIP"),
    ]
    assert [test["status"] for test in made(INCOMPLETE)["tests"]] == ["PASS", "MISS", "MISS"]


def test_failure_has_its_log_and_a_skip_its_reason() -> None:
    _, failed, skipped = made(MIXED)["tests"]
    assert failed["log_excerpt"].startswith("KVM_CREATE_VM(53): expected EINVAL")
    assert skipped["misc"]["reason"] == "no pKVM # here"


def test_machine_is_in_the_environment() -> None:
    (test,) = made(REAL)["tests"]
    assert test["environment"]["comment"].startswith("REAL  /dev/kvm")
    assert test["environment"]["misc"]["host_ipa_limit"] == 44


def test_runs_have_ids_of_their_own() -> None:
    ids = [test["id"] for report in EVERY.values() for test in made(report)["tests"] if report is not EVERY["good"]]
    machines = {one.rpartition("-")[0] for one in ids}
    assert len(machines) == 2  # the emulated board's and the real one's
    assert all(one.startswith("kvmipa:kvmipa-") for one in ids)


def test_build_that_the_lab_names_is_not_described_again() -> None:
    found = made(MIXED, build_id="maestro:1")
    assert "builds" not in found
    assert {test["build_id"] for test in found["tests"]} == {"maestro:1"}
