# SPDX-License-Identifier: Apache-2.0
"""Why a dirty ring cannot be used (kernel-device-spec 4.7, 4.9)."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING, Final

from kvmipa import errors
from kvmipa.causes import Cause, handle_error, unnamed

if TYPE_CHECKING:
    from kvmipa.errors import KvmError


def reset_error(code: int) -> KvmError:
    """Why KVM_RESET_DIRTY_RINGS failed."""
    ioctl = "KVM_RESET_DIRTY_RINGS"
    return handle_error(code, "Vm", ioctl) or _cause(code).error(code, asked="reset its dirty rings", ioctl=ioctl)


def ring_off_error(code: int) -> KvmError:
    """A vCPU's ring is not there."""
    return _cause(code).error(code, asked="a vCPU's dirty ring")


def _cause(code: int) -> Cause:
    return _OFF if code == errno.EINVAL else unnamed(code, errors.DirtyRingError)


_OFF: Final = Cause(
    errors.DirtyRingOffError,
    "the VM has no dirty rings",
    "VMs with KVM_CAP_DIRTY_LOG_RING_ACQ_REL (arm64 since Linux 6.2)",
    "call Vm.enable_dirty_ring() before the first vCPU is made",
)
