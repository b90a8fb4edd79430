# SPDX-License-Identifier: Apache-2.0
"""Which error a dirty log's errno becomes."""

from __future__ import annotations

import errno

import pytest

from kvmipa import errors
from kvmipa.abi import KVM_MEM_LOG_DIRTY_PAGES
from kvmipa.causes.dirty_log import dirty_log_error
from tests.causes.facts import a_slot, known
from tests.causes.naming import assert_names


@pytest.mark.parametrize(
    ("code", "ioctl", "flags", "kind"),
    [
        (errno.ENOENT, "KVM_GET_DIRTY_LOG", 0, errors.DirtyLogOffError),
        (errno.ENOENT, "KVM_GET_DIRTY_LOG", KVM_MEM_LOG_DIRTY_PAGES, errors.NoSuchSlotError),
        (errno.ENXIO, "KVM_GET_DIRTY_LOG", KVM_MEM_LOG_DIRTY_PAGES, errors.DirtyLogOffError),
        (errno.EFAULT, "KVM_GET_DIRTY_LOG", KVM_MEM_LOG_DIRTY_PAGES, errors.BadPointerError),
        (errno.EFAULT, "KVM_CLEAR_DIRTY_LOG", KVM_MEM_LOG_DIRTY_PAGES, errors.BadPointerError),
        (errno.EINVAL, "KVM_GET_DIRTY_LOG", KVM_MEM_LOG_DIRTY_PAGES, errors.MemorySlotError),
        (errno.EIO, "KVM_GET_DIRTY_LOG", 0, errors.OtherProcessError),
    ],
)
def test_dirty_log_that_was_refused(code: int, ioctl: str, flags: int, kind: type[errors.KvmError]) -> None:
    error = dirty_log_error(code, ioctl, a_slot(flags), known(), "the log")
    assert_names(error, kind, code, ioctl)


# The slot has 256 pages of 4K, or 16 of 64K.
@pytest.mark.parametrize("cleared", [range(256), range(64, 128), range(192, 256), range(256, 256), range(0)])
def test_pages_that_every_kernel_clears_say_that_this_one_has_no_request(cleared: range) -> None:
    error = cleared_error(cleared)
    assert (type(error), error.cause) == (errors.NotSupportedError, "this kernel has no KVM_CLEAR_DIRTY_LOG")
    assert "Linux 5.0" in error.fix


@pytest.mark.parametrize(
    "cleared", [range(1, 256), range(63), range(64, 320), range(320, 320), range(64, 65), range(1 << 63, 1 << 63)]
)
def test_pages_that_no_kernel_clears_are_named(cleared: range) -> None:
    error = cleared_error(cleared)
    assert type(error) is errors.DirtyLogRangeError
    assert "page 256" in error.available


def test_pages_up_to_the_end_need_no_whole_word() -> None:
    facts = known()._replace(page_size=1 << 16)
    slot = a_slot(KVM_MEM_LOG_DIRTY_PAGES)
    found = [
        type(dirty_log_error(errno.EINVAL, "KVM_CLEAR_DIRTY_LOG", slot, facts, "the log", cleared=range(pages)))
        for pages in (15, 16)
    ]
    assert found == [errors.DirtyLogRangeError, errors.NotSupportedError]


def cleared_error(cleared: range) -> errors.KvmError:
    slot = a_slot(KVM_MEM_LOG_DIRTY_PAGES)
    return dirty_log_error(errno.EINVAL, "KVM_CLEAR_DIRTY_LOG", slot, known(), "the log", cleared=cleared)
