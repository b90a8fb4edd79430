# SPDX-License-Identifier: Apache-2.0
"""Why KVM_ENABLE_CAP refused: from the errno, the arguments and what the VM answers to the error that names the cause.

kernel-device-spec 4.7: the kernel has EINVAL for nearly everything. Whether the VM has a vCPU or memory is not asked:
where all else is in order, that is what is left.
"""

from __future__ import annotations

import errno
import os
from dataclasses import dataclass
from operator import index
from struct import Struct
from typing import TYPE_CHECKING, Final

from kvmipa import abi, errors
from kvmipa.abi import capability_name
from kvmipa.causes import closed_error, other_process_error

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Sequence

    from kvmipa.errors import KvmError

    # What the VM answers for a capability.
    Ask = Callable[[int], int]

IOCTL: Final = "KVM_ENABLE_CAP"

# struct kvm_enable_cap: args[4], pad[64].
MAX_ARGUMENTS: Final = 4
_PADDING: Final = 64
_STRUCT: Final = Struct(abi.STRUCTS["enable_cap"][0])


@dataclass(frozen=True)
class Enableable:
    """A capability that can be enabled on arm64.

    offered: the capability whose answer says whether it can be here, if not its own. takes: whether the first argument
    is one that it takes (with the answer of ``offered`` and the page size); which: that in words. before: what the VM
    must not have yet. after: the capability that has to be enabled first. once: whether a second time is refused.
    """

    takes: Callable[[int, int, int], bool]
    which: str = "any arguments"
    offered: int | None = None
    before: str = ""
    after: int | None = None
    once: bool = False
    ignores_flags: bool = False


def _any(_value: int, _answer: int, _page_size: int) -> bool:
    return True


def _is_power_of_two(value: int) -> bool:
    return value > 0 and not value & (value - 1)


def _ring_size(value: int, most: int, page_size: int) -> bool:
    # The kernel drops the upper half of the argument (kvm_vm_ioctl_enable_dirty_log_ring).
    size = value & 0xFFFF_FFFF
    return _is_power_of_two(size) and page_size <= size <= most


ENABLEABLE: Final[dict[int, Enableable]] = {
    abi.KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2: Enableable(
        lambda value, known, _: value in {0, 1, known}, "0, 1 or what check_extension() answers"
    ),
    abi.KVM_CAP_ARM_NISV_TO_USER: Enableable(_any),
    abi.KVM_CAP_HALT_POLL: Enableable(lambda value, *_: not value >> 32, "nanoseconds below 2**32"),
    abi.KVM_CAP_ARM_MTE: Enableable(_any, before="a vCPU or a slot of guest_memfd"),
    abi.KVM_CAP_ARM_SYSTEM_SUSPEND: Enableable(_any),
    abi.KVM_CAP_DIRTY_LOG_RING_ACQ_REL: Enableable(
        _ring_size,
        "a power of two, in bytes, from a page to what check_extension() answers",
        before="a vCPU",
        once=True,
        ignores_flags=True,
    ),
    abi.KVM_CAP_DIRTY_LOG_RING_WITH_BITMAP: Enableable(
        _any, before="a memory slot", after=abi.KVM_CAP_DIRTY_LOG_RING_ACQ_REL
    ),
    abi.KVM_CAP_ARM_EAGER_SPLIT_CHUNK_SIZE: Enableable(
        lambda value, sizes, _: not value or (_is_power_of_two(value) and bool(value & sizes)),
        "0 or one of the sizes of KVM_CAP_ARM_SUPPORTED_BLOCK_SIZES, in bytes",
        offered=abi.KVM_CAP_ARM_SUPPORTED_BLOCK_SIZES,
        before="a memory slot",
    ),
    abi.KVM_CAP_ARM_WRITABLE_IMP_ID_REGS: Enableable(_any, before="a vCPU"),
    abi.KVM_CAP_ARM_SEA_TO_USER: Enableable(_any),
}


def pack(cap: int, flags: int, args: Sequence[int]) -> bytearray:
    """The struct kvm_enable_cap; TypeError or OverflowError for what does not fit it."""
    if len(args) > MAX_ARGUMENTS:
        raise TypeError(f"KVM_ENABLE_CAP has {MAX_ARGUMENTS} arguments, not {len(args)}")
    for what, value, bits in (("capability", cap, 32), ("flags", flags, 32), *(("argument", arg, 64) for arg in args)):
        if not 0 <= index(value) < 1 << bits:
            raise OverflowError(f"{what} {value} does not fit {bits} bits")
    padded = [*args, *[0] * (MAX_ARGUMENTS - len(args))]
    return bytearray(_STRUCT.pack(cap, flags, *padded, *bytes(_PADDING)))


@dataclass(frozen=True)
class Attempt:
    """What was asked of KVM_ENABLE_CAP. page_size: the host's, in bytes; enabled: what this Vm has enabled before."""

    cap: int
    args: Sequence[int]
    flags: int
    page_size: int
    enabled: Collection[int]

    def error(self, code: int, ask: Ask) -> KvmError:
        """Why it failed with errno ``code``; ``ask`` is the VM's check_extension()."""
        if code == errno.EBADF:
            return closed_error("Vm", IOCTL)
        if code == errno.EIO:
            return other_process_error("Vm", IOCTL, self.cap)
        kind, cause, available, fix = errors.EnableCapError, os.strerror(code), "", "look at the kernel log"
        if code in {errno.EINVAL, errno.E2BIG}:
            kind, cause, available, fix = self._cause(ask)
        args = ", ".join(map(hex, self.args)) or "no arguments"
        flags = f", flags {self.flags:#x}" if self.flags else ""
        return kind(
            code,
            cause=cause,
            asked=f"{self.name} with {args}{flags}",
            available=available,
            fix=fix,
            ioctl=IOCTL,
            argument=self.cap,
        )

    @property
    def name(self) -> str:
        """The capability's name."""
        return capability_name(self.cap)

    def _cause(self, ask: Ask) -> tuple[type[errors.EnableCapError], str, str, str]:
        """The class, cause, what is available, and what to do."""
        known = ENABLEABLE.get(self.cap)
        if known is None:
            return (
                errors.CapabilityNotEnableableError,
                f"{self.name} cannot be enabled on arm64",
                ", ".join(map(capability_name, ENABLEABLE)),
                "use it without enabling it, if check_extension() says that it is there",
            )
        answer = ask(known.offered or self.cap)
        if not answer:
            return (
                errors.CapabilityNotEnableableError,
                f"{self.name} is not there: this kernel or this host does not have it, or this VM may not",
                f"check_extension({capability_name(known.offered or self.cap)}) answers 0",
                "ask check_extension() before enabling",
            )
        value = self.args[0] if self.args else 0
        if (self.flags and not known.ignores_flags) or not known.takes(value, answer, self.page_size):
            return (
                errors.InvalidCapabilityArgumentError,
                f"{self.name} does not take {'these flags' if self.flags else 'this argument'}",
                f"flags 0, {known.which}",
                "pass one of those",
            )
        return self._bad_moment(known)

    def _bad_moment(self, known: Enableable) -> tuple[type[errors.EnableCapError], str, str, str]:
        if known.once and self.cap in self.enabled:
            return errors.AlreadyEnabledError, f"{self.name} is enabled already", "once for each VM", "do not repeat it"
        if known.after is not None and known.after not in self.enabled:
            return (
                errors.NeedsOtherCapabilityError,
                f"{self.name} needs another capability",
                "",
                f"enable {capability_name(known.after)} first, before vCPUs and memory",
            )
        if known.before:
            return (
                errors.TooLateToEnableError,
                f"it is too late for {self.name}: the VM has {known.before}",
                f"VMs without {known.before}",
                "enable it right after create_vm()",
            )
        return errors.EnableCapError, "the kernel refused what it should allow", "", "look at the kernel log"
