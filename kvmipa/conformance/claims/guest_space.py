# SPDX-License-Identifier: Apache-2.0
"""Claims about the guest's physical address space, as a guest sees it."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Final

from kvmipa.conformance.claim import Claim
from kvmipa.conformance.guest import DONE, NO_MEMORY, came, machine, name, reached
from kvmipa.errors import MemorySlotError
from kvmipa.payload.program import SLOT_SIZE, Command
from kvmipa.payload.steps import DATA, STORED, at

if TYPE_CHECKING:
    from collections.abc import Iterator

    from kvmipa.conformance.guest import GuestMachine
    from kvmipa.conformance.target import Target

# The smallest, the default, and one that no CPU's PARange is; beside them the host's limit.
_SIZES: Final = (32, 40, 37)
# With sizes beyond this the guest has no more to see, and since 7.3 destroying such VMs takes long.
_ENOUGH: Final = 48

# What is in the slots: at the bottom of the space, where an address without its upper bits would lead, and at its top.
_AT_BOTTOM: Final = 0xB1B2_B3B4_B5B6_B7B8
_AT_TOP: Final = 0xC1C2_C3C4_C5C6_C7C8


def _sizes(on: Target, most: int = 64) -> list[int]:
    """Sizes that this host has; the largest is its limit, or what it can destroy in a while."""
    limit = min(on.require_sizes(), most)
    if on.facts.ignores_size:
        return [limit]
    return on.affordable_sizes((limit, *_SIZES))


# ------------------------------------------------------------------------------------------------ PARange


def _parange(on: Target) -> None:
    registers = {}
    for size in _sizes(on, _ENOUGH):
        with machine(on, size) as it:
            (outcome,) = it.told([Command("mmfr0")])
            registers[size] = outcome.values[0]
            what = f"MRS of ID_AA64MMFR0_EL1 in a VM of {size} bits, against KVM_GET_ONE_REG"
            on.expect(what, f"{it.vcpu.regs.id_aa64mmfr0_el1:#x}", f"{registers[size]:#x}")
    first = next(iter(registers))
    for size, value in registers.items():
        what = f"MRS of ID_AA64MMFR0_EL1 in a VM of {size} bits, against one of {first}"
        on.expect(what, f"{registers[first]:#x}", f"{value:#x}")


# ------------------------------------------------------------------------------------------------ what a guest reaches


def _reach(on: Target) -> None:
    for size in _sizes(on):
        with machine(on, size) as it:
            _reach_all(on, it)


def _reach_all(on: Target, it: GuestMachine) -> None:
    end = 1 << it.ipa_bits
    top = _top(on, it.ipa_bits)
    it.memory(0, words={DATA: _AT_BOTTOM})
    it.memory(top - SLOT_SIZE, words={DATA: _AT_TOP, SLOT_SIZE - 8: _AT_TOP})
    # If KVM takes memory beyond, which is another claim's matter, the guest must not get there.
    with suppress(MemorySlotError):
        it.memory(end)
    inside = tuple(_inside(top))
    outside = tuple(_outside(end))
    again = [at("ldr", address) for address in (DATA, top - 8, top - SLOT_SIZE + DATA)]
    outcomes = it.told([*(command for command, _ in inside), *outside, *again])
    where = f"in a VM of {it.ipa_bits} bits"
    for (_, expected), outcome in zip(inside, outcomes, strict=False):
        on.expect(f"{name(outcome)} {where}", expected, came(outcome))
    for outcome in (next(outcomes) for _ in outside):
        on.expect(f"{name(outcome)} {where}", NO_MEMORY, reached(outcome))
    for content, outcome in zip((_AT_BOTTOM, STORED, _AT_TOP), outcomes, strict=True):
        on.expect(f"{name(outcome)} {where}, behind all that", f"x0 = {content:#x}", came(outcome))


def _top(on: Target, ipa_bits: int) -> int:
    """The end of what a guest reaches and can be memory: a 64K less before Linux 5.12 allowed a slot to end at 2^N."""
    if on.facts.ignores_size:
        # The guest may run with less than the host's limit (kernel-ipa-spec 1.7).
        ipa_bits = on.facts.profile.stage2_register(ipa_bits).ipa_bits
    return (1 << ipa_bits) - (0 if on.facts.has("slot_may_end_at_limit") else SLOT_SIZE)


def _inside(end: int) -> Iterator[tuple[Command, str]]:
    """In the first and the last slot: commands, and what is to come of them."""
    yield at("ldr", DATA), f"x0 = {_AT_BOTTOM:#x}"
    yield at("fetch", 0), DONE
    yield at("ldr", end - 8), f"x0 = {_AT_TOP:#x}"
    yield at("str", end - 8), DONE
    yield at("ldr", end - 8), f"x0 = {STORED:#x}"
    yield at("ldrb", end - 1), f"x0 = {STORED >> 56:#x}"
    yield at("fetch", end - SLOT_SIZE), DONE


def _outside(end: int) -> Iterator[Command]:
    """Beyond: the first address, and those that are the slots' without their upper bits."""
    yield from (at(operation, end) for operation in ("ldr", "str", "fetch"))
    yield from (at(operation, end + DATA) for operation in ("ldr", "str"))
    yield from (at("str", address) for address in (2 * end - 8, 2 * end - SLOT_SIZE + DATA))


CLAIMS: Final = (
    Claim(
        id="C8g",
        name="guest.parange",
        text="A guest reads the same ID_AA64MMFR0_EL1 whatever the size of its VM, and it is what user space reads.",
        source="api.rst 4.2; kernel-ipa-spec 7, 10 (C8)",
        how="Guests of VMs of several sizes read the register, as does KVM_GET_ONE_REG.",
        since="4.20",
        guest=True,
        rests_on=("C4", "C5", "C6", "C8"),
        check=_parange,
    ),
    Claim(
        id="C9",
        name="guest.reach",
        text="The size is that of what stage 2 translates: a guest reaches memory in all of [0, 2^N), and only there.",
        source="api.rst 4.2; kernel-ipa-spec 5.3, 10 (C9)",
        how="In VMs of several sizes a guest loads, stores and executes in the first and in the last 64 KiB, and tries "
        "the same at and beyond 2^N, also where an address that loses its upper bits would be memory.",
        since="4.20",
        guest=True,
        rests_on=("C4", "C5", "C6"),
        check=_reach,
    ),
)
