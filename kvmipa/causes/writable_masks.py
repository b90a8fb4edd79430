# SPDX-License-Identifier: Apache-2.0
"""Why the kernel does not say which bits of the ID registers may be changed."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kvmipa.causes import handle_error, no_request_error

if TYPE_CHECKING:
    from kvmipa.errors import KvmError


def masks_error(code: int) -> KvmError:
    """Why KVM_ARM_GET_REG_WRITABLE_MASKS failed."""
    ioctl = "KVM_ARM_GET_REG_WRITABLE_MASKS"
    instead = "KVM_SET_ONE_REG, which refuses what cannot be changed"
    return handle_error(code, "Vm", ioctl) or no_request_error(code, ioctl, instead, "6.7")
