# SPDX-License-Identifier: Apache-2.0
"""Accesses of a guest, and the stage-2 faults that they take (kvm_handle_guest_abort; kernel-ipa-spec 5)."""

from __future__ import annotations

from errno import ENOEXEC, ENOMEM, ENOSYS
from typing import TYPE_CHECKING, Final

from kvmipa.access import (
    ADDRESS_SIZE_FAULT,
    CM,
    EXTERNAL_ABORT,
    EXTERNAL_ABORT_ON_WALK,
    WNR,
    Aborted,
    Access,
    MmioExit,
    NisvExit,
    Retried,
    RunFailed,
    Skipped,
    syndrome,
)
from kvmipa.stage2.walk import Fault, FaultKind

if TYPE_CHECKING:
    from kvmipa.access import Result
    from kvmipa.backend.emulated.memslots import Slot
    from kvmipa.backend.emulated.vm import VirtualMachine

# HPFAR_EL2 holds addresses by 4K, whatever the page size.
_HPFAR_PAGE: Final = ~0xFFF

# Fault status codes of stage 2, to which the level is added (Arm ARM, ESR_EL2.ISS).
_FSC: Final = {FaultKind.TRANSLATION: 0x04, FaultKind.ACCESS_FLAG: 0x08, FaultKind.PERMISSION: 0x0C}


def access(vm: VirtualMachine, what: Access) -> Result:
    """What comes of an access, which may change stage 2 and the dirty log."""
    ipa = what.ipa
    mmu = vm.mmu
    if ipa >> mmu.cpu_pa_bits:
        return _beyond_the_cpu(what)
    leaf = mmu.tables.entry(ipa)
    if leaf is None and ipa >= vm.ipa_size and vm.behaviour.injects_out_of_range:
        return _out_of_range(vm, what)
    slot = vm.memslots.find(ipa >> vm.page_shift)
    if leaf is not None and slot is not None and mmu.allows(leaf, what) and mmu.is_there(slot, ipa):
        return mmu.mapped(slot, ipa, leaf, faulted=False)
    if slot is None or (slot.readonly and what.write):
        return _not_memory(vm, what, slot)
    try:
        found = mmu.fault(slot, what, leaf)
    except MemoryError:
        # The host's physical address space is full: of guest memory, and of the tables that map it.
        return RunFailed(ENOMEM)
    return _failed(vm, what, found) if isinstance(found, int) else found


def _failed(vm: VirtualMachine, what: Access, errno: int) -> Result:
    """What user_mem_abort's errno comes to: a fetch from a device is the guest's own fault."""
    return _inject(vm, what, EXTERNAL_ABORT, what.far) if errno == ENOEXEC else RunFailed(errno)


def _beyond_the_cpu(what: Access) -> Aborted:
    """Stage 1 cannot put out such an address: the guest's own fault, of level 0 with its MMU off (spec 5.1)."""
    level = 0 if what.va is None else what.stage1_level or 0
    iss = (WNR if what.write else 0) | (CM if what.kind == "cache" else 0)
    return Aborted(syndrome(what, ADDRESS_SIZE_FAULT | level, iss), what.far, by_cpu=True)


def _out_of_range(vm: VirtualMachine, what: Access) -> Result:
    """Step A of kernel-ipa-spec 5.2; FAR_EL1 is the IPA there.

    7.3 looks for the level of a walk as if that were a virtual address, finds none, and lets the guest try again: real
    guests were seen to hang.
    """
    if what.walk and vm.behaviour.names_walk_level:
        return Retried()
    far = what.ipa & _HPFAR_PAGE | what.far & ~_HPFAR_PAGE
    beyond_limit = what.ipa >> (vm.profile.ipa_limit or 0)
    return _inject(vm, what, ADDRESS_SIZE_FAULT if beyond_limit else EXTERNAL_ABORT, far)


def _inject(vm: VirtualMachine, what: Access, fsc: int, far: int) -> Aborted:
    esr = syndrome(what, fsc)
    if vm.behaviour.esr_of_64_bits and not vm.behaviour.esr_is_unsigned:
        esr |= 0xFFFF_FFFF_0000_0000
    return Aborted(esr, far)


def _not_memory(vm: VirtualMachine, what: Access, slot: Slot | None) -> Result:
    """Step C: no slot, or a write to a read-only one."""
    if what.walk:
        return _walk_failed(vm, what)
    if what.fetch:
        return _inject(vm, what, EXTERNAL_ABORT, what.far)
    if what.kind == "cache" and slot is None:
        return Skipped()
    return _mmio(vm, what)


def _mmio(vm: VirtualMachine, what: Access) -> Result:
    """What user space is told of an access to no memory (io_mem_abort; kernel-ipa-spec 5.4)."""
    ipa = what.ipa & _HPFAR_PAGE | what.far & ~_HPFAR_PAGE
    if what.valid_syndrome and what.kind != "cache":
        return MmioExit(ipa, what.size, what.write)
    if vm.protected:
        return _inject(vm, what, EXTERNAL_ABORT, what.far)
    return NisvExit(_iss(vm, what), ipa) if vm.nisv_to_user else RunFailed(ENOSYS)


def _walk_failed(vm: VirtualMachine, what: Access) -> Result:
    if not vm.behaviour.names_walk_level:
        return _inject(vm, what, EXTERNAL_ABORT, what.far)
    if what.stage1_level is None:
        return Retried()
    return _inject(vm, what, EXTERNAL_ABORT_ON_WALK | what.stage1_level, what.far)


def _iss(vm: VirtualMachine, what: Access) -> int:
    """What KVM_EXIT_ARM_NISV shows of the syndrome: CM, WnR and the fault status."""
    fault = vm.mmu.walk(what.ipa, "store" if what.write else "load")
    fsc = _FSC[fault.kind] | fault.level if isinstance(fault, Fault) else 0
    return (CM if what.kind == "cache" else 0) | (WNR if what.write else 0) | fsc
