# SPDX-License-Identifier: Apache-2.0
"""Why the counters' offset was not set (kernel-device-spec 4.9)."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING, Final

from kvmipa import errors
from kvmipa.causes import Cause, handle_error, no_request_error, unnamed

if TYPE_CHECKING:
    from kvmipa.errors import KvmError


def offset_error(code: int, ticks: int) -> KvmError:
    """Why KVM_ARM_SET_COUNTER_OFFSET failed."""
    ioctl = "KVM_ARM_SET_COUNTER_OFFSET"
    if code == errno.EINVAL:
        return no_request_error(code, ioctl, "the vCPUs' timer registers (KVM_SET_ONE_REG)", "6.4")
    found = _RUNNING if code == errno.EBUSY else unnamed(code, errors.KvmError)
    return handle_error(code, "Vm", ioctl) or found.error(code, asked=f"an offset of {ticks} ticks", ioctl=ioctl)


_RUNNING: Final = Cause(errors.VcpuBusyError, "a vCPU is running", "VMs none of whose vCPUs is", "kick the vCPUs first")
