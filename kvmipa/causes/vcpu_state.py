# SPDX-License-Identifier: Apache-2.0
"""Why a vCPU was not put into a state, given events, or debugged (kernel-device-spec 4.6)."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING, Final

from kvmipa import abi, errors
from kvmipa.causes import Cause, handle_error, unnamed
from kvmipa.causes.vcpu_registers import waiting_cause

if TYPE_CHECKING:
    from kvmipa.errors import KvmError
    from kvmipa.vcpu_state import VcpuEvents

# ESR_ELx.ISS of an SError.
_LARGEST_SYNDROME: Final = 0x1FF_FFFF


def state_error(code: int, request: int, asked: str, argument: int | None = None) -> KvmError:
    """Why a request failed that needs nothing else to be explained."""
    ioctl = abi.request_name(request)
    common = handle_error(code, "Vcpu", ioctl)
    if common is not None:
        return common
    found = _CAUSES.get((request, code)) or waiting_cause(code) or unnamed(code, errors.VcpuError)
    return found.error(code, asked=asked, ioctl=ioctl, argument=argument)


def events_error(code: int, events: VcpuEvents) -> KvmError:
    """Why KVM_SET_VCPU_EVENTS refused events."""
    ioctl = "KVM_SET_VCPU_EVENTS"
    common = handle_error(code, "Vcpu", ioctl)
    if common is not None:
        return common
    if code == errno.EINVAL:
        found = _LARGE_SYNDROME if events.serror_esr > _LARGEST_SYNDROME else _NO_RAS
    else:
        found = waiting_cause(code) or unnamed(code, errors.VcpuError)
    return found.error(code, asked=str(events), ioctl=ioctl)


_LARGE_SYNDROME: Final = Cause(
    errors.VcpuEventsError, "an SError's syndrome has 25 bits", f"0 to {_LARGEST_SYNDROME:#x}", "leave out the others"
)
_NO_RAS: Final = Cause(
    errors.VcpuEventsError,
    "this host's CPU has no RAS, without which an SError has no syndrome of one's choice",
    "SErrors without one",
    "ask check_extension(KVM_CAP_ARM_INJECT_SERROR_ESR) before; leave serror_has_esr False",
)
_CAUSES: Final = {
    (abi.KVM_SET_MP_STATE, errno.EINVAL): Cause(
        errors.MpStateError,
        "arm64 has no such state, or this kernel does not have it yet",
        "RUNNABLE and STOPPED; SUSPENDED since Linux 6.1",
        "use one of kvmipa.MpState",
    ),
    (abi.KVM_SET_GUEST_DEBUG, errno.EINVAL): Cause(
        errors.GuestDebugError,
        "a flag is not one that arm64 has",
        "ENABLE, SINGLESTEP, USE_SW_BP and USE_HW",
        "use those of kvmipa.GuestDebug",
    ),
}
