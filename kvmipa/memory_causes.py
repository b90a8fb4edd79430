# SPDX-License-Identifier: Apache-2.0
"""From the errno of a memory request, its arguments and the VM's slots to the error that names the cause.

The kernel has EINVAL for a dozen of causes: they are looked for in the order in which it checks (kernel-ipa-spec 4.2).
"""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING, Final, NamedTuple

from kvmipa import errors
from kvmipa._abi_table import (
    KVM_CAP_ARM_VM_IPA_SIZE,
    KVM_CAP_GUEST_MEMFD,
    KVM_CAP_GUEST_MEMFD_FLAGS,
    KVM_CAP_NR_MEMSLOTS,
    KVM_CAP_USER_MEMORY2,
    KVM_MEM_GUEST_MEMFD,
    KVM_MEM_LOG_DIRTY_PAGES,
    KVM_MEM_READONLY,
)
from kvmipa.causes import closed_error, other_process_error
from kvmipa.machine_type import MIN_IPA_BITS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from kvmipa.errors import KvmError, MemorySlotError
    from kvmipa.memory import Memslot

# KVM_MEM_MAX_NR_PAGES in include/linux/kvm_host.h.
MAX_PAGES: Final = (1 << 31) - 1

# CONFIG_ARM64_VA_BITS where it is usual, and at most. What a real kernel was built with, it does not say.
_USUAL_VA_BITS: Final = 48
_LARGEST_VA_BITS: Final = 52
_TAG_SHIFT: Final = 56

_FLAG_NAMES: Final = {
    KVM_MEM_LOG_DIRTY_PAGES: "KVM_MEM_LOG_DIRTY_PAGES",
    KVM_MEM_READONLY: "KVM_MEM_READONLY",
    KVM_MEM_GUEST_MEMFD: "KVM_MEM_GUEST_MEMFD",
}


class Region(NamedTuple):
    """What was asked for: the fields of kvm_userspace_memory_region2, in the order of Vm's methods."""

    slot: int
    guest_phys_addr: int
    memory_size: int
    userspace_addr: int
    flags: int = 0
    guest_memfd: int = 0
    guest_memfd_offset: int = 0

    @property
    def end(self) -> int:
        """The first guest address behind it."""
        return self.guest_phys_addr + self.memory_size


class Known(NamedTuple):
    """What is known of the VM: its slots, its host's page size in bytes, and what it answers when asked.

    va_bits: CONFIG_ARM64_VA_BITS, None where nobody knows it; ipa_bits: asked for only where it matters.
    """

    slots: Iterable[Memslot]
    page_size: int
    va_bits: int | None
    ipa_bits: Callable[[], int]
    check_extension: Callable[[int], int]

    def slot(self, number: int) -> Memslot | None:
        """The slot of a number."""
        return next((slot for slot in self.slots if slot.slot_id == number), None)


class Cause(NamedTuple):
    """What an error says."""

    kind: type[MemorySlotError]
    cause: str
    available: str
    fix: str


def region_error(code: int, ioctl: str, region: Region, known: Known) -> KvmError:
    """Why a slot was refused with errno ``code``."""
    if code == errno.EIO:
        return other_process_error("Vm", ioctl, 0)
    if code == errno.EINVAL and ioctl.endswith("2") and not known.check_extension(KVM_CAP_USER_MEMORY2):
        return _no_request(code, ioctl, "KVM_SET_USER_MEMORY_REGION", "6.8")
    causes = (find(region, known) for find in _CAUSES.get(code, ()))
    found = next(filter(None, causes), None)
    kind, cause, available, fix = found or Cause(
        errors.MemorySlotError, os.strerror(code), "the slots that there are", "look at the kernel log"
    )
    return kind(code, cause=cause, asked=_asked(region), available=available, fix=fix, ioctl=ioctl)


def _asked(region: Region) -> str:
    if not region.memory_size:
        return f"deleting slot {region.slot}"
    text = f"slot {region.slot} of {region.memory_size:#x} bytes at {region.guest_phys_addr:#x}"
    text += f", user address {region.userspace_addr:#x}"
    return text + (f", flags {flags_text(region.flags)}" if region.flags else "")


def flags_text(flags: int) -> str:
    """Flags by name.

    >>> flags_text(3), flags_text(9)
    ('KVM_MEM_LOG_DIRTY_PAGES | KVM_MEM_READONLY', 'KVM_MEM_LOG_DIRTY_PAGES | 0x8')
    """
    words = [name for bit, name in _FLAG_NAMES.items() if flags & bit]
    rest = flags & ~sum(_FLAG_NAMES)
    return " | ".join([*words, *([hex(rest)] if rest else [])]) or "none"


# ------------------------------------------------------------------------------------------------ EINVAL


def _slot_id(region: Region, known: Known) -> Cause | None:
    limit = known.check_extension(KVM_CAP_NR_MEMSLOTS)
    if region.slot < limit:
        return None
    return Cause(
        errors.SlotIdError,
        f"slot {region.slot} is beyond the last one",
        f"slots 0 to {limit - 1} (KVM_CAP_NR_MEMSLOTS is {limit}), in one address space",
        "use a smaller number; Vm.add_memory() takes the lowest free one",
    )


def _flags(region: Region, known: Known) -> Cause | None:
    memfd = known.check_extension(KVM_CAP_GUEST_MEMFD)
    usable = KVM_MEM_LOG_DIRTY_PAGES | KVM_MEM_READONLY | (KVM_MEM_GUEST_MEMFD if memfd else 0)
    alone = region.flags & KVM_MEM_GUEST_MEMFD and region.flags != KVM_MEM_GUEST_MEMFD
    if not region.flags & ~usable and not alone:
        return None
    wrong = "KVM_MEM_GUEST_MEMFD goes with no other flag" if alone and memfd else ""
    return Cause(
        errors.SlotFlagsError,
        wrong or f"flags {flags_text(region.flags & ~usable)} are not of this kernel",
        flags_text(usable),
        "leave the others out",
    )


def _alignment(region: Region, known: Known) -> Cause | None:
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


def _address(region: Region, known: Known) -> Cause | None:
    if region.userspace_addr >> _TAG_SHIFT:
        return Cause(
            errors.SlotAddressError,
            f"the user address has a tag in its top byte ({region.userspace_addr >> _TAG_SHIFT:#x})",
            "addresses without a tag",
            "clear bits 63:56",
        )
    return _beyond_user_space(region, known.va_bits or _LARGEST_VA_BITS)


def _maybe_address(region: Region, known: Known) -> Cause | None:
    """A kernel of fewer bits, where nothing else explains it."""
    return _beyond_user_space(region, known.va_bits or _USUAL_VA_BITS)


def _beyond_user_space(region: Region, va_bits: int) -> Cause | None:
    if region.userspace_addr + region.memory_size <= 1 << va_bits:
        return None
    return Cause(
        errors.SlotAddressError,
        f"the user addresses end beyond user space, {region.userspace_addr + region.memory_size:#x}",
        f"addresses below {1 << va_bits:#x} (2^{va_bits})",
        "name memory of this process",
    )


def _size(region: Region, known: Known) -> Cause | None:
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


def _deleted(region: Region, known: Known) -> Cause | None:
    if region.memory_size or known.slot(region.slot):
        return None
    return no_such_slot(region.slot, known)


def no_such_slot(number: int, known: Known) -> Cause:
    """There is nothing to delete or to read."""
    numbers = ", ".join(str(slot.slot_id) for slot in known.slots) or "none"
    return Cause(
        errors.NoSuchSlotError,
        f"there is no slot {number}" + " (size 0 means: delete it)",
        f"slots: {numbers}",
        "name one of these",
    )


def _fixed(region: Region, known: Known) -> Cause | None:
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


def _memfd(region: Region, known: Known) -> Cause | None:
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


def _mapping(region: Region, _known: Known) -> Cause | None:
    """Nothing that the arguments show: it is what the process has mapped there."""
    logging = region.flags & KVM_MEM_LOG_DIRTY_PAGES
    return Cause(
        errors.SlotMappingError,
        "the kernel takes no such slot of what is mapped there: "
        + ("device memory, whose writes it cannot log" if logging else "device memory, or memory without tags (MTE)"),
        "anonymous memory and files",
        "leave KVM_MEM_LOG_DIRTY_PAGES out" if logging else "use ordinary memory: GuestMemory",
    )


# ------------------------------------------------------------------------------------------------ the others


def _overlap(region: Region, known: Known) -> Cause | None:
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


def _beyond_ipa_space(region: Region, known: Known) -> Cause | None:
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


def _permission(region: Region, _known: Known) -> Cause | None:
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


def _no_memory(_region: Region, _known: Known) -> Cause | None:
    return Cause(
        errors.MemorySlotError,
        "the kernel has no memory for the slot: a dirty bitmap has a bit for each page",
        "what memory the host has left",
        "free memory, or make the slot smaller",
    )


_CAUSES: Final[dict[int, tuple[Callable[[Region, Known], Cause | None], ...]]] = {
    errno.EINVAL: (
        _slot_id,
        _flags,
        _alignment,
        _address,
        _size,
        _deleted,
        _fixed,
        _memfd,
        _maybe_address,
        _mapping,
    ),
    errno.EEXIST: (_overlap,),
    errno.EFAULT: (_beyond_ipa_space,),
    errno.EPERM: (_permission,),
    errno.EBADF: (_memfd,),
    errno.ENOMEM: (_no_memory,),
}


# ------------------------------------------------------------------------------------------------ logs and guest_memfd


def dirty_log_error(code: int, ioctl: str, slot: Memslot, known: Known, asked: str) -> KvmError:
    """Why the dirty log of a slot could not be read, or not be cleared."""
    if code == errno.EIO:
        return other_process_error("Vm", ioctl, 0)
    if code == errno.EINVAL and ioctl == "KVM_CLEAR_DIRTY_LOG":
        pages = slot.memory_size // known.page_size
        found = Cause(
            errors.DirtyLogRangeError,
            "the pages are not whole words of the slot's bitmap",
            f"multiples of 64 pages from a multiple of 64 on, or up to the end, page {pages}",
            "round first_page down to a multiple of 64 and num_pages up, or leave both out (Linux 5.0 or later)",
        )
    elif code == errno.ENOENT and slot.log_dirty:
        found = no_such_slot(slot.slot_id, known)
    else:
        found = _DIRTY_LOG.get(
            code, Cause(errors.MemorySlotError, os.strerror(code), "nothing", "look at the kernel log")
        )
    kind, cause, available, fix = found
    return kind(code, cause=cause, asked=asked, available=available, fix=fix, ioctl=ioctl)


_DIRTY_LOG: Final[dict[int, Cause]] = {
    errno.ENOENT: Cause(
        errors.DirtyLogOffError,
        "the slot's dirty logging is off",
        "the dirty logs of slots with KVM_MEM_LOG_DIRTY_PAGES",
        "switch it on first: Memslot.set_logging(True)",
    ),
    errno.ENXIO: Cause(
        errors.DirtyLogOffError,
        "the VM has a dirty ring in place of dirty bitmaps",
        "the rings of its vCPUs",
        "enable KVM_CAP_DIRTY_LOG_RING_WITH_BITMAP before the first slot",
    ),
    errno.EFAULT: Cause(
        errors.BadPointerError,
        "the kernel cannot get at the bitmap's memory",
        "memory that this process can read and write",
        "check the address, and that it is still mapped",
    ),
}


def guest_memfd_error(code: int, size: int, flags: int, known: Known) -> KvmError:
    """Why KVM_CREATE_GUEST_MEMFD failed."""
    ioctl = "KVM_CREATE_GUEST_MEMFD"
    if code == errno.EIO:
        return other_process_error("Vm", ioctl, 0)
    usable = known.check_extension(KVM_CAP_GUEST_MEMFD_FLAGS)
    if code == errno.EINVAL and not known.check_extension(KVM_CAP_GUEST_MEMFD):
        return _no_request(code, ioctl, "GuestMemory", "7.x")
    cause, fix = os.strerror(code), "look at the kernel log"
    if code == errno.EINVAL:
        cause, fix = f"the size is no multiple of {known.page_size:#x}, or not from there to 2^63", "round it"
        if flags & ~usable:
            cause, fix = f"flags {flags & ~usable:#x} are not of this kernel", "leave them out"
    elif code in (errno.EMFILE, errno.ENFILE):
        cause, fix = "there is no file descriptor left", "close what is no longer used, or raise RLIMIT_NOFILE"
    return errors.GuestMemfdError(
        code,
        cause=cause,
        asked=f"a guest_memfd of {size:#x} bytes, flags {flags:#x}",
        available=f"sizes in pages of {known.page_size:#x} bytes, flags {usable:#x}",
        fix=fix,
        ioctl=ioctl,
    )


def closed_vm(ioctl: str) -> KvmError:
    """The VM of these slots is closed."""
    return closed_error("Vm", ioctl)


def _no_request(code: int, ioctl: str, instead: str, since: str) -> KvmError:
    return errors.NotSupportedError(
        code,
        cause=f"this kernel has no {ioctl}",
        asked=ioctl,
        available=instead,
        ioctl=ioctl,
        fix=f"use {instead}, or run Linux {since} or later",
    )
