# SPDX-License-Identifier: Apache-2.0
"""What is behind a memory slot: the VMM's own mappings, as stage-2 faults find them (hva_to_pfn)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from kvmipa.backend.emulated import address_space, presence
from kvmipa.backend.emulated.address_space import Mapping
from kvmipa.backend.emulated.presence import MS_ASYNC, PAGE_MASK
from kvmipa.stage2.mapping import pmd_size

if TYPE_CHECKING:
    from kvmipa.backend.emulated.memslots import Slot
    from kvmipa.backend.emulated.presence import Check

_NOTHING: Final = Mapping(0, 0, "---p", 0, "")

# guest_memfd has no user address: its pages are beyond all of those, each file's apart from the others'.
_FILE_SHIFT: Final = 64


class Behind:
    """The mappings of the process behind a slot, as they were when a guest first touched it.

    delta: from IPA to HVA. logging: as it was at the last fault. pages_only: nothing in it can be a block, wherever a
    guest touches it. gone: ranges of addresses that were seen to be unmapped since: what guests have of them is to be
    unmapped as well.
    """

    __slots__ = (
        "_block_shift",
        "_check",
        "_last",
        "_mappings",
        "_same_phase",
        "_start",
        "_thp",
        "_written",
        "block_size",
        "delta",
        "gone",
        "logging",
        "pages_only",
        "slot",
    )

    def __init__(self, slot: Slot, page_size: int, thp: str) -> None:
        self.slot = slot
        self.block_size = pmd_size(page_size)
        self._block_shift = self.block_size.bit_length() - 1
        self._thp = thp
        self._last = _NOTHING
        # HVA >> block shift of what the guest has written to: it may be mapped anew as a block. A page is not, without
        # having been taken away by slot_gone() or memory_gone().
        self._written: set[int] = set()
        self.gone: list[tuple[int, int]] = []
        memfd = slot.guest_memfd
        self._start = slot.userspace_addr if memfd is None else (memfd.number << _FILE_SHIFT) + memfd.offset_of(slot)
        self._check: Check = presence.check() if memfd is None else lambda *_: not memfd.is_alive()
        self._mappings: tuple[Mapping, ...] = ()
        self.delta = self._start - slot.guest_phys_addr
        self._same_phase = not self.delta & self.block_size - 1
        self._look()
        self.log(slot.is_logging)

    def log(self, logging: bool) -> None:
        """Dirty logging is on, or off."""
        self.logging = logging
        self.pages_only = logging or not (self._same_phase and any(map(self._may_be_block, self._mappings)))

    def mapping(self, hva: int, *, write: bool) -> Mapping | None:
        """The process's mapping at an address, mostly that of the last time; None where it may not do this there."""
        last = self._last
        if (
            last.start <= hva < last.end
            and (last.writable or not write)
            and not self._check(hva & PAGE_MASK, 1, MS_ASYNC)
        ):
            return last
        found = self._find(hva, write)
        if found is None or not self.is_there(hva):
            # It may have been made since, or be gone.
            self._look()
            self.log(self.logging)
            found = self._find(hva, write)
        if found is not None:
            self._last = found
        return found

    def is_there(self, hva: int) -> bool:
        """Whether the process has memory at an address: it may have unmapped what it had."""
        return not self._check(hva & PAGE_MASK, 1, MS_ASYNC)

    def _look(self) -> None:
        start, end = self._start, self._start + self.slot.memory_size
        before, self._last = self._mappings, _NOTHING
        if not self.slot.is_guest_memfd:
            self._mappings = address_space.backing(start, end, self.block_size)
            self.gone += address_space.missing(before, self._mappings, start, end)
        elif self.slot.guest_memfd is not None:
            self._mappings = (Mapping(start, end, "rw-s", 0, ""),)
        else:
            # The file was closed, and its release has unmapped everything (kvm_gmem_release).
            self._mappings = ()

    def _find(self, hva: int, write: bool) -> Mapping | None:
        for found in self._mappings:
            if found.start <= hva < found.end and found.readable and (found.writable or not write):
                return found
        return None

    def _may_be_block(self, found: Mapping) -> bool:
        return found.hugetlb_size >= self.block_size or found.is_huge(self.block_size, self._thp)

    def host_size(self, found: Mapping, hva: int) -> int:
        """Bytes of the transparent huge page at an address, 0 for none: there is one where the mapping has room."""
        block = hva & -self.block_size
        has_room = found.start <= block and block + self.block_size <= found.end
        return self.block_size if has_room and found.is_huge(self.block_size, self._thp) else 0

    def is_writable(self, found: Mapping, hva: int, size: int) -> bool:
        """Whether the host's own entry for a page or block lets the process write, when a guest has only read there.

        Not where that is the page of zeros, which private memory has until somebody writes to it.
        """
        if not found.writable or found.shared:
            return found.writable
        if size >= self.block_size and hva >> self._block_shift in self._written:
            return True
        return address_space.was_written(hva & -size, size)

    def note_written(self, hva: int) -> None:
        """The guest may write to the page or block at an address: the host has given it memory of its own."""
        self._written.add(hva >> self._block_shift)

    def forget(self, start: int, end: int) -> None:
        """The process has given up memory: pages of zeros again, or none."""
        first, last = -(-start >> self._block_shift), end >> self._block_shift
        self._written = {number for number in self._written if not first <= number < last}
        self._look()
        self.log(self.logging)
