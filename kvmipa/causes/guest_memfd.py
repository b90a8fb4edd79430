# SPDX-License-Identifier: Apache-2.0
"""Why KVM_CREATE_GUEST_MEMFD failed (kernel-ipa-spec 4)."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING, Final

from kvmipa import errors
from kvmipa._abi_table import KVM_CAP_GUEST_MEMFD, KVM_CAP_GUEST_MEMFD_FLAGS
from kvmipa.causes import DESCRIPTOR_LIMITS, Cause, no_request_error, other_process_error, unnamed

if TYPE_CHECKING:
    from kvmipa.causes.memory import VmFacts
    from kvmipa.errors import KvmError

_IOCTL: Final = "KVM_CREATE_GUEST_MEMFD"


def guest_memfd_error(code: int, size: int, flags: int, known: VmFacts) -> KvmError:
    """Why KVM_CREATE_GUEST_MEMFD failed."""
    if code == errno.EIO:
        return other_process_error("Vm", _IOCTL, 0)
    if code == errno.EINVAL and not known.check_extension(KVM_CAP_GUEST_MEMFD):
        return no_request_error(code, _IOCTL, "GuestMemory", "7.x")
    usable = known.check_extension(KVM_CAP_GUEST_MEMFD_FLAGS)
    sizes = f"sizes in pages of {known.page_size:#x} bytes, flags {usable:#x}"
    found = DESCRIPTOR_LIMITS.get(code) or _cause(code, flags & ~usable, known.page_size)._replace(available=sizes)
    return found.error(code, asked=f"a guest_memfd of {size:#x} bytes, flags {flags:#x}", ioctl=_IOCTL)


def _cause(code: int, unknown_flags: int, page_size: int) -> Cause:
    kind = errors.GuestMemfdError
    if code == errno.EINVAL and unknown_flags:
        return Cause(kind, f"flags {unknown_flags:#x} are not of this kernel", "", "leave them out")
    if code == errno.EINVAL:
        return Cause(kind, f"the size is no multiple of {page_size:#x}, or not from there to 2^63", "", "round it")
    return unnamed(code, kind)
