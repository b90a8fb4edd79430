# SPDX-License-Identifier: Apache-2.0
"""The claims themselves, and that every kernel that there is keeps them."""

from __future__ import annotations

import re
from functools import cache
from typing import TYPE_CHECKING

import pytest

from kvmipa import HostProfile, Kvm
from kvmipa.backend.emulated import EmulatedBackend
from kvmipa.backend.emulated.presets import every_host
from kvmipa.backend.emulated.release import parse
from kvmipa.conformance.claim import CONTRACT, IMPLEMENTATION
from kvmipa.conformance.claims import CLAIMS
from kvmipa.conformance.facts import Facts
from kvmipa.conformance.results import FAIL, PASS
from kvmipa.conformance.runner import check, run

if TYPE_CHECKING:
    from kvmipa.conformance.claim import Claim
    from kvmipa.conformance.results import Report

BY_ID = {claim.id: claim for claim in CLAIMS}
WITHOUT_GUEST = tuple(claim for claim in CLAIMS if not claim.guest)

# With a guest a host takes longer; these differ in page size, limit, mode and release.
WITH_GUEST = (
    "qemu-max-5.10-4k",
    "qemu-cortex-a57-6.1-4k",
    "qemu-max-6.1-4k-pkvm",
    "qemu-max-6.12-4k",
    "qemu-max-6.12-4k-pkvm",
    "qemu-cortex-a53-p36-6.12-4k",
    "qemu-max-6.12-64k",
    "qemu-max-7.3-16k",
    "apple-m1@5.4",
    "raspberry-pi-4",
)


@cache
def report(host: str, *, guest: bool = False) -> Report:
    """What comes of the claims on an emulated host."""
    with Kvm(EmulatedBackend(HostProfile.preset(host))) as kvm:
        return run(kvm, CLAIMS if guest else WITHOUT_GUEST)


def failures(found: Report) -> list[tuple[str, object]]:
    """What failed, and how."""
    return [(result.id, result.mismatches) for result in found.results if result.status == FAIL]


# ------------------------------------------------------------------------------------------------ what they are


def test_ids_and_names_are_unique() -> None:
    """Reports are read by them."""
    assert len(BY_ID) == len({claim.name for claim in CLAIMS}) == len(CLAIMS)


@pytest.mark.parametrize("claim", CLAIMS, ids=lambda claim: claim.id)
def test_a_claim_says_what_it_is(claim: Claim) -> None:
    """For people, and for machines: a dotted name that KTAP and KCIDB take."""
    assert re.fullmatch(r"[a-z0-9_]+(\.[a-z0-9_]+)+", claim.name)
    assert claim.kind in {CONTRACT, IMPLEMENTATION}
    assert (claim.kind == IMPLEMENTATION) == claim.id.startswith("I")
    for text in (claim.text, claim.how):
        assert text.endswith(".")
        assert "\n" not in text
    assert claim.source
    assert parse(claim.since)


@pytest.mark.parametrize("claim", CLAIMS, ids=lambda claim: claim.id)
def test_what_a_claim_rests_on_exists(claim: Claim) -> None:
    """And it is not itself."""
    assert set(claim.rests_on) <= BY_ID.keys() - {claim.id}


def test_every_claim_of_the_specification_is_there() -> None:
    """kernel-ipa-spec 10 has C1 to C18."""
    assert {f"C{number}" for number in range(1, 19)} <= BY_ID.keys()


# ------------------------------------------------------------------------------------------------ who keeps them


@pytest.mark.parametrize("host", [host for host, profile in every_host().items() if profile.starts_kvm])
def test_every_emulated_host_keeps_them(host: str) -> None:
    """Every machine with every release."""
    assert not failures(report(host))


@pytest.mark.parametrize("host", WITH_GUEST)
def test_with_guests_too(host: str) -> None:
    """Those that run guests, on hosts that differ."""
    assert not failures(report(host, guest=True))


def test_each_is_really_checked_somewhere() -> None:
    """A claim that is skipped on every host says nothing."""
    checked = {
        result.id
        for host, profile in every_host().items()
        if profile.starts_kvm
        for result in report(host).results
        if result.status == PASS
    }
    checked |= {
        result.id for host in WITH_GUEST for result in report(host, guest=True).results if result.status == PASS
    }
    assert checked == BY_ID.keys()


def test_a_skipped_claim_says_why() -> None:
    """The reason is a clause, in a line."""
    for host in WITH_GUEST:
        for result in report(host).results:
            assert bool(result.reason) == (result.status not in {PASS, FAIL})
            assert "\n" not in result.reason
            assert not result.reason.endswith(".")


@pytest.mark.parametrize(
    ("host", "claim"),
    [
        ("qemu-max-6.12-4k@4.19", "C5"),
        ("qemu-max-6.12-4k@4.19", "C6"),
        ("qemu-max-6.12-4k", "C7"),
        ("qemu-cortex-a53-p36-6.12-4k", "C3"),
        ("qemu-cortex-a53-p36-5.10-4k@5.4", "C3"),
        ("qemu-max-6.12-4k-pkvm", "C7"),
        ("raspberry-pi-4", "V1"),
        ("qemu-max-6.12-4k", "V13"),
        ("qemu-max-6.1-4k", "C17"),
        ("qemu-max-6.12-4k-pkvm@7.3", "C17"),
    ],
)
def test_what_a_host_does_not_have_is_skipped(host: str, claim: str) -> None:
    """It is neither kept nor broken."""
    (found,) = (result for result in report(host).results if result.id == claim)
    assert found.reason


@pytest.mark.parametrize(
    ("host", "claim"),
    [
        ("qemu-max-6.12-4k@4.19", "C3"),
        ("qemu-max-6.12-4k@4.19", "C10"),
        ("qemu-cortex-a53-p36-6.12-4k", "C7"),
        ("qemu-max-6.12-4k-pkvm", "C5"),
        ("qemu-max-6.12-4k-pkvm@7.3", "C10p"),
        ("raspberry-pi-4", "V13"),
        ("qemu-max-6.12-4k", "C17"),
    ],
)
def test_what_a_host_does_have_is_not(host: str, claim: str) -> None:
    """By the rules of this host."""
    (found,) = (result for result in report(host).results if result.id == claim)
    assert found.status == PASS


def test_a_kernel_with_a_small_user_space_keeps_them() -> None:
    """CONFIG_ARM64_VA_BITS=39, as many boards have it; the largest slot is not tried there."""
    with Kvm(EmulatedBackend(HostProfile("6.12", id_aa64mmfr0_el1=0x1124, va_bits=39))) as kvm:
        found = run(kvm, WITHOUT_GUEST)
    assert not failures(found)
    assert {result.id: result.observations for result in found.results}["I11"] == 3


@pytest.mark.parametrize(("claim", "answers"), [("I10", 0), ("I11", 4)])
def test_without_the_kernels_configuration_its_own_addresses_say_something(claim: str, answers: int) -> None:
    """Of a real kernel that does not show it."""
    profile = HostProfile("6.12", id_aa64mmfr0_el1=0x1124)
    with Kvm(EmulatedBackend(profile)) as kvm:
        found = check(BY_ID[claim], kvm, Facts(real=True, profile=profile))
    assert (found.status != FAIL, found.observations) == (True, answers)


def test_the_kernel_keeps_them(kvm: Kvm) -> None:
    """A real one as well: the lab runs this test in its guests."""
    assert not failures(run(kvm, CLAIMS))
