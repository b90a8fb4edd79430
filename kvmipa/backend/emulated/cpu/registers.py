# SPDX-License-Identifier: Apache-2.0
"""Registers that the emulated CPU knows by name, and the system registers that Unicorn keeps."""

from __future__ import annotations

from typing import Final

from kvmipa.system_registers import ENCODINGS, number

U64: Final = (1 << 64) - 1

PSTATE_PAN: Final = 1 << 22

# SCTLR_EL1: data is big-endian, at EL0 and at EL1, where tables are too.
SCTLR_E0E: Final = 1 << 24
SCTLR_EE: Final = 1 << 25

ELR_EL1: Final = number(3, 0, 4, 0, 1)
SPSR_EL1: Final = number(3, 0, 4, 0, 0)
SP_EL0: Final = number(3, 0, 4, 1, 0)
SCTLR_EL1: Final = number(3, 0, 1, 0, 0)
CPACR_EL1: Final = number(3, 0, 1, 0, 2)
TTBR0_EL1: Final = number(3, 0, 2, 0, 0)
TTBR1_EL1: Final = number(3, 0, 2, 0, 1)
TCR_EL1: Final = number(3, 0, 2, 0, 2)
ESR_EL1: Final = number(3, 0, 5, 2, 0)
FAR_EL1: Final = number(3, 0, 6, 0, 0)
PAR_EL1: Final = number(3, 0, 7, 4, 0)
VBAR_EL1: Final = number(3, 0, 12, 0, 0)
TPIDR_EL1: Final = number(3, 0, 13, 0, 4)
CNTKCTL_EL1: Final = number(3, 0, 14, 1, 0)
SCR_EL3: Final = number(3, 6, 1, 1, 0)

# What stage 1 of the EL1&0 regime goes by.
STAGE1: Final = frozenset({SCTLR_EL1, TCR_EL1, TTBR0_EL1, TTBR1_EL1})

# Registers that Unicorn keeps: guests read and write its own, and KVM_GET_ONE_REG asks it.
KEPT: Final = (
    SCTLR_EL1,
    CPACR_EL1,
    TTBR0_EL1,
    TTBR1_EL1,
    TCR_EL1,
    number(3, 0, 5, 1, 0),  # AFSR0_EL1
    number(3, 0, 5, 1, 1),  # AFSR1_EL1
    ESR_EL1,
    FAR_EL1,
    PAR_EL1,
    number(3, 0, 10, 2, 0),  # MAIR_EL1
    number(3, 0, 10, 3, 0),  # AMAIR_EL1
    VBAR_EL1,
    number(3, 0, 13, 0, 1),  # CONTEXTIDR_EL1
    TPIDR_EL1,
    number(3, 3, 13, 0, 2),  # TPIDR_EL0
    number(3, 3, 13, 0, 3),  # TPIDRRO_EL0
    CNTKCTL_EL1,
    number(3, 2, 0, 0, 0),  # CSSELR_EL1
    *(
        number(3, 0, 2, crm, op2) for crm in (1, 2, 3) for op2 in range(4) if (crm, op2) not in {(3, 2), (3, 3)}
    ),  # AP*Key
)


def _numbered(name: str, first: int, last: int) -> list[str]:
    return [name.format(index) for index in range(first, last + 1)]


# Registers that KVM has for a vCPU and Unicorn 2.1.4 does not know: to it, an instruction with one is undefined.
# (It cannot be asked: it warns on stderr.)
_UNKNOWN_NAMES: Final = (
    *("SCTLR2_EL1", "TCR2_EL1", "PIRE0_EL1", "PIR_EL1", "POR_EL1", "POR_EL0", "FPMR", "DISR_EL1", "MDCCSR_EL0"),
    *("RGSR_EL1", "GCR_EL1", "TFSR_EL1", "TFSRE0_EL1"),
    *(name for kind in ("DBGBVR{}_EL1", "DBGBCR{}_EL1") for name in _numbered(kind, 6, 15)),
    *(name for kind in ("DBGWVR{}_EL1", "DBGWCR{}_EL1") for name in _numbered(kind, 4, 15)),
    *(name for kind in ("PMEVCNTR{}_EL0", "PMEVTYPER{}_EL0") for name in _numbered(kind, 4, 30)),
)
UNKNOWN: Final = frozenset(number(*ENCODINGS[name]) for name in _UNKNOWN_NAMES)
