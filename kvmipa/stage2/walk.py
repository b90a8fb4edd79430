# SPDX-License-Identifier: Apache-2.0
"""The translation walk as the hardware does it: from the registers and memory alone (Arm ARM, AArch64.S2Walk).

It shares nothing with the modules that write the tables, and so checks them: a mistake would have to be made twice.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable

    from kvmipa.stage2.vtcr import Vtcr

KINDS: Final = ("load", "store", "fetch")

_FINAL_LEVEL: Final = 3

# VTCR_EL2.TG0, PS and SL0, as the Arm ARM lists them. A reserved PS counts as the largest size.
_GRANULE_BITS: Final = {0: 12, 1: 16, 2: 14}
_OUTPUT_BITS: Final = {0: 32, 1: 36, 2: 40, 3: 42, 4: 44, 5: 48, 6: 52, 7: 52}
_START_LEVEL: Final = {12: {0: 2, 1: 1, 2: 0, 3: 3}, 14: {0: 3, 1: 2, 2: 1, 3: 0}, 16: {0: 3, 1: 2, 2: 1}}

# Levels at which a block descriptor is one: without, and with 52-bit addresses (DS; LPA for 64K).
_BLOCK_LEVELS: Final = {12: ({1, 2}, {0, 1, 2}), 14: ({2}, {1, 2}), 16: ({2}, {1, 2})}

_NORMAL: Final = {1: "Non-cacheable", 2: "Write-through", 3: "Write-back"}
_DEVICE: Final = ("Device-nGnRnE", "Device-nGnRE", "Device-nGRE", "Device-GRE")


class FaultKind(Enum):
    """Why an access does not reach memory."""

    TRANSLATION = "translation"
    PERMISSION = "permission"
    ACCESS_FLAG = "access flag"
    ADDRESS_SIZE = "address size"


@dataclass(frozen=True, slots=True)
class Fault:
    """A stage-2 fault, with the level that its syndrome reports."""

    kind: FaultKind
    level: int


@dataclass(frozen=True, slots=True)
class Translation:
    """Where an IPA leads.

    pa: of the byte itself. level, block_size (bytes): of the leaf. memory: the memory type, as the Arm ARM calls it.
    shareability: 0 none, 2 outer, 3 inner.
    """

    pa: int
    level: int
    block_size: int
    readable: bool
    writable: bool
    executable: bool
    memory: str
    shareability: int
    descriptor: int


def walk(
    read64: Callable[[int], int],
    vttbr: int,
    vtcr: int | Vtcr,
    ipa: int,
    *,
    fwb: bool = False,
    kind: str = "load",
    hafdbs: bool = True,
) -> Translation | Fault:
    """Translate one access at EL1 with the MMU's own eyes.

    read64: memory reads, by physical address; vttbr: VTTBR_EL2; vtcr: VTCR_EL2; fwb: HCR_EL2.FWB; kind: "load",
    "store" or "fetch"; hafdbs: the CPU can set access flags itself, as VTCR_EL2.HA asks it to (the walk writes none).
    Raises ValueError for another kind, and for a TG0 that is reserved. Source: AArch64.S2Walk, AArch64.S2Translate.

    >>> memory = {0x8000: 0x9003, 0x9000: 0xA003, 0xA008: 0x4000_07FF}   # 4K pages, 39 bits: from level 1
    >>> hex(walk(lambda pa: memory.get(pa, 0), 0x8000, 0x80023559, 0x1234).pa)
    '0x40000234'
    >>> walk(lambda pa: 0, 0x8000, 0x80023559, 1 << 39)
    Fault(kind=<FaultKind.TRANSLATION: 'translation'>, level=0)
    """
    if kind not in KINDS:
        raise ValueError(f"kind {kind!r}: an access is a {', a '.join(KINDS)}")
    regime = _Regime(int(vtcr))
    found = _look_up(read64, regime, vttbr, ipa)
    if isinstance(found, Fault):
        return found
    descriptor = found.descriptor
    if not descriptor >> 10 & 1 and not (regime.access_flag_by_hardware and hafdbs):
        return Fault(FaultKind.ACCESS_FLAG, found.level)
    allowed = {
        "load": bool(descriptor >> 6 & 1),
        "store": bool(descriptor >> 7 & 1),
        "fetch": not _never_executes(descriptor),
    }
    if not allowed[kind]:
        return Fault(FaultKind.PERMISSION, found.level)
    return Translation(
        pa=found.address | ipa & (1 << found.size_bits) - 1,
        level=found.level,
        block_size=1 << found.size_bits,
        readable=allowed["load"],
        writable=allowed["store"],
        executable=allowed["fetch"],
        memory=_memory(descriptor >> 2 & 0xF, fwb=fwb),
        shareability=regime.shareability if regime.wide_by_ds else descriptor >> 8 & 3,
        descriptor=descriptor,
    )


@dataclass(frozen=True, slots=True)
class _Found:
    """The leaf at the end of the lookups; size_bits is log2 of what it maps."""

    descriptor: int
    level: int
    address: int
    size_bits: int


def _look_up(read64: Callable[[int], int], regime: _Regime, vttbr: int, ipa: int) -> _Found | Fault:
    """The leaf for an IPA, or the fault that ends the lookups before it (AArch64.S2Walk)."""
    if not 0 <= ipa < 1 << regime.input_bits or not regime.consistent:
        return Fault(FaultKind.TRANSLATION, 0)
    level, top, address = regime.start_level, regime.input_bits, regime.base(vttbr)
    if address >> regime.output_bits:
        return Fault(FaultKind.ADDRESS_SIZE, 0)
    while True:
        bottom = regime.granule_bits + (_FINAL_LEVEL - level) * regime.stride
        index = (ipa & (1 << top) - 1) >> bottom
        descriptor = read64(address + 8 * index)
        what = regime.kind_of(descriptor, level)
        if what == "invalid":
            return Fault(FaultKind.TRANSLATION, level)
        address = regime.address_in(descriptor)
        if what == "leaf":
            address = address >> bottom << bottom
        if address >> regime.output_bits:
            return Fault(FaultKind.ADDRESS_SIZE, level)
        if what == "leaf":
            return _Found(descriptor, level, address, bottom)
        level, top = level + 1, bottom


class _Regime:
    """What VTCR_EL2 says of a walk."""

    __slots__ = ("_first", "granule_bits", "input_bits", "output_bits", "shareability", "stride", "value", "wide_by_ds")

    def __init__(self, vtcr: int) -> None:
        self.value = vtcr
        granule = _GRANULE_BITS.get(vtcr >> 14 & 3)
        if granule is None:
            raise ValueError(f"VTCR_EL2 {vtcr:#x}: TG0 = 3 is reserved")
        self.granule_bits = granule
        self.stride = granule - 3
        self.input_bits = 64 - (vtcr & 0x3F)
        # With 64K pages the bit means nothing: 52-bit addresses come with FEAT_LPA there.
        self.wide_by_ds = bool(vtcr >> 32 & 1) and granule != 16
        widest = 52 if self.wide_by_ds or granule == 16 else 48
        self.output_bits = min(_OUTPUT_BITS[vtcr >> 16 & 7], widest)
        self.shareability = vtcr >> 12 & 3
        self._first = self._start()

    def _start(self) -> int | None:
        sl0, sl2 = self.value >> 6 & 3, self.value >> 33 & 1
        if sl2 and self.wide_by_ds and self.granule_bits == 12:
            return -1 if sl0 == 0 else None
        if self.granule_bits == 14 and sl0 == 3 and not self.wide_by_ds:
            return None
        return _START_LEVEL[self.granule_bits].get(sl0)

    @property
    def start_level(self) -> int:
        """The level of the first lookup; only where it is consistent."""
        assert self._first is not None
        return self._first

    @property
    def consistent(self) -> bool:
        """Whether T0SZ is in range and SL0 fits it: up to 16 tables at the start level, and at least two entries.

        Source: AArch64.S2InvalidSL, AArch64.S2InconsistentSL, and the minimum of T0SZ.
        """
        widest = 52 if self.wide_by_ds or self.granule_bits == 16 else 48
        if self._first is None or self.input_bits > widest:
            return False
        least = (_FINAL_LEVEL - self._first) * self.stride + self.granule_bits + 1
        return least <= self.input_bits <= least + self.stride - 1 + 4

    @property
    def access_flag_by_hardware(self) -> bool:
        """VTCR_EL2.HA."""
        return bool(self.value >> 21 & 1)

    def base(self, vttbr: int) -> int:
        """The PA of the first table: BADDR, aligned to what the start level takes."""
        lookups = _FINAL_LEVEL - self.start_level
        size_bits = self.input_bits - (lookups * self.stride + self.granule_bits) + 3
        address = vttbr & (1 << 48) - 2
        if self.output_bits == 52:
            size_bits = max(size_bits, 6)
            address |= (vttbr >> 2 & 0xF) << 48
        return address >> size_bits << size_bits

    def kind_of(self, descriptor: int, level: int) -> str:
        """What a descriptor is at a level: "invalid", "table" or "leaf"."""
        if not descriptor & 1:
            return "invalid"
        if descriptor & 2:
            return "leaf" if level == _FINAL_LEVEL else "table"
        wide = self.wide_by_ds or (self.granule_bits == 16 and self.output_bits == 52)
        return "leaf" if level in _BLOCK_LEVELS[self.granule_bits][wide] else "invalid"

    def address_in(self, descriptor: int) -> int:
        """The address in a table or page descriptor."""
        if self.wide_by_ds:
            return (descriptor & (1 << 50) - 1) >> self.granule_bits << self.granule_bits | (descriptor >> 8 & 3) << 50
        address = (descriptor & (1 << 48) - 1) >> self.granule_bits << self.granule_bits
        return address | (descriptor >> 12 & 0xF) << 48 if self.granule_bits == 16 else address


def _never_executes(descriptor: int) -> bool:
    """XN[1:0] for EL1: 00 and 11 may execute there, with FEAT_XNX; bit 54 alone without it, as KVM writes both."""
    return descriptor >> 53 & 3 in (1, 2)


def _memory(memattr: int, *, fwb: bool) -> str:
    """The memory type of MemAttr[3:0]."""
    if fwb:
        forced = {5: "Normal Non-cacheable", 6: "Normal Write-back", 7: "Normal as stage 1"}
        return forced.get(memattr & 7, _DEVICE[memattr & 3])
    outer, inner = memattr >> 2, memattr & 3
    if outer == 0:
        return _DEVICE[inner]
    if outer == inner:
        return f"Normal {_NORMAL[outer]}"
    return f"Normal outer {_NORMAL[outer]}, inner {_NORMAL.get(inner, 'reserved')}"
