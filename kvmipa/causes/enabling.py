# SPDX-License-Identifier: Apache-2.0
"""Why KVM_ENABLE_CAP refused: from the errno, the arguments and what the VM answers to the error.

kernel-device-spec 4.7: the kernel has EINVAL for nearly everything. Whether the VM has a vCPU or memory is not asked:
where all else is in order, that is what is left.
"""

from __future__ import annotations

import errno
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from kvmipa import abi, errors
from kvmipa.abi import capability_name
from kvmipa.causes import KERNEL_LOG, Cause, handle_error, unnamed

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Sequence

    from kvmipa.asking import AskCapability
    from kvmipa.errors import KvmError


IOCTL: Final = "KVM_ENABLE_CAP"


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


@dataclass(frozen=True)
class EnableAttempt:
    """What was asked of KVM_ENABLE_CAP. page_size: the host's, in bytes; enabled: what this Vm has enabled before."""

    cap: int
    args: Sequence[int]
    flags: int
    page_size: int
    enabled: Collection[int]

    def error(self, code: int, ask: AskCapability) -> KvmError:
        """Why it failed with errno ``code``; ``ask`` is the VM's check_extension()."""
        common = handle_error(code, "Vm", IOCTL, self.cap)
        if common is not None:
            return common
        found = self._cause(ask) if code in {errno.EINVAL, errno.E2BIG} else unnamed(code, errors.EnableCapError)
        args = ", ".join(map(hex, self.args)) or "no arguments"
        flags = f", flags {self.flags:#x}" if self.flags else ""
        return found.error(code, asked=f"{self.name} with {args}{flags}", ioctl=IOCTL, argument=self.cap)

    @property
    def name(self) -> str:
        """The capability's name."""
        return capability_name(self.cap)

    def _cause(self, ask: AskCapability) -> Cause:
        known = ENABLEABLE.get(self.cap)
        if known is None:
            return Cause(
                errors.CapabilityNotEnableableError,
                f"{self.name} cannot be enabled on arm64",
                ", ".join(map(capability_name, ENABLEABLE)),
                "use it without enabling it, if check_extension() says that it is there",
            )
        answer = ask(known.offered or self.cap)
        if not answer:
            return Cause(
                errors.CapabilityNotEnableableError,
                f"{self.name} is not there: this kernel or this host does not have it, or this VM may not",
                f"check_extension({capability_name(known.offered or self.cap)}) answers 0",
                "ask check_extension() before enabling",
            )
        value = self.args[0] if self.args else 0
        if (self.flags and not known.ignores_flags) or not known.takes(value, answer, self.page_size):
            return Cause(
                errors.InvalidCapabilityArgumentError,
                f"{self.name} does not take {'these flags' if self.flags else 'this argument'}",
                f"flags 0, {known.which}",
                "pass one of those",
            )
        return self._bad_moment(known)

    def _bad_moment(self, known: Enableable) -> Cause:
        if known.once and self.cap in self.enabled:
            return Cause(
                errors.AlreadyEnabledError, f"{self.name} is enabled already", "once for each VM", "do not repeat it"
            )
        if known.after is not None and known.after not in self.enabled:
            return Cause(
                errors.NeedsOtherCapabilityError,
                f"{self.name} needs another capability",
                "",
                f"enable {capability_name(known.after)} first, before vCPUs and memory",
            )
        if known.before:
            return Cause(
                errors.TooLateToEnableError,
                f"it is too late for {self.name}: the VM has {known.before}",
                f"VMs without {known.before}",
                "enable it right after create_vm()",
            )
        return Cause(errors.EnableCapError, "the kernel refused what it should allow", "", KERNEL_LOG)
