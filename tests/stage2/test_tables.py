# SPDX-License-Identifier: Apache-2.0
"""Stage-2 tables: what KVM's page-table code does to them, against a list of leaves and against the hardware's walk."""

from __future__ import annotations

import tracemalloc
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kvmipa.stage2.descriptors import ACCESS_FLAG, TABLE_OR_PAGE, Format, Leaf
from kvmipa.stage2.geometry import Geometry
from kvmipa.stage2.memory import PhysicalMemory
from kvmipa.stage2.tables import Tables
from kvmipa.stage2.walk import Fault, FaultKind, Translation

from .hosts import Vm, vms

if TYPE_CHECKING:
    from kvmipa.stage2.tables import Node

PA = 0x4000_0000


@dataclass(frozen=True)
class Piece:
    """A leaf as the tests see it."""

    size: int
    pa: int
    writable: bool
    executable: bool
    accessed: bool = True


class Model:
    """What the tables should map: pieces by IPA, and rules that need no tables."""

    def __init__(self) -> None:
        self.pieces: dict[int, Piece] = {}

    def touched(self, ipa: int, size: int) -> list[int]:
        return [at for at, piece in self.pieces.items() if at < ipa + size and ipa < at + piece.size]

    def map(self, ipa: int, new: Piece) -> bool:
        old = self.pieces.get(ipa)
        if old and (old.size, old.pa, old.accessed) == (new.size, new.pa, new.accessed):
            return False
        self.unmap(ipa, new.size)
        self.pieces[ipa] = new
        return True

    def unmap(self, ipa: int, size: int) -> None:
        for at in self.touched(ipa, size):
            del self.pieces[at]

    def change(self, ipa: int, size: int, **changes: bool) -> None:
        for at in self.touched(ipa, size):
            self.pieces[at] = replace(self.pieces[at], **changes)

    def split(self, ipa: int, size: int, page_size: int) -> None:
        for at in self.touched(ipa, size):
            piece = self.pieces[at]
            if piece.size > page_size:
                del self.pieces[at]
                for offset in range(0, piece.size, page_size):
                    self.pieces[at + offset] = replace(piece, size=page_size, pa=piece.pa + offset, accessed=True)


def mapped(vm: Vm) -> dict[int, Piece]:
    shape = vm.tables.geometry
    return {
        ipa: Piece(shape.entry_size(leaf.level), leaf.output_address, leaf.writable, leaf.executable, leaf.accessed)
        for ipa, leaf in vm.tables.leaves()
    }


def nodes(vm: Vm) -> list[tuple[Node, int]]:
    """Every table with its level, found from the roots."""
    start = vm.tables.geometry.start_level
    found = [(root, start) for root in vm.tables._roots]
    for node, level in found:
        if level < 3:
            found += [(vm.tables._child(entry), level + 1) for entry in node.entries if entry & TABLE_OR_PAGE]
    return found


def check_counts(vm: Vm) -> None:
    """Tables count their entries; none is empty but those of the start level; none is lost."""
    found = nodes(vm)
    assert all(node.used == sum(1 for entry in node.entries if entry) for node, _ in found)
    assert all(node.used for node, level in found if level > vm.tables.geometry.start_level)
    assert len(found) == vm.tables.table_pages == vm.memory.table_pages


def check_walk(vm: Vm, ipa: int, model: Model) -> None:
    """The hardware sees at an IPA what the model has there."""
    there = model.touched(ipa, 1)
    seen = vm.walk(ipa)
    if not there:
        assert isinstance(seen, Fault)
        assert seen.kind is FaultKind.TRANSLATION
        assert vm.tables.lookup(ipa) is None
        return
    piece = model.pieces[there[0]]
    assert isinstance(seen, Translation)
    assert (seen.pa, seen.block_size) == (piece.pa + ipa - there[0], piece.size)
    assert (seen.readable, seen.writable, seen.executable) == (True, piece.writable, piece.executable)
    assert (seen.memory, seen.shareability) == ("Normal Write-back", 3)
    leaf = vm.tables.lookup(ipa)
    assert leaf is not None
    assert (leaf.output_address, leaf.level) == (piece.pa, seen.level)
    assert vm.tables.entry(ipa) == (seen.level, seen.descriptor)
    for kind, allowed in (("store", piece.writable), ("fetch", piece.executable)):
        result = vm.walk(ipa, kind)
        assert isinstance(result, Translation) if allowed else result == Fault(FaultKind.PERMISSION, seen.level)
    if not piece.accessed:
        assert vm.walk(ipa, hafdbs=False) == Fault(FaultKind.ACCESS_FLAG, seen.level)


def put(vm: Vm, model: Model, data: st.DataObject, ipa: int, block: bool) -> None:
    page, size = vm.page_size, vm.block if block else vm.page_size
    ipa &= -size
    high = data.draw(st.integers(0, (1 << min(vm.pa_bits, 40)) // vm.block - 1)) * vm.block
    pa = (1 << vm.pa_bits) - vm.block - high if data.draw(st.booleans()) else high
    pa += 0 if block else ipa % vm.block // page * page
    writable, executable = data.draw(st.booleans()), data.draw(st.booleans())
    new = Piece(size, pa, writable, executable)
    attributes = vm.form.attributes(writable=writable, executable=executable)
    assert vm.tables.map(ipa, pa, size, attributes) == model.map(ipa, new)


@settings(max_examples=60, deadline=None)
@given(vms(), st.data())
def test_tables_map_what_was_asked_for_and_nothing_else(vm: Vm, data: st.DataObject) -> None:
    model = Model()
    tables, page = vm.tables, vm.page_size
    blocks = (1 << vm.ipa_bits) // vm.block
    # Neighbours, so that operations meet; at the ends of the space and in between.
    first = data.draw(st.sampled_from([0, blocks - 3]) | st.integers(0, blocks - 3)) * vm.block
    pages = st.sampled_from([0, 1, vm.block // page - 1]) | st.integers(0, vm.block // page - 1)

    def address() -> int:
        return first + data.draw(st.integers(0, 2)) * vm.block + data.draw(pages) * page

    split_left = 1
    for _ in range(data.draw(st.integers(1, 12))):
        ipa = address()
        end = max(ipa + page, address())
        size = end - ipa
        action = data.draw(
            st.sampled_from(["page", "page", "block", "unmap", "protect", "split", "relax", "old", "young"])
        )
        if action in ("page", "block"):
            put(vm, model, data, ipa, action == "block")
        elif action == "unmap":
            tables.unmap(ipa, size)
            model.unmap(ipa, size)
        elif action == "protect":
            tables.write_protect(ipa, size)
            model.change(ipa, size, writable=False)
        elif action == "split" and split_left:
            split_left -= 1
            tables.split(ipa, page)
            model.split(ipa, page, page)
        elif action == "relax":
            level = tables.relax_permissions(ipa, writable=True)
            assert (level is not None) == bool(model.touched(ipa, page))
            model.change(ipa, page, writable=True)
        elif action == "old":
            young = [at for at in model.touched(ipa, size) if model.pieces[at].accessed]
            assert tables.test_young(ipa, size, clear=True) == bool(young)
            assert not tables.test_young(ipa, size)
            model.change(ipa, size, accessed=False)
        elif action == "young":
            assert tables.set_access_flag(ipa) == bool(model.touched(ipa, page))
            model.change(ipa, page, accessed=True)
    assert mapped(vm) == dict(sorted(model.pieces.items()))
    assert list(mapped(vm)) == sorted(model.pieces)
    check_counts(vm)
    edges = {
        edge
        for at, piece in list(model.pieces.items())[:8]
        for edge in (at - 1, at, at + piece.size - 1, at + piece.size)
    }
    for ipa in [*edges, address(), data.draw(st.integers(0, (1 << vm.ipa_bits) - 1)), 0, (1 << vm.ipa_bits) - 1]:
        if 0 <= ipa < 1 << vm.ipa_bits:
            check_walk(vm, ipa, model)
    tables.unmap(0, 1 << vm.ipa_bits)
    assert mapped(vm) == {}
    assert tables.table_pages == vm.memory.table_pages == tables.geometry.concatenated_tables
    tables.destroy()
    assert vm.memory.table_pages == 0


@settings(deadline=None)
@given(vms(), st.data())
def test_nothing_beyond_the_ipa_space_is_mapped_or_translated(vm: Vm, data: st.DataObject) -> None:
    ipa = data.draw(st.integers(1 << vm.ipa_bits, 1 << 56)) & -vm.page_size
    with pytest.raises(ValueError, match="IPA"):
        vm.tables.map(ipa, PA, vm.page_size, vm.form.attributes())
    with pytest.raises(ValueError, match="IPA"):
        vm.tables.map_page(ipa, PA | vm.form.attributes() | TABLE_OR_PAGE)
    for use in (vm.tables.unmap, vm.tables.write_protect, vm.tables.split, vm.tables.test_young):
        with pytest.raises(ValueError, match="IPA"):
            use(ipa, vm.page_size)
    assert vm.walk(ipa) == Fault(FaultKind.TRANSLATION, 0)
    assert vm.tables.lookup(ipa) is None
    assert vm.tables.entry(ipa) is None


@pytest.mark.parametrize(("ipa", "pa", "size"), [(0x800, PA, 4096), (0, PA + 1, 4096), (0, PA, 100), (-4096, PA, 4096)])
def test_unaligned_range_is_refused(ipa: int, pa: int, size: int) -> None:
    vm = Vm(4096, 40)
    with pytest.raises(ValueError, match=r"aligned|within"):
        vm.tables.map(ipa, pa, size, vm.form.attributes())


@pytest.mark.parametrize("page_size", [4096, 16384, 65536])
def test_range_is_mapped_by_the_largest_blocks(page_size: int) -> None:
    vm = Vm(page_size, 48)
    block = vm.block
    vm.tables.map(block - page_size, PA + 3 * block - page_size, block + 2 * page_size, vm.form.attributes())
    assert [(ipa, leaf.level) for ipa, leaf in vm.tables.leaves()] == [
        (block - page_size, 3),
        (block, 2),
        (2 * block, 3),
    ]


def test_blocks_of_1g_are_for_4k_pages_only() -> None:
    small, large = Vm(4096, 48), Vm(16384, 48)
    small.tables.map(0, 1 << 30, 1 << 30, small.form.attributes())
    assert [leaf.level for _, leaf in small.tables.leaves()] == [1]
    large.tables.map(0, 1 << 36, 1 << 36, large.form.attributes())
    assert {leaf.level for _, leaf in large.tables.leaves()} == {2}


def test_start_level_2_has_no_block_above_it() -> None:
    vm = Vm(4096, 32)
    vm.tables.map(0, 1 << 32, 1 << 30, vm.form.attributes())
    assert {leaf.level for _, leaf in vm.tables.leaves()} == {2}


def test_unaligned_pa_makes_pages() -> None:
    vm = Vm(4096, 40)
    vm.tables.map(0, PA + 0x1000, 1 << 21, vm.form.attributes())
    assert {leaf.level for _, leaf in vm.tables.leaves()} == {3}


def test_1g_block_is_split_to_pages() -> None:
    vm = Vm(4096, 40)
    vm.tables.map(0, 1 << 30, 1 << 30, vm.form.attributes(executable=False))
    vm.tables.split(0x5000, 0x1000)
    assert vm.tables.table_pages == 2 + 1 + 512
    check_counts(vm)
    for ipa in (0, 0x12345678, (1 << 30) - 1):
        seen = vm.walk(ipa)
        assert isinstance(seen, Translation)
        assert (seen.pa, seen.level, seen.writable, seen.executable) == ((1 << 30) + ipa, 3, True, False)
    assert vm.walk(1 << 30) == Fault(FaultKind.TRANSLATION, 1)


def test_mapping_that_differs_in_permissions_only_stays() -> None:
    vm = Vm(4096, 40)
    vm.tables.map(0, PA, 4096, vm.form.attributes(writable=False))
    assert not vm.tables.map(0, PA, 4096, vm.form.attributes())
    assert vm.walk(0, "store") == Fault(FaultKind.PERMISSION, 3)
    assert vm.tables.map(0, PA + 4096, 4096, vm.form.attributes())
    assert isinstance(vm.walk(0, "store"), Translation)


def test_relaxing_adds_and_never_takes() -> None:
    vm = Vm(4096, 40)
    vm.tables.map(0, PA, 4096, vm.form.attributes(writable=False, executable=False))
    assert vm.tables.relax_permissions(0xFFF, executable=True) == 3
    assert vm.tables.relax_permissions(0, readable=True, writable=True) == 3
    assert [isinstance(vm.walk(0, kind), Translation) for kind in ("load", "store", "fetch")] == [True] * 3
    assert vm.tables.relax_permissions(4096, writable=True) is None


@pytest.mark.parametrize("rwx", [(True, False, False), (False, True, False), (False, False, True)])
def test_relaxing_adds_what_it_was_told_and_no_more(rwx: tuple[bool, bool, bool]) -> None:
    vm = Vm(4096, 40)
    vm.tables.map(0, PA, 4096, vm.form.attributes(readable=False, writable=False, executable=False))
    readable, writable, executable = rwx
    vm.tables.relax_permissions(0, readable=readable, writable=writable, executable=executable)
    assert vm.tables.lookup(0) == Leaf(PA, 3, readable, writable, executable)


def test_relaxing_leaves_the_access_flag_alone() -> None:
    # stage2_update_leaf_attrs with the permission bits only.
    vm = Vm(4096, 40)
    vm.tables.map(0, PA, 4096, vm.form.attributes(accessed=False))
    vm.tables.relax_permissions(0, writable=True)
    entry = vm.tables.entry(0)
    assert entry is not None
    assert not entry[1] & ACCESS_FLAG


def test_page_in_a_block_takes_the_rest_of_the_block_away() -> None:
    # stage2_map_walk_leaf: what is beyond the page "will be mapped lazily".
    vm = Vm(4096, 40)
    vm.tables.map(0, PA, 1 << 21, vm.form.attributes())
    vm.tables.map(0x3000, PA + 0x3000, 0x1000, vm.form.attributes())
    assert [ipa for ipa, _ in vm.tables.leaves()] == [0x3000]
    check_counts(vm)


def test_leaves_of_a_range_only() -> None:
    vm = Vm(4096, 40)
    for number in range(4):
        vm.tables.map(number << 30, PA, 4096, vm.form.attributes())
    assert [ipa >> 30 for ipa, _ in vm.tables.leaves(1 << 30, 2 << 30)] == [1, 2]
    assert [ipa >> 30 for ipa, _, _ in vm.tables.descriptors(2 << 30)] == [2, 3]


def test_page_sizes_have_to_agree() -> None:
    with pytest.raises(ValueError, match="page sizes"):
        Tables(Geometry(4096, 40), Format(16384), PhysicalMemory(4096, 40))


def test_two_vms_do_not_share_tables() -> None:
    memory, form = PhysicalMemory(4096, 40), Format(4096)
    one, two = (Tables(Geometry(4096, 40), form, memory) for _ in range(2))
    one.map(0, PA, 4096, form.attributes())
    assert (one.lookup(0), two.lookup(0)) == (Leaf(PA, 3), None)
    two.destroy()
    assert one.lookup(0) == Leaf(PA, 3)


@pytest.mark.parametrize("page_size", [4096, 16384, 65536])
def test_cost_does_not_grow_with_the_range(page_size: int) -> None:
    # A page at each end of the space: every operation on all of it reads the tables that there are, and no more.
    vm = Vm(page_size, 48)
    top = (1 << 48) - page_size
    for ipa in (0, top):
        vm.tables.map(ipa, PA, page_size, vm.form.attributes())
    read = count_children(vm)
    vm.tables.write_protect(0, 1 << 48)
    assert list(vm.tables.leaves())[1][0] == top
    vm.tables.unmap(0, 1 << 48)
    assert len(read) < 40


def count_children(vm: Vm) -> list[int]:
    read: list[int] = []
    child = vm.tables._child

    def counted(descriptor: int) -> Node:
        read.append(descriptor)
        return child(descriptor)

    vm.tables._child = counted  # type: ignore[method-assign]
    return read


def test_mapped_page_costs_at_most_100_bytes() -> None:
    vm = Vm(4096, 40)
    attributes = vm.form.attributes() | TABLE_OR_PAGE
    tracemalloc.start()
    before, _ = tracemalloc.get_traced_memory()
    for offset in range(0, 1 << 26, 4096):
        vm.tables.map_page(offset, vm.memory.frame(0x7F00_0000_0000 + offset) | attributes)
    after, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert (after - before) / (1 << 14) < 100
