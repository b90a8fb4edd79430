# SPDX-License-Identifier: Apache-2.0
"""Attributes of vCPUs: PMU, timers, stolen time (kernel-device-spec 3.1 to 3.3)."""

from __future__ import annotations

from errno import EBUSY, EEXIST, EINVAL, ENODEV, ENXIO
from struct import Struct
from typing import TYPE_CHECKING, Final

from kvmipa import abi
from kvmipa.backend.emulated import user_memory
from kvmipa.backend.emulated.device_attributes import Group
from kvmipa.backend.emulated.vcpu_settings import TIMER_PPIS
from kvmipa.backend.emulated.vgic.frames import UNDEFINED
from kvmipa.backend.emulated.vgic.limits import FIRST_PPI, PRIVATE_IRQS
from kvmipa.id_registers import field

if TYPE_CHECKING:
    from collections.abc import Callable

    from kvmipa.backend.emulated.vcpu import Vcpu

PMU_IRQ: Final = abi.KVM_ARM_VCPU_PMU_V3_IRQ
PMU_INIT: Final = abi.KVM_ARM_VCPU_PMU_V3_INIT
PMU_FILTER: Final = abi.KVM_ARM_VCPU_PMU_V3_FILTER
PMU_SET_PMU: Final = abi.KVM_ARM_VCPU_PMU_V3_SET_PMU
PMU_SET_NR_COUNTERS: Final = abi.KVM_ARM_VCPU_PMU_V3_SET_NR_COUNTERS
# VGIC_MAX_SPI + 1.
_BEHIND_SPIS: Final = 1020
_FILTER: Final = Struct("=HHB3x")
_FILTER_ACTIONS: Final = 2


def _s32(address: int) -> int:
    return user_memory.read_number(address, 4, signed=True)


def _is_ppi(number: int) -> bool:
    return FIRST_PPI <= number < PRIVATE_IRQS


# ------------------------------------------------------------------------------------------------ PMU


def _pmu_attributes(vcpu: Vcpu) -> int:
    """How many there are."""
    known = vcpu.vm.behaviour
    return 3 + known.pmu_is_chosen + (known.pmu_is_chosen and known.pmu_counters_are_chosen)


def _has_pmu(vcpu: Vcpu) -> bool:
    """Since 6.12 one vCPU's feature is every vCPU's, initialised or not (kvm_vcpu_has_pmu)."""
    if vcpu.vm.behaviour.vcpu_features_of_vm:
        return bool((vcpu.vm.vcpu_settings.features or 0) >> abi.KVM_ARM_VCPU_PMU_V3 & 1)
    return vcpu.has_feature(abi.KVM_ARM_VCPU_PMU_V3)


def _set_pmu(vcpu: Vcpu, attr: int, address: int) -> int:
    if not _has_pmu(vcpu):
        return -ENODEV
    if vcpu.pmu_initialised:
        return -EBUSY
    setter = _PMU_SETTERS.get(attr) if attr < _pmu_attributes(vcpu) else None
    return setter(vcpu, address) if setter else -ENXIO


def _set_pmu_irq(vcpu: Vcpu, address: int) -> int:
    """A PPI is the same one for all vCPUs, an SPI another one for each."""
    if vcpu.vm.vgic is None:
        return -EINVAL
    number = _s32(address)
    if not FIRST_PPI <= number < _BEHIND_SPIS:
        return -EINVAL
    others = {other.pmu_irq for other in vcpu.vm.vcpus if other.pmu_irq}
    if others - {number} if _is_ppi(number) else number in others:
        return -EINVAL
    if vcpu.pmu_irq:
        return -EBUSY
    vcpu.pmu_irq = number
    return 0


def _init_pmu(vcpu: Vcpu, _address: int) -> int:
    vm = vcpu.vm
    if vm.behaviour.pmu_counters_are_chosen and not vm.vcpu_settings.has_pmu:
        return -ENXIO
    if vm.vgic is not None:
        if not vm.vgic.initialised:
            return -ENODEV
        if not vcpu.pmu_irq:
            return -ENXIO
        # kvm_vgic_set_owner: an SPI that the vGIC does not have.
        if vcpu.pmu_irq >= vm.vgic.nr_irqs:
            return -EINVAL
    vcpu.pmu_initialised = True
    return 0


def _filter_pmu(vcpu: Vcpu, address: int) -> int:
    """Events that are allowed (0) or denied (1); PMUv3 has 10 bits of them, 16 since ARMv8.1."""
    base, count, action = _FILTER.unpack(user_memory.read(address, _FILTER.size))
    version = field("ID_AA64DFR0_EL1", "PMUVer", vcpu.vm.profile.id_aa64dfr0_el1)
    if base + count > (1 << 10 if version == 1 else 1 << 16) or action >= _FILTER_ACTIONS:
        return -EINVAL
    known = vcpu.vm.behaviour
    return -ENXIO if known.pmu_counters_are_chosen and not vcpu.vm.vcpu_settings.has_pmu else 0


def _choose_pmu(vcpu: Vcpu, address: int) -> int:
    """By perf's number of it, which depends on what else the kernel has; it is that of Debian's kernels under QEMU."""
    number = PMU_TYPE if vcpu.vm.behaviour.pmu_type_is_10 else OLD_PMU_TYPE
    if _s32(address) != number:
        return -ENXIO
    vcpu.vm.vcpu_settings.has_pmu = True
    return 0


def _set_counters(vcpu: Vcpu, address: int) -> int:
    number = _s32(address)
    if not vcpu.vm.vcpu_settings.has_pmu or not 0 <= number <= PMU_COUNTERS:
        return -EINVAL
    return 0


# PMCR_EL0.N of QEMU's CPUs, of Arm's Cortex-A53, A57 and later ones.
PMU_COUNTERS: Final = 6
# /sys/bus/event_source/devices/armv8_pmuv3*/type. Perf numbers its PMUs as they are registered, so that this depends on
# what else a kernel has: these are an assumption, true of Debian's 6.12 and 7.3, and 6.1, under QEMU.
PMU_TYPE: Final = 10
OLD_PMU_TYPE: Final = 8

_PMU_SETTERS: Final[dict[int, Callable[[Vcpu, int], int]]] = {
    PMU_IRQ: _set_pmu_irq,
    PMU_INIT: _init_pmu,
    PMU_FILTER: _filter_pmu,
    PMU_SET_PMU: _choose_pmu,
    PMU_SET_NR_COUNTERS: _set_counters,
}


def _get_pmu(vcpu: Vcpu, attr: int, address: int) -> int:
    if attr != PMU_IRQ:
        return -ENXIO
    if vcpu.vm.vgic is None:
        return -EINVAL
    if not _has_pmu(vcpu):
        return -ENODEV
    if not vcpu.pmu_irq:
        return -ENXIO
    user_memory.write_number(address, vcpu.pmu_irq, 4)
    return 0


def _has_pmu_attr(vcpu: Vcpu, attr: int, _address: int) -> int:
    return 0 if attr < _pmu_attributes(vcpu) and _has_pmu(vcpu) else -ENXIO


# ------------------------------------------------------------------------------------------------ timers


def _timers(vcpu: Vcpu) -> int:
    """How many there are: since 6.4 a guest's EL2 has its own."""
    return len(TIMER_PPIS) if vcpu.vm.behaviour.timer_ppis_of_vm else 2


def _set_timer(vcpu: Vcpu, attr: int, address: int) -> int:
    """Of all vCPUs that there are, since 6.4 of those to come as well. That two are the same, only a run sees."""
    vm = vcpu.vm
    if vm.vgic is None:
        return -EINVAL
    number = _s32(address)
    if not _is_ppi(number):
        return -EINVAL
    if attr >= _timers(vcpu):
        return -ENXIO
    if vm.behaviour.timer_ppis_of_vm:
        vm.vcpu_settings.timer_ppis[attr] = number
    else:
        for each in vm.vcpus:
            each.timer_ppis[attr] = number
    return 0


def _get_timer(vcpu: Vcpu, attr: int, address: int) -> int:
    if attr >= _timers(vcpu):
        return -ENXIO
    ppis = vcpu.vm.vcpu_settings.timer_ppis if vcpu.vm.behaviour.timer_ppis_of_vm else vcpu.timer_ppis
    user_memory.write_number(address, ppis[attr], 4)
    return 0


def _has_timer(vcpu: Vcpu, attr: int, _address: int) -> int:
    return 0 if attr < _timers(vcpu) else -ENXIO


# ------------------------------------------------------------------------------------------------ stolen time


def _has_stolen_time(vcpu: Vcpu, attr: int, _address: int) -> int:
    supported = vcpu.vm.answers.get(abi.KVM_CAP_STEAL_TIME, 0)
    return 0 if attr == abi.KVM_ARM_VCPU_PVTIME_IPA and supported else -ENXIO


def _set_stolen_time(vcpu: Vcpu, attr: int, address: int) -> int:
    """Where the guest reads how long it did not run: 64 bytes in a slot that can be written (pvtime.c)."""
    if _has_stolen_time(vcpu, attr, address):
        return -ENXIO
    ipa = user_memory.read_number(address, 8)
    if ipa % 64:
        return -EINVAL
    if vcpu.stolen_time is not None:
        return -EEXIST
    slot = vcpu.vm.memslots.find(ipa >> vcpu.vm.page_shift)
    if slot is None or slot.readonly:
        return -EINVAL
    vcpu.stolen_time = ipa
    return 0


def _get_stolen_time(vcpu: Vcpu, attr: int, address: int) -> int:
    if _has_stolen_time(vcpu, attr, address):
        return -ENXIO
    ipa = UNDEFINED if vcpu.stolen_time is None else vcpu.stolen_time
    user_memory.write_number(address, ipa, 8)
    return 0


GROUPS: Final[dict[int, Group[Vcpu]]] = {
    abi.KVM_ARM_VCPU_PMU_V3_CTRL: Group(_set_pmu, _get_pmu, _has_pmu_attr),
    abi.KVM_ARM_VCPU_TIMER_CTRL: Group(_set_timer, _get_timer, _has_timer),
    abi.KVM_ARM_VCPU_PVTIME_CTRL: Group(_set_stolen_time, _get_stolen_time, _has_stolen_time),
}
