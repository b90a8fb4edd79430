# SPDX-License-Identifier: Apache-2.0
"""The shape of stage-2 tables: every row of the specification, and what holds for every shape."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvmipa.stage2.geometry import Geometry

from .registers import PAGE_SIZES

# The three tables of kernel-ipa-spec 3.2, a line for each row.
TABLE = Path(__file__).parents[1] / "data" / "geometry.csv"

shapes = st.builds(Geometry, page_size=st.sampled_from(PAGE_SIZES), ipa_bits=st.integers(32, 52))


def rows() -> list[dict[str, int]]:
    with TABLE.open(newline="") as file:
        return [{name: int(value) for name, value in row.items()} for row in csv.DictReader(file)]


def name_of(row: dict[str, int]) -> str:
    return f"{row['page_size'] >> 10}K-{row['ipa_bits']}"


def test_table_has_every_size_of_every_page_size() -> None:
    found = [(row["page_size"], row["ipa_bits"]) for row in rows()]
    assert found == [(page, bits) for page in PAGE_SIZES for bits in range(32, 53)]


@pytest.mark.parametrize("row", rows(), ids=name_of)
def test_shape_is_the_specifications(row: dict[str, int]) -> None:
    shape = Geometry(row["page_size"], row["ipa_bits"])
    assert {
        "levels": shape.levels,
        "start_level": shape.start_level,
        "sl0": shape.sl0,
        "pgd_pages": shape.concatenated_tables,
        "pgd_bytes": shape.pgd_size,
        "pgd_entries": shape.entries,
        "entry_covers": shape.entry_size(shape.start_level),
    } == {name: value for name, value in row.items() if name not in ("page_size", "ipa_bits", "t0sz")}


@pytest.mark.parametrize("page_size", [0, 1, 4095, 8192, 32768, 131072, -4096])
def test_page_size_of_no_arm64_kernel_is_refused(page_size: int) -> None:
    with pytest.raises(ValueError, match=f"page size {page_size} "):
        Geometry(page_size, 40)


@pytest.mark.parametrize("ipa_bits", [-40, 0, 31, 53, 64, 296])
def test_size_that_kvm_never_has_is_refused(ipa_bits: int) -> None:
    with pytest.raises(ValueError, match=f"^{ipa_bits} IPA bits"):
        Geometry(4096, ipa_bits)


@given(shapes)
def test_architecture_allows_the_start_level(shape: Geometry) -> None:
    # kernel-ipa-spec 3.2, the consistency rule: 1 <= ipa - ((3 - start_level)(p - 3) + p) <= (p - 3) + 4.
    page_shift = {4096: 12, 16384: 14, 65536: 16}[shape.page_size]
    left = shape.ipa_bits - ((3 - shape.start_level) * (page_shift - 3) + page_shift)
    assert 1 <= left <= page_shift + 1


@given(shapes)
def test_walk_starts_as_late_as_16_tables_allow(shape: Geometry) -> None:
    # kernel-ipa-spec 3.2: concatenation is used whenever it saves a level, down to two levels.
    if shape.levels > 2:
        one_level_later = 1 << (shape.ipa_bits - shape.shift(shape.start_level + 1))
        assert one_level_later > 16 * (shape.page_size >> 3)


@given(shapes)
def test_levels_resolve_the_whole_address(shape: Geometry) -> None:
    index_bits = sum(shape.index_bits(level) for level in range(shape.start_level, 4))
    assert index_bits + shape.page_shift == shape.ipa_bits


@given(shapes)
def test_there_are_two_to_four_levels_and_the_last_is_3(shape: Geometry) -> None:
    assert 2 <= shape.levels <= 4
    assert shape.start_level + shape.levels - 1 == 3


@given(shapes)
def test_last_level_maps_pages(shape: Geometry) -> None:
    assert shape.entry_size(3) == shape.page_size


@given(shapes)
def test_entry_covers_a_whole_table_of_the_next_level(shape: Geometry) -> None:
    for level in range(shape.start_level, 3):
        assert shape.entry_size(level) == shape.entry_size(level + 1) * (shape.page_size >> 3)


@given(shapes)
def test_start_level_covers_the_ipa_space_exactly(shape: Geometry) -> None:
    assert shape.entries * shape.entry_size(shape.start_level) == 1 << shape.ipa_bits


@given(shapes)
def test_1_to_16_tables_are_concatenated_and_a_power_of_two(shape: Geometry) -> None:
    assert shape.concatenated_tables in (1, 2, 4, 8, 16)


@given(shapes)
def test_pgd_is_whole_pages_with_room_for_its_entries(shape: Geometry) -> None:
    assert shape.pgd_size == shape.concatenated_tables * shape.page_size
    assert shape.entries * 8 <= shape.pgd_size
    # More than one table only where the entries fill them.
    assert shape.concatenated_tables == 1 or shape.entries * 8 == shape.pgd_size


@given(shapes)
def test_start_level_fits_its_two_bits_of_the_register(shape: Geometry) -> None:
    assert 0 <= shape.sl0 <= 3


@given(st.sampled_from(PAGE_SIZES), st.integers(32, 51))
def test_more_address_bits_never_take_fewer_levels(page_size: int, ipa_bits: int) -> None:
    smaller, larger = Geometry(page_size, ipa_bits), Geometry(page_size, ipa_bits + 1)
    assert larger.levels - smaller.levels in (0, 1)
