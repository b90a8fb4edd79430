# SPDX-License-Identifier: Apache-2.0
"""Why a guest's calls could not be filtered (kernel-device-spec 3.5)."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING, Final

from kvmipa import errors
from kvmipa.causes import Cause, handle_error, no_request_error, unnamed

if TYPE_CHECKING:
    from kvmipa.errors import KvmError


def filter_error(code: int, first: int, count: int, *, has_filter: bool) -> KvmError:
    """Why a range of function ids was refused."""
    ioctl = "KVM_SET_DEVICE_ATTR"
    common = handle_error(code, "Vm", ioctl)
    if common is not None:
        return common
    if not has_filter:
        return no_request_error(code, "filter of guests' calls", "what KVM itself makes of them", "6.4")
    found = _CAUSES.get(code) or unnamed(code, errors.SmcccFilterError)
    return found.error(code, asked=f"{count} function ids from {first:#x} on", ioctl=ioctl)


_CAUSES: Final = {
    errno.EINVAL: Cause(
        errors.SmcccRangeError,
        "the range is empty, or ends beyond the last function id",
        "1 to 2^32 function ids, up to 0xffffffff",
        "name one function at least",
    ),
    errno.EEXIST: Cause(
        errors.SmcccRangeTakenError,
        "a part of the range has an action already, or is KVM's own",
        "function ids without one, not 0x80000000..0x8000ffff and 0xc0000000..0xc000ffff",
        "name each function once, and leave the Arm Architecture calls to KVM",
    ),
    errno.EBUSY: Cause(
        errors.VcpuHasRunError, "a vCPU has run", "VMs whose vCPUs have not run", "filter before the first run"
    ),
}
