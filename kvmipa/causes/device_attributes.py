# SPDX-License-Identifier: Apache-2.0
"""Why an attribute of a device could not be set or read (kernel-device-spec 2): by its device's type and its group.

A group's number means something else on each type of device.
"""

from __future__ import annotations

import errno
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from kvmipa import abi, errors
from kvmipa.causes import Cause
from kvmipa.causes.attributes import BAD_POINTER, AttributeAttempt
from kvmipa.causes.device_addresses import ADDR, AddressAttempt
from kvmipa.causes.vfio import vfio_file_cause

if TYPE_CHECKING:
    from kvmipa.causes.device_addresses import Ask, DeviceFacts

_NR_IRQS: Final = abi.KVM_DEV_ARM_VGIC_GRP_NR_IRQS
_TABLES: Final = (abi.KVM_DEV_ARM_ITS_SAVE_TABLES, abi.KVM_DEV_ARM_ITS_RESTORE_TABLES)

# GITS_TYPER and GITS_PIDR4: from the one up to the other an ITS has registers of 64 bits (kernel-device-spec 2.7).
_FIRST_WIDE: Final = 0x8
_BEHIND_WIDE: Final = 0xFFD0


@dataclass(frozen=True)
class DeviceAttempt(AttributeAttempt):
    """An attribute of a device that was asked for."""

    what = "Device"
    kind = errors.DeviceError

    device_type: int
    known: DeviceFacts
    ask: Ask

    def _cause(self, code: int) -> Cause | None:
        if code == errno.EPERM and self.request == abi.KVM_GET_DEVICE_ATTR:
            return _NOT_READABLE
        of_its_group = _GROUPS.get((self.device_type, self.group))
        found = of_its_group(self, code) if of_its_group else None
        if found is None and code == errno.ENXIO:
            return _NO_ATTRIBUTE.filled(attr=hex(self.attr), group=self.group)
        return BAD_POINTER if found is None and code == errno.EFAULT else found

    @property
    def names_a_vcpu(self) -> bool:
        """Whether the vCPU of a register is there."""
        return bool(self.known.vcpus) and self.ask(self.group, self.attr, 8, 0) is not None


# ------------------------------------------------------------------------------------------------ groups


def _address(attempt: DeviceAttempt, code: int) -> Cause | None:
    if code == errno.ENODEV:
        # An ITS says so where a vGIC says ENXIO (kernel-device-spec 2.7).
        return _NO_ATTRIBUTE.filled(attr=hex(attempt.attr), group=attempt.group)
    return AddressAttempt(attempt.attr, attempt.value, attempt.known, attempt.ask).cause(code)


def _nr_irqs(attempt: DeviceAttempt, code: int) -> Cause | None:
    if code == errno.EINVAL:
        return _BAD_NR_IRQS.filled(number=attempt.value)
    return _NR_IRQS_SET.filled(there=attempt.ask(_NR_IRQS, 0, 4, 0)) if code == errno.EBUSY else None


def _register(attempt: DeviceAttempt, code: int) -> Cause | None:
    if code == errno.EBUSY:
        return _REGISTERS_LATER
    if code == errno.ENOENT:
        return _NO_SYSTEM_REGISTER
    if code == errno.EINVAL and not attempt.names_a_vcpu:
        return _NO_VCPU.filled(vcpus=sorted(attempt.known.vcpus) or "(none)")
    return None


def _control(_attempt: DeviceAttempt, code: int) -> Cause | None:
    return _VCPU_RUNS if code == errno.EBUSY else None


def _v3_control(attempt: DeviceAttempt, code: int) -> Cause | None:
    pending = attempt.attr == abi.KVM_DEV_ARM_VGIC_SAVE_PENDING_TABLES and attempt.request == abi.KVM_SET_DEVICE_ATTR
    return (_PENDING.get(code) if pending else None) or _control(attempt, code)


def _its_control(attempt: DeviceAttempt, code: int) -> Cause | None:
    if code == errno.EBUSY:
        return _VCPU_RUNS
    return _TABLES_WITHOUT_MEMORY if attempt.attr in _TABLES and code != errno.ENOMEM else None


def _its_register(attempt: DeviceAttempt, code: int) -> Cause | None:
    if code == errno.EBUSY:
        return _VCPU_RUNS
    if code == errno.EINVAL:
        narrow = attempt.attr < _FIRST_WIDE or attempt.attr >= _BEHIND_WIDE
        return _MISALIGNED_REGISTER.filled(offset=hex(attempt.attr)) if attempt.attr % (4 if narrow else 8) else None
    nowhere = attempt.ask(ADDR, abi.KVM_VGIC_ITS_ADDR_TYPE, 8, 0) == abi.VGIC_ADDR_UNDEF
    return _ITS_NOWHERE if code == errno.ENXIO and nowhere and attempt.request != abi.KVM_HAS_DEVICE_ATTR else None


def _maintenance(_attempt: DeviceAttempt, code: int) -> Cause | None:
    return _MAINTENANCE.get(code)


def _vfio_file(attempt: DeviceAttempt, code: int) -> Cause | None:
    return vfio_file_cause(attempt.attr, attempt.value, code)


_OfAGroup = Callable[[DeviceAttempt, int], Cause | None]

_VGIC: Final[dict[int, _OfAGroup]] = {
    ADDR: _address,
    _NR_IRQS: _nr_irqs,
    abi.KVM_DEV_ARM_VGIC_GRP_CTRL: _control,
    abi.KVM_DEV_ARM_VGIC_GRP_DIST_REGS: _register,
}
# The groups of kernel-device-spec 2.1.
_OF_TYPE: Final[dict[int, dict[int, _OfAGroup]]] = {
    abi.KVM_DEV_TYPE_ARM_VGIC_V2: {**_VGIC, abi.KVM_DEV_ARM_VGIC_GRP_CPU_REGS: _register},
    abi.KVM_DEV_TYPE_ARM_VGIC_V3: {
        **_VGIC,
        abi.KVM_DEV_ARM_VGIC_GRP_CTRL: _v3_control,
        abi.KVM_DEV_ARM_VGIC_GRP_REDIST_REGS: _register,
        abi.KVM_DEV_ARM_VGIC_GRP_CPU_SYSREGS: _register,
        abi.KVM_DEV_ARM_VGIC_GRP_LEVEL_INFO: _register,
        abi.KVM_DEV_ARM_VGIC_GRP_MAINT_IRQ: _maintenance,
    },
    abi.KVM_DEV_TYPE_ARM_VGIC_ITS: {
        ADDR: _address,
        abi.KVM_DEV_ARM_VGIC_GRP_CTRL: _its_control,
        abi.KVM_DEV_ARM_VGIC_GRP_ITS_REGS: _its_register,
    },
    abi.KVM_DEV_TYPE_VFIO: {abi.KVM_DEV_VFIO_FILE: _vfio_file},
}
_GROUPS: Final = {(kind, group): cause for kind, groups in _OF_TYPE.items() for group, cause in groups.items()}


# ------------------------------------------------------------------------------------------------ causes


_NO_ATTRIBUTE: Final = Cause(
    errors.NoSuchAttributeError,
    "this device has no attribute {attr} in group {group}",
    "what has_attr() says",
    "ask has_attr() before; some attributes need a newer kernel",
)
_NOT_READABLE: Final = Cause(
    errors.AttributeNotReadableError,
    "this device's attributes can be set, but not be read",
    "set_attr() and has_attr()",
    "remember what was set",
)
_BAD_NR_IRQS: Final = Cause(
    errors.NrIrqsError,
    "a vGIC cannot have {number} interrupts",
    "multiples of 32 from 64 to 992 (32 of them are not SPIs)",
    "take the next one; 1024 is not among them",
)
_NR_IRQS_SET: Final = Cause(
    errors.NrIrqsAlreadySetError,
    "the number of interrupts is set already",
    "{there} interrupts",
    "set it once, before init()",
)
_REGISTERS_LATER: Final = Cause(
    errors.VgicNotInitialisedError,
    "the vGIC is not initialised, or a vCPU is running",
    "registers once it is",
    "call init() after all vCPUs are made, and stop these",
)
_NO_SYSTEM_REGISTER: Final = Cause(
    errors.NoSuchAttributeError, "there is no such system register", "", "ask has_attr() before"
)
_NO_VCPU: Final = Cause(
    errors.NoSuchVcpuError,
    "the attribute is of a vCPU that there is not",
    "vCPUs {vcpus}",
    "create the vCPU first; a vGICv3's is named by its affinity, which it has once it is initialised",
)
_VCPU_RUNS: Final = Cause(
    errors.DeviceError, "a vCPU is running, or one is being made", "", "stop all vCPUs of the VM, then try again"
)
_TABLES_WITHOUT_MEMORY: Final = Cause(
    errors.DeviceError,
    "the tables in the guest's memory are not there, or not as the device needs them",
    "tables that the guest has placed in its memory slots",
    "add the memory first, and restore the registers that say where the tables are",
)
_PENDING: Final = {
    errno.ENXIO: Cause(
        errors.VgicNotInitialisedError, "the vGIC is not initialised", "its tables once it is", "call init() before"
    ),
    errno.EFAULT: _TABLES_WITHOUT_MEMORY,
}
_MISALIGNED_REGISTER: Final = Cause(
    errors.DeviceError,
    "offset {offset} is not a register's",
    "multiples of 8, of 4 below 8 and from 0xffd0 on",
    "take the offset at which the register begins",
)
_ITS_NOWHERE: Final = Cause(
    errors.DeviceError, "the ITS has no address", "its registers once it has one", "call set_its_address() before"
)
_MAINTENANCE: Final = {
    errno.EBUSY: Cause(
        errors.VgicInitialisedError, "the vGIC is initialised", "the interrupt that it has", "set it before init()"
    ),
    errno.EINVAL: Cause(
        errors.InterruptNumberError,
        "the maintenance interrupt is a PPI",
        "16 to 31",
        "use one that no other device has",
    ),
}
