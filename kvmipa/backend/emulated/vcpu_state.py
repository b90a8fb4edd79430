# SPDX-License-Identifier: Apache-2.0
"""What a vCPU has besides registers: whether it runs, what is pending, and what user space watches (4.6)."""

from __future__ import annotations

from errno import EINVAL, ENOEXEC
from struct import Struct
from typing import TYPE_CHECKING, Final, NamedTuple

from kvmipa import abi
from kvmipa.backend.emulated import user_memory
from kvmipa.backend.emulated.pending_abort import inject_abort
from kvmipa.backend.emulated.requests import RefusedError, Request
from kvmipa.id_registers import field

if TYPE_CHECKING:
    from kvmipa.backend.emulated.requests import Handler
    from kvmipa.backend.emulated.user_memory import Argument
    from kvmipa.backend.emulated.vcpu import Vcpu


class PendingEvents(NamedTuple):
    """What waits for the guest: an SError with or without a syndrome, and an external data abort."""

    serror_pending: bool = False
    serror_has_esr: bool = False
    serror_esr: int = 0
    ext_dabt_pending: bool = False


NO_EVENTS: Final = PendingEvents()


class DebugControl(NamedTuple):
    """What KVM_SET_GUEST_DEBUG asked for: KVM_GUESTDBG_*, and the breakpoint and watchpoint registers."""

    control: int = 0
    bcr: tuple[int, ...] = (0,) * 16
    bvr: tuple[int, ...] = (0,) * 16
    wcr: tuple[int, ...] = (0,) * 16
    wvr: tuple[int, ...] = (0,) * 16

    @property
    def single_step(self) -> bool:
        """Whether each instruction ends the run."""
        return bool(self.control & abi.KVM_GUESTDBG_ENABLE and self.control & abi.KVM_GUESTDBG_SINGLESTEP)

    @property
    def software_breakpoints(self) -> bool:
        """Whether BRK ends the run."""
        return bool(self.control & abi.KVM_GUESTDBG_ENABLE and self.control & abi.KVM_GUESTDBG_USE_SW_BP)


# ------------------------------------------------------------------------------------------------ MP state


def _get_mp_state(vcpu: Vcpu, argument: Argument) -> int:
    user_memory.write_number(argument, vcpu.mp_state, 4)
    return 0


def _set_mp_state(vcpu: Vcpu, argument: Argument) -> int:
    state = user_memory.read_number(argument, 4)
    known = [abi.KVM_MP_STATE_RUNNABLE, abi.KVM_MP_STATE_STOPPED]
    if vcpu.vm.behaviour.mp_state_suspended:
        known.append(abi.KVM_MP_STATE_SUSPENDED)
    if state not in known:
        return -EINVAL
    vcpu.mp_state = state
    return 0


# ------------------------------------------------------------------------------------------------ events

_EVENTS: Final = Struct("=BBB5BQ12I")
# ESR_EL1 of an SError that user space gave none: its syndrome is for software only (kvm_inject_vabt: ESR_ELx_ISV).
_NO_SYNDROME: Final = 1 << 24
_SYNDROMES: Final = 1 << 25


def _has_ras(vcpu: Vcpu) -> bool:
    """Whether an SError can have a syndrome: FEAT_RAS."""
    return field("ID_AA64PFR0_EL1", "RAS", vcpu.vm.profile.id_aa64pfr0_el1) > 0


def _refuse_uninitialised(vcpu: Vcpu) -> None:
    if vcpu.vm.behaviour.events_need_initialisation and not vcpu.initialised:
        raise RefusedError(ENOEXEC)


def _get_events(vcpu: Vcpu, argument: Argument) -> int:
    _refuse_uninitialised(vcpu)
    pending, has_syndrome = vcpu.events.serror_pending, _has_ras(vcpu)
    syndrome = vcpu.events.serror_esr if pending and has_syndrome else 0
    user_memory.write(argument, _EVENTS.pack(pending, has_syndrome, 0, *[0] * 5, syndrome, *[0] * 12))
    return 0


def _set_events(vcpu: Vcpu, argument: Argument) -> int:
    """KVM_SET_VCPU_EVENTS; an SError that is pending stays so, whatever is asked."""
    _refuse_uninitialised(vcpu)
    pending, has_syndrome, abort, *rest = _EVENTS.unpack(user_memory.read(argument, _EVENTS.size))
    pad, syndrome, reserved = rest[:5], rest[5], rest[6:]
    if any(reserved) or any(pad):
        return -EINVAL
    first = vcpu.vm.behaviour.events_move_pc
    if abort and first:
        inject_abort(vcpu)
    if pending and has_syndrome:
        if not _has_ras(vcpu) or syndrome >= _SYNDROMES:
            return -EINVAL
        vcpu.events = PendingEvents(serror_pending=True, serror_has_esr=True, serror_esr=syndrome)
    elif pending:
        vcpu.events = PendingEvents(serror_pending=True, serror_esr=_NO_SYNDROME)
    if abort and not first:
        inject_abort(vcpu)
    return 0


# ------------------------------------------------------------------------------------------------ debug, signals

_DEBUG: Final = Struct("=II16Q16Q16Q16Q")
_CONTROLS: Final = (
    abi.KVM_GUESTDBG_ENABLE | abi.KVM_GUESTDBG_SINGLESTEP | abi.KVM_GUESTDBG_USE_SW_BP | abi.KVM_GUESTDBG_USE_HW
)
_SIGNAL_SET: Final = 8


def _set_guest_debug(vcpu: Vcpu, argument: Argument) -> int:
    control, _, *registers = _DEBUG.unpack(user_memory.read(argument, _DEBUG.size))
    if control & ~_CONTROLS:
        return -EINVAL
    if not control & abi.KVM_GUESTDBG_ENABLE:
        vcpu.debug_control = DebugControl()
        return 0
    kinds = [tuple(registers[at : at + 16]) for at in range(0, 64, 16)]
    # The kernel looks at them only then, and keeps the last ones.
    vcpu.debug_control = DebugControl(
        control, *(kinds if control & abi.KVM_GUESTDBG_USE_HW else vcpu.debug_control[1:])
    )
    return 0


def _set_signal_mask(vcpu: Vcpu, argument: Argument) -> int:
    if argument == 0:
        vcpu.signal_mask = None
        return 0
    if user_memory.read_number(argument, 4) != _SIGNAL_SET:
        return -EINVAL
    vcpu.signal_mask = int.from_bytes(user_memory.read(argument, 4 + _SIGNAL_SET)[4:], "little")
    return 0


# ------------------------------------------------------------------------------------------------ what there is not


def _reads(size: int) -> Handler:
    """A request that looks at its struct, of this size, and then does not know what to do with it."""

    def handler(_vcpu: Vcpu, argument: Argument) -> int:
        user_memory.read(argument, size)
        return -EINVAL

    return handler


# On a vCPU's descriptor. virt/kvm/kvm_main.c knows those without a name of ours, and arm64 does nothing for them:
# KVM_SET_REGS (struct kvm_regs has 864 bytes) and KVM_TRANSLATE.
REQUESTS: Final[tuple[Request, ...]] = (
    Request(abi.KVM_GET_MP_STATE, _get_mp_state),
    Request(abi.KVM_SET_MP_STATE, _set_mp_state),
    Request(abi.KVM_GET_VCPU_EVENTS, _get_events),
    Request(abi.KVM_SET_VCPU_EVENTS, _set_events),
    Request(abi.KVM_SET_GUEST_DEBUG, _set_guest_debug),
    Request(abi.KVM_SET_SIGNAL_MASK, _set_signal_mask),
    Request(0x4360_AE82, _reads(864)),
    Request(0xC018_AE85, _reads(24)),
)
