# SPDX-License-Identifier: Apache-2.0
"""KVM_ARM_VCPU_INIT and what belongs to it: target and features of a vCPU (kernel-device-spec 4.2)."""

from __future__ import annotations

from errno import EINVAL, ENOENT, ENOEXEC, EPERM
from typing import TYPE_CHECKING, Final

from kvmipa import abi
from kvmipa.backend.emulated import user_memory, vcpu_registers
from kvmipa.backend.emulated.requests import RefusedError, Request
from kvmipa.backend.emulated.vcpu_state import NO_EVENTS

if TYPE_CHECKING:
    from kvmipa.backend.emulated.host import HostProfile
    from kvmipa.backend.emulated.release import Behaviour
    from kvmipa.backend.emulated.user_memory import Argument
    from kvmipa.backend.emulated.vcpu import Vcpu
    from kvmipa.backend.emulated.vm import VirtualMachine

# arch/arm64/include/uapi/asm/kvm.h: KVM_ARM_TARGET_*; by implementer and part number of MIDR_EL1 (kvm_target_cpu).
GENERIC_TARGET: Final = 5
TARGETS: Final = {
    (0x41, 0xD0F): 0,  # AEM
    (0x41, 0xD00): 1,  # Foundation model
    (0x41, 0xD07): 2,  # Cortex-A57
    (0x50, 0x000): 3,  # X-Gene
    (0x41, 0xD03): 4,  # Cortex-A53
}

# How many features a release knows, the last ones first: KVM_VCPU_MAX_FEATURES.
_FEATURE_COUNTS: Final = (("el2_and_strict_pmu_features", 10), ("sve_and_ptrauth_features", 7), ("", 4))

# A feature that needs the host, and the capability by which the host says so.
_CAPABILITIES: Final = {
    abi.KVM_ARM_VCPU_EL1_32BIT: abi.KVM_CAP_ARM_EL1_32BIT,
    abi.KVM_ARM_VCPU_PMU_V3: abi.KVM_CAP_ARM_PMU_V3,
    abi.KVM_ARM_VCPU_SVE: abi.KVM_CAP_ARM_SVE,
    abi.KVM_ARM_VCPU_PTRAUTH_ADDRESS: abi.KVM_CAP_ARM_PTRAUTH_ADDRESS,
    abi.KVM_ARM_VCPU_PTRAUTH_GENERIC: abi.KVM_CAP_ARM_PTRAUTH_GENERIC,
    abi.KVM_ARM_VCPU_HAS_EL2: abi.KVM_CAP_ARM_EL2,
    abi.KVM_ARM_VCPU_PMU_V3_STRICT: abi.KVM_CAP_ARM_PMU_V3,
}
_POINTER_AUTHENTICATION: Final = 1 << abi.KVM_ARM_VCPU_PTRAUTH_ADDRESS | 1 << abi.KVM_ARM_VCPU_PTRAUTH_GENERIC
_POWER_OFF: Final = 1 << abi.KVM_ARM_VCPU_POWER_OFF
_EL1_32BIT: Final = 1 << abi.KVM_ARM_VCPU_EL1_32BIT
_PMU_V3: Final = 1 << abi.KVM_ARM_VCPU_PMU_V3


def host_target(host: HostProfile) -> int:
    """The target that the host's CPU is."""
    midr = host.midr_el1
    return TARGETS.get((midr >> 24 & 0xFF, midr >> 4 & 0xFFF), GENERIC_TARGET)


def preferred_target(vm: VirtualMachine, argument: Argument) -> int:
    """KVM_ARM_PREFERRED_TARGET: the host's, since 6.12 the generic one; features are left to the caller."""
    target = GENERIC_TARGET if vm.behaviour.preferred_target_is_generic else host_target(vm.profile)
    user_memory.write(argument, abi.VCPU_INIT.pack(target, *[0] * 7))
    return 0


def vcpu_init(vcpu: Vcpu, argument: Argument) -> int:
    """KVM_ARM_VCPU_INIT."""
    target, *features = abi.VCPU_INIT.unpack(user_memory.read(argument, abi.VCPU_INIT.size))
    again = vcpu.initialised
    if vcpu.vm.behaviour.vcpu_features_of_vm:
        _init(vcpu, target, features)
    else:
        _init_by_vcpu(vcpu, target, features)
    # kvm_reset_sys_regs: 16 vCPUs to an Aff0, 256 Aff1 to an Aff2.
    vcpu.affinity = vcpu.vcpu_id & 0xF | (vcpu.vcpu_id >> 4 & 0xFF) << 8 | (vcpu.vcpu_id >> 12 & 0xFF) << 16
    if vcpu.has_run and not vcpu.vm.profile.fwb:
        vcpu.vm.mmu.unmap_slots()
    vcpu_registers.reset(vcpu, again=again)
    vcpu.exception_pending = False
    if not (vcpu.has_run and vcpu.vm.behaviour.init_keeps_serror):
        vcpu.events = NO_EVENTS
    vcpu.mp_state = abi.KVM_MP_STATE_STOPPED if features[0] & _POWER_OFF else abi.KVM_MP_STATE_RUNNABLE
    return 0


def _known_features(behaviour: Behaviour) -> int:
    return next(count for row, count in _FEATURE_COUNTS if not row or getattr(behaviour, row))


def _init(vcpu: Vcpu, target: int, words: list[int]) -> None:
    """Since 6.12: all vCPUs of a VM have the same features, but for how they start (kvm_vcpu_set_target)."""
    vm = vcpu.vm
    features = words[0] & ~_POWER_OFF
    if target not in {GENERIC_TARGET, host_target(vm.profile)}:
        raise RefusedError(EINVAL)
    if features >> _known_features(vm.behaviour) or any(words[1:]):
        raise RefusedError(ENOENT)
    pairs_are_whole = features & _POINTER_AUTHENTICATION in {0, _POINTER_AUTHENTICATION} and (
        not features >> abi.KVM_ARM_VCPU_PMU_V3_STRICT & 1 or features & _PMU_V3
    )
    # AArch32 at EL1 has neither memory tags nor an EL2.
    is_32bit = features & _EL1_32BIT
    if (
        _unsupported(vm, features)
        or not pairs_are_whole
        or (is_32bit and (vm.mte or features >> abi.KVM_ARM_VCPU_HAS_EL2 & 1))
    ):
        raise RefusedError(EINVAL)
    settings = vm.vcpu_settings
    if settings.features not in {None, features}:
        raise RefusedError(EINVAL)
    settings.features = features
    if features & _PMU_V3 and not features >> abi.KVM_ARM_VCPU_PMU_V3_STRICT & 1:
        settings.has_pmu = True
    vcpu.target, vcpu.features = target, features


def _init_by_vcpu(vcpu: Vcpu, target: int, words: list[int]) -> None:
    """Before 6.12: features are taken one after the other, and those that were taken stay if a later one fails."""
    vm = vcpu.vm
    if target != host_target(vm.profile) or vcpu.target not in {None, target}:
        raise RefusedError(EINVAL)
    asked = sum(word << 32 * position for position, word in enumerate(words))
    known = _known_features(vcpu.vm.behaviour)
    for bit in range(32 * len(words)):
        is_set = bool(asked >> bit & 1)
        if is_set and bit >= known:
            raise RefusedError(ENOENT)
        if vcpu.initialised and bit < known and is_set != vcpu.has_feature(bit):
            raise RefusedError(EINVAL)
        vcpu.features |= is_set << bit
    features = vcpu.features
    half_a_pair = features & _POINTER_AUTHENTICATION not in {0, _POINTER_AUTHENTICATION}
    if not _width_is_allowed(vcpu) or _unsupported(vm, features) or half_a_pair:
        # kvm_reset_vcpu failed.
        vcpu.target, vcpu.features = None, 0
        raise RefusedError(EINVAL)
    vm.vcpu_settings.has_pmu |= bool(features & _PMU_V3)
    vcpu.target = target


def _width_is_allowed(vcpu: Vcpu) -> bool:
    """Whether EL1 may be of 32 bits, or of 64: all vCPUs' are the same.

    Since 6.1 the first vCPU for which this is asked decides for the VM, whatever else is wrong with it
    (kvm_set_vm_width); before, it is compared with every vCPU that there is, initialised or not
    (vcpu_allowed_register_width).
    """
    vm = vcpu.vm
    is_32bit = bool(vcpu.features & _EL1_32BIT)
    if not vm.behaviour.el1_width_of_vm:
        return all(bool(other.features & _EL1_32BIT) == is_32bit for other in vm.vcpus)
    settings = vm.vcpu_settings
    if settings.is_32bit is None:
        if is_32bit and (vm.mte or not vm.answers.get(abi.KVM_CAP_ARM_EL1_32BIT, 0)):
            return False
        settings.is_32bit = is_32bit
    return settings.is_32bit == is_32bit


def _unsupported(vm: VirtualMachine, features: int) -> bool:
    """Whether there is one that the host does not have (system_supported_vcpu_features)."""
    return any(features >> bit & 1 and not vm.answers.get(cap, 0) for bit, cap in _CAPABILITIES.items())


def finalize(vcpu: Vcpu, argument: Argument) -> int:
    """KVM_ARM_VCPU_FINALIZE: SVE is the only feature that has to be."""
    if not vcpu.initialised:
        return -ENOEXEC
    feature = user_memory.read_number(argument, 4)
    if feature != abi.KVM_ARM_VCPU_SVE or not vcpu.has_feature(feature):
        return -EINVAL
    if vcpu.sve_finalised:
        return -EPERM
    vcpu.sve_finalised = True
    return 0


# On a vCPU's descriptor.
REQUESTS: Final[tuple[Request, ...]] = (
    Request(abi.KVM_ARM_VCPU_INIT, vcpu_init),
    Request(abi.KVM_ARM_VCPU_FINALIZE, finalize, needs=abi.KVM_CAP_ARM_SVE),
)
