# SPDX-License-Identifier: Apache-2.0
"""Claims about memory slots, as a guest finds them: read-only ones, and ones whose dirty pages are logged."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from kvmipa.conformance.claim import Claim
from kvmipa.conformance.guest import DONE, came, exception, machine, name
from kvmipa.id_registers import field
from kvmipa.payload.program import GIB, RAM, READONLY, Command
from kvmipa.payload.steps import DATA, STORED, at

if TYPE_CHECKING:
    from collections.abc import Iterator

    from kvmipa.conformance.target import Target
    from kvmipa.payload.transcript import Outcome

# What the VMM puts there.
_CONTENT: Final = 0xE1E2_E3E4_E5E6_E7E8

_STORES: Final = {"strb": 1, "strh": 2, "str_w": 4, "str": 8}


# ------------------------------------------------------------------------------------------------ read-only slots


def _readonly(on: Target) -> None:
    place = READONLY + DATA
    stores = [at(operation, place) for operation in _STORES]
    with machine(on) as it:
        it.memory(READONLY, words={DATA: _CONTENT}, readonly=True)
        outcomes = it.told([at("ldr", place), at("fetch", READONLY), *stores, at("ldr", place), at("fetch", READONLY)])
        expected = (
            f"x0 = {_CONTENT:#x}",
            DONE,
            *(
                f"MMIO store of {size} bytes at {place:#x}: {STORED & (1 << 8 * size) - 1:#x}"
                for size in _STORES.values()
            ),
            f"x0 = {_CONTENT:#x}",
            DONE,
        )
        for answer, outcome in zip(expected, outcomes, strict=True):
            on.expect(f"{name(outcome)}, in a read-only slot", answer, came(outcome))


# Stage 1 for the walker's claim. Its first level has an entry for each GiB (conformance.S); these lead to tables of the
# second level, one in the read-only slot and one in ordinary memory, whose blocks of 2 MiB all are RAM.
_TABLE: Final = 3
_BLOCK: Final = RAM | 0x301  # normal memory, inner shareable, not accessed yet
_ACCESSED: Final = 1 << 10
_TABLE_OFFSET: Final = 0x1000
_SECOND_BLOCK: Final = 2 << 20
_OVER_READONLY: Final = 8
_OVER_RAM: Final = 9
# TCR_EL1.HA: the walker sets the access flag.
_HA: Final = 1 << 39
_NO_4K_PAGES: Final = 15


def _walker(on: Target) -> None:
    with machine(on) as it:
        registers = it.vcpu.regs
        if not field("ID_AA64MMFR1_EL1", "HAFDBS", registers.id_aa64mmfr1_el1):
            on.skip("the CPU's walker writes no tables (ID_AA64MMFR1_EL1.HAFDBS is 0)")
        if field("ID_AA64MMFR0_EL1", "TGran4", registers.id_aa64mmfr0_el1) == _NO_4K_PAGES:
            on.skip("the guest program's stage 1 has 4K pages, and the CPU has none (ID_AA64MMFR0_EL1.TGran4)")
        tables = {_TABLE_OFFSET: _BLOCK | _ACCESSED, _TABLE_OFFSET + 8: _BLOCK}
        it.memory(READONLY, words=tables, readonly=True)
        it.memory(RAM, words={DATA: _CONTENT, _TABLE_OFFSET: _BLOCK})
        steps = tuple(_walks())
        outcomes = it.told([command for command, _ in steps])
        for number, (_, expected) in enumerate(steps):
            if number == _FIRST_WITH_HA:
                registers.tcr_el1 |= _HA
            outcome = next(outcomes)
            if expected is not None:
                found = exception(outcome) if expected == _ABORT and not outcome.exits else came(outcome)
                with_ha = "with" if number >= _FIRST_WITH_HA else "without"
                on.expect(f"{name(outcome)}, {with_ha} TCR_EL1.HA", expected, found)


_ABORT: Final = "data abort"
_FIRST_WITH_HA: Final = 5


def _walks() -> Iterator[tuple[Command, str | None]]:
    """Commands, and what is to come of them; None: whatever."""
    second = _OVER_READONLY * GIB + _SECOND_BLOCK + DATA
    yield Command("stage1_on", values=0), None
    yield _map(_OVER_READONLY, READONLY), None
    yield _map(_OVER_RAM, RAM), None
    # The walker reads tables in a read-only slot as everywhere; the CPU itself minds that a block is not accessed.
    yield at("ldr", _OVER_READONLY * GIB + DATA), f"x0 = {_CONTENT:#x}"
    yield at("ldr", second), _ABORT
    # This invalidates the TLB, where the register may be as well.
    yield _map(_OVER_READONLY, READONLY), None
    # The walker does write, where it can.
    yield at("ldr", _OVER_RAM * GIB + DATA), f"x0 = {_CONTENT:#x}"
    yield at("ldr", RAM + _TABLE_OFFSET), f"x0 = {_BLOCK | _ACCESSED:#x}"
    yield at("ldr", second), _ABORT
    yield at("str", second), _ABORT
    yield at("ldr", READONLY + _TABLE_OFFSET + 8), f"x0 = {_BLOCK:#x}"


def _map(number: int, slot: int) -> Command:
    return Command("map", (0, number, slot + _TABLE_OFFSET | _TABLE), 0)


# ------------------------------------------------------------------------------------------------ dirty pages

# More than a word of the bitmap has bits; the guest writes these.
_PAGES: Final = 70
_WRITTEN: Final = (0, 5, 63, 64)
_READ: Final = (3, 66)
_LAST: Final = 69


def _dirty_log(on: Target) -> None:
    page_size = on.facts.profile.page_size

    def touched(operation: str, *pages: int) -> list[Command]:
        return [at(operation, RAM + page * page_size + DATA) for page in pages]

    rounds: tuple[tuple[str, list[Command], tuple[int, ...]], ...] = (
        ("nothing was written since logging was switched on", [], ()),
        ("pages were loaded from and stored to", [*touched("ldr", *_READ), *touched("str", *_WRITTEN)], _WRITTEN),
        ("nothing was written since the log was read", touched("ldr", *_WRITTEN), ()),
        ("one page more, and one again", touched("strb", 5, _LAST), (5, _LAST)),
    )
    before = touched("str", 5, 7)
    with machine(on) as it:
        slot = it.memory(RAM, size=_PAGES * page_size)
        outcomes = it.told([*before, *(command for _, commands, _ in rounds for command in commands)])
        for _ in before:
            on.expect("a store, without a dirty log", DONE, came(next(outcomes)))
        slot.set_logging(True)
        for what, commands, expected in rounds:
            for _ in commands:
                _expect_no_exit(on, next(outcomes))
            on.expect(f"the pages of KVM_GET_DIRTY_LOG: {what}", list(expected), slot.dirty_log())


def _expect_no_exit(on: Target, outcome: Outcome) -> None:
    on.expect(f"{name(outcome)}, with a dirty log", "no exit", came(outcome) if outcome.exits else "no exit")


CLAIMS: Final = (
    Claim(
        id="C13",
        name="guest.readonly_slot",
        text="A guest's stores to a READONLY slot exit as MMIO, with what it stores; its loads and its instructions "
        "are of the memory there.",
        source="api.rst 4.35; kernel-ipa-spec 5.3 (e), 10 (C13)",
        how="A guest loads, executes and stores 1, 2, 4 and 8 bytes in such a slot, and loads again.",
        since="4.19",
        guest=True,
        rests_on=("C11",),
        check=_readonly,
    ),
    Claim(
        id="C13w",
        name="guest.readonly_slot_walker",
        text="Writes to a READONLY slot by the page-table walker never exit as MMIO: the guest takes an abort.",
        source="api.rst 4.35; kernel-ipa-spec 5.2 (step C), 10 (C13)",
        how="A guest whose stage-1 tables are in such a slot has the CPU set access flags (TCR_EL1.HA), for which it "
        "would have to write there; in ordinary memory it does.",
        since="4.19",
        guest=True,
        rests_on=("C11", "C13"),
        check=_walker,
    ),
    Claim(
        id="C14",
        name="guest.dirty_log",
        text="A slot with LOG_DIRTY_PAGES has exactly those pages in its log that were written since the last reading.",
        source="api.rst 4.8, 4.35; kernel-ipa-spec 10 (C14)",
        how="A guest loads from and stores to pages of a slot, and KVM_GET_DIRTY_LOG is read before and after, twice.",
        since="4.19",
        guest=True,
        rests_on=("C11",),
        check=_dirty_log,
    ),
)
