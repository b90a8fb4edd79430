# SPDX-License-Identifier: Apache-2.0
"""A64 instructions, as far as a fault needs them: what an access is, and what instruction a trap is of (Arm ARM C4).

Unicorn stops at the instruction and says the page: the address, the register and whether the CPU would describe the
access (ESR_EL2.ISV) are in the word.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Final, NamedTuple

from kvmipa.backend.emulated.cpu.registers import U64

if TYPE_CHECKING:
    from kvmipa.backend.emulated.cpu.engine import Engine

XZR: Final = 31
# Of an instruction, in bytes.
SIZE: Final = 4


class Transfer(NamedTuple):
    """A load or store.

    store: what it does first, of atomic instructions the load. size: bytes, of one register's part. described: the
    syndrome is valid, for it transfers one general-purpose register and changes no other. signed, wide: of a load, how
    the register is filled. register: Rt, XZR is 31. base: Rn, 31 is SP; None: PC. offset: to the address, bytes. added:
    a register that is added too, after _extend() with option and shift. unprivileged: as EL0 would.
    """

    store: bool
    size: int
    described: bool = False
    signed: bool = False
    wide: bool = True
    register: int = XZR
    base: int | None = XZR
    offset: int = 0
    added: int | None = None
    option: int = 0
    shift: int = 0
    unprivileged: bool = False

    def address(self, engine: Engine, pc: int) -> int:
        """The first byte's address, by the registers as they are."""
        base = pc if self.base is None else engine.sp if self.base == XZR else engine.x(self.base)
        if self.added is not None:
            base += _extend(0 if self.added == XZR else engine.x(self.added), self.option) << self.shift
        return base + self.offset & U64

    def loaded(self, value: int, *, extends: bool = True) -> int:
        """What the register holds after a load of these bytes. extends: a signed load does so.

        >>> hex(decode(0x39C00020).loaded(0x80)), hex(decode(0x39800020).loaded(0x80))   # LDRSB w0, and x0
        ('0xffffff80', '0xffffffffffffff80')
        """
        value &= (1 << 8 * self.size) - 1
        if self.signed and extends and value >> 8 * self.size - 1:
            value |= U64 << 8 * self.size
        return value & (U64 if self.wide else 0xFFFF_FFFF)


def _signed(value: int, bits: int) -> int:
    return value - (value >> bits - 1 << bits)


def _extend(value: int, option: int) -> int:
    """UXTW, LSL, SXTW, SXTX (ExtendReg)."""
    if option in {2, 6}:
        value &= 0xFFFF_FFFF
        return _signed(value, 32) if option == 6 else value
    return value


def _literal(word: int) -> Transfer | None:
    opc, offset = word >> 30, _signed(word >> 5 & 0x7FFFF, 19) * 4
    if word >> 26 & 1:
        return Transfer(False, 4 << opc, base=None, offset=offset)
    if opc == 3:
        return None
    return Transfer(False, 8 if opc == 1 else 4, True, opc == 2, opc != 0, register=word & 31, base=None, offset=offset)


def _pair(word: int) -> Transfer:
    """LDP, STP, LDNP, LDPSW; post-indexed ones use the base as it is."""
    opc = word >> 30
    scale = 2 + opc if word >> 26 & 1 else 2 + (opc >> 1)
    post = word >> 23 & 3 == 1
    offset = 0 if post else _signed(word >> 15 & 0x7F, 7) << scale
    return Transfer(not word >> 22 & 1, 1 << scale, base=word >> 5 & 31, offset=offset)


def _exclusive(word: int) -> Transfer:
    """LDXR and so on, LDAR and so on, CAS: of these only the ordered ones are described."""
    size, load, ordered = 1 << (word >> 30), bool(word >> 22 & 1), word >> 23 & 1
    is_pair_or_swap = bool(word >> 21 & 1)
    store = not load and not (is_pair_or_swap and (ordered or not word >> 31))
    described = bool(ordered) and not is_pair_or_swap
    return Transfer(store, size, described, wide=size == 8, register=word & 31, base=word >> 5 & 31)


def _atomic(word: int) -> Transfer:
    """LDADD and so on; LDAPR is of this group, and a plain load."""
    size = 1 << (word >> 30)
    described = word & 0x3FFF_FC00 == 0x38BF_C000
    return Transfer(False, size, described, wide=size == 8, register=word & 31, base=word >> 5 & 31)


def _one(word: int, offset: int, *, writes_back: bool = False, unprivileged: bool = False) -> Transfer | None:
    """A load or store of one register by size (31:30), V (26) and opc (23:22); None: a prefetch, which never faults."""
    size, opc, base = word >> 30, word >> 22 & 3, word >> 5 & 31
    if word >> 26 & 1:
        return Transfer(not opc & 1, 1 << (size | (opc & 2) << 1), base=base, offset=offset)
    if size == 3 and opc >= 2:
        return None
    return Transfer(
        opc == 0,
        1 << size,
        not writes_back,
        opc >= 2,
        opc == 2 or size == 3,
        word & 31,
        base,
        offset,
        unprivileged=unprivileged,
    )


def _scale(word: int) -> int:
    """log2 of the size."""
    return word >> 30 | (word >> 26 & word >> 23 & 1) << 2


def _nine_bits(word: int) -> Transfer | None:
    """Unscaled, post-indexed, unprivileged, pre-indexed."""
    mode = word >> 10 & 3
    offset = 0 if mode == 1 else _signed(word >> 12 & 0x1FF, 9)
    return _one(word, offset, writes_back=bool(mode & 1), unprivileged=mode == 2)


def _by_register(word: int) -> Transfer | None:
    found = _one(word, 0)
    if found is None:
        return None
    shift = _scale(word) if word >> 12 & 1 else 0
    return found._replace(added=word >> 16 & 31, option=word >> 13 & 7, shift=shift)


def _unsigned(word: int) -> Transfer | None:
    return _one(word, (word >> 10 & 0xFFF) << _scale(word))


def _ordered_unscaled(word: int) -> Transfer | None:
    """LDAPUR, STLUR."""
    return _one(word, _signed(word >> 12 & 0x1FF, 9))


def _structure(word: int) -> Transfer:
    """LD1 and so on; the part of one register is not looked at further."""
    return Transfer(not word >> 22 & 1, 8, base=word >> 5 & 31)


def _zero_block(word: int) -> Transfer | None:
    """DC ZVA: a store without a syndrome, of the block that the register points into."""
    return None if word & 31 == XZR else Transfer(True, 8, base=word & 31)


# Mask, value, decoder: the load and store encodings (Arm ARM C4.1, "Loads and Stores"), and DC ZVA.
_FORMS: Final = (
    (0x3B00_0000, 0x1800_0000, _literal),
    (0x3A00_0000, 0x2800_0000, _pair),
    (0x3F00_0000, 0x0800_0000, _exclusive),
    (0x3F20_0C00, 0x1900_0000, _ordered_unscaled),
    (0x3B20_0C00, 0x3820_0000, _atomic),
    (0x3B20_0C00, 0x3820_0800, _by_register),
    (0x3B20_0000, 0x3800_0000, _nine_bits),
    (0x3B00_0000, 0x3900_0000, _unsigned),
    (0xBE00_0000, 0x0C00_0000, _structure),
    (0xFFFF_FFE0, 0xD50B_7420, _zero_block),
)


@lru_cache(maxsize=4096)
def decode(word: int) -> Transfer | None:
    """The load or store that an instruction word is; None for everything else, and for what only the page is known of.

    >>> decode(0xF9400023).described, decode(0xA9400023).described                   # LDR x3, [x1]; LDP x3, x0, [x1]
    (True, False)
    """
    for mask, value, form in _FORMS:
        if word & mask == value:
            return form(word)
    return None


class SystemInstruction(NamedTuple):
    """MRS or MSR of a register: its number (op0:op1:CRn:CRm:op2), Rt, and whether it reads."""

    number: int
    register: int
    reads: bool


def system_instruction(word: int) -> SystemInstruction | None:
    """The MRS or MSR of a register that a word is.

    >>> system_instruction(0xD5380000)                                               # MRS x0, MIDR_EL1
    SystemInstruction(number=49152, register=0, reads=True)
    """
    if word & 0xFFD0_0000 != 0xD510_0000:
        return None
    return SystemInstruction(0x8000 | word >> 5 & 0x7FFF, word & 31, bool(word >> 21 & 1))


_EXCEPTION_GENERATING: Final = {
    0xD400_0001: "svc",
    0xD400_0002: "hvc",
    0xD400_0003: "smc",
    0xD420_0000: "brk",
    0xD440_0000: "hlt",
}

WFI: Final = 0xD503_207F
WFE: Final = 0xD503_205F


def call(word: int) -> tuple[str, int] | None:
    """The name and immediate of an instruction that generates an exception.

    >>> call(0xD40000A2)
    ('hvc', 5)
    """
    name = _EXCEPTION_GENERATING.get(word & 0xFFE0_001F)
    return None if name is None else (name, word >> 5 & 0xFFFF)
