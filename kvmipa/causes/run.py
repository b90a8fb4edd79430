# SPDX-License-Identifier: Apache-2.0
"""Why a vCPU does not run: KVM_RUN and what is asked of an exit (kernel-device-spec 4.3, 4.4, 2.9)."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING, Final, NamedTuple

from kvmipa import errors
from kvmipa.causes import KERNEL_LOG, Cause, handle_error, unnamed
from kvmipa.exits import Hypercall, Mmio

if TYPE_CHECKING:
    from kvmipa.errors import KvmError
    from kvmipa.exits import Exit

_IOCTL: Final = "KVM_RUN"
_ASKED: Final = "to run the guest"

# What kvm_vgic_map_resources refuses kills the VM since 6.1 (kernel-device-spec 2.9).
_FIX_AND_START_AGAIN: Final = "; then in a new VM, for since Linux 6.1 this one is dead"


class RunAttempt(NamedTuple):
    """A KVM_RUN that failed. illegal_state: exit_reason is KVM_EXIT_FAIL_ENTRY."""

    illegal_state: bool

    def error(self, code: int) -> KvmError:
        """Why it failed with errno ``code``."""
        return handle_error(code, "Vcpu", _IOCTL) or self._cause(code).error(code, asked=_ASKED, ioctl=_IOCTL)

    def _cause(self, code: int) -> Cause:
        if code == errno.EINVAL and self.illegal_state:
            return _ILLEGAL_STATE
        return _CAUSES.get(code) or unnamed(code, errors.VcpuError)


_ILLEGAL_STATE: Final = Cause(
    errors.IllegalGuestStateError,
    "the guest is in a state that this CPU does not have, such as 32-bit EL0",
    "init(), which resets the vCPU",
    "look at the guest's PSTATE and SPSR_EL1, and initialise the vCPU again",
)
#: What the first run fails with: since 6.1 it kills the VM.
DEADLY: Final = (errors.FirstRunError, errors.VgicNotInitialisedError, errors.OutOfMemoryError)

_CAUSES: Final = {
    errno.ENOEXEC: Cause(
        errors.VcpuNotInitialisedError,
        "the vCPU is not initialised, or has to be again after an illegal state",
        "init()",
        "call Vcpu.init() before the first run",
    ),
    errno.EPERM: Cause(
        errors.SveNotFinalisedError,
        "the vCPU has SVE, and was not told that its vector lengths stay",
        "finalize()",
        "call Vcpu.finalize() after init(), and before the first run",
    ),
    errno.ENOSYS: Cause(
        errors.InstructionNotDescribedError,
        "the guest accessed an address without memory by an instruction that the CPU does not describe, such as a load "
        "of a pair or one that changes its address register",
        "loads and stores of one register; with KVM_CAP_ARM_NISV_TO_USER such an access is an exit, Nisv",
        "use other instructions for devices, or enable the capability: Vm.enable_cap(KVM_CAP_ARM_NISV_TO_USER)",
    ),
    errno.EFAULT: Cause(
        errors.GuestMemoryGoneError,
        "the guest accessed memory of a slot that this process cannot access there: it is not mapped, or not so",
        "slots whose memory is mapped, to read and to write (GuestMemory)",
        "keep the memory of a slot mapped as long as the slot is there",
    ),
    errno.ENXIO: Cause(
        errors.VgicNotPlacedError,
        "the VM has a vGIC, and its distributor or the redistributor (GICv2: CPU interface) of a vCPU has no address",
        "a vGIC that is placed, with a frame for each vCPU",
        f"set the addresses before the first run{_FIX_AND_START_AGAIN}",
    ),
    errno.EBUSY: Cause(
        errors.VgicNotInitialisedError,
        "the VM has a vGIC that was not initialised",
        "Vgic.init()",
        f"call it before the first run{_FIX_AND_START_AGAIN}",
    ),
    errno.EINVAL: Cause(
        errors.FirstRunError,
        "the vGIC's frames overlap or are beyond the IPA space; or timers have the same interrupt; or a vCPU with the "
        "feature PMU_V3 has no PMU that is initialised",
        "frames apart from each other and below 2^ipa_bits; an interrupt for each timer",
        f"set addresses, interrupts and the PMU before the first run{_FIX_AND_START_AGAIN}",
    ),
    errno.ENOMEM: Cause(
        errors.OutOfMemoryError,
        "the kernel has no memory for the guest's page tables, or cannot map its vGIC's CPU interface",
        "what the host has left",
        KERNEL_LOG,
    ),
}


# ------------------------------------------------------------------------------------------------ before KVM_RUN


def cannot_map_error(code: int) -> KvmError:
    """The run area cannot be mapped."""
    asked = "the memory that a vCPU shares with KVM_RUN"
    return handle_error(code, "Vcpu", "mmap") or unnamed(code, errors.VcpuError).error(code, asked=asked, ioctl="mmap")


def signal_taken_error(code: int, number: int) -> KvmError:
    """The signal that kicks are made of cannot interrupt anything."""
    return errors.KickSignalError(
        code,
        cause=f"this process ignores signal {number}, by which kvmipa interrupts KVM_RUN",
        asked=_ASKED,
        available="any handler for it; kvmipa sets its own where there is none",
        fix=f"do not ignore signal {number}",
    )


def cannot_kick_error(code: int) -> KvmError:
    """The thread could not be sent a signal."""
    return errors.KickSignalError(
        code,
        cause="the thread that runs the vCPU cannot be sent a signal: too many are waiting (RLIMIT_SIGPENDING)",
        asked="to interrupt KVM_RUN",
        available="the vCPU's next exit, after which it does not run on",
        fix="raise the limit (ulimit -i)",
    )


def busy_error(thread: int | None) -> KvmError:
    """Another thread runs the vCPU: KVM_RUN would wait until that comes back."""
    return errors.VcpuBusyError(
        errno.EBUSY,
        cause=f"another thread ({thread}) runs this vCPU",
        asked=_ASKED,
        available="one run at a time of each vCPU",
        fix="give each vCPU a thread of its own; kick() ends the other's run",
        ioctl=_IOCTL,
    )


def not_answered_error(exit: Exit) -> KvmError:
    """The guest waits for what it loads."""
    return errors.MmioNotAnsweredError(
        errno.EAGAIN,
        cause="the guest waits for what it loads, and the kernel would give it whatever bytes are there",
        asked=f"{_ASKED} after {exit!r}",
        available="reply() and abort() of that exit, which is Vcpu.unanswered",
        fix="answer every load before the next run",
        ioctl=_IOCTL,
    )


def answered_error(exit: Mmio | Hypercall, what: str, *, has_vcpu: bool) -> KvmError:
    """Nobody waits for an answer. has_vcpu: the exit is what a vCPU came back with."""
    if isinstance(exit, Mmio) and exit.is_write:
        cause, fix = "the guest stored, and waits for no answer", "answer loads only: where is_write is false"
    elif not has_vcpu:
        cause, fix = "no vCPU waits: run() has not returned this exit in this process", "answer run()'s exits"
    elif isinstance(exit, Mmio):
        cause, fix = "this load was answered, or the vCPU has run on since", "answer each load once"
    else:
        cause, fix = "the vCPU has run on since this call", "answer a call before the next run, and before complete()"
    return errors.MmioAnsweredError(
        errno.EINVAL, cause=cause, asked=f"{what} to {exit!r}", available="the vCPU's next run", fix=fix
    )


def no_abort_error(code: int) -> KvmError:
    """KVM_SET_VCPU_EVENTS does not know ext_dabt_pending, or refuses."""
    return handle_error(code, "Vcpu", "KVM_SET_VCPU_EVENTS") or errors.NotSupportedError(
        code,
        cause="this kernel injects no external abort",
        asked="an abort in place of an answer",
        available="reply()",
        fix="run Linux 5.5 or later (KVM_CAP_ARM_INJECT_EXT_DABT)",
        ioctl="KVM_SET_VCPU_EVENTS",
    )


def device_error(read: object, offset: int, size: int, value: object) -> KvmError:
    """A device of a bus read what the guest cannot load."""
    return errors.MmioDeviceError(
        errno.EINVAL,
        cause=f"a device's read() returned {value!r}, which the guest cannot load",
        asked=f"{read!r} of {size} bytes at offset {offset:#x}",
        available=f"a number from 0 to {(1 << 8 * size) - 1:#x}; reply() to the exit, which is Vcpu.unanswered",
        fix="have read() return a number of as many bytes as it is asked for",
    )
