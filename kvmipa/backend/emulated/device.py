# SPDX-License-Identifier: Apache-2.0
"""Devices of the emulated kernel: how they are made, and their descriptors (kernel-device-spec 1 and 2.0)."""

from __future__ import annotations

from errno import ENODEV, ENOTTY, ENXIO, EPERM
from struct import Struct
from typing import TYPE_CHECKING, ClassVar, Final, NamedTuple, Protocol

from kvmipa import abi
from kvmipa.backend.emulated import user_memory
from kvmipa.backend.emulated.device_attributes import REQUESTS, HasAttributes
from kvmipa.backend.emulated.requests import Request, VmBoundFile
from kvmipa.backend.emulated.vfio import create_vfio
from kvmipa.backend.emulated.vgic.addresses import set_legacy_address
from kvmipa.backend.emulated.vgic.controller import create_vgic
from kvmipa.backend.emulated.vgic.its import create_its

if TYPE_CHECKING:
    from collections.abc import Callable

    from kvmipa.backend.emulated.host import HostProfile
    from kvmipa.backend.emulated.user_memory import Argument
    from kvmipa.backend.emulated.vm import VirtualMachine

_CREATE: Final = Struct(abi.STRUCTS["create_device"][0])
_DEVICE_ADDR: Final = Struct(abi.STRUCTS["arm_device_addr"][0])

# arch/arm64/include/uapi/asm/kvm.h: KVM_ARM_DEVICE_TYPE_MASK, KVM_ARM_DEVICE_ID_MASK. The only device, 0, is the vGIC.
_TYPE_MASK: Final = 0xFFFF
_DEVICE_MASK: Final = 0xFFFF_0000
# The same, as an int of 32 bits whose sign is extended.
_OLD_DEVICE_MASK: Final = 0xFFFF_FFFF_FFFF_0000


class Device(HasAttributes, Protocol):
    """What stands behind a device's descriptor (struct kvm_device_ops).

    gettable: whether there is a get_attr at all. was_opened: whether it ever had a descriptor.
    """

    gettable: bool
    was_opened: bool


class DeviceFile(VmBoundFile):
    """An open device; an unknown request is ENOTTY, other than on VMs and vCPUs."""

    UNKNOWN_REQUEST: ClassVar[int] = ENOTTY

    def __init__(self, vm: VirtualMachine, device: Device) -> None:
        super().__init__(vm, device, _HANDLERS if device.gettable else _HANDLERS_WITHOUT_GET)
        self.device = device
        device.was_opened = True


def _not_gettable(_device: Device, _argument: Argument) -> int:
    """Before the struct is read."""
    return -EPERM


_HANDLERS: Final = {request.number: request.handler for request in REQUESTS}
_HANDLERS_WITHOUT_GET: Final = {**_HANDLERS, abi.KVM_GET_DEVICE_ATTR: _not_gettable}


# ------------------------------------------------------------------------------------------------ creation


class DeviceType(NamedTuple):
    """A type that some hosts know: on which, and how one is made (an errno is raised)."""

    is_known: Callable[[HostProfile], bool]
    create: Callable[[VirtualMachine], Device]


def _has_v2(host: HostProfile) -> bool:
    """A vGICv2 needs the host's GICH, which pKVM does not use (1.1). No GICv3 with a GICV is emulated."""
    return host.gic == "v2" and not host.pkvm


def _has_v3(host: HostProfile) -> bool:
    return host.gic == "v3"


# Registered by kvm_register_device_ops; all other numbers below KVM_DEV_TYPE_MAX are other architectures', or were
# never registered (kernel-device-spec 1.1).
TYPES: Final[dict[int, DeviceType]] = {
    abi.KVM_DEV_TYPE_VFIO: DeviceType(lambda _host: True, create_vfio),
    abi.KVM_DEV_TYPE_ARM_VGIC_V2: DeviceType(_has_v2, lambda vm: create_vgic(vm, "v2")),
    abi.KVM_DEV_TYPE_ARM_VGIC_V3: DeviceType(_has_v3, lambda vm: create_vgic(vm, "v3")),
    abi.KVM_DEV_TYPE_ARM_VGIC_ITS: DeviceType(_has_v3, create_its),
}


def create_device(vm: VirtualMachine, argument: Argument) -> int:
    """KVM_CREATE_DEVICE: the descriptor is written to the struct.

    A vGIC for which there was no descriptor stays in the VM for ever (kvm_ioctl_create_device).
    """
    kind, _, flags = asked = _CREATE.unpack(user_memory.read(argument, _CREATE.size))
    known = TYPES.get(kind)
    if known is None or not known.is_known(vm.profile):
        return -ENODEV
    if flags & abi.KVM_CREATE_DEVICE_TEST:
        user_memory.write(argument, _CREATE.pack(*asked))
        return 0
    device = known.create(vm)
    user_memory.prepare()
    fd = vm.descriptors.reserve()
    if fd < 0:
        return fd
    vm.descriptors.install(fd, DeviceFile(vm, device))
    # The device and its descriptor stay where the struct cannot be written.
    user_memory.write(argument, _CREATE.pack(kind, fd, flags))
    return 0


def create_irqchip(vm: VirtualMachine, _argument: Argument) -> int:
    """KVM_CREATE_IRQCHIP: a vGICv2 without a descriptor."""
    if vm.profile.gic is None:
        return -ENXIO
    create_vgic(vm, "v2", host_can=_has_v2(vm.profile))
    return 0


def set_device_addr(vm: VirtualMachine, argument: Argument) -> int:
    """KVM_ARM_SET_DEVICE_ADDR."""
    identity, address = _DEVICE_ADDR.unpack(user_memory.read(argument, _DEVICE_ADDR.size))
    if identity & (_DEVICE_MASK if vm.behaviour.legacy_address_ignores_upper_half else _OLD_DEVICE_MASK):
        return -ENODEV
    if vm.profile.gic is None:
        return -ENXIO
    return set_legacy_address(vm, identity & _TYPE_MASK, address)


# On a VM's descriptor.
VM_REQUESTS: Final[tuple[Request, ...]] = (
    Request(abi.KVM_CREATE_DEVICE, create_device),
    Request(abi.KVM_CREATE_IRQCHIP, create_irqchip, needs=abi.KVM_CAP_IRQCHIP, of_arm=True),
    Request(abi.KVM_ARM_SET_DEVICE_ADDR, set_device_addr, needs=abi.KVM_CAP_ARM_SET_DEVICE_ADDR, of_arm=True),
)
