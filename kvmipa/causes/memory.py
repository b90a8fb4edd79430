# SPDX-License-Identifier: Apache-2.0
"""What is known of a VM when a memory request fails: its slots, and what it answers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

from kvmipa import errors
from kvmipa._abi_table import KVM_MEM_GUEST_MEMFD, KVM_MEM_LOG_DIRTY_PAGES, KVM_MEM_READONLY
from kvmipa.causes import Cause

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from kvmipa.memslot import Memslot

_FLAG_NAMES: Final = {
    KVM_MEM_LOG_DIRTY_PAGES: "KVM_MEM_LOG_DIRTY_PAGES",
    KVM_MEM_READONLY: "KVM_MEM_READONLY",
    KVM_MEM_GUEST_MEMFD: "KVM_MEM_GUEST_MEMFD",
}


class VmFacts(NamedTuple):
    """What is known of the VM: its slots, its host's page size in bytes, and what it answers when asked.

    va_bits: CONFIG_ARM64_VA_BITS, None where nobody knows it; ipa_bits: asked for only where it matters.
    """

    slots: Iterable[Memslot]
    page_size: int
    va_bits: int | None
    ipa_bits: Callable[[], int]
    check_extension: Callable[[int], int]

    def slot(self, number: int) -> Memslot | None:
        """The slot of a number."""
        return next((slot for slot in self.slots if slot.slot_id == number), None)


def flags_text(flags: int) -> str:
    """Flags by name.

    >>> flags_text(3), flags_text(9)
    ('KVM_MEM_LOG_DIRTY_PAGES | KVM_MEM_READONLY', 'KVM_MEM_LOG_DIRTY_PAGES | 0x8')
    """
    words = [name for bit, name in _FLAG_NAMES.items() if flags & bit]
    rest = flags & ~sum(_FLAG_NAMES)
    return " | ".join([*words, *([hex(rest)] if rest else [])]) or "none"


def no_such_slot(number: int, known: VmFacts) -> Cause:
    """There is nothing to delete or to read."""
    numbers = ", ".join(str(slot.slot_id) for slot in known.slots) or "none"
    return Cause(
        errors.NoSuchSlotError,
        f"there is no slot {number}" + " (size 0 means: delete it)",
        f"slots: {numbers}",
        "name one of these",
    )
