# SPDX-License-Identifier: Apache-2.0
"""Why a coalesced zone was refused (kernel-device-spec 4.8)."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

from kvmipa import errors
from kvmipa.causes import handle_error, unnamed
from kvmipa.causes.event_fds import BUS_IS_FULL

if TYPE_CHECKING:
    from kvmipa.errors import KvmError


def zone_error(code: int, ioctl: str, guest_phys_addr: int, size: int) -> KvmError:
    """Why a zone could not be made, or not be taken away."""
    common = handle_error(code, "Vm", ioctl)
    if common is not None:
        return common
    found = BUS_IS_FULL if code == errno.ENOSPC else unnamed(code, errors.CoalescedMmioError)
    return found.error(code, asked=f"writes to {size:#x} bytes from {guest_phys_addr:#x} on, collected", ioctl=ioctl)


def not_mapped_error(code: int) -> KvmError:
    """The ring is not there to be read."""
    found = unnamed(code, errors.CoalescedMmioError, "vCPUs whose run area can be mapped")
    return found.error(code, asked="the ring of collected writes")
