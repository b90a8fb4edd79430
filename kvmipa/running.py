# SPDX-License-Identifier: Apache-2.0
"""KVM_RUN of one vCPU: the loop around it, kicks, timeouts, answers (kernel-device-spec 4.4).

Two things are shared between threads. The *turn* is the thread that is at KVM_RUN; it has the run area to itself
until it has read there what the exit is. *immediate_exit*, a byte of the run area, has KVM_RUN come back before it
enters the guest. A kick sets immediate_exit first and looks for the thread then, and a thread takes its turn first and
enters KVM_RUN then: so it either sees the byte or is seen, and gets a signal.
"""

from __future__ import annotations

import errno
import struct
import threading
import time
from typing import TYPE_CHECKING, Final
from weakref import ref

from kvmipa import abi, errors
from kvmipa.causes import closed_error, of_vm
from kvmipa.causes import run as causes
from kvmipa.exit_decoding import decode
from kvmipa.exits import Debug, Exit, Interrupted, Mmio, WaitingLoad, access_of, waiting_load
from kvmipa.mmio_bus import MmioBus
from kvmipa.run_area import ANSWERS, EXIT, EXIT_REASON, IMMEDIATE_EXIT, MMIO_DATA, MMIO_LEN, exit_reason, mmio_fields
from kvmipa.turn import OPEN, TAKEN, holder
from kvmipa.turn import new as new_turn

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from types import TracebackType

    from typing_extensions import Self

    from kvmipa.backend import Backend
    from kvmipa.mmio_bus import Found
    from kvmipa.vcpu import Vcpu
    from kvmipa.vm import Vm

_MMIO: Final = abi.KVM_EXIT_MMIO

# KVM_RUN fails with EFAULT or EHWPOISON (which Python has no name for), and this is an exit nevertheless.
_EHWPOISON: Final = 133
_FAULTS: Final = {errno.EFAULT, _EHWPOISON}

# ESR_ELx.EC of a single step.
_EC_STEP: Final = 0x32

# No address is in it.
_NOWHERE: Final[Found] = (1, 0, lambda _offset, _size: 0, lambda _offset, _size, _value: None)

# How long close() waits for another thread's KVM_RUN to come back, and a kick for room for its signal, in steps.
_ATTEMPTS: Final = 2_000
_PAUSE: Final = 0.001


def check_timeout(timeout: float) -> float:
    """The seconds; ValueError for what is negative or no number."""
    if not timeout >= 0:
        raise ValueError(f"timeout={timeout!r}: it is a number of seconds, from 0 on")
    return min(timeout, threading.TIMEOUT_MAX)


class Deadline:
    """Kicks a vCPU when the time is up, in a thread that is there as long as the ``with`` block."""

    def __init__(self, running: Running, timeout: float) -> None:
        self._running = running
        self._timer: threading.Timer | None = None
        if timeout > 0:
            self._timer = threading.Timer(timeout, running.time_is_up, (self,))
            self._timer.name = "kvmipa timeout"
            self._timer.daemon = True

    def __enter__(self) -> Self:
        """Start the clock."""
        if self._timer is None:
            self._running.time_is_up(self)
        else:
            self._timer.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop it."""
        try:
            if self._timer is not None:
                self._timer.cancel()
                self._timer.join()
        finally:
            self._running.forget(self)


class Running:
    """The run area of one vCPU and who runs it; made when it first runs or is kicked."""

    def __init__(self, vcpu: Vcpu, backend: Backend, fd: int, area: memoryview, vm: Vm) -> None:
        self._backend = backend
        self._fd = fd
        self.area = area
        # exit_reason, or -errno. It is another function once the vCPU is closed: whoever comes late has no way to a
        # descriptor that may be somebody else's by then.
        self.turn = new_turn()
        # What a load has behind what is in the run area.
        self._whose: tuple[object, ...] = (self,)
        self._enter = backend.runner(fd, area, self.turn)
        self._vm = vm
        # The vCPU holds this; the other way round it would be closed only by the collector of cycles.
        self._vcpu = ref(vcpu)
        # With these the vCPU does not run on: a load that is not answered; an exit that came together with a signal
        # whose handler raised an exception, so that nobody has seen it. turn[OPEN] says whether there is one.
        self.open_load: WaitingLoad | None = None
        self._unseen: Exit | None = None
        self._kicked = False
        self._due: set[Deadline] = set()

    # -------------------------------------------------------------------------------------------- running

    def run(self, deadline: Deadline | None = None) -> Exit:
        """One KVM_RUN."""
        area = self.area
        try:
            reason = self._enter()
            if reason == _MMIO:
                access = mmio_fields(area, EXIT)
                if access[3]:
                    exit: Exit = access_of(Mmio, access)
                else:
                    exit = self.open_load = waiting_load(WaitingLoad, access + self._whose)
                    self.turn[OPEN] = 1
            else:
                exit = self._other(reason, area, deadline)
            self.turn[TAKEN] = 0
        except BaseException as error:
            self._leave(error, area)
            raise
        return exit

    def run_until(
        self, wants: Callable[[Exit], bool] | None, bus: MmioBus | None, deadline: Deadline | None = None
    ) -> Exit:
        """KVM_RUN again and again, see Vcpu.run_until()."""
        bus = MmioBus() if bus is None else bus
        area, turn = self.area, self.turn
        exit: Exit | None = None
        # The range of the last access, which mostly is the next one's: as long as the bus has the same ranges.
        index, (start, end, read, write) = None, _NOWHERE
        try:
            while True:
                exit = self.run(deadline)
                if wants is not None and wants(exit):
                    return exit
                if not isinstance(exit, Mmio):
                    if not _may_go_on(exit, wants is not None):
                        return exit
                    continue
                address, size = exit[0], exit[2]
                if address < start or address + size > end or bus.index is not index:
                    index = bus.index
                    found = bus.find(address, size)
                    if found is None:
                        return exit
                    start, end, read, write = found
                if exit[3]:
                    value, exit = exit[1], None
                    # From here on it is the device's.
                    write(address - start, size, value)
                else:
                    value = read(address - start, size)
                    try:
                        ANSWERS[size](area, MMIO_DATA, value)
                    except struct.error:
                        raise causes.device_error(read, address - start, size, value) from None
                    turn[OPEN] = 0
                    self.open_load = None
        except BaseException:
            self._put_back(exit)
            raise

    def within(self, timeout: float, run: Callable[[Deadline], Exit]) -> Exit:
        """What comes of run() or run_until(), in no more than so many seconds."""
        exit: Exit = Interrupted()
        try:
            with Deadline(self, timeout) as deadline:
                exit = run(deadline)
        except BaseException:
            self._put_back(exit)
            raise
        return exit

    def complete(self) -> None:
        """Have KVM_RUN finish what the last exit left open, and not enter the guest."""
        if self.open_load is not None and self._unseen is None:
            raise causes.not_answered_error(self.open_load)
        self.area[IMMEDIATE_EXIT] = 1
        exit = self.run()
        if isinstance(exit, Interrupted):
            # What was meant for a run is not used up by this.
            if exit.kicked:
                self.kick()
        else:
            self._keep(exit)

    @property
    def unanswered(self) -> Mmio | None:
        """The load that the guest waits for."""
        # Whoever asks has seen it.
        if self._unseen is self.open_load:
            self._unseen = None
        return self.open_load

    def _keep(self, exit: Exit) -> None:
        """Have the next run return it."""
        self._unseen = exit
        if isinstance(exit, WaitingLoad):
            self.open_load = exit
        self.turn[OPEN] = 1

    def _not_yet(self) -> Exit:
        """What has to be dealt with before the vCPU runs on: it is returned if nobody has seen it."""
        exit, self._unseen = self._unseen, None
        if exit is None:
            assert self.open_load is not None
            raise causes.not_answered_error(self.open_load)
        self.turn[OPEN] = self.open_load is not None
        return exit

    def _leave(self, error: BaseException, area: memoryview) -> None:
        """Give the turn back, where it is this thread's. An error that is none of ours is a signal handler's."""
        if holder(self.turn) == threading.get_native_id():
            try:
                if not isinstance(error, errors.KvmError):
                    self._keep_exit(area)
            finally:
                self.turn[TAKEN] = 0

    def _keep_exit(self, area: memoryview) -> None:
        """Keep an exit that came together with a signal whose handler raised.

        KVM_RUN says KVM_EXIT_INTR where it gave up for the signal. Where it came back for immediate_exit, or was not
        reached, it says nothing, and the reason is an older exit's.
        """
        reason = exit_reason(area, EXIT_REASON)[0]
        is_old = not area[MMIO_LEN] if reason == _MMIO else area[IMMEDIATE_EXIT]
        if not is_old and reason not in {abi.KVM_EXIT_UNKNOWN, abi.KVM_EXIT_INTR}:
            self._keep(decode(reason, area, self))

    def _put_back(self, exit: Exit | None) -> None:
        """An exit that cannot be returned, because something was raised, is what the next run returns."""
        if isinstance(exit, Interrupted):
            if exit.kicked:
                self.kick()
        elif exit is not None and exit is not self.open_load:
            self._keep(exit)

    def _other(self, reason: int, area: memoryview, deadline: Deadline | None) -> Exit:
        """An exit that is no MMIO, or an error."""
        if reason >= 0:
            return decode(reason, area, self)
        if reason == -errno.EINTR:
            return self._interrupted(area, deadline)
        if reason == -errno.EINPROGRESS:
            return self._not_yet()
        if reason == -errno.EALREADY:
            raise causes.busy_error(holder(self.turn))
        shown = exit_reason(area, EXIT_REASON)[0]
        if -reason in _FAULTS and shown == abi.KVM_EXIT_MEMORY_FAULT:
            return decode(shown, area, self)
        error = causes.RunAttempt(shown == abi.KVM_EXIT_FAIL_ENTRY).error(-reason)
        if isinstance(error, causes.DEADLY) and self._has_no_vm():
            self._vm.note_death(error.cause)
        raise of_vm(error, self._vm.died_of)

    def _has_no_vm(self) -> bool:
        """Whether the kernel, which has just looked at the VM, no longer does (kvm->vm_dead)."""
        from kvmipa.vcpu_state import get_mp_state

        return get_mp_state(self._backend, self._fd) == -errno.EIO

    def _interrupted(self, area: memoryview, deadline: Deadline | None) -> Interrupted:
        if self._enter is _closed:
            raise closed_error("Vcpu", "KVM_RUN")
        kicked, self._kicked = self._kicked, False
        self._let_run(area)
        return Interrupted(kicked, deadline in self._due)

    def _let_run(self, area: memoryview) -> None:
        """Clear immediate_exit, unless somebody else wants it: who does says so first, and sets it then."""
        area[IMMEDIATE_EXIT] = 0
        if self._kicked or self._due:
            area[IMMEDIATE_EXIT] = 1

    # -------------------------------------------------------------------------------------------- answers

    def abort(self, exit: Mmio) -> None:
        """See Mmio.abort()."""
        from kvmipa.vcpu_state import VcpuEvents, get_events, set_events

        if self.open_load is not exit:
            raise self.not_open(exit, "abort")
        now = get_events(self._backend, self._fd)
        if isinstance(now, VcpuEvents):
            pending = VcpuEvents(now.serror_pending, now.serror_has_esr, now.serror_esr, ext_dabt_pending=True)
            now = set_events(self._backend, self._fd, pending)
        if now < 0:
            raise of_vm(causes.no_abort_error(-now), self._vm.died_of)
        # Which 5.10 loads nevertheless.
        ANSWERS[exit.size](self.area, MMIO_DATA, 0)
        self.turn[OPEN] = 0
        self.open_load = None

    def set_registers(self, values: Sequence[int]) -> None:
        """Set x0 and those behind it; a negative value is that of 64 bits."""
        vcpu = self._vcpu()
        if vcpu is None:
            raise closed_error("Vcpu", "KVM_SET_ONE_REG")
        for number, value in enumerate(values):
            vcpu.set(f"x{number}", value + (1 << 64) if -1 << 63 <= value < 0 else value)

    def not_open(self, exit: Mmio, what: str) -> errors.KvmError:
        if self._enter is _closed:
            return closed_error("Vcpu", f"the {what} to an exit")
        return causes.answered_error(exit, what)

    # -------------------------------------------------------------------------------------------- ending a run

    def kick(self) -> None:
        """See Vcpu.kick()."""
        self._kicked = True
        self._come_back()

    def time_is_up(self, deadline: Deadline) -> None:
        """Have the run of a deadline end."""
        self._due.add(deadline)
        self._come_back()

    def forget(self, deadline: Deadline) -> None:
        """The run of a deadline has ended, one way or another."""
        if deadline in self._due:
            self._due.discard(deadline)
            self._let_run(self.area)

    def _come_back(self) -> None:
        self.area[IMMEDIATE_EXIT] = 1
        # A real-time signal is queued, of which a user's processes have so much room (RLIMIT_SIGPENDING).
        for _ in range(_ATTEMPTS):
            if self._backend.kick(self._fd, self.turn) != -errno.EAGAIN:
                return
            time.sleep(_PAUSE)
        raise causes.cannot_kick_error(errno.EAGAIN)

    def stop(self) -> None:
        """Have no thread enter KVM_RUN any more, and the one that is there come back."""
        self._enter = _closed
        me = threading.get_native_id()
        for attempt in range(_ATTEMPTS):
            # A thread that closes its own vCPU is in a signal handler, not in KVM_RUN.
            if holder(self.turn) in {0, me}:
                break
            self.area[IMMEDIATE_EXIT] = 1
            self._backend.kick(self._fd, self.turn)
            time.sleep(_PAUSE if attempt else 0)
        # The kernel keeps the VM as long as this is mapped.
        self.area = memoryview(bytearray(len(self.area)))
        self.open_load = self._unseen = None
        self._whose = ()


def start(vcpu: Vcpu, backend: Backend, fd: int, vm: Vm) -> Running:
    """Map a vCPU's run area. KVM_GET_VCPU_MMAP_SIZE is two pages: there is the ring of coalesced MMIO, too."""
    area = backend.mmap(fd, 2 * vm.page_size)
    if isinstance(area, int):
        raise causes.cannot_map_error(-area)
    return Running(vcpu, backend, fd, area, vm)


def condition(wanted: Sequence[type[Exit] | Callable[[Exit], bool]]) -> Callable[[Exit], bool] | None:
    """One function for types of exits and functions of one; None for none."""
    types = tuple(one for one in wanted if isinstance(one, type) and issubclass(one, Exit))
    functions = [one for one in wanted if not isinstance(one, type)]
    for one in wanted:
        if one not in types and not (one in functions and callable(one)):
            raise TypeError(f"{one!r} is neither a type of exits nor a function of one")
    if not functions:
        return (lambda exit: isinstance(exit, types)) if types else None
    return lambda exit: isinstance(exit, types) or any(function(exit) for function in functions)


def _closed() -> int:
    return -errno.EBADF


def _may_go_on(exit: Exit, has_condition: bool) -> bool:
    """Whether it is nothing that somebody has to look at, where nobody asked for it."""
    if isinstance(exit, Interrupted):
        return not exit.kicked and not exit.timed_out
    return has_condition and isinstance(exit, Debug) and exit.exception_class == _EC_STEP
