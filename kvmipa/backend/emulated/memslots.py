# SPDX-License-Identifier: Apache-2.0
"""Memory slots of the emulated kernel, and who is told of their changes (kernel-ipa-spec 4)."""

from __future__ import annotations

from bisect import bisect_right
from typing import TYPE_CHECKING, NamedTuple, Protocol

from kvmipa._abi_table import KVM_MEM_GUEST_MEMFD, KVM_MEM_READONLY

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from kvmipa.backend.emulated.dirty_log import DirtyBitmap
    from kvmipa.backend.emulated.guest_memfd import GuestMemfd


class SlotListener(Protocol):
    """Who has to know when slots change: the stage-2 MMU, from when it is made (Memslots.listener)."""

    def slot_gone(self, slot: Slot) -> None:
        """A slot is about to be deleted or moved: unmap it where it is. A move may still be refused."""
        ...

    def logging_started(self, slot: Slot) -> None:
        """A slot was set with dirty logging and not all of it dirty at once: write-protect it."""
        ...

    def dirty_pages_taken(self, slot: Slot, pages: Iterable[int]) -> None:
        """Dirty bits of pages, counted from the slot's start, were cleared: write-protect those."""
        ...


class Region(NamedTuple):
    """What user space asks for: the fields of kvm_userspace_memory_region and ..._region2, in their order."""

    slot_id: int
    flags: int
    guest_phys_addr: int
    memory_size: int
    userspace_addr: int
    guest_memfd_offset: int = 0
    guest_memfd: int = 0


class Slot:
    """A memory slot (struct kvm_memory_slot): addresses and sizes in bytes, gfns and npages in the host's pages.

    dirty: its dirty bitmap, while it has one. guest_memfd: where its memory is from, if not from userspace_addr.
    """

    __slots__ = (
        "base_gfn",
        "dirty",
        "flags",
        "guest_memfd",
        "guest_phys_addr",
        "memory_size",
        "npages",
        "slot_id",
        "userspace_addr",
    )

    def __init__(self, region: Region, page_shift: int) -> None:
        self.slot_id = region.slot_id
        self.base_gfn = region.guest_phys_addr >> page_shift
        self.npages = region.memory_size >> page_shift
        self.guest_phys_addr = region.guest_phys_addr
        self.memory_size = region.memory_size
        self.userspace_addr = region.userspace_addr
        self.flags = region.flags
        self.dirty: DirtyBitmap | None = None
        self.guest_memfd: GuestMemfd | None = None

    @property
    def readonly(self) -> bool:
        """KVM_MEM_READONLY."""
        return bool(self.flags & KVM_MEM_READONLY)

    @property
    def is_guest_memfd(self) -> bool:
        """KVM_MEM_GUEST_MEMFD."""
        return bool(self.flags & KVM_MEM_GUEST_MEMFD)

    @property
    def is_logging(self) -> bool:
        """Whether stage 2 maps it page by page for the sake of its dirty bitmap (memslot_is_logging)."""
        return self.dirty is not None and not self.flags & KVM_MEM_READONLY

    def mark_dirty(self, gfn: int) -> None:
        """A page frame was written (mark_page_dirty_in_slot)."""
        if self.dirty is not None:
            self.dirty.mark(gfn - self.base_gfn)


class Memslots:
    """The slots of a VM, by id and in the order of their guest addresses.

    limit: how many ids there are. listener: told of changes, if somebody has to know.
    """

    __slots__ = ("_bases", "_by_id", "_in_order", "limit", "listener")

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.listener: SlotListener | None = None
        self._by_id: dict[int, Slot] = {}
        self._bases: list[int] = []
        self._in_order: list[Slot] = []

    def __len__(self) -> int:
        return len(self._by_id)

    def __iter__(self) -> Iterator[Slot]:
        """In the order of their guest addresses."""
        return iter(self._in_order)

    def get(self, slot_id: int) -> Slot | None:
        """The slot of an id."""
        return self._by_id.get(slot_id)

    def find(self, gfn: int) -> Slot | None:
        """The slot that a page frame is in."""
        position = bisect_right(self._bases, gfn)
        if position:
            slot = self._in_order[position - 1]
            if gfn < slot.base_gfn + slot.npages:
                return slot
        return None

    def overlaps(self, base_gfn: int, npages: int, but: Slot | None) -> bool:
        """Whether a range of page frames is in the way of a slot other than this one."""
        position = bisect_right(self._bases, base_gfn)
        end = base_gfn + npages
        # Slots do not overlap each other, so that only the nearest on each side can be in the way; or the one behind
        # a slot that is excluded.
        for slot in self._in_order[max(position - 1, 0) : position + 2]:
            if slot.base_gfn < end and base_gfn < slot.base_gfn + slot.npages and slot is not but:
                return True
        return False

    def add(self, slot: Slot) -> None:
        """A new slot."""
        self._by_id[slot.slot_id] = slot
        self._put_in(slot)

    def remove(self, slot: Slot) -> None:
        """A slot is gone."""
        del self._by_id[slot.slot_id]
        self._take_out(slot)

    def move(self, slot: Slot, gpa: int, base_gfn: int) -> None:
        """A slot is somewhere else."""
        self._take_out(slot)
        slot.guest_phys_addr, slot.base_gfn = gpa, base_gfn
        self._put_in(slot)

    def _put_in(self, slot: Slot) -> None:
        position = bisect_right(self._bases, slot.base_gfn)
        self._bases.insert(position, slot.base_gfn)
        self._in_order.insert(position, slot)

    def _take_out(self, slot: Slot) -> None:
        position = bisect_right(self._bases, slot.base_gfn) - 1
        del self._bases[position]
        del self._in_order[position]
