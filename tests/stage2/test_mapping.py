# SPDX-License-Identifier: Apache-2.0
"""How large a piece KVM maps, and with which permissions (kernel-ipa-spec 5.5)."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvmipa.backend.emulated.release import behaviour
from kvmipa.backend.emulated.stage2_mmu import mapping_rules
from kvmipa.stage2.descriptors import MemoryType
from kvmipa.stage2.mapping import (
    Access,
    Backing,
    Permissions,
    Rules,
    mappable,
    mapping_size,
    memory_type,
    permissions,
    pmd_size,
    pud_size,
)

from .registers import PAGE_SIZES

K, M, G, T = 1 << 10, 1 << 20, 1 << 30, 1 << 40
LINUX_5_10, LINUX_6_1, LINUX_6_12, LINUX_7_3 = (
    mapping_rules(behaviour(release)) for release in ("5.10", "6.1", "6.12", "7.3")
)
RELEASES = [LINUX_5_10, LINUX_6_1, LINUX_6_12, LINUX_7_3]
HVA = 0x7F00_0000_0000

every_release = pytest.mark.parametrize("rules", RELEASES, ids=["5.10", "6.1", "6.12", "7.3"])
releases = st.sampled_from(RELEASES)

SMALL = Backing(ipa=G, hva=HVA, size=2 * G, page_size=4096)
THP = replace(SMALL, host_size=2 * M)


@pytest.mark.parametrize(
    ("page_size", "pmd", "pud"), [(4096, 2 * M, G), (16384, 32 * M, 64 * G), (65536, 512 * M, 4 * T)]
)
def test_sizes_of_blocks(page_size: int, pmd: int, pud: int) -> None:
    assert (pmd_size(page_size), pud_size(page_size)) == (pmd, pud)


@every_release
def test_ordinary_memory_is_mapped_by_pages(rules: Rules) -> None:
    assert mapping_size(SMALL, HVA, rules) == 4096


@every_release
@pytest.mark.parametrize("page_size", PAGE_SIZES)
def test_transparent_huge_page_is_mapped_by_a_block(page_size: int, rules: Rules) -> None:
    block = pmd_size(page_size)
    backing = Backing(ipa=2 * block, hva=HVA, size=4 * block, page_size=page_size, host_size=block)
    assert mapping_size(backing, HVA + block + page_size, rules) == block


def test_host_block_of_1g_is_used_as_2m() -> None:
    assert mapping_size(replace(SMALL, host_size=G), HVA) == 2 * M


@every_release
def test_dirty_logging_maps_pages(rules: Rules) -> None:
    for backing in (replace(THP, logging=True), replace(SMALL, vma_size=G, logging=True)):
        assert mapping_size(backing, HVA, rules, fault_block=2 * M) == 4096


@every_release
def test_slot_of_another_phase_has_pages(rules: Rules) -> None:
    shifted = replace(THP, ipa=G + 4096)
    assert mapping_size(shifted, HVA + 8 * M, rules) == 4096


@every_release
@pytest.mark.parametrize(
    ("offset", "size"), [(0, 4096), (M - 1, 4096), (M, 2 * M), (3 * M - 1, 2 * M), (3 * M, 4096), (4 * M - 1, 4096)]
)
def test_block_is_wholly_inside_the_slot(rules: Rules, offset: int, size: int) -> None:
    # From the middle of a block to the middle of the next but one.
    slot = replace(THP, ipa=G + M, hva=HVA + M, size=4 * M)
    assert mapping_size(slot, slot.hva + offset, rules) == size


@every_release
def test_block_can_be_all_of_the_slot(rules: Rules) -> None:
    assert mapping_size(replace(THP, size=2 * M), HVA + 2 * M - 1, rules) == 2 * M
    assert mapping_size(replace(THP, size=2 * M - 4096), HVA, rules) == 4096


@every_release
@pytest.mark.parametrize(
    ("vma_size", "size"), [(64 * K, 4096), (2 * M, 2 * M), (32 * M, 2 * M), (G, G)], ids=["64K", "2M", "32M", "1G"]
)
def test_hugetlbfs_has_its_size_or_the_next_below(rules: Rules, vma_size: int, size: int) -> None:
    backing = replace(SMALL, vma_size=vma_size, host_size=vma_size)
    assert mapping_size(backing, HVA + 0x1234000, rules) == size


@every_release
def test_hugetlbfs_that_the_slot_does_not_suit_is_reduced(rules: Rules) -> None:
    backing = replace(SMALL, ipa=G + 2 * M, hva=HVA + 2 * M, vma_size=G, host_size=G)
    assert mapping_size(backing, HVA + 2 * M, rules) == 2 * M  # the first block sticks out of the slot
    backing = replace(SMALL, ipa=G + 4096, vma_size=G, host_size=G)
    assert mapping_size(backing, HVA, rules, fault_block=2 * M) == 4096  # pages, forced


@pytest.mark.parametrize(
    ("page_size", "vma_size", "size"),
    [
        (16384, 2 * M, 16384),
        (16384, 32 * M, 32 * M),
        (16384, G, 32 * M),
        (65536, 2 * M, 65536),
        (65536, 16 * G, 512 * M),
    ],
)
def test_contiguous_sizes_of_larger_pages(page_size: int, vma_size: int, size: int) -> None:
    backing = Backing(ipa=0, hva=HVA, size=64 * G, page_size=page_size, vma_size=vma_size, host_size=vma_size)
    assert mapping_size(backing, HVA) == size


def test_permission_fault_on_a_block_keeps_it() -> None:
    sizes = [mapping_size(SMALL, HVA, rules, fault_block=2 * M) for rules in RELEASES]
    assert sizes == [4096, 2 * M, 2 * M, 2 * M]


def test_permission_fault_on_a_page_can_become_a_block() -> None:
    assert mapping_size(THP, HVA, fault_block=4096) == 2 * M


def test_device_memory_by_release() -> None:
    device = replace(SMALL, device=True, pfnmap=True, host_size=2 * M)
    assert [mapping_size(device, HVA, rules) for rules in RELEASES] == [4096, 4096, 2 * M, 2 * M]


def test_pfnmap_of_5_10_is_mapped_by_pages() -> None:
    ordinary = replace(THP, pfnmap=True)
    assert [mapping_size(ordinary, HVA, rules) for rules in RELEASES] == [4096, 2 * M, 2 * M, 2 * M]


def test_guest_memfd_and_protected_vms_have_pages() -> None:
    assert mapping_size(replace(THP, guest_memfd=True), HVA) == 4096
    assert mapping_size(THP, HVA, protected=True, fault_block=2 * M) == 4096


def test_other_vms_of_a_pkvm_host_have_no_1g_blocks() -> None:
    backing = replace(SMALL, vma_size=G, host_size=G)
    assert (mapping_size(backing, HVA, pkvm=True), mapping_size(THP, HVA, pkvm=True)) == (2 * M, 2 * M)


@given(st.data(), st.sampled_from(PAGE_SIZES), releases)
def test_no_block_crosses_its_slot_or_mixes_phases(data: st.DataObject, page: int, rules: Rules) -> None:
    pmd = pmd_size(page)
    ipa, hva = (data.draw(st.integers(0, 6 * pmd // page)) * page for _ in range(2))
    size = data.draw(st.integers(1, 4 * pmd // page)) * page
    sizes = st.sampled_from([page, pmd, pud_size(page)])
    backing = Backing(ipa, HVA + hva, size, page, vma_size=data.draw(sizes), host_size=data.draw(sizes))
    at = HVA + hva + data.draw(st.integers(0, size - 1))
    found = mapping_size(backing, at, rules)
    assert found in (page, pmd, G if page == 4096 else pmd)
    if found > page:
        start = at & -found
        assert backing.hva <= start
        assert start + found <= backing.hva + size
        assert (backing.ipa + start - backing.hva) % found == 0


READ, WRITE, FETCH = Access(), Access(write=True), Access(fetch=True)


@pytest.mark.parametrize(
    ("access", "host_writable", "logging", "dic", "rwx"),
    [
        (READ, True, False, False, "RW"),
        (WRITE, True, False, False, "RW"),
        (FETCH, True, False, False, "RWX"),
        (READ, True, False, True, "RWX"),
        (READ, False, False, False, "R"),
        (FETCH, False, False, False, "RX"),
        (READ, True, True, False, "R"),
        (WRITE, True, True, False, "RW"),
        (FETCH, True, True, False, "RX"),
    ],
)
def test_permissions(access: Access, host_writable: bool, logging: bool, dic: bool, rwx: str) -> None:
    found = permissions(access, host_writable=host_writable, logging=logging, dic=dic)
    assert found == Permissions("R" in rwx, "W" in rwx, "X" in rwx)


def test_device_is_never_executable_and_not_logged() -> None:
    found = permissions(READ, host_writable=True, device=True, logging=True, dic=True)
    assert found == Permissions(readable=True, writable=True, executable=False)
    assert permissions(FETCH, host_writable=True, device=True) is None
    assert permissions(FETCH, host_writable=True, memory=MemoryType.NORMAL_NC, device=True) is None


def test_cacheable_device_is_executable_as_memory_is() -> None:
    found = permissions(FETCH, host_writable=True, device=True, memory=MemoryType.NORMAL)
    assert found == Permissions(readable=True, writable=True, executable=True)


def test_memory_type_by_release() -> None:
    def types(**how: bool) -> list[MemoryType]:
        return [memory_type(device=True, rules=rules, **how) for rules in RELEASES]

    device, uncached, normal = MemoryType.DEVICE, MemoryType.NORMAL_NC, MemoryType.NORMAL
    assert memory_type(device=False, uncached_allowed=True) is normal
    assert types() == [device] * 4
    assert types(uncached_allowed=True) == [device, device, uncached, uncached]
    assert types(cacheable=True) == [device, device, device, normal]


def test_cacheable_device_needs_fwb_and_dic_since_7_3() -> None:
    assert not mappable(device=True, cacheable=True, fwb_and_dic=False)
    assert mappable(device=True, cacheable=True, fwb_and_dic=True)
    assert mappable(device=True, cacheable=True, fwb_and_dic=False, rules=LINUX_6_12)
    assert mappable(device=True, cacheable=False, fwb_and_dic=False)
