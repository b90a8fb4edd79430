# SPDX-License-Identifier: Apache-2.0
"""What a report says of the machine."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from kvmipa import HostProfile, Kvm
from kvmipa.backend.emulated import EmulatedBackend
from kvmipa.conformance.cpu_names import IMPLEMENTERS, PARTS, cpu_name
from kvmipa.conformance.facts import Facts
from kvmipa.conformance.machine import describe_cpus, look_at, midrs_of

if TYPE_CHECKING:
    from pathlib import Path


def cpu(root: Path, number: int, midr: str) -> None:
    file = root / f"cpu{number}/regs/identification/midr_el1"
    file.parent.mkdir(parents=True)
    file.write_text(midr)


def test_cpus_are_read_as_the_kernel_shows_them(tmp_path: Path) -> None:
    for number in (10, 2, 1):
        cpu(tmp_path, number, "0x00000000410fd034\n")
    cpu(tmp_path, 0, "0x00000000410fd082\n")
    cpu(tmp_path, 3, "nonsense\n")
    (tmp_path / "cpufreq").mkdir()
    found = midrs_of(tmp_path)
    assert list(found) == [0, 1, 2, 10]
    assert describe_cpus(found) == "Arm Cortex-A72 r0p2 (0); Arm Cortex-A53 r0p4 (1..2, 10)"


def test_machine_that_shows_no_cpus_has_none(tmp_path: Path) -> None:
    assert describe_cpus(midrs_of(tmp_path / "absent")) == ""


def test_cpu_that_is_not_known_is_shown_by_what_is() -> None:
    assert cpu_name(0x410FABC1) == "Arm part 0xabc r0p1"
    assert cpu_name(0x7F0FABC1) == "MIDR_EL1 0x7f0fabc1"


def test_names_are_of_implementers_that_there_are() -> None:
    assert set(PARTS) == set(IMPLEMENTERS)


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        (
            HostProfile(name="a board", release="6.12", id_aa64mmfr0_el1=0x1124, cpus=4, midr_el1=0x410FD083),
            {"cpus": 4, "cpu": "Arm Cortex-A72 r0p3", "parange_bits": 44, "host_ipa_limit": 44},
        ),
        (HostProfile(release="4.19"), {"host": "custom host", "host_ipa_limit": None, "sizes": (0,), "cpu": ""}),
        (HostProfile(name="it", thp="madvise"), {"transparent_hugepages": "madvise", "model": "it"}),
    ],
)
def test_emulated_machine_is_described(host: HostProfile, expected: dict[str, object]) -> None:
    with Kvm(EmulatedBackend(host)) as kvm:
        found = look_at(kvm, Facts.of(kvm))
    assert found.reality == "EMULATED"
    assert found.cpu_set == ""
    assert {name: getattr(found, name) for name in expected} == expected


@pytest.mark.native
def test_real_machine_is_described(kvm: Kvm) -> None:
    found = look_at(kvm, Facts.of(kvm))
    assert found.reality == "REAL"
    assert found.host == "/dev/kvm"
    assert found.kernel.startswith(os.uname().release)
    assert found.cpus == os.cpu_count()
    assert found.cpu
    assert found.cpu_set.startswith("0")
    assert found.sizes
