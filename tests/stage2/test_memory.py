# SPDX-License-Identifier: Apache-2.0
"""The emulated host's physical memory: where tables and frames lie, and what they cost."""

from __future__ import annotations

import tracemalloc

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kvmipa.stage2.memory import PhysicalMemory

from .registers import PAGE_SIZES

page_sizes = pytest.mark.parametrize("page_size", PAGE_SIZES)


@pytest.mark.parametrize("pages", [1, 2, 4, 8, 16])
@page_sizes
def test_start_level_is_contiguous_aligned_and_zero(page_size: int, pages: int) -> None:
    memory = PhysicalMemory(page_size, 40)
    memory.allocate()
    address = memory.allocate(pages)
    assert address % (pages * page_size) == 0
    assert all(memory.read64(address + at) == 0 for at in range(0, pages * page_size, 8))
    assert memory.table_pages == 1 + pages


@settings(deadline=None)
@given(st.lists(st.sampled_from([1, 2, 4, 8, 16]), max_size=20), st.sampled_from(PAGE_SIZES))
def test_tables_do_not_overlap_and_are_below_the_pa_size(sizes: list[int], page_size: int) -> None:
    memory = PhysicalMemory(page_size, 36)
    taken: set[int] = set()
    for pages in sizes:
        address = memory.allocate(pages)
        found = {address + number * page_size for number in range(pages)}
        assert not taken & found
        taken |= found
    assert all(0 <= address < 1 << 36 for address in taken)
    assert memory.table_pages == len(taken)


def test_entries_are_written_and_read() -> None:
    memory = PhysicalMemory(4096, 40)
    first, second = memory.allocate(), memory.allocate()
    memory.write64(first + 4088, 1 << 63)
    memory.write64(second, 5)
    assert (memory.read64(first + 4088), memory.read64(second), memory.read64(first)) == (1 << 63, 5, 0)
    assert memory.page(first)[511] == 1 << 63


def test_freed_table_is_used_again_and_zero() -> None:
    memory = PhysicalMemory(4096, 40)
    address = memory.allocate()
    memory.write64(address, 1)
    memory.free(address)
    assert memory.table_pages == 0
    with pytest.raises(LookupError, match=f"{address:#x}"):
        memory.read64(address)
    assert memory.allocate() == address
    assert memory.read64(address) == 0


def test_memory_without_a_table_is_not_read() -> None:
    memory = PhysicalMemory(4096, 40)
    for use in (lambda: memory.read64(0x1000), lambda: memory.write64(0x1000, 1), lambda: memory.free(0x1000)):
        with pytest.raises(LookupError, match="0x1000"):
            use()


@settings(deadline=None)
@given(st.lists(st.integers(0, (1 << 48) - 1), max_size=30), st.sampled_from(PAGE_SIZES))
def test_frames_are_stable_below_the_pa_size_and_no_two_the_same(addresses: list[int], page_size: int) -> None:
    memory = PhysicalMemory(page_size, 40)
    block = page_size * page_size // 8
    frames = {hva: memory.frame(hva) for hva in addresses}
    assert all(memory.frame(hva) == pa for hva, pa in frames.items())
    assert all(0 <= pa < 1 << 40 and pa % block == hva % block for hva, pa in frames.items())
    assert len({pa // block for pa in frames.values()}) == len({hva // block for hva in addresses})


@page_sizes
def test_block_of_host_memory_is_contiguous(page_size: int) -> None:
    memory = PhysicalMemory(page_size, 40)
    block = page_size * page_size // 8
    hva = 0x7F00_0000_0000
    assert memory.frame(hva + block - 1) - memory.frame(hva) == block - 1
    assert memory.frame(hva + 8 * block) - memory.frame(hva) == block  # the next one: nothing is taken in vain


def test_larger_block_is_contiguous_where_it_is_asked_for() -> None:
    memory = PhysicalMemory(4096, 40)
    memory.frame(0x1234)
    hva, size = 0x7F00_0000_0000, 1 << 30
    assert memory.frame(hva + 0x5000, size) % size == 0x5000
    assert memory.frame(hva + size - 1) - memory.frame(hva) == size - 1


def test_larger_block_leaves_frames_that_are_there_alone() -> None:
    memory = PhysicalMemory(4096, 40)
    hva = 0x7F00_0000_0000
    there = memory.frame(hva)
    memory.frame(hva + 0x200000, 1 << 30)
    assert memory.frame(hva) == there


def test_released_frames_are_used_again_and_others_stay() -> None:
    memory = PhysicalMemory(4096, 40)
    hva, block = 0x7F00_0000_0000, 1 << 21
    first, second, third = (memory.frame(hva + number * block) for number in range(3))
    memory.release_frames(hva + 0x1000, 2 * block)  # wholly inside: only the second
    assert (memory.frame(hva), memory.frame(hva + 2 * block)) == (first, third)
    assert memory.frame(0) == second


def test_memory_has_an_end() -> None:
    memory = PhysicalMemory(65536, 32)
    for number in range(6):  # 512M each, from 1G on
        memory.frame(number << 29)
    with pytest.raises(MemoryError, match=r"2\^32"):
        memory.frame(6 << 29)
    memory = PhysicalMemory(65536, 32, base=(1 << 32) - (1 << 29))
    memory.frame(0)
    with pytest.raises(MemoryError, match="tables"):
        memory.allocate()


@pytest.mark.parametrize(("page_size", "pa_bits"), [(8192, 40), (4096, 30)])
def test_memory_of_no_host_is_refused(page_size: int, pa_bits: int) -> None:
    with pytest.raises(ValueError, match=r"page size|does not fit"):
        PhysicalMemory(page_size, pa_bits)


def test_frames_of_a_gibibyte_cost_next_to_nothing() -> None:
    memory = PhysicalMemory(4096, 40)
    tracemalloc.start()
    for hva in range(0, 1 << 30, 1 << 16):
        memory.frame(hva)
    used, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert used < 512 * 250
