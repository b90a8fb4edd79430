# SPDX-License-Identifier: Apache-2.0
"""What a guest's MRS and MSR do where KVM_GET_ONE_REG and KVM_SET_ONE_REG do something else (sys_regs.c).

The kernel's tables have both for a register: .access is the guest's, .get_user and .set_user are user space's, which
are system_access.py here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

from kvmipa.backend.emulated import feature_registers, system_access
from kvmipa.backend.emulated.counters import FREQUENCY
from kvmipa.backend.emulated.system_registers import LOW_WORD, SAME
from kvmipa.system_registers import number, number_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from kvmipa.backend.emulated.vcpu import Vcpu

    Read = Callable[[Vcpu], int]
    Write = Callable[[Vcpu, int], None]

_U64: Final = (1 << 64) - 1


class Access(NamedTuple):
    """What MRS finds and MSR does; None: as for user space."""

    read: Read | None = None
    write: Write | None = None


def _stored(vcpu: Vcpu, register: int) -> int:
    return vcpu.registers.read_system(register) or 0


def _ignore(_vcpu: Vcpu, _value: int) -> None:
    pass


# ------------------------------------------------------------------------------------------------ the OS lock

_OSLAR: Final = number_of("OSLAR_EL1")
_OSLSR: Final = number_of("OSLSR_EL1")
_OSLK: Final = 0x2


def _lock(vcpu: Vcpu, value: int) -> None:
    """OSLAR_EL1: its lowest bit is OSLSR_EL1.OSLK, where KVM keeps that (trap_oslar_el1)."""
    if vcpu.vm.behaviour.os_lock_is_kept:
        locked = _OSLK if value & 1 else 0
        vcpu.registers.write_system(_OSLSR, _stored(vcpu, _OSLSR) & ~_OSLK | locked)


# ------------------------------------------------------------------------------------------------ timers and counters

_VIRTUAL_COUNT: Final = number_of("CNTVCT_EL0")
_PHYSICAL_COUNT: Final = number_of("CNTPCT_EL0")
_FREQUENCY: Final = number(3, 3, 14, 0, 0)

# CNT*_CTL_EL0: ENABLE and IMASK, and ISTATUS.
_CONTROLS: Final = 0x3
_STATUS: Final = 0x4
_SIGN: Final = 1 << 31


def _timer(crm: int, *, virtual: bool) -> dict[int, Access]:
    """CNT*_TVAL_EL0, CNT*_CTL_EL0 and CNT*_CVAL_EL0: TVAL is a view of CVAL (kvm_arm_timer_read)."""
    value, control, compare = (number(3, 3, 14, crm, op2) for op2 in range(3))

    def read_value(vcpu: Vcpu) -> int:
        return _stored(vcpu, compare) - system_access.count(vcpu, virtual=virtual) & LOW_WORD

    def write_value(vcpu: Vcpu, written: int) -> None:
        signed = (written & LOW_WORD ^ _SIGN) - _SIGN
        vcpu.registers.write_system(compare, system_access.count(vcpu, virtual=virtual) + signed & _U64)

    def read_control(vcpu: Vcpu) -> int:
        """ISTATUS counts where the timer is enabled."""
        stored = _stored(vcpu, control)
        is_due = system_access.count(vcpu, virtual=virtual) >= _stored(vcpu, compare)
        return stored & _CONTROLS | (_STATUS if stored & 1 and is_due else 0)

    return {
        value: Access(read_value, write_value),
        control: Access(read_control, lambda vcpu, written: vcpu.registers.write_system(control, written & _CONTROLS)),
        compare: Access(
            lambda vcpu: _stored(vcpu, compare), lambda vcpu, written: vcpu.registers.write_system(compare, written)
        ),
    }


# ------------------------------------------------------------------------------------------------ the PMU

_PMCR: Final = number_of("PMCR_EL0")
_PMSELR: Final = number_of("PMSELR_EL0")
_PMSWINC: Final = number_of("PMSWINC_EL0")
_PMUSERENR: Final = number_of("PMUSERENR_EL0")
_PMCCNTR: Final = number_of("PMCCNTR_EL0")

# PMCR_EL0: what is written; P and C, which reset counters and stay 0; LC, which is 1 without AArch32; N.
_WRITTEN: Final = 0xFF
_EVENTS_RESET, _CYCLES_RESET, _LONG_CYCLES = 1 << 1, 1 << 2, 1 << 6
_RESETS: Final = _EVENTS_RESET | _CYCLES_RESET
_N: Final = 11
_CYCLES: Final = 1 << 31
_SELECTED: Final = 0x1F
_ENABLES: Final = 0xF


def _control(vcpu: Vcpu) -> int:
    return system_access.get(vcpu, system_access.table(vcpu).registers[_PMCR])


def _write_control(vcpu: Vcpu, value: int) -> None:
    """access_pmcr, kvm_pmu_handle_pmcr."""
    kept = _control(vcpu) & ~_WRITTEN
    long = 0 if feature_registers.has_aarch32(vcpu.vm) else _LONG_CYCLES
    write = vcpu.registers.write_system
    write(_PMCR, kept | value & _WRITTEN & ~_RESETS | long)
    if value & _CYCLES_RESET:
        write(_PMCCNTR, 0)
    if value & _EVENTS_RESET:
        for index in range(kept >> _N & 0x1F):
            write(number_of(f"PMEVCNTR{index}_EL0"), 0)


def _counters(vcpu: Vcpu) -> int:
    """A bit for each counter that the guest has, and bit 31 for the cycles (kvm_pmu_valid_counter_mask)."""
    return (1 << (_control(vcpu) >> _N & 0x1F)) - 1 | _CYCLES


def _event_type(register: int) -> Access:
    """PMEVTYPERn_EL0: what is written is the event's and the filter's bits (kvm_pmu_set_counter_event_type)."""

    def write(vcpu: Vcpu, value: int) -> None:
        vcpu.registers.write_system(register, value & system_access.event_mask(vcpu))

    return Access(write=write)


def _counter_bits(register: int, *, clears: bool) -> Access:
    """PMCNTENSET_EL0 and the like: ones set or clear bits, on every release (access_pmcnten and so on)."""

    def read(vcpu: Vcpu) -> int:
        stored = _stored(vcpu, register)
        # What 5.10 has at first is of no counter.
        return stored if vcpu.vm.behaviour.hides_absent_pmu else stored & _counters(vcpu)

    def write(vcpu: Vcpu, value: int) -> None:
        current, bits = _stored(vcpu, register), value & _counters(vcpu)
        vcpu.registers.write_system(register, current & ~bits if clears else current | bits)

    return Access(read, write)


def _pmu() -> dict[int, Access]:
    set_or_clear = {register: _counter_bits(register, clears=False) for register in SAME.values()}
    set_or_clear |= {clear: _counter_bits(register, clears=True) for clear, register in SAME.items()}
    event_types = map(number_of, ("PMCCFILTR_EL0", *(f"PMEVTYPER{index}_EL0" for index in range(31))))
    return (
        set_or_clear
        | {register: _event_type(register) for register in event_types}
        | {
            _PMCR: Access(lambda vcpu: _control(vcpu) & ~_RESETS, _write_control),
            _PMSELR: Access(lambda vcpu: _stored(vcpu, _PMSELR) & _SELECTED),
            _PMSWINC: Access(write=_ignore),
            _PMUSERENR: Access(
                lambda vcpu: _stored(vcpu, _PMUSERENR) & _ENABLES,
                lambda vcpu, value: vcpu.registers.write_system(_PMUSERENR, value & _ENABLES),
            ),
        }
    )


_AS_FOR_USER_SPACE: Final = Access()


def of(register: int) -> Access:
    """What is the guest's own of a register."""
    return _TABLE.get(register, _AS_FOR_USER_SPACE)


_TABLE: Final[dict[int, Access]] = {
    number_of("ACTLR_EL1"): Access(write=_ignore),
    _OSLAR: Access(write=_lock),
    _VIRTUAL_COUNT: Access(lambda vcpu: system_access.count(vcpu, virtual=True)),
    _PHYSICAL_COUNT: Access(lambda vcpu: system_access.count(vcpu, virtual=False)),
    _FREQUENCY: Access(lambda _vcpu: FREQUENCY),
    **_timer(2, virtual=False),
    **_timer(3, virtual=True),
    **_pmu(),
}
