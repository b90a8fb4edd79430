# SPDX-License-Identifier: Apache-2.0
"""What MRS, MSR and AT do where user space's KVM_GET_ONE_REG and KVM_SET_ONE_REG do something else (sys_regs.c).

All of it was seen on Linux 6.12.117 as well, with QEMU's CPU "max".
"""

from __future__ import annotations

import pytest

import kvmipa
from kvmipa import abi
from tests.backend.emulated.cpu.guests import (
    CODE,
    EL0,
    EL1H,
    NO_ENGINE,
    NOWHERE,
    RELEASES,
    VECTORS,
    Guest,
    guest,
    host,
    mrs,
    msr,
    run_to_mmio,
)

pytest.importorskip("unicorn", reason=NO_ENGINE)

REPORT = 0xF9000140  # str x0, [x10]
ALL = (1 << 64) - 1
SECOND = 62_500_000
PSCI = kvmipa.VcpuFeature.PSCI_0_2


def run(it: Guest, *x: int) -> list[int]:
    """X0 to X7 at its store, which began with these."""
    for register, value in enumerate(x):
        it.vcpu.regs.x[register] = value
    it.vcpu.regs.x[10] = NOWHERE
    it.put((REPORT,), VECTORS + 0x200)
    it.put((REPORT,), VECTORS + 0x400)
    run_to_mmio(it)
    return [it.vcpu.regs.x[register] for register in range(8)]


# ------------------------------------------------------------------------------------------------ timers

TIMERS = {"physical": (2, 1), "virtual": (3, 2)}


@pytest.mark.parametrize("release", RELEASES)
@pytest.mark.parametrize("kind", TIMERS)
def test_a_timers_value_is_the_distance_to_its_comparator(kind: str, release: str) -> None:
    crm, count = TIMERS[kind]
    code = (
        msr(3, 3, 14, crm, 0, 0),  # cnt*_tval_el0: 30 seconds ago
        mrs(3, 3, 14, crm, 2, 1),  # cnt*_cval_el0
        mrs(3, 3, 14, 0, count, 2),  # cnt*ct_el0
        0x8B030043,  # add x3, x2, x3
        msr(3, 3, 14, crm, 2, 3),  # cnt*_cval_el0
        mrs(3, 3, 14, crm, 0, 4),  # cnt*_tval_el0
        REPORT,
    )
    with guest(code, release=release) as it:
        x = run(it, (0xABCD << 32) | -30 * SECOND & 0xFFFF_FFFF, 0, 0, 20 * SECOND)
        assert -31 * SECOND < (x[1] - x[2] & ALL) - (1 << 64) <= -30 * SECOND
        assert 10 * SECOND < x[4] <= 20 * SECOND


def test_a_timers_control_has_two_bits_and_its_status() -> None:
    code = (msr(3, 3, 14, 3, 2, 1), msr(3, 3, 14, 3, 1, 0), mrs(3, 3, 14, 3, 1, 2), REPORT)
    with guest(code) as it:
        assert run(it, ALL & ~4, 0)[2] == 7
    with guest(code) as it:
        assert run(it, ALL & ~1, 0)[2] == 2


# ------------------------------------------------------------------------------------------------ the PMU

CODE_OF = {"cnten": ((3, 3, 9, 12, 1), (3, 3, 9, 12, 2)), "inten": ((3, 0, 9, 14, 1), (3, 0, 9, 14, 2))}
CODE_OF["ovs"] = ((3, 3, 9, 14, 3), (3, 3, 9, 12, 3))
MACHINES = ["qemu-max-5.10-4k", "qemu-max-6.1-4k", "qemu-max-6.12-4k", "qemu-max-7.3-4k"]


def with_pmu(code: tuple[int, ...], machine: str, *x: int) -> list[int]:
    with guest(code, profile=kvmipa.HostProfile.preset(machine), features=PSCI | kvmipa.VcpuFeature.PMU_V3) as it:
        it.vcpu.set_attr(abi.KVM_ARM_VCPU_PMU_V3_CTRL, abi.KVM_ARM_VCPU_PMU_V3_INIT)
        return run(it, *x)


@pytest.mark.parametrize("machine", MACHINES)
@pytest.mark.parametrize("name", CODE_OF)
def test_ones_set_and_clear_bits_of_counters(name: str, machine: str) -> None:
    sets, clears = CODE_OF[name]
    code = (
        *(msr(*clears, 0), msr(*sets, 1), msr(*sets, 2), mrs(*sets, 3)),
        *(msr(*clears, 1), mrs(*sets, 4), mrs(*clears, 5)),
        *(msr(*sets, 0), mrs(*clears, 6), REPORT),
    )
    x = with_pmu(code, machine, ALL, 1, 0x8000_0002)
    assert x[3:6] == [0x8000_0003, 0x8000_0002, 0x8000_0002]
    assert x[6] == 0x8000_003F


# Register -> what is read after ones were written.
READ_BACK = {
    "pmcr_el0, with N": ((3, 3, 9, 12, 0), 0x30F9),
    "pmuserenr_el0": ((3, 3, 9, 14, 0), 0xF),
    "pmselr_el0": ((3, 3, 9, 12, 5), 0x1F),
    "pmevtyper0_el0": ((3, 3, 14, 12, 0), 0xC800_FFFF),
    "pmevtyper9_el0": ((3, 3, 14, 13, 1), 0xC800_FFFF),
}


@pytest.mark.parametrize("name", READ_BACK)
def test_registers_of_the_pmu_have_the_bits_that_they_have(name: str) -> None:
    register, expected = READ_BACK[name]
    found = with_pmu((msr(*register, 0), mrs(*register, 1), REPORT), "qemu-max-6.12-4k", ALL)[1]
    assert found == expected


def test_pmcr_resets_counters() -> None:
    counters = ((3, 3, 9, 13, 0), (3, 3, 14, 8, 0))  # pmccntr_el0, pmevcntr0_el0
    for bit, expected in ((2, [7, 0]), (4, [0, 7])):
        code = (
            *(msr(*counter, 0) for counter in counters),
            msr(3, 3, 9, 12, 0, 1),
            *(mrs(*counter, 2 + index) for index, counter in enumerate(counters)),
        )
        assert with_pmu((*code, REPORT), "qemu-max-6.12-4k", 7, bit)[2:4] == expected


def test_what_is_only_written_is_undefined_to_read() -> None:
    code = (mrs(3, 3, 9, 12, 4, 0), REPORT)  # pmswinc_el0
    with guest(code, profile=kvmipa.HostProfile.preset(MACHINES[2]), features=PSCI | kvmipa.VcpuFeature.PMU_V3) as it:
        it.vcpu.set_attr(abi.KVM_ARM_VCPU_PMU_V3_CTRL, abi.KVM_ARM_VCPU_PMU_V3_INIT)
        run(it)
        assert it.vcpu.regs.pc == VECTORS + 0x200


# ------------------------------------------------------------------------------------------------ others


@pytest.mark.parametrize("release", RELEASES)
def test_oslar_locks_where_the_lock_is_kept(release: str) -> None:
    code = (msr(2, 0, 1, 0, 4, 1), mrs(2, 0, 1, 1, 4, 2), msr(2, 0, 1, 0, 4, 3), mrs(2, 0, 1, 1, 4, 4), REPORT)
    with guest(code, release=release) as it:
        x = run(it, 0, ALL, 0, 2)
    assert [x[2], x[4]] == ([8, 8] if release == "5.10" else [0xA, 8])


@pytest.mark.parametrize("release", RELEASES)
def test_what_the_guest_writes_to_actlr_is_ignored(release: str) -> None:
    code = (mrs(3, 0, 1, 0, 1, 1), msr(3, 0, 1, 0, 1, 0), mrs(3, 0, 1, 0, 1, 2), REPORT)
    with guest(code, release=release) as it:
        it.vcpu.set("actlr_el1", 0x30)
        assert run(it, 7)[1:3] == [0x30, 0x30]


# ------------------------------------------------------------------------------------------------ AT

ISB = 0xD5033FDF
PAR = mrs(3, 0, 7, 4, 0, 0)
VA = 0x8000_0000
# CRm, Op2, and whether it is stopped by a page of EL0's with PSTATE.PAN, and without.
TRANSLATES = {
    "s1e1r": (8, 0, False, False),
    "s1e1w": (8, 1, False, False),
    "s1e0r": (8, 2, False, False),
    "s1e0w": (8, 3, False, False),
    "s1e1rp": (9, 0, True, False),
    "s1e1wp": (9, 1, True, False),
}


def translated(crm: int, op2: int, pstate: int, mmfr1: int) -> int | None:
    """PAR_EL1 after AT of an address whose page is EL0's; None: it is undefined. EL0 cannot read it."""
    code = (msr(1, 0, 7, crm, op2, 0), ISB, PAR, REPORT)
    with guest(code, profile=host(id_aa64mmfr1_el1=mmfr1)) as it:
        # By 4K pages: the first and the second gigabyte are EL1's and their own, the third is EL0's, and the second.
        for index, entry in enumerate((1 << 53, CODE, CODE | 1 << 6)):
            it.memory.buffer[0x8000 + 8 * index :][:8] = (entry | 1 << 10 | 1).to_bytes(8, "little")
        for name, value in {"ttbr0_el1": CODE + 0x8000, "tcr_el1": 25 | 25 << 16 | 2 << 30 | 2 << 32}.items():
            it.vcpu.set(name, value)
        it.vcpu.set("sctlr_el1", 0xC50079)
        it.vcpu.regs.pstate = pstate
        found = run(it, VA)[0]
        return None if it.vcpu.regs.esr_el1 == 0x200_0000 else found


@pytest.mark.parametrize("name", TRANSLATES)
def test_only_at_with_p_goes_by_pan(name: str) -> None:
    crm, op2, with_pan, without = TRANSLATES[name]
    for pstate, stopped in ((EL1H | 1 << 22, with_pan), (EL1H, without)):
        found = translated(crm, op2, pstate, 2 << 20)
        assert found is not None
        assert found & 0xFFFFF_FFFF_F07F == (0x1B if stopped else CODE)


# CRm and Op2, ID_AA64MMFR1_EL1, PSTATE.
NO_TRANSLATIONS = {
    "s1e1rp without FEAT_PAN2": (9, 0, 1 << 20, EL1H),
    "s1e1wp without FEAT_PAN2": (9, 1, 0, EL1H),
    "s1e1a": (9, 2, 3 << 20, EL1H),
    "Op2 4": (8, 4, 3 << 20, EL1H),
    "CRm 9, Op2 7": (9, 7, 3 << 20, EL1H),
}


@pytest.mark.parametrize("name", NO_TRANSLATIONS)
def test_any_other_at_is_undefined(name: str) -> None:
    crm, op2, mmfr1, pstate = NO_TRANSLATIONS[name]
    assert translated(crm, op2, pstate, mmfr1) is None


@pytest.mark.parametrize("crm", [8, 9])
def test_at_of_el0_is_undefined(crm: int) -> None:
    with guest((msr(1, 0, 7, crm, 0, 0), REPORT)) as it:
        it.vcpu.regs.pstate = EL0
        run(it, CODE)
        assert (it.vcpu.regs.pc, it.vcpu.regs.esr_el1) == (VECTORS + 0x400, 0x200_0000)
