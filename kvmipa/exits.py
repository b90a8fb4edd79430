# SPDX-License-Identifier: Apache-2.0
"""What KVM_RUN came back with: a class for each kind of exit, for ``match`` (kernel-device-spec 5, 7).

>>> def what(exit):
...     match exit:
...         case Mmio(phys_addr=address, is_write=True, value=value):
...             return f"{value:#x} is stored to {address:#x}"
...         case Mmio(phys_addr=address, size=size):
...             return f"{size} bytes are loaded from {address:#x}"
...         case SystemEvent(type=SystemEventType.SHUTDOWN):
...             return "off"
...         case Interrupted(kicked=True):
...             return "kicked"
...         case Unknown(reason=number):
...             return f"exit {number}"
>>> what(Mmio(0x900_0000, 4, is_write=True, value=0x41)), what(Mmio(0x900_0000, 2))
('0x41 is stored to 0x9000000', '2 bytes are loaded from 0x9000000')
>>> what(SystemEvent(1, (0,))), what(Interrupted(kicked=True)), what(Unknown(99))
('off', 'kicked', 'exit 99')
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import IntEnum
from struct import error
from typing import TYPE_CHECKING, Final, NamedTuple

from kvmipa import abi
from kvmipa.packing import unsigned
from kvmipa.run_area import ANSWERS, MMIO_DATA
from kvmipa.turn import OPEN

if TYPE_CHECKING:
    from collections.abc import Callable

    from typing_extensions import Self

    from kvmipa.errors import KvmError
    from kvmipa.running import Running


class Exit:
    """Why a vCPU came back from KVM_RUN; one of the classes below.

    >>> isinstance(Unknown(99), Exit)
    True
    """

    __slots__ = ()


class _Access(NamedTuple):
    """An MMIO exit as the run area has it (exit_mmio)."""

    phys_addr: int
    value: int
    size: int
    is_write: bool


class Mmio(Exit, _Access):
    r"""The guest loaded from, or stored to, an address without memory (KVM_EXIT_MMIO).

    phys_addr: the IPA; size: 1, 2, 4 or 8 bytes; is_write: whether it stored; value: what it stored, 0 for a load;
    data: the same in bytes, as they would be in memory, none for a load.

    A load waits for reply(), or abort(): without that the next run() raises MmioNotAnsweredError, because the kernel
    would give the guest whatever bytes are there. The guest goes on with the next run.

    One that a program makes itself waits for nothing.

    >>> Mmio(0x900_0000, 2, is_write=True, value=0x1234)
    Mmio(phys_addr=0x9000000, size=2, is_write=True, value=0x1234)
    >>> Mmio(0x900_0000, 2, is_write=True, value=0x1234).data
    b'4\x12'
    """

    # It is made with every access of a guest's to a device: a tuple of what is in the run area is the fastest.
    __slots__ = ()
    __match_args__ = ("phys_addr", "size", "is_write", "value")

    def __new__(cls, phys_addr: int, size: int, is_write: bool = False, value: int = 0) -> Self:
        """One that no vCPU waits with; the order is that of a pattern."""
        return tuple.__new__(cls, (phys_addr, value, size, is_write))

    @property
    def data(self) -> bytes:
        """What the guest stored, as it would be in memory; no bytes where it loads."""
        return self.value.to_bytes(self.size, "little") if self.is_write else b""

    def reply(self, value: int | bytes) -> None:
        """What the guest's load gets, when the vCPU runs on: a number, or ``size`` bytes as they would be in memory.

        Raises OverflowError for a number that does not fit, ValueError for bytes of another length, TypeError for what
        is neither; MmioAnsweredError for a store, a load that was answered, and one of a vCPU that ran on; ClosedError.
        """
        raise self._nobody_waits("reply")

    def abort(self) -> None:
        """Have the guest's access end in a synchronous external abort, when the vCPU runs on (KVM_SET_VCPU_EVENTS).

        It takes the place of reply(). Linux 5.10 finishes the access nevertheless (kvm_handle_mmio_return; not so 6.1):
        the guest's register gets 0, and the first instruction of its vector is skipped. A store is aborted by
        Vcpu.events = VcpuEvents(ext_dabt_pending=True).

        Raises what reply() does; NotSupportedError before Linux 5.5 (KVM_CAP_ARM_INJECT_EXT_DABT).
        """
        raise self._nobody_waits("abort")

    def _nobody_waits(self, what: str) -> KvmError:
        from kvmipa.causes.run import answered_error

        return answered_error(self, what, has_vcpu=False)

    def __eq__(self, other: object) -> bool:
        """Whether it is the same access, of whatever vCPU."""
        return isinstance(other, Mmio) and self._access() == other._access()

    def __ne__(self, other: object) -> bool:
        """Whether it is not."""
        return not self == other

    def __hash__(self) -> int:
        """By the access."""
        return hash(self._access())

    def _access(self) -> tuple[int, int, bool, int]:
        return self.phys_addr, self.size, self.is_write, self.value

    def __reduce__(self) -> tuple[object, ...]:
        """Without the vCPU that may wait: another process has none."""
        return Mmio, self._access()

    def __repr__(self) -> str:
        """With addresses and values as one reads them."""
        value = f", value={self.value:#x}" if self.is_write else ""
        return f"Mmio(phys_addr={self.phys_addr:#x}, size={self.size}, is_write={self.is_write}{value})"


def bytes_of(value: int | bytes, size: int) -> bytes:
    """The bytes of a reply; OverflowError, ValueError, TypeError for one that cannot be."""
    if not isinstance(value, (bytes, bytearray, memoryview)):
        return unsigned("value", value, 8 * size).to_bytes(size, "little")
    if len(value) != size:
        raise ValueError(f"the guest loads {size} bytes, and the reply has {len(value)}")
    return bytes(value)


class WaitingLoad(Mmio):
    """A load, of a vCPU that waits for its answer: that is Mmio to all the world."""

    __slots__ = ()

    def reply(self, value: int | bytes) -> None:
        """See Mmio."""
        # All of it here: each call counts.
        running: Running = self[4]  # type: ignore[misc]
        if running.open_load is not self:
            raise running.not_open(self, "reply")
        try:
            ANSWERS[self[2]](running.area, MMIO_DATA, value)
        except error:
            running.area[MMIO_DATA : MMIO_DATA + self.size] = bytes_of(value, self.size)
        running.turn[OPEN] = 0
        running.open_load = None

    def abort(self) -> None:
        """See Mmio."""
        self[4].abort(self)  # type: ignore[misc]


#: An access, of what is in the run area; a load that waits, of that and the vCPU's Running.
access_of: Final[Callable[[type[Mmio], tuple[int, int, int, bool]], Mmio]] = tuple.__new__
waiting_load: Final[Callable[[type[WaitingLoad], tuple[object, ...]], WaitingLoad]] = tuple.__new__


class SystemEventType(IntEnum):
    """What the guest asked of its machine: KVM_SYSTEM_EVENT_*.

    SHUTDOWN, RESET: PSCI SYSTEM_OFF and SYSTEM_RESET; all vCPUs are stopped then. SUSPEND: SYSTEM_SUSPEND, where that
    was enabled; WAKEUP: a suspended vCPU has an interrupt.

    >>> SystemEvent(1).type is SystemEventType.SHUTDOWN
    True
    """

    SHUTDOWN = abi.KVM_SYSTEM_EVENT_SHUTDOWN
    RESET = abi.KVM_SYSTEM_EVENT_RESET
    CRASH = abi.KVM_SYSTEM_EVENT_CRASH
    WAKEUP = abi.KVM_SYSTEM_EVENT_WAKEUP
    SUSPEND = abi.KVM_SYSTEM_EVENT_SUSPEND


@dataclass(frozen=True)
class SystemEvent(Exit):
    """The guest switches its machine off, resets or suspends it (KVM_EXIT_SYSTEM_EVENT).

    type: a SystemEventType, or the number of one that has no name here. data: since Linux 5.19 one number for SHUTDOWN
    and RESET, 1 where the guest asked by PSCI's SYSTEM_RESET2 or SYSTEM_OFF2; before, none.

    >>> SystemEvent(2, (1,))
    SystemEvent(type=<SystemEventType.RESET: 2>, data=(1,))
    """

    type: int
    data: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        """Name the type."""
        if self.type in {kind.value for kind in SystemEventType}:
            object.__setattr__(self, "type", SystemEventType(self.type))


@dataclass(frozen=True)
class Nisv(Exit):
    """An access without memory by an instruction that the CPU does not describe (KVM_EXIT_ARM_NISV).

    Only where KVM_CAP_ARM_NISV_TO_USER is enabled; else run() raises InstructionNotDescribedError. esr_iss: bits 24:0
    of ESR_EL2, fault_ipa: the IPA, of which the bits below the page's are zero. The pc is on the instruction.

    >>> Nisv(0x47, 0x8000_0000).esr_iss >> 6 & 1  # WnR: a store
    1
    """

    esr_iss: int
    fault_ipa: int


@dataclass(frozen=True)
class LdSt64b(Exit):
    """LD64B or ST64B at an address without memory (KVM_EXIT_ARM_LDST64B, Linux 7.3); fields as Nisv has them.

    >>> hex(LdSt64b(0x47, 0x8000_0000).fault_ipa)
    '0x80000000'
    """

    esr_iss: int
    fault_ipa: int


@dataclass(frozen=True)
class InternalError(Exit):
    """KVM does not know how to go on (KVM_EXIT_INTERNAL_ERROR).

    >>> InternalError(1, (2, 3)).data
    (2, 3)
    """

    suberror: int
    data: tuple[int, ...] = ()


@dataclass(frozen=True)
class FailEntry(Exit):
    """The guest cannot be entered (KVM_EXIT_FAIL_ENTRY).

    reason 1: the vCPU's PMU does not go with this CPU, number ``cpu``: the thread has to run on another.

    >>> FailEntry(1, 3)
    FailEntry(reason=1, cpu=3)
    """

    reason: int
    cpu: int


@dataclass(frozen=True)
class MemoryFault(Exit):
    """The guest's memory is not there as it was accessed (KVM_EXIT_MEMORY_FAULT): guest_memfd, Linux 7.3.

    gpa, size: what was accessed, in bytes; flags: KVM_MEMORY_EXIT_FLAG_PRIVATE, or none.

    >>> MemoryFault(0, 0x4000_0000, 0x1000).size
    4096
    """

    flags: int
    gpa: int
    size: int


@dataclass(frozen=True)
class Debug(Exit):
    """A step, breakpoint or watchpoint of set_guest_debug() (KVM_EXIT_DEBUG).

    hsr: ESR_EL2 of the exception, its upper half since Linux 6.1; far: what was accessed, of a watchpoint; else None.

    >>> hex(Debug(0xF200_0003, None).exception_class)
    '0x3c'
    """

    hsr: int
    far: int | None

    @property
    def exception_class(self) -> int:
        """ESR_ELx.EC: 0x30 a breakpoint, 0x32 a step, 0x34 a watchpoint, 0x3c a BRK instruction."""
        return self.hsr >> 26 & 0x3F


@dataclass(frozen=True)
class Hypercall(Exit):
    """A call that the VM's SMCCC filter forwards (KVM_EXIT_HYPERCALL, since Linux 6.4).

    nr: the function's id; flags: bit 0 for SMC, bit 1 for an instruction of 16 bits. Its arguments are in the guest's
    registers, and so is the answer; the pc is behind the instruction already. A guest that gets no reply() goes on
    with the registers as they are.

    >>> Hypercall(0xC600_0001, 1).is_smc
    True
    """

    nr: int
    flags: int
    _running: Running | None = field(default=None, repr=False, compare=False)

    @property
    def is_smc(self) -> bool:
        """Whether it was SMC, and not HVC."""
        return bool(self.flags & abi.KVM_HYPERCALL_EXIT_SMC)

    @property
    def is_16bit(self) -> bool:
        """Whether the instruction has 16 bits (T32)."""
        return bool(self.flags & abi.KVM_HYPERCALL_EXIT_16BIT)

    def reply(self, x0: int, x1: int = 0, x2: int = 0, x3: int = 0) -> None:
        """The answer, in x0 to x3. A negative x0 is an error code of SMCCC's: -1 is NOT_SUPPORTED.

        Raises TypeError, OverflowError for what is no number of 64 bits; MmioAnsweredError once the vCPU has run on,
        which complete() does as well; ClosedError, OtherProcessError.
        """
        values = [
            unsigned(f"x{number}", value + (1 << 64) if -1 << 63 <= value < 0 else value, 64)
            for number, value in enumerate((x0, x1, x2, x3))
        ]
        if self._running is None:
            from kvmipa.causes.run import answered_error

            raise answered_error(self, "reply", has_vcpu=False)
        self._running.answer_call(self, values)

    def __reduce__(self) -> tuple[object, ...]:
        """Without the vCPU: another process has none."""
        return Hypercall, (self.nr, self.flags)


@dataclass(frozen=True)
class Interrupted(Exit):
    """KVM_RUN gave up before the guest had an exit (EINTR).

    kicked: by Vcpu.kick(). timed_out: by the end of ``timeout``. Neither: a signal came for the thread, whose Python
    handler has run.

    >>> match Interrupted(timed_out=True):
    ...     case Interrupted(kicked=True):
    ...         print("kicked")
    ...     case Interrupted(timed_out=True):
    ...         print("the time is up")
    the time is up
    """

    kicked: bool = False
    timed_out: bool = False


@dataclass(frozen=True)
class DirtyRingFull(Exit):
    """The vCPU's dirty ring is nearly full (KVM_EXIT_DIRTY_RING_FULL): harvest it, and reset the rings.

    >>> DirtyRingFull()
    DirtyRingFull()
    """


@dataclass(frozen=True)
class ArmSea(Exit):
    """The host's memory failed under the guest (KVM_EXIT_ARM_SEA, Linux 7.3): where KVM_CAP_ARM_SEA_TO_USER is enabled.

    esr: ESR_EL2; gva: the guest's virtual address; gpa: the IPA, None where the CPU does not say.

    >>> ArmSea(0x9200_0010, 0x1234, None).gpa is None
    True
    """

    esr: int
    gva: int
    gpa: int | None


@dataclass(frozen=True)
class Unknown(Exit):
    """An exit that kvmipa has no class for.

    >>> Unknown(99)
    Unknown(reason=99)
    """

    reason: int
