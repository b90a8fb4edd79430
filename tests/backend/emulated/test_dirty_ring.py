# SPDX-License-Identifier: Apache-2.0
"""Dirty rings of the emulated kernel, without a CPU: what vCPUs write is told by hand."""

from __future__ import annotations

import ctypes
import struct
from typing import TYPE_CHECKING, Any

import pytest

from kvmipa import abi
from kvmipa.access import Access, Mapped
from kvmipa.backend.emulated.dirty_ring import RESERVED, DirtyRing, is_full, ring_of
from kvmipa.backend.emulated.faults import access
from tests.backend.emulated.vm_asking import KVM_CREATE_VCPU, KVM_RESET_DIRTY_RINGS, Asked, emulated, memory, state

if TYPE_CHECKING:
    from collections.abc import Iterator

LOG = 1
PAGE = 4096


class Written:
    """A VM with a ring of 256 entries, one logged slot of 32 pages, and a vCPU."""

    def __init__(self, asked: Asked, at: int, *, bitmap: bool) -> None:
        self.asked = asked
        assert asked.enable(abi.KVM_CAP_DIRTY_LOG_RING_ACQ_REL, PAGE) == 0
        if bitmap:
            assert asked.enable(abi.KVM_CAP_DIRTY_LOG_RING_WITH_BITMAP) == 0
        assert asked.slot(at, 0x10000, 0x20000, LOG, 3) == 0
        self.fd = asked.value(KVM_CREATE_VCPU, 0)
        self.vm: Any = state(asked)
        self.vcpu = self.vm.vcpus[0]

    def store(self, page: int, *, running: bool = True, kind: str = "store") -> bool:
        """A store to a page of the slot: whether there was a fault."""
        self.vm.running = self.vcpu if running else None
        found = access(self.vm, Access(0x10000 + page * PAGE, kind, 8))
        self.vm.running = None
        assert isinstance(found, Mapped)
        return found.faulted

    def entries(self) -> list[tuple[int, int, int]]:
        """Flags, slot and page of what is in the ring."""
        ring = ring_of(self.vcpu)
        assert ring is not None
        return [entry for entry in struct.iter_unpack("=IIQ", ring.area) if entry[0]]

    def harvest(self) -> None:
        """Mark everything as done with."""
        ring = ring_of(self.vcpu)
        assert ring is not None
        for at in range(0, len(ring.area), 16):
            if struct.unpack_from("=I", ring.area, at)[0]:
                struct.pack_into("=I", ring.area, at, 2)

    def reset(self) -> int:
        """KVM_RESET_DIRTY_RINGS."""
        return self.asked.value(KVM_RESET_DIRTY_RINGS)


@pytest.fixture
def written() -> Iterator[Written]:
    with memory() as at, emulated("6.12", 40) as asked:
        made = Written(asked, at, bitmap=True)
        yield made
        asked.backend.close(made.fd)


def test_first_write_to_a_page_is_in_the_ring_of_who_wrote(written: Written) -> None:
    assert [written.store(page) for page in (5, 2, 5)] == [True, True, False]
    assert written.entries() == [(1, 3, 5), (1, 3, 2)]
    assert list(written.vm.memslots.get(3).dirty.pages()) == []


def test_loads_are_not(written: Written) -> None:
    written.store(5, kind="load")
    assert written.entries() == []


def test_write_of_nobody_is_in_the_bitmap(written: Written) -> None:
    written.store(7, running=False)
    assert (written.entries(), list(written.vm.memslots.get(3).dirty.pages())) == ([], [7])


def test_reset_frees_what_was_harvested_and_watches_it_again(written: Written) -> None:
    for page in (5, 2):
        written.store(page)
    assert written.reset() == 0
    written.harvest()
    written.store(9)
    assert (written.reset(), written.entries()) == (2, [(1, 3, 9)])
    assert [written.store(page) for page in (5, 2, 9)] == [True, True, False]
    assert written.entries() == [(1, 3, 9), (1, 3, 5), (1, 3, 2)]


def test_slot_that_is_not_logged_has_no_entries(written: Written) -> None:
    with memory() as at:
        assert written.asked.slot(at, 0x80000, 0x10000, 0, 4) == 0
        written.vm.running = written.vcpu
        access(written.vm, Access(0x80000, "store", 8))
        assert written.entries() == []


def test_page_of_a_slot_that_is_gone_is_reset_all_the_same(written: Written) -> None:
    written.store(5)
    written.harvest()
    assert written.asked.slot(0, 0, 0, 0, 3) == 0
    assert written.reset() == 1


def test_without_a_bitmap_what_is_mapped_to_be_written_counts() -> None:
    with memory() as at, emulated("6.12", 40, thp="never") as asked:
        made = Written(asked, at, bitmap=False)
        ctypes.memset(at, 1, 0x20000)
        made.store(5, kind="load")
        made.store(6, running=False)
        found = made.entries()
        asked.backend.close(made.fd)
    assert found == [(1, 3, 5)]


def test_ring_is_full_before_its_end() -> None:
    ring = DirtyRing(PAGE)
    room = 256 - RESERVED
    for offset in range(room):
        assert not ring.is_soft_full
        ring.push(1, offset)
    assert ring.is_soft_full
    assert list(ring.take_harvested()) == []
    struct.pack_into("=I", ring.area, 0, 2)
    # The second entry is not harvested, so what is behind it waits.
    struct.pack_into("=I", ring.area, 32, 2)
    assert list(ring.take_harvested()) == [(1, 0)]
    assert not ring.is_soft_full


def test_ring_goes_around() -> None:
    ring = DirtyRing(PAGE)
    for offset in range(600):
        ring.push(1, offset)
        at = offset % 256 * 16
        assert struct.unpack_from("=IIQ", ring.area, at) == (1, 1, offset)
        struct.pack_into("=I", ring.area, at, 3)
        assert list(ring.take_harvested()) == [(1, offset)]


def test_vm_without_a_ring_is_never_full() -> None:
    with emulated("6.12") as asked:
        fd = asked.value(KVM_CREATE_VCPU, 0)
        vcpu = state(asked).vcpus[0]
        assert (ring_of(vcpu), is_full(vcpu)) == (None, False)
        asked.backend.close(fd)
