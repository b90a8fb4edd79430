# SPDX-License-Identifier: Apache-2.0
"""Why an attribute of a device could not be set or read (kernel-device-spec 2)."""

from __future__ import annotations

import errno
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from kvmipa import abi, errors
from kvmipa.causes import Cause
from kvmipa.causes.attributes import BAD_POINTER, AttributeAttempt
from kvmipa.causes.device_addresses import ADDR, AddressAttempt

if TYPE_CHECKING:
    from kvmipa.causes.device_addresses import Ask, Known

_NR_IRQS: Final = abi.KVM_DEV_ARM_VGIC_GRP_NR_IRQS
_CTRL: Final = abi.KVM_DEV_ARM_VGIC_GRP_CTRL
_MAINT_IRQ: Final = abi.KVM_DEV_ARM_VGIC_GRP_MAINT_IRQ

_REGISTER_GROUPS: Final = frozenset(
    (
        abi.KVM_DEV_ARM_VGIC_GRP_DIST_REGS,
        abi.KVM_DEV_ARM_VGIC_GRP_CPU_REGS,
        abi.KVM_DEV_ARM_VGIC_GRP_REDIST_REGS,
        abi.KVM_DEV_ARM_VGIC_GRP_CPU_SYSREGS,
        abi.KVM_DEV_ARM_VGIC_GRP_LEVEL_INFO,
    )
)


@dataclass(frozen=True)
class DeviceAttempt(AttributeAttempt):
    """An attribute of a device that was asked for."""

    what = "Device"
    kind = errors.DeviceError

    known: Known
    ask: Ask

    def _cause(self, code: int) -> Cause | None:
        if code == errno.ENXIO or (code == errno.ENODEV and self.group == ADDR):
            return Cause(
                errors.NoSuchAttributeError,
                f"this device has no attribute {self.attr:#x} in group {self.group}",
                "what has_attr() says",
                "ask has_attr() before; some attributes need a newer kernel",
            )
        if code == errno.EFAULT:
            return BAD_POINTER
        if self.group == ADDR:
            return AddressAttempt(self.attr, self.value, self.known, self.ask).cause(code)
        if self.group == _NR_IRQS:
            return self._nr_irqs_cause(code)
        if self.group in _REGISTER_GROUPS:
            return self._register_cause(code)
        return _BUSY.get(self.group) if code == errno.EBUSY else None

    def _register_cause(self, code: int) -> Cause | None:
        if code == errno.EBUSY:
            return Cause(
                errors.VgicNotInitialisedError,
                "the vGIC is not initialised, or a vCPU is running",
                "registers once it is",
                "call init() after all vCPUs are made, and stop these",
            )
        if code == errno.ENOENT:
            return Cause(errors.NoSuchAttributeError, "there is no such system register", "", "ask has_attr() before")
        if code == errno.EINVAL and not self._names_a_vcpu:
            return Cause(
                errors.NoSuchVcpuError,
                "the attribute is of a vCPU that there is not",
                f"vCPUs {sorted(self.known.vcpus) or '(none)'}",
                "create the vCPU first; a vGICv3's is named by its affinity, which it has once it is initialised",
            )
        return None

    @property
    def _names_a_vcpu(self) -> bool:
        return bool(self.known.vcpus) and self.ask(self.group, self.attr, 8, 0) is not None

    def _nr_irqs_cause(self, code: int) -> Cause | None:
        if code == errno.EINVAL:
            return Cause(
                errors.NrIrqsError,
                f"a vGIC cannot have {self.value} interrupts",
                "multiples of 32 from 64 to 992 (32 of them are not SPIs)",
                "take the next one; 1024 is not among them",
            )
        if code == errno.EBUSY:
            return Cause(
                errors.NrIrqsAlreadySetError,
                "the number of interrupts is set already",
                f"{self.ask(_NR_IRQS, 0, 4, 0)} interrupts",
                "set it once, before init()",
            )
        return None


_BUSY: Final = {
    _CTRL: Cause(
        errors.DeviceError, "a vCPU is running, or one is being made", "", "stop all vCPUs of the VM, then try again"
    ),
    _MAINT_IRQ: Cause(
        errors.VgicInitialisedError, "the vGIC is initialised", "the interrupt that it has", "set it before init()"
    ),
}
