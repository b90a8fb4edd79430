# SPDX-License-Identifier: Apache-2.0
"""Vcpu: the descriptor of one virtual CPU."""

from __future__ import annotations

from enum import IntFlag
from typing import TYPE_CHECKING, Final

from kvmipa import abi
from kvmipa.device import AttributeHandle
from kvmipa.packing import PackedStruct

if TYPE_CHECKING:
    from kvmipa.backend import Backend
    from kvmipa.errors import KvmError
    from kvmipa.vm import Vm

_INIT: Final = PackedStruct("vcpu_init")


class VcpuFeature(IntFlag):
    """What KVM_ARM_VCPU_INIT can be asked for: the first of its seven words of features, the others have none.

    HAS_EL2, HAS_EL2_E2H0 and PMU_V3_STRICT are of Linux 7.3.

    >>> hex(VcpuFeature.PSCI_0_2 | VcpuFeature.SVE)
    '0x14'
    """

    POWER_OFF = 1 << abi.KVM_ARM_VCPU_POWER_OFF
    EL1_32BIT = 1 << abi.KVM_ARM_VCPU_EL1_32BIT
    PSCI_0_2 = 1 << abi.KVM_ARM_VCPU_PSCI_0_2
    PMU_V3 = 1 << abi.KVM_ARM_VCPU_PMU_V3
    SVE = 1 << abi.KVM_ARM_VCPU_SVE
    PTRAUTH_ADDRESS = 1 << abi.KVM_ARM_VCPU_PTRAUTH_ADDRESS
    PTRAUTH_GENERIC = 1 << abi.KVM_ARM_VCPU_PTRAUTH_GENERIC
    HAS_EL2 = 1 << abi.KVM_ARM_VCPU_HAS_EL2
    HAS_EL2_E2H0 = 1 << abi.KVM_ARM_VCPU_HAS_EL2_E2H0
    PMU_V3_STRICT = 1 << abi.KVM_ARM_VCPU_PMU_V3_STRICT


class Vcpu(AttributeHandle):
    """A virtual CPU; made by Vm.create_vcpu().

    It keeps working when the Vm that made it is closed. vcpu_id: what Vm.create_vcpu() was given.

    >>> import kvmipa
    >>> with kvmipa.open("emulated") as kvm, kvm.create_vm(40) as vm, vm.create_vcpu(0) as vcpu:
    ...     vcpu.init()
    ...     vcpu.get_attr(1, 0, 4)
    27
    """

    kind = "Vcpu"

    def __init__(self, backend: Backend, fd: int, vm: Vm, vcpu_id: int, target: int | None) -> None:
        super().__init__(backend, fd)
        self._vm = vm
        self.vcpu_id = vcpu_id
        self._target = target

    def init(self, features: int = VcpuFeature.PSCI_0_2, target: int | None = None) -> None:
        """KVM_ARM_VCPU_INIT: give the vCPU its features and its registers their first values; again resets it.

        features: VcpuFeature members, or-ed; since 6.12 all vCPUs of a VM have the same (POWER_OFF aside).
        target: the CPU's number, None for the one that the Vm names (KVM_ARM_PREFERRED_TARGET).

        Raises VcpuFeatureError, VcpuTargetError; TypeError, OverflowError for what does not fit 32 bits; ClosedError,
        OtherProcessError.
        """
        chosen = self._preferred_target() if target is None else target
        result = self._backend.ioctl_buffer(self._fd, abi.KVM_ARM_VCPU_INIT, _INIT.pack(chosen, features))
        if result < 0:
            from kvmipa.causes.vcpus import InitAttempt

            ask = None if self._vm.closed else self._vm.check_extension
            raise InitAttempt(features, chosen, self._target, ask).error(-result)

    def _preferred_target(self) -> int:
        # Where the VM named none when the vCPU was made, it is asked again, and says why.
        return self._vm.preferred_target() if self._target is None else self._target

    def set_pvtime_ipa(self, address: int) -> None:
        """Where the guest reads how long it did not run: a guest address of 64 bytes, on a boundary of 64.

        It has to be in a slot that is not read-only, and stays. Raises MisalignedDeviceAddressError,
        AddressAlreadySetError, NoMemoryThereError; NoSuchAttributeError where the host does not count that.

        >>> import kvmipa
        >>> with kvmipa.open("emulated") as kvm, kvm.create_vm(40) as vm, vm.create_vcpu(0) as vcpu:
        ...     slot = vm.add_memory(0x4000_0000, kvmipa.GuestMemory(1 << 16))
        ...     vcpu.set_pvtime_ipa(0x4000_0040)
        """
        self.set_attr(abi.KVM_ARM_VCPU_PVTIME_CTRL, abi.KVM_ARM_VCPU_PVTIME_IPA, address)

    def _attribute_error(self, code: int, request: int, group: int, attr: int, value: int | None) -> KvmError:
        from kvmipa.causes.vcpu_attributes import VcpuAttempt

        return VcpuAttempt(request, group, attr, value, self.closed).error(code)

    def __repr__(self) -> str:
        """Backend, id and state."""
        state = "closed" if self.closed else f"fd={self._fd}"
        return f"<kvmipa.Vcpu {self.backend} id={self.vcpu_id} {state}>"
