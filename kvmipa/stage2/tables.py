# SPDX-License-Identifier: Apache-2.0
"""A VM's stage-2 tables, and what KVM's page-table code does to them (arch/arm64/kvm/hyp/pgtable.c)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from kvmipa.stage2.descriptors import (
    ACCESS_FLAG,
    LEAF_LEVELS,
    PERMISSIONS,
    S2AP_READ,
    S2AP_WRITE,
    TABLE_OR_PAGE,
    XN_FIELD,
    Leaf,
)
from kvmipa.stage2.geometry import LAST_LEVEL

if TYPE_CHECKING:
    from array import array
    from collections.abc import Iterator

    from kvmipa.stage2.descriptors import Format
    from kvmipa.stage2.geometry import Geometry
    from kvmipa.stage2.memory import PhysicalMemory

_NO_TABLE: Final = -1


class Node:
    """A page of table entries, with the number of those in use: the kernel counts references to the page."""

    __slots__ = ("address", "entries", "used")

    def __init__(self, address: int, entries: array[int]) -> None:
        self.address = address
        self.entries = entries
        self.used = 0


class Tables:
    """The stage-2 tables of one VM, in the host's physical memory.

    Every operation costs time in the number of entries that it touches and tables that it crosses, never in the
    size of its range. Ranges are bytes of IPA, aligned to pages. Operations on a part of a block act on the whole
    block, as the kernel's do.

    >>> from kvmipa.stage2.descriptors import Format
    >>> from kvmipa.stage2.geometry import Geometry
    >>> from kvmipa.stage2.memory import PhysicalMemory
    >>> form = Format(4096)
    >>> tables = Tables(Geometry(4096, 40), form, PhysicalMemory(4096, pa_bits=40))
    >>> tables.map(0x200000, 0x40000000, 0x201000, form.attributes())
    True
    >>> [(hex(ipa), leaf.level) for ipa, leaf in tables.leaves()]
    [('0x200000', 2), ('0x400000', 3)]
    >>> tables.unmap(0, 1 << 40)
    >>> tables.table_pages == tables.geometry.concatenated_tables
    True
    """

    def __init__(self, geometry: Geometry, form: Format, memory: PhysicalMemory) -> None:
        if not geometry.page_size == form.page_size == memory.page_size:
            raise ValueError("geometry, format and memory have different page sizes")
        self.geometry = geometry
        self.format = form
        self.memory = memory
        self.ipa_size: Final = 1 << geometry.ipa_bits
        self.pgd: Final = memory.allocate(geometry.concatenated_tables)
        self._start_level = geometry.start_level
        self._page_shift = geometry.page_shift
        self._index_mask = (1 << geometry.table_bits) - 1
        self._shifts = {level: geometry.shift(level) for level in range(-1, LAST_LEVEL + 1)}
        # The shift of a whole last-level table: what one entry above it covers.
        self._table_shift = self._shifts[LAST_LEVEL - 1]
        self._leaf_sizes = [(level, 1 << self._shifts[level]) for level in LEAF_LEVELS[geometry.page_size]]
        self._zeros = memory.page(self.pgd)[:]
        self._roots = [
            Node(address, memory.page(address))
            for address in range(self.pgd, self.pgd + geometry.pgd_size, geometry.page_size)
        ]
        self._nodes: dict[int, Node] = {}
        # The last-level table of the last page mapped: memory is mostly touched in order.
        self._cached_number = _NO_TABLE
        self._cached = self._roots[0]

    @property
    def table_pages(self) -> int:
        """Pages in use: those of the start level, which the VM always has, and one for each other table."""
        return len(self._roots) + len(self._nodes)

    @property
    def vttbr_el2(self) -> int:
        """VTTBR_EL2 without VMID and CnP: bits 51:48 of the address are in bits 5:2 (phys_to_ttbr)."""
        return self.pgd & (1 << 48) - 1 | self.pgd >> 48 << 2

    def map(self, ipa: int, pa: int, size: int, attributes: int) -> bool:
        """Map a range to physically contiguous memory, by the largest blocks that alignment and size allow.

        attributes: Format.attributes(). A table that a block replaces goes with all that is below it; a block that
        gives way to a table is gone as a whole, and later faults bring the rest back (break before make). Returns
        whether anything changed: a leaf that differs in permissions at most is left as it is, for that is what
        relax_permissions() is for (stage2_pte_needs_update). Raises ValueError for a range that is not in the IPA
        space or not aligned to pages. Source: kvm_pgtable_stage2_map.
        """
        self._check(ipa, size)
        if pa & self.geometry.page_size - 1:
            raise ValueError(f"PA {pa:#x} is not aligned to pages of {self.geometry.page_size} bytes")
        changed = False
        end = ipa + size
        place = self.format.place
        while ipa < end:
            level, step = self._largest_leaf(ipa | pa, end - ipa)
            if level == LAST_LEVEL:
                changed |= self.map_page(ipa, place(pa) | attributes | TABLE_OR_PAGE)
            else:
                changed |= self._map_block(ipa, level, place(pa) | attributes)
            ipa += step
            pa += step
        return changed

    def map_page(self, ipa: int, descriptor: int) -> bool:
        """map() for one page whose descriptor is at hand; bits of the IPA within the page do not count."""
        if ipa >> self._table_shift != self._cached_number:
            self._cache_last_level(ipa)
        table = self._cached
        entries = table.entries
        index = ipa >> self._page_shift & self._index_mask
        old = entries[index]
        if not old:
            table.used += 1
        elif not (old ^ descriptor) & ~PERMISSIONS:
            return False
        entries[index] = descriptor
        return True

    def _cache_last_level(self, ipa: int) -> None:
        if not 0 <= ipa < self.ipa_size:
            raise ValueError(f"IPA {ipa:#x} is not below 2^{self.geometry.ipa_bits}")
        self._cached = self._table_for(ipa, LAST_LEVEL)
        self._cached_number = ipa >> self._table_shift

    def _largest_leaf(self, address: int, size: int) -> tuple[int, int]:
        for level, leaf_size in self._leaf_sizes:
            if level >= self._start_level and leaf_size <= size and not address & leaf_size - 1:
                return level, leaf_size
        raise AssertionError("a range of less than a page")

    def _map_block(self, ipa: int, level: int, descriptor: int) -> bool:
        table = self._table_for(ipa, level)
        index = ipa >> self._shifts[level] & self._index_mask
        old = table.entries[index]
        if old & TABLE_OR_PAGE:
            table.entries[index] = 0
            self._free(self._child(old), level + 1)
        elif not old:
            table.used += 1
        elif not (old ^ descriptor) & ~PERMISSIONS:
            return False
        table.entries[index] = descriptor
        return True

    def _table_for(self, ipa: int, level: int) -> Node:
        """The table at a level that has the entry of an IPA, made where it is missing or where a block is."""
        table = self._root(ipa)
        for upper in range(self._start_level, level):
            index = ipa >> self._shifts[upper] & self._index_mask
            descriptor = table.entries[index]
            if descriptor & TABLE_OR_PAGE:
                table = self._child(descriptor)
                continue
            child = self._new_node()
            if not descriptor:
                table.used += 1
            table.entries[index] = self.format.encode_table(child.address)
            table = child
        return table

    def _root(self, ipa: int) -> Node:
        return self._roots[ipa >> self._shifts[self._start_level - 1]]

    def _child(self, descriptor: int) -> Node:
        return self._nodes[self.format.address(descriptor)]

    def _new_node(self) -> Node:
        address = self.memory.allocate()
        node = self._nodes[address] = Node(address, self.memory.page(address))
        return node

    def _free(self, table: Node, level: int) -> None:
        """Free a table that nothing points to any more, and those below it."""
        if level < LAST_LEVEL and table.used:
            for descriptor in table.entries:
                if descriptor & TABLE_OR_PAGE:
                    self._free(self._child(descriptor), level + 1)
        self._cached_number = _NO_TABLE
        del self._nodes[table.address]
        self.memory.free(table.address)

    def unmap(self, ipa: int, size: int) -> None:
        """Unmap every leaf that a range touches, and free the tables that this leaves empty.

        The start level stays. Source: stage2_unmap_walker, which frees a table when nothing but its own reference is
        left.
        """
        self._check(ipa, size)
        for base, root in self._roots_within(ipa, ipa + size):
            self._unmap(root, self._start_level, base, ipa, ipa + size)

    def _unmap(self, table: Node, level: int, base: int, start: int, end: int) -> None:
        first, last = self._indices(level, base, start, end)
        entries = table.entries
        if level == LAST_LEVEL:
            table.used -= last - first - entries[first:last].count(0)
            entries[first:last] = self._zeros[first:last]
            return
        for index, descriptor in _in_use(table, first, last):
            if descriptor & TABLE_OR_PAGE:
                child = self._child(descriptor)
                self._unmap(child, level + 1, base + (index << self._shifts[level]), start, end)
                if child.used:
                    continue
                self._free(child, level + 1)
            entries[index] = 0
            table.used -= 1

    def destroy(self) -> None:
        """Free everything, the start level too; the object is of no use afterwards."""
        self.unmap(0, self.ipa_size)
        self.memory.free(self.pgd, len(self._roots))

    def write_protect(self, ipa: int, size: int) -> None:
        """Take write permission from every leaf that a range touches (dirty logging; stage2_wp_range)."""
        for table, index, *_ in self._leaf_entries(ipa, size):
            table.entries[index] &= ~S2AP_WRITE

    def split(self, ipa: int, size: int, *, whole: bool = True) -> None:
        """Replace every block that a range touches by a full set of pages, with its translation and permissions.

        The pages count as accessed. whole: a block of level 1 goes to pages as a whole; else to blocks of level 2
        first, of which those go to pages that the range touches, as where the kernel's cache of pages (its chunk size)
        is too small for more. Source: kvm_pgtable_stage2_split, stage2_split_walker (eager splitting, since 6.5).
        """
        level = LAST_LEVEL if whole else 0
        while True:
            blocks = [entry for entry in self._leaf_entries(ipa, size) if entry[3] < LAST_LEVEL]
            if not blocks:
                return
            for table, index, _, at, _ in blocks:
                node = self._split_block(table.entries[index] | ACCESS_FLAG, at, max(level, at + 1))
                table.entries[index] = self.format.encode_table(node.address)

    def _split_block(self, block: int, level: int, to: int) -> Node:
        node = self._new_node()
        entries = node.entries
        below = level + 1
        # A block is aligned, so that adding to its address never carries into bits that are kept elsewhere.
        for index in range(len(entries)):
            piece = block + (index << self._shifts[below])
            if below == LAST_LEVEL:
                entries[index] = piece | TABLE_OR_PAGE
            elif below == to:
                entries[index] = piece
            else:
                entries[index] = self.format.encode_table(self._split_block(piece, below, to).address)
        node.used = len(entries)
        return node

    def relax_permissions(
        self, ipa: int, *, readable: bool = False, writable: bool = False, executable: bool = False
    ) -> int | None:
        """Add permissions to the leaf that maps an IPA; its level, or None where nothing is mapped.

        Permissions are never taken away, and the access flag stays as it is. Source: kvm_pgtable_stage2_relax_perms.
        """
        found = self._find(ipa)
        if found is None:
            return None
        table, index, level = found
        descriptor = table.entries[index]
        descriptor |= (S2AP_READ if readable else 0) | (S2AP_WRITE if writable else 0)
        table.entries[index] = descriptor & ~XN_FIELD if executable else descriptor
        return level

    def set_access_flag(self, ipa: int) -> bool:
        """Set the access flag of the leaf that maps an IPA; whether there is one (kvm_pgtable_stage2_mkyoung)."""
        found = self._find(ipa)
        if found is None:
            return False
        table, index, _ = found
        table.entries[index] |= ACCESS_FLAG
        return True

    def test_young(self, ipa: int, size: int, *, clear: bool = False) -> bool:
        """Whether any leaf that a range touches was accessed; clear: and let none be from now on.

        Source: kvm_pgtable_stage2_test_clear_young.
        """
        young = False
        for table, index, *_ in self._leaf_entries(ipa, size):
            if table.entries[index] & ACCESS_FLAG:
                young = True
                if not clear:
                    break
                table.entries[index] &= ~ACCESS_FLAG
        return young

    def lookup(self, ipa: int) -> Leaf | None:
        """The leaf that maps an IPA; None where nothing does."""
        found = self._find(ipa)
        if found is None:
            return None
        table, index, level = found
        return self._leaf(table.entries[index], level)

    def entry(self, ipa: int) -> tuple[int, int] | None:
        """As lookup(), undecoded and cheaper: level and descriptor."""
        if ipa >> self._table_shift == self._cached_number:
            descriptor = self._cached.entries[ipa >> self._page_shift & self._index_mask]
            return (LAST_LEVEL, descriptor) if descriptor else None
        found = self._find(ipa)
        if found is None:
            return None
        table, index, level = found
        return level, table.entries[index]

    def _find(self, ipa: int) -> tuple[Node, int, int] | None:
        if not 0 <= ipa < self.ipa_size:
            return None
        table = self._root(ipa)
        for level in range(self._start_level, LAST_LEVEL + 1):
            index = ipa >> self._shifts[level] & self._index_mask
            descriptor = table.entries[index]
            if not descriptor:
                return None
            if level == LAST_LEVEL or not descriptor & TABLE_OR_PAGE:
                return table, index, level
            table = self._child(descriptor)
        raise AssertionError("a table below the last level")

    def _leaf(self, descriptor: int, level: int) -> Leaf:
        leaf = self.format.decode(descriptor, level)
        assert isinstance(leaf, Leaf)
        return leaf

    def leaves(self, ipa: int = 0, size: int | None = None) -> Iterator[tuple[int, Leaf]]:
        """The leaves that a range (by default everything) touches, in order, each with its first IPA."""
        for start, level, descriptor in self.descriptors(ipa, size):
            yield start, self._leaf(descriptor, level)

    def descriptors(self, ipa: int = 0, size: int | None = None) -> Iterator[tuple[int, int, int]]:
        """As leaves(), undecoded and cheaper: first IPA, level, descriptor."""
        for _, _, start, level, descriptor in self._leaf_entries(ipa, self.ipa_size - ipa if size is None else size):
            yield start, level, descriptor

    def spans(self) -> Iterator[tuple[int, int, int, int]]:
        """The whole IPA space in order: start, end, level and descriptor of each leaf and of each gap (descriptor 0).

        A gap is as long as the unused entries of one table are, and at their level.
        """
        shift = self._shifts[self._start_level - 1]
        for number, root in enumerate(self._roots):
            yield from self._spans_below(root, self._start_level, number << shift)

    def _spans_below(self, table: Node, level: int, base: int) -> Iterator[tuple[int, int, int, int]]:
        shift = self._shifts[level]
        size = 1 << shift
        entries = min(self._index_mask + 1, self.ipa_size - base >> shift)
        gap = base
        for index, descriptor in _in_use(table, 0, entries):
            start = base + (index << shift)
            if level < LAST_LEVEL and descriptor & TABLE_OR_PAGE:
                child = self._linked(table, index, descriptor)
                if child is None:
                    continue
            else:
                child = None
            if gap < start:
                yield gap, start, level, 0
            gap = start + size
            if child is None:
                yield start, gap, level, descriptor
            else:
                yield from self._spans_below(child, level + 1, start)
        end = base + (entries << shift)
        if gap < end:
            yield gap, end, level, 0

    def _leaf_entries(self, ipa: int, size: int) -> Iterator[tuple[Node, int, int, int, int]]:
        """Table, index, first IPA, level and descriptor of every leaf that a range touches, in order."""
        self._check(ipa, size)
        for base, root in self._roots_within(ipa, ipa + size):
            yield from self._entries_below(root, self._start_level, base, ipa, ipa + size)

    def _entries_below(
        self, table: Node, level: int, base: int, start: int, end: int
    ) -> Iterator[tuple[Node, int, int, int, int]]:
        shift = self._shifts[level]
        for index, descriptor in _in_use(table, *self._indices(level, base, start, end)):
            first = base + (index << shift)
            if level == LAST_LEVEL or not descriptor & TABLE_OR_PAGE:
                yield table, index, first, level, descriptor
                continue
            child = self._linked(table, index, descriptor)
            if child is not None:
                yield from self._entries_below(child, level + 1, first, start, end)

    def _linked(self, table: Node, index: int, descriptor: int) -> Node | None:
        """The table that an entry points to; None where a thread has just freed it: reading takes no lock."""
        child = self._nodes.get(self.format.address(descriptor))
        return child if table.entries[index] == descriptor else None

    def _roots_within(self, start: int, end: int) -> Iterator[tuple[int, Node]]:
        shift = self._shifts[self._start_level - 1]
        if start < end:
            for number in range(start >> shift, (end - 1 >> shift) + 1):
                if self._roots[number].used:
                    yield number << shift, self._roots[number]

    def _indices(self, level: int, base: int, start: int, end: int) -> tuple[int, int]:
        """The part of a table, which maps from base on, that a range touches."""
        shift = self._shifts[level]
        first = max(start - base, 0) >> shift
        last = min((end - 1 - base >> shift) + 1, self._index_mask + 1)
        return first, last

    def _check(self, ipa: int, size: int) -> None:
        if (ipa | size) & self.geometry.page_size - 1:
            raise ValueError(f"IPA {ipa:#x}, {size:#x} bytes: not aligned to pages of {self.geometry.page_size} bytes")
        if ipa < 0 or size < 0 or ipa + size > self.ipa_size:
            raise ValueError(f"IPA {ipa:#x}, {size:#x} bytes: not within {self.geometry.ipa_bits} bits")


def _in_use(table: Node, first: int, last: int) -> list[tuple[int, int]]:
    """The entries in use of a part of a table, as they are at one moment: index and descriptor."""
    if not table.used:
        return []
    return [found for found in enumerate(table.entries[first:last], first) if found[1]]
