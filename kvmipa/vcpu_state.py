# SPDX-License-Identifier: Apache-2.0
"""What a vCPU is besides its registers: whether it runs, what is pending, how it is debugged (device-spec 4.6)."""

from __future__ import annotations

from array import array
from dataclasses import dataclass
from enum import IntEnum, IntFlag
from errno import E2BIG
from operator import index
from typing import TYPE_CHECKING, Final

from kvmipa import abi
from kvmipa.packing import PackedStruct, unsigned

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from kvmipa.backend import Backend

_MP_STATE: Final = PackedStruct("mp_state")
_EVENTS: Final = PackedStruct("vcpu_events")
_DEBUG: Final = PackedStruct("guest_debug")
_SIGNAL_MASK: Final = PackedStruct("signal_mask")
_REG_LIST: Final = PackedStruct("reg_list")

# struct kvm_vcpu_events has pad[5] between the three flags and serror_esr.
_PAD: Final = (0,) * 5

# struct kvm_guest_debug_arch: as many of each kind as the architecture can have.
_DEBUG_REGISTERS: Final = 16

# The kernel's sigset_t, whatever the C library's is: a bit for each of the signals 1 to 64.
_SIGNALS: Final = 64

# More registers than any vCPU has so far: one request is enough then.
_REGISTERS: Final = 512
_LIST_ATTEMPTS: Final = 8


class MpState(IntEnum):
    """Whether a vCPU runs when it is asked to: KVM_MP_STATE_*.

    STOPPED: until another vCPU of the guest switches it on, by PSCI. SUSPENDED (since Linux 6.1): until there is an
    interrupt for it.

    >>> MpState(5)
    <MpState.STOPPED: 5>
    """

    RUNNABLE = abi.KVM_MP_STATE_RUNNABLE
    STOPPED = abi.KVM_MP_STATE_STOPPED
    SUSPENDED = abi.KVM_MP_STATE_SUSPENDED


class GuestDebug(IntFlag):
    """How a guest is debugged: KVM_GUESTDBG_*; without ENABLE it is not.

    SINGLESTEP: an exit after each instruction. USE_SW_BP: BRK instructions are exits. USE_HW: breakpoints and
    watchpoints are those that are given, and not the guest's.

    >>> hex(GuestDebug.ENABLE | GuestDebug.USE_HW)
    '0x20001'
    """

    ENABLE = abi.KVM_GUESTDBG_ENABLE
    SINGLESTEP = abi.KVM_GUESTDBG_SINGLESTEP
    USE_SW_BP = abi.KVM_GUESTDBG_USE_SW_BP
    USE_HW = abi.KVM_GUESTDBG_USE_HW


@dataclass(frozen=True)
class VcpuEvents:
    """Exceptions that a guest takes as soon as it runs.

    serror_pending: an SError, and if serror_has_esr with this syndrome (25 bits); it cannot be taken back.
    serror_has_esr reads as whether the host has RAS, without which it cannot be set. ext_dabt_pending: an external
    abort of a load or store; it is taken at once, so it always reads as False.

    >>> VcpuEvents(serror_pending=True, serror_has_esr=True, serror_esr=0x11).serror_esr
    17
    """

    serror_pending: bool = False
    serror_has_esr: bool = False
    serror_esr: int = 0
    ext_dabt_pending: bool = False


# Each answers 0 or more, or -errno.


def get_mp_state(backend: Backend, fd: int) -> int:
    """KVM_GET_MP_STATE: the state's number."""
    buffer = _MP_STATE.pack()
    result = backend.ioctl_buffer(fd, abi.KVM_GET_MP_STATE, buffer)
    return result if result < 0 else int(_MP_STATE.unpack(buffer)[0])


def set_mp_state(backend: Backend, fd: int, state: int) -> int:
    """KVM_SET_MP_STATE."""
    return backend.ioctl_buffer(fd, abi.KVM_SET_MP_STATE, _MP_STATE.pack(state))


def get_events(backend: Backend, fd: int) -> VcpuEvents | int:
    """KVM_GET_VCPU_EVENTS."""
    buffer = _EVENTS.pack()
    result = backend.ioctl_buffer(fd, abi.KVM_GET_VCPU_EVENTS, buffer)
    if result < 0:
        return result
    pending, has_esr, ext_dabt, *_, esr = _EVENTS.unpack(buffer)[: 4 + len(_PAD)]
    return VcpuEvents(bool(pending), bool(has_esr), esr, bool(ext_dabt))


def set_events(backend: Backend, fd: int, events: VcpuEvents) -> int:
    """KVM_SET_VCPU_EVENTS."""
    if not isinstance(events, VcpuEvents):
        raise TypeError(f"events are VcpuEvents, not {type(events).__name__}")
    buffer = _EVENTS.pack(
        bool(events.serror_pending),
        bool(events.serror_has_esr),
        bool(events.ext_dabt_pending),
        *_PAD,
        unsigned("serror_esr", events.serror_esr, 64),
    )
    return backend.ioctl_buffer(fd, abi.KVM_SET_VCPU_EVENTS, buffer)


def set_guest_debug(backend: Backend, fd: int, control: int, registers: dict[str, Sequence[int]]) -> int:
    """KVM_SET_GUEST_DEBUG; ``registers`` are bcr, bvr, wcr and wvr, in this order."""
    values: list[int] = []
    for name, given in registers.items():
        if len(given) > _DEBUG_REGISTERS:
            raise ValueError(f"{name} has {len(given)} values: there are {_DEBUG_REGISTERS} registers at most")
        values += [unsigned(f"{name}[{number}]", value, 64) for number, value in enumerate(given)]
        values += [0] * (_DEBUG_REGISTERS - len(given))
    return backend.ioctl_buffer(fd, abi.KVM_SET_GUEST_DEBUG, _DEBUG.pack(control, 0, *values))


def set_signal_mask(backend: Backend, fd: int, signals: Iterable[int] | None) -> int:
    """KVM_SET_SIGNAL_MASK."""
    if signals is None:
        return backend.ioctl(fd, abi.KVM_SET_SIGNAL_MASK, 0)
    mask = 0
    for signal in signals:
        if not 1 <= index(signal) <= _SIGNALS:
            raise ValueError(f"signal {signal}: they are 1 to {_SIGNALS}")
        mask |= 1 << index(signal) - 1
    size = _SIGNALS // 8
    return backend.ioctl_buffer(fd, abi.KVM_SET_SIGNAL_MASK, _SIGNAL_MASK.pack(size) + mask.to_bytes(size, "little"))


def get_reg_list(backend: Backend, fd: int) -> list[int] | int:
    """KVM_GET_REG_LIST: the ids.

    Where there is too little room the kernel says how many they are (E2BIG), and is asked again; they may be more by
    then, when another thread calls finalize().
    """
    room, result = _REGISTERS, 0
    for _ in range(_LIST_ATTEMPTS):
        buffer = _REG_LIST.pack(room) + bytearray(8 * room)
        result = backend.ioctl_buffer(fd, abi.KVM_GET_REG_LIST, buffer)
        count = int(_REG_LIST.unpack(buffer[: _REG_LIST.size])[0])
        if result >= 0:
            return list(array("Q", bytes(buffer[8 : 8 + 8 * count])))
        if -result != E2BIG:
            break
        room = count
    return result
