# SPDX-License-Identifier: Apache-2.0
"""Registers of the firmware's interface: PSCI's version, mitigations, and which hypercalls there are.

kernel-device-spec 4.5; arch/arm64/kvm/hypercalls.c: kvm_arm_get_fw_reg, kvm_arm_set_fw_reg, kvm_arm_set_fw_reg_bmap.
"""

from __future__ import annotations

from errno import EBUSY, EINVAL, ENOENT
from typing import TYPE_CHECKING, Final

from kvmipa import abi
from kvmipa.backend.emulated.requests import RefusedError

if TYPE_CHECKING:
    from kvmipa.backend.emulated.vcpu import Vcpu

FIRMWARE: Final = abi.KVM_REG_ARM64 | abi.KVM_REG_SIZE_U64 | abi.KVM_REG_ARM_FW
BITMAPS: Final = abi.KVM_REG_ARM64 | abi.KVM_REG_SIZE_U64 | abi.KVM_REG_ARM_FW_FEAT_BMAP

PSCI_VERSION, WORKAROUND_1, WORKAROUND_2, WORKAROUND_3 = (FIRMWARE | index for index in range(4))

PSCI_0_1: Final = 1
# What user space may choose, the default last: 0.2 and 1.0, 1.1, 1.2 and 1.3.
_OLD_VERSIONS: Final = (2, 0x10000)

# Bits of each bitmap, and what it is at first: standard, standard hypervisor, vendor, and vendor's second (6.1; 7.3).
_BITMAPS: Final = ((0x1, 0x1), (0x1, 0x1), (0x3, 0x3), (0x3, 0x0))

# The level of a workaround: not there, not known, there, not needed (uapi/asm/kvm.h); and whether it is switched on.
_LEVEL: Final = 0xF
_ENABLED: Final = 0x10
_AVAILABLE: Final = 2
# What 2's levels are taken for: not there, or not needed.
_LEVELS_OF_2: Final = {0: 0, 1: 0, 2: 3, 3: 3}


def psci_versions(vcpu: Vcpu) -> tuple[int, ...]:
    """The versions that a vCPU can have; the last one is the default."""
    if not vcpu.has_feature(abi.KVM_ARM_VCPU_PSCI_0_2):
        return (PSCI_0_1,)
    known = vcpu.vm.behaviour
    newer = (0x10001,) * known.psci_1_1 + (0x10002, 0x10003) * known.psci_1_3
    return (*_OLD_VERSIONS, *newer)


def psci_version(vcpu: Vcpu) -> int:
    """KVM_REG_ARM_PSCI_VERSION: the VM's, which is 0.1 to vCPUs without the feature."""
    versions = psci_versions(vcpu)
    chosen = vcpu.vm.vcpu_settings.psci_version
    return versions[-1] if chosen is None or versions == (PSCI_0_1,) else chosen


def hypercalls(vcpu: Vcpu) -> tuple[int, ...]:
    """The bitmaps of hypercalls that a guest has: standard, standard hypervisor, vendor and vendor's second."""
    count = 3 + vcpu.vm.behaviour.vendor_bitmap_2 if vcpu.vm.behaviour.hypercall_bitmaps else 0
    chosen = vcpu.vm.vcpu_settings.hypercalls
    return tuple(chosen.get(index, first) for index, (_, first) in enumerate(_BITMAPS[:count]))


def workaround(vcpu: Vcpu, register: int) -> int:
    """A workaround's level: the host's."""
    return vcpu.vm.profile.registers.get(register, 0)


def ids(vcpu: Vcpu) -> list[int]:
    """Those that there are, in the order of KVM_GET_REG_LIST."""
    return [
        *(PSCI_VERSION, WORKAROUND_1, WORKAROUND_2, WORKAROUND_3),
        *(BITMAPS | index for index in range(len(hypercalls(vcpu)))),
    ]


def get(vcpu: Vcpu, register: int) -> int:
    """The value of a register; RefusedError."""
    if register not in ids(vcpu):
        raise RefusedError(ENOENT)
    if register == PSCI_VERSION:
        return psci_version(vcpu)
    if register & ~0xFFFF == BITMAPS:
        return hypercalls(vcpu)[register & 0xFFFF]
    return workaround(vcpu, register)


def set(vcpu: Vcpu, register: int, value: int) -> None:
    """Change a register; RefusedError."""
    if register not in ids(vcpu):
        raise RefusedError(ENOENT)
    if register == PSCI_VERSION:
        if value not in psci_versions(vcpu):
            raise RefusedError(EINVAL)
        vcpu.vm.vcpu_settings.psci_version = value
    elif register & ~0xFFFF == BITMAPS:
        _set_bitmap(vcpu, register & 0xFFFF, value)
    elif not _may_say(register, value, workaround(vcpu, register)):
        raise RefusedError(EINVAL)


def _set_bitmap(vcpu: Vcpu, index: int, value: int) -> None:
    if value & ~_BITMAPS[index][0]:
        raise RefusedError(EINVAL)
    if vcpu.vm.has_run and value != hypercalls(vcpu)[index]:
        raise RefusedError(EBUSY)
    vcpu.vm.vcpu_settings.hypercalls[index] = value


def _may_say(register: int, value: int, level: int) -> bool:
    """Whether user space may say that a workaround is so good; it changes nothing."""
    if register != WORKAROUND_2:
        return not value & ~_LEVEL and value <= level
    if value & ~(_LEVEL | _ENABLED) or (value & _ENABLED and value & _LEVEL != _AVAILABLE):
        return False
    taken_for = _LEVELS_OF_2.get(value & _LEVEL)
    return taken_for is not None and taken_for <= level
