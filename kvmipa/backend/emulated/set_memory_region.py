# SPDX-License-Identifier: Apache-2.0
"""KVM_SET_USER_MEMORY_REGION: kvm_set_memory_region, and what arm64 adds to it (kernel-ipa-spec 4.2)."""

from __future__ import annotations

from errno import EEXIST, EFAULT, EINVAL, EPERM
from struct import Struct
from typing import TYPE_CHECKING, Final

from kvmipa._abi_table import (
    KVM_CAP_GUEST_MEMFD,
    KVM_CAP_USER_MEMORY2,
    KVM_DIRTY_LOG_INITIALLY_SET,
    KVM_MEM_GUEST_MEMFD,
    KVM_MEM_LOG_DIRTY_PAGES,
    KVM_MEM_READONLY,
    KVM_SET_USER_MEMORY_REGION,
    KVM_SET_USER_MEMORY_REGION2,
    STRUCTS,
)
from kvmipa.backend.emulated import address_space, user_memory
from kvmipa.backend.emulated.dirty_log import DirtyBitmap
from kvmipa.backend.emulated.guest_memfd import check_free, look_up
from kvmipa.backend.emulated.memslots import Region, Slot
from kvmipa.backend.emulated.requests import RefusedError, Request

if TYPE_CHECKING:
    from kvmipa.backend.emulated.user_memory import Argument
    from kvmipa.backend.emulated.vm import VirtualMachine

_REGION: Final = Struct(STRUCTS["userspace_memory_region"][0])
_REGION2: Final = Struct(STRUCTS["userspace_memory_region2"][0])

# KVM_MEM_MAX_NR_PAGES in include/linux/kvm_host.h (kernel-ipa-spec 4.1).
MAX_PAGES: Final = (1 << 31) - 1

_OLD_FLAGS: Final = KVM_MEM_LOG_DIRTY_PAGES | KVM_MEM_READONLY
_ADDRESSES: Final = 1 << 64


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
    Request(KVM_SET_USER_MEMORY_REGION2, _set_region2, needs=KVM_CAP_USER_MEMORY2),
)
