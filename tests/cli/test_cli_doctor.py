# SPDX-License-Identifier: Apache-2.0
"""``kvmipa doctor``."""

from __future__ import annotations

import errno
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from kvmipa import doctor
from tests.test_doctor import a_host

if TYPE_CHECKING:
    from kvmipa.doctor import Facts
    from tests.cli.conftest import Command

HEALTHY = a_host(ipa_limit=36)


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> list[Facts]:
    """The facts that the doctor finds, in a list that a test may change; and the device that was looked at."""
    facts = [HEALTHY]
    monkeypatch.setattr(doctor, "gather", lambda device: replace(facts[0], device=device))
    return facts


@pytest.mark.usefixtures("patient")
def test_healthy_host_is_a_yes(kvmipa: Command) -> None:
    shown = kvmipa("doctor")
    assert (shown.status, shown.err) == (0, "")
    assert shown.out == (
        "ok       architecture: aarch64, Linux 6.12.30\n"
        "ok       extension: kvmipa's compiled extension is there\n"
        "ok       device: /dev/kvm is there\n"
        "ok       permission: this user may open /dev/kvm\n"
        "ok       KVM: an arm64 KVM answers, API version 12\n"
        "ok       IPA size: VMs of 32 to 36 bits\n"
        "note     IPA size: the default of 40 bits is above the limit: type 0 fails, a VMM has to name a size\n"
        "the native backend is usable\n"
    )


def test_problem_is_a_no_with_what_to_do(kvmipa: Command, patient: list[Facts]) -> None:
    patient[0] = replace(HEALTHY, open_errno=errno.EACCES)
    shown = kvmipa("doctor")
    assert shown.status == 1
    assert shown.out.splitlines()[-3:] == [
        "PROBLEM  permission: this user may not open /dev/kvm; group kvm may",
        "         -> sudo usermod -aG kvm $USER, then log in again; in a container: pass the device",
        "the native backend is not usable here",
    ]


def test_json_has_verdict_and_findings(kvmipa: Command, patient: list[Facts]) -> None:
    healthy = kvmipa("doctor", "--json").json
    assert (healthy["command"], healthy["native_usable"], len(healthy["findings"])) == ("doctor", True, 7)
    patient[0] = replace(HEALTHY, machine="x86_64")
    shown = kvmipa("--json", "doctor")
    assert shown.status == 1
    assert shown.json["native_usable"] is False
    assert shown.json["findings"][0] == {
        "subject": "architecture",
        "verdict": "problem",
        "text": "x86_64: an arm64 KVM needs an arm64 machine",
        "fix": "the emulated backend works here all the same: kvmipa --backend emulated probe",
    }


@pytest.mark.usefixtures("patient")
def test_device_is_the_one_that_was_named(kvmipa: Command) -> None:
    assert "ok       device: /dev/other is there" in kvmipa("doctor", "--device", "/dev/other").out


def test_this_machine_can_be_examined(kvmipa: Command) -> None:
    shown = kvmipa("doctor", "--json")
    assert shown.status == (0 if shown.json["native_usable"] else 1)
