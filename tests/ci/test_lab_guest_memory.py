# SPDX-License-Identifier: Apache-2.0
"""The memory that the lab's guests make slots of."""

from __future__ import annotations

import ctypes
import mmap
import sys

import pytest

if sys.platform != "linux":
    pytest.skip("the lab's guests run Linux", allow_module_level=True)

from ci.lab.guest_memory import Libc, populate, smaps

SIZE = 64 << 10
ALIGN = 2 << 20


@pytest.mark.parametrize("phase", [0, mmap.PAGESIZE])
def test_area_is_a_mapping_of_its_own_where_it_was_asked_for(phase: int) -> None:
    address = Libc().area(SIZE, ALIGN, phase)
    assert address % ALIGN == phase
    found = smaps(address)
    assert found["Size"] == SIZE >> 10
    assert found["Rss"] == 0
    assert smaps(address - 1)["Size"] != SIZE >> 10


def test_memory_is_there_when_it_was_touched_and_not_when_it_was_given_back() -> None:
    libc = Libc()
    address = libc.area(SIZE, ALIGN)
    populate(address, SIZE)
    assert smaps(address + SIZE - 1)["Rss"] == SIZE >> 10
    assert ctypes.string_at(address, 1) == b"\x5a"
    libc.discard(address, SIZE)
    assert smaps(address)["Rss"] == 0
    assert ctypes.string_at(address, 1) == b"\0"


def test_address_that_nothing_is_mapped_at() -> None:
    assert smaps(0) == {}


def test_more_than_hugetlbs_pool_has_is_refused() -> None:
    with pytest.raises(OSError, match="mmap"):
        Libc().huge_area(1 << 46, 2 << 20)
