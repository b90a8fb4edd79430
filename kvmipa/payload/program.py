# SPDX-License-Identifier: Apache-2.0
"""The guest conformance program: where it is in the guest, what it can be told, and what it reports.

The program is conformance.S; the same numbers are in it.
"""

from __future__ import annotations

from pathlib import Path
from struct import Struct
from typing import Final, NamedTuple

# The guest's memory: slots of this size, a multiple of every page size.
SLOT_SIZE: Final = 0x10000
IMAGE: Final = 0x4000_0000
COMMANDS: Final = 0x4001_0000
RAM: Final = 0x5000_0000
READONLY: Final = 0x6000_0000
# A slot at a user address where the VMM has nothing.
NO_MAPPING: Final = 0x7000_0000
# No memory: what the guest reports to, and what it tries.
REPORT: Final = 0x0A00_0000
NOWHERE: Final = 0x8000_0000

GIB: Final = 1 << 30
# Added to an address of the first 4 GiB: the same through TTBR1, once stage 1 is on.
UPPER_HALF: Final = 0xFFFF_FF80_0000_0000

#: What it can be told to do, by number. An underscore: _w with a W register, _pre and _post with write-back.
OPERATIONS: Final = (
    *("ldrb", "ldrh", "ldr_w", "ldr", "ldrsb_w", "ldrsb", "ldrsh_w", "ldrsh", "ldrsw"),
    *("ldur", "ldr_register", "ldr_xzr", "ldar", "ldtr"),
    *("strb", "strh", "str_w", "str", "str_xzr", "stlr", "sttr"),
    *("ldp", "stp", "ldr_post", "ldr_pre", "str_post", "str_pre", "ldr_d", "str_d", "ldr_q", "ldxr"),
    *("prfm", "dc_civac", "dc_cvau", "ic_ivau", "dc_zva", "fetch"),
    *("hvc", "hvc_1", "smc", "smc_1", "svc", "brk", "undefined"),
    *("current_el", "mpidr", "mmfr0", "sctlr", "pmcr", "read_d"),
    *("stage1_on", "stage1_off", "map", "move"),
)
# Where in the image they are, and how far apart.
_OPERATIONS_OFFSET: Final = 0x1000
_OPERATION_SIZE: Final = 16

# Offsets in the page of reports. VALUES is followed by those of three more registers, EXCEPTION by ESR_EL1, FAR_EL1,
# ELR_EL1, SPSR_EL1.
VALUES: Final = 0x00
END: Final = 0x20
EXCEPTION: Final = 0x28
FIELDS: Final = ("x0", "x1", "x2", "x3", "end", "vector", "esr", "far", "elr", "spsr")

_COMMAND: Final = Struct("=II4Q24x")
_AT_EL0: Final = 1 << 8
MAX_COMMANDS: Final = SLOT_SIZE // _COMMAND.size


class Command(NamedTuple):
    """One operation. x: x0 to x3 for it; values: of how many of these it reports the value afterwards.

    >>> Command("ldr", (0, 0x5000_0000)).packed()[:16].hex()
    '03000000010000000000000000000000'
    """

    operation: str
    x: tuple[int, ...] = ()
    values: int = 1
    from_el: int = 1

    def packed(self) -> bytes:
        """As the guest reads it."""
        flags = self.values | (0 if self.from_el else _AT_EL0)
        return _COMMAND.pack(OPERATIONS.index(self.operation), flags, *self.x, *[0] * (4 - len(self.x)))

    @property
    def address(self) -> int:
        """Where its instruction is, by IPA."""
        return IMAGE + _OPERATIONS_OFFSET + _OPERATION_SIZE * OPERATIONS.index(self.operation)


def image() -> bytes:
    """The program, to be put at IMAGE.

    >>> len(image()) < SLOT_SIZE
    True
    """
    return (Path(__file__).parent / "conformance.bin").read_bytes()
