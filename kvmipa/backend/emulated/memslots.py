# SPDX-License-Identifier: Apache-2.0
"""Memory slots of the emulated kernel: kvm_set_memory_region and what arm64 adds to it (kernel-ipa-spec 4.2)."""

from __future__ import annotations

from bisect import bisect_right
from errno import EEXIST, EFAULT, EINVAL, EPERM
from struct import Struct
from typing import TYPE_CHECKING, Final, NamedTuple, Protocol

from kvmipa._abi_table import (
    KVM_CAP_GUEST_MEMFD,
    KVM_CAP_NR_MEMSLOTS,
    KVM_CLEAR_DIRTY_LOG,
    KVM_CREATE_GUEST_MEMFD,
    KVM_DIRTY_LOG_INITIALLY_SET,
    KVM_GET_DIRTY_LOG,
    KVM_MEM_GUEST_MEMFD,
    KVM_MEM_LOG_DIRTY_PAGES,
    KVM_MEM_READONLY,
    KVM_SET_USER_MEMORY_REGION,
    KVM_SET_USER_MEMORY_REGION2,
    STRUCTS,
)
from kvmipa.backend.emulated import address_space, user_memory
from kvmipa.backend.emulated.dirty_log import DirtyBitmap, clear_dirty_log, get_dirty_log
from kvmipa.backend.emulated.guest_memfd import GuestMemfd, check_free, create_guest_memfd, look_up
from kvmipa.backend.emulated.requests import RefusedError, Request

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from kvmipa.backend.emulated.user_memory import Argument
    from kvmipa.backend.emulated.vm import VirtualMachine

_REGION: Final = Struct(STRUCTS["userspace_memory_region"][0])
_REGION2: Final = Struct(STRUCTS["userspace_memory_region2"][0])

# KVM_MEM_MAX_NR_PAGES in include/linux/kvm_host.h (kernel-ipa-spec 4.1).
MAX_PAGES: Final = (1 << 31) - 1

_OLD_FLAGS: Final = KVM_MEM_LOG_DIRTY_PAGES | KVM_MEM_READONLY
_ADDRESSES: Final = 1 << 64


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

    def hva_of(self, gfn: int) -> int:
        """The user address of a page frame within the slot."""
        return self.userspace_addr + (gfn - self.base_gfn) * (self.memory_size // self.npages)

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


def new_memslots(answers: dict[int, int]) -> Memslots:
    """The slots of a new VM, whose descriptor answers KVM_CHECK_EXTENSION like that."""
    return Memslots(answers[KVM_CAP_NR_MEMSLOTS])


def _set_region(vm: VirtualMachine, argument: Argument) -> int:
    """KVM_SET_USER_MEMORY_REGION."""
    region = Region(*_REGION.unpack(user_memory.read(argument, _REGION.size)))
    if region.flags & ~_OLD_FLAGS:
        return -EINVAL
    return _set(vm, region)


def _set_region2(vm: VirtualMachine, argument: Argument) -> int:
    """KVM_SET_USER_MEMORY_REGION2: the paddings are not looked at."""
    fields = _REGION2.unpack(user_memory.read(argument, _REGION2.size))
    return _set(vm, Region(*fields[: len(Region._fields)]))


def _set(vm: VirtualMachine, region: Region) -> int:
    """Steps 3 to 23 of kernel-ipa-spec 4.2; steps 3 to 11 have one errno, so that their order cannot be told."""
    slot_id, flags, gpa, size, hva, _, _ = region
    if (
        slot_id >= vm.memslots.limit
        or (flags & ~_OLD_FLAGS and not _flags_are_valid(vm, region))
        or (size | gpa | hva) & (1 << vm.page_shift) - 1
        # Tagged addresses fail as well: whatever their tag is, they are beyond the end of user space.
        or hva + size > 1 << vm.profile.config_va_bits
        or gpa + size >= _ADDRESSES
        or size >> vm.page_shift > MAX_PAGES
    ):
        return -EINVAL
    slot = vm.memslots.get(slot_id)
    if slot is None:
        return _create(vm, region) if size else -EINVAL
    return _change(vm, slot, region) if size else _delete(vm, slot)


def _flags_are_valid(vm: VirtualMachine, region: Region) -> bool:
    """Steps 4 and 8: guest_memfd where there is any, and nothing else beside it."""
    return (
        region.flags == KVM_MEM_GUEST_MEMFD
        and bool(vm.answers.get(KVM_CAP_GUEST_MEMFD))
        and not region.guest_memfd_offset & (1 << vm.page_shift) - 1
        and region.guest_memfd_offset + region.memory_size < _ADDRESSES
    )


def _create(vm: VirtualMachine, region: Region) -> int:
    slots = vm.memslots
    slot = Slot(region, vm.page_shift)
    if slots.overlaps(slot.base_gfn, slot.npages, None):
        return -EEXIST
    if slot.flags & KVM_MEM_GUEST_MEMFD:
        slot.guest_memfd = look_up(vm, region.guest_memfd, region.guest_memfd_offset, slot.memory_size)
    _check_arch(vm, slot, slot.base_gfn, slot.flags)
    if slot.guest_memfd is not None:
        if not slot.guest_memfd.can_be_mapped or vm.mte:
            return -EINVAL
        check_free(slot.guest_memfd, region.guest_memfd_offset, slot.memory_size)
        slot.guest_memfd.bind(slot, region.guest_memfd_offset)
    slots.add(slot)
    if slot.flags & KVM_MEM_LOG_DIRTY_PAGES:
        _start_logging(vm, slot)
    return 0


def _change(vm: VirtualMachine, slot: Slot, region: Region) -> int:
    """Move a slot, or switch its dirty logging: nothing else of it can be changed (steps 14 to 22)."""
    slots = vm.memslots
    _, flags, gpa, size, hva, _, _ = region
    if (
        flags & KVM_MEM_GUEST_MEMFD
        or hva != slot.userspace_addr
        or size != slot.memory_size
        or (flags ^ slot.flags) & ~KVM_MEM_LOG_DIRTY_PAGES
    ):
        return -EINVAL
    moves = gpa != slot.guest_phys_addr
    if not moves and flags == slot.flags:
        return 0
    base_gfn = gpa >> vm.page_shift
    if moves:
        if slots.overlaps(base_gfn, slot.npages, slot):
            return -EEXIST
        # Unmapped before anything else is looked at, and not mapped again if the move is refused (spec 4.5).
        if slots.listener is not None:
            slots.listener.slot_gone(slot)
    _check_arch(vm, slot, base_gfn, flags)
    if moves:
        slots.move(slot, gpa, base_gfn)
    slot.flags = flags
    if flags & KVM_MEM_LOG_DIRTY_PAGES:
        _start_logging(vm, slot)
    else:
        slot.dirty = None
    return 0


def _delete(vm: VirtualMachine, slot: Slot) -> int:
    """Deleting looks at neither the IPA space nor the mappings of the process."""
    slots = vm.memslots
    if slots.listener is not None:
        slots.listener.slot_gone(slot)
    slots.remove(slot)
    if slot.guest_memfd is not None:
        slot.guest_memfd.unbind(slot)
    return 0


def _check_arch(vm: VirtualMachine, slot: Slot, base_gfn: int, flags: int) -> None:
    """kvm_arch_prepare_memory_region: steps 19, 20 and 22. base_gfn and flags: those that the slot is to have."""
    if vm.protected and flags & _OLD_FLAGS:
        raise RefusedError(EPERM)
    end, space = base_gfn + slot.npages, vm.ipa_size >> vm.page_shift
    if end > space or (end == space and not vm.behaviour.slot_may_end_at_limit):
        raise RefusedError(EFAULT)
    if slot.guest_memfd is None:
        _check_mappings(vm, slot.userspace_addr, slot.userspace_addr + slot.memory_size, flags)


def _check_mappings(vm: VirtualMachine, start: int, end: int, flags: int) -> None:
    """Step 22: kernel-ipa-spec 4.4. Looking at the process's mappings takes long: only where it matters."""
    known = vm.behaviour
    looks_at_frames = known.refuses_cached_frames and not (vm.profile.fwb and vm.profile.dic)
    if not (flags & KVM_MEM_LOG_DIRTY_PAGES or vm.mte or looks_at_frames) and known.allows_readonly_mappings:
        return
    if not known.allows_readonly_mappings and not flags & KVM_MEM_READONLY:
        for mapping in address_space.mappings(start, end):
            if not mapping.writable:
                raise RefusedError(EPERM)
    if vm.mte:
        for mapping in address_space.mappings(start, end):
            if mapping.shared if not known.mte_by_mapping else not mapping.may_have_tags:
                raise RefusedError(EINVAL)
    if flags & KVM_MEM_LOG_DIRTY_PAGES and address_space.touches_frames(
        start, end, data_page=not known.data_page_is_mixed
    ):
        raise RefusedError(EINVAL)
    if looks_at_frames and address_space.touches_cached_frames(start, end):
        raise RefusedError(EINVAL)


def _start_logging(vm: VirtualMachine, slot: Slot) -> None:
    """A bitmap for a slot that has none, and write protection, unless all pages are dirty at first."""
    all_dirty = bool(vm.manual_dirty_log_protect & KVM_DIRTY_LOG_INITIALLY_SET)
    if slot.dirty is None and (not vm.dirty_ring_size or vm.dirty_ring_with_bitmap):
        slot.dirty = DirtyBitmap(slot.npages, all_dirty=all_dirty)
    if not all_dirty and vm.memslots.listener is not None:
        vm.memslots.listener.logging_started(slot)


# On a VM's descriptor.
VM_REQUESTS: Final[tuple[Request, ...]] = (
    Request(KVM_SET_USER_MEMORY_REGION, _set_region),
    Request(KVM_SET_USER_MEMORY_REGION2, _set_region2, (6, 8)),
    Request(KVM_GET_DIRTY_LOG, get_dirty_log),
    Request(KVM_CLEAR_DIRTY_LOG, clear_dirty_log, (5, 0)),
    Request(KVM_CREATE_GUEST_MEMFD, create_guest_memfd, (7, 3)),
)
