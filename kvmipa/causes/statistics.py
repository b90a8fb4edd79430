# SPDX-License-Identifier: Apache-2.0
"""Why there are no statistics (KVM_GET_STATS_FD)."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

from kvmipa import errors
from kvmipa.causes import DESCRIPTOR_LIMITS, Cause, handle_error, no_request_error, unnamed

if TYPE_CHECKING:
    from kvmipa.errors import KvmError


def stats_fd_error(code: int, what: str) -> KvmError:
    """Why a Vm or a Vcpu gives no descriptor."""
    ioctl = "KVM_GET_STATS_FD"
    common = handle_error(code, what, ioctl)
    if common is not None:
        return common
    if code == errno.EINVAL:
        return no_request_error(code, ioctl, "the files below /sys/kernel/debug/kvm", "5.14")
    found = DESCRIPTOR_LIMITS.get(code) or unnamed(code, errors.StatisticsError)
    return found.error(code, asked=f"a {what}'s statistics", ioctl=ioctl)


def not_readable_error(why: str) -> KvmError:
    """What was read is not what KVM writes."""
    found = Cause(
        errors.StatisticsError,
        f"the descriptor's content is not that of KVM's statistics: {why}",
        "descriptors of Linux, or that the emulation made on Linux",
        "do not close the number behind kvmipa's back",
    )
    return found.error(errno.EIO, asked="statistics")
