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
    from kvmipa.asking import Ask

_COPY: Final = PackedStruct("arm_copy_mte_tags")

GRANULE: Final = 16

# The request answers how many bytes are done, an int (kvm_vm_ioctl_mte_copy_tags).
_SIZE_BITS: Final = 31


def read(ask: Ask, guest_phys_addr: int, size: int, page_size: int) -> bytes:
    """The tags of ``size`` bytes, one byte for each granule."""
    tags = bytearray(unsigned("size", size, _SIZE_BITS) // GRANULE)
    _copy(ask, TagsAttempt(guest_phys_addr, size, page_size, to_guest=False), tags)
    return bytes(tags)


def write(ask: Ask, guest_phys_addr: int, tags: bytes, page_size: int) -> None:
    """Set the tags from a guest address on."""
    size = unsigned("size", len(tags) * GRANULE, _SIZE_BITS)
    _copy(ask, TagsAttempt(guest_phys_addr, size, page_size, to_guest=True), bytearray(tags))


def _copy(ask: Ask, what: TagsAttempt, tags: bytearray) -> None:
    """Copy all of them: the kernel says how far it came where it met something."""
    direction = abi.KVM_ARM_TAGS_TO_GUEST if what.to_guest else abi.KVM_ARM_TAGS_FROM_GUEST
    done = 0
    while done < what.size or not what.size:
        address = address_of(tags) + done // GRANULE
        rest = _COPY.pack(what.guest_phys_addr + done, what.size - done, address, direction)
        result = ask(abi.KVM_ARM_MTE_COPY_TAGS, rest)
        if result < 0:
            raise what.error(-result, done)
        if not what.size:
            return
        done += result
