# SPDX-License-Identifier: Apache-2.0
"""The system registers that KVM_GET_REG_LIST has: on which release, of which vCPU, and what is in them at first.

From the tables of arch/arm64/kvm/sys_regs.c, as real kernels answered (tests/data/registers): 5.10, 6.1, 6.12 and 7.3
are confirmed. Releases between them are taken for the earlier one of the two, and older ones for 5.10 [unverified].
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Final, NamedTuple

from kvmipa.backend.emulated.release import behaviour
from kvmipa.system_registers import ENCODINGS, number, number_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

# reset_unknown() in sys_regs.h.
UNKNOWN: Final = 0x1DE7_EC7E_DBAD_C0DE

LOW_WORD: Final = 0xFFFF_FFFF

# How a register is read and written: what is not PLAIN has functions in system_access.py.
PLAIN: Final = "plain"
INVARIANT: Final = "invariant"
FEATURES: Final = "features"
OS_LOCK: Final = "os lock"
CLIDR: Final = "clidr"
CONTROL: Final = "pmu control"
SET: Final = "pmu set"
CLEAR: Final = "pmu clear"
COUNTER: Final = "pmu counter"
SLOTS: Final = "pmu slots"
NOTHING: Final = "nothing"
TIMER_CONTROL: Final = "timer control"
TIMER_COUNT: Final = "timer count"
TIMER_COMPARE: Final = "timer compare"

# Where a reset value comes from, if it is not one number.
HOST: Final = "host"
AFFINITY: Final = "affinity"
OF_EVENT: Final = "event mask"
OF_COUNTERS: Final = "counter mask"
OLD_CONTROL: Final = "old control"


class Conditions(NamedTuple):
    """What of a vCPU, its VM and its host decides which registers it has."""

    pmu: bool = False
    sve: bool = False
    pointer_authentication: bool = False
    mte: bool = False
    tcr2: bool = False
    sctlr2: bool = False
    permission_indirection: bool = False
    permission_overlay: bool = False
    fpmr: bool = False


@dataclass(frozen=True)
class Row:
    """Registers that are alike: names, reset value or where it comes from.

    brought_by, ended_by: the fields of Behaviour that stand for the releases from which on, and before which, they are
    there.
    """

    names: str
    reset: int | str = 0
    kind: str = PLAIN
    needs: str = ""
    brought_by: str = ""
    ended_by: str = ""

    def known_to(self, release: str) -> bool:
        """Whether a release has them, on some vCPU."""
        known = behaviour(release)
        has_come = not self.brought_by or getattr(known, self.brought_by)
        return has_come and not (self.ended_by and getattr(known, self.ended_by))

    def registers(self) -> Iterator[Register]:
        """One by one."""
        for name in self.names.split():
            yield Register(name, number_of(name), self.reset, self.kind)


class Register(NamedTuple):
    """One register."""

    name: str
    number: int
    reset: int | str
    kind: str


def _each(name: str, count: int) -> str:
    return " ".join(name.format(index) for index in range(count))


_DEBUG: Final = " ".join(_each(name, 16) for name in ("DBGBVR{}_EL1", "DBGBCR{}_EL1", "DBGWVR{}_EL1", "DBGWCR{}_EL1"))
_KEYS: Final = " ".join(f"AP{key}KEYLO_EL1 AP{key}KEYHI_EL1" for key in ("IA", "IB", "DA", "DB", "GA"))
_PMU_SETS: Final = "PMINTENSET_EL1 PMCNTENSET_EL0 PMOVSSET_EL0"
_PMU_CLEARS: Final = "PMINTENCLR_EL1 PMCNTENCLR_EL0 PMOVSCLR_EL0"
_EVENT_COUNTERS: Final = _each("PMEVCNTR{}_EL0", 31)
_EVENT_TYPES: Final = _each("PMEVTYPER{}_EL0", 31)

# Each of PMINTENCLR_EL1 and so on shows the register that sets the same bits.
SAME: Final = {
    number_of(clear): number_of(set_) for clear, set_ in zip(_PMU_CLEARS.split(), _PMU_SETS.split(), strict=True)
}

ROWS: Final = (
    Row(_DEBUG),
    Row("MDCCINT_EL1 MDSCR_EL1 DBGVCR32_EL2"),
    Row("OSLSR_EL1", 0x8, OS_LOCK, brought_by="os_lock_is_kept"),
    Row("MIDR_EL1 REVIDR_EL1 AIDR_EL1", HOST, INVARIANT),
    Row("MPIDR_EL1", AFFINITY),
    Row("CLIDR_EL1", HOST, INVARIANT, ended_by="caches_are_made_up"),
    Row("CLIDR_EL1", HOST, CLIDR, brought_by="caches_are_made_up"),
    Row("CTR_EL0", HOST, INVARIANT, ended_by="id_registers_of_vm"),
    Row("CTR_EL0", HOST, FEATURES, brought_by="id_registers_of_vm"),
    Row("SCTLR_EL1", 0xC5_0078),
    Row("ACTLR_EL1 AMAIR_EL1", HOST),
    Row("CPACR_EL1 TCR_EL1 VBAR_EL1 DISR_EL1 CONTEXTIDR_EL1 CNTKCTL_EL1"),
    Row("TTBR0_EL1 TTBR1_EL1 AFSR0_EL1 AFSR1_EL1 ESR_EL1 FAR_EL1 PAR_EL1 MAIR_EL1", UNKNOWN),
    Row("TPIDR_EL1 TPIDR_EL0 TPIDRRO_EL0 CSSELR_EL1 DACR32_EL2 IFSR32_EL2", UNKNOWN),
    Row("FPEXC32_EL2", 0x700),
    Row("TCR2_EL1", brought_by="permission_registers", ended_by="registers_need_features"),
    Row("TCR2_EL1", needs="tcr2", brought_by="registers_need_features"),
    Row("SCTLR2_EL1", needs="sctlr2", brought_by="sctlr2_register"),
    Row("PIRE0_EL1 PIR_EL1", UNKNOWN, brought_by="permission_registers", ended_by="registers_need_features"),
    Row("PIRE0_EL1 PIR_EL1", UNKNOWN, needs="permission_indirection", brought_by="registers_need_features"),
    Row("POR_EL1 POR_EL0", UNKNOWN, needs="permission_overlay", brought_by="permission_registers"),
    Row("FPMR", needs="fpmr", brought_by="permission_registers"),
    Row("RGSR_EL1 GCR_EL1 TFSR_EL1 TFSRE0_EL1", UNKNOWN, needs="mte"),
    Row("ZCR_EL1", needs="sve"),
    Row(_KEYS, UNKNOWN, needs="pointer_authentication"),
    # The PMU's, which 5.10 shows of every vCPU, and keeps as they are written.
    Row(f"{_PMU_SETS} {_PMU_CLEARS}", UNKNOWN, SET, ended_by="hides_absent_pmu"),
    Row("PMCR_EL0", OLD_CONTROL, ended_by="hides_absent_pmu"),
    Row(f"PMSWINC_EL0 PMSELR_EL0 PMCCNTR_EL0 {_EVENT_COUNTERS} {_EVENT_TYPES}", UNKNOWN, ended_by="hides_absent_pmu"),
    Row("PMUSERENR_EL0 PMCCFILTR_EL0", ended_by="hides_absent_pmu"),
    Row(_PMU_SETS, OF_COUNTERS, SET, "pmu", brought_by="hides_absent_pmu"),
    Row(_PMU_CLEARS, OF_COUNTERS, CLEAR, "pmu", brought_by="hides_absent_pmu"),
    Row("PMCR_EL0", OLD_CONTROL, needs="pmu", brought_by="hides_absent_pmu", ended_by="pmcr_of_vm"),
    Row("PMCR_EL0", 0, CONTROL, "pmu", brought_by="pmcr_of_vm"),
    Row("PMSWINC_EL0", 0, NOTHING, "pmu", brought_by="hides_absent_pmu"),
    Row("PMMIR_EL1", HOST, SLOTS, "pmu", brought_by="pmu_slots_register"),
    Row("PMSELR_EL0", UNKNOWN & 0x1F, needs="pmu", brought_by="hides_absent_pmu"),
    Row("PMCCNTR_EL0", UNKNOWN, needs="pmu", brought_by="hides_absent_pmu"),
    Row(_EVENT_COUNTERS, UNKNOWN & LOW_WORD, COUNTER, "pmu", brought_by="hides_absent_pmu"),
    Row(_EVENT_TYPES, UNKNOWN & 0xC800_FFFF, needs="pmu", brought_by="hides_absent_pmu", ended_by="pmcr_of_vm"),
    Row(_EVENT_TYPES, OF_EVENT, needs="pmu", brought_by="pmcr_of_vm"),
    Row("PMUSERENR_EL0 PMCCFILTR_EL0", needs="pmu", brought_by="hides_absent_pmu"),
    # Before 7.3 the timers' are a group of their own: TIMERS.
    Row("CNTP_CTL_EL0 CNTV_CTL_EL0", 0, TIMER_CONTROL, brought_by="timers_are_registers"),
    Row("CNTPCT_EL0 CNTV_CVAL_EL0", 0, TIMER_COUNT, brought_by="timers_are_registers"),
    Row("CNTP_CVAL_EL0 CNTVCT_EL0", 0, TIMER_COMPARE, brought_by="timers_are_registers"),
)

# ID_PFR0_EL1 and on: Op0 3, Op1 0, CRn 0, CRm 1 to 7, with those in between that are reserved, and 0.
IDENTIFICATION: Final = range(number(3, 0, 0, 1, 0), number(3, 0, 0, 7, 7) + 1)
_ID_NAMES: Final = {number(*encoding): name for name, encoding in ENCODINGS.items()}

# KVM has the ids of CNTV_CVAL_EL0 and CNTVCT_EL0 the wrong way round, and means the other one by each
# (uapi/asm/kvm.h: KVM_REG_ARM_TIMER_CNT).
_COMPARE, _COUNT = map(number_of, ("CNTV_CVAL_EL0", "CNTVCT_EL0"))
SWAPPED: Final = {_COMPARE: _COUNT, _COUNT: _COMPARE}

# The timers' in their order, where they are a group of their own.
_TIMERS: Final = (
    Row("CNTV_CTL_EL0", 0, TIMER_CONTROL, ended_by="timers_are_registers"),
    Row("CNTV_CVAL_EL0", 0, TIMER_COUNT, ended_by="timers_are_registers"),
    Row("CNTVCT_EL0", 0, TIMER_COMPARE, ended_by="timers_are_registers"),
    Row("CNTP_CTL_EL0", 0, TIMER_CONTROL, brought_by="physical_timer_registers", ended_by="timers_are_registers"),
    Row("CNTPCT_EL0", 0, TIMER_COUNT, brought_by="physical_timer_registers", ended_by="timers_are_registers"),
    Row("CNTP_CVAL_EL0", 0, TIMER_COMPARE, brought_by="physical_timer_registers", ended_by="timers_are_registers"),
)

# Every register that some vCPU has.
NUMBERS: Final = frozenset(register.number for row in (*ROWS, *_TIMERS) for register in row.registers()).union(
    IDENTIFICATION
)

# What KVM keeps on its own, and lists first, until 7.3 (invariant_sys_regs).
_LISTED_FIRST: Final = frozenset({INVARIANT})


class Table(NamedTuple):
    """A vCPU's system registers by number, and in the order of KVM_GET_REG_LIST: the timers', then the others'."""

    registers: dict[int, Register]
    timers: tuple[Register, ...]
    others: tuple[Register, ...]


@lru_cache(maxsize=64)
def table(release: str, conditions: Conditions) -> Table:
    """The registers of a vCPU.

    >>> len(table("5.10", Conditions()).others), len(table("6.1", Conditions()).others)
    (227, 154)
    """
    found = list(_registers(ROWS, release, conditions))
    found += [Register(_ID_NAMES.get(id_, f"{id_:#x}"), id_, HOST, FEATURES) for id_ in IDENTIFICATION]
    timers = tuple(_registers(_TIMERS, release, conditions))
    by_number = sorted(found, key=lambda register: SWAPPED.get(register.number, register.number))
    if not behaviour(release).invariants_are_in_order:
        by_number.sort(key=lambda register: register.kind not in _LISTED_FIRST)
    return Table({it.number: it for it in (*timers, *by_number)}, timers, tuple(by_number))


def _registers(rows: Iterable[Row], release: str, conditions: Conditions) -> Iterator[Register]:
    """The registers of those rows that a release and a vCPU have."""
    for row in rows:
        if row.known_to(release) and (not row.needs or getattr(conditions, row.needs)):
            yield from row.registers()
