# SPDX-License-Identifier: Apache-2.0
"""The small requests of a VM's descriptor: dirty rings, memory tags, counter offset, register masks."""

from __future__ import annotations

from errno import EBUSY, EFAULT, EINVAL
from struct import Struct
from typing import TYPE_CHECKING, Final

from kvmipa import abi
from kvmipa.backend.emulated import dirty_ring, user_memory
from kvmipa.backend.emulated.register_masks import register_masks
from kvmipa.backend.emulated.requests import Request

if TYPE_CHECKING:
    from kvmipa.backend.emulated.user_memory import Argument
    from kvmipa.backend.emulated.vm import VirtualMachine

_COPY_TAGS: Final = Struct(abi.STRUCTS["arm_copy_mte_tags"][0])
_COUNTER_OFFSET: Final = Struct(abi.STRUCTS["arm_counter_offset"][0])
_MASK_RANGE: Final = Struct(abi.STRUCTS["reg_mask_range"][0])

# Arm ARM, FEAT_MTE: memory is tagged in granules of 16 bytes; user space has a byte for each.
_TAG_GRANULE: Final = 16
_TAG_MASK: Final = 0xF
_INT_MAX: Final = (1 << 31) - 1


def reset_dirty_rings(vm: VirtualMachine, _argument: Argument) -> int:
    """KVM_RESET_DIRTY_RINGS: how many entries were reset."""
    return dirty_ring.reset(vm) if vm.dirty_ring_size else -EINVAL


def set_counter_offset(vm: VirtualMachine, argument: Argument) -> int:
    """KVM_ARM_SET_COUNTER_OFFSET: of all vCPUs' counters, virtual and physical, in ticks."""
    offset, reserved = _COUNTER_OFFSET.unpack(user_memory.read(argument, _COUNTER_OFFSET.size))
    if reserved:
        return -EINVAL
    vm.counter_offset = offset
    return 0


def get_reg_writable_masks(vm: VirtualMachine, argument: Argument) -> int:
    """KVM_ARM_GET_REG_WRITABLE_MASKS: which bits of the ID registers user space may change."""
    address, which, *reserved = _MASK_RANGE.unpack(user_memory.read(argument, _MASK_RANGE.size))
    if which or any(reserved):
        return -EINVAL
    user_memory.write(address, register_masks(vm.profile))
    return 0


# ------------------------------------------------------------------------------------------------ memory tags


def copy_tags(vm: VirtualMachine, argument: Argument) -> int:
    """KVM_ARM_MTE_COPY_TAGS: how many bytes of guest memory were done; an error only if there was none.

    A page starts with zero tags, as memory does (kvm_vm_ioctl_mte_copy_tags in arch/arm64/kvm/guest.c).
    """
    ipa, length, address, flags, *reserved = _COPY_TAGS.unpack(user_memory.read(argument, _COPY_TAGS.size))
    page_size = vm.profile.page_size
    if not vm.mte or any(reserved) or flags & ~abi.KVM_ARM_TAGS_FROM_GUEST or (ipa | length) % page_size:
        return -EINVAL
    write = not flags & abi.KVM_ARM_TAGS_FROM_GUEST
    if vm.behaviour.copy_tags_is_bounded:
        if length > _INT_MAX:
            return -EINVAL
        if write and any(slot.flags & abi.KVM_MEM_LOG_DIRTY_PAGES for slot in vm.memslots):
            return -EBUSY
    tags_of_page = page_size // _TAG_GRANULE
    done = 0
    while done < length:
        at = address + done // _TAG_GRANULE
        if not _copy_page(vm, ipa + done, at, tags_of_page, write=write):
            break
        done += page_size
    return done if done or not length else -EFAULT


def _copy_page(vm: VirtualMachine, ipa: int, address: int, count: int, *, write: bool) -> bool:
    """Copy one page's tags; False where the guest has no such page, or the process no such memory."""
    slot = vm.memslots.find(ipa >> vm.page_shift)
    if slot is None or (write and slot.readonly):
        return False
    page = slot.userspace_addr + ipa - slot.guest_phys_addr
    if not user_memory.is_readable(page):
        return False
    try:
        if write:
            vm.tags[page] = bytes(tag & _TAG_MASK for tag in user_memory.read(address, count))
        else:
            user_memory.write(address, vm.tags.get(page, bytes(count)))
    except user_memory.BadAddressError:
        return False
    return True


# On a VM's descriptor.
VM_REQUESTS: Final[tuple[Request, ...]] = (
    Request(abi.KVM_RESET_DIRTY_RINGS, reset_dirty_rings),
    Request(abi.KVM_ARM_MTE_COPY_TAGS, copy_tags, needs=abi.KVM_CAP_ARM_MTE, of_arm=True),
    Request(abi.KVM_ARM_SET_COUNTER_OFFSET, set_counter_offset, needs=abi.KVM_CAP_COUNTER_OFFSET, of_arm=True),
    Request(
        abi.KVM_ARM_GET_REG_WRITABLE_MASKS,
        get_reg_writable_masks,
        needs=abi.KVM_CAP_ARM_SUPPORTED_REG_MASK_RANGES,
        of_arm=True,
    ),
)
