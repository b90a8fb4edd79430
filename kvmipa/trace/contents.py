# SPDX-License-Identifier: Apache-2.0
"""What user space writes to guest memory between two runs of a guest: found by comparison, page by page."""

from __future__ import annotations

import mmap
from bisect import bisect
from typing import TYPE_CHECKING, Final, NamedTuple

from kvmipa.trace import process_memory

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

_PAGE: Final = mmap.PAGESIZE
_ZEROS: Final = bytes(_PAGE)

#: Bytes that somebody touched, of all memory together, up to which they are compared.
LIMIT: Final = 16 << 20


class Change(NamedTuple):
    """Bytes that are there now and were not."""

    address: int
    content: bytes


class TooMuchError(Exception):
    """More memory is in use than is compared."""


class Contents:
    """Guest memory as it was seen last; all of it was zeros at first."""

    def __init__(self) -> None:
        # Pages that are not zeros.
        self._pages: dict[int, bytes] = {}
        # What was touched when it was looked at last: most of it is still the same, and compared at once.
        self._ranges: dict[int, bytes] = {}

    def changes(self, memory: Iterable[tuple[int, int]]) -> list[Change]:
        """What has changed since. memory: addresses and sizes. Raises TooMuchError."""
        return list(_together(self._changed(memory)))

    def learn(self, memory: Iterable[tuple[int, int]]) -> None:
        """What is there now is known. Raises TooMuchError."""
        for _ in self._changed(memory, only_learn=True):
            pass

    def _changed(self, memory: Iterable[tuple[int, int]], *, only_learn: bool = False) -> Iterator[Change]:
        total = 0
        ranges: dict[int, bytes] = {}
        for address, size in memory:
            touched = process_memory.touched(address, size)
            for start, end in (*touched, *self._untouched(address, size, touched)):
                total += end - start
                if total > LIMIT:
                    raise TooMuchError
                now = process_memory.read(start, end - start)
                if now is None:
                    continue
                ranges[start] = now
                if now != self._ranges.get(start):
                    yield from self._compare(start, now, only_learn=only_learn)
        self._ranges = ranges

    def _untouched(self, address: int, size: int, touched: list[tuple[int, int]]) -> Iterator[tuple[int, int]]:
        """Known pages that do not show as touched: other memory is mapped there by now, or they are swapped out."""
        ends = [0, *(end for _, end in touched)]
        starts = [start for start, _ in touched]
        for page in tuple(self._pages):
            if address <= page < address + size and page >= ends[bisect(starts, page)]:
                yield page, page + _PAGE

    def _compare(self, start: int, now: bytes, *, only_learn: bool) -> Iterator[Change]:
        pages = self._pages
        for at in range(0, len(now), _PAGE):
            page, before = now[at : at + _PAGE], pages.get(start + at, _ZEROS)
            if page != before:
                if page == _ZEROS:
                    del pages[start + at]
                else:
                    pages[start + at] = page
                if not only_learn:
                    yield _extent(start + at, before, page)


def _extent(address: int, before: bytes, now: bytes) -> Change:
    """From the first byte that differs to the last one."""
    differing = int.from_bytes(before, "little") ^ int.from_bytes(now, "little")
    first = ((differing & -differing).bit_length() - 1) // 8
    end = (differing.bit_length() + 7) // 8
    return Change(address + first, now[first:end])


def _together(changes: Iterable[Change]) -> Iterator[Change]:
    """One where one ends at which another begins."""
    address, end = 0, 0
    pieces: list[bytes] = []
    for change in changes:
        if pieces and change.address != end:
            yield Change(address, b"".join(pieces))
            pieces = []
        if not pieces:
            address = change.address
        pieces.append(change.content)
        end = change.address + len(change.content)
    if pieces:
        yield Change(address, b"".join(pieces))
