# SPDX-License-Identifier: Apache-2.0
"""Devices by address: who answers which of a guest's accesses to addresses without memory."""

from __future__ import annotations

from bisect import bisect_right
from threading import Lock
from typing import TYPE_CHECKING, Final, NamedTuple, Protocol

from kvmipa.packing import unsigned

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

# IPAs have up to 52 bits, but a device may be at an address that no VM reaches.
_ADDRESS_BITS: Final = 64


class MmioDevice(Protocol):
    """What answers accesses. offset: from the start of its range; size: 1, 2, 4 or 8 bytes; both as the guest has it.

    It is called in the thread that runs the vCPU, by several threads at once where vCPUs share it.

    >>> class Console:
    ...     def read(self, offset, size):
    ...         return 0
    ...
    ...     def write(self, offset, size, value):
    ...         print(chr(value), end="")
    >>> console: MmioDevice = Console()
    >>> console.write(0, 1, ord("!"))
    !
    """

    def read(self, offset: int, size: int, /) -> int:
        """What the guest loads: a number of ``size`` bytes."""
        ...

    def write(self, offset: int, size: int, value: int, /) -> object:
        """The guest stores a number of ``size`` bytes."""
        ...


class MmioRange(NamedTuple):
    """A device and its range of guest addresses; size in bytes."""

    start: int
    size: int
    device: MmioDevice

    @property
    def end(self) -> int:
        """The first address behind it."""
        return self.start + self.size

    def __str__(self) -> str:
        """As errors name it."""
        return f"[{self.start:#x}, {self.end:#x}) of {self.device!r}"


#: What an address finds: the range's first address, the one behind it, and what reads and writes there.
Found = tuple[int, int, "Callable[[int, int], int]", "Callable[[int, int, int], object]"]


class Index(NamedTuple):
    """The ranges of a bus, by address: where they start, what an access needs, and all of each."""

    starts: list[int]
    found: list[Found]
    ranges: list[MmioRange]


class MmioBus:
    """Devices at ranges of guest addresses, for Vcpu.run_until(); vCPUs of one VM may share it.

    Ranges may be added and removed while vCPUs run: an access finds those of the moment.

    >>> class Uart:
    ...     sent = b""
    ...     def read(self, offset, size):
    ...         return 0x60
    ...     def write(self, offset, size, value):
    ...         self.sent += bytes([value & 0xFF])
    >>> bus = MmioBus()
    >>> where = bus.add(0x900_0000, 0x1000, uart := Uart())
    >>> bus.write(0x900_0000, 1, 0x41), uart.sent, bus.read(0x900_0014, 4), bus.read(0x900_0FFE, 4)
    (True, b'A', 96, None)
    """

    def __init__(self) -> None:
        self._lock = Lock()
        #: The ranges as they are looked up: never changed, but replaced by another.
        self.index = Index([], [], [])

    def add(self, guest_phys_addr: int, size: int, device: MmioDevice) -> MmioRange:
        """Have a device answer ``size`` bytes from the guest address ``guest_phys_addr`` on.

        Raises ValueError for an empty range, one that ends beyond 64 bits, and one that overlaps another's; TypeError
        for a device that has no read() and write().
        """
        guest_phys_addr = unsigned("guest_phys_addr", guest_phys_addr, _ADDRESS_BITS)
        added = MmioRange(guest_phys_addr, _size(guest_phys_addr, size), device)
        for method in ("read", "write"):
            if not callable(getattr(device, method, None)):
                raise TypeError(f"{device!r} is no MMIO device: it has no {method}()")
        with self._lock:
            for other in self.index.ranges:
                if other.start < added.end and added.start < other.end:
                    raise ValueError(f"the range {added} overlaps {other}: remove that first, or take another address")
            self._set([*self.index.ranges, added])
        return added

    def remove(self, guest_phys_addr: int) -> None:
        """Take away the range that starts at ``guest_phys_addr``; LookupError where none does."""
        with self._lock:
            left = [other for other in self.index.ranges if other.start != guest_phys_addr]
            if len(left) == len(self.index.ranges):
                raise LookupError(f"no device has a range that starts at {guest_phys_addr:#x}")
            self._set(left)

    def __iter__(self) -> Iterator[MmioRange]:
        """The ranges, by address."""
        return iter(list(self.index.ranges))

    def __len__(self) -> int:
        """How many ranges there are."""
        return len(self.index.ranges)

    def find(self, guest_phys_addr: int, size: int) -> Found | None:
        """Whose access it is: (start of the range, its end, read, write); None where the range has not all bytes."""
        starts, found, _ranges = self.index
        at = bisect_right(starts, guest_phys_addr) - 1
        if at < 0:
            return None
        one = found[at]
        return one if guest_phys_addr + size <= one[1] else None

    def read(self, guest_phys_addr: int, size: int) -> int | None:
        """What a guest's load gets; None where no device answers."""
        found = self.find(guest_phys_addr, size)
        return None if found is None else found[2](guest_phys_addr - found[0], size)

    def write(self, guest_phys_addr: int, size: int, value: int) -> bool:
        """A guest's store: whether a device took it."""
        found = self.find(guest_phys_addr, size)
        if found is None:
            return False
        found[3](guest_phys_addr - found[0], size, value)
        return True

    def _set(self, ranges: list[MmioRange]) -> None:
        ranges = sorted(ranges, key=lambda one: one.start)
        found: list[Found] = [(one.start, one.end, one.device.read, one.device.write) for one in ranges]
        self.index = Index([one.start for one in ranges], found, ranges)


def _size(guest_phys_addr: int, size: int) -> int:
    size = unsigned("size", size, _ADDRESS_BITS)
    if size == 0:
        raise ValueError(f"a device needs at least one byte; the range at {guest_phys_addr:#x} is empty")
    if guest_phys_addr + size > 1 << _ADDRESS_BITS:
        raise ValueError(f"{size:#x} bytes from {guest_phys_addr:#x} on end beyond 64 bits")
    return size
