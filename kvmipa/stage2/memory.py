# SPDX-License-Identifier: Apache-2.0
"""The emulated host's physical memory: pages for tables, and frames behind guest memory."""

from __future__ import annotations

from array import array
from typing import Final

from kvmipa.stage2.geometry import PAGE_SIZES

ENTRY_SIZE: Final = 8

# Where memory starts, as on most arm64 machines' memory maps: PA 0 is flash or registers.
DEFAULT_BASE: Final = 1 << 30


class PhysicalMemory:
    """Physical memory of a host: tables come from its top, frames of guest memory from its bottom.

    page_size: bytes; pa_bits: every address is below 2^pa_bits; base: the first byte, a multiple of every block that is
    asked for. Only tables have contents. A frame is an address: a whole PMD block (2M, 32M or 512M) of host virtual
    addresses is backed by one block of physical ones, as transparent huge pages do it, so that it costs nothing per
    page and PA and HVA are equal modulo that block. Raises MemoryError where the two ends meet.

    >>> memory = PhysicalMemory(4096, pa_bits=40)
    >>> pgd = memory.allocate(4)
    >>> pgd % (4 * 4096), memory.read64(pgd), memory.table_pages
    (0, 0, 4)
    >>> memory.frame(0x7F00_1234_5000) & 0x1FFFFF == 0x14_5000
    True
    """

    def __init__(self, page_size: int, pa_bits: int, *, base: int = DEFAULT_BASE) -> None:
        if page_size not in PAGE_SIZES:
            raise ValueError(f"page size {page_size!r} bytes: arm64 has {', '.join(map(str, PAGE_SIZES))}")
        self.page_size = page_size
        self.pa_bits = pa_bits
        self._page_mask = page_size - 1
        self._zeros = array("Q", bytes(page_size))
        self._pages: dict[int, array[int]] = {}
        self._free: dict[int, list[int]] = {}
        page_shift = page_size.bit_length() - 1
        self._block_shift = 2 * page_shift - 3
        self.block_size = 1 << self._block_shift
        self._block_mask = self.block_size - 1
        self._frames: dict[int, int] = {}
        self._free_blocks: list[int] = []
        self._bottom = -(-base // self.block_size) * self.block_size
        self._top = 1 << pa_bits
        if self._bottom >= self._top:
            raise ValueError(f"memory from {base:#x} on does not fit {pa_bits} bits of physical address")

    @property
    def table_pages(self) -> int:
        """Pages in use by tables, start levels included (SecPageTables of /proc/meminfo)."""
        return len(self._pages)

    def allocate(self, pages: int = 1) -> int:
        """The PA of this many pages (a power of two) for tables: contiguous, aligned to their size, and zero."""
        free = self._free.get(pages)
        address = free.pop() if free else self._take_top(pages)
        for page in range(address, address + pages * self.page_size, self.page_size):
            self._pages[page] = self._zeros[:]
        return address

    def _take_top(self, pages: int) -> int:
        size = pages * self.page_size
        address = (self._top - size) & -size
        if address < self._bottom:
            raise MemoryError(f"no {size} bytes left below 2^{self.pa_bits} for tables")
        # What alignment leaves over is not lost.
        gap = range(address + size, self._top, self.page_size)
        self._free.setdefault(1, []).extend(gap)
        self._top = address
        return address

    def free(self, address: int, pages: int = 1) -> None:
        """Give back what allocate() gave; LookupError where that is no table."""
        for page in range(address, address + pages * self.page_size, self.page_size):
            self._page(page)
            del self._pages[page]
        self._free.setdefault(pages, []).append(address)

    def page(self, address: int) -> array[int]:
        """The entries of the table page at a PA, to read and to write."""
        return self._page(address)

    def _page(self, address: int) -> array[int]:
        try:
            return self._pages[address]
        except KeyError:
            raise LookupError(f"no table at PA {address:#x}") from None

    def read64(self, address: int) -> int:
        """The 64 bits at a PA; LookupError where there is no table."""
        return self._page(address & ~self._page_mask)[(address & self._page_mask) // ENTRY_SIZE]

    def write64(self, address: int, value: int) -> None:
        """Write 64 bits at a PA; LookupError where there is no table."""
        self._page(address & ~self._page_mask)[(address & self._page_mask) // ENTRY_SIZE] = value

    def frame(self, hva: int, block_size: int = 0) -> int:
        """The PA behind a host virtual address; the same one every time.

        block_size: bytes that have to be contiguous and aligned around it, where that is more than a PMD block (1G of
        hugetlbfs). It counts only where nothing in those bytes has a frame yet.
        """
        base = self._frames.get(hva >> self._block_shift)
        if base is None:
            base = self._back(hva, block_size)
        return base | hva & self._block_mask

    def release_frames(self, hva: int, size: int) -> None:
        """Forget the frames behind the PMD blocks that lie wholly in a range of host virtual addresses (munmap)."""
        first, last = -(-hva >> self._block_shift), hva + size >> self._block_shift
        found = range(first, last) if last - first < len(self._frames) else list(self._frames)
        for number in found:
            if first <= number < last and number in self._frames:
                self._free_blocks.append(self._frames.pop(number))

    def _back(self, hva: int, block_size: int) -> int:
        number = hva >> self._block_shift
        count = max(1, block_size >> self._block_shift)
        first = number & -count
        if count > 1 and not any(other in self._frames for other in range(first, first + count)):
            base = self._take_bottom(count)
            for offset in range(count):
                self._frames[first + offset] = base + (offset << self._block_shift)
        else:
            self._frames[number] = self._free_blocks.pop() if self._free_blocks else self._take_bottom(1)
        return self._frames[number]

    def _take_bottom(self, blocks: int) -> int:
        size = blocks << self._block_shift
        base = -(-self._bottom // size) * size
        if base + size > self._top:
            raise MemoryError(f"no {size} bytes left below 2^{self.pa_bits} behind guest memory")
        self._free_blocks.extend(range(self._bottom, base, self.block_size))
        self._bottom = base + size
        return base
