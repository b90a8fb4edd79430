# SPDX-License-Identifier: Apache-2.0
"""Who takes a guest's write before it becomes an exit, and the ring of collected writes, of the emulated kernel."""

from __future__ import annotations

import os
import struct
from collections import deque
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvmipa.backend.emulated.io_bus import CoalescedRing, IoBus
from tests.backend.emulated.vm_asking import KVM_UNREGISTER_COALESCED_MMIO, Asked, emulated, needs_eventfd, state

if TYPE_CHECKING:
    from collections.abc import Iterator

MATCH, DEASSIGN = 1, 4
AT = 0x900_0000


class Place(NamedTuple):
    """A range on the bus."""

    addr: int
    length: int


@pytest.fixture
def asked() -> Iterator[Asked]:
    with emulated("6.12") as found:
        yield found


@pytest.fixture
def fd() -> Iterator[int]:
    opened = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
    yield opened
    os.close(opened)


def write(asked: Asked, addr: int, size: int = 4, value: int = 0) -> bool:
    """A guest's write: whether it is no exit."""
    vm = state(asked)
    with vm.lock:
        return bool(vm.io_events.write(addr, size, value.to_bytes(size, "little")))


def signals(fd: int) -> int:
    try:
        return os.eventfd_read(fd)
    except BlockingIOError:
        return 0


def entries(asked: Asked) -> list[tuple[int, int, int]]:
    """Address, length and value of what is in the ring, and take it out."""
    area = state(asked).io_events.ring.area
    first, last = struct.unpack_from("=II", area)
    size = (len(area) - 8) // 24
    found = [struct.unpack_from("=QII8s", area, 8 + 24 * ((first + at) % size)) for at in range((last - first) % size)]
    struct.pack_into("=I", area, 0, last)
    return [(addr, length, int.from_bytes(data[:length], "little")) for addr, length, _, data in found]


# ------------------------------------------------------------------------------------------------ the bus


def test_nothing_takes_a_write(asked: Asked) -> None:
    assert not write(asked, AT)


@needs_eventfd
def test_ioeventfd_takes_its_size_and_value(asked: Asked, fd: int) -> None:
    assert (asked.ioeventfd(fd, AT, 4, MATCH, 7), asked.ioeventfd(fd, AT + 8, 0)) == (0, 0)
    taken = [(AT, 4, 7), *((AT + 8, size, 3) for size in (1, 2, 4, 8))]
    assert all(write(asked, *what) for what in taken)
    assert signals(fd) == len(taken)
    left = [(AT, 4, 8), (AT, 2, 7), (AT, 8, 7), (AT + 1, 4, 7), (AT + 9, 1, 3), (AT + 7, 1, 3)]
    assert not any(write(asked, *what) for what in left)
    assert asked.ioeventfd(fd, AT + 8, 0, DEASSIGN) == 0
    assert not write(asked, AT + 8, 1)
    assert signals(fd) == 0


@needs_eventfd
def test_ioeventfd_of_ports_takes_none(asked: Asked, fd: int) -> None:
    assert asked.ioeventfd(fd, AT, 4, 2) == 0
    assert not write(asked, AT)


@needs_eventfd
def test_signal_reaches_an_eventfd_by_its_duplicate(asked: Asked, fd: int) -> None:
    first = os.dup(fd)
    assert asked.ioeventfd(first, AT, 4) == 0
    os.close(first)
    assert write(asked, AT)
    assert signals(fd) == 1


@needs_eventfd
def test_eventfd_that_is_closed_everywhere_takes_writes_and_no_other_is_signalled(asked: Asked) -> None:
    first = os.eventfd(0, os.EFD_NONBLOCK)
    assert asked.ioeventfd(first, AT, 4) == 0
    os.close(first)
    second = os.eventfd(0, os.EFD_NONBLOCK)
    assert write(asked, AT)
    assert signals(second) == 0
    os.close(second)


@needs_eventfd
def test_counter_at_its_end_does_not_stop_the_guest(asked: Asked, fd: int) -> None:
    blocking = os.eventfd(0)
    assert asked.ioeventfd(blocking, AT, 4) == 0
    os.eventfd_write(blocking, (1 << 64) - 2)
    assert write(asked, AT)
    os.close(blocking)


def test_zone_collects_what_is_in_it(asked: Asked) -> None:
    assert asked.zone(AT, 0x100) == 0
    assert all([write(asked, AT, 4, 5), write(asked, AT + 0xF8, 8, 1 << 60), write(asked, AT + 0xFF, 1, 9)])
    assert not any([write(asked, AT - 1, 2), write(asked, AT + 0xFD), write(asked, AT + 0x100, 1)])
    assert entries(asked) == [(AT, 4, 5), (AT + 0xF8, 8, 1 << 60), (AT + 0xFF, 1, 9)]
    assert asked.zone(AT, 8, request=KVM_UNREGISTER_COALESCED_MMIO) == 0
    assert not write(asked, AT)


def test_zone_of_ports_collects_nothing(asked: Asked) -> None:
    assert asked.zone(AT, 0x100, 1) == 0
    assert not write(asked, AT)


def test_equal_zones_are_two(asked: Asked) -> None:
    for _ in range(2):
        assert asked.zone(AT, 0x100) == 0
    assert write(asked, AT)
    assert len(entries(asked)) == 1
    assert asked.zone(AT, 0x100, request=KVM_UNREGISTER_COALESCED_MMIO) == 0
    assert not write(asked, AT)


@needs_eventfd
@pytest.mark.parametrize("zone_first", [False, True])
def test_ioeventfd_is_before_a_zone_that_begins_there(asked: Asked, fd: int, zone_first: bool) -> None:
    if zone_first:
        assert (asked.zone(AT, 0x100), asked.ioeventfd(fd, AT, 4)) == (0, 0)
    else:
        assert (asked.ioeventfd(fd, AT, 4), asked.zone(AT, 0x100)) == (0, 0)
    assert write(asked, AT)
    assert (signals(fd), entries(asked)) == (1, [])
    assert write(asked, AT, 2)
    assert (signals(fd), entries(asked)) == (0, [(AT, 2, 0)])


@needs_eventfd
def test_zone_that_begins_before_an_ioeventfd_and_was_there_first_collects_until_it_is_full(
    asked: Asked, fd: int
) -> None:
    assert (asked.zone(AT, 0x100), asked.ioeventfd(fd, AT + 8, 4)) == (0, 0)
    assert [write(asked, AT + 8) for _ in range(171)] == [True] * 171
    assert (len(entries(asked)), signals(fd)) == (169, 2)


ranges = st.builds(Place, st.integers(0, 40), st.integers(0, 8))


@given(st.lists(ranges, max_size=12), st.integers(0, 40), st.sampled_from([1, 2, 4, 8]))
def test_what_is_offered_a_write_could_take_it(places: list[Place], addr: int, size: int) -> None:
    bus = IoBus()
    for place in places:
        bus.add(place)
    for found in bus.matches(addr, size):
        assert found.addr <= addr
        assert addr + size <= found.addr + found.length or (not found.length and addr == found.addr)


@given(st.lists(st.tuples(st.integers(0, 20), st.integers(1, 4)), max_size=12, unique_by=lambda one: one[0]), st.data())
def test_ranges_that_do_not_overlap_are_all_found(places: list[tuple[int, int]], data: Any) -> None:
    bus = IoBus()
    made = [Place(8 * addr, length) for addr, length in places]
    for place in data.draw(st.permutations(made)):
        bus.add(place)
    for place in made:
        assert list(bus.matches(place.addr, place.length)) == [place]
        assert list(bus.matches(place.addr, place.length + 1)) == []


# ------------------------------------------------------------------------------------------------ the ring


@pytest.mark.parametrize(
    ("page", "old", "room"), [(4096, True, 85), (4096, False, 169), (16384, True, 3), (16384, False, 681)]
)
def test_room_of_a_new_ring(page: int, old: bool, room: int) -> None:
    """85 and 169 as 6.1 and 6.12 of 4K have, 681 as 6.12 of 16K."""
    ring = CoalescedRing(page, counts_modulo_2_32=old)
    assert [ring.append(AT, b"\0") for _ in range(room + 1)] == [True] * room + [False]


@given(st.lists(st.integers(0, 200), max_size=8))
def test_ring_keeps_order_and_one_free_entry(takes: list[int]) -> None:
    ring, kept, number = CoalescedRing(4096, counts_modulo_2_32=False), deque[int](), 0
    for count in takes:
        while ring.append(number, b"x"):
            kept.append(number)
            number += 1
        assert len(kept) == 169
        first, _last = struct.unpack_from("=II", ring.area)
        for _ in range(min(count, len(kept))):
            assert struct.unpack_from("=Q", ring.area, 8 + 24 * first)[0] == kept.popleft()
            first = (first + 1) % 170
        struct.pack_into("=I", ring.area, 0, first)


@pytest.mark.parametrize(("first", "last"), [(0, 170), (5, 2**32 - 1)])
def test_index_beyond_the_ring_is_no_room(first: int, last: int) -> None:
    ring = CoalescedRing(4096, counts_modulo_2_32=False)
    struct.pack_into("=II", ring.area, 0, first, last)
    assert not ring.append(AT, b"x")
