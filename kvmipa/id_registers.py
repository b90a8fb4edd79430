# SPDX-License-Identifier: Apache-2.0
"""Fields of the arm64 ID registers that decide what KVM can do: names, positions, and how to read them."""

from __future__ import annotations

from typing import Final

from kvmipa._abi_table import KVM_REG_ARM64, KVM_REG_ARM64_SYSREG, KVM_REG_SIZE_U64

# Arm ARM, D23.2: register -> field -> least significant bit; each field is 4 bits wide.
FIELDS: Final[dict[str, dict[str, int]]] = {
    "ID_AA64MMFR0_EL1": {
        "PARange": 0,
        "ASIDBits": 4,
        "BigEnd": 8,
        "SNSMem": 12,
        "BigEndEL0": 16,
        "TGran16": 20,
        "TGran64": 24,
        "TGran4": 28,
        "TGran16_2": 32,
        "TGran64_2": 36,
        "TGran4_2": 40,
        "ExS": 44,
        "FGT": 56,
        "ECV": 60,
    },
    "ID_AA64MMFR1_EL1": {"HAFDBS": 0, "VMIDBits": 4, "VH": 8, "XNX": 28},
    "ID_AA64MMFR2_EL1": {"VARange": 16, "NV": 24, "FWB": 40},
    "ID_AA64PFR0_EL1": {"EL0": 0, "EL1": 4, "EL2": 8, "EL3": 12, "GIC": 24, "RAS": 28, "SVE": 32},
    "ID_AA64PFR1_EL1": {"MTE": 8},
    "ID_AA64DFR0_EL1": {"DebugVer": 0, "PMUVer": 8, "BRPs": 12, "WRPs": 20},
    "ID_AA64ISAR1_EL1": {"APA": 4, "API": 8, "GPA": 24, "GPI": 28},
    "ID_AA64ISAR2_EL1": {"GPA3": 8, "APA3": 12},
    "CTR_EL0": {"IminLine": 0, "DminLine": 16},
}

# op0=3: op1, CRn, CRm, op2 (Arm ARM, the register's page).
ENCODINGS: Final[dict[str, tuple[int, int, int, int]]] = {
    "ID_AA64PFR0_EL1": (0, 0, 4, 0),
    "ID_AA64PFR1_EL1": (0, 0, 4, 1),
    "ID_AA64DFR0_EL1": (0, 0, 5, 0),
    "ID_AA64ISAR1_EL1": (0, 0, 6, 1),
    "ID_AA64ISAR2_EL1": (0, 0, 6, 2),
    "ID_AA64MMFR0_EL1": (0, 0, 7, 0),
    "ID_AA64MMFR1_EL1": (0, 0, 7, 1),
    "ID_AA64MMFR2_EL1": (0, 0, 7, 2),
    "CTR_EL0": (3, 0, 0, 1),
}


def field(register: str, name: str, value: int) -> int:
    """The unsigned value of one field of a register.

    >>> field("ID_AA64MMFR0_EL1", "PARange", 0x1124)
    4
    """
    return value >> FIELDS[register][name] & 0xF


def with_field(register: str, name: str, value: int, content: int) -> int:
    """A register's value with one field replaced.

    >>> hex(with_field("ID_AA64MMFR0_EL1", "PARange", 0x1124, 6))
    '0x1126'
    """
    lsb = FIELDS[register][name]
    return value & ~(0xF << lsb) | (content & 0xF) << lsb


def kvm_register_id(register: str) -> int:
    """The id by which KVM_GET_ONE_REG knows an ID register.

    Source: arch/arm64/include/uapi/asm/kvm.h, ARM64_SYS_REG.

    >>> hex(kvm_register_id("ID_AA64MMFR0_EL1"))
    '0x603000000013c038'
    """
    op1, crn, crm, op2 = ENCODINGS[register]
    return KVM_REG_ARM64 | KVM_REG_SIZE_U64 | KVM_REG_ARM64_SYSREG | 3 << 14 | op1 << 11 | crn << 7 | crm << 3 | op2
