# SPDX-License-Identifier: Apache-2.0
"""From an errno and what else is known to the error that names the cause: one module for each subject.

Here is what they share, and what every handle needs; the subjects are imported where something failed.
"""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING, Final, NamedTuple

from kvmipa import errors

if TYPE_CHECKING:
    from kvmipa.errors import KvmError

KERNEL_LOG: Final = "look at the kernel log"

_ELSEWHERE: Final = " in another process"


class Cause(NamedTuple):
    """What an error says. The texts may have names in braces, which filled() replaces."""

    kind: type[KvmError]
    cause: str
    available: str
    fix: str

    def filled(self, **facts: object) -> Cause:
        """With the facts in place of their names."""
        return Cause(self.kind, *(text.format(**facts) for text in self[1:]))

    def error(self, code: int, *, asked: str, ioctl: str | None = None, argument: int | None = None) -> KvmError:
        """The error, with the kernel's errno and what was asked."""
        return self.kind(
            code,
            cause=self.cause,
            asked=asked,
            available=self.available,
            fix=self.fix,
            ioctl=ioctl,
            argument=argument,
        )


#: What everything that makes a descriptor may answer.
DESCRIPTOR_LIMITS: Final = {
    errno.EMFILE: Cause(
        errors.DescriptorLimitError,
        "this process has no file descriptor left",
        "as many as RLIMIT_NOFILE says",
        "close what is no longer used, or raise RLIMIT_NOFILE (ulimit -n)",
    ),
    errno.ENFILE: Cause(
        errors.DescriptorLimitError,
        "the system has no file descriptor left",
        "as many as fs.file-max says",
        "close what is no longer used, or raise fs.file-max",
    ),
}

_DEAD: Final = Cause(
    errors.VmDeadError,
    "the VM is dead: {cause}",
    "close()",
    "see to that before the first run, in a new VM",
)


def unnamed(code: int, kind: type[KvmError], available: str = "", fix: str = KERNEL_LOG) -> Cause:
    """The system's own words, where nothing more is known than the errno."""
    return Cause(kind, os.strerror(code), available, fix)


def closed_error(what: str, ioctl: str | None = None) -> KvmError:
    """A handle was used after close()."""
    return errors.ClosedError(
        errno.EBADF,
        cause=f"this {what} is closed",
        asked=ioctl or "its descriptor",
        available="nothing: close() was called",
        fix="use it inside its with block, or open a new one",
        ioctl=ioctl,
    )


def other_process_error(
    what: str, ioctl: str | None, argument: int | None = None, *, asked: str | None = None
) -> KvmError:
    """EIO: the VM belongs to another process; of a dead one the handle knows (of_vm). asked: what is no request."""
    return errors.OtherProcessError(
        errno.EIO,
        cause=f"this {what} belongs to the process that created it",
        asked=f"{asked or ioctl}{_ELSEWHERE}",
        available="close(), and VMs of this process's own",
        fix="create the VM in the process that uses it (after fork, not before)",
        ioctl=ioctl,
        argument=argument,
    )


def of_vm(error: KvmError, died_of: str | None) -> KvmError:
    """The error of a request to a VM, of which is known why it died, or None: EIO says nothing of that."""
    if died_of is None or not isinstance(error, errors.OtherProcessError):
        return error
    asked = error.asked.removesuffix(_ELSEWHERE)
    return _DEAD.filled(cause=died_of).error(errno.EIO, asked=asked, ioctl=error.ioctl, argument=error.argument)


def handle_error(code: int, what: str, ioctl: str, argument: int = 0) -> KvmError | None:
    """What every descriptor of a VM answers when it is closed, or another process's; None for any other errno."""
    if code == errno.EBADF:
        return closed_error(what, ioctl)
    return other_process_error(what, ioctl, argument) if code == errno.EIO else None


def no_request_error(code: int, ioctl: str, instead: str, since: str) -> KvmError:
    """The kernel is older than the request."""
    return errors.NotSupportedError(
        code,
        cause=f"this kernel has no {ioctl}",
        asked=ioctl,
        available=instead,
        ioctl=ioctl,
        fix=f"use {instead}, or run Linux {since} or later",
    )


def not_arm64_error(action: str) -> KvmError:
    """The KVM behind the descriptor is another architecture's."""
    return errors.NotArm64KvmError(
        errno.ENODEV,
        cause="this is not an arm64 KVM: it does not have KVM_CAP_ARM_PSCI, which every arm64 KVM has",
        asked=action,
        available="check_extension(), and the emulated backend",
        fix="use the emulated backend here (kvmipa --backend emulated), or run on arm64 Linux",
    )
