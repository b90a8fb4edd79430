# SPDX-License-Identifier: Apache-2.0
"""Which error a dirty log's errno becomes."""

from __future__ import annotations

import errno

import pytest

from kvmipa import errors
from kvmipa.abi import KVM_MEM_LOG_DIRTY_PAGES
from kvmipa.causes.dirty_log import dirty_log_error
from tests.causes.facts import a_slot, known


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
