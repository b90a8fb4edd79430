# SPDX-License-Identifier: Apache-2.0
"""KVM_RUN of one vCPU: the loop around it, kicks, timeouts, answers (kernel-device-spec 4.4).

Two things are shared between threads. The *turn* is the thread that is at KVM_RUN; it has the run area to itself
until it has read there what the exit is. *immediate_exit*, a byte of the run area, has KVM_RUN come back before it
enters the guest. A kick sets immediate_exit first and looks for the thread then, and a thread takes its turn first and
enters KVM_RUN then: so it either sees the byte or is seen, and gets a signal. close() ends the turns in the same way,
before the descriptor's number may be somebody else's.
"""

from __future__ import annotations

import errno
import os
import struct
import time
from functools import partial
from typing import TYPE_CHECKING, Final
from weakref import WeakSet, ref

from kvmipa import abi, errors
from kvmipa.causes import handle_error, of_vm
from kvmipa.causes import run as causes
from kvmipa.deadline import Deadline
from kvmipa.exit_decoding import decode
from kvmipa.exits import Debug, Exit, Hypercall, Interrupted, Mmio, WaitingLoad, access_of, waiting_load
from kvmipa.mmio_bus import MmioBus
from kvmipa.run_area import ANSWERS, EXIT, EXIT_REASON, IMMEDIATE_EXIT, MMIO_DATA, MMIO_LEN, exit_reason, mmio_fields
from kvmipa.turn import OPEN, TAKEN, end, ended, holder, this_thread
from kvmipa.turn import new as new_turn
from kvmipa.vcpu_state import VcpuEvents, get_events, get_mp_state, set_events

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from kvmipa.backend import Backend
    from kvmipa.mmio_bus import Found
    from kvmipa.turn import Turn
    from kvmipa.vcpu import Vcpu
    from kvmipa.vm import Vm

_MMIO: Final = abi.KVM_EXIT_MMIO

# What says that there is no exit.
_NO_EXITS: Final = {abi.KVM_EXIT_UNKNOWN, abi.KVM_EXIT_INTR}

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


class Running:
    """The run area of one vCPU and who runs it; made when it first runs or is kicked."""

    def __init__(self, vcpu: Vcpu, backend: Backend, fd: int, area: memoryview, vm: Vm) -> None:
        self._backend = backend
        self._fd = fd
        self.area = area
        self.turn = new_turn()
        # What a load has behind what is in the run area.
        self._whose: tuple[object, ...] = (self,)
        # exit_reason, or -errno.
        self._enter = backend.runner(fd, area, self.turn)
        self._vm = vm
        # The vCPU holds this; the other way round it would be closed only by the collector of cycles.
        self._vcpu = ref(vcpu)
        # With these the vCPU does not run on: a load that is not answered; an exit that came together with a signal
        # whose handler raised an exception, so that nobody has seen it. turn[OPEN] says whether there is one.
        self.open_load: WaitingLoad | None = None
        self._unseen: Exit | None = None
        # The last call that was forwarded: whether it is the last exit, the run area says.
        self.last_call: Hypercall | None = None
        # Threads whose run was refused, on its way out.
        self._refused: set[int] = set()
        self._kicked = False
        self._due: set[Deadline] = set()
        _ALL.add(self)

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
        except BaseException:
            self._leave(area)
            raise
        return exit

    def run_until(
        self, wants: Callable[[Exit], bool] | None, bus: MmioBus | None, deadline: Deadline | None = None
    ) -> Exit:
        """KVM_RUN again and again, see Vcpu.run_until()."""
        bus = MmioBus() if bus is None else bus
        turn = self.turn
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
                # From here on it is the device's.
                if exit[3]:
                    value, exit = exit[1], None
                    write(address - start, size, value)
                else:
                    exit = None
                    value = read(address - start, size)
                    try:
                        # Not the area of before: a device may fork, or close the vCPU.
                        ANSWERS[size](self.area, MMIO_DATA, value)
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
        deadline = Deadline(self, timeout)
        try:
            try:
                deadline.start()
                exit = run(deadline)
            finally:
                # Not only in stop(): a signal handler may raise before that has begun.
                deadline.has_ended = True
                deadline.stop()
        except BaseException:
            self._put_back(exit)
            raise
        return exit

    def complete(self) -> None:
        """Have KVM_RUN finish what the last exit left open, and not enter the guest."""
        if self.open_load is not None and self._unseen is not self.open_load:
            raise causes.not_answered_error(self.open_load)
        # What was meant for a run is not used up by this.
        self._put_back(self.within(0, self.run))

    def _keep(self, exit: Exit) -> None:
        """Have the next run return it."""
        self._unseen = exit
        if isinstance(exit, WaitingLoad):
            self.open_load = exit
        self.turn[OPEN] = 1

    def _not_yet(self) -> Exit:
        """What has to be dealt with before the vCPU runs on: it is returned if nobody has seen it."""
        exit, self._unseen = self._unseen, None
        # A load may have been answered since it was kept, as Vcpu.unanswered.
        if exit is None or (isinstance(exit, WaitingLoad) and exit is not self.open_load):
            assert self.open_load is not None
            raise self._failed(causes.not_answered_error(self.open_load))
        self.turn[OPEN] = self.open_load is not None
        return exit

    def _leave(self, area: memoryview) -> None:
        """Give back a turn that is this thread's still: then what was raised is a signal handler's."""
        me = this_thread()
        if me in self._refused:
            self._refused.discard(me)
        elif holder(self.turn) == me:
            try:
                self._keep_exit(area)
            finally:
                self.turn[TAKEN] = 0

    def _failed(self, error: errors.KvmError) -> errors.KvmError:
        """An error that is what came of this thread's run."""
        if holder(self.turn) == this_thread():
            self.turn[TAKEN] = 0
        return error

    def _keep_exit(self, area: memoryview) -> None:
        """Keep an exit that came together with a signal whose handler raised.

        KVM_RUN says KVM_EXIT_INTR where it gave up for the signal. Where it came back for immediate_exit it says
        nothing, and there is what Backend.runner left. Where it was not even entered, the turn says why.
        """
        if self.turn[OPEN] or ended(self.turn):
            return
        reason = exit_reason(area, EXIT_REASON)[0]
        if area[MMIO_LEN] if reason == _MMIO else reason not in _NO_EXITS:
            self._keep(decode(reason, area, self))

    def _put_back(self, exit: Exit | None) -> None:
        """An exit that cannot be returned, because something was raised, is what the next run returns."""
        if isinstance(exit, Interrupted):
            if exit.kicked:
                self.kick()
        elif exit is not None:
            self._keep(exit)

    def _other(self, reason: int, area: memoryview, deadline: Deadline | None) -> Exit:
        """An exit that is no MMIO, or an error."""
        if reason >= 0:
            return decode(reason, area, self)
        code = ended(self.turn) or -reason
        if code == errno.EINTR:
            return self._interrupted(area, deadline)
        if code == errno.EINPROGRESS:
            return self._not_yet()
        if code == errno.EALREADY:
            # The turn may be this thread's own, whose signal handler runs the vCPU: it stays that other run's.
            self._refused.add(this_thread())
            raise causes.busy_error(holder(self.turn))
        shown = exit_reason(area, EXIT_REASON)[0]
        if code in _FAULTS and shown == abi.KVM_EXIT_MEMORY_FAULT:
            return decode(shown, area, self)
        raise self._failed(self._error(code, shown))

    # Not where it is raised: a frame that has the error is a cycle with its traceback, in which the run area would stay
    # mapped, and the VM with it, until that is collected.
    def _error(self, code: int, shown: int) -> errors.KvmError:
        error = causes.RunAttempt(shown == abi.KVM_EXIT_FAIL_ENTRY).error(code)
        if isinstance(error, causes.DEADLY) and self._has_no_vm():
            self._vm.note_death(error.cause)
        return of_vm(error, self._vm.died_of)

    def _has_no_vm(self) -> bool:
        """Whether the kernel, which has just looked at the VM, no longer does (kvm->vm_dead)."""
        return get_mp_state(self._backend, self._fd) == -errno.EIO

    def _interrupted(self, area: memoryview, deadline: Deadline | None) -> Interrupted:
        kicked, self._kicked = self._kicked, False
        self._let_run(area)
        return Interrupted(kicked, deadline in self._due)

    def _let_run(self, area: memoryview) -> None:
        """Clear immediate_exit, unless somebody else wants it: who does says so first, and sets it then."""
        for deadline in tuple(self._due):
            if deadline.has_ended:
                self._due.discard(deadline)
        area[IMMEDIATE_EXIT] = 0
        if self._kicked or self._due:
            area[IMMEDIATE_EXIT] = 1

    # -------------------------------------------------------------------------------------------- answers

    def abort(self, exit: Mmio) -> None:
        """See Mmio.abort()."""
        vcpu = self._vcpu()
        if vcpu is None or self.open_load is not exit:
            raise self.not_open(exit, "abort")
        # The vCPU's own descriptor, at each request: the number of one that is closed is somebody else's.
        now = get_events(self._backend, vcpu.fileno())
        if isinstance(now, VcpuEvents):
            pending = VcpuEvents(now.serror_pending, now.serror_has_esr, now.serror_esr, ext_dabt_pending=True)
            now = set_events(self._backend, vcpu.fileno(), pending)
        if now < 0:
            raise of_vm(causes.no_abort_error(-now), self._vm.died_of)
        # Which 5.10 loads nevertheless.
        ANSWERS[exit.size](self.area, MMIO_DATA, 0)
        self.turn[OPEN] = 0
        self.open_load = None

    def answer_call(self, exit: Hypercall, values: Sequence[int]) -> None:
        """See Hypercall.reply(). values: of x0 and those behind it."""
        vcpu = self._vcpu()
        # A KVM_RUN that has begun since has another reason, or none (Backend.runner).
        is_last = self.last_call is exit and exit_reason(self.area, EXIT_REASON)[0] == abi.KVM_EXIT_HYPERCALL
        if vcpu is None or not is_last:
            raise self.not_open(exit, "reply")
        for number, value in enumerate(values):
            vcpu.set(f"x{number}", value)

    def not_open(self, exit: Mmio | Hypercall, what: str) -> errors.KvmError:
        """Why it cannot be answered any more."""
        error = handle_error(ended(self.turn), "Vcpu", f"the {what} to an exit")
        return error or causes.answered_error(exit, what, has_vcpu=True)

    # -------------------------------------------------------------------------------------------- ending a run

    def kick(self) -> None:
        """See Vcpu.kick()."""
        self._kicked = True
        for _ in range(_ATTEMPTS):
            if self._call_back():
                return
            time.sleep(_PAUSE)
        raise causes.cannot_kick_error(errno.EAGAIN)

    def time_is_up(self, deadline: Deadline) -> bool:
        """Have the run of a deadline end; False where that has to be tried again."""
        self._due.add(deadline)
        return self._call_back()

    def enter_no_guest(self, deadline: Deadline) -> None:
        """Have the next run, which is this thread's, finish the last exit and not enter the guest."""
        if self.turn[TAKEN]:
            # The other thread's run is to see nothing of this.
            raise causes.busy_error(holder(self.turn))
        self._due.add(deadline)
        self.area[IMMEDIATE_EXIT] = 1

    def forget(self, deadline: Deadline) -> None:
        """The run of a deadline has ended, one way or another."""
        if deadline in self._due:
            self._due.discard(deadline)
            self._let_run(self.area)

    def _call_back(self) -> bool:
        """Have KVM_RUN come back, or not begin; False where the thread cannot be sent a signal now.

        A real-time signal is queued, of which a user's processes have so much room (RLIMIT_SIGPENDING).
        """
        self.area[IMMEDIATE_EXIT] = 1
        return ended(self.turn) != 0 or self._backend.kick(self._fd, self.turn) != -errno.EAGAIN

    def stop(self) -> None:
        """Have no thread enter KVM_RUN any more, and the one that is there come back."""
        end(self.turn, errno.EBADF)
        me = this_thread()
        for attempt in range(_ATTEMPTS):
            # A thread that closes its own vCPU is in a signal handler, not in KVM_RUN.
            if holder(self.turn) in {0, me}:
                break
            self.area[IMMEDIATE_EXIT] = 1
            self._backend.kick(self._fd, self.turn)
            time.sleep(_PAUSE if attempt else 0)
        self._let_go()

    def leave_to_parent(self) -> None:
        """In a child of fork(): what is shared with the kernel is the parent's, and so is a thread at KVM_RUN."""
        if not ended(self.turn):
            end(self.turn, errno.EIO)
        self.turn[TAKEN] = 0
        self._let_go()

    def _let_go(self) -> None:
        # The kernel keeps the VM as long as this is mapped; what enters KVM_RUN may hold it too.
        self.area = memoryview(bytearray(len(self.area)))
        self._enter = partial(_refuse, self.turn)
        self.open_load = self._unseen = self.last_call = None
        self._whose = ()


def _refuse(turn: Turn) -> int:
    """KVM_RUN, once the turns were ended."""
    return -ended(turn)


def start(vcpu: Vcpu, backend: Backend, fd: int, vm: Vm) -> Running:
    """Map a vCPU's run area. KVM_GET_VCPU_MMAP_SIZE is two pages: there is the ring of coalesced MMIO, too."""
    area = backend.mmap(fd, 2 * vm.page_size)
    if isinstance(area, int):
        raise causes.cannot_map_error(-area)
    running = Running(vcpu, backend, fd, area, vm)
    if get_mp_state(backend, fd) == -errno.EIO:
        # It is another process's, or dead: mmap() does not ask.
        running.leave_to_parent()
    return running


#: All that there are. In a child of fork() they are its parent's.
_ALL: Final[WeakSet[Running]] = WeakSet()


def _leave_all_to_parent() -> None:
    for running in _ALL:
        running.leave_to_parent()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_leave_all_to_parent)


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


def _may_go_on(exit: Exit, has_condition: bool) -> bool:
    """Whether it is nothing that somebody has to look at, where nobody asked for it."""
    if isinstance(exit, Interrupted):
        return not exit.kicked and not exit.timed_out
    return has_condition and isinstance(exit, Debug) and exit.exception_class == _EC_STEP
