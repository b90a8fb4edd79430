# SPDX-License-Identifier: Apache-2.0
"""The storage of a vCPU's registers, and a CPU engine that holds them in the meantime."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvmipa import abi
from kvmipa.backend.emulated.register_file import MPIDR_EL1, NAMES, RegisterFile

CORE = [*range(31), *NAMES, *(f"spsr{index}" for index in range(5)), *(f"v{index}" for index in range(32))]
SCTLR_EL1, TTBR0_EL1 = 0xC080, 0xC100


class Engine:
    """Holds core registers, and SCTLR_EL1 of the system's."""

    def __init__(self) -> None:
        self.core: dict[int | str, int] = {}
        self.sctlr = 0x30D0_0800

    def read_core(self, register: int | str, /) -> int:
        return self.core.get(register, 7)

    def write_core(self, register: int | str, value: int, /) -> None:
        self.core[register] = value

    def read_system(self, number: int, /) -> int | None:
        return self.sctlr if number == SCTLR_EL1 else None

    def write_system(self, number: int, value: int, /) -> bool:
        if number == SCTLR_EL1:
            self.sctlr = value
        return number == SCTLR_EL1


@given(st.dictionaries(st.sampled_from(CORE), st.integers(0, (1 << 64) - 1)))
def test_each_core_register_is_its_own(values: dict[int | str, int]) -> None:
    file = RegisterFile()
    for register, value in values.items():
        file.write_core(register, value)
    assert {register: file.read_core(register) for register in CORE} == dict.fromkeys(CORE, 0) | values


def test_core_registers_are_the_attributes() -> None:
    file = RegisterFile()
    file.write_core(3, 1)
    file.write_core("pc", 2)
    file.write_core("spsr0", 3)
    file.write_core("v31", 4)
    assert (file.x[3], file.pc, file.spsr[0], file.v[31]) == (1, 2, 3, 4)


def test_engine_has_the_registers_while_it_is_live() -> None:
    file, engine = RegisterFile(), Engine()
    file.system |= {SCTLR_EL1: 1, TTBR0_EL1: 2}
    file.live = engine
    file.write_core("pc", 0x1000)
    file.write_system(SCTLR_EL1, 0x1234)
    file.write_system(TTBR0_EL1, 0x5678)
    assert (file.pc, file.system) == (0, {SCTLR_EL1: 1, TTBR0_EL1: 0x5678})
    assert (engine.core, engine.sctlr) == ({"pc": 0x1000}, 0x1234)
    assert (file.read_core(0), file.read_system(SCTLR_EL1), file.read_system(TTBR0_EL1)) == (7, 0x1234, 0x5678)


def test_what_the_vm_shares_comes_first() -> None:
    file = RegisterFile()
    file.system[SCTLR_EL1] = 1
    file.shared = {SCTLR_EL1: 2}
    assert file.read_system(SCTLR_EL1) == 2


@pytest.mark.parametrize(
    ("features", "pstate"),
    [(0, 0x3C5), (1 << abi.KVM_ARM_VCPU_EL1_32BIT, 0x1D3), (1 << abi.KVM_ARM_VCPU_HAS_EL2, 0x3C9)],
)
def test_reset(features: int, pstate: int) -> None:
    file = RegisterFile()
    for register in CORE:
        file.write_core(register, 1)
    file.live = Engine()
    file.reset(features, 0x305)
    kept = {"sp_el1", "elr_el1", "spsr0"}
    assert file.live is None
    assert {register: file.read_core(register) for register in CORE} == {
        **{register: int(register in kept) for register in CORE},
        "pstate": pstate,
    }
    assert file.read_system(MPIDR_EL1) == 0x8000_0305
    file.reset(features, None)
    assert file.read_system(MPIDR_EL1) == 0x8000_0305
