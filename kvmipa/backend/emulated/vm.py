# SPDX-License-Identifier: Apache-2.0
"""The VM of the emulated kernel, and its descriptor (kvm_vm_ioctl in virt/kvm/kvm_main.c)."""

from __future__ import annotations

from errno import EIO
from functools import cached_property, lru_cache
from os import getpid
from threading import RLock
from typing import TYPE_CHECKING, Final

from kvmipa._abi_table import KVM_CAP_MAX_VCPUS, KVM_CAP_NR_MEMSLOTS, KVM_CHECK_EXTENSION
from kvmipa.backend.emulated import (
    device,
    dirty_log,
    enable_cap,
    guest_memfd,
    interrupts,
    io_events,
    set_memory_region,
    smccc_filter,
    stats,
    vcpu,
    vm_misc,
)
from kvmipa.backend.emulated.capabilities import OF_THE_VM, pkvm_allows
from kvmipa.backend.emulated.eventfds import EventFds
from kvmipa.backend.emulated.interrupts import Interrupts
from kvmipa.backend.emulated.io_events import IoEvents
from kvmipa.backend.emulated.memslots import Memslots
from kvmipa.backend.emulated.release import behaviour
from kvmipa.backend.emulated.requests import Request, VmBoundFile, handlers
from kvmipa.backend.emulated.vcpu_settings import VcpuSettings

if TYPE_CHECKING:
    from kvmipa.access import Access, Result
    from kvmipa.backend.emulated.descriptors import Descriptors
    from kvmipa.backend.emulated.dirty_ring import DirtyRing
    from kvmipa.backend.emulated.host import HostProfile
    from kvmipa.backend.emulated.requests import Handler
    from kvmipa.backend.emulated.stage2_mmu import Stage2Mmu
    from kvmipa.backend.emulated.user_memory import Argument
    from kvmipa.backend.emulated.vcpu import Vcpu
    from kvmipa.backend.emulated.vfio import Vfio
    from kvmipa.backend.emulated.vgic.controller import Vgic
    from kvmipa.backend.emulated.vgic.its import Its
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

    # On whose behalf memory is accessed at present; None: on nobody's (kvm_get_running_vcpu).
    running: Vcpu | None = None

    # Since 6.1: the first run of a vCPU failed (kvm_vm_dead).
    is_dead: bool = False

    # Without a device or a vCPU; those of a VM that has some are set on it.
    vgic: Vgic | None = None
    vcpus: tuple[Vcpu, ...] = ()
    itses: tuple[Its, ...] = ()
    vfio: Vfio | None = None

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
        self.memslots = Memslots(answers[KVM_CAP_NR_MEMSLOTS])
        # By the host's GIC, until the VM has a vGIC of its own.
        self.max_vcpus: int = answers.get(KVM_CAP_MAX_VCPUS, 0)
        # The kernel compares address spaces (kvm->mm); a child after fork has another one.
        self._owner = getpid()

    @property
    def out_of_reach(self) -> bool:
        """Whether every request is EIO: the VM is another process's, or dead (kernel-device-spec, global gates)."""
        return self.is_dead or self.is_of_another_process

    @property
    def is_of_another_process(self) -> bool:
        """Whether this is a child after fork, which has the descriptors and none of the threads."""
        return getpid() != self._owner

    def translations_changed(self) -> None:
        """Stage 2 maps less than it did: no CPU uses what it knew, from here on. The lock is held."""
        for one in self.vcpus:
            if one.processor is not None:
                one.processor.forget_translations()

    def check_extension(self, cap: Argument) -> int:
        """KVM_CHECK_EXTENSION."""
        assert isinstance(cap, int)
        state = OF_THE_VM.get(cap)
        return state(self) if state and cap in self.answers else self.answers.get(cap, 0)

    @cached_property
    def interrupts(self) -> Interrupts:
        """What user space has asked of the VM's interrupts."""
        return Interrupts()

    @cached_property
    def io_events(self) -> IoEvents:
        """The VM's ioeventfds and coalesced zones."""
        return IoEvents(self)

    @cached_property
    def dirty_rings(self) -> dict[Vcpu, DirtyRing]:
        """The rings of its vCPUs, where it has them; one is made when it is first needed."""
        return {}

    @cached_property
    def eventfds(self) -> EventFds:
        """The process's eventfds that the VM refers to; Descriptors.eventfd_lock is held."""
        return EventFds()

    @cached_property
    def vcpu_settings(self) -> VcpuSettings:
        """What all vCPUs have in common."""
        return VcpuSettings()

    @property
    def has_run(self) -> bool:
        """Whether one of its vCPUs has."""
        return any(vcpu.has_run for vcpu in self.vcpus)

    @cached_property
    def host_registers(self) -> dict[int, int]:
        """The host's identification registers, as KVM shows them to a vCPU with every feature."""
        from kvmipa.backend.emulated.feature_registers import host_values

        return host_values(self.profile)

    @cached_property
    def smccc_filter(self) -> dict[tuple[int, int], int]:
        """What becomes of a guest's calls: first and last function id -> action."""
        return {}

    @cached_property
    def tags(self) -> dict[int, bytes]:
        """The memory tags that KVM_ARM_MTE_COPY_TAGS has set: address of a page in the process -> one per granule."""
        return {}

    @cached_property
    def mmu(self) -> Stage2Mmu:
        """The stage-2 MMU, made when a guest or somebody else first looks at it: most VMs of a test never run."""
        from kvmipa.backend.emulated.stage2_mmu import Stage2Mmu

        made = self.memslots.listener = Stage2Mmu(self)
        return made

    def access(self, what: Access) -> Result:
        """What comes of a guest's access, as if a vCPU had made it; OSError (EIO) for a VM that is out of reach."""
        from kvmipa.backend.emulated.faults import access

        self._check_reach()
        with self.lock:
            return access(self, what)

    @property
    def stage2(self) -> Stage2:
        """The VM's translation as it stands; OSError (EIO) for a VM that is out of reach."""
        self._check_reach()
        with self.lock:
            return self.mmu.view()

    def _check_reach(self) -> None:
        if self.out_of_reach:
            raise OSError(EIO, "this VM is another process's, or dead")


class VmFile(VmBoundFile):
    """An open VM."""

    def __init__(self, vm: VirtualMachine) -> None:
        super().__init__(vm, vm, _handlers(vm.profile.release, vm.profile.pkvm, vm.protected))


_REQUESTS: Final = (
    Request(KVM_CHECK_EXTENSION, VirtualMachine.check_extension),
    *set_memory_region.VM_REQUESTS,
    *dirty_log.VM_REQUESTS,
    *guest_memfd.VM_REQUESTS,
    *vcpu.VM_REQUESTS,
    *device.VM_REQUESTS,
    *smccc_filter.VM_REQUESTS,
    *interrupts.VM_REQUESTS,
    *enable_cap.VM_REQUESTS,
    *io_events.VM_REQUESTS,
    *vm_misc.VM_REQUESTS,
    *stats.VM_REQUESTS,
)


@lru_cache(maxsize=64)
def _handlers(release: str, on_pkvm: bool, protected: bool) -> dict[int, Handler]:
    """Request number -> handler, of a VM's descriptor."""
    rows = _REQUESTS
    if on_pkvm and behaviour(release).pkvm_filters_requests:
        rows = tuple(row for row in rows if _pkvm_allows(row, protected=protected))
    return handlers(rows, release)


def _pkvm_allows(row: Request, *, protected: bool) -> bool:
    """Whether a VM of a pKVM host has a request; virt/kvm's are never filtered (kvm_pkvm_ioctl_allowed)."""
    return not row.of_arm or (row.needs is not None and pkvm_allows(row.needs, protected=protected))
