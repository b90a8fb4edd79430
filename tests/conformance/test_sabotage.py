# SPDX-License-Identifier: Apache-2.0
"""Each claim fails where the kernel breaks it, and only it does and those that rest on it."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

import pytest

from kvmipa import HostProfile, Kvm
from kvmipa.backend.emulated import EmulatedBackend
from kvmipa.conformance.claims import CLAIMS
from kvmipa.conformance.results import FAIL, PASS
from kvmipa.conformance.runner import run
from tests.conformance.saboteurs import SABOTAGES

if TYPE_CHECKING:
    from kvmipa.backend import Backend
    from kvmipa.conformance.results import ClaimResult
    from tests.conformance.sabotage import Sabotage

BY_ID = {claim.id: claim for claim in CLAIMS}


def results(backend: Backend) -> dict[str, ClaimResult]:
    """Every claim's result, by its id."""
    with Kvm(backend) as kvm:
        return {result.id: result for result in run(kvm, CLAIMS).results}


@cache
def sound(host: str) -> dict[str, str]:
    """The status of every claim on a host that nobody broke."""
    found = results(EmulatedBackend(HostProfile.preset(host)))
    return {claim: result.status for claim, result in found.items()}


def rests_on(claim: str) -> set[str]:
    """The ids of all that a claim rests on, the one through the other."""
    found: set[str] = set()
    left = list(BY_ID[claim].rests_on)
    while left:
        one = left.pop()
        if one not in found:
            found.add(one)
            left += BY_ID[one].rests_on
    return found


def test_every_claim_has_a_saboteur() -> None:
    """A check that was never seen to fail may be unable to."""
    assert SABOTAGES.keys() == BY_ID.keys()


@pytest.mark.parametrize("claim", BY_ID)
def test_no_claim_rests_on_itself(claim: str) -> None:
    """Nor does another one that it rests on: whichever of them fails, the cause could be any."""
    assert claim not in rests_on(claim)


ALL = [sabotage for claim in BY_ID for sabotage in SABOTAGES.get(claim, ())]


@pytest.mark.parametrize("sabotage", ALL, ids=str)
def test_what_is_broken_fails_and_nothing_else(sabotage: Sabotage) -> None:
    """The claim fails; one that does not rest on it comes out as it does on a sound kernel."""
    before = sound(sabotage.host)
    found = results(sabotage.backend(EmulatedBackend(HostProfile.preset(sabotage.host))))
    assert before[sabotage.claim] == PASS, "the claim can be tested on this host"
    assert found[sabotage.claim].status == FAIL
    changed = {
        claim: [str(mismatch) for mismatch in result.mismatches]
        for claim, result in found.items()
        if result.status != before[claim] and claim != sabotage.claim and sabotage.claim not in rests_on(claim)
    }
    assert not changed


@pytest.mark.parametrize("sabotage", [made[0] for made in SABOTAGES.values()], ids=lambda one: one.claim)
def test_a_failure_says_what_was_expected_and_has_its_system_calls(sabotage: Sabotage) -> None:
    """Expected and came differ in words too, and the trace is there."""
    backend = sabotage.backend(EmulatedBackend(HostProfile.preset(sabotage.host)))
    with Kvm(backend) as kvm:
        (result,) = run(kvm, [BY_ID[sabotage.claim]]).results
    for mismatch in result.mismatches:
        assert mismatch.what
        assert mismatch.expected != mismatch.came
    assert result.trace
