# SPDX-License-Identifier: Apache-2.0
"""Registers by name: ids of asm/kvm.h, and the way from a name to an id and back."""

from __future__ import annotations

import copy
import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvmipa import Reg
from kvmipa.registers import IDS, RegKind

# As the uapi header's macros give them (kernel-device-spec 4.5).
KNOWN = {
    "X0": 0x6030_0000_0010_0000,
    "X30": 0x6030_0000_0010_003C,
    "SP": 0x6030_0000_0010_003E,
    "PC": 0x6030_0000_0010_0040,
    "PSTATE": 0x6030_0000_0010_0042,
    "SP_EL1": 0x6030_0000_0010_0044,
    "ELR_EL1": 0x6030_0000_0010_0046,
    "SPSR_EL1": 0x6030_0000_0010_0048,
    "SPSR_FIQ": 0x6030_0000_0010_0050,
    "V0": 0x6040_0000_0010_0054,
    "V31": 0x6040_0000_0010_00D0,
    "FPSR": 0x6020_0000_0010_00D4,
    "FPCR": 0x6020_0000_0010_00D5,
    "CCSIDR_0": 0x6020_0000_0011_0000,
    "CCSIDR_13": 0x6020_0000_0011_000D,
    "MIDR_EL1": 0x6030_0000_0013_C000,
    "MPIDR_EL1": 0x6030_0000_0013_C005,
    "ID_AA64PFR0_EL1": 0x6030_0000_0013_C020,
    "ID_AA64MMFR0_EL1": 0x6030_0000_0013_C038,
    "SCTLR_EL1": 0x6030_0000_0013_C080,
    "CPACR_EL1": 0x6030_0000_0013_C082,
    "TTBR0_EL1": 0x6030_0000_0013_C100,
    "TTBR1_EL1": 0x6030_0000_0013_C101,
    "TCR_EL1": 0x6030_0000_0013_C102,
    "AFSR0_EL1": 0x6030_0000_0013_C288,
    "ESR_EL1": 0x6030_0000_0013_C290,
    "FAR_EL1": 0x6030_0000_0013_C300,
    "PAR_EL1": 0x6030_0000_0013_C3A0,
    "MAIR_EL1": 0x6030_0000_0013_C510,
    "AMAIR_EL1": 0x6030_0000_0013_C518,
    "VBAR_EL1": 0x6030_0000_0013_C600,
    "CONTEXTIDR_EL1": 0x6030_0000_0013_C681,
    "TPIDR_EL1": 0x6030_0000_0013_C684,
    "CNTKCTL_EL1": 0x6030_0000_0013_C708,
    "CLIDR_EL1": 0x6030_0000_0013_C801,
    "CSSELR_EL1": 0x6030_0000_0013_D000,
    "CTR_EL0": 0x6030_0000_0013_D801,
    "TPIDR_EL0": 0x6030_0000_0013_DE82,
    "PMCR_EL0": 0x6030_0000_0013_DCE0,
    "PMEVTYPER30_EL0": 0x6030_0000_0013_DF7E,
    "DBGBVR0_EL1": 0x6030_0000_0013_8004,
    "DBGWCR15_EL1": 0x6030_0000_0013_807F,
    "CNTV_CTL_EL0": 0x6030_0000_0013_DF19,
    "CNTP_CVAL_EL0": 0x6030_0000_0013_DF12,
    "CNTPCT_EL0": 0x6030_0000_0013_DF01,
    "PSCI_VERSION": 0x6030_0000_0014_0000,
    "SMCCC_ARCH_WORKAROUND_3": 0x6030_0000_0014_0003,
    "Z31": 0x6080_0000_0015_03E0,
    "P0": 0x6050_0000_0015_0400,
    "P15": 0x6050_0000_0015_05E0,
    "FFR": 0x6050_0000_0015_0600,
    "SVE_VLS": 0x6060_0000_0015_FFFF,
    "STD_BMAP": 0x6030_0000_0016_0000,
    "VENDOR_HYP_BMAP_2": 0x6030_0000_0016_0003,
}
SIZES = {
    RegKind.SYSTEM: {8},
    RegKind.FIRMWARE: {8},
    RegKind.HYPERCALLS: {8},
    RegKind.DEMUX: {4},
    RegKind.CORE: {4, 8, 16},
    RegKind.SVE: {32, 64, 256},
}

any_id = st.integers(0, (1 << 64) - 1)
# Of what arm64 gives ids of: all classes, all sizes, all numbers.
arm64_id = st.builds(
    lambda size, kind, index: 0x60 << 56 | size << 52 | kind << 16 | index,
    st.integers(0, 15),
    st.sampled_from([0x10, 0x11, 0x13, 0x14, 0x15, 0x16, 0x17, 0xFFF]),
    st.integers(0, 0xFFFF),
)


@pytest.mark.parametrize("name", KNOWN)
def test_id_is_the_one_of_the_kernels_header(name: str) -> None:
    assert getattr(Reg, name) == IDS[name] == KNOWN[name]


def test_virtual_timers_counter_and_compare_value_have_each_others_encoding() -> None:
    assert (Reg.CNTVCT_EL0, Reg.CNTV_CVAL_EL0) == (0x6030_0000_0013_DF1A, 0x6030_0000_0013_DF02)
    assert (Reg.CNTVCT_EL0.encoding, Reg.CNTV_CVAL_EL0.encoding) == ((3, 3, 14, 0, 2), (3, 3, 14, 3, 2))
    assert Reg(0x6030_0000_0013_DF02).name == "CNTV_CVAL_EL0"


def test_no_two_names_have_one_id() -> None:
    assert len(set(IDS.values())) == len(IDS)


@pytest.mark.parametrize("name", IDS)
def test_every_name_leads_to_an_id_and_back(name: str) -> None:
    reg: Reg = getattr(Reg, name)
    assert (reg.name, str(reg), repr(reg)) == (name, name, f"Reg.{name}")
    assert Reg.parse(name) == Reg.parse(name.lower()) == Reg(reg.id) == reg
    assert reg.size in SIZES[reg.kind]
    assert reg.encoding is None or reg.kind is RegKind.SYSTEM


@given(any_id | arm64_id | st.sampled_from(sorted(IDS.values())))
def test_every_id_has_a_name_that_leads_back(number: int) -> None:
    reg = Reg(number)
    assert Reg.parse(reg.name) == number
    assert reg.size == 1 << (number >> 52 & 15)
    assert (reg.kind is RegKind.UNKNOWN) or number >> 56 == 0x60
    assert eval(repr(reg), {"Reg": Reg}) == number
    assert IDS.get(reg.name, number) == number


@given(st.tuples(st.integers(0, 3), st.integers(0, 7), st.integers(0, 15), st.integers(0, 15), st.integers(0, 7)))
def test_system_register_is_known_by_its_encoding(encoding: tuple[int, ...]) -> None:
    op0, op1, crn, crm, op2 = encoding
    reg = Reg.parse(f"s{op0}_{op1}_c{crn}_c{crm}_{op2}")
    assert reg == 0x6030_0000_0013_0000 | op0 << 14 | op1 << 11 | crn << 7 | crm << 3 | op2
    assert reg.kind is RegKind.SYSTEM
    assert reg.encoding == encoding or reg.name in {"CNTVCT_EL0", "CNTV_CVAL_EL0"}


def test_register_without_a_name_is_called_by_its_encoding_or_its_id() -> None:
    assert Reg(0x6030_0000_0013_C01B).name == "S3_0_C0_C3_3"
    assert Reg(0x6030_0000_0010_0001).name == "0x6030000000100001"
    assert repr(Reg(1)) == "Reg(0x1)"


@pytest.mark.parametrize(
    ("alias", "name"), [("sp_el0", "SP"), ("LR", "X30"), ("fp", "X29"), ("TIMER_CNT", "CNTVCT_EL0"), (" pc ", "PC")]
)
def test_other_names_for_the_same(alias: str, name: str) -> None:
    assert Reg.parse(alias).name == name
    assert getattr(Reg, alias.strip().upper()).name == name


@pytest.mark.parametrize(
    ("typo", "meant"),
    [("SCTRL_EL1", "SCTLR_EL1"), ("x31", "X3"), ("ttbr0", "TTBR0_EL1"), ("ID_AA64MFR0_EL1", "ID_AA64MMFR0_EL1")],
)
def test_typo_is_answered_with_the_nearest_names(typo: str, meant: str) -> None:
    with pytest.raises(ValueError, match=f"{typo}'.*did you mean.*{meant}"):
        Reg.parse(typo)
    with pytest.raises(AttributeError, match=meant):
        getattr(Reg, typo.upper())


@pytest.mark.parametrize("text", ["", "qwertz", "S4_0_C0_C0_0", "S3_0_C16_C0_0", "0x", "0x1" + 16 * "0", "-1", "12"])
def test_what_is_no_name_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="no register is called"):
        Reg.parse(text)


@pytest.mark.parametrize("number", [-1, 1 << 64])
def test_id_that_is_none_is_refused(number: int) -> None:
    with pytest.raises(OverflowError, match="does not fit 64 bits"):
        Reg(number)


@pytest.mark.parametrize("what", [None, 1.0, b"pc", []])
def test_what_stands_for_no_register_is_refused(what: object) -> None:
    with pytest.raises(TypeError, match="a Reg, an id or a name"):
        Reg.of(what)  # type: ignore[arg-type]


def test_register_keeps_its_kind_between_processes_and_copies() -> None:
    for twin in (pickle.loads(pickle.dumps(Reg.PC)), copy.deepcopy(Reg.PC)):
        assert (type(twin), twin, twin.name) == (Reg, Reg.PC, "PC")


def test_names_are_found_by_completion() -> None:
    assert {"PC", "LR", "X0", "SCTLR_EL1", "parse"} <= set(dir(Reg))
