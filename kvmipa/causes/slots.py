# SPDX-License-Identifier: Apache-2.0
"""Why a memory slot was refused: from the errno, the arguments and the VM's slots to the error."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING, Final

from kvmipa import errors
from kvmipa._abi_table import (
    KVM_CAP_ARM_VM_IPA_SIZE,
    KVM_CAP_USER_MEMORY2,
    KVM_MEM_GUEST_MEMFD,
    KVM_MEM_LOG_DIRTY_PAGES,
    KVM_MEM_READONLY,
)
from kvmipa.causes import Cause, no_request_error, other_process_error, slot_arguments, unnamed
from kvmipa.causes.memory import flags_text
from kvmipa.machine_type import MIN_IPA_BITS

if TYPE_CHECKING:
    from collections.abc import Callable

    from kvmipa.causes.memory import VmFacts
    from kvmipa.errors import KvmError
    from kvmipa.memory_region import MemoryRegion


def region_error(code: int, ioctl: str, region: MemoryRegion, known: VmFacts) -> KvmError:
    """Why a slot was refused with errno ``code``."""
    if code == errno.EIO:
        return other_process_error("Vm", ioctl, 0)
    if code == errno.EINVAL and ioctl.endswith("2") and not known.check_extension(KVM_CAP_USER_MEMORY2):
        return no_request_error(code, ioctl, "KVM_SET_USER_MEMORY_REGION", "6.8")
    causes = (find(region, known) for find in _CAUSES.get(code, ()))
    found = next(filter(None, causes), None) or unnamed(code, errors.MemorySlotError, "the slots that there are")
    return found.error(code, asked=_asked(region), ioctl=ioctl)


def _asked(region: MemoryRegion) -> str:
    if not region.memory_size:
        return f"deleting slot {region.slot}"
    text = f"slot {region.slot} of {region.memory_size:#x} bytes at {region.guest_phys_addr:#x}"
    text += f", user address {region.userspace_addr:#x}"
    return text + (f", flags {flags_text(region.flags)}" if region.flags else "")


def _overlap(region: MemoryRegion, known: VmFacts) -> Cause | None:
    others = [
        slot
        for slot in known.slots
        if slot.slot_id != region.slot and slot.guest_phys_addr < region.end and region.guest_phys_addr < slot.end
    ]
    if not others and region.flags & KVM_MEM_GUEST_MEMFD:
        return Cause(
            errors.GuestMemfdError,
            "that range of the guest_memfd is another slot's",
            "ranges that no slot has",
            "choose another guest_memfd_offset",
        )
    with_whom = (
        f"slot {others[0].slot_id} ({others[0].guest_phys_addr:#x} to {others[0].end - 1:#x})" if others else "a slot"
    )
    free = others[0].end if others else 0
    return Cause(
        errors.SlotOverlapError,
        f"the guest addresses overlap with {with_whom}",
        "guest addresses that no slot has; slots may touch",
        f"place it at {free:#x} or higher, or below {others[0].guest_phys_addr:#x}" if others else "place it elsewhere",
    )


def _beyond_ipa_space(region: MemoryRegion, known: VmFacts) -> Cause | None:
    bits = known.ipa_bits()
    beyond = region.end - (1 << bits)
    if beyond < 0:
        return None
    limit = known.check_extension(KVM_CAP_ARM_VM_IPA_SIZE)
    needed = max((region.end - 1).bit_length(), MIN_IPA_BITS)
    if not beyond:
        # Before the fix of March 2021 (kernel-ipa-spec 0.2).
        cause, needed = f"the slot ends at 2^{bits}, and this kernel's IPA space ends a page earlier", bits + 1
    else:
        cause = f"the slot ends {beyond:#x} bytes beyond the VM's IPA space of 2^{bits} bytes"
    lower = f"place it so that it ends at {1 << bits:#x} or below"
    larger = f"create the VM with {needed} IPA bits, or {lower}"
    return Cause(
        errors.SlotBeyondIpaSpaceError,
        cause,
        f"guest addresses below {1 << bits:#x}; VMs of up to {limit} bits on this host",
        larger if bits < needed <= limit else f"{lower}; it would take {needed} bits, which this host does not have",
    )


def _permission(region: MemoryRegion, _known: VmFacts) -> Cause | None:
    if region.flags & (KVM_MEM_LOG_DIRTY_PAGES | KVM_MEM_READONLY) or not region.memory_size:
        return Cause(
            errors.ProtectedSlotError,
            "a protected VM's slots are neither logged nor read-only, and stay once it has run",
            "slots without flags, set before the first KVM_RUN",
            "leave the flags out",
        )
    return Cause(
        errors.SlotMappingError,
        "the process cannot write to that memory, and this kernel (before 5.6) wants that; or the VM is protected",
        "memory that the process can write to, or read-only slots",
        "map the memory writable, or set KVM_MEM_READONLY",
    )


def _no_memory(_region: MemoryRegion, _known: VmFacts) -> Cause | None:
    return Cause(
        errors.MemorySlotError,
        "the kernel has no memory for the slot: a dirty bitmap has a bit for each page",
        "what memory the host has left",
        "free memory, or make the slot smaller",
    )


_CAUSES: Final[dict[int, tuple[Callable[[MemoryRegion, VmFacts], Cause | None], ...]]] = {
    errno.EINVAL: slot_arguments.CHECKS,
    errno.EEXIST: (_overlap,),
    errno.EFAULT: (_beyond_ipa_space,),
    errno.EPERM: (_permission,),
    errno.EBADF: (slot_arguments.memfd,),
    errno.ENOMEM: (_no_memory,),
}
