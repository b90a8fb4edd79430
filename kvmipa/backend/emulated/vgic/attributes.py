# SPDX-License-Identifier: Apache-2.0
"""A vGIC's groups of attributes, and those that are no registers (kernel-device-spec 2.0 to 2.9; vgic-kvm-device.c)."""

from __future__ import annotations

from errno import EBUSY, EINVAL, ENODEV, ENXIO
from typing import TYPE_CHECKING, Final

from kvmipa import abi
from kvmipa.backend.emulated import user_memory
from kvmipa.backend.emulated.device_attributes import Group, no_attribute
from kvmipa.backend.emulated.requests import RefusedError
from kvmipa.backend.emulated.vgic.addresses import address as address_of
from kvmipa.backend.emulated.vgic.addresses import model_of, set_address
from kvmipa.backend.emulated.vgic.limits import FEWEST_IRQS, FIRST_PPI, MOST_IRQS, PRIVATE_IRQS
from kvmipa.backend.emulated.vgic.register_access import get_register, has_register, set_register

if TYPE_CHECKING:
    from kvmipa.backend.emulated.vgic.controller import Vgic


def _yes(_vgic: Vgic, _attr: int, _address: int) -> int:
    return 0


def _set_address(vgic: Vgic, kind: int, address: int) -> int:
    value = user_memory.read_number(address, 8)
    try:
        set_address(vgic, kind, value)
    except RefusedError as refused:
        return _as_attribute(refused)
    return 0


def _get_address(vgic: Vgic, kind: int, address: int) -> int:
    reads = kind == abi.KVM_VGIC_V3_ADDR_TYPE_REDIST_REGION or not vgic.vm.behaviour.vgic_get_address_only_writes
    asked = user_memory.read_number(address, 8) if reads else 0
    try:
        value = address_of(vgic, kind, asked)
    except RefusedError as refused:
        return _as_attribute(refused)
    user_memory.write_number(address, value, 8)
    return 0


def _as_attribute(refused: RefusedError) -> int:
    """An address that there is not is an attribute that there is not (vgic_set_common_attr)."""
    return -(ENXIO if refused.code == ENODEV else refused.code)


def _has_address(vgic: Vgic, kind: int, _address: int) -> int:
    return 0 if model_of(kind) == vgic.model else -ENXIO


def _set_nr_irqs(vgic: Vgic, _attr: int, address: int) -> int:
    """The largest number that is a multiple of 32 and not above 1023 is 992."""
    number = user_memory.read_number(address, 4)
    if not FEWEST_IRQS <= number <= MOST_IRQS or number % 32:
        return -EINVAL
    if vgic.nr_spis:
        return -EBUSY
    vgic.nr_spis = number - PRIVATE_IRQS
    return 0


def _get_nr_irqs(vgic: Vgic, _attr: int, address: int) -> int:
    user_memory.write_number(address, vgic.nr_irqs, 4)
    return 0


def _control(vgic: Vgic, attr: int, _address: int) -> int:
    if attr == abi.KVM_DEV_ARM_VGIC_CTRL_INIT:
        vgic.lazy_init()
        return 0
    if attr == abi.KVM_DEV_ARM_VGIC_SAVE_PENDING_TABLES and vgic.model == "v3":
        # Without an LPI, which only a guest that runs maps, there is nothing to save.
        refused = not vgic.initialised and vgic.vm.behaviour.save_pending_needs_init
        return -ENXIO if refused else 0
    return -ENXIO


def _has_control(vgic: Vgic, attr: int, _address: int) -> int:
    known = {abi.KVM_DEV_ARM_VGIC_CTRL_INIT}
    if vgic.model == "v3":
        known.add(abi.KVM_DEV_ARM_VGIC_SAVE_PENDING_TABLES)
    return 0 if attr in known else -ENXIO


def _set_maintenance_irq(vgic: Vgic, _attr: int, address: int) -> int:
    number = user_memory.read_number(address, 4)
    if vgic.initialised:
        return -EBUSY
    if not FIRST_PPI <= number < PRIVATE_IRQS:
        return -EINVAL
    vgic.maintenance_irq = number
    return 0


def _get_maintenance_irq(vgic: Vgic, _attr: int, address: int) -> int:
    user_memory.write_number(address, vgic.maintenance_irq, 4)
    return 0


def _registers(group: int) -> Group[Vgic]:
    return Group(
        lambda vgic, attr, address: set_register(vgic, group, attr, address),
        lambda vgic, attr, address: get_register(vgic, group, attr, address),
        lambda vgic, attr, _address: has_register(vgic, group, attr),
    )


_OF_BOTH: Final[dict[int, Group[Vgic]]] = {
    abi.KVM_DEV_ARM_VGIC_GRP_ADDR: Group(_set_address, _get_address, _has_address),
    abi.KVM_DEV_ARM_VGIC_GRP_DIST_REGS: _registers(abi.KVM_DEV_ARM_VGIC_GRP_DIST_REGS),
    abi.KVM_DEV_ARM_VGIC_GRP_NR_IRQS: Group(_set_nr_irqs, _get_nr_irqs, _yes),
    abi.KVM_DEV_ARM_VGIC_GRP_CTRL: Group(_control, no_attribute, _has_control),
}

GROUPS: Final[dict[str, dict[int, Group[Vgic]]]] = {
    "v2": {
        **_OF_BOTH,
        abi.KVM_DEV_ARM_VGIC_GRP_CPU_REGS: _registers(abi.KVM_DEV_ARM_VGIC_GRP_CPU_REGS),
    },
    "v3": {
        **_OF_BOTH,
        abi.KVM_DEV_ARM_VGIC_GRP_REDIST_REGS: _registers(abi.KVM_DEV_ARM_VGIC_GRP_REDIST_REGS),
        abi.KVM_DEV_ARM_VGIC_GRP_CPU_SYSREGS: _registers(abi.KVM_DEV_ARM_VGIC_GRP_CPU_SYSREGS),
        abi.KVM_DEV_ARM_VGIC_GRP_LEVEL_INFO: _registers(abi.KVM_DEV_ARM_VGIC_GRP_LEVEL_INFO),
        abi.KVM_DEV_ARM_VGIC_GRP_MAINT_IRQ: Group(_set_maintenance_irq, _get_maintenance_irq, _yes),
    },
}


def group_of(vgic: Vgic, number: int) -> Group[Vgic] | None:
    """The group of a number, if this vGIC has it."""
    if number == abi.KVM_DEV_ARM_VGIC_GRP_MAINT_IRQ and not vgic.vm.behaviour.vgic_maintenance_irq:
        return None
    return GROUPS[vgic.model].get(number)
