# SPDX-License-Identifier: Apache-2.0
"""Which error a memory request's errno becomes, where the kernels at hand cannot be brought to show it."""

from __future__ import annotations

import errno
import pickle
from typing import TYPE_CHECKING

import pytest

from kvmipa import errors
from kvmipa.abi import (
    KVM_CAP_ARM_VM_IPA_SIZE,
    KVM_CAP_GUEST_MEMFD,
    KVM_CAP_GUEST_MEMFD_FLAGS,
    KVM_CAP_NR_MEMSLOTS,
    KVM_CAP_USER_MEMORY2,
    KVM_MEM_GUEST_MEMFD,
    KVM_MEM_LOG_DIRTY_PAGES,
    KVM_MEM_READONLY,
)
from kvmipa.memory_causes import Known, Region, dirty_log_error, guest_memfd_error, region_error

if TYPE_CHECKING:
    from kvmipa import Memslot

IOCTL = "KVM_SET_USER_MEMORY_REGION"
NEW = {
    KVM_CAP_NR_MEMSLOTS: 32767,
    KVM_CAP_ARM_VM_IPA_SIZE: 48,
    KVM_CAP_USER_MEMORY2: 1,
    KVM_CAP_GUEST_MEMFD: 1,
    KVM_CAP_GUEST_MEMFD_FLAGS: 3,
}
GOOD = Region(0, 0x4000_0000, 0x1000, 0x10000)


class AMemslot:
    """A slot as the causes look at it."""

    def __init__(self, slot_id: int, gpa: int, size: int, flags: int = 0) -> None:
        self.slot_id, self.guest_phys_addr, self.memory_size, self.flags = slot_id, gpa, size, flags
        self.userspace_addr = 0x10000
        self.end = gpa + size
        self.log_dirty = bool(flags & KVM_MEM_LOG_DIRTY_PAGES)


def known(*slots: AMemslot, va_bits: int | None = None, **capabilities: int) -> Known:
    answers = NEW if not capabilities else {KVM_CAP_NR_MEMSLOTS: 512, KVM_CAP_ARM_VM_IPA_SIZE: 40}
    return Known(slots, 4096, va_bits, lambda: 40, lambda cap: answers.get(cap, 0))  # type: ignore[arg-type]


def a_slot(flags: int = 0) -> Memslot:
    return AMemslot(3, 0x4000_0000, 0x10_0000, flags)  # type: ignore[return-value]


@pytest.mark.parametrize(
    ("code", "region", "kind"),
    [
        (errno.EPERM, GOOD._replace(flags=KVM_MEM_LOG_DIRTY_PAGES), errors.ProtectedSlotError),
        (errno.EPERM, GOOD._replace(flags=KVM_MEM_READONLY), errors.ProtectedSlotError),
        (errno.EPERM, GOOD._replace(memory_size=0), errors.ProtectedSlotError),
        (errno.EPERM, GOOD, errors.SlotMappingError),
        (errno.EINVAL, GOOD, errors.SlotMappingError),
        (errno.EINVAL, GOOD._replace(userspace_addr=(1 << 48) - 0x1000), errors.SlotMappingError),
        (errno.EINVAL, GOOD._replace(userspace_addr=1 << 48), errors.SlotAddressError),
        (errno.EBADF, GOOD._replace(flags=KVM_MEM_GUEST_MEMFD), errors.GuestMemfdError),
        (errno.EINVAL, GOOD._replace(flags=KVM_MEM_GUEST_MEMFD, guest_memfd_offset=5), errors.GuestMemfdError),
        (errno.EINVAL, GOOD._replace(flags=KVM_MEM_GUEST_MEMFD | 1), errors.SlotFlagsError),
        (errno.EEXIST, GOOD, errors.SlotOverlapError),
        (errno.EEXIST, GOOD._replace(flags=KVM_MEM_GUEST_MEMFD), errors.GuestMemfdError),
        (errno.EFAULT, GOOD, errors.MemorySlotError),
        (errno.ENOMEM, GOOD, errors.MemorySlotError),
        (errno.EACCES, GOOD, errors.MemorySlotError),
        (errno.EIO, GOOD, errors.OtherProcessError),
    ],
)
def test_slot_that_was_refused(code: int, region: Region, kind: type[errors.KvmError]) -> None:
    error = region_error(code, IOCTL, region, known())
    assert (type(error), error.errno) == (kind, code)
    assert all((error.cause, error.asked, error.available, error.fix))
    assert str(pickle.loads(pickle.dumps(error))) == str(error)


def test_user_space_of_a_known_kernel_ends_where_it_says() -> None:
    region = GOOD._replace(userspace_addr=1 << 39)
    assert type(region_error(errno.EINVAL, IOCTL, region, known(va_bits=39))) is errors.SlotAddressError
    assert type(region_error(errno.EINVAL, IOCTL, region, known(va_bits=48))) is errors.SlotMappingError


def test_missing_request_is_named_before_anything_else() -> None:
    error = region_error(errno.EINVAL, IOCTL + "2", GOOD._replace(slot=99999), known(old=1))
    assert type(error) is errors.NotSupportedError
    assert type(region_error(errno.EINVAL, IOCTL, GOOD._replace(slot=512), known(old=1))) is errors.SlotIdError


@pytest.mark.parametrize(
    ("code", "ioctl", "flags", "kind"),
    [
        (errno.ENOENT, "KVM_GET_DIRTY_LOG", 0, errors.DirtyLogOffError),
        (errno.ENOENT, "KVM_GET_DIRTY_LOG", KVM_MEM_LOG_DIRTY_PAGES, errors.NoSuchSlotError),
        (errno.ENXIO, "KVM_GET_DIRTY_LOG", KVM_MEM_LOG_DIRTY_PAGES, errors.DirtyLogOffError),
        (errno.EFAULT, "KVM_GET_DIRTY_LOG", KVM_MEM_LOG_DIRTY_PAGES, errors.BadPointerError),
        (errno.EFAULT, "KVM_CLEAR_DIRTY_LOG", KVM_MEM_LOG_DIRTY_PAGES, errors.BadPointerError),
        (errno.EINVAL, "KVM_CLEAR_DIRTY_LOG", KVM_MEM_LOG_DIRTY_PAGES, errors.DirtyLogRangeError),
        (errno.EINVAL, "KVM_GET_DIRTY_LOG", KVM_MEM_LOG_DIRTY_PAGES, errors.MemorySlotError),
        (errno.EIO, "KVM_GET_DIRTY_LOG", 0, errors.OtherProcessError),
    ],
)
def test_dirty_log_that_was_refused(code: int, ioctl: str, flags: int, kind: type[errors.KvmError]) -> None:
    error = dirty_log_error(code, ioctl, a_slot(flags), known(), "the log")
    assert (type(error), error.errno, error.ioctl) == (kind, code, ioctl)


@pytest.mark.parametrize(
    ("code", "size", "flags", "words"),
    [
        (errno.EINVAL, 5, 0, "multiple of 0x1000"),
        (errno.EINVAL, 0x1000, 8, "flags 0x8"),
        (errno.EMFILE, 0x1000, 0, "descriptor"),
        (errno.ENOMEM, 0x1000, 0, "memory"),
    ],
)
def test_guest_memfd_that_was_refused(code: int, size: int, flags: int, words: str) -> None:
    error = guest_memfd_error(code, size, flags, known())
    assert (type(error), error.errno) == (errors.GuestMemfdError, code)
    assert words in error.cause


def test_overlap_names_the_first_slot_in_the_way_and_a_free_place() -> None:
    error = region_error(errno.EEXIST, IOCTL, GOOD, known(AMemslot(0, 0, 0x1000), AMemslot(5, 0x4000_0000, 0x2000)))
    assert "slot 5 (0x40000000 to 0x40001fff)" in error.cause
    assert "0x40002000" in error.fix
