# SPDX-License-Identifier: Apache-2.0
"""What takes a guest's write instead of user space: the bus of a VM, and the ring of collected writes.

struct kvm_io_bus in virt/kvm/kvm_main.c, struct kvm_coalesced_mmio_ring in include/uapi/linux/kvm.h.
"""

from __future__ import annotations

import mmap
from struct import Struct
from typing import TYPE_CHECKING, Final, Protocol

from kvmipa import abi

if TYPE_CHECKING:
    from collections.abc import Iterator

_INDICES: Final = Struct(abi.STRUCTS["coalesced_mmio_ring"][0])
_LAST: Final = Struct("=I")
_LAST_AT: Final = 4
_ENTRY: Final = Struct("=QII8s")
_UNSIGNED_INT: Final = 0xFFFF_FFFF


class Range(Protocol):
    """Something on the bus; length: bytes, 0: writes of any size to the address itself."""

    @property
    def addr(self) -> int:
        """Its first guest address."""
        ...

    @property
    def length(self) -> int:
        """Its size."""
        ...


class IoBus:
    """Ranges in the order in which a write looks at them."""

    def __init__(self) -> None:
        self._ranges: list[Range] = []

    def add(self, new: Range) -> None:
        """Put a range before the first that is beyond it (kvm_io_bus_register_dev)."""
        beyond = (at for at, other in enumerate(self._ranges) if _place(other.addr, other.length, new) > 0)
        self._ranges.insert(next(beyond, len(self._ranges)), new)

    def remove(self, old: Range) -> None:
        """Take this very range away."""
        self._ranges = [other for other in self._ranges if other is not old]

    def matches(self, addr: int, size: int) -> Iterator[Range]:
        """What a write is offered to, one after the other.

        The kernel finds one by halves, goes back to the first of its neighbours that match too, and on from there
        (kvm_io_bus_get_first_dev): a match behind a range that is none is not found.
        """
        at = self._any_match(addr, size)
        if at is None:
            return
        while at and not _place(addr, size, self._ranges[at - 1]):
            at -= 1
        while at < len(self._ranges) and not _place(addr, size, self._ranges[at]):
            yield self._ranges[at]
            at += 1

    def _any_match(self, addr: int, size: int) -> int | None:
        low, high = 0, len(self._ranges)
        while low < high:
            middle = low + (high - low) // 2
            place = _place(addr, size, self._ranges[middle])
            if not place:
                return middle
            low, high = (middle + 1, high) if place > 0 else (low, middle)
        return None


def _place(addr: int, size: int, of: Range) -> int:
    """Whether a write, or a range, is before (-1), in (0) or beyond (1) a range (kvm_io_bus_cmp)."""
    if addr < of.addr:
        return -1
    if of.length:
        return int(addr + size > of.addr + of.length)
    return int(addr > of.addr)


class CoalescedRing:
    """The ring of a VM, a page that all its vCPUs' descriptors map.

    counts_modulo_2_32: until 6.12 the free entries are counted in 32 bits before the remainder is taken, and the ring
    is full before it is (kvm_coalesced_mmio: commit "Fix coalesced_mmio_has_room() to avoid premature userspace exit").
    """

    def __init__(self, page_size: int, *, counts_modulo_2_32: bool) -> None:
        self.area = memoryview(mmap.mmap(-1, page_size))
        self._entries = (page_size - _INDICES.size) // _ENTRY.size
        self._counts_modulo_2_32 = counts_modulo_2_32

    def append(self, addr: int, data: bytes) -> bool:
        """Collect a write of up to 8 bytes; False where there is no room."""
        first, last = _INDICES.unpack_from(self.area)
        if last >= self._entries or self._is_full(first, last):
            return False
        _ENTRY.pack_into(self.area, _INDICES.size + last * _ENTRY.size, addr, len(data), 0, data)
        _LAST.pack_into(self.area, _LAST_AT, (last + 1) % self._entries)
        return True

    def _is_full(self, first: int, last: int) -> bool:
        if self._counts_modulo_2_32:
            return not (first - last - 1 & _UNSIGNED_INT) % self._entries
        return (last + 1) % self._entries == first
