# SPDX-License-Identifier: Apache-2.0
"""Turns, kicks and deadlines at the moments at which a real kernel rarely is: here a function is KVM_RUN."""

from __future__ import annotations

import errno
import os
import threading
import time
from functools import partial
from struct import pack_into
from typing import TYPE_CHECKING, Any

import pytest

from kvmipa import Interrupted, Mmio, SystemEvent, abi, errors, turn
from kvmipa.backend import native
from kvmipa.causes import closed_error
from kvmipa.deadline import Deadline
from kvmipa.run_area import EXIT, EXIT_REASON, IMMEDIATE_EXIT, MMIO_LEN
from kvmipa.running import Running
from kvmipa.turn import OPEN, TAKEN, holder, taking, this_thread
from tests.forking import in_child, needs_fork

if TYPE_CHECKING:
    from collections.abc import Callable

    from kvmipa.turn import Turn

LONG = 60.0
LOAD = Mmio(0x900_0000, 4)


class Handle:
    """A vCPU or a VM, as far as it is asked here."""

    died_of: str | None = None

    def fileno(self) -> int:
        return 3


class ClosedHandle(Handle):
    """One that is closed meanwhile."""

    def fileno(self) -> int:
        raise closed_error("Vcpu")


def running_of(vcpu: Handle, backend: object, fd: int, area: memoryview) -> Running:
    """What runs a vCPU of this kernel."""
    return Running(vcpu, backend, fd, area, Handle())  # type: ignore[arg-type]


class Kernel:
    """KVM_RUN is what a test puts into ``runs``, one after the other; then it waits for immediate_exit.

    before: what happens on the way to KVM_RUN, when the thread has no GIL.
    """

    def __init__(self, *runs: Callable[[], int], before: Callable[[], None] = lambda: None) -> None:
        self.area = memoryview(bytearray(0x2000))
        self.runs = list(runs)
        self.before = before
        self.entered = 0
        self.kicked = 0
        self.answer_to_kick = 0
        self.vcpu = Handle()
        self.running = running_of(self.vcpu, self, 3, self.area)

    def runner(self, _fd: int, area: memoryview, whose: Turn, /) -> Callable[[], int]:
        enter = taking(whose, area, self.kvm_run)

        def late() -> int:
            self.before()
            return enter()

        return late

    def kvm_run(self) -> int:
        self.entered += 1
        if self.runs:
            return self.runs.pop(0)()
        end = time.monotonic() + 5
        while not self.area[IMMEDIATE_EXIT]:
            assert time.monotonic() < end, "nobody ends this run"
            time.sleep(0.0005)
        return -errno.EINTR

    def kick(self, _fd: int, _turn: Turn, /) -> int:
        self.kicked += 1
        return self.answer_to_kick

    def load(self) -> int:
        """The guest loads."""
        pack_into("=QQI?", self.area, EXIT, 0x900_0000, 0, 4, False)
        return self.exit(abi.KVM_EXIT_MMIO)

    def shutdown(self) -> int:
        """The guest switches itself off."""
        pack_into("=II", self.area, EXIT, 1, 0)
        return self.exit(abi.KVM_EXIT_SYSTEM_EVENT)

    def exit(self, reason: int) -> int:
        pack_into("=I", self.area, EXIT_REASON, reason)
        return reason


def raise_it() -> int:
    """What a signal handler of Python's does to KVM_RUN."""
    raise KeyboardInterrupt


# ------------------------------------------------------------------------------------------------ the end of the turns


def test_thread_that_is_on_its_way_enters_no_kvm_run_behind_close() -> None:
    on_its_way, closed = threading.Event(), threading.Event()

    def before() -> None:
        on_its_way.set()
        closed.wait(LONG)

    kernel = Kernel(before=before)
    raised: list[BaseException] = []

    def run() -> None:
        try:
            kernel.running.run()
        except errors.KvmError as error:
            raised.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    assert on_its_way.wait(LONG)
    kernel.running.stop()
    closed.set()
    thread.join(LONG)
    assert kernel.entered == 0
    assert [type(error) for error in raised] == [errors.ClosedError]


def test_thread_that_takes_its_turn_looks_for_the_end_then(monkeypatch: pytest.MonkeyPatch) -> None:
    """close() may end the turns between the first look and this."""
    kernel = Kernel()

    def ends_them() -> int:
        turn.end(kernel.running.turn, errno.EBADF)
        return this_thread()

    monkeypatch.setattr(turn, "this_thread", ends_them)
    with pytest.raises(errors.ClosedError):
        kernel.running.run()
    assert kernel.entered == 0
    assert not kernel.running.turn[TAKEN]


@pytest.mark.skipif(native.why_missing() is not None, reason="needs the extension")
def test_no_ioctl_reaches_a_descriptor_behind_close() -> None:
    """A thread runs again and again, by the C of the native backend; the number is somebody else's at once."""
    backend = native.NativeBackend()
    seen: set[int | None] = set()
    for _ in range(100):
        # An ioctl on this is EBADF, and on the next ENOTTY.
        fd = os.open(os.devnull, os.O_PATH)
        vcpu = Handle()
        running = running_of(vcpu, backend, fd, memoryview(bytearray(0x2000)))
        go_on = threading.Event()
        thread = threading.Thread(target=keep_running, args=(running, go_on, seen))
        thread.start()
        time.sleep(0.0005)
        running.stop()
        os.close(fd)
        other = os.open(os.devnull, os.O_RDONLY)
        assert other == fd
        time.sleep(0.0005)
        go_on.set()
        thread.join(LONG)
        os.close(other)
    assert seen == {errno.EBADF}


def keep_running(running: Running, enough: threading.Event, seen: set[int | None]) -> None:
    """Run it, whatever comes of it."""
    while not enough.is_set():
        try:
            running.run()
        except errors.KvmError as error:
            seen.add(error.errno)


def test_abort_asks_the_descriptor_that_the_vcpu_has_now() -> None:
    kernel = Kernel()
    kernel.runs = [kernel.load]
    exit = kernel.running.run()
    assert isinstance(exit, Mmio)
    kernel.vcpu.__class__ = ClosedHandle
    with pytest.raises(errors.ClosedError):
        exit.abort()


# ------------------------------------------------------------------------------------------------ runs in runs


@pytest.mark.parametrize("catches", [True, False])
def test_handler_that_runs_the_vcpu_leaves_the_turn_to_the_run_that_it_interrupts(catches: bool) -> None:
    kernel = Kernel()
    holders: list[int] = []

    def run_in_handler() -> int:
        kernel.shutdown()
        for _ in range(2):
            try:
                kernel.running.run()
            except errors.VcpuBusyError:
                holders.append(holder(kernel.running.turn))
                if not catches:
                    raise
        return abi.KVM_EXIT_SYSTEM_EVENT

    kernel.runs = [run_in_handler]
    if not catches:
        with pytest.raises(errors.VcpuBusyError):
            kernel.running.run()
    # What the guest did is not lost.
    assert kernel.running.run() == SystemEvent(1)
    assert holders == [this_thread()] * (2 if catches else 1)
    assert not kernel.running.turn[TAKEN]


def test_thread_that_is_refused_leaves_the_turn_to_the_other() -> None:
    kernel = Kernel()
    # Taken between the look at the turn and KVM_RUN.
    word = (this_thread() ^ 1) | 1 << 24
    kernel.before = lambda: pack_into("<I", kernel.running.turn, 0, word)
    with pytest.raises(errors.VcpuBusyError):
        kernel.running.run()
    assert holder(kernel.running.turn) == this_thread() ^ 1


# ------------------------------------------------------------------------------------------------ exits are not lost


def test_exit_that_came_with_a_kick_and_a_handler_that_raises_is_not_lost() -> None:
    kernel = Kernel()

    def all_at_once() -> int:
        kernel.shutdown()
        kernel.running.kick()
        return raise_it()

    kernel.runs = [all_at_once]
    with pytest.raises(KeyboardInterrupt):
        kernel.running.run()
    assert kernel.running.run() == SystemEvent(1)
    assert kernel.running.run() == Interrupted(kicked=True)


def test_exit_of_before_is_not_taken_for_one_that_came_with_a_signal() -> None:
    kernel = Kernel()
    for of_before in (kernel.shutdown, kernel.load):
        kernel.runs = [of_before, raise_it]
        exit = kernel.running.run()
        if isinstance(exit, Mmio):
            exit.reply(1)
        with pytest.raises(KeyboardInterrupt):
            kernel.running.run()
        assert kernel.running.run(due(kernel.running)) == Interrupted(timed_out=True)


def due(running: Running) -> Deadline:
    """A deadline that is over."""
    over = Deadline(running, 0)
    over.start()
    return over


def test_load_that_was_not_answered_is_still_the_callers_after_a_signal() -> None:
    kernel = Kernel()
    kernel.runs = [kernel.load]
    exit = kernel.running.run()
    assert isinstance(exit, Mmio)
    # Behind a KVM_RUN that was not entered, for the load is open.
    running = kernel.running
    enter = running._enter

    def interrupted() -> int:
        enter()
        return raise_it()

    running._enter = interrupted
    with pytest.raises(KeyboardInterrupt):
        running.run()
    running._enter = enter
    exit.reply(1)
    assert kernel.running.open_load is None


@pytest.mark.parametrize("when", ["start", "stop"])
def test_load_is_returned_again_where_a_signal_came_behind_a_run_with_a_timeout(
    when: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    kernel = Kernel()
    kernel.runs = [kernel.load]
    interrupt(monkeypatch, when)
    with pytest.raises(KeyboardInterrupt):
        kernel.running.within(LONG, kernel.running.run)
    # Who looks at it does not take it.
    for _ in range(2):
        assert kernel.running.open_load == (LOAD if when == "stop" else None)
    exit = kernel.running.within(LONG, kernel.running.run)
    assert exit == LOAD
    assert exit is kernel.running.open_load
    with pytest.raises(errors.MmioNotAnsweredError):
        kernel.running.run()


def test_load_that_nobody_has_seen_may_be_answered() -> None:
    kernel = Kernel()
    for _ in range(2):
        kernel.runs = [lambda: kernel.load() and raise_it()]
        with pytest.raises(KeyboardInterrupt):
            kernel.running.run()
        assert kernel.running.open_load is not None
        kernel.running.open_load.reply(1)
    # The next load is not mistaken for one of these.
    kernel.runs = [kernel.load]
    assert kernel.running.run() == LOAD
    with pytest.raises(errors.MmioNotAnsweredError):
        kernel.running.run()


# ------------------------------------------------------------------------------------------------ immediate_exit


def test_other_threads_run_sees_nothing_of_a_run_that_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    kernel = Kernel()
    seen: list[int] = []
    stop = Deadline.stop

    def look(self: Deadline) -> None:
        seen.append(kernel.area[IMMEDIATE_EXIT])
        stop(self)

    monkeypatch.setattr(Deadline, "stop", look)

    def meanwhile() -> int:
        refused = (kernel.running.complete, partial(kernel.running.within, 0, kernel.running.run))
        for use in refused:
            with pytest.raises(errors.VcpuBusyError):
                use()
            seen.append(kernel.area[IMMEDIATE_EXIT])
        return kernel.shutdown()

    kernel.runs = [meanwhile]
    assert kernel.running.run() == SystemEvent(1)
    assert seen == [0] * 4


@pytest.mark.parametrize("use", ["complete", "within"])
def test_run_that_fails_leaves_no_immediate_exit(use: str) -> None:
    kernel = Kernel(lambda: -errno.ENOEXEC)
    with pytest.raises(errors.VcpuNotInitialisedError):
        kernel.running.complete() if use == "complete" else kernel.running.within(0, kernel.running.run)
    assert kernel.area[IMMEDIATE_EXIT] == 0


def test_timeout_of_zero_calls_no_thread_back() -> None:
    kernel = Kernel()
    assert kernel.running.within(0, kernel.running.run) == Interrupted(timed_out=True)
    kernel.running.complete()
    assert (kernel.entered, kernel.kicked, kernel.area[IMMEDIATE_EXIT]) == (2, 0, 0)


def test_answers_are_not_confused_with_what_kvm_run_leaves() -> None:
    """What Backend.runner leaves in the area where there is no exit."""
    kernel = Kernel()
    kernel.runs = [kernel.shutdown, lambda: -errno.EINTR, kernel.load, lambda: -errno.EINTR]
    reasons = []
    for _ in range(4):
        exit = kernel.running.run()
        if isinstance(exit, Mmio):
            exit.reply(0)
        reasons.append((kernel.area[EXIT_REASON], kernel.area[MMIO_LEN]))
    assert [reason for reason, _len in reasons] == [24, 0, 6, 6]
    assert [length for _reason, length in reasons[2:]] == [4, 0]


# ------------------------------------------------------------------------------------------------ deadlines


def interrupt(monkeypatch: pytest.MonkeyPatch, where: str) -> None:
    """Ctrl-C at a moment of a deadline: before it is what its name says."""

    def interrupted(_deadline: Deadline) -> None:
        monkeypatch.undo()
        raise KeyboardInterrupt

    monkeypatch.setattr(Deadline, where, interrupted)


@pytest.mark.parametrize("where", ["stop", "started"])
def test_signal_at_a_deadline_leaves_the_vcpu_able_to_run(where: str, monkeypatch: pytest.MonkeyPatch) -> None:
    kernel = Kernel()
    kernel.runs = [kernel.shutdown] if where == "stop" else []
    if where == "stop":
        interrupt(monkeypatch, where)
    else:
        start = Deadline.start

        def interrupted(self: Deadline) -> None:
            monkeypatch.undo()
            start(self)
            raise KeyboardInterrupt

        monkeypatch.setattr(Deadline, "start", interrupted)
    with pytest.raises(KeyboardInterrupt):
        kernel.running.within(0.05, kernel.running.run)
    time.sleep(0.15)
    kernel.runs += [kernel.shutdown, kernel.shutdown]
    assert kernel.area[IMMEDIATE_EXIT] == 0
    assert [kernel.running.run() for _ in range(2)] == [SystemEvent(1)] * 2
    assert not kernel.running._due


def clocks() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "kvmipa timeouts"]


def deadlines(kernel: Kernel) -> list[Deadline]:
    """Those that the clock has of it."""
    return [one for clock in clocks() for one in clock._deadlines if one._running is kernel.running]  # type: ignore[attr-defined]


def test_one_thread_sees_to_all_timeouts() -> None:
    kernels = [Kernel() for _ in range(8)]
    ended: list[tuple[float, object]] = []

    def run(number: int, kernel: Kernel) -> None:
        # The first one is the last to end.
        timeout = 0.4 - 0.04 * number
        start = time.monotonic()
        exit = kernel.running.within(timeout, kernel.running.run)
        ended.append((time.monotonic() - start - timeout, exit))

    threads = [threading.Thread(target=run, args=each) for each in enumerate(kernels)]
    for thread in threads:
        thread.start()
        time.sleep(0.005)
    assert len(clocks()) == 1
    for thread in threads:
        thread.join(LONG)
    assert [exit for _late, exit in ended] == [Interrupted(timed_out=True)] * 8
    assert all(0 <= late < 1 for late, _exit in ended)
    assert len(clocks()) == 1
    assert not any(deadlines(kernel) for kernel in kernels)


def test_timeouts_that_are_not_reached_leave_nothing() -> None:
    kernel = Kernel()
    for _ in range(1000):
        kernel.runs = [kernel.shutdown]
        assert kernel.running.within(LONG, kernel.running.run) == SystemEvent(1)
    assert not deadlines(kernel)
    assert not kernel.running._due


def test_thread_that_cannot_be_called_back_is_so_again_and_keeps_no_other() -> None:
    """RLIMIT_SIGPENDING: there is no room for the signal."""
    kernel, other = Kernel(), Kernel()
    kernel.answer_to_kick = -errno.EAGAIN
    kernel.runs = [lambda: time.sleep(0.3) or kernel.shutdown()]  # type: ignore[func-returns-value]
    exits: list[object] = []
    thread = threading.Thread(target=lambda: exits.append(kernel.running.within(0.01, kernel.running.run)))
    thread.start()
    start = time.monotonic()
    assert other.running.within(0.05, other.running.run) == Interrupted(timed_out=True)
    assert time.monotonic() - start < 0.25
    thread.join(LONG)
    assert exits == [SystemEvent(1)]
    assert kernel.kicked > 10
    assert kernel.area[IMMEDIATE_EXIT] == 0


@needs_fork
def test_timeouts_of_a_forked_child() -> None:
    Kernel().running.within(0.01, lambda _deadline: Interrupted())

    def ask() -> int:
        kernel = Kernel()
        return int(kernel.running.within(0.05, kernel.running.run) == Interrupted(timed_out=True))

    assert in_child(ask) == 1


# ------------------------------------------------------------------------------------------------ fork


@needs_fork
@pytest.mark.parametrize("use", ["kick", "complete", "run", "within", "stop"])
def test_child_of_fork_touches_nothing_of_its_parents(use: str) -> None:
    import mmap

    kernel = Kernel()
    kernel.area = memoryview(mmap.mmap(-1, 0x2000))
    running = running_of(kernel.vcpu, kernel, 3, kernel.area)
    content = bytes(range(1, 201)) + bytes(0x2000 - 200)
    kernel.area[:] = content
    # As while another thread is at KVM_RUN.
    pack_into("<I", running.turn, 0, (this_thread() ^ 1) | 1 << 24)
    uses: dict[str, Callable[[], Any]] = {
        "kick": running.kick,
        "complete": running.complete,
        "run": running.run,
        "within": lambda: running.within(0.001, running.run),
        "stop": running.stop,
    }

    def ask() -> int:
        start = time.monotonic()
        try:
            uses[use]()
        except errors.OtherProcessError as error:
            return error.errno or 0
        return int(time.monotonic() - start < 0.5)

    assert in_child(ask) == (1 if use in {"kick", "stop"} else errno.EIO)
    assert bytes(kernel.area) == content
    assert holder(running.turn) == this_thread() ^ 1
    assert not running.turn[OPEN]
