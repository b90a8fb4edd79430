# SPDX-License-Identifier: Apache-2.0
"""The buffers of a trace's operation: where they lie, and what a kernel wrote to them."""

from __future__ import annotations

import mmap
from functools import cached_property
from typing import TYPE_CHECKING, Final

from kvmipa.buffers import address_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from kvmipa.trace.values import Bytes, Data, Struct, Value

_ARENA_SIZE: Final = 1 << 20
# Without access, and longer than any answer: the dirty log of the largest slot has 256 MiB (2**31 pages).
_BEHIND: Final = 512 << 20
_BUFFER_ALIGNMENT: Final = 16
# Behind the last buffer, so that a write beyond it is seen.
_GUARD: Final = 64
_ZEROS: Final = bytes(1024)

NOTHING_WRITTEN: Final[dict[str, str]] = {}


class Arena:
    """The memory in which an operation's buffers lie: zeros apart from them."""

    def __init__(self, number_of: Callable[[Value], int]) -> None:
        self._number_of = number_of
        self._buffers: list[tuple[int, bytes]] = []
        self._before = b""
        self.used = 0

    @cached_property
    def _memory(self) -> mmap.mmap:
        from kvmipa.trace.areas import forbid

        flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | getattr(mmap, "MAP_NORESERVE", 0)
        memory = mmap.mmap(-1, _ARENA_SIZE + _BEHIND, flags)
        forbid(address_of(memory) + _ARENA_SIZE, _BEHIND)
        return memory

    @cached_property
    def _address(self) -> int:
        return address_of(self._memory)

    def place(self, data: Struct | Bytes | Data) -> int:
        """Put data into a new buffer; its address."""
        start = self.used
        at = len(self._buffers)
        self._buffers.append((start, b""))
        # Buffers that the data points to come after it.
        if isinstance(data, tuple):
            self.used += sum(piece.size for piece in data) + _BUFFER_ALIGNMENT - 1 & -_BUFFER_ALIGNMENT
            content = b"".join(piece.pack(self._number_of) for piece in data)
        else:
            self.used += data.size + _BUFFER_ALIGNMENT - 1 & -_BUFFER_ALIGNMENT
            content = data.pack(self._number_of)
        if self.used + _GUARD > _ARENA_SIZE:
            raise ValueError("a trace's operation has buffers of a megabyte at most")
        self._memory[start : start + len(content)] = content
        self._buffers[at] = (start, content)
        return self._address + start

    def remember(self) -> None:
        """Take what is in the buffers now for what was in them before."""
        self._before = self._memory[: self.used + _GUARD] if self.used else b""

    def changes(self, but: slice | None = None) -> dict[str, str]:
        """What is in the buffers now and was not; a slice of the first one is left out."""
        if not self.used or self._memory[: self.used + _GUARD] == self._before:
            return NOTHING_WRITTEN
        found: dict[str, str] = {}
        last = len(self._buffers) - 1
        for number, (start, before) in enumerate(self._buffers):
            length = len(before) + (_GUARD if number == last else 0)
            now = self._memory[start : start + length]
            expected = before.ljust(length, b"\0")
            if number == 0 and but:
                now = now[: but.start] + expected[but] + now[but.stop :]
            if now != expected:
                first, end = _extent(expected, now)
                found[f"{number}+{first}"] = now[first:end].hex()
        return found or NOTHING_WRITTEN

    def clear(self, *, all_of_it: bool = False) -> None:
        """Back to zeros, and no buffers."""
        if all_of_it:
            # Private anonymous memory is zeros again after it.
            self._memory.madvise(mmap.MADV_DONTNEED)
        else:
            length = self.used + _GUARD
            self._memory[:length] = _ZEROS[:length] if length <= len(_ZEROS) else bytes(length)
        self._buffers.clear()
        self.used = 0


def _extent(before: bytes, now: bytes) -> tuple[int, int]:
    """From the first byte that differs to behind the last one."""
    differing = [at for at, (old, new) in enumerate(zip(before, now, strict=True)) if old != new]
    return differing[0], differing[-1] + 1
