# SPDX-License-Identifier: Apache-2.0
"""Why the dirty log of a slot could not be read or cleared (kernel-ipa-spec 4)."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING, Final

from kvmipa import errors
from kvmipa.causes import Cause, no_request_error, other_process_error, unnamed
from kvmipa.causes.memory import no_such_slot

if TYPE_CHECKING:
    from kvmipa.causes.memory import VmFacts
    from kvmipa.errors import KvmError
    from kvmipa.memslot import Memslot


def dirty_log_error(
    code: int, ioctl: str, slot: Memslot, known: VmFacts, asked: str, *, cleared: range = range(0)
) -> KvmError:
    """Why the dirty log of a slot could not be read, or not be cleared; cleared: which of its pages were to be."""
    if code == errno.EIO:
        return other_process_error("Vm", ioctl, 0)
    if code == errno.EINVAL and ioctl == "KVM_CLEAR_DIRTY_LOG":
        pages = slot.memory_size // known.page_size
        if _is_whole_words(cleared, pages):
            return no_request_error(code, ioctl, "KVM_GET_DIRTY_LOG", "5.0")
        found = _RANGE.filled(pages=pages)
    elif code == errno.ENOENT and slot.log_dirty:
        found = no_such_slot(slot.slot_id, known)
    else:
        found = _CAUSES.get(code) or unnamed(code, errors.MemorySlotError, "nothing")
    return found.error(code, asked=asked, ioctl=ioctl)


def _is_whole_words(cleared: range, pages: int) -> bool:
    """Whether a kernel that has the request takes these of a slot's pages (kernel-device-spec 4.9)."""
    within = cleared.start <= pages and len(cleared) <= pages - cleared.start
    return within and not cleared.start % _WORD_BITS and (not len(cleared) % _WORD_BITS or cleared.stop == pages)


# Bits of the bitmap's unsigned long.
_WORD_BITS: Final = 64
_RANGE: Final = Cause(
    errors.DirtyLogRangeError,
    "the pages are not whole words of the slot's bitmap",
    "multiples of 64 pages from a multiple of 64 on, or up to the end, page {pages}",
    "round first_page down to a multiple of 64 and num_pages up, or leave both out",
)
_CAUSES: Final[dict[int, Cause]] = {
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
