# SPDX-License-Identifier: Apache-2.0
"""Reg: the registers of a vCPU by name, and the ids by which KVM_GET_ONE_REG knows them.

Source: arch/arm64/include/uapi/asm/kvm.h; kernel-device-spec 4.5.
"""

from __future__ import annotations

import re
from enum import Enum
from typing import TYPE_CHECKING, Final

from kvmipa._abi_table import (
    KVM_REG_ARM64,
    KVM_REG_ARM64_SVE,
    KVM_REG_ARM64_SYSREG,
    KVM_REG_ARM_COPROC_MASK,
    KVM_REG_ARM_CORE,
    KVM_REG_ARM_DEMUX,
    KVM_REG_ARM_FW,
    KVM_REG_ARM_FW_FEAT_BMAP,
    KVM_REG_SIZE_MASK,
    KVM_REG_SIZE_U32,
    KVM_REG_SIZE_U64,
    KVM_REG_SIZE_U128,
    KVM_REG_SIZE_U256,
    KVM_REG_SIZE_U512,
    KVM_REG_SIZE_U2048,
)
from kvmipa.packing import unsigned
from kvmipa.system_registers import ENCODINGS, encoding, number, number_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from kvmipa.system_registers import Encoding


class RegKind(Enum):
    """What a register's id says that it is: the class of bits 27:16."""

    CORE = KVM_REG_ARM_CORE
    DEMUX = KVM_REG_ARM_DEMUX
    SYSTEM = KVM_REG_ARM64_SYSREG
    FIRMWARE = KVM_REG_ARM_FW
    SVE = KVM_REG_ARM64_SVE
    HYPERCALLS = KVM_REG_ARM_FW_FEAT_BMAP
    UNKNOWN = None


# ------------------------------------------------------------------------------------------------ the table

_U32, _U64, _U128 = KVM_REG_SIZE_U32, KVM_REG_SIZE_U64, KVM_REG_SIZE_U128

# Where a register begins in struct kvm_regs, in units of 4 bytes, and its size. SP is SP_EL0, the first field's sp;
# spsr[] is EL1 (SVC), abt, und, irq, fiq.
_CORE: Final[dict[str, tuple[int, int]]] = {
    **{f"X{n}": (2 * n, _U64) for n in range(31)},
    "SP": (62, _U64),
    "PC": (64, _U64),
    "PSTATE": (66, _U64),
    "SP_EL1": (68, _U64),
    "ELR_EL1": (70, _U64),
    "SPSR_EL1": (72, _U64),
    "SPSR_ABT": (74, _U64),
    "SPSR_UND": (76, _U64),
    "SPSR_IRQ": (78, _U64),
    "SPSR_FIQ": (80, _U64),
    **{f"V{n}": (84 + 4 * n, _U128) for n in range(32)},
    "FPSR": (212, _U32),
    "FPCR": (213, _U32),
}

# The virtual timer's counter and compare value have each other's encoding in their ids, and that stays:
# KVM_REG_ARM_TIMER_CNT, KVM_REG_ARM_TIMER_CVAL.
_SWAPPED: Final = {"CNTVCT_EL0": "CNTV_CVAL_EL0", "CNTV_CVAL_EL0": "CNTVCT_EL0"}

# CCSIDR_EL1 for each value of CSSELR_EL1, which has 4 bits, of which KVM takes 0 to 13.
_DEMUX: Final = {f"CCSIDR_{selected}": selected for selected in range(14)}

_FIRMWARE: Final = {
    "PSCI_VERSION": 0,
    "SMCCC_ARCH_WORKAROUND_1": 1,
    "SMCCC_ARCH_WORKAROUND_2": 2,
    "SMCCC_ARCH_WORKAROUND_3": 3,
}

# Which hypercalls the guest finds, a bit each.
_HYPERCALLS: Final = {"STD_BMAP": 0, "STD_HYP_BMAP": 1, "VENDOR_HYP_BMAP": 2, "VENDOR_HYP_BMAP_2": 3}

# A vector of 2048 bits and a predicate of 256 are one slice, the first of 32, whatever the vCPU's vector length.
_SVE: Final[dict[str, tuple[int, int]]] = {
    **{f"Z{n}": (32 * n, KVM_REG_SIZE_U2048) for n in range(32)},
    **{f"P{n}": (0x400 + 32 * n, KVM_REG_SIZE_U256) for n in range(16)},
    "FFR": (0x600, KVM_REG_SIZE_U256),
    "SVE_VLS": (0xFFFF, KVM_REG_SIZE_U512),
}


def _ids() -> Iterator[tuple[str, int]]:
    """Names and ids, in the order in which KVM_GET_REG_LIST has the kinds."""
    for name, (index, size) in _CORE.items():
        yield name, KVM_REG_ARM64 | size | KVM_REG_ARM_CORE | index
    for name, (index, size) in _SVE.items():
        yield name, KVM_REG_ARM64 | size | KVM_REG_ARM64_SVE | index
    for name, index in _FIRMWARE.items():
        yield name, KVM_REG_ARM64 | _U64 | KVM_REG_ARM_FW | index
    for name, index in _HYPERCALLS.items():
        yield name, KVM_REG_ARM64 | _U64 | KVM_REG_ARM_FW_FEAT_BMAP | index
    for name in ENCODINGS:
        yield name, _SYSREG | number_of(_SWAPPED.get(name, name))
    for name, index in _DEMUX.items():
        yield name, KVM_REG_ARM64 | _U32 | KVM_REG_ARM_DEMUX | index


_SYSREG: Final = KVM_REG_ARM64 | _U64 | KVM_REG_ARM64_SYSREG

#: Every name, and its id.
IDS: Final[dict[str, int]] = dict(_ids())
_NAMES: Final[dict[int, str]] = {number: name for name, number in IDS.items()}

# Other names for the same, as the architecture, the kernel and debuggers have them.
_ALIASES: Final = {
    "FP": "X29",
    "LR": "X30",
    "SP_EL0": "SP",
    "SPSR_SVC": "SPSR_EL1",
    "TIMER_CTL": "CNTV_CTL_EL0",
    "TIMER_CNT": "CNTVCT_EL0",
    "TIMER_CVAL": "CNTV_CVAL_EL0",
    "PTIMER_CTL": "CNTP_CTL_EL0",
    "PTIMER_CNT": "CNTPCT_EL0",
    "PTIMER_CVAL": "CNTP_CVAL_EL0",
}

# Arm ARM, C5.1.2: how an assembler names a system register that it has no name for.
_BY_ENCODING: Final = re.compile(r"S([0-3])_([0-7])_C(\d{1,2})_C(\d{1,2})_([0-7])")


# ------------------------------------------------------------------------------------------------ Reg


class _Names(type):
    """Reg's class: its attributes are the registers."""

    def __getattr__(cls, name: str) -> Reg:
        found = _by_name(name)
        if found is None:
            raise AttributeError(_unknown(name), name=name, obj=cls)
        reg = Reg(found)
        # From now on it is found without coming here.
        setattr(cls, name, reg)
        return reg

    def __dir__(cls) -> list[str]:
        return sorted({*super().__dir__(), *IDS, *_ALIASES})


class Reg(int, metaclass=_Names):
    """A register of a vCPU: a number, its id, that knows its name.

    Reg.PC, Reg.X0, Reg.SCTLR_EL1 and so on are those that have names (`dir(Reg)`); Reg(id) is that of any id. SP is the
    stack pointer of EL0, SP_EL1 that of EL1. Raises TypeError, OverflowError for what is not a number of 64 bits.

    >>> Reg.ID_AA64MMFR0_EL1, hex(Reg.ID_AA64MMFR0_EL1), Reg.V0.size
    (Reg.ID_AA64MMFR0_EL1, '0x603000000013c038', 16)
    >>> Reg(0x6030_0000_0010_0040), Reg.LR, Reg.parse("sp_el0"), Reg.parse("S3_0_C0_C7_6")
    (Reg.PC, Reg.X30, Reg.SP, Reg.S3_0_C0_C7_6)
    """

    __slots__ = ()

    def __new__(cls, id: int) -> Reg:
        """The register of an id; any number of 64 bits is one, whether or not some KVM has it."""
        return super().__new__(cls, unsigned("id", id, 64))

    @classmethod
    def parse(cls, text: str) -> Reg:
        """The register of a name, in upper or lower case; of an encoding, S3_0_C0_C7_5; or of an id, 0x6030...

        Raises ValueError, which names the nearest ones. The encoding is that of the id: see CNTV_CVAL_EL0.
        """
        name = text.strip().upper()
        found = _by_name(name)
        if found is None:
            found = _by_number(name)
        if found is None:
            raise ValueError(_unknown(text))
        return cls(found)

    @classmethod
    def of(cls, register: Reg | int | str) -> Reg:
        """The register of what stands for one: a Reg, an id, or a name. Raises TypeError, and what these do."""
        if isinstance(register, str):
            return cls.parse(register)
        if isinstance(register, Reg):
            return register
        if not hasattr(register, "__index__"):
            raise TypeError(f"a register is a Reg, an id or a name, not {type(register).__name__}")
        return cls(register)

    @property
    def id(self) -> int:
        """The 64 bits by which KVM knows it."""
        return int(self)

    @property
    def name(self) -> str:
        """Its name; parse() takes it. Without one it is called by its encoding, or by its id."""
        found = _NAMES.get(self)
        if found is not None:
            return found
        if self & ~0xFFFF == _SYSREG:
            return "S{}_{}_C{}_C{}_{}".format(*encoding(self & 0xFFFF))
        return f"{int(self):#x}"

    @property
    def size(self) -> int:
        """Its size in bytes, by bits 55:52 of the id."""
        return 1 << (self >> 52 & 0xF)

    @property
    def kind(self) -> RegKind:
        """What it is."""
        if self & ~(KVM_REG_SIZE_MASK | KVM_REG_ARM_COPROC_MASK | 0xFFFF) != KVM_REG_ARM64:
            return RegKind.UNKNOWN
        try:
            return RegKind(self & KVM_REG_ARM_COPROC_MASK)
        except ValueError:
            return RegKind.UNKNOWN

    @property
    def encoding(self) -> Encoding | None:
        """Op0, Op1, CRn, CRm and Op2 of a system register's instructions; None for what is not one.

        >>> Reg.CNTV_CVAL_EL0.encoding, hex(Reg.CNTV_CVAL_EL0)
        ((3, 3, 14, 3, 2), '0x603000000013df02')
        """
        if self & ~0xFFFF != _SYSREG:
            return None
        return ENCODINGS.get(self.name) or encoding(self & 0xFFFF)

    def __repr__(self) -> str:
        """As it is written in a program."""
        name = self.name
        return f"Reg({name})" if name.startswith("0x") else f"Reg.{name}"

    def __str__(self) -> str:
        """Its name."""
        return self.name


def system_register(op0: int, op1: int, crn: int, crm: int, op2: int) -> Reg:
    """The register whose id has this encoding.

    >>> system_register(3, 0, 0, 7, 0)
    Reg.ID_AA64MMFR0_EL1
    """
    return Reg(_SYSREG | number(op0, op1, crn, crm, op2))


def _by_name(name: str) -> int | None:
    found = IDS.get(_ALIASES.get(name, name))
    return _by_encoding(name) if found is None else found


def _by_encoding(name: str) -> int | None:
    match = _BY_ENCODING.fullmatch(name)
    if match is None:
        return None
    op0, op1, crn, crm, op2 = (int(part) for part in match.groups())
    return system_register(op0, op1, crn, crm, op2) if max(crn, crm) < 16 else None


def _by_number(name: str) -> int | None:
    match = re.fullmatch(r"0X[0-9A-F]{1,16}", name)
    return int(name, 16) if match else None


def _unknown(name: str) -> str:
    """What to say of a name that is none."""
    from difflib import get_close_matches

    near = get_close_matches(name.upper(), [*IDS, *_ALIASES], n=3, cutoff=0.7)
    hint = f": did you mean {' or '.join(near)}?" if near else "; dir(kvmipa.Reg) are the names"
    return f"no register is called {name!r}{hint}"
