# SPDX-License-Identifier: Apache-2.0
"""A VM with a vGICv3, for the tests of what needs one."""

from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING

import pytest

from kvmipa import DeviceType, Its, Vgic, abi

if TYPE_CHECKING:
    from kvmipa import Kvm

DISTRIBUTOR, REDISTRIBUTORS, ITS = 0x800_0000, 0x80A_0000, 0x808_0000
NR_IRQS = 64


class VgicMachine:
    """A VM with two vCPUs and a vGICv3 of NR_IRQS interrupts; the test is skipped where the host has no GICv3."""

    def __init__(self, kvm: Kvm, limit: int, *, initialise: bool = True, its: bool = False) -> None:
        self._stack = ExitStack()
        self.vm = self._stack.enter_context(kvm.create_vm(min(limit, 40)))
        if not self.vm.has_device_type(DeviceType.VGIC_V3):
            self._stack.close()
            pytest.skip("no vGICv3 on this host")
        self.vgic = self._stack.enter_context(self.vm.create_device(DeviceType.VGIC_V3))
        assert isinstance(self.vgic, Vgic)
        self.vcpus = [self._stack.enter_context(self.vm.create_vcpu(number)) for number in (0, 1)]
        self.vgic.nr_irqs = NR_IRQS
        self.vgic.set_distributor(DISTRIBUTOR)
        self.vgic.add_redistributor_region(REDISTRIBUTORS, 2)
        if initialise:
            self.vgic.init()
        if its:
            made = self._stack.enter_context(self.vm.create_device(DeviceType.VGIC_ITS))
            assert isinstance(made, Its)
            made.set_its_address(ITS)
            made.init()

    def distributor(self, offset: int) -> int:
        """A register of 32 bits."""
        return self.vgic.get_attr(abi.KVM_DEV_ARM_VGIC_GRP_DIST_REGS, offset, 4)

    def __enter__(self) -> VgicMachine:
        return self

    def __exit__(self, *_raised: object) -> None:
        self._stack.close()
