# SPDX-License-Identifier: Apache-2.0
"""The VM of the emulated kernel, and its descriptor (kvm_vm_ioctl in virt/kvm/kvm_main.c)."""

from __future__ import annotations

from functools import lru_cache
from os import getpid
from threading import RLock
from typing import TYPE_CHECKING, Any, Final

from kvmipa._abi_table import KVM_CAP_MAX_VCPUS, KVM_CHECK_EXTENSION
from kvmipa.backend.emulated import device, enable_cap, interrupts, io_events, memslots, pkvm, vcpu, vm_misc
from kvmipa.backend.emulated.capabilities import OF_THE_VM
from kvmipa.backend.emulated.eventfds import EventFds
from kvmipa.backend.emulated.interrupts import Interrupts
from kvmipa.backend.emulated.io_events import IoEvents
from kvmipa.backend.emulated.release import behaviour
from kvmipa.backend.emulated.requests import Request, VmBoundFile, handlers

if TYPE_CHECKING:
    from kvmipa.access import Access, Result
    from kvmipa.backend.emulated.descriptors import Descriptors
    from kvmipa.backend.emulated.host import HostProfile
    from kvmipa.backend.emulated.requests import Handler
    from kvmipa.backend.emulated.stage2_mmu import Stage2Mmu
    from kvmipa.backend.emulated.user_memory import Argument
    from kvmipa.stage2 import Stage2


class VirtualMachine:
    """A VM: what its own descriptor and those of its vCPUs and devices stand for (struct kvm).

    lock: held while a request on any of them is answered. The kernel has several, each for a part of it; Python runs
    one thread at a time anyway.
    """

    # What KVM_ENABLE_CAP switches on (kernel-device-spec 4.7), as it is at first; sizes in bytes.
    # manual_dirty_log_protect: 0, 1 or 3, as asked for; halt_poll_ns: None where nobody chose it.
    manual_dirty_log_protect: int = 0
    halt_poll_ns: int | None = None
    nisv_to_user: bool = False
    mte: bool = False
    system_suspend: bool = False
    dirty_ring_size: int = 0
    dirty_ring_with_bitmap: bool = False
    eager_split_chunk: int = 0
    writable_imp_id_regs: bool = False
    sea_to_user: bool = False
    # KVM_ARM_SET_COUNTER_OFFSET, in ticks; None where each vCPU has its own.
    counter_offset: int | None = None

    # Without a device or a vCPU; those of a VM that has some are set on it.
    vgic: Any = None
    vcpus: Any = ()
    itses: Any = ()
    its_count: int = 0
    created_vcpus: int = 0
    vcpu_settings: Any = None
    vfio: Any = None

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
        self.page_shift = profile.page_size.bit_length() - 1
        self.lock = RLock()
        # Set by what the kernel calls kvm_vm_dead: nothing but closing works from then on.
        self.dead = False
        self.memslots = memslots.new_memslots(answers)
        self._mmu: Stage2Mmu | None = None
        # By the host's GIC, until the VM has a vGIC of its own.
        self.max_vcpus: int = answers.get(KVM_CAP_MAX_VCPUS, 0)
        self._interrupts: Interrupts | None = None
        self._io_events: IoEvents | None = None
        self._eventfds: EventFds | None = None
        self._tags: dict[int, bytes] | None = None
        # The kernel compares address spaces (kvm->mm); a child after fork has another one.
        self._owner = getpid()

    @property
    def out_of_reach(self) -> bool:
        """Whether every request is EIO: the VM is dead, or another process's (kernel-device-spec, global gates)."""
        return self.dead or getpid() != self._owner

    def check_extension(self, cap: Argument) -> int:
        """KVM_CHECK_EXTENSION."""
        assert isinstance(cap, int)
        state = OF_THE_VM.get(cap)
        return state(self) if state and cap in self.answers else self.answers.get(cap, 0)

    @property
    def interrupts(self) -> Interrupts:
        """What user space has asked of the VM's interrupts."""
        if self._interrupts is None:
            self._interrupts = Interrupts()
        return self._interrupts

    @property
    def io_events(self) -> IoEvents:
        """The VM's ioeventfds and coalesced zones."""
        if self._io_events is None:
            self._io_events = IoEvents()
        return self._io_events

    @property
    def eventfds(self) -> EventFds:
        """The process's eventfds that the VM refers to."""
        if self._eventfds is None:
            self._eventfds = EventFds()
        return self._eventfds

    @property
    def tags(self) -> dict[int, bytes]:
        """The memory tags that KVM_ARM_MTE_COPY_TAGS has set: address of a page in the process -> one per granule."""
        if self._tags is None:
            self._tags = {}
        return self._tags

    @property
    def mmu(self) -> Stage2Mmu:
        """The stage-2 MMU, made when a guest or somebody else first looks at it: most VMs of a test never run."""
        if self._mmu is None:
            from kvmipa.backend.emulated.stage2_mmu import Stage2Mmu

            self._mmu = self.memslots.listener = Stage2Mmu(self)
        return self._mmu

    def access(self, what: Access) -> Result:
        """What comes of a guest's access, as if a vCPU had made it."""
        from kvmipa.backend.emulated.faults import access

        with self.lock:
            return access(self, what)

    @property
    def stage2(self) -> Stage2:
        """The VM's translation as it stands."""
        with self.lock:
            return self.mmu.view()


class VmFile(VmBoundFile):
    """An open VM."""

    def __init__(self, vm: VirtualMachine) -> None:
        super().__init__(vm, vm, _handlers(vm.profile.release, vm.profile.pkvm, vm.protected))


_REQUESTS: Final = (
    Request(KVM_CHECK_EXTENSION, VirtualMachine.check_extension),
    *memslots.VM_REQUESTS,
    *vcpu.VM_REQUESTS,
    *device.VM_REQUESTS,
    *interrupts.VM_REQUESTS,
    *enable_cap.VM_REQUESTS,
    *io_events.VM_REQUESTS,
    *vm_misc.VM_REQUESTS,
)


@lru_cache(maxsize=64)
def _handlers(release: str, on_pkvm: bool, protected: bool) -> dict[int, Handler]:
    """Request number -> handler, of a VM's descriptor."""
    rows = _REQUESTS
    if on_pkvm and behaviour(release).pkvm_filters_requests:
        rows = pkvm.allowed(rows, pkvm.NOT_OF_PROTECTED_VMS if protected else pkvm.OF_NO_VM)
    return handlers(rows, release)
