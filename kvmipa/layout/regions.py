# SPDX-License-Identifier: Apache-2.0
"""A guest's memory map: regions with a name, none over another."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

from kvmipa.layout.errors import LayoutError
from kvmipa.layout.sizes import amount_text
from kvmipa.stage2.geometry import PAGE_SIZES

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

#: RAM and ROM become memory slots; a device is what traps: nothing is mapped there, but its addresses must be reached.
RAM: Final = "ram"
ROM: Final = "rom"
DEVICE: Final = "device"
KINDS: Final = (RAM, ROM, DEVICE)
SLOT_KINDS: Final = (RAM, ROM)

ADDRESS_END: Final = 1 << 64


@dataclass(frozen=True)
class Region:
    """A piece of the guest's physical address space: base and size in bytes, kind "ram", "rom" or "device".

    Raises LayoutError for a size below 1, a base below 0, an end beyond 64 bits, an unknown kind, no name, or a name
    that cannot be printed on a line.

    >>> ram = Region("ram", base=1 << 30, size=64 << 30)
    >>> hex(ram.end)
    '0x1040000000'
    """

    name: str
    base: int
    size: int
    kind: str = RAM

    def __post_init__(self) -> None:
        """Refuse what is no region."""
        if not isinstance(self.name, str) or not self.name.strip():
            raise LayoutError(f"a region at {self.base!r} has no name")
        if not self.name.isprintable():
            raise LayoutError(f"region {self.name!a}: its name has characters that cannot be printed")
        for what, value in (("base", self.base), ("size", self.size)):
            if isinstance(value, bool) or not isinstance(value, int):
                raise LayoutError(f"region {self.name}: its {what} is a number of bytes (an int), not {value!r}")
        if self.kind not in KINDS:
            raise LayoutError(f"region {self.name}: no kind {self.kind!r}; there are {', '.join(KINDS)}")
        if self.base < 0:
            raise LayoutError(f"region {self.name}: base {self.base:#x} is negative")
        if self.size <= 0:
            raise LayoutError(f"region {self.name}: size {self.size} bytes; a region has 1 byte at least")
        if self.end > ADDRESS_END:
            raise LayoutError(
                f"region {self.name}: ends {amount_text(self.end - ADDRESS_END)} beyond 64 bits of address"
            )

    @property
    def end(self) -> int:
        """The first address behind it."""
        return self.base + self.size

    @property
    def is_slot(self) -> bool:
        """Whether it is memory that a VM has to be given, and not a device that traps."""
        return self.kind in SLOT_KINDS


def overlaps(regions: Iterable[Region]) -> Iterator[tuple[Region, Region, int]]:
    """Every pair of regions that share addresses, with the number of bytes: the one that starts first comes first.

    >>> [shared for _, _, shared in overlaps([Region("a", 0, 8192), Region("b", 4096, 8192)])]
    [4096]
    """
    before: list[Region] = []
    for region in sorted(regions, key=lambda region: (region.base, region.end)):
        before = [other for other in before if other.end > region.base]
        for other in before:
            yield other, region, min(other.end, region.end) - region.base
        before.append(region)


def check_page_size(page_size: int) -> None:
    """LayoutError where arm64 has no pages of this many bytes."""
    if page_size not in PAGE_SIZES:
        names = ", ".join(f"{size >> 10}K" for size in PAGE_SIZES)
        raise LayoutError(f"page size {page_size} bytes: arm64 has {names}")


@dataclass(frozen=True, init=False)
class MemoryMap:
    """The regions of a guest, by address.

    Raises LayoutError where there are none, two have one name, or any two overlap (both are named, and how many bytes
    they share).

    >>> MemoryMap([Region("ram", 1 << 30, 1 << 30), Region("uart", 0x9000000, 0x1000, "device")]).end == 2 << 30
    True
    """

    regions: tuple[Region, ...]

    def __init__(self, regions: Iterable[Region]) -> None:
        ordered = tuple(sorted(regions, key=lambda region: region.base))
        if not ordered:
            raise LayoutError("the memory map is empty: it needs one region at least")
        seen: set[str] = set()
        for region in ordered:
            if region.name in seen:
                raise LayoutError(f"two regions are named {region.name}")
            seen.add(region.name)
        shared = [
            f"{first.name} ({_span(first)}) and {second.name} ({_span(second)}) overlap by {amount_text(size)}"
            for first, second, size in overlaps(ordered)
        ]
        if shared:
            more = f"; and {len(shared) - 3} pairs more" if len(shared) > 3 else ""
            raise LayoutError("; ".join(shared[:3]) + more)
        object.__setattr__(self, "regions", ordered)

    @property
    def end(self) -> int:
        """The first address behind the last region."""
        return self.regions[-1].end

    @property
    def ram_size(self) -> int:
        """Bytes of RAM."""
        return sum(region.size for region in self.regions if region.kind == RAM)

    @property
    def slots(self) -> tuple[Region, ...]:
        """The regions that are memory."""
        return tuple(region for region in self.regions if region.is_slot)

    def resized(self, name: str, size: int) -> MemoryMap:
        """The same map with another size of one region; LookupError where there is none of this name."""
        if name not in (region.name for region in self.regions):
            raise LookupError(f"no region {name}")
        return MemoryMap(replace(region, size=size) if region.name == name else region for region in self.regions)

    def check_pages(self, page_size: int) -> None:
        """LayoutError where memory does not start and end at pages of the host (KVM: EINVAL); devices may.

        page_size: bytes; LayoutError too where arm64 has no such pages.
        """
        check_page_size(page_size)
        for region in self.slots:
            for what, value in (("base", region.base), ("size", region.size)):
                if value % page_size:
                    raise LayoutError(
                        f"region {region.name}: its {what} {value:#x} is not a multiple of the page size, "
                        f"{page_size >> 10}K: KVM refuses such a memory slot"
                    )


def _span(region: Region) -> str:
    return f"{region.base:#x}..{region.end - 1:#x}"
