# SPDX-License-Identifier: Apache-2.0
"""kvmipa.layout.planning: the smallest size, what does not fit, and what would."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from kvmipa.layout import DEVICE, RAM, LayoutError, MemoryMap, Region, largest_map, plan
from tests.layout.maps import GIB, PAGE_SIZES, maps, ram

if TYPE_CHECKING:
    from kvmipa.layout import Plan


@st.composite
def plans(draw: st.DrawFn) -> Plan:
    """A plan for any map on any host."""
    page_size = draw(st.sampled_from(PAGE_SIZES))
    limit = draw(st.one_of(st.none(), st.integers(32, 52)))
    return plan(draw(maps(page_size)), limit, page_size)


@given(plans())
def test_chosen_size_is_the_smallest(planned: Plan) -> None:
    end, bits = planned.memory_map.end, planned.needed_bits
    assert 1 << bits >= end
    assert bits == 32 or 1 << (bits - 1) < end


@given(plans())
def test_map_fits_exactly_where_no_region_ends_beyond_the_limit(planned: Plan) -> None:
    assert planned.fits == (not planned.misfits) == (planned.ipa_bits is not None)
    assert (planned.machine_type is not None) == planned.fits
    space = 1 << planned.available_bits
    for misfit in planned.misfits:
        assert misfit.excess == misfit.region.end - space > 0
        assert misfit.wholly == (misfit.region.base >= space)
    assert {misfit.region.name for misfit in planned.misfits} == {
        region.name for region in planned.memory_map.regions if region.end > space
    }


@given(plans())
def test_largest_ram_fits_and_one_page_more_does_not(planned: Plan) -> None:
    largest = planned.largest_ram
    if largest is None:
        assert all(region.kind != RAM for region in planned.memory_map.regions)
        return
    below = [region for region in planned.memory_map.regions if region.base < largest.region.base]

    def fits(size: int) -> bool:
        grown = Region(largest.region.name, largest.region.base, size) if size else None
        above = [
            region
            for region in planned.memory_map.regions
            if region.base > largest.region.base and region.end <= 1 << planned.available_bits
        ]
        try:
            whole = MemoryMap([*([grown] if grown else []), *above] or [Region("nothing", 0, 1, DEVICE)])
        except LayoutError:
            return False
        return grown is None or plan(whole, planned.limit, planned.page_size).fits

    crossing = [
        region
        for region in planned.memory_map.regions
        if largest.region.base < region.base < 1 << planned.available_bits < region.end
    ]
    assume(not crossing)  # another region is what does not fit then
    assert fits(largest.size)
    assert not fits(largest.size + planned.page_size)
    assert largest.total - largest.size == sum(
        region.size for region in below if region.kind == RAM and region.end <= 1 << planned.available_bits
    )


@given(plans())
def test_slots_cover_the_memory_in_pieces_that_kvm_takes(planned: Plan) -> None:
    wanted = list(planned.memory_map.slots)
    assume(sum(region.size for region in wanted) < planned.page_size << 40)
    slots = list(planned.slots)
    assert all(slot.size // planned.page_size < 1 << 31 for slot in slots)
    for region in wanted:
        own = [slot for slot in slots if region.base <= slot.base < region.end]
        assert own[0].base == region.base
        assert own[-1].end == region.end
        assert all(first.end == second.base for first, second in pairwise(own))
        # No block of the largest size is cut.
        assert all(slot.base % (planned.page_size << 30) == 0 for slot in own[1:])


@pytest.mark.parametrize(
    ("gib", "limit", "bits", "machine_type"),
    [
        (1, 48, 32, 0x20),
        (3, 48, 32, 0x20),
        (4, 48, 33, 0x21),
        (63, 36, 36, 0x24),
        (1023, 40, 40, 0x28),
        (1, None, 40, 0),
    ],
)
def test_size_and_machine_type(gib: int, limit: int | None, bits: int, machine_type: int) -> None:
    planned = plan(ram(gib), limit)
    assert (planned.ipa_bits, planned.machine_type) == (bits, machine_type)


def test_kernel_without_the_choice_makes_40_bits() -> None:
    assert plan(ram(1023), None).fits
    too_large = plan(ram(1024), None)
    assert (too_large.fits, too_large.ipa_bits, too_large.machine_type) == (False, None, None)
    assert too_large.misfits[0].excess == GIB


@pytest.mark.parametrize(
    ("limit", "gib", "made", "works"),
    [
        (36, 1, False, False),
        (39, 1, False, False),
        (40, 1023, True, True),
        (40, 1024, True, False),
        (None, 1, True, True),
    ],
)
def test_default_size(limit: int | None, gib: int, made: bool, works: bool) -> None:
    planned = plan(ram(gib), limit)
    assert (planned.default_made, planned.default_works) == (made, works)


def test_what_lies_above_bounds_the_ram() -> None:
    window = Region("window", 512 * GIB, 512 * GIB, DEVICE)
    largest = plan(MemoryMap([*ram(1).regions, window]), 48).largest_ram
    assert largest is not None
    assert (largest.size, largest.bounded_by) == (511 * GIB, window)
    # A region that is out of reach bounds nothing.
    largest = plan(MemoryMap([*ram(1).regions, window]), 36).largest_ram
    assert largest is not None
    assert (largest.size, largest.bounded_by) == (63 * GIB, None)


def test_ram_that_starts_beyond_the_limit_has_no_largest_size() -> None:
    largest = plan(ram(1, base=64 * GIB), 36).largest_ram
    assert largest is not None
    assert (largest.size, largest.total) == (0, 0)


@pytest.mark.parametrize("limit", [31, 53, 65, 0, -1, 36.0, True, "36"])
def test_limit_that_no_host_has_is_refused(limit: object) -> None:
    with pytest.raises(LayoutError, match="arm64 hosts have 32 to 52"):
        plan(ram(1), limit)  # type: ignore[arg-type]


def test_neighbouring_sizes_have_their_reasons() -> None:
    assert plan(ram(64), 48).sizes_to_compare() == {
        37: "planned",
        38: "one bit more",
        40: "the default (type 0)",
        48: "the host's limit",
    }
    assert plan(ram(64), 36).sizes_to_compare() == {36: "the host's limit", 37: "needed, above the limit"}
    assert plan(ram(1 << 25), 48).sizes_to_compare() == {40: "the default (type 0)", 48: "the host's limit"}


@given(st.integers(32, 52), st.sampled_from(PAGE_SIZES), st.booleans())
def test_largest_map_fits_and_a_page_more_does_not(limit: int, page_size: int, window: bool) -> None:
    others = MemoryMap([Region("window", 2 * GIB, GIB, DEVICE)]) if window else None
    found = largest_map(others, GIB, limit, page_size)
    assert plan(found, limit, page_size).fits
    size = found.ram_size
    assert size == (GIB if window else (1 << limit) - GIB)
    if not window:
        assert not plan(found.resized("ram", size + page_size), limit, page_size).fits
        return
    with pytest.raises(LayoutError, match="overlap"):
        found.resized("ram", size + page_size)


def test_no_room_for_ram_is_said() -> None:
    with pytest.raises(LayoutError, match="no room for RAM at 0x1000000000: the host's addresses end at 2\\^36"):
        largest_map(None, 64 * GIB, 36)
