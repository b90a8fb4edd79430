# SPDX-License-Identifier: Apache-2.0
"""What an IPA size costs: the shape of the stage-2 tables, and the memory that they take when the guest's is mapped."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from kvmipa.stage2.descriptors import LEAF_LEVELS
from kvmipa.stage2.geometry import LAST_LEVEL, Geometry

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from kvmipa.layout.regions import Region


def table_pages(geometry: Geometry, spans: Iterable[tuple[int, int]], leaf_level: int = LAST_LEVEL) -> int:
    """Pages of tables when spans of guest memory (base, end; aligned to pages, none over another) are mapped.

    leaf_level: 3: by pages; 2: by blocks of 2M, 32M or 512M (huge pages behind the guest's memory) and by pages where
    alignment leaves a rest; 1: by blocks of 1G too (4K pages only). The start level counts, as in SecPageTables of
    /proc/meminfo. Raises ValueError for a level without leaves.

    >>> table_pages(Geometry(4096, 40), [(1 << 30, 2 << 30)]), table_pages(Geometry(4096, 40), [(1 << 30, 2 << 30)], 2)
    (515, 3)
    """
    if leaf_level not in LEAF_LEVELS[geometry.page_size]:
        raise ValueError(f"level {leaf_level} has no leaves with pages of {geometry.page_size} bytes")
    ordered = sorted(spans)
    pages = geometry.concatenated_tables
    for level in range(geometry.start_level + 1, LAST_LEVEL + 1):
        shift = geometry.shift(level - 1)
        pages += _touched(ordered, shift) if level <= leaf_level else _partly_covered(ordered, shift)
    return pages


def _touched(spans: Sequence[tuple[int, int]], shift: int) -> int:
    """Aligned pieces of 2^shift bytes that have anything of a span in them: each has a table."""
    count, last = 0, -1
    for base, end in spans:
        first = max(base >> shift, last + 1)
        last = max(last, (end - 1) >> shift)
        count += max(0, last - first + 1)
    return count


def _partly_covered(spans: Sequence[tuple[int, int]], shift: int) -> int:
    """Those that no single span covers: no block can map them, and a table takes its place."""
    pieces = set()
    for base, end in spans:
        for piece in (base >> shift, (end - 1) >> shift):
            if base > piece << shift or end < (piece + 1) << shift:
                pieces.add(piece)
    return len(pieces)


@dataclass(frozen=True)
class Stage2Cost:
    """The stage 2 of one IPA size, with a guest's memory mapped.

    geometry: levels, start level, concatenated tables, size of the start level (pgd_size). tables_by_pages,
    tables_by_blocks: bytes of tables, start level included, where all memory is mapped by pages, or by blocks of level
    2 as far as they fit.
    """

    geometry: Geometry
    tables_by_pages: int
    tables_by_blocks: int

    @property
    def ipa_bits(self) -> int:
        """The IPA size."""
        return self.geometry.ipa_bits

    @property
    def block_size(self) -> int:
        """Bytes of a block of level 2: 2M, 32M or 512M."""
        return self.geometry.entry_size(LAST_LEVEL - 1)

    @property
    def close_steps(self) -> int:
        """Steps that Linux 7.3 takes to close any such VM, also an empty one: one for each largest block.

        Source: stage2_destroy_range in arch/arm64/kvm/mmu.c [7.3]; kernel-ipa-spec 6. Before, closing did not depend
        on the size.
        """
        return 1 << self.ipa_bits - self.geometry.shift(LEAF_LEVELS[self.geometry.page_size][0])


def stage2_cost(ipa_bits: int, page_size: int, slots: Iterable[Region] = ()) -> Stage2Cost:
    """The cost of an IPA size; of memory, what lies below 2^ipa_bits counts.

    >>> from kvmipa.layout import Region
    >>> cost = stage2_cost(40, 4096, [Region("ram", 1 << 30, 64 << 30)])
    >>> cost.geometry.concatenated_tables, cost.tables_by_pages >> 10, cost.tables_by_blocks >> 10
    (2, 131336, 264)
    """
    geometry = Geometry(page_size, ipa_bits)
    space = 1 << ipa_bits
    spans = [(slot.base, min(slot.end, space)) for slot in slots if slot.base < space]
    return Stage2Cost(
        geometry,
        table_pages(geometry, spans, LAST_LEVEL) * page_size,
        table_pages(geometry, spans, LAST_LEVEL - 1) * page_size,
    )
