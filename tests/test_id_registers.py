# SPDX-License-Identifier: Apache-2.0
"""Fields of ID registers: where they are, and what a value says."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvmipa import Reg
from kvmipa.id_registers import DECISIVE, FIELDS, decode, field, kvm_register_id, with_field

registers = st.sampled_from(sorted(FIELDS))
words = st.integers(0, (1 << 64) - 1)

# Arm ARM, each register's page: the least significant bit, and the width.
KNOWN = {
    ("ID_AA64MMFR0_EL1", "PARange"): (0, 4),
    ("ID_AA64MMFR0_EL1", "TGran4_2"): (40, 4),
    ("ID_AA64MMFR0_EL1", "FGT"): (56, 4),
    ("ID_AA64MMFR0_EL1", "ECV"): (60, 4),
    ("ID_AA64MMFR1_EL1", "XNX"): (28, 4),
    ("ID_AA64MMFR2_EL1", "FWB"): (40, 4),
    ("ID_AA64MMFR2_EL1", "E0PD"): (60, 4),
    ("ID_AA64PFR0_EL1", "SVE"): (32, 4),
    ("ID_AA64PFR0_EL1", "CSV3"): (60, 4),
    ("ID_AA64PFR1_EL1", "MTE"): (8, 4),
    ("ID_AA64PFR1_EL1", "SME"): (24, 4),
    ("ID_AA64DFR0_EL1", "WRPs"): (20, 4),
    ("ID_AA64DFR0_EL1", "HPMN0"): (60, 4),
    ("ID_AA64DFR1_EL1", "ABL_CMPs"): (56, 8),
    ("ID_AA64ISAR0_EL1", "RNDR"): (60, 4),
    ("ID_AA64ISAR1_EL1", "LS64"): (60, 4),
    ("ID_AA64ISAR2_EL1", "APA3"): (12, 4),
    ("ID_AA64ZFR0_EL1", "F64MM"): (56, 4),
    ("ID_AA64SMFR0_EL1", "FA64"): (63, 1),
    ("ID_AA64SMFR0_EL1", "I16I64"): (52, 4),
    ("ID_AA64SMFR0_EL1", "SMEver"): (56, 4),
    ("ID_AA64FPFR0_EL1", "F8CVT"): (31, 1),
    ("CTR_EL0", "L1Ip"): (14, 2),
    ("CTR_EL0", "DIC"): (29, 1),
    ("CTR_EL0", "TminLine"): (32, 6),
}


@pytest.mark.parametrize(("register", "name"), KNOWN)
def test_field_is_where_the_architecture_has_it(register: str, name: str) -> None:
    assert FIELDS[register][name] == KNOWN[register, name]


@pytest.mark.parametrize("register", sorted(FIELDS))
def test_fields_are_in_order_within_64_bits_and_none_is_in_another(register: str) -> None:
    end = 0
    for lsb, width in FIELDS[register].values():
        assert lsb >= end
        end = lsb + width
    assert end <= 64


@given(registers, words)
def test_value_is_the_sum_of_its_fields(register: str, value: int) -> None:
    found = decode(register, value)
    whole = found.reserved
    for name, content in found.fields.items():
        lsb, width = FIELDS[register][name]
        assert content == field(register, name, value) < 1 << width
        assert whole & ((1 << width) - 1) << lsb == 0
        whole = with_field(register, name, whole, content)
    assert whole == found.value == value


def test_register_is_named_or_one_of_reg() -> None:
    assert decode(Reg.ID_AA64MMFR0_EL1, 0x1124) == decode("id_aa64mmfr0_el1", 0x1124)
    assert decode(Reg.ID_AA64MMFR0_EL1, 0x1124).fields["PARange"] == 4


def test_what_is_printed_leaves_out_what_is_0() -> None:
    assert str(decode("CTR_EL0", 0x8444_C004)) == (
        "CTR_EL0 = 0x8444c004: IminLine 0x4, L1Ip 0x3, DminLine 0x4, ERG 0x4, CWG 0x4, reserved 0x80000000"
    )
    assert str(decode("ID_AA64AFR1_EL1", 0)) == "ID_AA64AFR1_EL1 = 0x0: all fields are 0"


@pytest.mark.parametrize("register", ["SCTLR_EL1", Reg.PC, "nothing"])
def test_register_whose_fields_are_not_known_is_refused(register: str | Reg) -> None:
    with pytest.raises(ValueError, match="is not an ID register whose fields are known: ID_AA64PFR0_EL1"):
        decode(register, 0)


@pytest.mark.parametrize("register", sorted(FIELDS))
def test_every_such_register_has_an_id(register: str) -> None:
    assert kvm_register_id(register) == Reg.parse(register)
    assert set(DECISIVE) <= set(FIELDS)
