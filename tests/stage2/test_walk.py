# SPDX-License-Identifier: Apache-2.0
"""The translation walk, against tables written by hand: none of the code that writes tables is used here."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvmipa.stage2.vtcr import Vtcr
from kvmipa.stage2.walk import Fault, FaultKind, Translation, walk

TRANSLATION, PERMISSION, ACCESS, SIZE = (
    FaultKind.TRANSLATION,
    FaultKind.PERMISSION,
    FaultKind.ACCESS_FLAG,
    FaultKind.ADDRESS_SIZE,
)

# VTCR_EL2 values that real kernels ran with (kernel-ipa-spec 3.4).
V_4K_40 = 0x802D3558  # level 1, two tables
V_4K_48 = 0x802D3590  # level 0
V_4K_40_PA40 = 0x80223558  # PS = 40 bits
V_4K_52_LPA2 = 0x1802E358C  # level 0, 16 tables
V_16K_40 = 0x802DB558  # level 2, 16 tables
V_16K_52_LPA2 = 0x1802EB5CC  # level 0, one table
V_64K_52 = 0x802E758C  # level 1

PAGE = 0x7FF  # RWX, Normal write-back, inner shareable, accessed
BLOCK = 0x7FD


class Memory(dict[int, int]):
    """Physical memory by address; what is not there is 0, and every read is kept."""

    def __init__(self, *entries: tuple[int, int]) -> None:
        super().__init__(entries)
        self.reads: list[int] = []

    def read64(self, address: int) -> int:
        self.reads.append(address)
        return self.get(address, 0)


def result(memory: Memory, vtcr: int, ipa: int, vttbr: int = 0x8000_0000, **more: Any) -> Translation | Fault:
    return walk(memory.read64, vttbr, vtcr, ipa, **more)


def pa_of(memory: Memory, vtcr: int, ipa: int, vttbr: int = 0x8000_0000, **more: Any) -> int:
    found = result(memory, vtcr, ipa, vttbr, **more)
    assert isinstance(found, Translation), found
    return found.pa


def test_4k_page_at_three_levels() -> None:
    ipa = 3 << 30 | 5 << 21 | 7 << 12 | 0x123
    memory = Memory((0x8000_0018, 0x1003), (0x1028, 0x2003), (0x2038, 0x4444_4000 | PAGE))
    found = result(memory, V_4K_40, ipa)
    assert found == Translation(0x4444_4123, 3, 4096, True, True, True, "Normal Write-back", 3, 0x4444_4000 | PAGE)
    assert memory.reads == [0x8000_0018, 0x1028, 0x2038]


def test_concatenated_table_is_indexed_beyond_the_first() -> None:
    memory = Memory((0x8000_0000 + 1023 * 8, 1 << 30 | BLOCK))
    assert pa_of(memory, V_4K_40, (1 << 40) - 1) == (2 << 30) - 1


def test_four_levels_from_level_0() -> None:
    ipa = 1 << 39 | 2 << 30 | 3 << 21 | 4 << 12
    memory = Memory((0x8000_0008, 0x1003), (0x1010, 0x2003), (0x2018, 0x3003), (0x3020, 0x5000 | PAGE))
    assert pa_of(memory, V_4K_48, ipa) == 0x5000


def test_16k_page_and_block() -> None:
    memory = Memory(
        (0x8000_0000 + 32767 * 8, 0x4003), (0x4000 + 2047 * 8, 0x8_4000 | PAGE), (0x8000_0000, 32 << 20 | BLOCK)
    )
    assert pa_of(memory, V_16K_40, (1 << 40) - 1) == 0x8_7FFF
    assert pa_of(memory, V_16K_40, 0x1FF_FFFF) == (64 << 20) - 1


def test_16k_of_52_bits_starts_at_level_0() -> None:
    ipa = 31 << 47 | 1 << 36 | 2 << 25 | 3 << 14 | 5
    memory = Memory(
        (0x8000_0000 + 31 * 8, 0x4003), (0x4008, 0x8003), (0x8010, 0xC003), (0xC018, 0x1_0000 | PAGE & ~0x300)
    )
    assert pa_of(memory, V_16K_52_LPA2, ipa) == 0x1_0005


def test_64k_keeps_the_high_address_bits_in_15_to_12() -> None:
    ipa = 1023 << 42 | 1 << 29 | 1 << 16 | 9
    memory = Memory(
        (0x8000_0000 + 1023 * 8, 0x1_A003),
        (0xA_0000_0001_0008, 0x2_F003),
        (0xF_0000_0002_0008, 0x8888_0000 | 0xB << 12 | PAGE),
    )
    assert pa_of(memory, V_64K_52, ipa) == 0xB_0000_8888_0009


def test_lpa2_keeps_the_high_address_bits_in_9_and_8() -> None:
    memory = Memory(
        (0x8000_0000, 0x3_0000_0000_1003 | 1 << 8),
        (0x7_0000_0000_1000, 0x2203),
        (0x8_0000_0000_2000, 0x3303),
        (0xC_0000_0000_3000, 0x3_0000_0000_5000 | 2 << 8 | 0x4FF),
    )
    found = result(memory, V_4K_52_LPA2, 0x10)
    assert isinstance(found, Translation)
    assert found.pa == 0xB_0000_0000_5010
    assert found.shareability == 3  # VTCR_EL2.SH0's: the descriptor has no such bits


def test_vttbr_holds_the_high_bits_in_5_to_2() -> None:
    base = 0xD_0000_0001_0000
    memory = Memory((base, 1 << 30 | 0x4FD))
    assert isinstance(result(memory, V_4K_52_LPA2, 0, 0x1_0000 | 0xD << 2), Translation)
    assert memory.reads == [base]


def test_vmid_and_cnp_are_no_address_and_the_base_is_aligned() -> None:
    memory = Memory((0x8000_0000, BLOCK))
    for vttbr in (0x1234_0000_8000_0001, 0x8000_1000):
        assert isinstance(result(memory, V_4K_40, 0, vttbr), Translation)  # 8 KiB: bit 12 is dropped


@pytest.mark.parametrize(
    ("vtcr", "bits"), [(V_4K_40, 40), (V_4K_48, 48), (V_4K_52_LPA2, 52), (V_16K_40, 40), (V_64K_52, 52)]
)
def test_ipa_beyond_t0sz_is_a_translation_fault_of_level_0(vtcr: int, bits: int) -> None:
    memory = Memory()
    for ipa in (1 << bits, (1 << bits) + 0x1000, 1 << 55, (1 << 64) - 1, -1):
        assert result(memory, vtcr, ipa) == Fault(TRANSLATION, 0)
    assert memory.reads == []


@pytest.mark.parametrize(
    ("entries", "level"),
    [
        ((), 1),
        (((0x8000_0000, 0x1002),), 1),
        (((0x8000_0000, 0x1003),), 2),
        (((0x8000_0000, 0x1003), (0x1000, 0x2003)), 3),
        (((0x8000_0000, 0x1003), (0x1000, 0x2003), (0x2000, 0x3000 | BLOCK)), 3),
    ],
)
def test_what_is_not_valid_faults_at_its_level(entries: tuple[tuple[int, int], ...], level: int) -> None:
    assert result(Memory(*entries), V_4K_40, 0) == Fault(TRANSLATION, level)


@pytest.mark.parametrize(("vtcr", "level"), [(V_4K_48, 0), (0x802DB590, 1), (0x802D7590, 1)], ids=["512G", "64G", "4T"])
def test_block_of_a_level_that_has_none_is_not_valid(vtcr: int, level: int) -> None:
    assert result(Memory((0x8000_0000, BLOCK)), vtcr, 0) == Fault(TRANSLATION, level)


@pytest.mark.parametrize(("vtcr", "size"), [(V_4K_52_LPA2, 1 << 39), (V_64K_52, 1 << 42)])
def test_52_bits_bring_larger_blocks(vtcr: int, size: int) -> None:
    found = result(Memory((0x8000_0000, 0x4FD if vtcr >> 32 else BLOCK)), vtcr, size - 1)
    assert isinstance(found, Translation)
    assert (found.pa, found.block_size) == (size - 1, size)


@pytest.mark.parametrize(
    ("entries", "vttbr", "level"),
    [
        ((), 1 << 41, 0),
        (((0x8000_0000, 1 << 40 | 3),), 0x8000_0000, 1),
        (((0x8000_0000, 0x1003), (0x1000, 1 << 40 | BLOCK)), 0x8000_0000, 2),
        (((0x8000_0000, 0x1003), (0x1000, 0x2003), (0x2000, 1 << 47 | PAGE)), 0x8000_0000, 3),
    ],
)
def test_output_beyond_ps_is_an_address_size_fault(
    entries: tuple[tuple[int, int], ...], vttbr: int, level: int
) -> None:
    assert result(Memory(*entries), V_4K_40_PA40, 0, vttbr) == Fault(SIZE, level)


def test_last_address_of_ps_is_none() -> None:
    memory = Memory((0x8000_0000, 0x1003), (0x1000, 0x2003), (0x2000, (1 << 40) - 4096 | PAGE))
    assert pa_of(memory, V_4K_40_PA40, 0xFFF) == (1 << 40) - 1


def test_64k_with_48_bits_of_ps_takes_52_bit_addresses_for_too_large() -> None:
    # PA_BITS_48 on a 52-bit CPU: bits 15:12 are address bits all the same.
    memory = Memory((0x8000_0000, 0x1_1003))
    assert result(memory, 0x802D758C, 0) == Fault(SIZE, 1)


def test_access_flag_is_asked_for_where_hardware_does_not_set_it() -> None:
    memory = Memory((0x8000_0000, BLOCK & ~0x400))
    assert isinstance(result(memory, V_4K_40, 0), Translation)
    assert result(memory, V_4K_40, 0, hafdbs=False) == Fault(ACCESS, 1)
    assert result(memory, V_4K_40 & ~(1 << 21), 0) == Fault(ACCESS, 1)


def test_access_flag_fault_comes_before_a_permission_fault() -> None:
    memory = Memory((0x8000_0000, BLOCK & ~0x480))
    assert result(memory, V_4K_40, 0, kind="store", hafdbs=False) == Fault(ACCESS, 1)
    assert result(memory, V_4K_40, 0, kind="store") == Fault(PERMISSION, 1)


@pytest.mark.parametrize(
    ("bits", "kinds"),
    [
        (0, {"load", "store", "fetch"}),
        (1 << 6, {"store", "fetch"}),
        (1 << 7, {"load", "fetch"}),
        (1 << 54, {"load", "store"}),
        (1 << 53, {"load", "store"}),  # XN = 01: EL0 only
        (3 << 53, {"load", "store", "fetch"}),  # XN = 11: EL1 only
    ],
)
def test_permissions_are_those_of_el1(bits: int, kinds: set[str]) -> None:
    memory = Memory((0x8000_0000, BLOCK ^ bits))
    for kind in ("load", "store", "fetch"):
        found = result(memory, V_4K_40, 0, kind=kind)
        assert isinstance(found, Translation) if kind in kinds else found == Fault(PERMISSION, 1)


@pytest.mark.parametrize(
    ("memattr", "fwb", "name"),
    [
        (0xF, False, "Normal Write-back"),
        (0x5, False, "Normal Non-cacheable"),
        (0xA, False, "Normal Write-through"),
        (0xD, False, "Normal outer Write-back, inner Non-cacheable"),
        (0x0, False, "Device-nGnRnE"),
        (0x1, False, "Device-nGnRE"),
        (0x6, True, "Normal Write-back"),
        (0x5, True, "Normal Non-cacheable"),
        (0x7, True, "Normal as stage 1"),
        (0x1, True, "Device-nGnRE"),
    ],
)
def test_memory_type(memattr: int, fwb: bool, name: str) -> None:
    found = result(Memory((0x8000_0000, BLOCK & ~0x3C | memattr << 2)), V_4K_40, 0, fwb=fwb)
    assert isinstance(found, Translation)
    assert found.memory == name


@pytest.mark.parametrize(
    "vtcr",
    [
        Vtcr.encode(T0SZ=64 - 44, SL0=1, PS=5),  # 32 tables at level 1
        Vtcr.encode(T0SZ=64 - 30, SL0=1, PS=5),  # one entry at level 1
        Vtcr.encode(T0SZ=64 - 39, SL0=2, PS=5),  # one entry at level 0
        Vtcr.encode(T0SZ=64 - 52, SL0=2, PS=6),  # 52 bits without DS
        Vtcr.encode(T0SZ=64 - 49, SL0=2, PS=6),  # so are 49
        Vtcr.encode(T0SZ=64 - 48, SL0=3, TG0=2, PS=5),  # 16K: level 0 without DS
        Vtcr.encode(T0SZ=64 - 52, SL0=3, TG0=1, PS=6),  # 64K: no such start level
        Vtcr.encode(T0SZ=64 - 40, SL0=1, SL2=1, DS=1, PS=6),
    ],
    ids=str,
)
def test_register_that_contradicts_itself_translates_nothing(vtcr: Vtcr) -> None:
    memory = Memory((0x8000_0000, BLOCK))
    assert result(memory, int(vtcr), 0) == Fault(TRANSLATION, 0)
    assert memory.reads == []


@pytest.mark.parametrize(
    ("sl0", "tg0", "bits", "granule"), [(3, 0, 25, 12), (3, 0, 13, 12), (0, 2, 29, 14), (0, 1, 33, 16)]
)
def test_walk_can_start_at_the_last_level(sl0: int, tg0: int, bits: int, granule: int) -> None:
    # KVM never does: it keeps two levels for the blocks.
    vtcr = int(Vtcr.encode(T0SZ=64 - bits, SL0=sl0, TG0=tg0, PS=5))
    last = (1 << bits) - 1
    memory = Memory((0x8000_0000 + (last >> granule) * 8, 1 << 30 | PAGE))
    found = result(memory, vtcr, last)
    assert isinstance(found, Translation)
    assert (found.pa, found.level) == ((1 << 30) + (1 << granule) - 1, 3)
    assert result(memory, int(Vtcr.encode(T0SZ=64 - granule, SL0=sl0, TG0=tg0, PS=5)), 0) == Fault(TRANSLATION, 0)


@pytest.mark.parametrize(("ps", "bits"), [(0, 32), (1, 36), (2, 40), (3, 42), (4, 44), (5, 48), (6, 52)])
def test_ps_is_the_size_of_output_addresses(ps: int, bits: int) -> None:
    vtcr = V_64K_52 & ~(7 << 16) | ps << 16
    for pa, inside in (((1 << bits) - (1 << 29), True), (1 << bits, False)):
        placed = pa & (1 << 48) - 1 | pa >> 48 << 12
        found = result(
            Memory((0x7000_0000, 0x6000_0003), (0x6000_0000, placed & (1 << 52) - 1 | BLOCK)), vtcr, 0, 0x7000_0000
        )
        if inside:
            assert isinstance(found, Translation)
            assert found.pa == pa
        elif bits < 52:
            assert found == Fault(SIZE, 2)


def test_52_bits_of_ps_without_lpa2_are_48() -> None:
    # Bits 5:2 of VTTBR_EL2 are no address bits then.
    memory = Memory((0x8000_0000, BLOCK))
    assert isinstance(result(memory, V_4K_40 | 7 << 16, 0, 0x8000_003C), Translation)


def test_ds_means_nothing_with_64k_pages() -> None:
    memory = Memory((0x8000_0000, 0x1_0003), (0x1_0000, 512 << 20 | BLOCK))
    found = result(memory, V_64K_52 | 1 << 32, 0)
    assert isinstance(found, Translation)
    assert (found.pa, found.shareability) == (512 << 20, 3)


@pytest.mark.parametrize("shareability", [0, 2, 3])
def test_shareability_is_the_descriptors(shareability: int) -> None:
    found = result(Memory((0x8000_0000, BLOCK & ~0x300 | shareability << 8)), V_4K_40, 0)
    assert isinstance(found, Translation)
    assert found.shareability == shareability


@pytest.mark.parametrize("bit", [51, 52, *range(55, 64)])
def test_bits_that_software_may_use_change_nothing(bit: int) -> None:
    for vtcr, leaf in ((V_4K_40, BLOCK), (V_4K_52_LPA2, 0x4FD), (V_4K_52_LPA2, 0x4FD | 1 << 50)):
        assert pa_of(Memory((0x8000_0000, leaf | 1 << bit)), vtcr, 0x123) == 0x123


def test_level_minus_1_exists_with_lpa2() -> None:
    # KVM never uses it: SL2 = 1, SL0 = 0, and one table of 16 entries.
    vtcr = Vtcr.encode(T0SZ=64 - 52, SL2=1, DS=1, PS=6)
    memory = Memory((0x8000_0008, 0x1003), (0x1000, 0x4FD))
    found = result(memory, int(vtcr), 1 << 48 | 7)
    assert isinstance(found, Translation)
    assert (found.pa, found.level) == (7, 0)


def test_reserved_granule_and_unknown_access_are_errors() -> None:
    with pytest.raises(ValueError, match="TG0"):
        result(Memory(), V_4K_40 | 3 << 14, 0)
    with pytest.raises(ValueError, match="'write'"):
        result(Memory(), V_4K_40, 0, kind="write")


@given(st.integers(0, (1 << 64) - 1), st.integers(0, (1 << 52) - 1), st.data())
def test_any_memory_ends_in_a_translation_or_a_fault(vttbr: int, ipa: int, data: st.DataObject) -> None:
    vtcr = data.draw(st.sampled_from([V_4K_40, V_4K_48, V_4K_52_LPA2, V_16K_40, V_16K_52_LPA2, V_64K_52]))
    found = walk(lambda _: data.draw(st.integers(0, (1 << 64) - 1)), vttbr, vtcr, ipa)
    if isinstance(found, Translation):
        assert found.pa < 1 << 52
        assert found.pa % found.block_size == ipa % found.block_size
