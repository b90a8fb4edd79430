# SPDX-License-Identifier: Apache-2.0
"""The guest conformance program on every kernel that there is: what holds whatever the kernel's release."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from kvmipa.payload import run_payload
from kvmipa.payload.program import NO_MAPPING, NOWHERE, READONLY
from tests.guests import require_cpu

if TYPE_CHECKING:
    from kvmipa import Kvm
    from kvmipa.payload.transcript import Outcome, Transcript


@pytest.fixture
def told(kvm: Kvm, limit: int) -> Transcript:
    """A guest of 36 bits, or what the host has; its stage 1 stays off, which 7.3 on a Cortex-A57 of QEMU 7.2 needs."""
    require_cpu(kvm)
    return run_payload(kvm, min(limit, 36), stage1=False)


def at(told: Transcript, start: int, end: int, *operations: str) -> list[Outcome]:
    """What came of these operations at addresses from start to end."""
    found = [
        outcome
        for outcome in told.outcomes
        if outcome.step.command.operation in operations and start <= outcome.step.command.x[1] < end
    ]
    assert found
    return found


def test_the_guest_is_at_el1_and_switches_itself_off(told: Transcript) -> None:
    assert told.outcomes[0].values == (0x4,)
    assert told.end[:2] == ("system_event", 1)


def test_the_last_bytes_of_the_ipa_space_are_memory(told: Transcript) -> None:
    last = (1 << told.ipa_bits) - 8
    load, store, again = at(told, last, last + 8, "ldr", "str")
    assert [one.exits for one in (load, store, again)] == [()] * 3
    assert load.values != again.values == (store.step.command.x[2],)


def test_a_guest_never_gets_beyond_its_ipa_space(told: Transcript, ignores_size: bool) -> None:
    if ignores_size:
        pytest.skip("every VM of this host has its limit")
    for outcome in at(told, 1 << told.ipa_bits, 1 << 64, "ldr", "str", "ldp", "fetch"):
        assert outcome.exits or outcome.exception


def test_stores_to_a_read_only_slot_are_the_vmms(told: Transcript) -> None:
    for outcome in at(told, READONLY, NO_MAPPING, "strb", "strh", "str_w", "str"):
        _, address, x2, _ = outcome.step.command.x
        (exit_,) = outcome.exits
        assert exit_[:2] == ("mmio-store", address)
        assert exit_[3] == x2 & (1 << 8 * int(exit_[2])) - 1
    assert len({outcome.values for outcome in at(told, READONLY, NO_MAPPING, "ldr") if outcome.values}) == 1


def test_loads_of_nothing_get_what_the_vmm_answers(told: Transcript) -> None:
    for outcome in at(told, NOWHERE, NOWHERE + 0x1000, "ldrb", "ldrh", "ldr_w", "ldr"):
        ((_, address, size),) = outcome.exits
        assert address == outcome.step.command.x[1]
        assert outcome.values == (0xA1A2_A3A4_A5A6_A7A8 & (1 << 8 * int(size)) - 1,)


def test_what_the_cpu_does_not_describe_is_skipped_by_the_vmm(told: Transcript) -> None:
    for outcome in at(told, NOWHERE, NOWHERE + 0x1000, "ldp", "ldr_post"):
        expected = "nisv" if outcome.step.nisv else "failed"
        assert [exit_[0] for exit_ in outcome.exits] == [expected]
        assert outcome.values[1] == outcome.step.command.x[1]


def test_a_transcript_is_the_same_each_time(kvm: Kvm, limit: int, told: Transcript) -> None:
    assert list(run_payload(kvm, min(limit, 36), stage1=False).lines()) == list(told.lines())
