# SPDX-License-Identifier: Apache-2.0
"""Stage 1 of the EL1&0 regime: the guest's own translation (Arm ARM, AArch64.S1Translate, S1Walk).

The walker reads tables through a function, which is stage 2's, and through another one sets access flags in them
(TCR_EL1.HA, of FEAT_HAFDBS); it manages no dirty state (HD).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable

    # Reads a table's descriptor: (IPA, level) -> 64 bits. It raises what ends the walk.
    ReadTable = Callable[[int, int], int]
    # Writes one: (IPA, level, 64 bits); raises the same.
    WriteTable = Callable[[int, int, int], None]

_LAST_LEVEL: Final = 3

# TCR_EL1.TG0 and TG1, IPS (a reserved value is the largest), and the granules by bits of a page's offset.
_TG0: Final = {0: 12, 1: 16, 2: 14}
_TG1: Final = {1: 14, 2: 12, 3: 16}
_IPS: Final = {0: 32, 1: 36, 2: 40, 3: 42, 4: 44, 5: 48, 6: 52, 7: 52}

# Levels of block descriptors: without, and with 52-bit addresses.
_BLOCK_LEVELS: Final = {12: ({1, 2}, {0, 1, 2}), 14: ({2}, {1, 2}), 16: ({2}, {1, 2})}

_M: Final = 1 << 0
_TBI: Final = 3 << 37
_HA: Final = 1 << 39
_WXN: Final = 1 << 19
_EPAN: Final = 1 << 57

# Fault status codes of level 0, to which the level is added.
ADDRESS_SIZE: Final = 0x00
TRANSLATION: Final = 0x04
ACCESS_FLAG: Final = 0x08
PERMISSION: Final = 0x0C

# Of a leaf.
_AF: Final = 1 << 10
# Of level -1, which only LPA2's tables have.
_LEVEL_MINUS_1: Final = {ADDRESS_SIZE: 0x29, TRANSLATION: 0x2B}


class Stage1FaultError(Exception):
    """The guest's own fault. fsc: the fault status code with its level."""

    def __init__(self, kind: int, level: int) -> None:
        super().__init__(kind, level)
        self.fsc = kind | level if level >= 0 else _LEVEL_MINUS_1[kind]


class Registers(NamedTuple):
    """What the walker looks at."""

    sctlr: int
    tcr: int
    ttbr0: int
    ttbr1: int

    @property
    def is_identity(self) -> bool:
        """Whether every address is its IPA: the MMU is off, and no tag is ignored."""
        return not self.sctlr & _M and not self.tcr & _TBI


class Features(NamedTuple):
    """Of the CPU, as the guest's ID registers have it. pa_bits: PARange; granules: those of stage 1, by offset bits.

    lpa2: granules with 52-bit addresses by TCR_EL1.DS. lva: 52-bit virtual addresses with 64K pages. small_tables:
    FEAT_TTST. execute_pan: FEAT_PAN3. sets_access_flag: FEAT_HAFDBS.
    """

    pa_bits: int = 48
    granules: frozenset[int] = frozenset({12, 14, 16})
    lpa2: frozenset[int] = frozenset()
    lva: bool = False
    small_tables: bool = False
    execute_pan: bool = False
    sets_access_flag: bool = False

    @classmethod
    def of(cls, mmfr0: int, mmfr2: int = 0, mmfr1: int = 0) -> Features:
        """By ID_AA64MMFR0_EL1, ID_AA64MMFR2_EL1 and ID_AA64MMFR1_EL1.

        >>> Features.of(0x1124).pa_bits, sorted(Features.of(0x1124).granules)
        (44, [12, 16])
        """
        tgran4, tgran64, tgran16 = mmfr0 >> 28 & 15, mmfr0 >> 24 & 15, mmfr0 >> 20 & 15
        present = ((12, tgran4 != 15), (16, tgran64 != 15), (14, tgran16 != 0))
        wide = ((12, tgran4 == 1), (14, tgran16 == 2))
        return cls(
            _IPS.get(mmfr0 & 15, 52),
            frozenset(bits for bits, has in present if has),
            frozenset(bits for bits, has in wide if has),
            mmfr2 >> 16 & 15 == 1,
            mmfr2 >> 28 & 15 == 1,
            mmfr1 >> 20 & 15 >= 3,
            mmfr1 & 15 >= 1,
        )


class Translated(NamedTuple):
    """Where a virtual address leads, and what may be done there. level: of the leaf; None with the MMU off."""

    ipa: int
    level: int | None
    readable: bool
    writable: bool
    executable: bool


class _Range(NamedTuple):
    """One half of the VA space, as TCR_EL1 has it."""

    table: int
    input_bits: int
    granule: int
    output_bits: int
    wide: bool
    hierarchical: bool


def translate(
    registers: Registers,
    features: Features,
    read: ReadTable,
    va: int,
    *,
    el: int,
    kind: str,
    pan: bool = False,
    write: WriteTable | None = None,
) -> Translated:
    """Translate an address. el: 0 or 1; kind: "load", "store", "fetch".

    write: for access flags; None: nothing is written. Raises Stage1FaultError, and what read and write raise.

    Where the MMU is off, the address is the IPA, with stage 2 to say whether the CPU could put it out.

    >>> translate(Registers(0, 0, 0, 0), Features(), lambda ipa, level: 0, 0x1234, el=1, kind="load").ipa
    4660
    """
    if not registers.sctlr & _M:
        return Translated(_without_tag(registers.tcr, va, kind), None, True, True, True)
    half = _half(registers, features, va, kind)
    descriptor, level, restrictions, place = _look_up(half, features, read, va)
    offset_bits = half.granule + (_LAST_LEVEL - level) * (half.granule - 3)
    output = _address(half, descriptor) & -(1 << offset_bits)
    if output >> half.output_bits:
        raise Stage1FaultError(ADDRESS_SIZE, level)
    accessed = bool(descriptor & _AF)
    if not accessed and not (features.sets_access_flag and registers.tcr & _HA):
        raise Stage1FaultError(ACCESS_FLAG, level)
    sctlr = registers.sctlr if features.execute_pan else registers.sctlr & ~_EPAN
    allowed = _permissions(sctlr, descriptor, restrictions, el=el, pan=pan)
    if not allowed[("load", "store", "fetch").index(kind)]:
        raise Stage1FaultError(PERMISSION, level)
    # With a permission fault it may be set or not (Arm ARM, AArch64.FaultAllowsSetAccessFlag).
    if not accessed and write is not None:
        write(place, level, descriptor | _AF)
    return Translated(output | va & (1 << offset_bits) - 1, level, *allowed)


def _ignores_top(tcr: int, va: int, kind: str) -> bool:
    """TBI0 or TBI1; for fetches unless TBID0 or TBID1."""
    upper = va >> 55 & 1
    return bool(tcr >> 37 + upper & 1) and not (kind == "fetch" and tcr >> 51 + upper & 1)


def _without_tag(tcr: int, va: int, kind: str) -> int:
    if not _ignores_top(tcr, va, kind):
        return va
    return va & (1 << 56) - 1 | (0xFF << 56 if va >> 55 & 1 else 0)


def _half(registers: Registers, features: Features, va: int, kind: str) -> _Range:
    """The half that an address is in; a translation fault of level 0 where it is in none."""
    tcr, upper = registers.tcr, va >> 55 & 1
    granule = _TG1.get(tcr >> 30 & 3) if upper else _TG0.get(tcr >> 14 & 3)
    if granule not in features.granules:
        # Reserved, or not there: the CPU takes one that it has.
        granule = min(features.granules)
    ips = _IPS[tcr >> 32 & 7]
    wide = granule in features.lpa2 and bool(tcr >> 59 & 1) if granule < 16 else min(ips, features.pa_bits) == 52
    size = tcr >> (16 if upper else 0) & 0x3F
    largest = (47 if granule == 16 else 48) if features.small_tables else 39
    smallest = 12 if (wide if granule < 16 else features.lva) else 16
    input_bits = 64 - min(size, largest)
    top = 56 if _ignores_top(tcr, va, kind) else 64
    above = va >> input_bits & (1 << top - input_bits) - 1
    expected = (1 << top - input_bits) - 1 if upper else 0
    if size < smallest or above != expected or tcr >> (23 if upper else 7) & 1:
        raise Stage1FaultError(TRANSLATION, 0)
    output_bits = min(ips, features.pa_bits, 52 if wide else 48)
    table = registers.ttbr1 if upper else registers.ttbr0
    return _Range(table, input_bits, granule, output_bits, wide, not tcr >> 41 + upper & 1)


def _look_up(half: _Range, features: Features, read: ReadTable, va: int) -> tuple[int, int, int, int]:
    """The leaf's descriptor, its level, what tables on the way took away (bits 62:59 of theirs, or-ed), its IPA."""
    granule, stride = half.granule, half.granule - 3
    level = 4 - (half.input_bits - 4) // stride
    low = 3 + half.input_bits - ((_LAST_LEVEL - level) * stride + granule)
    base = half.table & (1 << 48) - 1 & -(1 << max(low, 4))
    if half.wide:
        base = base & -(1 << max(low, 6)) | (half.table >> 2 & 15) << 48
    if base >> half.output_bits:
        raise Stage1FaultError(ADDRESS_SIZE, 0)
    restrictions = 0
    bits = half.input_bits
    while True:
        shift = granule + (_LAST_LEVEL - level) * stride
        place = base | (va >> shift & (1 << bits - shift) - 1) * 8
        descriptor = read(place, level)
        is_table = bool(descriptor & 2)
        if not descriptor & 1 or (level == _LAST_LEVEL and not is_table):
            raise Stage1FaultError(TRANSLATION, level)
        if level == _LAST_LEVEL or not is_table:
            large = features.pa_bits == 52 if granule == 16 else half.wide
            if level < _LAST_LEVEL and level not in _BLOCK_LEVELS[granule][large]:
                raise Stage1FaultError(TRANSLATION, level)
            return descriptor, level, restrictions, place
        base = _address(half, descriptor)
        if base >> half.output_bits:
            raise Stage1FaultError(ADDRESS_SIZE, level)
        if half.hierarchical:
            restrictions |= descriptor & 0xF << 59
        level, bits = level + 1, shift


def _address(half: _Range, descriptor: int) -> int:
    """The address in a descriptor."""
    found = descriptor & (1 << 48) - 1 & -(1 << half.granule)
    if not half.wide:
        return found
    if half.granule == 16:
        return found | (descriptor >> 12 & 15) << 48
    return found | descriptor & 3 << 48 | (descriptor >> 8 & 3) << 50


def _permissions(sctlr: int, descriptor: int, restrictions: int, *, el: int, pan: bool) -> tuple[bool, bool, bool]:
    """Whether a leaf lets this exception level load, store and fetch (AArch64.S1DirectBasePermissions)."""
    for_el0 = bool(descriptor >> 6 & 1) and not restrictions >> 61 & 1
    writable = not descriptor >> 7 & 1 and not restrictions >> 62 & 1
    el0_writes = for_el0 and writable
    el0_executes = not descriptor >> 54 & 1 and not restrictions >> 60 & 1
    if el:
        never = descriptor >> 53 & 1 or restrictions >> 59 & 1 or el0_writes
        reads, writes = True, writable
    else:
        never = not el0_executes
        reads, writes = for_el0, el0_writes
    executes = not never and not (sctlr & _WXN and writes)
    if el and pan and (for_el0 or (sctlr & _EPAN and el0_executes)):
        reads = writes = False
    return reads, writes, executes
