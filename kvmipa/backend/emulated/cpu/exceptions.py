# SPDX-License-Identifier: Apache-2.0
"""Exceptions that a guest in AArch64 takes to its own EL1 (Arm ARM, AArch64.TakeException; ESR_ELx)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from kvmipa.backend.emulated import exception_entry
from kvmipa.backend.emulated.cpu.registers import (
    ELR_EL1,
    ESR_EL1,
    FAR_EL1,
    SCTLR_EL1,
    SPSR_EL1,
    U64,
    VBAR_EL1,
)
from kvmipa.system_registers import encoding

if TYPE_CHECKING:
    from kvmipa.backend.emulated.cpu.engine import Engine

_IL: Final = 1 << 25

# ESR_EL1 but for what is of the instruction.
UNKNOWN: Final = 0x00 << 26 | _IL
# WFI or WFE, with the lowest bit, that EL0 may not execute.
WFX: Final = 0x01 << 26 | _IL | 0x1E << 20
SVC: Final = 0x15 << 26 | _IL
SYSTEM_REGISTER: Final = 0x18 << 26 | _IL
PC_ALIGNMENT: Final = 0x22 << 26 | _IL
BRK: Final = 0x3C << 26 | _IL
_DATA_ABORT: Final = {0: 0x24 << 26 | _IL, 1: 0x25 << 26 | _IL}
_ALIGNMENT: Final = 0x21
_WNR: Final = 1 << 6


def take(engine: Engine, esr: int, *, pc: int, far: int | None = None, has_pan: bool = True) -> None:
    """Take a synchronous exception. pc: where the guest is to go on; far: None where FAR_EL1 stays as it is."""
    before = engine.pstate
    engine.set_system(ESR_EL1, esr)
    if far is not None:
        engine.set_system(FAR_EL1, far)
    engine.set_system(ELR_EL1, pc)
    engine.pstate = exception_entry.entered(before, engine.system(SCTLR_EL1) or 0, has_pan=has_pan)
    engine.set_system(SPSR_EL1, before)
    engine.pc = (engine.system(VBAR_EL1) or 0) + exception_entry.vector(before) & U64


def alignment_fault(el: int, *, write: bool) -> int:
    """ESR_EL1 of a data access that is not aligned.

    >>> hex(alignment_fault(1, write=False))
    '0x96000021'
    """
    return _DATA_ABORT[el] | _ALIGNMENT | (_WNR if write else 0)


def cpu_abort(el: int, fsc: int, *, fetch: bool, write: bool) -> int:
    """ESR_EL1 of a fault of stage 1.

    >>> hex(cpu_abort(1, 0x07, fetch=False, write=True))
    '0x96000047'
    """
    if fetch:
        return _DATA_ABORT[el] - (4 << 26) | fsc
    return _DATA_ABORT[el] | fsc | (_WNR if write else 0)


def trapped_access(number: int, register: int, *, reads: bool) -> int:
    """ESR_EL1 of MRS or MSR that EL0 may not do: EC 0x18 with the instruction's fields."""
    op0, op1, crn, crm, op2 = encoding(number)
    return SYSTEM_REGISTER | op0 << 20 | op2 << 17 | op1 << 14 | crn << 10 | register << 5 | crm << 1 | reads
