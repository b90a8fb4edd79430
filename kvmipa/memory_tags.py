# SPDX-License-Identifier: Apache-2.0
"""Memory tags of a guest's memory, for saving a VM: KVM_ARM_MTE_COPY_TAGS (kernel-device-spec 4.9).

Arm ARM, FEAT_MTE: a tag has 4 bits, and each granule of 16 bytes has one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from kvmipa import abi
from kvmipa.buffers import address_of
from kvmipa.causes.memory_tags import TagsAttempt
from kvmipa.packing import PackedStruct, unsigned

if TYPE_CHECKING:
    from kvmipa.interrupt_lines import Ask

_COPY: Final = PackedStruct("arm_copy_mte_tags")

GRANULE: Final = 16

# arch/arm64/include/uapi/asm/kvm.h: KVM_ARM_TAGS_TO_GUEST, KVM_ARM_TAGS_FROM_GUEST.
_TO_GUEST: Final = 0
_FROM_GUEST: Final = 1


def read(ask: Ask, ipa: int, size: int, page_size: int) -> bytes:
    """The tags of ``size`` bytes, one byte for each granule."""
    tags = bytearray(unsigned("size", size, 31) // GRANULE)
    _copy(ask, TagsAttempt(ipa, size, page_size, to_guest=False), tags)
    return bytes(tags)


def write(ask: Ask, ipa: int, tags: bytes, page_size: int) -> None:
    """Set the tags from a guest address on."""
    _copy(ask, TagsAttempt(ipa, len(tags) * GRANULE, page_size, to_guest=True), bytearray(tags))


def _copy(ask: Ask, what: TagsAttempt, tags: bytearray) -> None:
    """Copy all of them: the kernel says how far it came where it met something."""
    direction = _TO_GUEST if what.to_guest else _FROM_GUEST
    done = 0
    while done < what.size or not what.size:
        address = address_of(tags) + done // GRANULE
        result = ask(abi.KVM_ARM_MTE_COPY_TAGS, _COPY.pack(what.ipa + done, what.size - done, address, direction))
        if result < 0:
            raise what.error(-result, done)
        if not what.size:
            return
        done += result
