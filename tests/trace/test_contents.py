# SPDX-License-Identifier: Apache-2.0
"""What changed in memory between two looks."""

from __future__ import annotations

import mmap
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvmipa.buffers import address_of
from kvmipa.trace import contents, process_memory
from kvmipa.trace.contents import Change, Contents, TooMuchError

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="traces are taken on Linux")

PAGE = mmap.PAGESIZE
SIZE = 16 * PAGE


@given(writes=st.lists(st.tuples(st.integers(0, SIZE - 1), st.binary(min_size=1, max_size=3 * PAGE)), max_size=6))
def test_changes_make_the_memory_that_is_there(writes: list[tuple[int, bytes]]) -> None:
    memory, copy, known = mmap.mmap(-1, SIZE), bytearray(SIZE), Contents()
    start = address_of(memory)
    for at, wanted in writes:
        data = wanted[: SIZE - at]
        memory[at : at + len(data)] = data
        for change in known.changes([(start, SIZE)]):
            copy[change.address - start : change.address - start + len(change.content)] = change.content
        assert copy == memory[:]
    assert known.changes([(start, SIZE)]) == []


def test_only_what_differs_is_a_change_and_neighbours_are_one() -> None:
    memory, known = mmap.mmap(-1, SIZE), Contents()
    start = address_of(memory)
    memory[PAGE - 2 : PAGE + 2] = b"abcd"
    memory[5 * PAGE + 7] = 1
    assert known.changes([(start, SIZE)]) == [Change(start + PAGE - 2, b"abcd"), Change(start + 5 * PAGE + 7, b"\1")]
    memory[PAGE] = ord("x")
    assert known.changes([(start, SIZE)]) == [Change(start + PAGE, b"x")]


def test_what_is_learned_is_no_change() -> None:
    memory, known = mmap.mmap(-1, SIZE), Contents()
    memory[3] = 1
    known.learn([(address_of(memory), SIZE)])
    assert known.changes([(address_of(memory), SIZE)]) == []


def test_limit_is_of_what_was_touched(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(contents, "LIMIT", 4 * PAGE)
    memory, known = mmap.mmap(-1, 1 << 30), Contents()
    for page in range(4):
        memory[page * 1000 * PAGE] = 1
    assert len(known.changes([(address_of(memory), 1 << 30)])) == 4
    memory[77 * PAGE] = 1
    with pytest.raises(TooMuchError):
        known.changes([(address_of(memory), 1 << 30)])


def test_memory_that_went_away_is_no_crash() -> None:
    memory, known = mmap.mmap(-1, SIZE), Contents()
    memory[0] = 1
    start = address_of(memory)
    memory.close()
    assert known.changes([(start, SIZE)]) == []


def test_memory_that_is_mapped_anew_is_zeros_again() -> None:
    memory, known = mmap.mmap(-1, SIZE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS), Contents()
    start = address_of(memory)
    memory[7] = memory[5 * PAGE] = 1
    known.learn([(start, SIZE)])
    memory.madvise(mmap.MADV_DONTNEED)
    memory[7] = 1
    assert known.changes([(start, SIZE)]) == [Change(start + 5 * PAGE, b"\0")]
    assert known.changes([(start, SIZE)]) == []


def test_no_more_is_kept_than_there_is() -> None:
    memory, known = mmap.mmap(-1, SIZE), Contents()
    for at in reversed(range(0, SIZE, PAGE)):
        memory[at] = 1
        known.learn([(address_of(memory), SIZE)])
    assert sum(map(len, known._ranges.values())) == SIZE


def test_mapping_is_found_with_its_protection() -> None:
    memory = mmap.mmap(-1, SIZE, prot=mmap.PROT_READ)
    start = address_of(memory)
    found = process_memory.mapping_of(start + PAGE, PAGE)
    assert found is not None
    assert found.start <= start
    assert found.end >= start + 2 * PAGE
    assert found.protection == "ro"
    assert process_memory.mapping_of(0x1000, 1) is None
