# SPDX-License-Identifier: Apache-2.0
"""Dirty logs of the emulated kernel: KVM_GET_DIRTY_LOG and KVM_CLEAR_DIRTY_LOG (kernel-device-spec 4.9)."""

from __future__ import annotations

from errno import EINVAL, ENOENT, ENXIO
from struct import Struct
from typing import TYPE_CHECKING, Final

from kvmipa._abi_table import KVM_CLEAR_DIRTY_LOG, KVM_GET_DIRTY_LOG, STRUCTS
from kvmipa.backend.emulated import user_memory
from kvmipa.backend.emulated.requests import RefusedError, Request

if TYPE_CHECKING:
    from collections.abc import Iterator

    from kvmipa.backend.emulated.memslots import Slot
    from kvmipa.backend.emulated.user_memory import Argument
    from kvmipa.backend.emulated.vm import VirtualMachine

_DIRTY_LOG: Final = Struct(STRUCTS["dirty_log"][0])
_CLEAR_DIRTY_LOG: Final = Struct(STRUCTS["clear_dirty_log"][0])

# The bitmap is made of unsigned longs.
_WORD: Final = Struct("=Q")
_WORD_BITS: Final = 64
_WORD_SHIFT: Final = 6
_ALL_ONES: Final = (1 << _WORD_BITS) - 1

# So much of a bitmap is put together at a time: that of 2^31 pages has 256 MiB.
_CHUNK_WORDS: Final = 1 << 17


class DirtyBitmap:
    """Which pages of a slot are dirty: words that differ from what all words began as.

    What is kept grows with the pages that were written, not with the slot.
    """

    __slots__ = ("_initial", "_words", "npages")

    def __init__(self, npages: int, *, all_dirty: bool = False) -> None:
        self.npages = npages
        self._initial = _ALL_ONES if all_dirty else 0
        self._words: dict[int, int] = {}
        tail = npages % _WORD_BITS
        if all_dirty and tail:
            # bitmap_set() sets as many bits as there are pages, not those that pad the last word.
            self._words[npages >> _WORD_SHIFT] = (1 << tail) - 1

    @property
    def word_count(self) -> int:
        """Unsigned longs of the bitmap that user space gets (kvm_dirty_bitmap_bytes)."""
        return -(-self.npages // _WORD_BITS)

    def mark(self, page: int) -> None:
        """Set the bit of a page, counted from the slot's start."""
        index = page >> _WORD_SHIFT
        self._words[index] = self._words.get(index, self._initial) | 1 << (page & _WORD_BITS - 1)

    def take(self) -> DirtyBitmap:
        """All that is dirty, as a bitmap of its own; this one is clean afterwards."""
        taken = DirtyBitmap(self.npages)
        taken._initial, taken._words = self._initial, self._words
        self._initial, self._words = 0, {}
        return taken

    def clear(self, index: int, mask: int) -> int:
        """Clear bits of a word; those that were set."""
        word = self._words.get(index, self._initial)
        cleared = word & mask
        if cleared:
            self._words[index] = word & ~mask
        return cleared

    def chunks(self) -> Iterator[bytes]:
        """The bitmap as user space gets it, a piece at a time."""
        initial = _WORD.pack(self._initial)
        changed = sorted(self._words)
        position = 0
        for first in range(0, self.word_count, _CHUNK_WORDS):
            words = min(_CHUNK_WORDS, self.word_count - first)
            chunk = bytearray(initial * words)
            while position < len(changed) and changed[position] < first + words:
                index = changed[position]
                _WORD.pack_into(chunk, (index - first) * _WORD.size, self._words[index])
                position += 1
            yield bytes(chunk)

    def pages(self) -> Iterator[int]:
        """The dirty pages in order, counted from the slot's start."""
        indices = range(self.word_count) if self._initial else sorted(self._words)
        for index in indices:
            yield from _bits(index, self._words.get(index, self._initial))


def _bits(index: int, word: int) -> Iterator[int]:
    """The pages of the bits that are set in a word."""
    while word:
        lowest = word & -word
        yield (index << _WORD_SHIFT) + lowest.bit_length() - 1
        word ^= lowest


def get_dirty_log(vm: VirtualMachine, argument: Argument) -> int:
    """KVM_GET_DIRTY_LOG; without manual protection the bits are cleared even where they cannot be copied out."""
    slot_id, _, address = _DIRTY_LOG.unpack(user_memory.read(argument, _DIRTY_LOG.size))
    slot, bitmap = _logged(vm, slot_id)
    if not vm.manual_dirty_log_protect:
        bitmap = bitmap.take()
        if vm.memslots.listener is not None:
            vm.memslots.listener.dirty_pages_taken(slot, bitmap.pages())
    for chunk in bitmap.chunks():
        # copy_to_user() takes addresses that wrap around as bad ones, as does the next write.
        user_memory.write(address, chunk)
        address += len(chunk)
    return 0


def clear_dirty_log(vm: VirtualMachine, argument: Argument) -> int:
    """KVM_CLEAR_DIRTY_LOG; it needs no manual protection to be enabled."""
    slot_id, num_pages, first_page, address = _CLEAR_DIRTY_LOG.unpack(user_memory.read(argument, _CLEAR_DIRTY_LOG.size))
    slot, bitmap = _logged(vm, slot_id, first_page)
    left = bitmap.npages - first_page
    if num_pages > left or (num_pages < left and num_pages % _WORD_BITS):
        return -EINVAL
    words = -(-num_pages // _WORD_BITS)
    masks = memoryview(user_memory.read(address, words * _WORD.size)).cast("Q") if words else ()
    first_word = first_page >> _WORD_SHIFT
    cleared = [
        (first_word + index, bits)
        for index, mask in enumerate(masks)
        if mask and (bits := bitmap.clear(first_word + index, mask))
    ]
    if vm.memslots.listener is not None:
        vm.memslots.listener.dirty_pages_taken(slot, (page for word in cleared for page in _bits(*word)))
    return 0


def _logged(vm: VirtualMachine, slot_id: int, first_page: int = 0) -> tuple[Slot, DirtyBitmap]:
    """The slot of an id and its bitmap, or the first thing that is in the way."""
    if vm.dirty_ring_size and not vm.dirty_ring_with_bitmap:
        raise RefusedError(ENXIO)
    if slot_id >= vm.memslots.limit or first_page % _WORD_BITS:
        raise RefusedError(EINVAL)
    slot = vm.memslots.get(slot_id)
    if slot is None or slot.dirty is None:
        raise RefusedError(ENOENT)
    return slot, slot.dirty


# On a VM's descriptor; KVM_CLEAR_DIRTY_LOG came with a capability that the present one replaced.
VM_REQUESTS: Final[tuple[Request, ...]] = (
    Request(KVM_GET_DIRTY_LOG, get_dirty_log),
    Request(KVM_CLEAR_DIRTY_LOG, clear_dirty_log, brought_by="clears_dirty_log"),
)
