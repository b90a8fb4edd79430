# SPDX-License-Identifier: Apache-2.0
"""Stage 1's walker by itself: tables in a dictionary (Arm ARM D8)."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvmipa.backend.emulated.cpu.stage1 import Features, Registers, Stage1FaultError, Translated, translate

M, WXN, EPAN = 1, 1 << 19, 1 << 57
AF, USER, READONLY, PXN, UXN = 1 << 10, 1 << 6, 1 << 7, 1 << 53, 1 << 54
TABLE = 0x10000

# TCR_EL1: granules of both halves, by bits; IPS.
TG0 = {12: 0, 16: 1 << 14, 14: 2 << 14}
TG1 = {12: 2 << 30, 16: 3 << 30, 14: 1 << 30}


def tcr(granule: int = 12, bits: int = 48, ips: int = 5, more: int = 0) -> int:
    size = 64 - bits
    return TG0[granule] | TG1[granule] | size | size << 16 | ips << 32 | more


def walk(
    tables: dict[int, int],
    va: int,
    control: int,
    *,
    kind: str = "load",
    el: int = 1,
    features: Features = Features(),  # noqa: B008  it is frozen
    sctlr: int = M,
    pan: bool = False,
    ttbr: int = TABLE,
) -> Translated:
    registers = Registers(sctlr, control, ttbr, ttbr)
    return translate(registers, features, lambda ipa, _level: tables.get(ipa, 0), va, el=el, kind=kind, pan=pan)


def fault(*arguments: object, **named: object) -> int:
    with pytest.raises(Stage1FaultError) as caught:
        walk(*arguments, **named)  # type: ignore[arg-type]
    return caught.value.fsc


def chain(granule: int, bits: int, va: int, leaf: int, depth: int | None = None) -> dict[int, int]:
    """Tables at TABLE, TABLE + 64K and so on, that lead to a leaf; depth: how many of them, None for all."""
    stride = granule - 3
    level = 4 - (bits - 4) // stride
    tables, base, top = {}, TABLE, bits
    while True:
        shift = granule + (3 - level) * stride
        entry = base + (va >> shift & (1 << top - shift) - 1) * 8
        last = level == 3 or depth == 1
        tables[entry] = leaf if last else base + 0x10000 | 3
        if last:
            return tables
        base, top, level = base + 0x10000, shift, level + 1
        depth = None if depth is None else depth - 1


def test_without_the_mmu_the_address_is_the_ipa() -> None:
    assert walk({}, 0xFFFF_8000_1234_5678, 0, sctlr=0) == Translated(0xFFFF_8000_1234_5678, None, True, True, True)


def test_without_the_mmu_a_tag_is_ignored_where_tcr_says_so() -> None:
    assert walk({}, 0xAB00_0000_0000_1234, 1 << 37, sctlr=0).ipa == 0x1234
    assert walk({}, 0xAB00_0000_0000_1234, 1 << 37 | 1 << 51, sctlr=0, kind="fetch").ipa == 0xAB00_0000_0000_1234


@pytest.mark.parametrize("granule", [12, 14, 16])
@given(bits=st.integers(25, 48), va=st.integers(0, (1 << 48) - 1), page=st.integers(0, (1 << 32) - 1))
def test_a_page_is_found_in_both_halves(granule: int, bits: int, va: int, page: int) -> None:
    va &= (1 << bits) - 1
    output = page << granule & (1 << 48) - 1
    tables = chain(granule, bits, va, output | AF | 3)
    offset = va & (1 << granule) - 1
    for address in (va, va | -(1 << bits) & (1 << 64) - 1):
        assert walk(tables, address, tcr(granule, bits)).ipa == output | offset


@pytest.mark.parametrize(("granule", "depth", "level"), [(12, 2, 1), (12, 3, 2), (14, 3, 2), (16, 2, 2)], ids=str)
def test_a_block_ends_the_walk(granule: int, depth: int, level: int) -> None:
    va = 0x1234_5678
    shift = granule + (3 - level) * (granule - 3)
    found = walk(chain(granule, 48, va, 5 << shift | AF | 1, depth), va, tcr(granule))
    assert (found.ipa, found.level) == (5 << shift | va & (1 << shift) - 1, level)


def test_a_block_where_none_can_be_is_a_translation_fault() -> None:
    assert fault(chain(12, 48, 0, AF | 1, 1), 0, tcr()) == 0x04
    assert fault(chain(14, 48, 0, AF | 1, 2), 0, tcr(14)) == 0x05


@pytest.mark.parametrize("depth", [1, 2, 3, None])
def test_an_entry_that_is_not_valid_is_a_translation_fault_of_its_level(depth: int | None) -> None:
    assert fault(chain(12, 48, 0, 0, depth), 0, tcr()) == 0x04 | (depth or 4) - 1


def test_addresses_outside_of_both_halves_are_translation_faults_of_level_0() -> None:
    tables = chain(12, 39, 0, AF | 3)
    assert fault(tables, 1 << 39, tcr(12, 39)) == 0x04
    assert fault(tables, (1 << 64) - (1 << 40), tcr(12, 39)) == 0x04
    assert fault(tables, 0, tcr(12, 39, more=1 << 7)) == 0x04
    assert walk(tables, 0xAB << 56, tcr(12, 39, more=1 << 37)).ipa == 0


def test_an_output_that_is_too_large_is_an_address_size_fault() -> None:
    tables = chain(12, 48, 0, 1 << 40 | AF | 3)
    assert fault(tables, 0, tcr(ips=2)) == 0x03
    assert walk(tables, 0, tcr(ips=3)).ipa == 1 << 40
    # A CPU of 40 bits has no more, whatever TCR_EL1 says.
    assert fault(tables, 0, tcr(ips=3), features=Features(pa_bits=40)) == 0x03
    assert fault({}, 0, tcr(ips=2), ttbr=1 << 40) == 0x00


def test_a_page_that_was_not_accessed_is_an_access_flag_fault() -> None:
    assert fault(chain(12, 48, 0, 3), 0, tcr()) == 0x0B


# Attributes, SCTLR_EL1 -> what EL1 and EL0 may: read, write, execute.
PERMISSIONS = [
    (0, 0, "rwx", "--x"),
    (USER, 0, "rw-", "rwx"),
    (READONLY, 0, "r-x", "--x"),
    (USER | READONLY, 0, "r-x", "r-x"),
    (PXN, 0, "rw-", "--x"),
    (UXN, 0, "rwx", "---"),
    (USER | READONLY | PXN | UXN, 0, "r--", "r--"),
    (0, WXN, "rw-", "--x"),
    (USER, WXN, "rw-", "rw-"),
]


@pytest.mark.parametrize(("attributes", "sctlr", "el1", "el0"), PERMISSIONS)
def test_a_leaf_lets_each_level_do_what_it_says(attributes: int, sctlr: int, el1: str, el0: str) -> None:
    tables = chain(12, 48, 0, AF | 3 | attributes)
    for el, allowed in ((1, el1), (0, el0)):
        for letter, kind in zip("rwx", ("load", "store", "fetch"), strict=True):
            if letter in allowed:
                walk(tables, 0, tcr(), kind=kind, el=el, sctlr=M | sctlr)
            else:
                assert fault(tables, 0, tcr(), kind=kind, el=el, sctlr=M | sctlr) == 0x0F


def test_tables_take_away_what_is_below_them_unless_that_is_off() -> None:
    tables = chain(12, 48, 0, AF | USER | 3)
    first = min(tables)
    tables[first] |= 1 << 61 | 1 << 62
    assert fault(tables, 0, tcr(), kind="store") == 0x0F
    assert fault(tables, 0, tcr(), el=0) == 0x0F
    walk(tables, 0, tcr(more=1 << 41), kind="store", el=0)


def test_pan_keeps_el1_from_what_el0_has() -> None:
    tables = chain(12, 48, 0, AF | USER | READONLY | 3)
    assert fault(tables, 0, tcr(), pan=True) == 0x0F
    assert walk(tables, 0, tcr(), pan=True, kind="fetch").ipa == 0


def test_epan_keeps_el1_from_what_el0_executes_as_well() -> None:
    # No access for EL0, but to execute; and not that either.
    executes, nothing = chain(12, 48, 0, AF | 3), chain(12, 48, 0, AF | UXN | 3)
    third = Features.of(0x1125, 0, 3 << 20)
    sctlr = M | EPAN
    assert fault(executes, 0, tcr(), pan=True, sctlr=sctlr, features=third) == 0x0F
    assert fault(executes, 0, tcr(), pan=True, sctlr=sctlr, features=third, kind="store") == 0x0F
    assert walk(executes, 0, tcr(), pan=True, sctlr=sctlr, features=third, kind="fetch").ipa == 0
    for tables, control, features, pan in (
        (nothing, sctlr, third, True),
        (executes, sctlr, third, False),
        (executes, M, third, True),
        (executes, sctlr, Features.of(0x1125, 0, 2 << 20), True),
    ):
        assert walk(tables, 0, tcr(), pan=pan, sctlr=control, features=features).ipa == 0


def test_52_bits_by_lpa2() -> None:
    wide = Features(pa_bits=52, lpa2=frozenset({12, 14}))
    # Level -1 with 4K pages; the leaf's bits 9:8 are address bits 51:50.
    va = 1 << 51 | 0x1234
    leaf = (1 << 49 | 0x5000) | 3 << 8 | AF | 3
    tables = chain(12, 52, va, leaf)
    assert walk(tables, va & (1 << 52) - 1, tcr(12, 52, 6, 1 << 59), features=wide).ipa == 3 << 50 | 1 << 49 | 0x5234
    assert fault({}, 0, tcr(12, 52, 6, 1 << 59), features=wide) == 0x2B
    assert fault(tables, 0, tcr(12, 52, 6), features=wide) == 0x04


def test_52_bits_with_64k_pages() -> None:
    wide = Features(pa_bits=52, lva=True)
    tables = chain(16, 52, 0, 0x5_0000 | 0xA << 12 | AF | 3)
    assert walk(tables, 0, tcr(16, 52, 6), features=wide).ipa == 0xA << 48 | 0x5_0000


def test_a_granule_that_the_cpu_has_not_is_another() -> None:
    only_64k = Features.of(0xF000_0005)
    assert only_64k.granules == frozenset({16})
    tables = chain(16, 48, 0, 7 << 16 | AF | 3)
    assert walk(tables, 0, tcr(12, 48), features=only_64k).ipa == 7 << 16


def test_what_ends_the_reading_of_a_table_ends_the_walk() -> None:
    def read(_ipa: int, level: int) -> int:
        raise LookupError(level)

    with pytest.raises(LookupError, match="0"):
        translate(Registers(M, tcr(), TABLE, TABLE), Features(), read, 0, el=1, kind="load")


HA = 1 << 39
SETS = Features.of(0x1125, 0, 1)


def accessed(leaf: int, control: int, features: Features, kind: str = "load") -> list[tuple[int, int, int]]:
    """What the walker writes: (IPA, level, descriptor)."""
    tables = chain(12, 48, 0, leaf)
    written: list[tuple[int, int, int]] = []
    registers = Registers(M, control, TABLE, TABLE)
    translate(
        registers,
        features,
        lambda ipa, _level: tables.get(ipa, 0),
        0,
        el=1,
        kind=kind,
        write=lambda *what: written.append(what),
    )
    return written


def test_the_walker_sets_the_access_flag_where_it_is_told_to() -> None:
    leaf = 0x5000 | 3
    assert accessed(leaf, tcr(more=HA), SETS) == [(TABLE + 0x30000, 3, leaf | AF)]
    assert accessed(leaf | AF, tcr(more=HA), SETS) == []
    for control, features in ((tcr(), SETS), (tcr(more=HA), Features())):
        with pytest.raises(Stage1FaultError) as caught:
            accessed(leaf, control, features)
        assert caught.value.fsc == 0x0B


def test_with_a_permission_fault_it_sets_none() -> None:
    with pytest.raises(Stage1FaultError) as caught:
        accessed(0x5000 | READONLY | 3, tcr(more=HA), SETS, "store")
    assert caught.value.fsc == 0x0F


def test_what_ends_the_writing_of_a_table_ends_the_walk() -> None:
    def write(ipa: int, _level: int, _descriptor: int) -> None:
        raise LookupError(hex(ipa))

    tables = chain(12, 48, 0, 0x5000 | 3)
    with pytest.raises(LookupError, match="0x40000"):
        translate(
            Registers(M, tcr(more=HA), TABLE, TABLE),
            SETS,
            lambda ipa, _level: tables.get(ipa, 0),
            0,
            el=1,
            kind="load",
            write=write,
        )
