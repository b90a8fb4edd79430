# SPDX-License-Identifier: Apache-2.0
"""The rules by which VMMs choose an IPA size, each a function from a question to a choice.

Source of all: peers 1.1 to 1.6 (read in their sources); QEMU's is compared to what QEMU itself answers, where there is
one (tests/layout/test_qemu.py).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from kvmipa.layout.errors import LayoutError
from kvmipa.layout.planning import bits_for, plan
from kvmipa.layout.regions import DEVICE, RAM, MemoryMap, Region
from kvmipa.layout.sizes import amount_text
from kvmipa.machine_type import DEFAULT_IPA_BITS, MachineType

if TYPE_CHECKING:
    from collections.abc import Collection

_MIB: Final = 1 << 20
_GIB: Final = 1 << 30


@dataclass(frozen=True)
class Question:
    """What a strategy is asked: a user's map, and a host's limit, page size in bytes and last_page as for plan()."""

    memory_map: MemoryMap
    limit: int | None
    page_size: int = 4096
    last_page: bool = True

    @property
    def ram_size(self) -> int:
        """Bytes of RAM; LayoutError where there is none."""
        if not self.memory_map.ram_size:
            raise LayoutError("the map has no RAM, and RAM is all that this rule takes from it")
        return self.memory_map.ram_size

    @property
    def available_bits(self) -> int:
        """The largest size that the host makes."""
        return DEFAULT_IPA_BITS if self.limit is None else self.limit


@dataclass(frozen=True)
class Choice:
    """What a strategy answers.

    ipa_bits, machine_type: of the VM that it creates; None where it gives up before, or KVM refuses. memory_map: its
    own. problem: why the guest does not get this RAM, None where it does. note: what else it does. dropped: regions
    that it leaves out because they do not fit.
    """

    ipa_bits: int | None
    machine_type: int | None
    memory_map: MemoryMap
    problem: str | None = None
    note: str = ""
    dropped: tuple[str, ...] = ()

    @property
    def works(self) -> bool:
        """Whether the guest gets its RAM."""
        return self.problem is None


def _created(question: Question, bits: int, memory_map: MemoryMap, problem: str | None = None) -> Choice:
    """A VM of some bits is created; kernels without the choice make 40, of type 0."""
    if question.limit is None:
        return Choice(DEFAULT_IPA_BITS, 0, memory_map, problem)
    return Choice(bits, MachineType(bits).encode(), memory_map, problem)


def _refused_slots(memory_map: MemoryMap, bits: int) -> str | None:
    """What goes wrong late: the VM is there, and KVM refuses a slot, or the guest cannot reach a device."""
    space = 1 << bits
    for region in memory_map.regions:
        if region.end > space:
            excess = f"{region.name} ends {amount_text(region.end - space)} beyond 2^{bits}"
            return excess + (": KVM refuses its slot (EFAULT)" if region.is_slot else ": the guest cannot reach it")
    return None


def minimum(question: Question) -> Choice:
    planned = plan(question.memory_map, question.limit, question.page_size, last_page=question.last_page)
    if planned.fits:
        return Choice(planned.ipa_bits, planned.machine_type, question.memory_map)
    problem = f"needs {planned.needed_bits} bits, the host has {planned.available_bits}"
    return Choice(None, None, question.memory_map, problem)


def default(question: Question) -> Choice:
    if question.available_bits < DEFAULT_IPA_BITS:
        problem = f"KVM refuses type 0 (EINVAL): it means 40 bits, and the limit is {question.limit}"
        return Choice(None, None, question.memory_map, problem)
    return Choice(DEFAULT_IPA_BITS, 0, question.memory_map, _refused_slots(question.memory_map, DEFAULT_IPA_BITS))


def host_maximum(question: Question) -> Choice:
    bits = question.available_bits
    return _created(question, bits, question.memory_map, _refused_slots(question.memory_map, bits))


# QEMU's virt machine (peers 1.3; hw/arm/virt.c, base_memmap and extended_memmap)
#
#   max(256G, end of RAM)  +-----------------------------------+  the high regions, one after the other,
#                          |  PCIe window             512 GiB  |  each aligned to its own size;
#                          |  PCIe ECAM               256 MiB  |  what does not fit is dropped
#                          |  GICv3 redistributors     64 MiB  |
#                          +-----------------------------------+
#                          |  free                             |
#     1G + RAM, to 1 GiB   +-----------------------------------+
#                          |  RAM (its end rounded up to 1 GiB)|
#     1G   0x40000000      +-----------------------------------+
#                          |  flash, GIC, UART, virtio, PCIe   |
#     0                    +-----------------------------------+
VIRT_RAM_BASE: Final = 1 * _GIB
VIRT_HIGH_BASE: Final = 256 * _GIB
VIRT_HIGH_REGIONS: Final = (
    ("redistributors", 64 * _MIB),
    ("ecam", 256 * _MIB),
    ("pcie-window", 512 * _GIB),
)


def _up(value: int, alignment: int) -> int:
    return -(-value // alignment) * alignment


def qemu_virt(question: Question, *, highmem: bool = True, without: Collection[str] = ()) -> Choice:
    """What QEMU's virt machine chooses for this much RAM (no memory hotplug; machine types since virt-7.2).

    highmem: False for highmem=off, which is a limit of 32 bits. without: high regions that are switched off
    ("redistributors", "ecam", "pcie-window": highmem-redists=off, highmem-ecam=off, highmem-mmio=off).
    Source: virt_set_memmap, virt_set_high_memmap, virt_kvm_type in hw/arm/virt.c.

    >>> from kvmipa.layout import MemoryMap, Region
    >>> choice = qemu_virt(Question(MemoryMap([Region("ram", 1 << 30, 1000 << 30)]), limit=40))
    >>> choice.ipa_bits, choice.dropped
    (40, ('pcie-window',))
    """
    pa_bits = question.available_bits if highmem else 32
    space = 1 << pa_bits
    ram = Region("ram", VIRT_RAM_BASE, question.ram_size, RAM)
    regions = [Region("low devices", 0, VIRT_RAM_BASE, DEVICE), ram]
    end = _up(ram.end, _GIB)
    if end > space:
        problem = f"addressing is limited to {pa_bits} bits, but memory exceeds it by {amount_text(end - space)}"
        return Choice(None, None, MemoryMap(regions), problem)
    highest, base, dropped = end, max(end, VIRT_HIGH_BASE), []
    for name, size in VIRT_HIGH_REGIONS:
        region = Region(name, _up(base, size), size, DEVICE)
        if name in without:
            continue
        if region.end > space:
            dropped.append(name)
            continue
        regions.append(region)
        highest = base = region.end
    made = _created(question, bits_for(highest), MemoryMap(regions))
    note = f"without {', '.join(dropped)}" if dropped else ""
    return Choice(made.ipa_bits, made.machine_type, made.memory_map, None, note, tuple(dropped))


# kvmtool (peers 1.2; arm/include/arm-common/kvm-arch.h)
#
#   2G + RAM              +-----------------------------------+
#                         |  RAM                              |  nothing above it: only RAM counts
#     2G   0x80000000     +-----------------------------------+
#                         |  PCI                              |
#     1G   0x40000000     +-----------------------------------+
#                         |  GIC, at the top                  |
#                         |  virtio-mmio, flash, platform     |
#                         |  port I/O  (64 KiB)               |
#     0                   +-----------------------------------+
KVMTOOL_RAM_BASE: Final = 2 * _GIB


def kvmtool(question: Question) -> Choice:
    memory_map = _from_2_gib(question.ram_size)
    needed = bits_for(memory_map.end)
    if question.limit is not None and needed > question.limit:
        return Choice(None, None, memory_map, f"memory too large: needs {needed} bits, {question.limit} available")
    # Where the kernel has no choice, type 0 is passed without a look at the size.
    late = _refused_slots(memory_map, DEFAULT_IPA_BITS) if question.limit is None else None
    return _created(question, needed, memory_map, late)


def _from_2_gib(ram_size: int, *above: Region) -> MemoryMap:
    return MemoryMap(
        [
            Region("low devices", 0, KVMTOOL_RAM_BASE, DEVICE),
            Region("ram", KVMTOOL_RAM_BASE, ram_size, RAM),
            *above,
        ]
    )


# crosvm (peers 1.4; aarch64/src/lib.rs): RAM from 2 GiB, 8 MiB of platform devices behind it, then a PCI window up to
# the end of the addresses.
CROSVM_PLATFORM_SIZE: Final = 8 * _MIB


def crosvm(question: Question) -> Choice:
    bits = question.available_bits
    ram_end = KVMTOOL_RAM_BASE + question.ram_size
    high, space = ram_end + CROSVM_PLATFORM_SIZE, 1 << bits
    platform = Region("platform devices", ram_end, CROSVM_PLATFORM_SIZE, DEVICE)
    if high > space:
        problem = f"panics: its addresses end at {space:#x}, below the PCI window's start at {high:#x}"
        return Choice(None, None, _from_2_gib(question.ram_size, platform), problem)
    window = [Region("pci-window", high, space - high, DEVICE)] if high < space else []
    return _created(question, bits, _from_2_gib(question.ram_size, platform, *window))


# Cloud Hypervisor (peers 1.5; arch/src/aarch64, vmm/src/cpu.rs)
#
#   min(limit, 46) bits   +-----------------------------------+
#                         |  kept back  (64 KiB)              |
#                         +-----------------------------------+
#                         |  RAM, the rest                    |
#     4G                  +-----------------------------------+
#                         |  gap  (64 MiB)                    |
#     4032M               +-----------------------------------+
#                         |  RAM, the first 3008 MiB          |
#     1G   0x40000000     +-----------------------------------+
#                         |  UEFI, GIC, devices, PCI          |
#     0                   +-----------------------------------+
CLOUD_HYPERVISOR_GAP: Final = (4032 * _MIB, 4 * _GIB)
CLOUD_HYPERVISOR_MAX_BITS: Final = 46
CLOUD_HYPERVISOR_KEPT: Final = 64 << 10


def cloud_hypervisor(question: Question) -> Choice:
    usable = min(question.available_bits, CLOUD_HYPERVISOR_MAX_BITS)
    memory_map = _around(question.ram_size, 1 * _GIB, CLOUD_HYPERVISOR_GAP)
    excess = memory_map.end - ((1 << usable) - CLOUD_HYPERVISOR_KEPT)
    problem = None
    if excess > 0:
        problem = f"memory ends {amount_text(excess)} beyond the 2^{usable} less 64 KiB that it uses"
    return _created(question, question.available_bits, memory_map, problem)


# Firecracker (peers 1.6; src/vmm/src/arch/aarch64/layout.rs): drawn for 40 bits, and nothing compares it to the limit.
#
#   512G                  +-----------------------------------+  RAM goes on here
#                         |  64-bit MMIO                      |
#   256G                  +-----------------------------------+
#                         |  RAM, the first 254 GiB           |
#     2G   0x80000000     +-----------------------------------+
#                         |  GIC, 32-bit MMIO                 |
#     0                   +-----------------------------------+
FIRECRACKER_GAP: Final = (256 * _GIB, 512 * _GIB)


def firecracker(question: Question) -> Choice:
    bits = question.available_bits
    memory_map = _around(question.ram_size, KVMTOOL_RAM_BASE, FIRECRACKER_GAP)
    window = Region("mmio64", FIRECRACKER_GAP[0], FIRECRACKER_GAP[1] - FIRECRACKER_GAP[0], DEVICE)
    made = _created(question, bits, memory_map, _refused_slots(memory_map, bits))
    beyond = "" if window.end <= 1 << bits else "its 64-bit MMIO (256 to 512 GiB) is out of reach"
    complete = MemoryMap([*memory_map.regions, window])
    return Choice(made.ipa_bits, made.machine_type, complete, made.problem, beyond)


def _around(ram_size: int, base: int, gap: tuple[int, int]) -> MemoryMap:
    """RAM from a base on, in two pieces where it does not end before a gap."""
    first = min(ram_size, gap[0] - base)
    regions = [Region("low devices", 0, base, DEVICE), Region("ram", base, first, RAM)]
    if ram_size > first:
        regions.append(Region("ram, the rest", gap[1], ram_size - first, RAM))
    return MemoryMap(regions)
