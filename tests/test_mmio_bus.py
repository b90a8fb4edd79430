# SPDX-License-Identifier: Apache-2.0
"""MmioBus: whose access it is."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvmipa import MmioBus

TOP = 1 << 64


class Device:
    """Remembers what was asked of it."""

    def __init__(self) -> None:
        self.asked: list[tuple[int, ...]] = []

    def read(self, offset: int, size: int) -> int:
        self.asked.append((offset, size))
        return 7

    def write(self, offset: int, size: int, value: int) -> None:
        self.asked.append((offset, size, value))


def test_access_finds_its_device() -> None:
    bus, low, high = MmioBus(), Device(), Device()
    bus.add(0x2000, 0x100, high)
    bus.add(0x1000, 0x100, low)
    assert [one.start for one in bus] == [0x1000, 0x2000]
    assert len(bus) == 2
    assert bus.read(0x1008, 8) == 7
    assert bus.write(0x20FC, 4, 3)
    assert (low.asked, high.asked) == ([(8, 8)], [(0xFC, 4, 3)])


@pytest.mark.parametrize(("addr", "size"), [(0xFFF, 1), (0xFFE, 4), (0x10FD, 4), (0x1100, 1), (0, 1), (TOP - 1, 1)])
def test_access_that_is_not_all_in_the_range_finds_nobody(addr: int, size: int) -> None:
    bus, device = MmioBus(), Device()
    bus.add(0x1000, 0x100, device)
    assert bus.find(addr, size) is None
    assert bus.read(addr, size) is None
    assert not bus.write(addr, size, 0)
    assert device.asked == []


def test_overlaps_are_refused_by_name() -> None:
    bus = MmioBus()
    bus.add(0x1000, 0x100, Device())
    for addr, size in ((0x1000, 0x100), (0xFFF, 2), (0x10FF, 1), (0x1010, 1), (0, TOP - 1), (0xF00, 0x1000)):
        with pytest.raises(ValueError, match=rf"\[{addr:#x}, .*overlaps \[0x1000, 0x1100\) of .*Device"):
            bus.add(addr, size, Device())
    bus.add(0xFFF, 1, Device())
    bus.add(0x1100, 1, Device())
    assert len(bus) == 3


def test_ranges_that_cannot_be() -> None:
    bus = MmioBus()
    for addr, size, message in ((0, 0, "at least one byte"), (TOP - 1, 2, "beyond 64 bits"), (1, TOP - 1, None)):
        if message is None:
            bus.add(addr, size, Device())
        else:
            with pytest.raises(ValueError, match=message):
                bus.add(addr, size, Device())
    for addr, size in ((-1, 1), (TOP, 1), (0, -1)):
        with pytest.raises(OverflowError, match="does not fit 64 bits"):
            bus.add(addr, size, Device())
    with pytest.raises(TypeError, match="has no read"):
        bus.add(0, 1, object())  # type: ignore[arg-type]


def test_removal() -> None:
    bus = MmioBus()
    bus.add(0x1000, 0x100, Device())
    with pytest.raises(LookupError, match="0x1001"):
        bus.remove(0x1001)
    bus.remove(0x1000)
    assert bus.find(0x1000, 1) is None
    bus.add(0x1000, 0x200, Device())


@given(
    st.lists(st.tuples(st.integers(0, 300), st.integers(1, 40)), max_size=12),
    st.integers(0, 350),
    st.sampled_from([1, 2, 4, 8]),
)
def test_it_finds_what_a_search_finds(ranges: list[tuple[int, int]], addr: int, size: int) -> None:
    bus = MmioBus()
    added: dict[tuple[int, int], Device] = {}
    for start, length in ranges:
        overlaps = any(start < at + long and at < start + length for at, long in added)
        device = Device()
        if overlaps:
            with pytest.raises(ValueError, match="overlaps"):
                bus.add(start, length, device)
        else:
            bus.add(start, length, device)
            added[start, length] = device
    expected = [key for key in added if key[0] <= addr and addr + size <= key[0] + key[1]]
    found = bus.find(addr, size)
    assert (None if found is None else found[:2]) == ((expected[0][0], sum(expected[0])) if expected else None)
