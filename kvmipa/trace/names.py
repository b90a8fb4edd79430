# SPDX-License-Identifier: Apache-2.0
"""The names that a recorder gives to a process's descriptors and to its memory."""

from __future__ import annotations

import mmap
import os
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from kvmipa.backend.emulated.eventfds import eventfd
from kvmipa.backend.emulated.requests import RefusedError
from kvmipa.trace.areas import ALIGNMENT, LIMIT
from kvmipa.trace.arena import NOTHING_WRITTEN
from kvmipa.trace.arguments import HIGHEST, bad_pointer
from kvmipa.trace.operations import Close, EventFd, Map, Note
from kvmipa.trace.process_memory import mapping_of
from kvmipa.trace.session import NEW, Result

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from kvmipa.trace.process_memory import Mapping

# So much is taken of what is mapped together, where there is as much: the next slot may be longer.
_AT_LEAST: Final = 64 << 20
_NEAR_THE_END: Final = 1 << 46


@dataclass
class Vm:
    """What a recorder knows of a VM. slots: number -> address in the process, size; None where it is not compared."""

    slots: dict[int, tuple[int, int] | None] = field(default_factory=dict)
    sizes: dict[int, int] = field(default_factory=dict)
    running: int = 0

    def memory(self) -> list[tuple[int, int]]:
        """Where its guest's memory is."""
        return list({slot for slot in self.slots.values() if slot is not None})


@dataclass(frozen=True)
class Descriptor:
    """An open descriptor of KVM's. kind: kvm, vm, vcpu, dev, stats, gmem or eventfd."""

    name: str
    kind: str
    vm: Vm | None = None


@dataclass(frozen=True)
class Area:
    """Memory of the process that an area stands for: from an address that is a multiple of 2 MiB.

    first: the first address that somebody used.
    """

    name: str
    start: int
    end: int
    protection: str
    first: int

    def place_of(self, address: int) -> str:
        """An address in it as a symbol."""
        return self.name + (f"+{address - self.start:#x}" if address > self.start else "")


class Names:
    """Descriptors by number, areas by address. do: notes an operation that has to come first, and its result."""

    def __init__(self, do: Callable[..., None]) -> None:
        self._do = do
        self._used: Counter[str] = Counter()
        self._open: dict[int, Descriptor] = {}
        self._eventfds: dict[int, tuple[int, str]] = {}
        self.areas: list[Area] = []
        self.page_size = mmap.PAGESIZE

    # -------------------------------------------------------------------------------------------- descriptors

    def new(self, kind: str, fd: int, vm: Vm | None = None) -> str:
        """Name a descriptor that was just made."""
        name = self._next(kind)
        self._open[fd] = Descriptor(name, kind, vm)
        return name

    def _next(self, kind: str) -> str:
        number = self._used[kind]
        self._used[kind] += 1
        return "kvm" if kind == "kvm" and not number else f"{kind}{number}"

    def of(self, fd: int) -> Descriptor | None:
        """The descriptor of a number, if it is KVM's."""
        return self._open.get(fd)

    def forget(self, fd: int) -> Descriptor | None:
        """It is about to be closed."""
        return self._open.pop(fd, None)

    def kind(self, fd: int) -> str:
        """See Surroundings."""
        found = self._open.get(fd)
        return found.kind if found else ""

    def bitmap_size(self, fd: int, slot: int) -> int:
        """See Surroundings."""
        found = self._open.get(fd)
        size = found.vm.sizes.get(slot & 0xFFFF, 0) if found and found.vm else 0
        return (size // self.page_size + 63) // 64 * 8

    def descriptor(self, number: int, *, is_event: bool) -> str | int:
        """See Surroundings. What is neither KVM's nor an eventfd stands for itself where it cannot be open."""
        if number >> 31:
            return number
        known = self._open.get(number)
        if known is not None:
            return known.name
        if not is_event:
            return "closed"
        try:
            identity = eventfd(number)
        except RefusedError:
            return "closed" if not _is_open(number) else self._something_else()
        before = self._eventfds.get(number)
        if before is not None and before[0] == identity:
            return before[1]
        if before is not None:
            self._do(Close(before[1]))
        name = self._next("eventfd")
        if not self._eventfds:
            self._do(Note("when eventfds are written to, read and closed is not traced"))
        self._eventfds[number] = identity, name
        self._do(EventFd(name), Result(NEW, NOTHING_WRITTEN))
        return name

    def _something_else(self) -> str:
        """An open descriptor that is no eventfd."""
        return next((found.name for found in self._open.values()), "closed")

    # -------------------------------------------------------------------------------------------- memory

    def memory(self, address: int, size: int) -> str | int:
        """See Surroundings. The same address has the same place, whatever the size."""
        area = self.area_of(address)
        if area is not None and address + size <= area.end:
            return area.place_of(address)
        found = mapping_of(address, max(size, 1)) if address < HIGHEST else None
        if area is not None:
            if found is not None and min(found.end, address + size) > area.end:
                self._do(Note(f"{area.name} is longer by now, and what is behind its end is not there in this trace"))
            return area.place_of(address)
        if found is None:
            # How near the end of user space it is matters, and nothing else of it.
            return address if address + size > _NEAR_THE_END else bad_pointer(address)
        return self._new_area(found, address, size).place_of(address)

    def _new_area(self, found: Mapping, address: int, size: int) -> Area:
        start = address // ALIGNMENT * ALIGNMENT
        # What lies behind it may be another slot's already.
        next_one = min((other.first for other in self.areas if other.first > address), default=start + _AT_LEAST)
        wanted = max(address + size, min(start + _AT_LEAST, next_one))
        if size > LIMIT:
            self._do(Note(f"memory of {size:#x} bytes is traced as {_AT_LEAST:#x}"))
            wanted = start + _AT_LEAST
        area = Area(self._next("mem"), start, min(found.end, wanted), found.protection, address)
        if any(other.first < area.end and address < other.end for other in self.areas):
            self._do(Note(f"{area.name} may be the same memory as another area, and has its own here"))
        self.areas.append(area)
        self._do(Map(area.name, area.end - start, area.protection, max(address + size - area.end, 0)))
        return area

    def area_of(self, address: int) -> Area | None:
        """The area that an address is in."""
        return next((area for area in self.areas if area.first <= address < area.end), None)

    def in_areas(self, memory: list[tuple[int, int]]) -> Iterator[tuple[int, int]]:
        """The parts of memory that areas stand for."""
        for address, size in memory:
            area = self.area_of(address)
            if area is not None:
                yield address, min(size, area.end - address)


def _is_open(fd: int) -> bool:
    try:
        os.fstat(fd)
    except OSError:
        return False
    return True
