# SPDX-License-Identifier: Apache-2.0
"""Checks that need a guest: on every kind of host, without a CPU for it, and where it hangs."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import pytest

from kvmipa import HostProfile, Kvm
from kvmipa.backend.emulated import EmulatedBackend
from kvmipa.backend.emulated.cpu.library import library
from kvmipa.conformance import guest
from kvmipa.conformance.claims import CLAIMS
from kvmipa.conformance.facts import Facts
from kvmipa.conformance.results import FAIL, PASS, SKIP
from kvmipa.conformance.runner import check
from tests.conformance.saboteurs.guest import hangs_at_a_store, inside
from tests.guests import require_engine

if TYPE_CHECKING:
    from collections.abc import Iterator

    from kvmipa.backend import Backend
    from kvmipa.conformance.results import ClaimResult

GUESTS = [claim for claim in CLAIMS if claim.guest]
WITH_SIZES = {"C8g", "C9", "IG1"}

# ID_AA64MMFR0_EL1 by the bits of PARange.
BITS_32, BITS_36, BITS_44, BITS_52 = 0x10_1120, 0x10_1121, 0x1124, 0x323_1020_1126
# ID_AA64MMFR1_EL1 without and with FEAT_HAFDBS.
PLAIN, SETS_FLAGS = 0x20, 0x21


def checked(backend: Backend, *ids: str) -> dict[str, ClaimResult]:
    """The results of these claims, or of all that need a guest, by id."""
    with Kvm(backend) as kvm:
        facts = Facts.of(kvm)
        return {claim.id: check(claim, kvm, facts) for claim in GUESTS if not ids or claim.id in ids}


@pytest.mark.parametrize(
    ("release", "page_size", "mmfr0"),
    [
        *((release, 4096, BITS_44) for release in ("4.19", "5.10", "7.3")),
        *((release, 16384, BITS_36) for release in ("4.20", "5.10", "6.12")),
        *((release, 65536, BITS_52) for release in ("4.19", "5.4", "6.1", "7.3")),
        *((release, 4096, BITS_32) for release in ("4.20", "6.12")),
        *((release, 4096, BITS_52) for release in ("5.4", "6.1", "6.12")),
    ],
)
def test_every_sound_kernel_passes(release: str, page_size: int, mmfr0: int) -> None:
    require_engine()
    profile = HostProfile(release, page_size, mmfr0, SETS_FLAGS)
    if not profile.starts_kvm:
        pytest.skip(f"KVM does not start there: {profile.obstacle}")
    found = checked(EmulatedBackend(profile))
    assert not [(result.id, result.mismatches) for result in found.values() if result.status == FAIL]
    skipped = {claim for claim, result in found.items() if result.status == SKIP}
    assert skipped == (WITH_SIZES if release == "4.19" else set())


@pytest.mark.parametrize("release", ["6.1", "6.12", "7.3"])
@pytest.mark.parametrize(("page_size", "pa_bits"), [(4096, None), (65536, 52), (65536, 48)])
def test_pkvm_hosts_are_judged_by_their_limit(release: str, page_size: int, pa_bits: int | None) -> None:
    """With 64K pages and 48 bits of PA the guest reaches less than memory can be set for."""
    require_engine()
    found = checked(EmulatedBackend(HostProfile(release, page_size, BITS_52, PLAIN, pa_bits, mode="protected")))
    assert not [(result.id, result.mismatches) for result in found.values() if result.status == FAIL]


def test_without_a_walker_that_writes_its_claim_is_skipped() -> None:
    require_engine()
    (result,) = checked(EmulatedBackend(HostProfile("6.12", 4096, BITS_44, PLAIN)), "C13w").values()
    assert (result.status, "HAFDBS" in result.reason) == (SKIP, True)


def test_without_4k_pages_in_stage_1_the_walkers_claim_is_skipped() -> None:
    require_engine()
    no_4k = 0x223_F010_1126
    (result,) = checked(EmulatedBackend(HostProfile("6.12", 65536, no_4k, SETS_FLAGS)), "C13w").values()
    assert (result.status, "TGran4" in result.reason) == (SKIP, True)


def test_without_huge_pages_the_claim_about_blocks_is_skipped() -> None:
    require_engine()
    (result,) = checked(EmulatedBackend(HostProfile(thp="never")), "C18").values()
    assert (result.status, result.reason) == (SKIP, "transparent huge pages are off")


def test_in_a_user_space_that_is_smaller_than_this_process_guests_are_skipped() -> None:
    require_engine()
    for result in checked(EmulatedBackend(HostProfile("6.12", 4096, BITS_44, PLAIN, va_bits=39))).values():
        assert (result.status, "user space of 39 bits" in result.reason) == (SKIP, True)


@pytest.fixture
def no_unicorn(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    library.cache_clear()
    monkeypatch.setitem(sys.modules, "unicorn", None)
    yield
    library.cache_clear()


@pytest.mark.usefixtures("no_unicorn")
def test_without_a_cpu_everything_is_skipped_and_the_reason_says_what_to_install() -> None:
    for result in checked(EmulatedBackend(HostProfile())).values():
        assert result.status == SKIP
        assert "pip install 'kvmipa[cpu]'" in result.reason


def test_a_guest_that_hangs_fails_its_claim(monkeypatch: pytest.MonkeyPatch) -> None:
    require_engine()
    monkeypatch.setattr(guest, "_PATIENCE", 0.2)
    from kvmipa.backend.emulated import faults

    broken = inside(faults, "_not_memory", hangs_at_a_store)(EmulatedBackend(HostProfile()))
    found = checked(broken, "C13", "C14")
    assert found["C13"].status == FAIL
    last = found["C13"].mismatches[-1]
    assert last.came.startswith("PayloadError: strb(0x0, 0x60000800")
    assert "in 0.2 seconds no exit" in last.came
    assert found["C14"].status == PASS


def test_every_claim_that_needs_a_guest_is_said_to() -> None:
    assert {claim.id for claim in CLAIMS if claim.name.startswith("guest.")} == {claim.id for claim in GUESTS}
    assert {claim.id for claim in GUESTS} >= {"C8g", "C9", "C13", "C13w", "C14", "C15", "C18"}
