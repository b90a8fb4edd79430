# SPDX-License-Identifier: Apache-2.0
"""The system descriptor of the emulated kernel (kvm_dev_ioctl in virt/kvm/kvm_main.c; kernel-ipa-spec 1.3 and 2)."""

from __future__ import annotations

from errno import EINVAL, ENOMEM, EOPNOTSUPP
from typing import TYPE_CHECKING, Final

from kvmipa._abi_table import (
    KVM_API_VERSION,
    KVM_CHECK_EXTENSION,
    KVM_CREATE_VM,
    KVM_GET_API_VERSION,
    KVM_GET_VCPU_MMAP_SIZE,
    KVM_TRACE_DISABLE,
    KVM_TRACE_ENABLE,
    KVM_TRACE_PAUSE,
    KVM_VM_TYPE_ARM_PROTECTED,
)
from kvmipa.backend.emulated.capabilities import answers
from kvmipa.backend.emulated.vm import VirtualMachine, VmFile
from kvmipa.machine_type import Verdict

if TYPE_CHECKING:
    from collections.abc import Callable

    from kvmipa.backend.emulated.descriptors import Descriptors
    from kvmipa.backend.emulated.host import HostProfile
    from kvmipa.backend.emulated.user_memory import Argument

# allocate_vm_table_entry in arch/arm64/kvm/hyp/nvhe/pkvm.c.
PKVM_VMS: Final = 255


class SystemFile:
    """An open /dev/kvm."""

    def __init__(self, profile: HostProfile, descriptors: Descriptors) -> None:
        self.profile = profile
        self._descriptors = descriptors
        self._rules = profile.type_rules
        self._descriptor_first = profile.behaviour.descriptor_first
        self._answers = answers(profile, on_vm=False)
        self._vm_answers = {protected: answers(profile, on_vm=True, protected=protected) for protected in (False, True)}
        self._vms_are_counted = profile.pkvm and profile.behaviour.pkvm_reserves_vms

    def ioctl(self, request: int, argument: Argument, /) -> int:
        """Answer one request; an unknown one is EINVAL on arm64, not ENOTTY."""
        handler = _REQUESTS.get(request)
        # None of the system descriptor's requests takes a struct.
        if handler is not None and isinstance(argument, int):
            return handler(self, argument)
        obsolete = request in _TRACE_REQUESTS and not self.profile.behaviour.forgets_trace_requests
        return -EOPNOTSUPP if obsolete else -EINVAL

    def _get_api_version(self, argument: int) -> int:
        return -EINVAL if argument else KVM_API_VERSION

    def _get_vcpu_mmap_size(self, argument: int) -> int:
        """kvm_run and the coalesced-MMIO ring, a page each."""
        return -EINVAL if argument else 2 * self.profile.page_size

    def _check_extension(self, cap: int) -> int:
        return self._answers.get(cap, 0)

    def _create_vm(self, machine_type: int) -> int:
        """A new descriptor, or the first thing that is in the way: 5.10 builds the VM first (kernel-ipa-spec 2.4)."""
        if self._descriptor_first:
            fd = self._descriptors.reserve()
            refusal = 0 if fd < 0 else self._refusal(machine_type)
            if refusal:
                self._descriptors.give_back(fd)
        else:
            refusal = self._refusal(machine_type)
            fd = -1 if refusal else self._descriptors.reserve()
        if refusal:
            return -refusal
        if fd < 0:
            return fd
        protected = bool(machine_type & KVM_VM_TYPE_ARM_PROTECTED)
        vm = VirtualMachine(
            self.profile,
            self._descriptors,
            self._vm_answers[protected],
            self._rules.ipa_bits(machine_type),
            protected=protected,
        )
        return self._descriptors.install(fd, VmFile(vm))

    def _refusal(self, machine_type: int) -> int:
        """The errno with which a VM of this type cannot be built, or 0."""
        if self._rules.judge(machine_type) is not Verdict.ACCEPTED:
            return EINVAL
        if self._vms_are_counted:
            # A VM lives as long as a descriptor of it or of its vCPUs and devices.
            alive = {vm for file in self._descriptors.files() if (vm := getattr(file, "vm", None)) is not None}
            return ENOMEM if len(alive) >= PKVM_VMS else 0
        return 0


_REQUESTS: Final[dict[int, Callable[[SystemFile, int], int]]] = {
    KVM_GET_API_VERSION: SystemFile._get_api_version,
    KVM_CREATE_VM: SystemFile._create_vm,
    KVM_CHECK_EXTENSION: SystemFile._check_extension,
    KVM_GET_VCPU_MMAP_SIZE: SystemFile._get_vcpu_mmap_size,
}
_TRACE_REQUESTS: Final = frozenset((KVM_TRACE_ENABLE, KVM_TRACE_PAUSE, KVM_TRACE_DISABLE))
