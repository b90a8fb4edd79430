# SPDX-License-Identifier: Apache-2.0
"""Why memory tags could not be copied (kernel-device-spec 4.9)."""

from __future__ import annotations

import errno
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from kvmipa import errors
from kvmipa.causes import Cause, handle_error, unnamed

if TYPE_CHECKING:
    from kvmipa.errors import KvmError


@dataclass(frozen=True)
class TagsAttempt:
    """Tags that were to be copied: of ``size`` bytes of guest memory."""

    guest_phys_addr: int
    size: int
    page_size: int
    to_guest: bool

    def error(self, code: int, done: int) -> KvmError:
        """Why it failed with errno ``code`` after ``done`` bytes."""
        ioctl = "KVM_ARM_MTE_COPY_TAGS"
        common = handle_error(code, "Vm", ioctl)
        if common is not None:
            return common
        direction = "to" if self.to_guest else "from"
        asked = f"tags {direction} {self.size:#x} bytes of guest memory at {self.guest_phys_addr:#x}"
        return self._cause(code, done).error(code, asked=asked, ioctl=ioctl)

    def _cause(self, code: int, done: int) -> Cause:
        if code == errno.EINVAL:
            is_whole = (self.guest_phys_addr | self.size) % self.page_size == 0
            return _OFF if is_whole else _RANGE.filled(page_size=self.page_size)
        if code == errno.EFAULT:
            return _NO_PAGE.filled(at=hex(self.guest_phys_addr + done))
        return _LOGGED if code == errno.EBUSY else unnamed(code, errors.MemoryTagsError)


_RANGE: Final = Cause(
    errors.MemoryTagsRangeError,
    "the range is not whole pages",
    "multiples of {page_size} bytes from a multiple of that on",
    "round it",
)
_OFF: Final = Cause(
    errors.MemoryTagsOffError,
    "the VM has no memory tags",
    "VMs with KVM_CAP_ARM_MTE, on CPUs with FEAT_MTE (Linux 5.14)",
    "enable_cap(KVM_CAP_ARM_MTE) right after create_vm(), where check_extension() has it",
)
_NO_PAGE: Final = Cause(
    errors.MemoryTagsRangeError,
    "the guest has no memory at {at}, or none whose tags can be copied so",
    "pages of slots; writable ones to set tags",
    "add memory there first, and copy what is in slots",
)
_LOGGED: Final = Cause(
    errors.MemoryTagsLoggedError,
    "tags are not written while pages are logged",
    "VMs none of whose slots has KVM_MEM_LOG_DIRTY_PAGES",
    "switch logging off first: Memslot.set_logging(False)",
)
