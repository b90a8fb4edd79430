# SPDX-License-Identifier: Apache-2.0
"""What devices and vCPUs share where an attribute could not be set or read (kernel-device-spec 2, 3)."""

from __future__ import annotations

import errno
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Final

from kvmipa import errors
from kvmipa.abi import request_name
from kvmipa.causes import Cause, handle_error, unnamed

if TYPE_CHECKING:
    from kvmipa.errors import KvmError

BAD_POINTER: Final = Cause(
    errors.AttributePointerError,
    "the kernel cannot use the memory of the attribute's value",
    "memory that this process can read and write",
    "pass the value itself: set_attr() and get_attr() make the memory",
)


@dataclass(frozen=True)
class AttributeAttempt:
    """An attribute that was asked for, and the value that it was to have, if that is a number.

    closed: whether the handle is. Where it is not, EBADF is of another descriptor: one that is the attribute's value.
    """

    what: ClassVar[str]
    kind: ClassVar[type[KvmError]]

    request: int
    group: int
    attr: int
    value: int | None
    closed: bool

    def error(self, code: int) -> KvmError:
        """Why it failed with errno ``code``."""
        ioctl = request_name(self.request)
        common = None if code == errno.EBADF and not self.closed else handle_error(code, self.what, ioctl)
        if common is not None:
            return common
        value = "" if self.value is None else f", {self.value:#x}"
        asked = f"attribute {self.attr:#x} of group {self.group}{value}"
        return (self._cause(code) or unnamed(code, self.kind)).error(code, asked=asked, ioctl=ioctl)

    def _cause(self, code: int) -> Cause | None:
        raise NotImplementedError
