# SPDX-License-Identifier: Apache-2.0
"""vCPUs of the emulated kernel: how they are made, and their descriptors (kernel-device-spec 4.1 to 4.3)."""

from __future__ import annotations

from errno import EBUSY, EEXIST, EINVAL, ENOEXEC
from typing import TYPE_CHECKING, Final

from kvmipa import abi
from kvmipa.backend.emulated import device_attributes, stats, user_memory, vcpu_attributes, vcpu_init
from kvmipa.backend.emulated.device_attributes import WithAttributeGroups
from kvmipa.backend.emulated.requests import RefusedError, Request, VmBoundFile, handlers
from kvmipa.backend.emulated.vcpu_settings import TIMER_PPIS
from kvmipa.backend.emulated.vgic.cpu_interface_v3 import CpuInterface
from kvmipa.backend.emulated.vgic.limits import KVM_MAX_VCPUS

if TYPE_CHECKING:
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
    structure.
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


class VcpuFile(VmBoundFile):
    """An open vCPU."""

    def __init__(self, vcpu: Vcpu) -> None:
        super().__init__(vcpu.vm, vcpu, handlers(REQUESTS, vcpu.vm.profile.release))


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
    fd = vm.descriptors.reserve()
    if fd < 0:
        return fd
    vm.vcpus = (*vm.vcpus, vcpu)
    return vm.descriptors.install(fd, VcpuFile(vcpu))


# On a VM's descriptor.
VM_REQUESTS: Final[tuple[Request, ...]] = (
    Request(abi.KVM_CREATE_VCPU, create_vcpu),
    Request(abi.KVM_ARM_PREFERRED_TARGET, vcpu_init.preferred_target, of_arm=True, needs=abi.KVM_CAP_NR_VCPUS),
)


# ------------------------------------------------------------------------------------------------ requests


def _needs_initialisation(vcpu: Vcpu, _argument: Argument) -> int:
    if not vcpu.initialised:
        raise RefusedError(ENOEXEC)
    return -EINVAL


def _run(vcpu: Vcpu, argument: Argument) -> int:
    """KVM_RUN looks at its argument first, which has to be 0 (4.4)."""
    return -EINVAL if argument else _needs_initialisation(vcpu, argument)


# Not emulated yet, for which a CPU and its registers are needed: EINVAL, after what is known without them.
NOT_EMULATED_YET: Final[tuple[Request, ...]] = (
    Request(abi.KVM_RUN, _run),
    Request(abi.KVM_GET_ONE_REG, _needs_initialisation),
    Request(abi.KVM_SET_ONE_REG, _needs_initialisation),
)

# On a vCPU's descriptor.
REQUESTS: Final[tuple[Request, ...]] = (
    *vcpu_init.REQUESTS,
    *device_attributes.REQUESTS,
    *stats.VCPU_REQUESTS,
    *NOT_EMULATED_YET,
)
