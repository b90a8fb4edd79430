# SPDX-License-Identifier: Apache-2.0
"""What the causes of memory requests are told: a VM, and its slots."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kvmipa.abi import (
    KVM_CAP_ARM_VM_IPA_SIZE,
    KVM_CAP_GUEST_MEMFD,
    KVM_CAP_GUEST_MEMFD_FLAGS,
    KVM_CAP_NR_MEMSLOTS,
    KVM_CAP_USER_MEMORY2,
    KVM_MEM_LOG_DIRTY_PAGES,
)
from kvmipa.causes.memory import VmFacts

if TYPE_CHECKING:
    from kvmipa import Memslot

NEW = {
    KVM_CAP_NR_MEMSLOTS: 32767,
    KVM_CAP_ARM_VM_IPA_SIZE: 48,
    KVM_CAP_USER_MEMORY2: 1,
    KVM_CAP_GUEST_MEMFD: 1,
    KVM_CAP_GUEST_MEMFD_FLAGS: 3,
}


class AMemslot:
    """A slot as the causes look at it."""

    def __init__(self, slot_id: int, gpa: int, size: int, flags: int = 0) -> None:
        self.slot_id, self.guest_phys_addr, self.memory_size, self.flags = slot_id, gpa, size, flags
        self.userspace_addr = 0x10000
        self.end = gpa + size
        self.log_dirty = bool(flags & KVM_MEM_LOG_DIRTY_PAGES)


def known(*slots: AMemslot, va_bits: int | None = None, **capabilities: int) -> VmFacts:
    answers = NEW if not capabilities else {KVM_CAP_NR_MEMSLOTS: 512, KVM_CAP_ARM_VM_IPA_SIZE: 40}
    return VmFacts(slots, 4096, va_bits, lambda: 40, lambda cap: answers.get(cap, 0))  # type: ignore[arg-type]


def a_slot(flags: int = 0) -> Memslot:
    return AMemslot(3, 0x4000_0000, 0x10_0000, flags)  # type: ignore[return-value]
