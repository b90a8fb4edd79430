# SPDX-License-Identifier: Apache-2.0
"""kvmipa.layout.cost: counted tables are those that the model of KVM's page-table code makes."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kvmipa.layout import Region, stage2_cost, table_pages
from kvmipa.stage2.descriptors import TABLE_OR_PAGE, Format
from kvmipa.stage2.geometry import Geometry
from kvmipa.stage2.memory import PhysicalMemory
from kvmipa.stage2.tables import Tables
from tests.layout.maps import GIB, PAGE_SIZES


def tables_of(geometry: Geometry) -> Tables:
    return Tables(geometry, Format(geometry.page_size), PhysicalMemory(geometry.page_size, pa_bits=48))


@st.composite
def memory(draw: st.DrawFn, most_pages: int) -> tuple[Geometry, list[tuple[int, int]]]:
    """A shape and spans of memory in it: near edges of tables, and anywhere."""
    geometry = Geometry(draw(st.sampled_from(PAGE_SIZES)), draw(st.integers(32, 52)))
    last = (1 << geometry.ipa_bits) // geometry.page_size - 1
    edges = st.builds(
        lambda level, number, offset: max(0, number * (geometry.entry_size(level) // geometry.page_size) + offset),
        st.integers(geometry.start_level, 2),
        st.integers(0, 4),
        st.integers(-3, 3),
    )
    spans: list[tuple[int, int]] = []
    base = 0
    for start in sorted(draw(st.lists(st.one_of(edges, st.integers(0, last)), min_size=1, max_size=4))):
        base = min(max(base, start), last)
        pages = draw(st.integers(1, min(most_pages, last - base + 1)))
        if spans and base * geometry.page_size < spans[-1][1]:
            continue
        spans.append((base * geometry.page_size, (base + pages) * geometry.page_size))
        base += pages
    return geometry, spans


@settings(max_examples=60)
@given(memory(most_pages=40))
def test_tables_by_pages_are_those_of_the_model(drawn: tuple[Geometry, list[tuple[int, int]]]) -> None:
    geometry, spans = drawn
    tables = tables_of(geometry)
    for base, end in spans:
        for ipa in range(base, end, geometry.page_size):
            tables.map_page(ipa, tables.format.place(1 << 30) | tables.format.attributes() | TABLE_OR_PAGE)
    assert table_pages(geometry, spans) == tables.table_pages


@settings(max_examples=60)
@given(memory(most_pages=3 * 512 * 512))
def test_tables_by_blocks_are_those_of_the_model(drawn: tuple[Geometry, list[tuple[int, int]]]) -> None:
    geometry, spans = drawn
    tables = tables_of(geometry)
    for base, end in spans:
        # Physical addresses in phase with the IPA, as huge pages behind memory are.
        tables.map(base, base % (1 << 42), end - base, tables.format.attributes())
    assert table_pages(geometry, spans, 1 if geometry.page_size == 4096 else 2) == tables.table_pages


def test_blocks_of_2m_leave_the_level_above_them() -> None:
    geometry = Geometry(4096, 40)
    whole, ragged = [(GIB, 3 * GIB)], [(GIB + 4096, 3 * GIB - 4096)]
    assert [table_pages(geometry, whole, level) for level in (1, 2, 3)] == [2, 4, 2 + 2 + 1024]
    assert table_pages(geometry, ragged, 2) == 2 + 2 + 2


@pytest.mark.parametrize("page_size", [16384, 65536])
def test_larger_pages_have_no_blocks_of_level_1(page_size: int) -> None:
    with pytest.raises(ValueError, match="level 1 has no leaves"):
        table_pages(Geometry(page_size, 40), [(0, 1 << 30)], 1)


def test_memory_beyond_the_size_does_not_count() -> None:
    inside = stage2_cost(36, 4096, [Region("ram", GIB, 63 * GIB)])
    assert stage2_cost(36, 4096, [Region("ram", GIB, 64 * GIB), Region("far", 1 << 40, GIB)]) == inside


# kernel-ipa-spec 6: 2^(ipa-30), 2^(ipa-25), 2^(ipa-29) iterations.
@pytest.mark.parametrize(("page_size", "steps"), [(4096, 1 << 10), (16384, 1 << 15), (65536, 1 << 11)])
def test_steps_to_close(page_size: int, steps: int) -> None:
    assert stage2_cost(40, page_size).close_steps == steps
