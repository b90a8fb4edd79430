# SPDX-License-Identifier: Apache-2.0
"""From a memory map and a host's IPA limit to the smallest IPA size: does it fit, what does not, and what would."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from kvmipa.layout.cost import Stage2Cost, stage2_cost
from kvmipa.layout.errors import LayoutError
from kvmipa.layout.regions import RAM, MemoryMap, Region, check_page_size
from kvmipa.machine_type import DEFAULT_IPA_BITS, MAX_IPA_BITS, MIN_IPA_BITS, MachineType

if TYPE_CHECKING:
    from collections.abc import Iterator

# KVM takes slots of less than 2^31 pages (KVM_MEM_MAX_NR_PAGES; kernel-ipa-spec 4.1). Pieces of half that size keep
# every block whole.
_SLOT_PAGES_SHIFT: Final = 30
_TOO_MANY_PAGES_SHIFT: Final = 31


def bits_for(end: int) -> int:
    """The smallest IPA size, in bits, of a map that ends before an address: 32 at least, which is KVM's floor.

    It can be above 52, which no KVM makes.

    >>> bits_for(1 << 36), bits_for((1 << 36) + 1), bits_for(4096)
    (36, 37, 32)
    """
    return max(MIN_IPA_BITS, (end - 1).bit_length())


def check_limit(limit: int | None) -> int | None:
    """The limit itself; LayoutError for one that no arm64 KVM answers.

    None: the kernel has no KVM_CAP_ARM_VM_IPA_SIZE (before 4.20): every VM has 40 bits.
    """
    if limit is None:
        return None
    if isinstance(limit, bool) or not isinstance(limit, int) or not MIN_IPA_BITS <= limit <= MAX_IPA_BITS:
        raise LayoutError(f"an IPA limit of {limit!r} bits: arm64 hosts have {MIN_IPA_BITS} to {MAX_IPA_BITS}")
    return limit


@dataclass(frozen=True)
class Misfit:
    """A region that ends beyond the limit, and by how many bytes."""

    region: Region
    excess: int

    @property
    def wholly(self) -> bool:
        """Whether nothing of it is below the limit."""
        return self.excess >= self.region.size


@dataclass(frozen=True)
class LargestRam:
    """How large the last RAM region could be, in bytes, where it stands: whole pages; 0 where it cannot be there.

    total: with all other RAM that fits. bounded_by: the region above it, or None: the limit.
    """

    region: Region
    size: int
    total: int
    bounded_by: Region | None


@dataclass(frozen=True)
class Plan:
    """What a memory map asks of a host. Made by plan().

    limit: the host's IPA limit in bits, None where the kernel cannot choose (40 bits). page_size: the host's, in bytes.
    last_page: a memory slot may end where the VM's addresses end; kernels before March 2021 keep the last page free.
    """

    memory_map: MemoryMap
    limit: int | None
    page_size: int
    last_page: bool = True

    @property
    def needed_bits(self) -> int:
        """The smallest IPA size that holds the map, whatever the host can; it can be above 52."""
        return max(bits_for(region.end + self._kept_behind(region)) for region in self.memory_map.regions)

    def _kept_behind(self, region: Region) -> int:
        """Bytes between a region and the end of the addresses, on kernels that keep the last page free of memory."""
        return self.page_size if region.is_slot and not self.last_page else 0

    @property
    def available_bits(self) -> int:
        """The largest IPA size that the host makes."""
        return DEFAULT_IPA_BITS if self.limit is None else self.limit

    @property
    def fits(self) -> bool:
        """Whether the host can hold the map."""
        return self.needed_bits <= self.available_bits

    @property
    def ipa_bits(self) -> int | None:
        """The IPA size to ask for; None where the map does not fit."""
        if not self.fits:
            return None
        return DEFAULT_IPA_BITS if self.limit is None else self.needed_bits

    @property
    def machine_type(self) -> int | None:
        """The argument of KVM_CREATE_VM; None where the map does not fit."""
        if not self.fits:
            return None
        return 0 if self.limit is None else MachineType(self.needed_bits).encode()

    @property
    def default_made(self) -> bool:
        """Whether type 0, the kernel's default of 40 bits, makes a VM: not where the limit is below 40."""
        return self.available_bits >= DEFAULT_IPA_BITS

    @property
    def default_works(self) -> bool:
        """Whether that VM holds the map, too."""
        return self.default_made and self.needed_bits <= DEFAULT_IPA_BITS

    @property
    def misfits(self) -> tuple[Misfit, ...]:
        """The regions that end beyond the limit."""
        space = 1 << self.available_bits
        excesses = ((region, region.end + self._kept_behind(region) - space) for region in self.memory_map.regions)
        return tuple(Misfit(region, excess) for region, excess in excesses if excess > 0)

    @property
    def largest_ram(self) -> LargestRam | None:
        """How large the RAM region of the highest address could be; None where the map has no RAM."""
        ram = [region for region in self.memory_map.regions if region.kind == RAM]
        if not ram:
            return None
        space, last = 1 << self.available_bits, ram[-1]
        above = next((region for region in self.memory_map.regions if last.base < region.base < space), None)
        end = space - self._kept_behind(last) if above is None else above.base
        size = max(0, end - last.base) // self.page_size * self.page_size
        others = sum(region.size for region in ram[:-1] if region.end <= space)
        return LargestRam(last, size, others + size, above)

    @property
    def slots(self) -> tuple[Region, ...]:
        """The memory slots to set, by address: RAM and ROM, in pieces that KVM takes (less than 2^31 pages).

        Maps far beyond what any host makes have millions of them.
        """
        return tuple(slot for region in self.memory_map.slots for slot in self._pieces(region))

    def _pieces(self, region: Region) -> Iterator[Region]:
        page_shift = self.page_size.bit_length() - 1
        if region.size >> page_shift >> _TOO_MANY_PAGES_SHIFT == 0:
            yield region
            return
        step = self.page_size << _SLOT_PAGES_SHIFT
        base, number = region.base, 0
        while base < region.end:
            end = min(region.end, (base // step + 1) * step)
            yield Region(f"{region.name}.{number}", base, end - base, region.kind)
            base, number = end, number + 1

    def cost(self, ipa_bits: int) -> Stage2Cost:
        """The stage 2 of a size with this map's memory (what is below 2^ipa_bits) mapped; ValueError beyond 32..52."""
        return stage2_cost(ipa_bits, self.page_size, self.memory_map.slots)

    def sizes_to_compare(self) -> dict[int, str]:
        """The sizes whose cost is worth a look, with the reason: the planned one, one bit more, the default, the limit.

        >>> from kvmipa.layout import MemoryMap, Region, plan
        >>> plan(MemoryMap([Region("ram", 1 << 30, 1 << 30)]), 48).sizes_to_compare()
        {32: 'planned', 33: 'one bit more', 40: 'the default (type 0)', 48: "the host's limit"}
        """
        reasons: dict[int, list[str]] = {}

        def note(bits: int, reason: str) -> None:
            if MIN_IPA_BITS <= bits <= MAX_IPA_BITS:
                reasons.setdefault(bits, []).append(reason)

        if self.ipa_bits is None:
            note(self.needed_bits, "needed, above the limit")
        else:
            note(self.ipa_bits, "planned")
            if self.ipa_bits < self.available_bits:
                note(self.ipa_bits + 1, "one bit more")
        if self.default_made:
            note(DEFAULT_IPA_BITS, "the default (type 0)")
        if self.limit is not None:
            note(self.limit, "the host's limit")
        return {bits: "; ".join(reasons[bits]) for bits in sorted(reasons)}


def plan(memory_map: MemoryMap, limit: int | None, page_size: int = 4096, *, last_page: bool = True) -> Plan:
    """What a memory map asks of a host.

    limit: its IPA limit in bits (Kvm.host_ipa_limit), None where its kernel has no choice of sizes; page_size: its
    pages, in bytes; last_page: False for a kernel before March 2021, where no memory slot may end at the very end of
    the VM's addresses (kernel-ipa-spec 0.1). Raises LayoutError for a limit or a page size that no arm64 host has, and
    for memory that is not aligned to pages.

    >>> from kvmipa.layout import MemoryMap, Region
    >>> memory_map = MemoryMap([Region("ram", base=1 << 30, size=64 << 30)])
    >>> planned = plan(memory_map, limit=40)
    >>> planned.ipa_bits, hex(planned.machine_type), planned.cost(37).geometry.levels
    (37, '0x25', 3)
    >>> small = plan(memory_map, limit=36)
    >>> small.fits, small.misfits[0].excess == 1 << 30, small.largest_ram.size == 63 << 30
    (False, True, True)
    """
    check_limit(limit)
    memory_map.check_pages(page_size)
    return Plan(memory_map, limit, page_size, last_page)


def largest_map(
    memory_map: MemoryMap | None,
    ram_base: int,
    limit: int | None,
    page_size: int = 4096,
    *,
    last_page: bool = True,
) -> MemoryMap:
    """The map with a region "ram" added from ram_base on, as large as fits; the rest as for plan().

    Raises LayoutError where there is no room for a page of it.

    >>> largest_map(None, 1 << 30, limit=36).regions
    (Region(name='ram', base=1073741824, size=67645734912, kind='ram'),)
    """
    others = () if memory_map is None else memory_map.regions
    check_page_size(page_size)
    smallest = MemoryMap([*others, Region("ram", ram_base, page_size)])
    planned = plan(smallest, limit, page_size, last_page=last_page)
    space = 1 << planned.available_bits
    end = space if last_page else space - page_size
    above = next((region.base for region in smallest.regions if region.base > ram_base), end)
    size = (min(end, above) - ram_base) // page_size * page_size
    if size <= 0:
        raise LayoutError(f"no room for RAM at {ram_base:#x}: the host's addresses end at 2^{planned.available_bits}")
    return smallest.resized("ram", size)
