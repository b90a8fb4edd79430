# SPDX-License-Identifier: Apache-2.0
"""Attributes that are a vGIC's registers (kernel-device-spec 2.8; vgic_v2_attr_regs_access, and that of v3)."""

from __future__ import annotations

from errno import EBUSY, EINVAL, ENOENT, ENXIO
from typing import TYPE_CHECKING, Final

from kvmipa import abi
from kvmipa.backend.emulated import user_memory
from kvmipa.backend.emulated.requests import RefusedError
from kvmipa.backend.emulated.vgic import cpu_interface_v2, redistributor_registers
from kvmipa.backend.emulated.vgic.cpu_interface_v3 import ICC, read_icc, write_icc
from kvmipa.backend.emulated.vgic.distributor import V2_DISTRIBUTOR, V3_DISTRIBUTOR
from kvmipa.backend.emulated.vgic.register_table import search

if TYPE_CHECKING:
    from collections.abc import Sequence

    from kvmipa.backend.emulated.vcpu import Vcpu
    from kvmipa.backend.emulated.vgic.controller import Vgic
    from kvmipa.backend.emulated.vgic.register_table import RegisterAccess, Registers

DIST: Final = abi.KVM_DEV_ARM_VGIC_GRP_DIST_REGS
CPU: Final = abi.KVM_DEV_ARM_VGIC_GRP_CPU_REGS
REDIST: Final = abi.KVM_DEV_ARM_VGIC_GRP_REDIST_REGS
SYSREGS: Final = abi.KVM_DEV_ARM_VGIC_GRP_CPU_SYSREGS
LEVELS: Final = abi.KVM_DEV_ARM_VGIC_GRP_LEVEL_INFO

_OFFSET: Final = 0xFFFF_FFFF
_VCPU_SHIFT: Final = 32

# KVM_DEV_ARM_VGIC_LINE_LEVEL_INTID_MASK; what is above it is the kind of information, and 0 is the only one.
_LEVEL_IRQ: Final = 0x3FF


def _table(vgic: Vgic, group: int) -> Sequence[Registers]:
    if group == CPU:
        return cpu_interface_v2.registers(vgic.vm.behaviour)
    if group == REDIST:
        return redistributor_registers.registers(vgic.vm.behaviour)
    return V2_DISTRIBUTOR if vgic.model == "v2" else V3_DISTRIBUTOR


def _find(vgic: Vgic, vcpu: Vcpu, group: int, offset: int) -> tuple[Registers, RegisterAccess] | None:
    """The register of 32 bits at an offset; none at odd ones, and none of interrupts that the VM does not have."""
    found = None if offset & 3 else search(_table(vgic, group), offset)
    if found is None:
        return None
    access = found.access(vgic, vcpu, offset)
    return None if found.bits and access.irq >= vgic.nr_irqs else (found, access)


def _vcpu(vgic: Vgic, group: int, attr: int) -> Vcpu:
    """The vCPU that an attribute names: a vGICv2's by its id, a vGICv3's by affinity; a distributor needs any."""
    vcpus: Sequence[Vcpu] = vgic.vm.vcpus
    named = attr >> _VCPU_SHIFT
    if vgic.model == "v2":
        # KVM_DEV_ARM_VGIC_CPUID_MASK: eight bits.
        found = [vcpu for vcpu in vcpus if vcpu.vcpu_id == named & 0xFF]
    elif group == DIST:
        found = list(vcpus[:1])
    else:
        # Aff3 is in the uppermost byte here, and in bits 39:32 of MPIDR_EL1 (VGIC_TO_MPIDR).
        affinity = (named & 0xFF00_0000) << 8 | named & 0xFF_FFFF
        found = [vcpu for vcpu in vcpus if vcpu.affinity == affinity]
    if not found:
        raise RefusedError(EINVAL)
    return found[0]


def _prepare(vgic: Vgic, group: int, attr: int, address: int, *, writes: bool) -> tuple[Vcpu, int]:
    """Everything before the register: the vCPU, and the value that is to be written.

    A vGICv2 is initialised on the way, a vGICv3 has to be. Since 7.3 two registers need no initialisation.
    """
    known = vgic.vm.behaviour
    value = 0
    if known.vgic_finds_vcpu_first:
        vcpu = _vcpu(vgic, group, attr)
        if writes and group != SYSREGS:
            value = user_memory.read_number(address, 4)
    else:
        if writes:
            value = user_memory.read_number(address, 8 if group == SYSREGS else 4)
        vcpu = _vcpu(vgic, group, attr)
    if vgic.model == "v2":
        vgic.lazy_init()
    elif not vgic.initialised:
        needless = group == DIST and attr & _OFFSET in {0x8, 0xC} and known.vgic_registers_before_init
        if not needless:
            raise RefusedError(EBUSY)
    return vcpu, value


def get_register(vgic: Vgic, group: int, attr: int, address: int) -> int:
    """KVM_GET_DEVICE_ATTR; what is not there is 0."""
    vcpu, _ = _prepare(vgic, group, attr, address, writes=False)
    if group == SYSREGS:
        user_memory.write_number(address, read_icc(_sysreg(vgic, attr), vcpu), 8)
        return 0
    if group == LEVELS:
        value = vgic.state.read_levels(vcpu, _level_irq(attr))
    else:
        found = _find(vgic, vcpu, group, attr & _OFFSET)
        value = found[0].read(found[1]) if found else 0
    user_memory.write_number(address, value, 4)
    return 0


def set_register(vgic: Vgic, group: int, attr: int, address: int) -> int:
    """KVM_SET_DEVICE_ATTR; what is not there is not written."""
    vcpu, value = _prepare(vgic, group, attr, address, writes=True)
    if group == SYSREGS:
        if vgic.vm.behaviour.vgic_finds_vcpu_first:
            value = user_memory.read_number(address, 8)
        write_icc(_sysreg(vgic, attr), vcpu, value)
    elif group == LEVELS:
        vgic.state.write_levels(vcpu, _level_irq(attr), value)
    else:
        found = _find(vgic, vcpu, group, attr & _OFFSET)
        if found:
            found[0].write(found[1], value)
    return 0


def has_register(vgic: Vgic, group: int, attr: int) -> int:
    """KVM_HAS_DEVICE_ATTR."""
    if group == LEVELS:
        return -ENXIO if attr & _OFFSET & ~_LEVEL_IRQ else 0
    vcpu = _vcpu(vgic, group, attr)
    if group == SYSREGS:
        return 0 if attr & 0xFFFF in ICC else -ENXIO
    return 0 if _find(vgic, vcpu, group, attr & _OFFSET) else -ENXIO


def _level_irq(attr: int) -> int:
    irq = attr & _LEVEL_IRQ
    if attr & _OFFSET & ~_LEVEL_IRQ or irq % 32:
        raise RefusedError(EINVAL)
    return irq


def _sysreg(vgic: Vgic, attr: int) -> int:
    number = attr & 0xFFFF
    if number not in ICC:
        raise RefusedError(ENOENT if vgic.vm.behaviour.vgic_sysregs_are_found_late else ENXIO)
    return number
