# SPDX-License-Identifier: Apache-2.0
"""The addresses of a vGIC's frames, by the numbers of user space (kernel-device-spec 2.1 to 2.6).

KVM_DEV_ARM_VGIC_GRP_ADDR and the older KVM_ARM_SET_DEVICE_ADDR know the same ones.
"""

from __future__ import annotations

from errno import EINVAL, ENODEV, ENOENT
from typing import TYPE_CHECKING, Final, NamedTuple

from kvmipa import abi
from kvmipa.backend.emulated.requests import RefusedError
from kvmipa.backend.emulated.vgic.frames import UNDEFINED, check_range
from kvmipa.backend.emulated.vgic.redistributors import DISTRIBUTOR_SIZE

if TYPE_CHECKING:
    from kvmipa.backend.emulated.vgic.controller import Vgic
    from kvmipa.backend.emulated.vm import VirtualMachine


class Address(NamedTuple):
    """An address that is set by one number; alignment and size in bytes."""

    model: str
    name: str
    alignment: int
    size: int


ADDRESSES: Final[dict[int, Address]] = {
    abi.KVM_VGIC_V2_ADDR_TYPE_DIST: Address("v2", "distributor_base", 0x1000, 0x1000),
    abi.KVM_VGIC_V2_ADDR_TYPE_CPU: Address("v2", "cpu_interface_base", 0x1000, 0x2000),
    abi.KVM_VGIC_V3_ADDR_TYPE_DIST: Address("v3", "distributor_base", 0x1_0000, DISTRIBUTOR_SIZE),
}
_REDISTRIBUTORS: Final = (abi.KVM_VGIC_V3_ADDR_TYPE_REDIST, abi.KVM_VGIC_V3_ADDR_TYPE_REDIST_REGION)

# A region: index[11:0], flags[15:12], base[51:16], count[63:52]. The kernel keeps the index in a byte.
_INDEX: Final = 0xFF
_FLAGS: Final = abi.KVM_VGIC_V3_RDIST_FLAGS_MASK
_BASE: Final = abi.KVM_VGIC_V3_RDIST_BASE_MASK
_COUNT_SHIFT: Final = abi.KVM_VGIC_V3_RDIST_COUNT_SHIFT


def model_of(kind: int) -> str | None:
    """The model that has an address of this number."""
    known = ADDRESSES.get(kind)
    if known is not None:
        return known.model
    return "v3" if kind in _REDISTRIBUTORS else None


def _check_model(vgic: Vgic, kind: int) -> None:
    if model_of(kind) != vgic.model:
        raise RefusedError(ENODEV)


def set_address(vgic: Vgic, kind: int, value: int) -> None:
    """Set one; ENODEV where this model has no such address."""
    _check_model(vgic, kind)
    known = ADDRESSES.get(kind)
    if known is None:
        _add_redistributors(vgic, kind, value)
        return
    check_range(vgic.vm, getattr(vgic, known.name), value, known.alignment, known.size)
    setattr(vgic, known.name, value)


def _add_redistributors(vgic: Vgic, kind: int, value: int) -> None:
    if kind == abi.KVM_VGIC_V3_ADDR_TYPE_REDIST:
        vgic.redistributors.add(0, value, 0)
        return
    count = value >> _COUNT_SHIFT
    if not count or value & _FLAGS:
        raise RefusedError(EINVAL)
    vgic.redistributors.add(value & _INDEX, value & _BASE, count)


def address(vgic: Vgic, kind: int, asked: int) -> int:
    """What is set, or UNDEFINED; ``asked`` holds the index of a region."""
    _check_model(vgic, kind)
    known = ADDRESSES.get(kind)
    if known is not None:
        return int(getattr(vgic, known.name))
    regions = vgic.redistributors
    if kind == abi.KVM_VGIC_V3_ADDR_TYPE_REDIST:
        return regions.regions[0].base if regions.regions else UNDEFINED
    index = asked & _INDEX
    region = regions.region(index)
    if region is None:
        raise RefusedError(ENOENT)
    return index | region.base | region.count << _COUNT_SHIFT


def set_legacy_address(vm: VirtualMachine, kind: int, value: int) -> int:
    """KVM_ARM_SET_DEVICE_ADDR: before 6.1 also the addresses of a vGICv3; ENODEV stays ENODEV here (1.5)."""
    if vm.vgic is None:
        return -ENODEV
    if vm.behaviour.legacy_address_is_v2_only and model_of(kind) != "v2":
        return -ENODEV
    set_address(vm.vgic, kind, value)
    return 0
