# SPDX-License-Identifier: Apache-2.0
"""An external abort for the guest, from user space: KVM_SET_VCPU_EVENTS (arch/arm64/kvm/inject_fault.c)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from kvmipa import abi
from kvmipa.backend.emulated import exception_entry
from kvmipa.system_registers import number_of

if TYPE_CHECKING:
    from kvmipa.backend.emulated.vcpu import Vcpu

_ESR, _FAR, _VBAR, _SCTLR = map(number_of, ("ESR_EL1", "FAR_EL1", "VBAR_EL1", "SCTLR_EL1"))

# ESR_EL1: the class of a data abort from below, or from EL1 itself; IL; a synchronous external abort.
_FROM_EL0: Final = 0x24 << 26
_FROM_EL1: Final = 0x25 << 26
_IL: Final = 1 << 25
_EXTERNAL: Final = 0x10
_SIGN: Final = 0xFFFF_FFFF_0000_0000

# PSTATE: EL and stack pointer.
_MODE: Final = 0xF

_U64: Final = (1 << 64) - 1


def inject_abort(vcpu: Vcpu) -> None:
    """Have the guest take an external data abort, where its last fault was; at once, or when it runs.

    A guest in AArch32 state takes none here.
    """
    if vcpu.has_feature(abi.KVM_ARM_VCPU_EL1_32BIT):
        return
    file, known = vcpu.registers, vcpu.vm.behaviour
    from_el0 = file.read_core("pstate") & _MODE == 0
    syndrome = (
        (_FROM_EL0 if from_el0 else _FROM_EL1)
        | _EXTERNAL
        | (_IL if known.aborts_tell_length or vcpu.has_trapped else 0)
    )
    if known.esr_of_64_bits and not known.esr_is_unsigned:
        syndrome |= _SIGN
    file.write_system(_FAR, vcpu.last_far)
    file.write_system(_ESR, syndrome)
    vcpu.exception_pending = vcpu.needs_loading = True
    if known.events_move_pc or not known.exceptions_wait_for_run:
        enter_pending(vcpu)
    if known.events_move_pc and vcpu.processor is not None:
        # The instruction is not completed (commit_pending_events).
        vcpu.processor.drop_mmio()


def enter_pending(vcpu: Vcpu) -> None:
    """Take the exception that waits, if one does: the synchronous vector of VBAR_EL1."""
    if not vcpu.exception_pending:
        return
    vcpu.exception_pending = False
    file = vcpu.registers
    pstate, sctlr = file.read_core("pstate"), file.read_system(_SCTLR) or 0
    file.write_core("elr_el1", file.read_core("pc"))
    file.write_core("spsr0", pstate)
    file.write_core("pstate", exception_entry.entered(pstate, sctlr))
    file.write_core("pc", (file.read_system(_VBAR) or 0) + exception_entry.vector(pstate) & _U64)
