# SPDX-License-Identifier: Apache-2.0
"""Guests whose data is big-endian, by SCTLR_EL1.EE and E0E (kvm_vcpu_is_be); code never is.

All of it was seen on Linux 6.12.117 as well.
"""

from __future__ import annotations

import pytest

import kvmipa
from kvmipa import abi
from tests.backend.emulated.cpu.guests import CODE, EL0, EL1H, NO_ENGINE, NOWHERE, SIZE, Guest, guest, mmio, run_to_mmio

pytest.importorskip("unicorn", reason=NO_ENGINE)

SCTLR, E0E, EE = 0xC50070, 1 << 24, 1 << 25
VALUE = 0x1122_3344_5566_7788

STORES = {8: 0xF9000020, 4: 0xB9000020, 2: 0x79000020, 1: 0x39000020}  # str x0, [x1] and so on
LOADS = {8: 0xF9400022, 4: 0xB9400022, 2: 0x79400022, 1: 0x39400022}  # ldr x2, [x1] and so on
# Bits, PSTATE -> whether data is big-endian.
MODES = [(EE, EL1H, True), (E0E, EL1H, False), (EE, EL0, False), (E0E, EL0, True), (0, EL1H, False)]


def set_up(it: Guest, bits: int, pstate: int = EL1H) -> None:
    it.vcpu.set("sctlr_el1", SCTLR | bits)
    it.vcpu.regs.pstate = pstate
    it.vcpu.regs.x[0], it.vcpu.regs.x[1], it.vcpu.regs.x[3] = VALUE, NOWHERE, CODE + 0x4000


@pytest.mark.parametrize("size", STORES)
@pytest.mark.parametrize(("bits", "pstate", "big"), MODES)
def test_user_space_gets_the_bytes_in_the_guests_order(bits: int, pstate: int, big: bool, size: int) -> None:
    with guest((STORES[size],)) as it:
        set_up(it, bits, pstate)
        exit = run_to_mmio(it)
        expected = (VALUE & (1 << 8 * size) - 1).to_bytes(size, "big" if big else "little")
        assert exit.value.to_bytes(size, "little") == expected


@pytest.mark.parametrize("size", LOADS)
@pytest.mark.parametrize(("bits", "pstate", "big"), MODES)
def test_the_guest_gets_the_bytes_in_its_order(bits: int, pstate: int, big: bool, size: int) -> None:
    with guest((LOADS[size], STORES[8])) as it:
        set_up(it, bits, pstate)
        answer = VALUE & (1 << 8 * size) - 1
        run_to_mmio(it).reply(answer)
        run_to_mmio(it)
        assert it.vcpu.regs.x[2] == int.from_bytes(answer.to_bytes(size, "little"), "big" if big else "little")


def test_a_signed_load_has_the_sign_that_the_guest_sees_since_7_3() -> None:
    with guest((0x79800022, STORES[8]), release="7.3") as it:  # ldrsh x2, [x1]
        set_up(it, EE)
        run_to_mmio(it).reply(0x7F80)
        run_to_mmio(it)
        assert it.vcpu.regs.x[2] == (1 << 64) - 0x10000 | 0x807F


@pytest.mark.parametrize(("bits", "pstate", "big"), MODES)
def test_memory_has_the_bytes_in_the_guests_order(bits: int, pstate: int, big: bool) -> None:
    with guest((0xF9000060, 0xF9400062, 0xF9000022)) as it:  # str x0, [x3]; ldr x2, [x3]; str x2, [x1]
        set_up(it, bits, pstate)
        run_to_mmio(it)
        assert bytes(it.memory.buffer[0x4000:0x4008]) == VALUE.to_bytes(8, "big" if big else "little")
        assert it.vcpu.regs.x[2] == VALUE


@pytest.mark.parametrize("order", ["little", "big"])
def test_tables_are_big_endian_with_ee(order: str) -> None:
    with guest((STORES[8],)) as it:
        for index, output in enumerate((0x4000_0000, CODE)):
            entry = (output | 1 << 10 | 1).to_bytes(8, "big" if order == "big" else "little")
            it.memory.buffer[0x8000 + 8 * index :][:8] = entry
        set_up(it, (EE if order == "big" else 0) | 1)
        it.vcpu.set("ttbr0_el1", CODE + 0x8000)
        it.vcpu.set("tcr_el1", 25 | 1 << 23 | 2 << 32)
        assert run_to_mmio(it).phys_addr == 0x4000_0000 | NOWHERE


@pytest.mark.parametrize("bits", [0, EE])
def test_a_vcpu_that_is_turned_on_has_the_callers_endianness(bits: int) -> None:
    # hvc #0; b .
    with guest((0xD4000002, STORES[8])) as it, it.vm.create_vcpu(1) as other:
        other.init(kvmipa.VcpuFeature.PSCI_0_2 | kvmipa.VcpuFeature.POWER_OFF)
        it.put((0xF9000000,), CODE + 0x4000)  # str x0, [x0]
        set_up(it, bits)
        for register, value in enumerate((0xC400_0003, 1, CODE + 0x4000, NOWHERE)):
            it.vcpu.regs.x[register] = value
        run_to_mmio_at_zero(it)
        exit = mmio(other.run(timeout=10))
        assert exit.value == (int.from_bytes(NOWHERE.to_bytes(8, "little"), "big") if bits else NOWHERE)
        assert other.get("sctlr_el1") & EE == bits
        assert int(other.mp_state) == abi.KVM_MP_STATE_RUNNABLE


def run_to_mmio_at_zero(it: Guest) -> None:
    """The call has cleared X1."""
    assert (run_to_mmio(it).phys_addr, it.vcpu.regs.x[0], SIZE) == (0, 0, 1 << 16)
