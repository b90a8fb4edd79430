# SPDX-License-Identifier: Apache-2.0
"""kvmipa.layout.regions and document: maps that make sense, and those that do not."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvmipa.layout import DEVICE, LayoutError, MemoryMap, Region, device_of, memory_map_of, overlaps
from tests.layout.maps import GIB, ram


@pytest.mark.parametrize(
    ("fields", "why"),
    [
        (("ram", 0, 0), "region ram: size 0 bytes"),
        (("ram", 0, -4096), "region ram: size -4096 bytes"),
        (("ram", -4096, 4096), "region ram: base -0x1000 is negative"),
        (("ram", (1 << 64) - 4096, 8192), "region ram: ends 4 KiB beyond 64 bits of address"),
        (("ram", 0, 4096, "flash"), "region ram: no kind 'flash'; there are ram, rom, device"),
        (("ram", 0, 4096, ["ram"]), "region ram: no kind"),
        (("ram", 0, 4096.0), "region ram: its size is a number of bytes"),
        (("ram", True, 4096), "region ram: its base is a number of bytes"),
        (("", 0, 4096), "has no name"),
        ((" ", 0, 4096), "has no name"),
    ],
)
def test_what_is_no_region_is_refused(fields: tuple[Any, ...], why: str) -> None:
    with pytest.raises(LayoutError) as caught:
        Region(*fields)
    assert why in str(caught.value)


def test_region_may_end_with_the_last_address_of_64_bits() -> None:
    assert Region("top", (1 << 64) - 4096, 4096).end == 1 << 64


def test_empty_map_is_refused() -> None:
    with pytest.raises(LayoutError, match="the memory map is empty"):
        MemoryMap([])


def test_two_regions_of_one_name_are_refused() -> None:
    with pytest.raises(LayoutError, match="two regions are named ram"):
        MemoryMap([Region("ram", 0, 4096), Region("ram", 8192, 4096)])


def test_overlap_names_both_regions_and_the_bytes_they_share() -> None:
    with pytest.raises(LayoutError) as caught:
        MemoryMap([Region("window", 2 * GIB, GIB, DEVICE), Region("ram", GIB, GIB + 4096)])
    assert str(caught.value) == "ram (0x40000000..0x80000fff) and window (0x80000000..0xbfffffff) overlap by 4 KiB"


def test_overlap_of_many_regions_is_told_in_short() -> None:
    with pytest.raises(LayoutError, match=r"overlap by 4 KiB; .*; and 7 pairs more"):
        MemoryMap(Region(f"r{number}", 0, 4096) for number in range(5))


def test_region_inside_another_is_found_behind_a_third() -> None:
    found = list(overlaps([Region("big", 0, 100), Region("small", 10, 10), Region("late", 50, 100)]))
    assert [(first.name, second.name, shared) for first, second, shared in found] == [
        ("big", "small", 10),
        ("big", "late", 50),
    ]


@given(st.lists(st.tuples(st.integers(0, 30), st.integers(1, 12)), max_size=7))
def test_overlaps_are_those_that_brute_force_finds(spans: list[tuple[int, int]]) -> None:
    regions = [Region(f"r{number}", base, size) for number, (base, size) in enumerate(spans)]
    found = {frozenset((first.name, second.name)): shared for first, second, shared in overlaps(regions)}
    expected = {}
    for place, first in enumerate(regions):
        for second in regions[place + 1 :]:
            shared = len(set(range(first.base, first.end)) & set(range(second.base, second.end)))
            if shared:
                expected[frozenset((first.name, second.name))] = shared
    assert found == expected
    if expected:
        with pytest.raises(LayoutError, match="overlap by"):
            MemoryMap(regions)


@pytest.mark.parametrize("page_size", [4096, 16384, 65536])
@pytest.mark.parametrize("field", ["base", "size"])
def test_memory_that_is_not_aligned_to_pages_is_refused(page_size: int, field: str) -> None:
    fields = {"base": GIB, "size": GIB} | {field: GIB + page_size // 2}
    with pytest.raises(LayoutError, match=f"region ram: its {field} 0x.* is not a multiple of the page size"):
        MemoryMap([Region("ram", fields["base"], fields["size"])]).check_pages(page_size)
    MemoryMap([Region("ram", fields["base"], fields["size"], DEVICE)]).check_pages(page_size)


@pytest.mark.parametrize("page_size", [0, 1, 2048, 8192, 1 << 20, -4096])
def test_page_size_that_arm64_does_not_have_is_refused(page_size: int) -> None:
    with pytest.raises(LayoutError, match="arm64 has 4K, 16K, 64K"):
        ram(1).check_pages(page_size)


def test_region_of_a_map_can_be_resized() -> None:
    assert ram(1).resized("ram", 2 * GIB) == ram(2)
    with pytest.raises(LookupError, match="no region rom"):
        ram(1).resized("rom", 4096)


def test_map_can_be_read_from_a_document() -> None:
    document = json.loads(
        '{"regions": [{"name": "ram", "base": "1G", "size": "64G"}, '
        '{"name": "uart", "base": 150994944, "size": "4K", "kind": "device"}]}'
    )
    assert memory_map_of(document).regions == (
        Region("uart", 0x9000000, 4096, DEVICE),
        Region("ram", GIB, 64 * GIB),
    )


GOOD = {"name": "ram", "base": "1G", "size": "1G"}


@pytest.mark.parametrize(
    ("document", "why"),
    [
        ([], "the memory map: a table with regions is wanted"),
        ({}, "the memory map: regions is missing"),
        ({"regions": []}, "the memory map is empty"),
        ({"regions": GOOD}, "regions: a list is wanted"),
        ({"regions": [], "limit": 40}, "the memory map: no key limit; there are regions"),
        ({"regions": [GOOD, 7]}, "regions[1]: a table with name, base, size, kind is wanted, not 7"),
        ({"regions": [GOOD | {"length": 1, "type": 2}]}, "regions[0]: no key length, type; there are name, base"),
        ({"regions": [{"name": "ram"}]}, "regions[0]: base, size is missing"),
        ({"regions": [GOOD | {"size": "64Q"}]}, "regions[0] (ram): size '64Q': no unit 'Q'"),
        ({"regions": [GOOD | {"base": 1.5}]}, "regions[0] (ram): base 1.5: a number of bytes"),
        ({"regions": [GOOD | {"base": -1}]}, "region ram: base -0x1 is negative"),
        ({"regions": [GOOD | {"name": 7}]}, "regions[0]: its name is text, not 7"),
        ({"regions": [GOOD | {"kind": "sram"}]}, "no kind 'sram'"),
        ({"regions": [GOOD, GOOD]}, "two regions are named ram"),
    ],
)
def test_document_that_is_no_map_is_refused_with_the_place(document: object, why: str) -> None:
    with pytest.raises(LayoutError) as caught:
        memory_map_of(document)
    assert why in str(caught.value)


def test_device_is_written_in_one_word() -> None:
    assert device_of("window@512G+0x8000000000") == Region("window", 512 * GIB, 512 * GIB, DEVICE)


@pytest.mark.parametrize("text", ["", "uart", "uart@", "uart@1G", "uart@1G+", "@1G+4K", "uart+4K@1G", "uart@+4K"])
def test_device_of_another_form_is_refused(text: str) -> None:
    with pytest.raises(LayoutError, match=r"it is written name@base\+size"):
        device_of(text)


def test_path_of_a_kvm_device_is_recognised() -> None:
    with pytest.raises(LayoutError, match="the KVM device's path stands before the command"):
        device_of("/dev/kvm")
