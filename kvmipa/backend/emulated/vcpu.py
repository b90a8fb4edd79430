# SPDX-License-Identifier: Apache-2.0
"""vCPUs of the emulated kernel: how they are made, and their descriptors (kernel-device-spec 4.1 to 4.3)."""

from __future__ import annotations

from errno import EBUSY, EEXIST, EINVAL, EIO
from functools import cached_property, lru_cache
from threading import RLock
from types import MappingProxyType
from typing import TYPE_CHECKING, Final

from kvmipa import abi
from kvmipa.backend.emulated import (
    device_attributes,
    stats,
    user_memory,
    vcpu_attributes,
    vcpu_init,
    vcpu_registers,
    vcpu_run,
    vcpu_state,
)
from kvmipa.backend.emulated.device_attributes import WithAttributeGroups
from kvmipa.backend.emulated.register_file import RegisterFile
from kvmipa.backend.emulated.requests import Request, VmBoundFile, handlers
from kvmipa.backend.emulated.vcpu_settings import TIMER_PPIS
from kvmipa.backend.emulated.vcpu_state import NO_EVENTS, DebugControl
from kvmipa.backend.emulated.vgic.cpu_interface_v3 import CpuInterface
from kvmipa.backend.emulated.vgic.limits import KVM_MAX_VCPUS

if TYPE_CHECKING:
    from collections.abc import Mapping

    from kvmipa.backend.emulated.cpu.processor import Processor
    from kvmipa.backend.emulated.device_attributes import Group
    from kvmipa.backend.emulated.user_memory import Argument
    from kvmipa.backend.emulated.vgic.redistributors import Frame
    from kvmipa.backend.emulated.vgic.state import Bank
    from kvmipa.backend.emulated.vm import VirtualMachine

# KVM_MAX_VCPU_IDS, whatever the host's GIC.
MAX_IDS: Final = KVM_MAX_VCPUS
_UNSIGNED_INT: Final = 0xFFFF_FFFF


class Vcpu(WithAttributeGroups):
    """A vCPU (struct kvm_vcpu).

    frame: its redistributor. affinity: MPIDR_EL1's levels, 0 until it is initialised. features: bits of
    KVM_ARM_VCPU_INIT; target: None until it is initialised. pmu_irq: 0 while it is not set. stolen_time: the IPA of its
    structure. mp_state: KVM_MP_STATE_*; events and debug_control: what is pending, and what user space watches;
    signal_mask: the signals blocked while it runs, 64 bits, None: those of the thread.
    """

    has_run = False
    frame: Frame | None = None
    affinity = 0
    target: int | None = None
    features = 0
    sve_finalised = False
    pmu_irq = 0
    pmu_initialised = False
    stolen_time: int | None = None
    mp_state: int = abi.KVM_MP_STATE_RUNNABLE
    events = NO_EVENTS
    debug_control = DebugControl()
    signal_mask: int | None = None
    exception_pending = False
    # Whether vcpu_registers.loaded() would change something.
    needs_loading = False
    # FAR_EL2 of the last fault, and whether there was a trap (ESR_EL2.IL): of an abort that user space injects.
    last_far = 0
    has_trapped = False
    # PSCI CPU_ON: PC, X0 and whether data is big-endian, with which it is reset when it next runs. processor: once it
    # has run.
    boot: tuple[int, int, bool] | None = None
    processor: Processor | None = None
    # CCSIDR_EL1 by CSSELR_EL1, where user space chose it.
    caches: Mapping[int, int] = MappingProxyType({})
    # Of the vGIC.
    private_irqs: Bank | None = None
    lpis_enabled = False
    pendbaser: int | None = None

    def __init__(self, vm: VirtualMachine, vcpu_id: int) -> None:
        self.vm = vm
        self.vcpu_id = vcpu_id
        # Before 6.4; since then they are the VM's.
        self.timer_ppis = list(TIMER_PPIS)
        self.icc = CpuInterface()
        self.gicc: dict[str, int] = {}
        # Held while a request on its descriptor is answered, and so as long as it runs (struct kvm_vcpu.mutex).
        self.mutex = RLock()

    @cached_property
    def area(self) -> memoryview:
        """What KVM_RUN shares with user space."""
        return vcpu_run.map_area(self.vm.profile.page_size)

    @property
    def cpu(self) -> Processor:
        """What it runs on."""
        if self.processor is None:
            self.processor = _processor_class()(self, self.area)
        return self.processor

    @cached_property
    def counters(self) -> stats.Counters:
        """What KVM_GET_STATS_FD says of it."""
        return stats.Counters()

    @cached_property
    def registers(self) -> RegisterFile:
        """Its registers, made when somebody looks at them."""
        return RegisterFile()

    @property
    def initialised(self) -> bool:
        """Whether KVM_ARM_VCPU_INIT succeeded."""
        return self.target is not None

    def has_feature(self, bit: int) -> bool:
        """Whether it has a feature of KVM_ARM_VCPU_INIT."""
        return bool(self.features >> bit & 1)

    def attribute_group(self, number: int) -> Group[Vcpu] | None:
        """PMU, timers or stolen time."""
        return vcpu_attributes.GROUPS.get(number)


@lru_cache(maxsize=1)
def _processor_class() -> type[Processor]:
    """Imported with the first vCPU: it needs a descriptor, and who has no vCPU does not need it."""
    from kvmipa.backend.emulated.cpu.processor import Processor

    return Processor


class VcpuFile(VmBoundFile):
    """An open vCPU."""

    def __init__(self, vcpu: Vcpu) -> None:
        super().__init__(vcpu.vm, vcpu, handlers(REQUESTS, vcpu.vm.profile.release))
        self.vcpu = vcpu
        self._is_closed = False

    def ioctl(self, request: int, argument: Argument, /) -> int:
        """Answer one request, when the vCPU does not run: the result, or -errno (kvm_vcpu_ioctl)."""
        if self.vm.out_of_reach:
            return -EIO
        with self.vcpu.mutex:
            if request == abi.KVM_RUN:
                return -EINVAL if argument else min(self._run(), 0)
            if request == abi.KVM_ARM_VCPU_INIT and self.vcpu.processor is not None:
                self.vcpu.processor.give_back()
            return super().ioctl(request, argument)

    def run(self) -> int:
        """KVM_RUN: the exit reason, or -errno."""
        with self.vcpu.mutex:
            return self._run()

    def _run(self) -> int:
        if self.vm.out_of_reach:
            return -EIO
        try:
            return vcpu_run.run(self.vcpu)
        finally:
            if self._is_closed:
                self._release()

    def kick(self) -> None:
        """Have the KVM_RUN that is in progress return EINTR; in a child after fork there is none."""
        if self.vcpu.processor is not None and not self.vm.is_of_another_process:
            self.vcpu.processor.kick()

    def close(self) -> None:
        """The descriptor is gone; a KVM_RUN that is in progress goes on, as one that holds the file."""
        self._is_closed = True
        if self.vcpu.mutex.acquire(blocking=False):
            try:
                self._release()
            finally:
                self.vcpu.mutex.release()

    def _release(self) -> None:
        if self.vcpu.processor is not None:
            self.vcpu.processor.close()


# ------------------------------------------------------------------------------------------------ creation


def create_vcpu(vm: VirtualMachine, argument: Argument) -> int:
    """KVM_CREATE_VCPU: a descriptor.

    Until 7.3 a vCPU whose id is taken is built before that is seen: a redistributor's frame is used up.
    """
    assert isinstance(argument, int)
    known = vm.behaviour
    vcpu_id = argument if known.vcpu_id_has_64_bits else argument & _UNSIGNED_INT
    is_taken = any(vcpu.vcpu_id == vcpu_id for vcpu in vm.vcpus)
    obstacles = (
        (vcpu_id >= MAX_IDS, EINVAL),
        (len(vm.vcpus) >= (vm.max_vcpus if known.max_vcpus_of_vm else MAX_IDS), EINVAL),
        (is_taken and known.vcpu_id_is_looked_up_first, EEXIST),
        (vm.vgic is not None and vm.vgic.initialised, EBUSY),
        (vcpu_id >= vm.max_vcpus, EINVAL),
    )
    for is_there, errno in obstacles:
        if is_there:
            return -errno
    vcpu = Vcpu(vm, vcpu_id)
    if vm.vgic is not None:
        vm.vgic.vcpu_created(vcpu)
    if is_taken:
        return -EEXIST
    user_memory.prepare()
    _processor_class()
    fd = vm.descriptors.reserve()
    if fd < 0:
        return fd
    vm.vcpus = (*vm.vcpus, vcpu)
    file = VcpuFile(vcpu)
    return vm.descriptors.install(fd, file, on_close=file.close)


# On a VM's descriptor.
VM_REQUESTS: Final[tuple[Request, ...]] = (
    Request(abi.KVM_CREATE_VCPU, create_vcpu),
    Request(abi.KVM_ARM_PREFERRED_TARGET, vcpu_init.preferred_target, of_arm=True, needs=abi.KVM_CAP_NR_VCPUS),
)


# ------------------------------------------------------------------------------------------------ requests


# On a vCPU's descriptor.
REQUESTS: Final[tuple[Request, ...]] = (
    *vcpu_init.REQUESTS,
    *vcpu_registers.REQUESTS,
    *vcpu_state.REQUESTS,
    *device_attributes.REQUESTS,
    *stats.VCPU_REQUESTS,
)
