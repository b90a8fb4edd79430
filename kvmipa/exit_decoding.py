# SPDX-License-Identifier: Apache-2.0
"""From the run area to the exit that is in it: struct kvm_run of include/uapi/linux/kvm.h (kernel-device-spec 5, 7)."""

from __future__ import annotations

from struct import Struct
from typing import TYPE_CHECKING, Final

from kvmipa import abi
from kvmipa.exits import (
    ArmSea,
    Debug,
    DirtyRingFull,
    Exit,
    FailEntry,
    Hypercall,
    InternalError,
    LdSt64b,
    MemoryFault,
    Mmio,
    Nisv,
    SystemEvent,
    Unknown,
    WaitingLoad,
    access_of,
    waiting_load,
)
from kvmipa.run_area import EXIT, FLAGS, exit_flags, mmio_fields

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from kvmipa.running import Running


def _fields(name: str) -> Callable[[memoryview, int], tuple[int, ...]]:
    return Struct(abi.STRUCTS[f"exit_{name}"][0]).unpack_from


_SYSTEM_EVENT: Final = _fields("system_event")
_INTERNAL: Final = _fields("internal")
_NISV: Final = _fields("arm_nisv")
_MEMORY_FAULT: Final = _fields("memory_fault")
_FAIL_ENTRY: Final = _fields("fail_entry")
_HYPERCALL: Final = _fields("hypercall")
_DEBUG: Final = _fields("debug")
_SEA: Final = _fields("arm_sea")

# ESR_ELx.EC of a watchpoint.
_EC_WATCHPOINT: Final = 0x34


def _counted(fields: Sequence[int]) -> tuple[int, tuple[int, ...]]:
    """A number, how many there are of the rest, and these."""
    number, count, *data = fields
    return number, tuple(data[:count])


def _system_event(area: memoryview, _running: Running | None) -> Exit:
    # Before 5.19 the second word was a hole, and is 0: there is no data (kernel-device-spec 5.2).
    return SystemEvent(*_counted(_SYSTEM_EVENT(area, EXIT)))


def _debug(area: memoryview, _running: Running | None) -> Exit:
    hsr, high, far = _DEBUG(area, EXIT)
    if exit_flags(area, FLAGS)[0] & abi.KVM_DEBUG_ARCH_HSR_HIGH_VALID:
        hsr |= high << 32
    # The kernel writes far only then.
    return Debug(hsr, far if hsr >> 26 & 0x3F == _EC_WATCHPOINT else None)


def _hypercall(area: memoryview, running: Running | None) -> Exit:
    nr, *_arguments, _ret, flags = _HYPERCALL(area, EXIT)
    call = Hypercall(nr, flags, running)
    if running is not None:
        running.last_call = call
    return call


def _sea(area: memoryview, _running: Running | None) -> Exit:
    flags, esr, gva, gpa = _SEA(area, EXIT)
    return ArmSea(esr, gva, gpa if flags & abi.KVM_EXIT_ARM_SEA_FLAG_GPA_VALID else None)


def _mmio(area: memoryview, running: Running | None) -> Exit:
    access = mmio_fields(area, EXIT)
    if access[3] or running is None:
        return access_of(Mmio, access)
    return waiting_load(WaitingLoad, (*access, running))


#: KVM_EXIT_* -> what makes the exit of the run area.
DECODERS: Final[dict[int, Callable[[memoryview, Running | None], Exit]]] = {
    abi.KVM_EXIT_HYPERCALL: _hypercall,
    abi.KVM_EXIT_DEBUG: _debug,
    abi.KVM_EXIT_MMIO: _mmio,
    abi.KVM_EXIT_FAIL_ENTRY: lambda area, _running: FailEntry(*_FAIL_ENTRY(area, EXIT)[:2]),
    abi.KVM_EXIT_INTERNAL_ERROR: lambda area, _running: InternalError(*_counted(_INTERNAL(area, EXIT))),
    abi.KVM_EXIT_SYSTEM_EVENT: _system_event,
    abi.KVM_EXIT_ARM_NISV: lambda area, _running: Nisv(*_NISV(area, EXIT)),
    abi.KVM_EXIT_DIRTY_RING_FULL: lambda _area, _running: DirtyRingFull(),
    abi.KVM_EXIT_MEMORY_FAULT: lambda area, _running: MemoryFault(*_MEMORY_FAULT(area, EXIT)),
    abi.KVM_EXIT_ARM_SEA: _sea,
    abi.KVM_EXIT_ARM_LDST64B: lambda area, _running: LdSt64b(*_NISV(area, EXIT)),
}


def decode(reason: int, area: memoryview, running: Running | None = None) -> Exit:
    """The exit of a reason, from the run area.

    >>> area = memoryview(bytearray(0x1000))
    >>> area[32:36] = (1).to_bytes(4, "little")
    >>> decode(24, area), decode(99, area)
    (SystemEvent(type=<SystemEventType.SHUTDOWN: 1>, data=()), Unknown(reason=99))
    """
    decoder = DECODERS.get(reason)
    return Unknown(reason) if decoder is None else decoder(area, running)
