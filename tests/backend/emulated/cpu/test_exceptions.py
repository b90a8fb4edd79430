# SPDX-License-Identifier: Apache-2.0
"""Exceptions that a guest takes to its EL1, and those that debugging takes away from it."""

from __future__ import annotations

from typing import Any

import pytest

from kvmipa import abi, exits
from kvmipa.backend.emulated.cpu import exceptions
from tests.backend.emulated.cpu.guests import (
    CODE,
    EL0,
    EL1H,
    EL1T,
    NO_ENGINE,
    NOWHERE,
    RELEASES,
    VECTORS,
    Guest,
    guest,
    run_to_mmio,
)

pytest.importorskip("unicorn", reason=NO_ENGINE)

SVC = (
    0xD40000A1,  # svc #5
)
BRK = (
    0xD42000E0,  # brk #7
)
UNDEFINED = (
    0x00000000,  # udf #0
)
HVC = (
    0xD4000002,  # hvc #0
)
VECTOR_REGISTER = (
    0xD538C000,  # mrs x0, vbar_el1
)
COUNTER = (
    0xD53BE040,  # mrs x0, cntvct_el0
)
COUNTER_CONTROL = (
    0xD53B9C00,  # mrs x0, pmcr_el0
)
ID_WRITE = (
    0xD5180700,  # msr id_aa64mmfr0_el1, x0
)
EXCLUSIVE = (
    0xC85F7C01,  # ldxr x1, [x0]
)
REPORT = (
    0xF9000149,  # str x9, [x10]
)

OFFSETS = {EL1T: 0x000, EL1H: 0x200, EL0: 0x400}

# What, at which levels, the syndrome, and how far behind the instruction it goes on.
TAKEN = {
    "svc": (SVC, (EL0, EL1T, EL1H), 0x56000005, 4),
    "brk": (BRK, (EL0, EL1T, EL1H), 0xF2000007, 0),
    "undefined": (UNDEFINED, (EL0, EL1T, EL1H), 0x02000000, 0),
    "hvc at el0": (HVC, (EL0,), 0x02000000, 0),
    "el1's register at el0": (VECTOR_REGISTER, (EL0,), 0x02000000, 0),
    "counter at el0": (COUNTER, (EL0,), 0x6234F801, 0),
    "its registers that unicorn does not know": ((0xD53BE920,), (EL1H,), 0x02000000, 0),
    "pmu without the feature": (COUNTER_CONTROL, (EL0, EL1H), 0x02000000, 0),
    "wfi at el0": ((0xD503207F,), (EL0,), 0x07E00000, 0),
    "an id register is written": (ID_WRITE, (EL1H,), 0x02000000, 0),
    "exclusive that is not aligned": (EXCLUSIVE, (EL1H,), 0x96000021, 0),
}
CASES = [(name, level) for name, (_, levels, _, _) in TAKEN.items() for level in levels]


def vectors(it: Guest) -> None:
    """Each of them says which one it is."""
    for offset in range(0, 0x800, 0x80):
        # movz x9, #offset; str x9, [x10]
        it.put((0xD2800009 | offset << 5, *REPORT), VECTORS + offset)
    it.vcpu.regs.x[10] = NOWHERE


@pytest.mark.parametrize(("name", "level"), CASES, ids=lambda case: case if isinstance(case, str) else hex(case))
def test_it_is_taken_to_the_vector_of_where_it_came_from(name: str, level: int) -> None:
    code, _, syndrome, behind = TAKEN[name]
    with guest(code) as it:
        vectors(it)
        regs = it.vcpu.regs
        regs.sp_el0, regs.sp_el1 = 0x1000, 0x2000
        regs.pstate = level | 0x80000000
        regs.x[0] = CODE + 0x8001
        if name == "wfi at el0":
            # nTWI.
            regs.sctlr_el1 &= ~(1 << 16)
        exit = run_to_mmio(it)
        assert (exit.value, hex(regs.esr_el1)) == (OFFSETS[level], hex(syndrome))
        assert (regs.elr_el1, regs.spsr_el1) == (CODE + behind, level | 0x80000000)
        assert regs.pstate & 0x3DF == EL1H
        assert (regs.sp_el0, regs.sp_el1) == (0x1000, 0x2000)
        if syndrome == 0x96000021:
            assert regs.far_el1 == CODE + 0x8001


def test_what_an_instruction_behind_would_have_done_is_not_done() -> None:
    # mrs x0, pmcr_el0; str x1, [x2]; mov x1, #9
    with guest((*COUNTER_CONTROL, 0xF9000041, 0xD2800121)) as it:
        vectors(it)
        it.vcpu.regs.x[1], it.vcpu.regs.x[2] = 0x55, CODE + 0x8000
        run_to_mmio(it)
        assert it.vcpu.regs.x[1] == 0x55
        assert bytes(it.memory.buffer[0x8000:0x8008]) == bytes(8)


TO_EL0 = (
    0xD2807801,  # mov x1, #0x3c0
    0xD5184001,  # msr spsr_el1, x1
    0x10000061,  # adr x1, .+12
    0xD5184021,  # msr elr_el1, x1
    0xD69F03E0,  # eret
    0x910003E2,  # mov x2, sp
    0xD4000021,  # svc #1
)


def test_eret_goes_to_el0_with_its_own_stack_pointer() -> None:
    with guest(TO_EL0) as it:
        vectors(it)
        it.vcpu.regs.sp_el0, it.vcpu.regs.sp_el1 = 0x1230, 0x4560
        exit = run_to_mmio(it)
        assert exit.value == 0x400
        assert it.vcpu.regs.x[2] == 0x1230


def test_eret_to_el1_is_no_illegal_return() -> None:
    # mov x1, #0x3c5; msr spsr_el1, x1; adr x1, .+12; msr elr_el1, x1; eret; svc #1
    with guest((0xD28078A1, 0xD5184001, 0x10000061, 0xD5184021, 0xD69F03E0, *SVC)) as it:
        vectors(it)
        exit = run_to_mmio(it)
        assert exit.value == 0x200
        # Without PSTATE.IL.
        assert it.vcpu.regs.spsr_el1 == EL1H


def test_a_signal_handler_may_raise_in_the_middle_of_an_exception(monkeypatch: pytest.MonkeyPatch) -> None:
    taken: list[int] = []
    take = exceptions.take

    def interrupted(engine: Any, esr: int, **how: Any) -> None:
        take(engine, esr, **how)
        taken.append(esr)
        if len(taken) == 1:
            raise KeyboardInterrupt

    with guest(SVC) as it:
        vectors(it)
        monkeypatch.setattr(exceptions, "take", interrupted)
        with pytest.raises(KeyboardInterrupt):
            it.vcpu.run(timeout=10)
        assert taken == [0x56000005] * 2
        assert (it.vcpu.regs.elr_el1, it.vcpu.regs.pc) == (CODE + 4, VECTORS + 0x200)


def test_a_fetch_from_nowhere_is_an_external_abort_of_the_guest() -> None:
    with guest((0xD61F0000,)) as it:  # br x0
        vectors(it)
        it.vcpu.regs.x[0] = NOWHERE
        run_to_mmio(it)
        assert (it.vcpu.regs.esr_el1, it.vcpu.regs.far_el1) == (0x86000010, NOWHERE)
        assert it.vcpu.regs.elr_el1 == NOWHERE


def test_a_pc_that_is_not_aligned_is_a_fault_of_its_own() -> None:
    with guest((0xD61F0000,)) as it:  # br x0
        vectors(it)
        it.vcpu.regs.x[0] = CODE + 0x8002
        run_to_mmio(it)
        assert (it.vcpu.regs.esr_el1, it.vcpu.regs.far_el1) == (0x8A000000, CODE + 0x8002)


@pytest.mark.parametrize("release", RELEASES)
def test_an_abort_from_user_space_is_taken_instead_of_the_load(release: str) -> None:
    """As real kernels did; 5.10.223 completes the load nevertheless, and so skips the vector's first instruction."""
    with guest((0xF9400001,), release=release) as it:  # ldr x1, [x0]
        vectors(it)
        regs = it.vcpu.regs
        regs.x[0], regs.x[1], regs.x[9] = NOWHERE + 0x100, 5, 0x99
        exit = run_to_mmio(it)
        exit.abort()
        report = run_to_mmio(it)
        assert (report.value, regs.x[1]) == ((0x99, 0) if release == "5.10" else (0x200, 5))
        assert regs.esr_el1 & 0xFFFFFFFF == 0x96000010
        assert (regs.elr_el1, regs.far_el1) == (CODE, NOWHERE + 0x100)


# ------------------------------------------------------------------------------------------------ debugging

STEPS = (
    0xD2800021,  # mov x1, #1
    0xD4000061,  # svc #3
    0xF9000141,  # str x1, [x10]
    0xD4000002,  # hvc #0
)


def debug(exit: Any) -> exits.Debug:
    assert isinstance(exit, exits.Debug), exit
    return exit


@pytest.mark.parametrize("release", ["5.10", "6.12"])
def test_a_software_breakpoint_is_user_spaces(release: str) -> None:
    with guest(BRK, release=release) as it:
        it.vcpu.set_guest_debug(abi.KVM_GUESTDBG_ENABLE | abi.KVM_GUESTDBG_USE_SW_BP)
        exit = debug(it.vcpu.run(timeout=10))
        assert (exit.hsr, it.vcpu.regs.pc) == (0xF2000007, CODE)


EXECUTED, NOT_EXECUTED = 0xCB000022, 0xCA000022


@pytest.mark.parametrize("release", RELEASES)
def test_single_steps_go_through_exceptions_exits_and_calls(release: str) -> None:
    """As real kernels did: since 6.1 what KVM completes or does for the guest is a step of its own."""
    is_step = release != "5.10"
    with guest(STEPS, release=release) as it:
        vectors(it)
        it.vcpu.set_guest_debug(abi.KVM_GUESTDBG_ENABLE | abi.KVM_GUESTDBG_SINGLESTEP)
        vector = VECTORS + 0x200
        expected = [
            (EXECUTED, CODE + 4),
            (NOT_EXECUTED, vector),
            (EXECUTED, vector + 4),
            (None, vector + 4),
            *([(NOT_EXECUTED, vector + 8)] if is_step else []),
            # There is a zero behind the store.
            (NOT_EXECUTED, vector),
        ]
        seen = []
        for _ in expected:
            exit = it.vcpu.run(timeout=10)
            seen.append((exit.hsr if isinstance(exit, exits.Debug) else None, it.vcpu.regs.pc))
        assert seen == expected


@pytest.mark.parametrize("release", RELEASES)
def test_a_call_is_a_step_where_what_kvm_does_is_one(release: str) -> None:
    # hvc #0; nop
    with guest((*HVC, 0xD503201F), release=release) as it:
        it.vcpu.regs.x[0] = 0x84000000
        it.vcpu.set_guest_debug(abi.KVM_GUESTDBG_ENABLE | abi.KVM_GUESTDBG_SINGLESTEP)
        exit = debug(it.vcpu.run(timeout=10))
        found = exit.hsr, it.vcpu.regs.pc
        assert found == ((EXECUTED, CODE + 8) if release == "5.10" else (NOT_EXECUTED, CODE + 4))


def test_steps_of_wfi_and_branches_are_steps() -> None:
    # b .+8; nop; wfi; b .-8
    with guest((0x14000002, 0xD503201F, 0xD503207F, 0x17FFFFFE)) as it:
        it.vcpu.set_guest_debug(abi.KVM_GUESTDBG_ENABLE | abi.KVM_GUESTDBG_SINGLESTEP)
        debug(it.vcpu.run(timeout=10))
        assert it.vcpu.regs.pc == CODE + 8


# ------------------------------------------------------------------------------------------------ registers

ID_REGISTERS = (
    0xD5380700,  # mrs x0, id_aa64mmfr0_el1
    0xD5380001,  # mrs x1, midr_el1
    0xD53800A2,  # mrs x2, mpidr_el1
    0xD5380403,  # mrs x3, id_aa64pfr0_el1
    0xD5384244,  # mrs x4, currentel
    0xD53807E5,  # mrs x5, s3_0_c0_c7_7
    0xF9000140,  # str x0, [x10]
)
DEBUG_REGISTERS = (
    0xD5100081,  # msr dbgbvr0_el1, x1
    0xD5300082,  # mrs x2, dbgbvr0_el1
    0xD5100241,  # msr mdscr_el1, x1
    0xD5300243,  # mrs x3, mdscr_el1
    0xF9000142,  # str x2, [x10]
)
TIMERS = (
    0xD53BE000,  # mrs x0, cntfrq_el0
    0xD53BE041,  # mrs x1, cntvct_el0
    0xD53BE042,  # mrs x2, cntvct_el0
    0xF9000140,  # str x0, [x10]
)
TRANSLATES = (
    0xD5087801,  # at s1e1r, x1
    0xD5033FDF,  # isb
    0xD5387402,  # mrs x2, par_el1
    0xF9000142,  # str x2, [x10]
)


def test_the_guest_sees_the_profiles_id_registers() -> None:
    with guest(ID_REGISTERS) as it:
        it.vcpu.regs.x[10] = NOWHERE
        run_to_mmio(it)
        regs = it.vcpu.regs
        names = ("id_aa64mmfr0_el1", "midr_el1", "mpidr_el1", "id_aa64pfr0_el1")
        assert [regs.x[number] for number in range(4)] == [it.vcpu.get(name) for name in names]
        assert regs.x[0] & 0xF == 5
        assert (regs.x[4], regs.x[5]) == (4, 0)


def test_registers_that_kvm_keeps_hold_what_is_written() -> None:
    with guest(DEBUG_REGISTERS) as it:
        it.vcpu.regs.x[10], it.vcpu.regs.x[1] = NOWHERE, 0x1000
        run_to_mmio(it)
        assert (it.vcpu.regs.x[2], it.vcpu.regs.x[3]) == (0x1000, 0x1000)
        assert it.vcpu.get("dbgbvr0_el1") == 0x1000


def test_registers_that_unicorn_does_not_know_are_kvms() -> None:
    # mrs x1, mdccsr_el0; msr dbgbvr9_el1, x0; mrs x2, dbgbvr9_el1; str x1, [x10]
    with guest((0xD5330101, 0xD5100980, 0xD5300982, 0xF9000141)) as it:
        it.vcpu.regs.x[0], it.vcpu.regs.x[1], it.vcpu.regs.x[10] = 0x4560, 7, NOWHERE
        exit = run_to_mmio(it)
        assert (exit.value, it.vcpu.regs.x[2], it.vcpu.get("dbgbvr9_el1")) == (0, 0x4560, 0x4560)


def test_an_absent_pmu_reads_as_zero_on_5_10() -> None:
    # mrs x0, pmcr_el0; str x0, [x10]
    with guest((*COUNTER_CONTROL, 0xF9000140), release="5.10") as it:
        it.vcpu.regs.x[10] = NOWHERE
        exit = run_to_mmio(it)
        assert exit.value == 0


def test_the_counter_counts() -> None:
    with guest(TIMERS) as it:
        it.vcpu.regs.x[10] = NOWHERE
        run_to_mmio(it)
        assert it.vcpu.regs.x[0] == 62_500_000
        assert 0 < it.vcpu.regs.x[1] <= it.vcpu.regs.x[2]


def test_at_is_stage_1_alone() -> None:
    with guest(TRANSLATES) as it:
        it.vcpu.regs.x[10], it.vcpu.regs.x[1] = NOWHERE, 0x8123_4567
        run_to_mmio(it)
        assert it.vcpu.regs.x[2] & 0xFFFFF_FFFF_F001 == 0x8123_4000
