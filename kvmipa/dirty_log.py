# SPDX-License-Identifier: Apache-2.0
"""The dirty log of a memory slot: reading its bitmap, clearing bits, and the pages that bits stand for."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from kvmipa._abi_table import KVM_CLEAR_DIRTY_LOG, KVM_GET_DIRTY_LOG
from kvmipa.buffers import address_of
from kvmipa.causes import of_vm
from kvmipa.causes.dirty_log import dirty_log_error
from kvmipa.packing import PackedStruct, unsigned

if TYPE_CHECKING:
    from collections.abc import Iterator

    from kvmipa.memslot import Memslot
    from kvmipa.slots import SlotTable

_DIRTY_LOG: Final = PackedStruct("dirty_log")
_CLEAR_DIRTY_LOG: Final = PackedStruct("clear_dirty_log")

_REQUESTS: Final = {"KVM_GET_DIRTY_LOG": KVM_GET_DIRTY_LOG, "KVM_CLEAR_DIRTY_LOG": KVM_CLEAR_DIRTY_LOG}

# The bitmap's unsigned long (arm64, and whatever this runs on).
_WORD_BITS: Final = 64
_WORD_SIZE: Final = 8


def pages_of(bitmap: bytes) -> Iterator[int]:
    """The numbers of the bits that are set.

    >>> import sys
    >>> list(pages_of((1 << 3 | 1 << 70).to_bytes(16, sys.byteorder)[:8] + bytes(8)))
    [3]
    """
    for position, word in enumerate(memoryview(bitmap).cast("Q")):
        left = word
        while left:
            lowest = left & -left
            yield position * _WORD_BITS + lowest.bit_length() - 1
            left ^= lowest


def read(table: SlotTable, slot: Memslot) -> bytes:
    """KVM_GET_DIRTY_LOG: a slot's bitmap."""
    bitmap = bytearray(_size(table.pages(slot)))
    argument = _DIRTY_LOG.pack(slot.slot_id, 0, address_of(bitmap))
    _ask(table, "KVM_GET_DIRTY_LOG", argument, slot, f"the dirty log of {slot!r}")
    return bytes(bitmap)


def clear(table: SlotTable, slot: Memslot, first_page: int, num_pages: int | None, bitmap: bytes | None) -> None:
    """KVM_CLEAR_DIRTY_LOG: the bits that are set in bitmap, or all (None)."""
    pages = table.pages(slot)
    first_page = unsigned("first_page", first_page, 64)
    num_pages = max(pages - first_page, 0) if num_pages is None else unsigned("num_pages", num_pages, 32)
    length = _size(num_pages)
    if bitmap is not None and len(bitmap) < length:
        raise ValueError(f"the bitmap of {num_pages} pages has {length} bytes, not {len(bitmap)}")
    # More pages than the slot has are refused before the bitmap is looked at.
    words = bytearray(b"\xff" * min(length, _size(pages)) if bitmap is None else bitmap)
    argument = _CLEAR_DIRTY_LOG.pack(slot.slot_id, num_pages, first_page, address_of(words) if words else 0)
    asked = f"clearing {num_pages} pages from {first_page} on in the dirty log of {slot!r}"
    _ask(table, "KVM_CLEAR_DIRTY_LOG", argument, slot, asked, cleared=range(first_page, first_page + num_pages))


def _size(pages: int) -> int:
    """Bytes of the bitmap of so many pages: whole words."""
    return -(-pages // _WORD_BITS) * _WORD_SIZE


def _ask(
    table: SlotTable, name: str, argument: bytearray, slot: Memslot, asked: str, *, cleared: range = range(0)
) -> None:
    result = table.request(_REQUESTS[name], name, argument)
    if result < 0:
        raise of_vm(dirty_log_error(-result, name, slot, table.facts(), asked, cleared=cleared), table.died_of)
