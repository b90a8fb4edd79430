# SPDX-License-Identifier: Apache-2.0
"""Dirty logs of the emulated kernel: kernel-device-spec 4.9. What a guest writes is written here by Slot.mark_dirty."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvmipa import errors
from kvmipa.abi import KVM_MEM_LOG_DIRTY_PAGES, KVM_MEM_READONLY
from kvmipa.backend.emulated.dirty_log import DirtyBitmap
from tests.backend.emulated.test_memslots import AT, HVA, Listener, code, machine, vm_of

if TYPE_CHECKING:
    from kvmipa import Memslot, Vm

LOG = KVM_MEM_LOG_DIRTY_PAGES
PAGES = 200
PROTECTED, ALL_DIRTY = 1, 3


def logged(vm: Vm, pages: int = PAGES, flags: int = LOG) -> Memslot:
    """A slot whose pages 0, 63, 64 and the last were written."""
    vm.set_user_memory_region(0, AT, pages << 12, HVA, flags)
    write(vm, 0, 63, 64, pages - 1)
    return vm.memslots[0]


def write(vm: Vm, *pages: int) -> None:
    slot = machine(vm).memslots.get(0)
    assert slot is not None
    for page in pages:
        slot.mark_dirty(slot.base_gfn + page)


def test_reading_the_log_clears_it() -> None:
    with vm_of() as vm:
        slot = logged(vm)
        assert slot.dirty_log() == [0, 63, 64, PAGES - 1]
        assert slot.dirty_log() == []
        write(vm, 5)
        assert slot.dirty_log() == [5]


def test_bitmap_is_little_endian_words_of_64_pages() -> None:
    with vm_of() as vm:
        bitmap = logged(vm).dirty_bitmap()
    assert len(bitmap) == 32
    assert int.from_bytes(bitmap, "little") == 1 | 1 << 63 | 1 << 64 | 1 << PAGES - 1


def test_manual_protection_leaves_clearing_to_the_other_request() -> None:
    with vm_of() as vm:
        machine(vm).manual_dirty_log_protect = PROTECTED
        slot = logged(vm)
        assert slot.dirty_log() == slot.dirty_log() == [0, 63, 64, PAGES - 1]
        slot.clear_dirty_log(0, 64, (1).to_bytes(8, "little"))
        assert slot.dirty_log() == [63, 64, PAGES - 1]
        slot.clear_dirty_log(64)
        assert slot.dirty_log() == [63]


@pytest.mark.parametrize("pages", [1, 63, 64, 65, 200, 256])
def test_all_pages_are_dirty_at_first_where_that_was_asked_for(pages: int) -> None:
    with vm_of() as vm:
        machine(vm).manual_dirty_log_protect = ALL_DIRTY
        listener = machine(vm).memslots.listener = Listener()
        vm.set_user_memory_region(0, AT, pages << 12, HVA, LOG)
        slot = vm.memslots[0]
        assert slot.dirty_log() == list(range(pages))
        slot.clear_dirty_log()
        assert slot.dirty_log() == []
        slot.set_logging(False)
        slot.set_logging(True)
        assert slot.dirty_log() == list(range(pages))
        # Nothing is write-protected before its bit is cleared.
        assert listener.heard == [("taken", 0, list(range(pages)))]


def test_log_goes_with_a_slot_that_is_moved_and_ends_with_logging() -> None:
    with vm_of() as vm:
        slot = logged(vm)
        slot.move(2 * AT)
        assert slot.dirty_log() == [0, 63, 64, PAGES - 1]
        write(vm, 1)
        slot.set_logging(False)
        slot.set_logging(True)
        assert slot.dirty_log() == []


def test_what_is_not_logged_is_not_noted() -> None:
    with vm_of() as vm:
        slot = logged(vm, flags=0)
        slot.set_logging(True)
        assert slot.dirty_log() == []


def test_readonly_slot_has_a_bitmap_but_is_not_mapped_for_it() -> None:
    with vm_of() as vm:
        vm.set_user_memory_region(0, AT, 0x1000, HVA, LOG | KVM_MEM_READONLY)
        vm.set_user_memory_region(1, 2 * AT, 0x1000, HVA, LOG)
        known = machine(vm).memslots
        assert [slot.is_logging for slot in known] == [False, True]
        assert [slot.dirty is not None for slot in known] == [True, True]


def test_bits_that_cannot_be_copied_out_are_lost() -> None:
    with vm_of() as vm:
        slot = logged(vm)
        table = vm._slots()
        argument = bytearray(8) + (8).to_bytes(8, "little")
        assert vm._backend.ioctl_buffer(vm.fileno(), 0x4010_AE42, bytearray(argument)) == -errno.EFAULT
        assert table.known()[0].dirty_log() == []
        machine(vm).manual_dirty_log_protect = PROTECTED
        write(vm, 3)
        assert vm._backend.ioctl_buffer(vm.fileno(), 0x4010_AE42, bytearray(argument)) == -errno.EFAULT
        assert slot.dirty_log() == [3]


def test_listener_is_told_which_bits_were_cleared() -> None:
    with vm_of() as vm:
        slot = logged(vm)
        listener = machine(vm).memslots.listener = Listener()
        slot.dirty_log()
        write(vm, 1, 64, 70)
        slot.clear_dirty_log(64, 64, b"\x43" + bytes(7))
        assert listener.heard == [("taken", 0, [0, 63, 64, PAGES - 1]), ("taken", 0, [64, 70])]


def test_ring_without_bitmap_has_no_log() -> None:
    with vm_of() as vm:
        machine(vm).dirty_ring_size = 4096
        vm.set_user_memory_region(0, AT, 0x1000, HVA, LOG)
        for ask in (vm.memslots[0].dirty_log, vm.memslots[0].clear_dirty_log):
            with pytest.raises(errors.DirtyLogOffError, match="ring") as caught:
                ask()
            assert caught.value.errno == errno.ENXIO
        machine(vm).dirty_ring_with_bitmap = True
        vm.set_user_memory_region(1, 2 * AT, 0x1000, HVA, LOG)
        assert vm.memslots[1].dirty_log() == []
        assert code(vm, 0, 0, 0, 0) == 0


@pytest.mark.parametrize(("release", "known"), [("4.19", False), ("4.20", False), ("5.0", True), ("6.12", True)])
def test_clearing_is_known_since_5_0(release: str, known: bool) -> None:
    with vm_of(release) as vm:
        slot = logged(vm)
        if known:
            slot.clear_dirty_log()
            assert slot.dirty_log() == []
        else:
            with pytest.raises(errors.NotSupportedError, match="no KVM_CLEAR_DIRTY_LOG") as caught:
                slot.clear_dirty_log()
            assert caught.value.errno == errno.EINVAL
            with pytest.raises(errors.DirtyLogRangeError):
                slot.clear_dirty_log(1)
            assert slot.dirty_log() == [0, 63, 64, PAGES - 1]


def test_log_of_a_huge_slot_is_as_long_as_it_is_but_takes_no_memory_before() -> None:
    import tracemalloc

    pages = 1 << 24
    with vm_of(bits=44) as vm:
        tracemalloc.start()
        vm.set_user_memory_region(0, 0, pages << 12, 0, LOG)
        write(vm, 12345678, pages - 1)
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert peak < 1 << 20
        assert vm.memslots[0].dirty_log() == [12345678, pages - 1]


@given(
    pages=st.integers(1, 300),
    all_dirty=st.booleans(),
    marked=st.lists(st.integers(0, 299), max_size=40),
    masks=st.dictionaries(st.integers(0, 4), st.integers(0, (1 << 64) - 1), max_size=5),
)
def test_bitmap_is_what_a_set_of_pages_is(
    pages: int, all_dirty: bool, marked: list[int], masks: dict[int, int]
) -> None:
    bitmap = DirtyBitmap(pages, all_dirty=all_dirty)
    expected = set(range(pages)) if all_dirty else set()
    for page in marked:
        if page < pages:
            bitmap.mark(page)
            expected.add(page)
    for index, mask in masks.items():
        if index < bitmap.word_count:
            asked = {index * 64 + bit for bit in range(64) if mask >> bit & 1}
            cleared = bitmap.clear(index, mask)
            assert cleared == sum(1 << page - index * 64 for page in asked & expected)
            expected -= asked
    assert list(bitmap.pages()) == sorted(expected)
    assert b"".join(bitmap.chunks()) == sum(1 << page for page in expected).to_bytes(bitmap.word_count * 8, "little")
    taken = bitmap.take()
    assert list(taken.pages()) == sorted(expected)
    assert list(bitmap.pages()) == []
