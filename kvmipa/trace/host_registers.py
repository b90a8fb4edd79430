# SPDX-License-Identifier: Apache-2.0
"""What a real host's vCPUs have in registers at first, beyond the ID registers that HostProfile.of() reads.

With it a trace's host can be emulated so that its own trace has no difference: the caches, CTR_EL0, the vector lengths,
the PMU's events, what firmware protects against.
"""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Final

from kvmipa import abi, errors
from kvmipa.vcpu import VcpuFeature

if TYPE_CHECKING:
    from kvmipa.system import Kvm

# Features of a vCPU that have registers of their own, by the capability.
_FEATURES: Final = {
    abi.KVM_CAP_ARM_PMU_V3: VcpuFeature.PMU_V3,
    abi.KVM_CAP_ARM_SVE: VcpuFeature.SVE,
    abi.KVM_CAP_ARM_PTRAUTH_ADDRESS: VcpuFeature.PTRAUTH_ADDRESS | VcpuFeature.PTRAUTH_GENERIC,
}

_SYSTEM: Final = abi.KVM_REG_ARM64 | abi.KVM_REG_SIZE_U64 | abi.KVM_REG_ARM64_SYSREG
_FIRMWARE: Final = abi.KVM_REG_ARM64 | abi.KVM_REG_SIZE_U64 | abi.KVM_REG_ARM_FW
_DEMUX: Final = abi.KVM_REG_ARM64 | abi.KVM_REG_SIZE_U32 | abi.KVM_REG_ARM_DEMUX
_VECTOR_LENGTHS: Final = abi.KVM_REG_ARM64 | abi.KVM_REG_ARM64_SVE | abi.KVM_REG_SIZE_U512 | 0xFFFF
# ACTLR_EL1, AMAIR_EL1, PMCR_EL0, PMCEID0_EL0, PMCEID1_EL0, CNTFRQ_EL0.
_OTHERS: Final = {_SYSTEM | number for number in (0xC081, 0xC518, 0xDCE0, 0xDCE6, 0xDCE7, 0xDF00)}
# MPIDR_EL1 is the vCPU's.
_MPIDR: Final = _SYSTEM | 0xC005


def registers_of(kvm: Kvm) -> dict[int, int]:
    """Registers by id, without those that are 0; empty where no vCPU can be made.

    >>> import kvmipa
    >>> with kvmipa.open("emulated", host="qemu-cortex-a57-6.12-4k") as kvm:
    ...     hex(registers_of(kvm)[kvmipa.Reg.ID_AA64MMFR0_EL1])
    '0x1124'
    """
    found: dict[int, int] = {}
    features = VcpuFeature.PSCI_0_2
    for capability, more in _FEATURES.items():
        if kvm.check_extension(capability) > 0:
            features |= more
    with suppress(errors.KvmError), kvm.create_vm(32 if kvm.host_ipa_limit else None) as vm, vm.create_vcpu() as vcpu:
        vcpu.init(features)
        if features & VcpuFeature.SVE:
            vcpu.finalize(VcpuFeature.SVE)
        for register in vcpu.reg_list():
            if _is_of_host(register):
                found[int(register)] = vcpu.get(register)
    return {register: value for register, value in found.items() if value}


def _is_of_host(register: int) -> bool:
    """Whether a register's first value is the host's."""
    if register in {_MPIDR, _FIRMWARE}:
        return False
    if register & ~0xFFFF in {_FIRMWARE, _DEMUX} or register == _VECTOR_LENGTHS or register in _OTHERS:
        return True
    # What says what the CPU is: op0 3, CRn 0, and neither op1 4 nor above, nor MPIDR_EL1 and the like.
    return register & ~0x3FFF == _SYSTEM | 0xC000 and not register >> 7 & 0xF and register & 0x3FFF != 0x1000
