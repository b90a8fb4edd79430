# SPDX-License-Identifier: Apache-2.0
"""Memory that the process unmaps behind the emulated kernel's back: a slot over it is EFAULT, as by MMU notifiers."""

from __future__ import annotations

import ctypes
import mmap
from errno import EFAULT
from typing import TYPE_CHECKING

import pytest

from kvmipa.access import Mapped, RunFailed
from kvmipa.backend.emulated import address_space, presence
from kvmipa.buffers import address_of
from tests.backend.emulated.test_memslots import AT, machine, vm_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from kvmipa import Vm

PAGE = mmap.PAGESIZE
SIZE = 1 << 20
MAP_FIXED = 0x10

pytestmark = pytest.mark.skipif(
    not address_space._MAPS.exists(), reason="only Linux lists the mappings of a process, which a slot's memory is in"
)


class Area:
    """Memory that is mapped and unmapped piece by piece; offsets and sizes in bytes."""

    def __init__(self) -> None:
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._libc.mmap.restype = ctypes.c_void_p
        number = ctypes.c_int
        self._libc.mmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t, number, number, number, ctypes.c_int64)
        self._libc.munmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t)
        self.address = self._mmap(None, SIZE, 0)

    def _mmap(self, address: int | None, size: int, flags: int) -> int:
        found = self._libc.mmap(
            address, size, mmap.PROT_READ | mmap.PROT_WRITE, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | flags, -1, 0
        )
        assert found not in (None, ctypes.c_void_p(-1).value)
        return int(found)

    def unmap(self, offset: int = 0, size: int = SIZE) -> None:
        assert self._libc.munmap(self.address + offset, size) == 0

    def map_again(self, offset: int = 0, size: int = SIZE) -> None:
        assert self._mmap(self.address + offset, size, MAP_FIXED) == self.address + offset


@pytest.fixture
def area() -> Iterator[Area]:
    made = Area()
    yield made
    made.unmap()


@pytest.fixture
def vm(area: Area) -> Iterator[Vm]:
    """A VM of 4K pages, whose slot is the area."""
    with vm_of() as made:
        made.set_user_memory_region(0, AT, SIZE, area.address)
        yield made


def faulted(vm: Vm, *pages: int, kind: str = "store") -> list[bool | int | None]:
    """Of an access to each page: whether it had to be mapped, or the errno of KVM_RUN."""
    results = [vm.access(AT + page * PAGE, kind) for page in pages]
    return [
        result.faulted if isinstance(result, Mapped) else result.errno if isinstance(result, RunFailed) else None
        for result in results
    ]


@pytest.mark.parametrize("kind", ["store", "load", "fetch"])
def test_page_that_no_guest_has_touched_is_efault_once_it_is_unmapped(vm: Vm, area: Area, kind: str) -> None:
    assert faulted(vm, 0) == [True]
    area.unmap()
    assert faulted(vm, 2, kind=kind) == [EFAULT]
    assert faulted(vm, 3, 255, kind=kind) == [EFAULT, EFAULT]


@pytest.mark.parametrize("kind", ["store", "load", "walk"])
def test_page_that_a_guest_has_mapped_is_efault_once_it_is_unmapped(vm: Vm, area: Area, kind: str) -> None:
    assert faulted(vm, 0, 1, 0) == [True, True, False]
    area.unmap()
    assert faulted(vm, 0, kind=kind) == [EFAULT]
    assert list(machine(vm).stage2.mappings()) == []
    assert faulted(vm, 1) == [EFAULT]
    area.map_again()
    assert faulted(vm, 0, 1) == [True, True]


def test_mappings_of_all_that_was_unmapped_go_with_the_first_that_is_missed(vm: Vm, area: Area) -> None:
    with vm_of() as other:
        other.set_user_memory_region(0, AT, SIZE, area.address)
        assert faulted(vm, *range(8)) == faulted(other, *range(8)) == [True] * 8
        area.unmap(2 * PAGE, 4 * PAGE)
        assert faulted(vm, 3) == [EFAULT]
        left = [AT + page * PAGE for page in (0, 1, 6, 7)]
        assert [ipa for ipa, _ in machine(vm).stage2.mappings()] == left
        assert faulted(vm, 0, 1, 6, 7) == [False] * 4
        assert faulted(other, *range(8)) == [False, False, *[EFAULT] * 4, False, False]


def test_only_what_is_unmapped_is_efault(vm: Vm, area: Area) -> None:
    assert faulted(vm, 0) == [True]
    area.unmap(64 * PAGE, 64 * PAGE)
    assert faulted(vm, 63, 64, 127, 128) == [True, EFAULT, EFAULT, True]


def test_memory_that_is_mapped_again_at_its_place_is_there_again(vm: Vm, area: Area) -> None:
    assert faulted(vm, 0) == [True]
    area.unmap()
    assert faulted(vm, 8) == [EFAULT]
    area.map_again()
    assert faulted(vm, 8) == [True]
    assert faulted(vm, 8) == [False]


def test_other_mapping_at_the_same_place_is_the_slots_memory(vm: Vm, area: Area) -> None:
    assert faulted(vm, 0) == [True]
    area.unmap()
    area.map_again()
    assert faulted(vm, 8) == [True]


def test_where_the_system_tells_nothing_else_memory_is_read(
    monkeypatch: pytest.MonkeyPatch, vm: Vm, area: Area
) -> None:
    monkeypatch.setattr(presence, "check", lambda: presence._by_reading)
    assert faulted(vm, 0) == [True]
    area.unmap()
    assert faulted(vm, 2) == [EFAULT]


def is_mapped(address: int) -> bool:
    return not presence.check()(address & presence.PAGE_MASK, 1, presence.MS_ASYNC)


def test_presence_is_told_of_each_page() -> None:
    with mmap.mmap(-1, 4 * PAGE) as memory:
        address = address_of(memory)
        assert [is_mapped(address + offset) for offset in (0, 1, PAGE, 4 * PAGE - 1)] == [True] * 4
    assert not is_mapped(0)
    assert not is_mapped(1 << 62)
    assert not is_mapped((1 << 64) - 1)


def test_asking_brings_no_memory_in(area: Area) -> None:
    for page in range(SIZE // PAGE):
        assert is_mapped(area.address + page * PAGE)
    assert not address_space.was_written(area.address, SIZE)
    resident = (ctypes.c_ubyte * (SIZE // PAGE))()
    mincore = ctypes.CDLL(None).mincore
    mincore.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_void_p)
    assert mincore(area.address, SIZE, resident) == 0
    assert not any(resident)
