# SPDX-License-Identifier: Apache-2.0
"""struct kvm_run: what KVM_RUN and user space tell each other (kernel-device-spec 7)."""

from __future__ import annotations

from struct import Struct
from typing import Final

from kvmipa import abi

# Where things are.
_IMMEDIATE_EXIT: Final = 1
_EXIT_REASON: Final = 8
_FLAGS: Final = 14
_UNION: Final = 32

_put_reason: Final = Struct("=I").pack_into
_get_reason: Final = Struct("=I").unpack_from
_put_flags: Final = Struct("=H").pack_into


class RunArea:
    """A vCPU's run area, as the kernel reads and writes it."""

    __slots__ = ("_memory",)

    def __init__(self, memory: memoryview) -> None:
        self._memory = memory

    @property
    def immediate_exit(self) -> int:
        """Not 0: KVM_RUN is to return EINTR at once."""
        return self._memory[_IMMEDIATE_EXIT]

    @property
    def reason(self) -> int:
        """The exit reason that is there."""
        found: int = _get_reason(self._memory, _EXIT_REASON)[0]
        return found

    @reason.setter
    def reason(self, value: int) -> None:
        _put_reason(self._memory, _EXIT_REASON, value)

    @property
    def flags(self) -> int:
        """KVM_DEBUG_ARCH_HSR_HIGH_VALID of KVM_EXIT_DEBUG; no other is set."""
        return self._memory[_FLAGS]

    @flags.setter
    def flags(self, value: int) -> None:
        _put_flags(self._memory, _FLAGS, value)

    def exit(self, reason: int, layout: Struct, *fields: int) -> int:
        """Write an exit and what is of its kind: the reason."""
        memory = self._memory
        layout.pack_into(memory, _UNION, *fields)
        _put_reason(memory, _EXIT_REASON, reason)
        return reason

    def answer(self, layout: Struct, offset: int) -> int:
        """A number that user space has written into its exit, so many bytes behind the exit's beginning."""
        found: int = layout.unpack_from(self._memory, _UNION + offset)[0]
        return found


def exit_of_full_ring(area: RunArea) -> int:
    """KVM_EXIT_DIRTY_RING_FULL: the guest goes on when the ring has room again."""
    area.reason = abi.KVM_EXIT_DIRTY_RING_FULL
    return abi.KVM_EXIT_DIRTY_RING_FULL
