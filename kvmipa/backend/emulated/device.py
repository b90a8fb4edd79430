# SPDX-License-Identifier: Apache-2.0
"""Devices of the emulated kernel: how they are made, and their descriptors (kernel-device-spec 1 and 2.0)."""

from __future__ import annotations

from errno import EIO, ENODEV, ENOTTY, ENXIO, EPERM
from struct import Struct
from typing import TYPE_CHECKING, Final, NamedTuple, Protocol

from kvmipa import abi
from kvmipa.backend.emulated import smccc_filter, user_memory
from kvmipa.backend.emulated.its import create_its
from kvmipa.backend.emulated.requests import Request, answer
from kvmipa.backend.emulated.vfio import create_vfio
from kvmipa.backend.emulated.vgic import create_vgic, set_legacy_address

if TYPE_CHECKING:
    from collections.abc import Callable

    from kvmipa.backend.emulated.host import HostProfile
    from kvmipa.backend.emulated.user_memory import Argument
    from kvmipa.backend.emulated.vm import VirtualMachine

_CREATE: Final = Struct(abi.STRUCTS["create_device"][0])
_ATTR: Final = Struct(abi.STRUCTS["device_attr"][0])
_DEVICE_ADDR: Final = Struct(abi.STRUCTS["arm_device_addr"][0])

# arch/arm64/include/uapi/asm/kvm.h: KVM_ARM_DEVICE_TYPE_MASK, KVM_ARM_DEVICE_ID_MASK. The only device, 0, is the vGIC.
_TYPE_MASK: Final = 0xFFFF
_DEVICE_MASK: Final = 0xFFFF_0000
# The same, as an int of 32 bits whose sign is extended.
_OLD_DEVICE_MASK: Final = 0xFFFF_FFFF_FFFF_0000


class Device(Protocol):
    """What stands behind a device's descriptor (struct kvm_device_ops): each answers with 0 or -errno.

    gettable: whether there is a get_attr at all. was_opened: whether it ever had a descriptor. address: of the
    attribute's value, in the calling process.
    """

    gettable: bool
    was_opened: bool

    def set_attr(self, group: int, attr: int, address: int, /) -> int:
        """KVM_SET_DEVICE_ATTR."""
        ...

    def get_attr(self, group: int, attr: int, address: int, /) -> int:
        """KVM_GET_DEVICE_ATTR."""
        ...

    def has_attr(self, group: int, attr: int, address: int, /) -> int:
        """KVM_HAS_DEVICE_ATTR."""
        ...


class DeviceFile:
    """An open device (kvm_device_ioctl in virt/kvm/kvm_main.c)."""

    def __init__(self, vm: VirtualMachine, device: Device) -> None:
        self.vm = vm
        self.device = device
        device.was_opened = True

    def ioctl(self, request: int, argument: Argument, /) -> int:
        """Answer one request; an unknown one is ENOTTY, other than on VMs and vCPUs."""
        vm = self.vm
        if vm.out_of_reach:
            return -EIO
        if request == abi.KVM_GET_DEVICE_ATTR and not self.device.gettable:
            return -EPERM
        handler = _ATTRIBUTE_REQUESTS.get(request)
        if handler is None:
            return -ENOTTY
        with vm.lock:
            return answer(handler, self.device, argument)


def _set_attr(device: Device, argument: Argument) -> int:
    _flags, *asked = _ATTR.unpack(user_memory.read(argument, _ATTR.size))
    return device.set_attr(*asked)


def _get_attr(device: Device, argument: Argument) -> int:
    _flags, *asked = _ATTR.unpack(user_memory.read(argument, _ATTR.size))
    return device.get_attr(*asked)


def _has_attr(device: Device, argument: Argument) -> int:
    _flags, *asked = _ATTR.unpack(user_memory.read(argument, _ATTR.size))
    return device.has_attr(*asked)


_ATTRIBUTE_REQUESTS: Final = {
    abi.KVM_SET_DEVICE_ATTR: _set_attr,
    abi.KVM_GET_DEVICE_ATTR: _get_attr,
    abi.KVM_HAS_DEVICE_ATTR: _has_attr,
}


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
    Request(abi.KVM_CREATE_IRQCHIP, create_irqchip),
    Request(abi.KVM_ARM_SET_DEVICE_ADDR, set_device_addr),
    *smccc_filter.VM_REQUESTS,
)
