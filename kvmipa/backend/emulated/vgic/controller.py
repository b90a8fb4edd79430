# SPDX-License-Identifier: Apache-2.0
"""The VM's interrupt controller: vGICv2 or vGICv3, and how it is made (kernel-device-spec 1.2, 2; vgic-init.c)."""

from __future__ import annotations

from errno import E2BIG, EBUSY, EEXIST, ENODEV
from functools import cached_property
from typing import TYPE_CHECKING

from kvmipa.backend.emulated.device_attributes import WithAttributeGroups
from kvmipa.backend.emulated.interrupts import TO_IRQCHIP, take_signals
from kvmipa.backend.emulated.requests import RefusedError
from kvmipa.backend.emulated.vgic.attributes import group_of
from kvmipa.backend.emulated.vgic.frames import UNDEFINED
from kvmipa.backend.emulated.vgic.limits import DEFAULT_IRQS, MAX_VCPUS, PRIVATE_IRQS
from kvmipa.backend.emulated.vgic.redistributors import Redistributors
from kvmipa.backend.emulated.vgic.state import VgicState

if TYPE_CHECKING:
    from kvmipa.backend.emulated.device_attributes import Group
    from kvmipa.backend.emulated.vcpu import Vcpu
    from kvmipa.backend.emulated.vm import VirtualMachine


class Vgic(WithAttributeGroups):
    """A vGIC. distributor_base, cpu_interface_base: addresses, UNDEFINED where they are not set.

    model: "v2" or "v3". nr_spis: 0 until it is set, or initialisation sets the default. maintenance_irq: of guests
    with an EL2 (7.3).
    """

    gettable = True
    was_opened = False
    # KVM_RUN has looked at its addresses, and found them good.
    mapped = False

    def __init__(self, vm: VirtualMachine, model: str) -> None:
        self.vm = vm
        self.model = model
        self.initialised = False
        self.nr_spis = 0
        self.distributor_base = UNDEFINED
        self.cpu_interface_base = UNDEFINED
        self.redistributors = Redistributors(self)
        self.maintenance_irq = 0

    @property
    def nr_irqs(self) -> int:
        """SGIs, PPIs and SPIs: 32 while the number of SPIs is not set."""
        return PRIVATE_IRQS + self.nr_spis

    @cached_property
    def state(self) -> VgicState:
        """What is in its registers."""
        return VgicState(self)

    def vcpu_created(self, vcpu: Vcpu) -> None:
        """A vCPU is being made, and is not among the VM's yet (kvm_vgic_vcpu_init)."""
        if self.model == "v3":
            self.redistributors.give_frame(vcpu)

    def lazy_init(self) -> None:
        """Initialise it unless it is."""
        if self.initialised:
            return
        self.nr_spis = self.nr_spis or DEFAULT_IRQS - PRIVATE_IRQS
        self.initialised = True
        # kvm_vgic_setup_default_irq_routing: every gsi is the pin of its number.
        rest = (0,) * 6
        self.vm.interrupts.routes = tuple((gsi, TO_IRQCHIP, 0, 0, 0, gsi, *rest) for gsi in range(self.nr_spis))

    def line_changed(self, vcpu: Vcpu | None, irq: int, *, level: bool) -> None:
        """KVM_IRQ_LINE gave a line a level: one that reacts to edges is pending then (kvm_vgic_inject_irq).

        vcpu: of a private interrupt.
        """
        owner = vcpu or (self.vm.vcpus[0] if self.vm.vcpus else None)
        if level and owner is not None and self.state.read_bits(owner, "edge", irq & ~31) >> irq % 32 & 1:
            self.state.set_bits(owner, "pending", irq & ~31, 1 << irq % 32)

    def set_attr(self, group: int, attr: int, address: int, /) -> int:
        """KVM_SET_DEVICE_ATTR."""
        take_signals(self.vm)
        return super().set_attr(group, attr, address)

    def get_attr(self, group: int, attr: int, address: int, /) -> int:
        """KVM_GET_DEVICE_ATTR."""
        take_signals(self.vm)
        return super().get_attr(group, attr, address)

    def attribute_group(self, number: int) -> Group[Vgic] | None:
        """A group that this model has in this release."""
        return group_of(self, number)


def create_vgic(vm: VirtualMachine, model: str, *, host_can: bool = True) -> Vgic:
    """The VM's vGIC, of which there is one for ever (kvm_vgic_create; kernel-device-spec 1.2).

    host_can: whether the host emulates this model, which KVM_CREATE_DEVICE has looked at before.
    """
    obstacles = ((vm.vgic is not None, EEXIST), (not host_can, ENODEV))
    for is_there, errno in obstacles[::-1] if vm.behaviour.vgic_needs_host_first else obstacles:
        if is_there:
            raise RefusedError(errno)
    if any(vcpu.has_run for vcpu in vm.vcpus):
        raise RefusedError(EBUSY)
    # What is too much stays so: the VM has no more vCPUs than this from here on.
    vm.max_vcpus = MAX_VCPUS[model]
    if len(vm.vcpus) > vm.max_vcpus:
        raise RefusedError(E2BIG)
    vgic = vm.vgic = Vgic(vm, model)
    return vgic
