# SPDX-License-Identifier: Apache-2.0
"""A vCPU's system registers as KVM_GET_ONE_REG and KVM_SET_ONE_REG reach them (arch/arm64/kvm/sys_regs.c)."""

from __future__ import annotations

from errno import EBUSY, EINVAL
from functools import lru_cache
from typing import TYPE_CHECKING, Final

from kvmipa import abi
from kvmipa.backend.emulated import feature_registers, system_registers
from kvmipa.backend.emulated.counters import now
from kvmipa.backend.emulated.feature_registers import CTR, DFR0, PFR0
from kvmipa.backend.emulated.requests import RefusedError
from kvmipa.backend.emulated.system_registers import LOW_WORD, SAME, UNKNOWN, Conditions, Register, Table
from kvmipa.backend.emulated.vcpu_attributes import PMU_COUNTERS
from kvmipa.id_registers import field
from kvmipa.system_registers import number_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from kvmipa.backend.emulated.host import HostProfile
    from kvmipa.backend.emulated.vcpu import Vcpu

_U64: Final = (1 << 64) - 1


_MMFR3: Final = number_of("ID_AA64MMFR3_EL1")
_PFR2: Final = number_of("ID_AA64PFR2_EL1")
_PMCR: Final = number_of("PMCR_EL0")
_CYCLES: Final = 1 << 31

# PMCR_EL0: the bits that are written, N, and LC, which is 1 without AArch32. Before 6.12 KVM resets it to the host's
# upper half with a pattern below: its IMP and IDCODE are those of QEMU's CPUs.
_PMCR_MASK: Final = 0xFF
_PMCR_N: Final = 11
_PMCR_LC: Final = 0x40
_OLD_PMCR: Final = 0x4101_00AC

# PMEVTYPERn_EL0: P and U, and what it has with EL2 and EL3.
_EVENT_TYPE: Final = 0xC000_0000
_EVENT_TYPE_EL2: Final = 0x0800_0000
_EVENT_TYPE_EL3: Final = 0x3400_0000
_LONG_COUNTERS: Final = 6

# OSLSR_EL1.OSLK.
_OS_LOCKED: Final = 0x2
# CLIDR_EL1: RES0; LoC, LoUU and LoUIS.
_CLIDR_RES0: Final = _U64 << 47 & _U64
_CTR_IDC: Final = 1 << 28

_TIMER_STATUS: Final = 0x4

# On a CPU with VHE, KVM_RUN puts a guest's EL1 registers into the CPU's, whether or not the guest gets to run. They
# come back with these bits: AFSR0_EL1 and AFSR1_EL1 are not there as a rule, and CSSELR_EL1 has four, where KVM does
# not keep that to itself.
NOT_OF_THE_CPU: Final = {number_of("AFSR0_EL1"): 0, number_of("AFSR1_EL1"): 0, number_of("CSSELR_EL1"): 0xF}


def conditions(vcpu: Vcpu) -> Conditions:
    """What decides on the registers of a vCPU."""
    ids = vcpu.registers.read_system
    mmfr3 = ids(_MMFR3) or 0
    return Conditions(
        pmu=vcpu.has_feature(abi.KVM_ARM_VCPU_PMU_V3),
        sve=vcpu.has_feature(abi.KVM_ARM_VCPU_SVE),
        pointer_authentication=vcpu.has_feature(abi.KVM_ARM_VCPU_PTRAUTH_ADDRESS),
        mte=vcpu.vm.mte,
        tcr2=bool(mmfr3 & 0xF),
        sctlr2=bool(mmfr3 >> 4 & 0xF),
        permission_indirection=bool(mmfr3 >> 8 & 0xF),
        permission_overlay=bool(mmfr3 >> 16 & 0xF),
        fpmr=bool((ids(_PFR2) or 0) >> 32 & 0xF),
    )


def table(vcpu: Vcpu) -> Table:
    """The system registers of a vCPU."""
    return system_registers.table(vcpu.vm.profile.release, conditions(vcpu))


# ------------------------------------------------------------------------------------------------ reset


def reset(vcpu: Vcpu, *, stay: tuple[int, ...] = ()) -> None:
    """What KVM_ARM_VCPU_INIT makes of a vCPU's system registers, but for MPIDR_EL1 and those that stay."""
    vm, file = vcpu.vm, vcpu.registers
    vcpu.needs_loading = True
    shown = feature_registers.shown(vcpu)
    if vm.behaviour.id_registers_of_vm:
        shared = vm.vcpu_settings.id_registers
        if not shared:
            shared.update(shown)
        file.shared = shared
    else:
        file.system.update(shown)
        feature_registers.tell_mitigations(vcpu)
    kept = {register: file.system[register] for register in stay}
    file.system.update(_reset_values(vm.profile, conditions(vcpu)))
    file.system.update(kept)
    if vcpu.has_feature(abi.KVM_ARM_VCPU_PMU_V3) and vm.behaviour.hides_absent_pmu:
        _reset_pmu(vcpu)


@lru_cache(maxsize=64)
def _reset_values(host: HostProfile, of: Conditions) -> dict[int, int]:
    """The values that a host's vCPUs have in common."""
    of_host = feature_registers.host_values(host)
    found = {}
    for register in system_registers.table(host.release, of).registers.values():
        if register.number in system_registers.IDENTIFICATION or register.kind in _NOT_RESET:
            continue
        if register.number == CTR and host.behaviour.id_registers_of_vm:
            continue
        if isinstance(register.reset, int):
            found[register.number] = register.reset
        elif register.reset == system_registers.HOST:
            found[register.number] = of_host.get(register.number, 0)
        elif register.reset == system_registers.OLD_CONTROL:
            found[register.number] = of_host.get(_PMCR) or _OLD_PMCR | PMU_COUNTERS << _PMCR_N
    if host.behaviour.timers_are_registers:
        found |= dict.fromkeys(_COMPARATORS, 0)
    for control in _TIMER_CONTROLS:
        found[control] = 0
    return found


# Counters go on, and so do their comparators until 7.3.
_NOT_RESET: Final = {system_registers.TIMER_COUNT, system_registers.TIMER_COMPARE, system_registers.TIMER_CONTROL}
_COMPARATORS: Final = tuple(number_of(name) for name in ("CNTV_CVAL_EL0", "CNTP_CVAL_EL0"))
_TIMER_CONTROLS: Final = tuple(number_of(name) for name in ("CNTV_CTL_EL0", "CNTP_CTL_EL0"))


def _reset_pmu(vcpu: Vcpu) -> None:
    """Registers that depend on what the VM's PMU is."""
    system = vcpu.registers.system
    counters, events = _pmu_numbers(vcpu.vm.profile.release)
    system.update(dict.fromkeys(counters, UNKNOWN & _counter_mask(vcpu)))
    system.update(dict.fromkeys(events, UNKNOWN & event_mask(vcpu)))
    if vcpu.vm.behaviour.id_registers_of_vm:
        system[_PMCR] = 0 if feature_registers.has_aarch32(vcpu.vm) else _PMCR_LC


@lru_cache(maxsize=64)
def _pmu_numbers(release: str) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Registers with a bit for each counter, and those with an event."""
    registers = system_registers.table(release, Conditions(pmu=True)).registers.values()
    kinds = (system_registers.OF_COUNTERS, system_registers.OF_EVENT)
    counters, events = (tuple(it.number for it in registers if it.reset == kind) for kind in kinds)
    return tuple(SAME.get(number, number) for number in counters), events


def _counters(vcpu: Vcpu) -> int:
    chosen = vcpu.vm.vcpu_settings.pmu_counters
    return PMU_COUNTERS if chosen is None else chosen


def _counter_mask(vcpu: Vcpu) -> int:
    """A bit for each counter, and bit 31 for the cycles."""
    return (1 << _counters(vcpu)) - 1 | _CYCLES


def event_mask(vcpu: Vcpu) -> int:
    """kvm_pmu_evtyper_mask, with the VM's ID registers."""
    read = vcpu.registers.read_system
    pfr0, version = read(PFR0) or 0, field("ID_AA64DFR0_EL1", "PMUVer", read(DFR0) or 0)
    mask = _EVENT_TYPE | (0 if not version else 0x3FF if version == 1 else 0xFFFF)
    if not vcpu.vm.behaviour.pmcr_of_vm:
        return mask | _EVENT_TYPE_EL2
    if field("ID_AA64PFR0_EL1", "EL2", pfr0):
        mask |= _EVENT_TYPE_EL2
    if field("ID_AA64PFR0_EL1", "EL3", pfr0):
        mask |= _EVENT_TYPE_EL3
    return mask


# ------------------------------------------------------------------------------------------------ get and set


def get(vcpu: Vcpu, register: Register) -> int:
    """The value of a register."""
    reader = _READERS.get(register.kind)
    return reader(vcpu, register) if reader else _stored(vcpu, register)


def set(vcpu: Vcpu, register: Register, value: int) -> None:
    """Change a register; RefusedError."""
    writer = _WRITERS.get(register.kind)
    if writer:
        writer(vcpu, register, value)
    else:
        _store(vcpu, register, value)


def _stored(vcpu: Vcpu, register: Register) -> int:
    return vcpu.registers.read_system(SAME.get(register.number, register.number)) or 0


def _store(vcpu: Vcpu, register: Register, value: int) -> None:
    vcpu.needs_loading |= register.number in NOT_OF_THE_CPU
    vcpu.registers.write_system(SAME.get(register.number, register.number), value)


def _nothing(vcpu: Vcpu, register: Register) -> int:
    return 0


def _ignore(vcpu: Vcpu, register: Register, value: int) -> None:
    pass


def _set_invariant(vcpu: Vcpu, register: Register, value: int) -> None:
    feature_registers.set_invariant(vcpu, register.number, value)


def _set_features(vcpu: Vcpu, register: Register, value: int) -> None:
    feature_registers.set_feature_register(vcpu, register.number, value)


def _set_os_lock(vcpu: Vcpu, register: Register, value: int) -> None:
    assert isinstance(register.reset, int)
    if (value ^ register.reset) & ~_OS_LOCKED:
        raise RefusedError(EINVAL)
    _store(vcpu, register, value)


def _set_clidr(vcpu: Vcpu, register: Register, value: int) -> None:
    """set_clidr: a cache that has to be cleaned has to be there where the host's has to be."""
    needs_no_cleaning = not value >> 24 & 7 or (not value >> 21 & 7 and not value >> 27 & 7)
    if value & _CLIDR_RES0 or (needs_no_cleaning and not vcpu.vm.host_registers[CTR] & _CTR_IDC):
        raise RefusedError(EINVAL)
    _store(vcpu, register, value)


def _get_control(vcpu: Vcpu, register: Register) -> int:
    return _stored(vcpu, register) & ~(0x1F << _PMCR_N) | _counters(vcpu) << _PMCR_N


def _set_control(vcpu: Vcpu, register: Register, value: int) -> None:
    """set_pmcr: fewer counters, if the VM has not run."""
    counters = value >> _PMCR_N & 0x1F
    if not vcpu.vm.has_run and counters <= PMU_COUNTERS:
        vcpu.vm.vcpu_settings.pmu_counters = counters
    lc = 0 if feature_registers.has_aarch32(vcpu.vm) else _PMCR_LC
    _store(vcpu, register, value & _PMCR_MASK | lc)


def _get_counters(vcpu: Vcpu, register: Register) -> int:
    value = _stored(vcpu, register)
    return value & _counter_mask(vcpu) if vcpu.vm.behaviour.pmu_bits_are_values else value


def _set_counters(vcpu: Vcpu, register: Register, value: int) -> None:
    """6.12 sets or clears bits, as the guest's write would; before and after it is the value itself."""
    known = vcpu.vm.behaviour
    if known.id_registers_of_vm:
        value &= _counter_mask(vcpu)
        if not known.pmu_bits_are_values:
            current = _stored(vcpu, register)
            value = current & ~value if register.kind == system_registers.CLEAR else current | value
    _store(vcpu, register, value)


def _get_counter(vcpu: Vcpu, register: Register) -> int:
    value = _stored(vcpu, register)
    version = field("ID_AA64DFR0_EL1", "PMUVer", vcpu.registers.read_system(DFR0) or 0)
    has_long_ones = vcpu.vm.behaviour.id_registers_of_vm and version >= _LONG_COUNTERS
    return value if has_long_ones else value & LOW_WORD


def _set_slots(vcpu: Vcpu, register: Register, value: int) -> None:
    """PMMIR_EL1.SLOTS: the host's, or 0 for what it once was (set_pmmir)."""
    current = _stored(vcpu, register)
    if value & ~0xFF:
        raise RefusedError(EINVAL)
    if vcpu.vm.has_run and value != current:
        raise RefusedError(EBUSY)
    if value not in {0, current}:
        raise RefusedError(EINVAL)
    _store(vcpu, register, value)


# ------------------------------------------------------------------------------------------------ timers


def _is_virtual(register: Register) -> bool:
    return register.name.startswith("CNTV")


def count(vcpu: Vcpu, *, virtual: bool) -> int:
    """The guest's counter, in ticks of counters.FREQUENCY."""
    vm = vcpu.vm
    offset = vm.counter_offset
    if offset is None:
        offset = vm.vcpu_settings.virtual_offset if virtual else vm.vcpu_settings.physical_offset
    return now() - offset & _U64


def _get_count(vcpu: Vcpu, register: Register) -> int:
    return count(vcpu, virtual=_is_virtual(register))


def _set_count(vcpu: Vcpu, register: Register, value: int) -> None:
    """Of all the VM's vCPUs; what KVM_ARM_SET_COUNTER_OFFSET chose stays."""
    settings = vcpu.vm.vcpu_settings
    if _is_virtual(register):
        settings.virtual_offset = now() - value
    elif vcpu.vm.behaviour.physical_timer_registers:
        settings.physical_offset = now() - value


def _comparenumber_of(register: Register) -> int:
    """The comparator's own number: of the virtual timer, the id is the counter's."""
    return system_registers.SWAPPED.get(register.number, register.number)


def _get_compare(vcpu: Vcpu, register: Register) -> int:
    return vcpu.registers.read_system(_comparenumber_of(register)) or 0


def _set_compare(vcpu: Vcpu, register: Register, value: int) -> None:
    vcpu.registers.write_system(_comparenumber_of(register), value)


def _get_timer_control(vcpu: Vcpu, register: Register) -> int:
    """CNT*_CTL_EL0; until 7.3 with ISTATUS, whether or not the timer is enabled."""
    value = _stored(vcpu, register)
    if vcpu.vm.behaviour.timers_are_registers:
        return value
    compare = vcpu.registers.read_system(number_of(register.name.replace("CTL", "CVAL"))) or 0
    return value | (_TIMER_STATUS if count(vcpu, virtual=_is_virtual(register)) >= compare else 0)


def _set_timer_control(vcpu: Vcpu, register: Register, value: int) -> None:
    if not vcpu.vm.behaviour.timers_are_registers:
        value &= LOW_WORD
    _store(vcpu, register, value & ~_TIMER_STATUS)


_READERS: Final[dict[str, Callable[[Vcpu, Register], int]]] = {
    system_registers.NOTHING: _nothing,
    system_registers.CONTROL: _get_control,
    system_registers.SET: _get_counters,
    system_registers.CLEAR: _get_counters,
    system_registers.COUNTER: _get_counter,
    system_registers.TIMER_COUNT: _get_count,
    system_registers.TIMER_COMPARE: _get_compare,
    system_registers.TIMER_CONTROL: _get_timer_control,
}
_WRITERS: Final[dict[str, Callable[[Vcpu, Register, int], None]]] = {
    system_registers.NOTHING: _ignore,
    system_registers.INVARIANT: _set_invariant,
    system_registers.FEATURES: _set_features,
    system_registers.OS_LOCK: _set_os_lock,
    system_registers.CLIDR: _set_clidr,
    system_registers.CONTROL: _set_control,
    system_registers.SET: _set_counters,
    system_registers.CLEAR: _set_counters,
    system_registers.SLOTS: _set_slots,
    system_registers.TIMER_COUNT: _set_count,
    system_registers.TIMER_COMPARE: _set_compare,
    system_registers.TIMER_CONTROL: _set_timer_control,
}
