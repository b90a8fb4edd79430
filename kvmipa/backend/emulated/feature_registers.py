# SPDX-License-Identifier: Apache-2.0
"""ID registers of a guest: what KVM shows of the host's, and what user space may make of them.

arch/arm64/kvm/sys_regs.c: kvm_read_sanitised_id_reg, arm64_check_features, set_id_aa64pfr0_el1 and the like; types of
fields from arch/arm64/kernel/cpufeature.c.
"""

from __future__ import annotations

from errno import EBUSY, EINVAL
from functools import lru_cache
from typing import TYPE_CHECKING, Final

from kvmipa import abi
from kvmipa.backend.emulated.register_masks import masks
from kvmipa.backend.emulated.requests import RefusedError
from kvmipa.backend.emulated.system_registers import IDENTIFICATION
from kvmipa.id_registers import field, with_field
from kvmipa.system_registers import number_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    from kvmipa.backend.emulated.host import HostProfile
    from kvmipa.backend.emulated.vcpu import Vcpu
    from kvmipa.backend.emulated.vm import VirtualMachine

SYSREG: Final = abi.KVM_REG_ARM64 | abi.KVM_REG_SIZE_U64 | abi.KVM_REG_ARM64_SYSREG


PFR0: Final = number_of("ID_AA64PFR0_EL1")
PFR1_32: Final = number_of("ID_PFR1_EL1")
DFR0: Final = number_of("ID_AA64DFR0_EL1")
DFR0_32: Final = number_of("ID_DFR0_EL1")
MMFR2: Final = number_of("ID_AA64MMFR2_EL1")
CTR: Final = number_of("CTR_EL0")
CLIDR: Final = number_of("CLIDR_EL1")
MIDR: Final = number_of("MIDR_EL1")
ZFR0: Final = number_of("ID_AA64ZFR0_EL1")

# The AArch32 ones: CRm 1 to 3.
AARCH32: Final = range(IDENTIFICATION.start, PFR0)

# Fields that a VM has only with a feature of its vCPUs: register -> mask of the fields, by feature.
_POINTER_AUTHENTICATION: Final = {number_of("ID_AA64ISAR1_EL1"): 0xFF000FF0, number_of("ID_AA64ISAR2_EL1"): 0xFF00}
_SVE: Final = {PFR0: 0xF << 32, ZFR0: (1 << 64) - 1}
_MTE: Final = {number_of("ID_AA64PFR1_EL1"): 0xF00}
_PMU: Final = {DFR0: 0xF00, DFR0_32: 0xF << 24}

# Where a field is not unsigned with less being safe: positions of the signed ones, those where more is safe, and those
# that may only be what they are or one other value.
_SIGNED: Final = {
    number_of("ID_MMFR0_EL1"): (8, 28),
    PFR0: (16, 20),
    number_of("ID_AA64PFR1_EL1"): (40,),
    DFR0: (36,),
    number_of("ID_AA64MMFR0_EL1"): (24, 28),
    number_of("ID_AA64MMFR4_EL1"): (24,),
}
_MORE_IS_SAFE: Final = {number_of("ID_MMFR4_EL1"): (0,), number_of("ID_AA64MMFR1_EL1"): (24,)}
_ONE_OTHER: Final = {number_of("ID_AA64MMFR0_EL1"): {32: 1, 36: 1, 40: 1}}

_FIELDS: Final = range(0, 64, 4)

# CTR_EL0: DIC, IDC, and the positions of the cache line sizes; L1Ip, of which KVM takes VIPT.
_CTR_SINGLE_BITS: Final = (29, 28)
_CTR_LINES: Final = (16, 0)
_L1IP: Final = 14
_VIPT: Final = 2
_CTR_WRITABLE: Final = 0x300F_000F

# Values of fields.
_IMPLEMENTATION_DEFINED: Final = 15
_DEBUG_V8: Final = 6
_PERFMON_V3: Final = 3


# ------------------------------------------------------------------------------------------------ what KVM shows


@lru_cache(maxsize=64)
def host_values(host: HostProfile) -> dict[int, int]:
    """A host's identification registers as a vCPU with every feature sees them, by number; 0 where there is none."""
    found = {
        number_of("ID_AA64MMFR0_EL1"): host.id_aa64mmfr0_el1,
        number_of("ID_AA64MMFR1_EL1"): host.id_aa64mmfr1_el1,
        MMFR2: host.fwb << 40,
        PFR0: host.id_aa64pfr0_el1,
        number_of("ID_AA64PFR1_EL1"): host.id_aa64pfr1_el1,
        DFR0: host.id_aa64dfr0_el1,
        number_of("ID_AA64ISAR1_EL1"): host.id_aa64isar1_el1,
        number_of("ID_AA64ISAR2_EL1"): host.id_aa64isar2_el1,
        MIDR: host.midr_el1,
        # Lines of 64 bytes, as nearly every CPU has them.
        CTR: 0x8444_C004 | host.dic << 29,
    }
    given = {id_ & 0xFFFF: value for id_, value in host.registers.items() if id_ & ~0xFFFF == SYSREG}
    found |= given
    if CLIDR not in given:
        found[CLIDR] = _made_up_clidr(found[CTR])
    return found


def _made_up_clidr(ctr: int) -> int:
    """The caches that KVM makes up where it does not show the host's (reset_clidr): as few as CTR_EL0 allows."""
    dic, idc = ctr >> 29 & 1, ctr >> 28 & 1
    level = (1 if dic else 2) if idc else 1
    clidr = 4 << 3 * (level - 1) if idc else 1 << 27 | 1 << 21 | 2
    return clidr | (0 if dic else 1) | level << 24


def shown(vcpu: Vcpu) -> Mapping[int, int]:
    """ID registers, and CTR_EL0, of a vCPU's features; registers that are reserved are 0."""
    vm = vcpu.vm
    has_pmu = vcpu.has_feature(abi.KVM_ARM_VCPU_PMU_V3) or not vm.behaviour.hides_absent_pmu
    sve, keys = (vcpu.has_feature(bit) for bit in (abi.KVM_ARM_VCPU_SVE, abi.KVM_ARM_VCPU_PTRAUTH_ADDRESS))
    return _shown(vm.profile, (has_pmu, sve, keys, vm.mte))


@lru_cache(maxsize=64)
def _shown(host: HostProfile, features: tuple[bool, ...]) -> dict[int, int]:
    known = host_values(host)
    values = {id_: known.get(id_, 0) for id_ in (*IDENTIFICATION, CTR)}
    for has, fields in zip(features, (_PMU, _SVE, _POINTER_AUTHENTICATION, _MTE), strict=True):
        for id_, mask in fields.items() if not has else ():
            values[id_] &= ~mask
    return values


def has_aarch32(vm: VirtualMachine) -> bool:
    """Whether EL0 can be of 32 bits; else the AArch32 ID registers read as zero, and ignore what is written."""
    return field("ID_AA64PFR0_EL1", "EL0", vm.profile.id_aa64pfr0_el1) > 1


# ------------------------------------------------------------------------------------------------ what is allowed


def set_feature_register(vcpu: Vcpu, register: int, value: int) -> None:
    """KVM_SET_ONE_REG of an ID register."""
    if vcpu.vm.behaviour.id_registers_of_vm:
        _set_vms(vcpu, register, value)
    else:
        _set_fixed(vcpu, register, value)


def _set_fixed(vcpu: Vcpu, register: int, value: int) -> None:
    """Before there were writable ones: the same value; but a VM may be told that a mitigation is not there."""
    current = vcpu.registers.system[register]
    free = _free_of_pfr0(vcpu.vm) if register == PFR0 else 0
    if (value ^ current) & ~free:
        raise RefusedError(EINVAL)
    if free:
        host = vcpu.vm.host_registers[PFR0]
        for position in _MITIGATIONS:
            if free >> position & 1 and value >> position & 0xF > min(1, host >> position & 0xF):
                raise RefusedError(EINVAL)
        # Of the VM, and so of every vCPU.
        vcpu.vm.vcpu_settings.mitigations = value & free
        for other in vcpu.vm.vcpus:
            tell_mitigations(other)


def tell_mitigations(vcpu: Vcpu) -> None:
    """Have a vCPU's ID_AA64PFR0_EL1 say what the VM was told."""
    told, system = vcpu.vm.vcpu_settings.mitigations, vcpu.registers.system
    if told is not None and PFR0 in system:
        system[PFR0] = system[PFR0] & ~_free_of_pfr0(vcpu.vm) | told


# ID_AA64PFR0_EL1.CSV2 and CSV3.
_MITIGATIONS: Final = (56, 60)


def _free_of_pfr0(vm: VirtualMachine) -> int:
    return 0xFF << 56 if vm.behaviour.csv3_is_free else 0xF << 56


def _set_vms(vcpu: Vcpu, register: int, value: int) -> None:
    vm = vcpu.vm
    if register in AARCH32 and not has_aarch32(vm):
        return
    value = _corrected(vcpu, register, value)
    shared = vm.vcpu_settings.id_registers
    if vm.has_run:
        if value != shared[register]:
            raise RefusedError(EBUSY)
        return
    limit = shown(vcpu)[register]
    if not (_ctr_is_safe(vm, value, limit) if register == CTR else _is_safe(vm, register, value, limit)):
        raise RefusedError(EINVAL)
    shared[register] = value


def _corrected(vcpu: Vcpu, register: int, value: int) -> int:
    """Rules of single registers, before the general one: what is refused, and what is taken for something else."""
    known = vcpu.vm.behaviour
    if register == DFR0:
        if value & 0xF < _DEBUG_V8:
            raise RefusedError(EINVAL)
        if value >> 8 & 0xF == _IMPLEMENTATION_DEFINED:
            value &= ~0xF00
    elif register == DFR0_32:
        if value >> 24 & 0xF == _IMPLEMENTATION_DEFINED:
            value &= ~(0xF << 24)
        if 0 < value >> 24 & 0xF < _PERFMON_V3 or value & 0xF < _DEBUG_V8:
            raise RefusedError(EINVAL)
    elif register == PFR0 and known.writes_more_id_registers:
        # AArch64 at EL0 and EL1 stays.
        if not value & 0xF or not value & 0xF0:
            raise RefusedError(EINVAL)
    elif register == MMFR2 and known.writes_more_id_registers:
        # FEAT_NV was shown once.
        host = vcpu.vm.profile.registers.get(SYSREG | MMFR2, 0)
        value = with_field("ID_AA64MMFR2_EL1", "NV", value, 0) if (value ^ host) >> 24 & 0xF == 0 else value
    elif register == CTR and known.writes_more_id_registers and not value >> _L1IP & 2:
        raise RefusedError(EINVAL)
    return value


def _is_safe(vm: VirtualMachine, register: int, value: int, limit: int) -> bool:
    """Whether each field is within what the host has, and is one that may be changed (arm64_check_features)."""
    writable = masks(vm.profile).get(_index(register), 0)
    for position in _FIELDS:
        asked, most = value >> position & 0xF, limit >> position & 0xF
        if asked == most:
            continue
        if writable >> position & 0xF != 0xF and not _single_bits(register, writable >> position & 0xF, asked, most):
            return False
        if not _field_is_safe(register, position, asked, most):
            return False
    return True


def _single_bits(register: int, writable: int, asked: int, most: int) -> bool:
    """Registers whose fields are of one bit, which may be cleared."""
    return register == number_of("ID_AA64FPFR0_EL1") and not (asked ^ most) & ~writable and not asked & ~most


def _field_is_safe(register: int, position: int, asked: int, most: int) -> bool:
    if position in _ONE_OTHER.get(register, ()):
        return asked == _ONE_OTHER[register][position]
    if position in _MORE_IS_SAFE.get(register, ()):
        return asked >= most
    if position in _SIGNED.get(register, ()):
        return (asked ^ 8) <= (most ^ 8)
    return asked <= most


def _ctr_is_safe(vm: VirtualMachine, value: int, limit: int) -> bool:
    writable = _CTR_WRITABLE
    if vm.behaviour.writes_more_id_registers:
        writable |= 3 << _L1IP
        if value >> _L1IP & 3 not in {_VIPT, limit >> _L1IP & 3}:
            return False
    if (value ^ limit) & ~writable:
        return False
    return all(value >> bit & 1 <= limit >> bit & 1 for bit in _CTR_SINGLE_BITS) and all(
        value >> position & 0xF <= limit >> position & 0xF for position in _CTR_LINES
    )


def _index(register: int) -> int:
    """KVM_ARM_FEATURE_ID_RANGE_INDEX, of registers with op1 0."""
    return register & 0x3F


def set_invariant(vcpu: Vcpu, register: int, value: int) -> None:
    """A register that is the host's; a VM with KVM_CAP_ARM_WRITABLE_IMP_ID_REGS may have another (set_imp_id_reg)."""
    vm = vcpu.vm
    if value == vcpu.registers.read_system(register):
        return
    if not vm.writable_imp_id_regs:
        raise RefusedError(EINVAL)
    if vm.has_run:
        raise RefusedError(EBUSY)
    if value & ~_IMPLEMENTATION_MASKS[register]:
        raise RefusedError(EINVAL)
    vm.vcpu_settings.id_registers[register] = value


# GENMASK_ULL(31, 0) for MIDR_EL1, all of the others.
_IMPLEMENTATION_MASKS: Final = {
    MIDR: 0xFFFF_FFFF,
    number_of("REVIDR_EL1"): (1 << 64) - 1,
    number_of("AIDR_EL1"): (1 << 64) - 1,
}


# ------------------------------------------------------------------------------------------------ once a VM runs


def freeze(vm: VirtualMachine) -> None:
    """What a VM's first run makes of its ID registers (kvm_finalize_sys_regs): without a vGIC there is none to see."""
    if not vm.behaviour.id_registers_of_vm or vm.has_run:
        return
    shared = vm.vcpu_settings.id_registers
    gic = 0xF << 24
    if vm.vgic is None:
        shared[PFR0] &= ~gic
        shared[PFR1_32] &= ~(0xF << 28)
