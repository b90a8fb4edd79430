# SPDX-License-Identifier: Apache-2.0
"""The VM of the emulated kernel, and its descriptor (kvm_vm_ioctl in virt/kvm/kvm_main.c)."""

from __future__ import annotations

from errno import EINVAL, EIO
from os import getpid
from threading import RLock
from typing import TYPE_CHECKING, Final

from kvmipa._abi_table import KVM_CHECK_EXTENSION
from kvmipa.backend.emulated import device, enable_cap, interrupts, memslots, vcpu
from kvmipa.backend.emulated.requests import Request, answer, handlers

if TYPE_CHECKING:
    from kvmipa.backend.emulated.descriptors import Descriptors
    from kvmipa.backend.emulated.host import HostProfile
    from kvmipa.backend.emulated.user_memory import Argument
    from kvmipa.stage2 import Stage2


class VirtualMachine:
    """A VM: what its own descriptor and those of its vCPUs and devices stand for (struct kvm).

    lock: held while a request on any of them is answered. The kernel has several, each for a part of it; Python runs
    one thread at a time anyway.
    """

    def __init__(
        self,
        profile: HostProfile,
        descriptors: Descriptors,
        answers: dict[int, int],
        ipa_bits: int,
        *,
        protected: bool = False,
    ) -> None:
        self.profile = profile
        self.behaviour = profile.behaviour
        self.descriptors = descriptors
        self.answers = answers
        self.ipa_bits = ipa_bits
        self.ipa_size = 1 << ipa_bits
        self.protected = protected
        self.lock = RLock()
        # Set by what the kernel calls kvm_vm_dead: nothing but closing works from then on.
        self.dead = False
        # The kernel compares address spaces (kvm->mm); a child after fork has another one.
        self._owner = getpid()

    @property
    def out_of_reach(self) -> bool:
        """Whether every request is EIO: the VM is dead, or another process's (kernel-device-spec, global gates)."""
        return self.dead or getpid() != self._owner

    def check_extension(self, cap: Argument) -> int:
        """KVM_CHECK_EXTENSION."""
        assert isinstance(cap, int)
        return self.answers.get(cap, 0)

    @property
    def stage2(self) -> Stage2:
        """The VM's translation: fixed when it was created."""
        from kvmipa.stage2 import Stage2
        from kvmipa.stage2.geometry import Geometry

        register = self.profile.stage2_register(self.ipa_bits)
        return Stage2(register, Geometry(self.profile.page_size, register.ipa_bits))


class VmFile:
    """An open VM."""

    def __init__(self, vm: VirtualMachine) -> None:
        self.vm = vm
        self._handlers = handlers(_REQUESTS, vm.profile.release)

    def ioctl(self, request: int, argument: Argument) -> int:
        """Answer one request; an unknown one is EINVAL on arm64, not ENOTTY."""
        vm = self.vm
        if vm.out_of_reach:
            return -EIO
        handler = self._handlers.get(request)
        if handler is None:
            return -EINVAL
        with vm.lock:
            return answer(handler, vm, argument)


_REQUESTS: Final = (
    Request(KVM_CHECK_EXTENSION, VirtualMachine.check_extension),
    *memslots.VM_REQUESTS,
    *vcpu.VM_REQUESTS,
    *device.VM_REQUESTS,
    *interrupts.VM_REQUESTS,
    *enable_cap.VM_REQUESTS,
)
