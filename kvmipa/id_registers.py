# SPDX-License-Identifier: Apache-2.0
"""Fields of the arm64 ID registers: names, positions, and how to read them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple, Protocol

from kvmipa._abi_table import KVM_REG_ARM64, KVM_REG_ARM64_SYSREG, KVM_REG_SIZE_U64
from kvmipa.system_registers import number_of

if TYPE_CHECKING:
    from collections.abc import Iterator

# Arm ARM, D24.2: the fields of each register, the least significant one first; "-" is reserved. They have 4 bits each,
# or as many as are behind the stroke.
_FIELDS: Final = {
    "ID_AA64PFR0_EL1": "EL0 EL1 EL2 EL3 FP AdvSIMD GIC RAS SVE SEL2 MPAM AMU DIT RME CSV2 CSV3",
    "ID_AA64PFR1_EL1": "BT SSBS MTE RAS_frac MPAM_frac - SME RNDR_trap CSV2_frac NMI MTE_frac GCS THE MTEX DF2 PFAR",
    "ID_AA64PFR2_EL1": "MTEPERM MTESTOREONLY MTEFAR GCIE UINJ -/12 FPMR",
    "ID_AA64ZFR0_EL1": "SVEver AES - EltPerm BitPerm BF16 B16B16 - SHA3 - SM4 I8MM F16MM F32MM F64MM",
    "ID_AA64SMFR0_EL1": (
        "SMOP4/1 -/15 STMOP/1 -/6 SFEXPA/1 AES/1 SBitPerm/1 -/2 SF8DP2/1 SF8DP4/1 SF8FMA/1 -/1 F32F32/1 "
        "BI32I32/1 B16F32/1 F16F32/1 I8I32 F8F32/1 F8F16/1 F16F16/1 B16B16/1 I16I32 F64F64/1 -/3 I16I64 "
        "SMEver LUTv2/1 LUT6/1 -/1 FA64/1"
    ),
    "ID_AA64FPFR0_EL1": "F8E5M2/1 F8E4M3/1 -/13 F16MM2/1 -/10 F8MM4/1 F8MM8/1 F8DP2/1 F8DP4/1 F8FMA/1 F8CVT/1",
    "ID_AA64DFR0_EL1": (
        "DebugVer TraceVer PMUVer BRPs PMSS WRPs SEBEP CTX_CMPs PMSVer DoubleLock TraceFilt TraceBuffer MTPMU "
        "BRBE ExtTrcBuff HPMN0"
    ),
    "ID_AA64DFR1_EL1": "SYSPMUID/8 BRPs/8 WRPs/8 CTX_CMPs/8 SPMU PMICNTR ABLE ITE EBEP DPFZS ABL_CMPs/8",
    "ID_AA64DFR2_EL1": "STEP BWE -/8 SPE_EXC SPE_nVM TRBE_EXC",
    "ID_AA64AFR0_EL1": "IMPDEF0 IMPDEF1 IMPDEF2 IMPDEF3 IMPDEF4 IMPDEF5 IMPDEF6 IMPDEF7",
    "ID_AA64AFR1_EL1": "",
    "ID_AA64ISAR0_EL1": "- AES SHA1 SHA2 CRC32 Atomic TME RDM SHA3 SM3 SM4 DP FHM TS TLB RNDR",
    "ID_AA64ISAR1_EL1": "DPB APA API JSCVT FCMA LRCPC GPA GPI FRINTTS SB SPECRES BF16 DGH I8MM XS LS64",
    "ID_AA64ISAR2_EL1": (
        "WFxT RPRES GPA3 APA3 MOPS BC PAC_frac CLRBHB SYSREG_128 SYSINSTR_128 PRFMSLC PCDPHINT RPRFM CSSC LUT ATS1A"
    ),
    "ID_AA64ISAR3_EL1": "CPA FAMINMAX TLBIW PACM LSFE OCCMO LSUI FPRCVT",
    "ID_AA64MMFR0_EL1": (
        "PARange ASIDBits BigEnd SNSMem BigEndEL0 TGran16 TGran64 TGran4 TGran16_2 TGran64_2 TGran4_2 ExS -/8 FGT ECV"
    ),
    "ID_AA64MMFR1_EL1": "HAFDBS VMIDBits VH HPDS LO PAN SpecSEI XNX TWED ETS HCX AFP nTLBPA TIDCP1 CMOW ECBHB",
    "ID_AA64MMFR2_EL1": "CnP UAO LSM IESB VARange CCIDX NV ST AT IDS FWB - TTL BBM EVT E0PD",
    "ID_AA64MMFR3_EL1": "TCRX SCTLRX S1PIE S2PIE S1POE S2POE AIE MEC D128 D128_2 SNERR ANERR - SDERR ADERR Spec_FPACC",
    "ID_AA64MMFR4_EL1": (
        "PoPS EIESB ASID2 HACDBS FGWTE3 NV_frac E2H0 RMEGDI EAESR E3DSE TLBID SRMASK TPS TEV SCRX MTEFGT"
    ),
    "CTR_EL0": "IminLine -/10 L1Ip/2 DminLine ERG CWG IDC/1 DIC/1 -/2 TminLine/6",
}


#: ID_AA64MMFR0_EL1.PARange -> bits of a physical address (Arm ARM); the others are reserved.
PARANGE_BITS: Final = {0: 32, 1: 36, 2: 40, 3: 42, 4: 44, 5: 48, 6: 52, 7: 56}


def _positions(fields: str) -> Iterator[tuple[str, tuple[int, int]]]:
    lsb = 0
    for word in fields.split():
        name, _, width = word.partition("/")
        if name != "-":
            yield name, (lsb, int(width or 4))
        lsb += int(width or 4)


#: Register -> field -> least significant bit and width.
FIELDS: Final[dict[str, dict[str, tuple[int, int]]]] = {
    register: dict(_positions(fields)) for register, fields in _FIELDS.items()
}

#: Those that decide what KVM can do with memory, vCPUs and the PMU: what a host's profile is read from.
DECISIVE: Final = (
    "ID_AA64MMFR0_EL1",
    "ID_AA64MMFR1_EL1",
    "ID_AA64MMFR2_EL1",
    "ID_AA64PFR0_EL1",
    "ID_AA64PFR1_EL1",
    "ID_AA64DFR0_EL1",
    "ID_AA64ISAR1_EL1",
    "ID_AA64ISAR2_EL1",
    "CTR_EL0",
)


def field(register: str, name: str, value: int) -> int:
    """The value of one field of a register, without a sign.

    >>> field("ID_AA64MMFR0_EL1", "PARange", 0x1124)
    4
    """
    lsb, width = FIELDS[register][name]
    return value >> lsb & (1 << width) - 1


def with_field(register: str, name: str, value: int, content: int) -> int:
    """A register's value with one field replaced.

    >>> hex(with_field("ID_AA64MMFR0_EL1", "PARange", 0x1124, 6))
    '0x1126'
    """
    lsb, width = FIELDS[register][name]
    mask = (1 << width) - 1
    return value & ~(mask << lsb) | (content & mask) << lsb


def kvm_register_id(register: str) -> int:
    """The id by which KVM_GET_ONE_REG knows a system register.

    Source: arch/arm64/include/uapi/asm/kvm.h, ARM64_SYS_REG.

    >>> hex(kvm_register_id("ID_AA64MMFR0_EL1"))
    '0x603000000013c038'
    """
    return KVM_REG_ARM64 | KVM_REG_SIZE_U64 | KVM_REG_ARM64_SYSREG | number_of(register)


# ------------------------------------------------------------------------------------------------ decoding


class _Named(Protocol):
    """A register that knows its name: kvmipa.Reg."""

    @property
    def name(self) -> str:
        """Such as ID_AA64MMFR0_EL1."""
        ...


class IdRegister(NamedTuple):
    """An ID register's value, by its fields.

    fields: every named field in the order of the bits, the lowest first, without a sign: 15 of a field of 4 bits means
    "not implemented" in some (Arm ARM, D24.1.3). reserved: the bits of the value that are in none of them.
    """

    name: str
    value: int
    fields: dict[str, int]
    reserved: int

    def __str__(self) -> str:
        """Its value, and those of its fields that are not 0."""
        found = [f"{field} {content:#x}" for field, content in self.fields.items() if content]
        found += [f"reserved {self.reserved:#x}"] if self.reserved else []
        return f"{self.name} = {self.value:#x}: {', '.join(found) or 'all fields are 0'}"


def decode(register: str | _Named, value: int) -> IdRegister:
    """What an ID register of the AArch64 state, or CTR_EL0, says. register: its name, or one of kvmipa.Reg.

    Raises ValueError for a register whose fields kvmipa does not know.

    >>> print(decode("ID_AA64MMFR0_EL1", 0x1124))
    ID_AA64MMFR0_EL1 = 0x1124: PARange 0x4, ASIDBits 0x2, BigEnd 0x1, SNSMem 0x1
    >>> decode("id_aa64mmfr0_el1", 0x1124).fields["PARange"]
    4
    """
    name = (register if isinstance(register, str) else register.name).upper()
    if name not in FIELDS:
        raise ValueError(f"{name} is not an ID register whose fields are known: {', '.join(FIELDS)}")
    fields, reserved = {}, value
    for each, (lsb, width) in FIELDS[name].items():
        fields[each] = field(name, each, value)
        reserved &= ~((1 << width) - 1 << lsb)
    return IdRegister(name, value, fields, reserved)
