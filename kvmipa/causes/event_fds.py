# SPDX-License-Identifier: Apache-2.0
"""Why an eventfd could not be connected with a VM, or not be taken from it (kernel-device-spec 4.8)."""

from __future__ import annotations

import errno
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from kvmipa import errors
from kvmipa.causes import Cause, handle_error, unnamed
from kvmipa.causes.interrupts import NO_VGIC, VGIC_NOT_READY

if TYPE_CHECKING:
    from kvmipa.errors import KvmError

# The sizes of writes; 0: any.
SIZES: Final = (0, 1, 2, 4, 8)

BUS_IS_FULL: Final = Cause(
    errors.IoBusFullError,
    "the VM's MMIO bus is full",
    "1000 ranges: coalesced zones, the vGIC's frames and ITSes",
    "remove coalesced zones that are no longer used",
)
_CLOSED_FD: Final = Cause(
    errors.NotAnEventFdError, "descriptor {fd} is not open", "open eventfds", "keep it open while the VM uses it"
)
_OTHER_FILE: Final = Cause(
    errors.NotAnEventFdError, "descriptor {fd} is not an eventfd's", "eventfds", "make one with os.eventfd()"
)


@dataclass(frozen=True)
class IrqfdAttempt:
    """An irqfd that was asked for, or that was to be removed. closed: whether the Vm is."""

    fd: int
    gsi: int
    resamplefd: int | None
    closed: bool

    def error(self, code: int, *, has_vgic: bool) -> KvmError:
        """Why it failed with errno ``code``."""
        ioctl = "KVM_IRQFD"
        common = None if code == errno.EBADF and not self.closed else handle_error(code, "Vm", ioctl)
        if common is not None:
            return common
        resample = "" if self.resamplefd is None else f", resample eventfd {self.resamplefd}"
        asked = f"eventfd {self.fd} for GSI {self.gsi}{resample}"
        return self._cause(code, has_vgic).error(code, asked=asked, ioctl=ioctl)

    def _cause(self, code: int, has_vgic: bool) -> Cause:
        if code == errno.EAGAIN:
            return VGIC_NOT_READY if has_vgic else NO_VGIC
        fds = f"{self.fd}" if self.resamplefd is None else f"{self.fd} or {self.resamplefd}"
        found = _IRQFD.get(code) or unnamed(code, errors.EventFdError)
        return found.filled(fd=fds)


_IRQFD: Final = {
    errno.EBADF: _CLOSED_FD,
    errno.EINVAL: _OTHER_FILE,
    errno.EBUSY: Cause(
        errors.EventFdInUseError,
        "eventfd {fd} has an irqfd already",
        "one irqfd for each eventfd: of a VM, since Linux 7.3 of all VMs",
        "remove that one first, or make another eventfd",
    ),
}


@dataclass(frozen=True)
class IoEventFdAttempt:
    """An ioeventfd that was asked for, or that was to be removed. closed: whether the Vm is."""

    fd: int
    guest_phys_addr: int
    size: int
    datamatch: int | None
    closed: bool

    def error(self, code: int) -> KvmError:
        """Why it failed with errno ``code``."""
        ioctl = "KVM_IOEVENTFD"
        common = None if code == errno.EBADF and not self.closed else handle_error(code, "Vm", ioctl)
        if common is not None:
            return common
        value = "" if self.datamatch is None else f" of {self.datamatch:#x}"
        what = f"{self.size} bytes" if self.size else "any size"
        asked = f"writes of {what}{value} to {self.guest_phys_addr:#x} as signals of eventfd {self.fd}"
        return self._cause(code).filled(fd=self.fd).error(code, asked=asked, ioctl=ioctl)

    def _cause(self, code: int) -> Cause:
        if code == errno.EINVAL:
            return self._wrong_range() or _OTHER_FILE
        return _IOEVENTFD.get(code) or unnamed(code, errors.EventFdError)

    def _wrong_range(self) -> Cause | None:
        available = "writes of 1, 2, 4 or 8 bytes, with a value or of any; or of any size and value (0)"
        if self.size not in SIZES:
            return Cause(errors.IoEventFdRangeError, f"no write has {self.size} bytes", available, "take one of these")
        if self.guest_phys_addr + self.size >= 1 << 64:
            return Cause(
                errors.IoEventFdRangeError,
                "the write ends at the end of the address space, or beyond it",
                "addresses below 2^64 - 1 - size",
                "take a smaller address",
            )
        if not self.size and self.datamatch is not None:
            return Cause(
                errors.IoEventFdRangeError,
                "writes of any size have no value to compare",
                available,
                "leave datamatch out, or name the size",
            )
        return None


_IOEVENTFD: Final = {
    errno.EBADF: _CLOSED_FD,
    errno.EEXIST: Cause(
        errors.IoEventFdExistsError,
        "such a write signals an eventfd already",
        "writes of another address, size or value",
        "remove that ioeventfd first",
    ),
    errno.ENOENT: Cause(
        errors.NoSuchIoEventFdError,
        "there is no such ioeventfd",
        "those that were made, by the same eventfd, address, size and value",
        "name it as it was made",
    ),
    errno.ENOSPC: BUS_IS_FULL,
}
