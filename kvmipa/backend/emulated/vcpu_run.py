# SPDX-License-Identifier: Apache-2.0
"""KVM_RUN, and the memory that it shares with user space (kernel-device-spec 2.9, 4.4; kvm_arch_vcpu_ioctl_run)."""

from __future__ import annotations

import mmap
from errno import EBUSY, EINTR, EINVAL, ENOEXEC, ENXIO, EPERM
from typing import TYPE_CHECKING, Final

from kvmipa import abi
from kvmipa.backend.emulated import feature_registers, vcpu_registers
from kvmipa.backend.emulated.requests import RefusedError
from kvmipa.backend.emulated.vcpu_settings import TIMER_PPIS
from kvmipa.backend.emulated.vgic.frames import UNDEFINED, overlap, wraps

if TYPE_CHECKING:
    from collections.abc import Callable

    from kvmipa.backend.emulated.cpu.processor import Processor
    from kvmipa.backend.emulated.vcpu import Vcpu
    from kvmipa.backend.emulated.vgic.controller import Vgic

# KVM_GET_VCPU_MMAP_SIZE: the run area, and the ring of coalesced MMIO.
AREA_PAGES: Final = 2

# PSTATE.nRW.
_AARCH32: Final = 0x10

_V2_DISTRIBUTOR_SIZE: Final = 0x1000
_V2_CPU_INTERFACE_SIZE: Final = 0x2000


def map_area(page_size: int) -> memoryview:
    """A new run area: zeros."""
    return memoryview(mmap.mmap(-1, AREA_PAGES * page_size))


def run(vcpu: Vcpu) -> int:
    """KVM_RUN: the exit reason, or -errno. The vCPU's mutex is held, and the VM's lock is not."""
    cpu = vcpu.cpu
    if not vcpu.initialised:
        return -ENOEXEC
    # Whoever kicks sets immediate_exit first: it is seen below, or the kick sees this.
    cpu.enter()
    try:
        if not vcpu.has_run:
            refused = _first_run(vcpu)
            if refused:
                return -refused
        completed = cpu.mmio.is_open and cpu.area.reason == abi.KVM_EXIT_MMIO and cpu.mmio.complete()
        if vcpu.needs_loading or not vcpu.has_run:
            with vcpu.vm.lock:
                vcpu_registers.loaded(vcpu)
                vcpu.has_run = True
        if cpu.area.immediate_exit:
            return -EINTR
        return _enter(vcpu, cpu, completed=completed)
    finally:
        cpu.leave()


def _enter(vcpu: Vcpu, cpu: Processor, *, completed: bool) -> int:
    area = cpu.area
    area.reason = abi.KVM_EXIT_UNKNOWN
    if area.flags and vcpu.vm.behaviour.run_flags:
        area.flags = 0
    if (exit := cpu.ring_exit()) is not None:
        return exit
    if not _has_state(vcpu):
        area.reason = abi.KVM_EXIT_FAIL_ENTRY
        return -EINVAL
    if completed and (exit := cpu.completion_exit()) is not None:
        return exit
    return cpu.run()


def _has_state(vcpu: Vcpu) -> bool:
    """Whether the CPU has the state that the guest is in: neither 32 bits nor EL2 are emulated."""
    if vcpu.has_feature(abi.KVM_ARM_VCPU_EL1_32BIT) or vcpu.has_feature(abi.KVM_ARM_VCPU_HAS_EL2):
        return False
    file = vcpu.registers
    return file.live is not None or not file.pstate & _AARCH32


# ------------------------------------------------------------------------------------------------ the first run


def _first_run(vcpu: Vcpu) -> int:
    """What is looked at once, 0 or an errno (kvm_arch_vcpu_run_pid_change, kvm_vcpu_first_run_init)."""
    vm = vcpu.vm
    with vm.lock:
        if vcpu.has_feature(abi.KVM_ARM_VCPU_SVE) and not vcpu.sve_finalised:
            return EPERM
        vgic = vm.vgic
        refused = 0
        if vgic is not None:
            refused = _map_resources(vgic)
            if refused and vm.behaviour.failed_run_kills:
                vm.is_dead = True
            elif refused:
                _tear_down(vgic)
        if not refused:
            feature_registers.freeze(vm)
            refused = _check_timers(vcpu) or _check_pmu(vcpu)
        if refused and not vm.behaviour.failed_run_kills:
            # has_run_once was set before: the next KVM_RUN of this vCPU looks at none of it.
            vcpu.has_run = True
        return refused


def _map_resources(vgic: Vgic) -> int:
    """kvm_vgic_map_resources (kernel-device-spec 2.9)."""
    if vgic.mapped:
        return 0
    refused = _map_v2(vgic) if vgic.model == "v2" else _map_v3(vgic)
    vgic.mapped = not refused
    return refused


def _map_v3(vgic: Vgic) -> int:
    obstacles: tuple[tuple[Callable[[], bool], int], ...] = (
        (lambda: any(vcpu.frame is None for vcpu in vgic.vm.vcpus), ENXIO),
        (lambda: vgic.distributor_base == UNDEFINED, ENXIO),
        (lambda: not vgic.redistributors.bases_are_good(), EINVAL),
        (lambda: not vgic.initialised, EBUSY),
    )
    return next((errno for is_there, errno in obstacles if is_there()), 0)


def _map_v2(vgic: Vgic) -> int:
    distributor, interface = vgic.distributor_base, vgic.cpu_interface_base
    if UNDEFINED in {distributor, interface}:
        return ENXIO
    if (
        wraps(distributor, _V2_DISTRIBUTOR_SIZE)
        or wraps(interface, _V2_CPU_INTERFACE_SIZE)
        or overlap(distributor, _V2_DISTRIBUTOR_SIZE, interface, _V2_CPU_INTERFACE_SIZE)
    ):
        return EINVAL
    try:
        vgic.lazy_init()
    except RefusedError as refused:
        return refused.code
    return 0


def _tear_down(vgic: Vgic) -> None:
    """kvm_vgic_destroy of 5.10: the distributor's address stays."""
    vgic.initialised = False
    vgic.nr_spis = 0
    for vcpu in vgic.vm.vcpus:
        vcpu.frame = None
    vgic.redistributors.regions.clear()


def _check_timers(vcpu: Vcpu) -> int:
    """kvm_timer_enable: the timers' interrupts are distinct, where the vGIC has them."""
    vm = vcpu.vm
    if vm.vgic is None:
        return 0
    ppis = vm.vcpu_settings.timer_ppis if vm.behaviour.timer_ppis_of_vm else vcpu.timer_ppis
    count = len(TIMER_PPIS) if vcpu.has_feature(abi.KVM_ARM_VCPU_HAS_EL2) else 2
    return 0 if len(set(ppis[:count])) == count else EINVAL


def _check_pmu(vcpu: Vcpu) -> int:
    """kvm_arm_pmu_v3_enable: since 6.1 a PMU has to be initialised."""
    if not vcpu.has_feature(abi.KVM_ARM_VCPU_PMU_V3):
        return 0
    if not vcpu.pmu_initialised:
        return EINVAL if vcpu.vm.behaviour.pmu_needs_init else 0
    return EINVAL if vcpu.vm.vgic is not None and not vcpu.pmu_irq else 0
