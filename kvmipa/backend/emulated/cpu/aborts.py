# SPDX-License-Identifier: Apache-2.0
"""What a refused access comes to (kvm_handle_guest_abort): MMIO, an abort of the guest, an exit, or going on."""

from __future__ import annotations

from struct import Struct
from typing import TYPE_CHECKING, Final

from kvmipa import abi
from kvmipa.access import Aborted, Access, Mapped, MmioExit, NisvExit, Retried, RunFailed, Skipped
from kvmipa.backend.emulated.cpu import exceptions, instructions, stage1
from kvmipa.backend.emulated.cpu.engine import FETCH, KINDS, PAGE
from kvmipa.backend.emulated.cpu.translation import WalkEndedError, behind_stage1

if TYPE_CHECKING:
    from kvmipa.access import Result
    from kvmipa.backend.emulated.cpu.processor import Processor

# Of an address: its page, without the tag.
_IN_PAGE: Final = (1 << 56) - PAGE

# Where the part of one register ends.
_LARGEST: Final = 8

_NISV: Final = Struct(abi.STRUCTS["exit_arm_nisv"][0])


def handle(cpu: Processor, page: int, number: int) -> int | None:
    """A page that is not to be had: what comes of the access, exactly. number: of its kind, as Unicorn has it."""
    engine, kind = cpu.engine, KINDS[number]
    pc = engine.pc
    va, size, described, unprivileged = page, _LARGEST, False, False
    transfer = None
    if number == FETCH:
        if pc & -PAGE == page:
            va = pc
    else:
        transfer = instructions.decode(cpu.translation.word(pc))
        if transfer is not None:
            size, described, unprivileged = transfer.size, transfer.described, transfer.unprivileged
            address = transfer.address(engine, pc)
            # Where it is in the next page, the first one was memory.
            if not (address ^ page) & _IN_PAGE:
                va = address
    with cpu.vm.lock:
        found = _outcome(cpu, va, kind, min(size, _LARGEST), described=described, unprivileged=unprivileged)
    if not isinstance(found, Aborted) or not found.by_cpu:
        cpu.vcpu.has_trapped, cpu.vcpu.last_far = True, va
    if found.__class__ is MmioExit:
        assert transfer is not None
        return cpu.mmio.exit(found, transfer)
    return _come_to(cpu, found)


def _outcome(cpu: Processor, va: int, kind: str, size: int, *, described: bool, unprivileged: bool) -> Result:
    """What comes of an access; the exception level only matters to a guest that takes an abort."""
    translation = cpu.translation
    translated = translation.untranslated(va)
    if translated is not None:
        found = translation.access(Access(va, kind, size, described))
        if not isinstance(found, Aborted) or cpu.engine.el:
            return found
    el = cpu.engine.el
    if translated is None:
        try:
            translated = translation.translate(va, kind, el, 0 if unprivileged else el)
        except stage1.Stage1FaultError as fault:
            esr = exceptions.cpu_abort(el, fault.fsc, fetch=kind == "fetch", write=kind == "store")
            return Aborted(esr, va, by_cpu=True)
        except WalkEndedError as ended:
            return ended.result
    return translation.access(behind_stage1(translated, kind, va, el, size, described=described))


def _come_to(cpu: Processor, found: Result) -> int | None:
    match found:
        case Mapped() | Retried() | MmioExit():
            return None
        case NisvExit(esr_iss, fault_ipa):
            return cpu.area.exit(abi.KVM_EXIT_ARM_NISV, _NISV, esr_iss, fault_ipa)
        case RunFailed(errno):
            return -errno
        case Skipped():
            cpu.skip()
            return None
        case Aborted(esr, far):
            cpu.take(esr, cpu.engine.pc, far)
            return None
