# SPDX-License-Identifier: Apache-2.0
"""Which error a slot's errno becomes, where the kernels at hand cannot be brought to show it."""

from __future__ import annotations

import errno
import pickle

import pytest

from kvmipa import errors
from kvmipa.abi import KVM_MEM_GUEST_MEMFD, KVM_MEM_LOG_DIRTY_PAGES, KVM_MEM_READONLY
from kvmipa.causes.slots import region_error
from kvmipa.memory_region import MemoryRegion
from tests.causes.facts import AMemslot, known

IOCTL = "KVM_SET_USER_MEMORY_REGION"
GOOD = MemoryRegion(0, 0x4000_0000, 0x1000, 0x10000)


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
def test_slot_that_was_refused(code: int, region: MemoryRegion, kind: type[errors.KvmError]) -> None:
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


def test_overlap_names_the_first_slot_in_the_way_and_a_free_place() -> None:
    error = region_error(errno.EEXIST, IOCTL, GOOD, known(AMemslot(0, 0, 0x1000), AMemslot(5, 0x4000_0000, 0x2000)))
    assert "slot 5 (0x40000000 to 0x40001fff)" in error.cause
    assert "0x40002000" in error.fix
