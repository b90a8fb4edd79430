# SPDX-License-Identifier: Apache-2.0
"""What guests' counters lag behind the host's: KVM_ARM_SET_COUNTER_OFFSET (kernel-device-spec 4.9, Linux 6.4)."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING, Final

from kvmipa import abi, errors
from kvmipa.causes import Cause, handle_error, no_request_error, unnamed
from kvmipa.packing import PackedStruct

if TYPE_CHECKING:
    from kvmipa.errors import KvmError
    from kvmipa.interrupt_lines import Ask

_OFFSET: Final = PackedStruct("arm_counter_offset")


def set_offset(ask: Ask, ticks: int) -> None:
    """KVM_ARM_SET_COUNTER_OFFSET."""
    result = ask(abi.KVM_ARM_SET_COUNTER_OFFSET, _OFFSET.pack(ticks))
    if result < 0:
        raise _error(-result, ticks)


def _error(code: int, ticks: int) -> KvmError:
    ioctl = "KVM_ARM_SET_COUNTER_OFFSET"
    if code == errno.EINVAL:
        return no_request_error(code, ioctl, "the vCPUs' timer registers (KVM_SET_ONE_REG)", "6.4")
    found = _RUNNING if code == errno.EBUSY else unnamed(code, errors.KvmError)
    return handle_error(code, "Vm", ioctl) or found.error(code, asked=f"an offset of {ticks} ticks", ioctl=ioctl)


_RUNNING: Final = Cause(
    errors.VcpuIsRunningError, "a vCPU is running", "VMs none of whose vCPUs is", "kick the vCPUs first"
)
