# SPDX-License-Identifier: Apache-2.0
"""What EINVAL of a memory slot means: the kernel has it for a dozen of causes (kernel-ipa-spec 4.2)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from kvmipa import errors
from kvmipa._abi_table import (
    KVM_CAP_GUEST_MEMFD,
    KVM_CAP_NR_MEMSLOTS,
    KVM_MEM_GUEST_MEMFD,
    KVM_MEM_LOG_DIRTY_PAGES,
    KVM_MEM_READONLY,
)
from kvmipa.causes import Cause
from kvmipa.causes.memory import flags_text, no_such_slot

if TYPE_CHECKING:
    from collections.abc import Callable

    from kvmipa.causes.memory import VmFacts
    from kvmipa.memory_region import MemoryRegion

# KVM_MEM_MAX_NR_PAGES in include/linux/kvm_host.h.
MAX_PAGES: Final = (1 << 31) - 1

# CONFIG_ARM64_VA_BITS where it is usual, and at most. What a real kernel was built with, it does not say.
_USUAL_VA_BITS: Final = 48
_LARGEST_VA_BITS: Final = 52
_TAG_SHIFT: Final = 56


def _slot_id(region: MemoryRegion, known: VmFacts) -> Cause | None:
    limit = known.check_extension(KVM_CAP_NR_MEMSLOTS)
    if region.slot < limit:
        return None
    return Cause(
        errors.SlotIdError,
        f"slot {region.slot} is beyond the last one",
        f"slots 0 to {limit - 1} (KVM_CAP_NR_MEMSLOTS is {limit}), in one address space",
        "use a smaller number; Vm.add_memory() takes the lowest free one",
    )


def _flags(region: MemoryRegion, known: VmFacts) -> Cause | None:
    has_memfd = known.check_extension(KVM_CAP_GUEST_MEMFD)
    usable = KVM_MEM_LOG_DIRTY_PAGES | KVM_MEM_READONLY | (KVM_MEM_GUEST_MEMFD if has_memfd else 0)
    alone = region.flags & KVM_MEM_GUEST_MEMFD and region.flags != KVM_MEM_GUEST_MEMFD
    if not region.flags & ~usable and not alone:
        return None
    wrong = "KVM_MEM_GUEST_MEMFD goes with no other flag" if alone and has_memfd else ""
    return Cause(
        errors.SlotFlagsError,
        wrong or f"flags {flags_text(region.flags & ~usable)} are not of this kernel",
        flags_text(usable),
        "leave the others out",
    )


def _alignment(region: MemoryRegion, known: VmFacts) -> Cause | None:
    page = known.page_size
    fields = {
        "the guest address": region.guest_phys_addr,
        "the size": region.memory_size,
        "the user address": region.userspace_addr,
    }
    wrong = [f"{name} ({value:#x})" for name, value in fields.items() if value % page]
    if not wrong:
        return None
    return Cause(
        errors.MisalignedSlotError,
        f"{' and '.join(wrong)}: no multiple of the host's page size",
        f"multiples of {page:#x} ({page >> 10}K pages)",
        "align them; on this host 4K is not enough" if page > 4096 else "align them",
    )


def _address(region: MemoryRegion, known: VmFacts) -> Cause | None:
    if region.userspace_addr >> _TAG_SHIFT:
        return Cause(
            errors.SlotAddressError,
            f"the user address has a tag in its top byte ({region.userspace_addr >> _TAG_SHIFT:#x})",
            "addresses without a tag",
            "clear bits 63:56",
        )
    return _beyond_user_space(region, known.va_bits or _LARGEST_VA_BITS)


def _maybe_address(region: MemoryRegion, known: VmFacts) -> Cause | None:
    """A kernel of fewer bits, where nothing else explains it."""
    return _beyond_user_space(region, known.va_bits or _USUAL_VA_BITS)


def _beyond_user_space(region: MemoryRegion, va_bits: int) -> Cause | None:
    if region.userspace_addr + region.memory_size <= 1 << va_bits:
        return None
    return Cause(
        errors.SlotAddressError,
        f"the user addresses end beyond user space, {region.userspace_addr + region.memory_size:#x}",
        f"addresses below {1 << va_bits:#x} (2^{va_bits})",
        "name memory of this process",
    )


def _size(region: MemoryRegion, known: VmFacts) -> Cause | None:
    if region.end >> 64:
        return Cause(
            errors.SlotSizeError,
            f"the slot ends at {region.end:#x}, which wraps around 64 bits",
            "guest addresses below the end of the IPA space",
            "make it smaller, or place it lower",
        )
    pages = region.memory_size // known.page_size
    if pages <= MAX_PAGES:
        return None
    return Cause(
        errors.SlotSizeError,
        f"{pages} pages are more than a slot can have",
        f"{MAX_PAGES} pages, {MAX_PAGES * known.page_size:#x} bytes",
        "set several slots, one behind the other",
    )


def _deleted(region: MemoryRegion, known: VmFacts) -> Cause | None:
    if region.memory_size or known.slot(region.slot):
        return None
    return no_such_slot(region.slot, known)


def _fixed(region: MemoryRegion, known: VmFacts) -> Cause | None:
    slot = known.slot(region.slot)
    if slot is None or not region.memory_size:
        return None
    changes = {
        "its size": (slot.memory_size, region.memory_size),
        "its user address": (slot.userspace_addr, region.userspace_addr),
        "KVM_MEM_READONLY": (slot.flags & KVM_MEM_READONLY, region.flags & KVM_MEM_READONLY),
        "its guest_memfd": (slot.flags & KVM_MEM_GUEST_MEMFD, region.flags & KVM_MEM_GUEST_MEMFD),
    }
    wrong = [name for name, (old, new) in changes.items() if old != new]
    if not wrong and not region.flags & KVM_MEM_GUEST_MEMFD:
        return None
    return Cause(
        errors.SlotResizeError,
        f"slot {region.slot} exists, and {' and '.join(wrong) or 'a slot of guest_memfd'} cannot be changed",
        "its guest address and KVM_MEM_LOG_DIRTY_PAGES can" if wrong else "it can be deleted",
        "delete the slot and set it again, or use another number",
    )


def memfd(region: MemoryRegion, known: VmFacts) -> Cause | None:
    """The slot's guest_memfd; EBADF too."""
    if not region.flags & KVM_MEM_GUEST_MEMFD:
        return None
    if region.guest_memfd_offset % known.page_size:
        cause = f"offset {region.guest_memfd_offset:#x} is no multiple of the page size"
    else:
        cause = (
            f"descriptor {region.guest_memfd} is not a guest_memfd of this VM that can be mapped, or not so long as "
            f"{region.guest_memfd_offset + region.memory_size:#x} bytes (or the VM has MTE)"
        )
    return Cause(
        errors.GuestMemfdError,
        cause,
        "guest_memfds that this VM made with GUEST_MEMFD_FLAG_MMAP (1)",
        "make one: Vm.create_guest_memfd(size, flags=3)",
    )


def _mapping(region: MemoryRegion, _known: VmFacts) -> Cause | None:
    """Nothing that the arguments show: it is what the process has mapped there."""
    logging = region.flags & KVM_MEM_LOG_DIRTY_PAGES
    return Cause(
        errors.SlotMappingError,
        "the kernel takes no such slot of what is mapped there: "
        + ("device memory, whose writes it cannot log" if logging else "device memory, or memory without tags (MTE)"),
        "anonymous memory and files",
        "leave KVM_MEM_LOG_DIRTY_PAGES out" if logging else "use ordinary memory: GuestMemory",
    )


# In the order in which the kernel checks; what the arguments do not show comes last.
CHECKS: Final[tuple[Callable[[MemoryRegion, VmFacts], Cause | None], ...]] = (
    _slot_id,
    _flags,
    _alignment,
    _address,
    _size,
    _deleted,
    _fixed,
    memfd,
    _maybe_address,
    _mapping,
)
