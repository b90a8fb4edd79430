# SPDX-License-Identifier: Apache-2.0
"""vCPUs in threads: kicks, none of which is lost, two threads at one vCPU, and close() while it runs."""

from __future__ import annotations

import errno
import gc
import os
import random
import signal
import subprocess
import sys
import threading
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import kvmipa
from kvmipa import Interrupted, Mmio, MmioBus, abi, errors
from kvmipa.deadline import Deadline
from kvmipa.kick_signal import KICK_SIGNAL
from kvmipa.turn import holder
from tests.forking import in_child, needs_fork
from tests.guests import CODE, DEVICE, LOADS, SPIN, STORE_AND_LOAD, WFI, GuestMachine
from tests.test_device import refused

if TYPE_CHECKING:
    from collections.abc import Callable

    from kvmipa import Exit, Kvm, Vcpu, Vm

LONG = 60.0


class Runner(threading.Thread):
    """A thread that runs a vCPU until it is told not to, or something is raised."""

    def __init__(self, run: Callable[[], Exit]) -> None:
        super().__init__(daemon=True)
        self.run_vcpu = run
        self.exits: list[Exit] = []
        self.raised: BaseException | None = None
        self.go_on = True
        self.start()

    def run(self) -> None:
        try:
            while self.go_on:
                self.exits.append(self.run_vcpu())
        except BaseException as error:
            self.raised = error

    def finish(self) -> None:
        """Wait for its end."""
        self.join(LONG)
        assert not self.is_alive()

    def wait_for(self, exits: int) -> None:
        """Wait until it has seen so many."""
        deadline = time.monotonic() + LONG
        while len(self.exits) < exits:
            assert time.monotonic() < deadline, f"a kick was lost: {len(self.exits)} of {exits} came"
            assert self.raised is None
            time.sleep(0)


def wait_until_it_runs(vcpu: Vcpu) -> None:
    """Until a thread is at KVM_RUN."""
    deadline = time.monotonic() + LONG
    while vcpu._running is None or not holder(vcpu._running.turn):
        assert time.monotonic() < deadline
        time.sleep(0.001)
    time.sleep(0.02)


@pytest.mark.parametrize("instruction", [SPIN, WFI])
def test_kick_ends_a_run(instruction: int, machine: GuestMachine) -> None:
    vcpu = machine.vcpu([instruction, 0x17FFFFFF])
    runner = Runner(vcpu.run)
    wait_until_it_runs(vcpu)
    runner.go_on = False
    vcpu.kick()
    runner.finish()
    assert runner.exits == [Interrupted(kicked=True)]


def test_kick_before_the_run_ends_it_and_no_other(machine: GuestMachine) -> None:
    vcpu = machine.vcpu([SPIN])
    for _ in range(3):
        vcpu.kick()
    assert vcpu.run() == Interrupted(kicked=True)
    assert vcpu.run(timeout=0.05) == Interrupted(timed_out=True)


def test_kick_waits_behind_an_exit_that_came_first(machine: GuestMachine) -> None:
    vcpu = machine.vcpu(STORE_AND_LOAD)
    bus = MmioBus()

    class Kicking:
        def read(self, _offset: int, _size: int) -> int:
            vcpu.kick()
            return 5

        def write(self, _offset: int, _size: int, _value: int) -> None:
            pass

    bus.add(DEVICE, 4, Kicking())
    assert vcpu.run_until(bus=bus) == Interrupted(kicked=True)
    # The load was finished before.
    assert (vcpu.regs.x[2], vcpu.regs.pc) == (5, CODE + 8)


def test_complete_leaves_a_kick_for_the_next_run(machine: GuestMachine) -> None:
    vcpu = machine.vcpu(STORE_AND_LOAD)
    vcpu.run(timeout=LONG)
    vcpu.kick()
    vcpu.complete()
    assert vcpu.regs.pc == CODE + 4
    assert vcpu.run() == Interrupted(kicked=True)
    assert isinstance(vcpu.run(timeout=LONG), Mmio)


def test_timeout_and_kick_at_once_are_both_said(machine: GuestMachine) -> None:
    vcpu = machine.vcpu([SPIN])
    vcpu.kick()
    assert vcpu.run(timeout=0) == Interrupted(kicked=True, timed_out=True)
    assert vcpu.run(timeout=0.05) == Interrupted(timed_out=True)


def test_end_of_a_timeout_leaves_a_kick_for_the_next_run(machine: GuestMachine) -> None:
    vcpu = machine.vcpu([SPIN])
    vcpu.run(timeout=0)
    assert vcpu._running is not None
    deadline = Deadline(vcpu._running, 0)
    deadline.start()
    vcpu.kick()
    deadline.stop()
    assert vcpu.run(timeout=5) == Interrupted(kicked=True)
    assert vcpu.run(timeout=0.05) == Interrupted(timed_out=True)


@pytest.mark.parametrize("words", [[SPIN], [WFI, 0x17FFFFFF], STORE_AND_LOAD], ids=["spin", "wfi", "mmio"])
def test_no_kick_is_lost(words: list[int], machine: GuestMachine) -> None:
    """A thousand kicks at random moments: before, in and behind KVM_RUN. Each is answered."""
    vcpu = machine.vcpu(words)
    bus = MmioBus()
    bus.add(DEVICE, 4, Zero())
    runner = Runner(lambda: vcpu.run_until(bus=bus))
    moments = random.Random(4)
    for number in range(1, 1001):
        if moments.random() < 0.5:
            time.sleep(moments.random() * 0.0005)
        vcpu.kick()
        runner.wait_for(number)
    runner.go_on = False
    vcpu.kick()
    runner.finish()
    assert runner.exits == [Interrupted(kicked=True)] * 1001


class Zero:
    """A device that reads 0."""

    def read(self, _offset: int, _size: int) -> int:
        return 0

    def write(self, _offset: int, _size: int, _value: int) -> None:
        pass


def test_kicks_of_several_threads(machine: GuestMachine) -> None:
    """More kicks than the runner sees are one, but the last one is always seen."""
    vcpu = machine.vcpu([SPIN])
    runner = Runner(vcpu.run)

    def kick() -> None:
        for _ in range(200):
            vcpu.kick()

    kickers = [threading.Thread(target=kick) for _ in range(4)]
    for kicker in kickers:
        kicker.start()
    for kicker in kickers:
        kicker.join(LONG)
    time.sleep(0.05)
    before = len(runner.exits)
    assert before > 0
    runner.go_on = False
    vcpu.kick()
    runner.finish()
    # One that came while another was being answered is told apart from a signal by nobody.
    assert set(runner.exits) <= {Interrupted(kicked=True), Interrupted()}


def test_other_threads_of_python_run_while_a_guest_does(machine: GuestMachine) -> None:
    vcpu = machine.vcpu([SPIN])
    runner = Runner(lambda: vcpu.run(timeout=LONG))
    wait_until_it_runs(vcpu)
    count = 0
    end = time.monotonic() + 0.2
    while time.monotonic() < end:
        count += 1
    assert count > 100
    runner.go_on = False
    vcpu.kick()
    runner.finish()


def test_vcpus_of_a_vm_run_in_threads_of_their_own(machine: GuestMachine) -> None:
    vcpus = [machine.vcpu([SPIN], CODE + 0x100 * number) for number in range(3)]
    runners = [Runner(vcpu.run) for vcpu in vcpus]
    for vcpu in vcpus:
        wait_until_it_runs(vcpu)
    for vcpu, runner in zip(vcpus, runners, strict=True):
        runner.go_on = False
        vcpu.kick()
        runner.finish()
    assert [runner.exits for runner in runners] == [[Interrupted(kicked=True)]] * 3


def test_vcpu_runs_in_one_thread_after_the_other(machine: GuestMachine) -> None:
    vcpu = machine.vcpu(STORE_AND_LOAD)
    bus = MmioBus()
    bus.add(DEVICE, 4, Zero())
    for _ in range(3):
        runner = Runner(lambda: vcpu.run_until(bus=bus))
        wait_until_it_runs(vcpu)
        runner.go_on = False
        vcpu.kick()
        runner.finish()
        assert runner.exits == [Interrupted(kicked=True)]
    assert vcpu.run_until(bus=bus, timeout=0.05) == Interrupted(timed_out=True)


def test_two_threads_at_one_vcpu(machine: GuestMachine) -> None:
    vcpu = machine.vcpu([SPIN])
    runner = Runner(vcpu.run)
    wait_until_it_runs(vcpu)
    for run in (vcpu.run, partial(vcpu.run, timeout=1), vcpu.run_until):
        with refused(errors.VcpuBusyError, errno.EBUSY, f"another thread ({runner.native_id}) runs this vCPU"):
            run()
    assert runner.exits == []
    runner.go_on = False
    vcpu.kick()
    runner.finish()
    assert vcpu.run(timeout=0.05) == Interrupted(timed_out=True)


@pytest.mark.parametrize("words", [[SPIN], STORE_AND_LOAD], ids=["spin", "mmio"])
def test_close_while_a_thread_runs_it(words: list[int], machine: GuestMachine) -> None:
    vcpu = machine.vcpu(words)
    bus = MmioBus()
    bus.add(DEVICE, 4, Zero())
    runner = Runner(lambda: vcpu.run_until(bus=bus))
    wait_until_it_runs(vcpu)
    vcpu.close()
    runner.finish()
    assert isinstance(runner.raised, errors.ClosedError)
    vcpu.kick()


def test_close_in_a_device_ends_the_run(machine: GuestMachine) -> None:
    vcpu = machine.vcpu([LOADS[4], SPIN])
    bus = MmioBus()

    class Closing(Zero):
        def read(self, _offset: int, _size: int) -> int:
            vcpu.close()
            return 0

    bus.add(DEVICE, 4, Closing())
    with refused(errors.ClosedError, errno.EBADF):
        vcpu.run_until(bus=bus, timeout=LONG)


# What maps a vCPU's descriptor when it is first used.
FIRST_USES: dict[str, Callable[[Vcpu], object]] = {
    "run": lambda vcpu: vcpu.run(timeout=0.05),
    "complete": lambda vcpu: vcpu.complete(),
    "coalesced_writes": lambda vcpu: vcpu.coalesced_writes(),
    "dirty_ring": lambda vcpu: vcpu.dirty_ring,
}
WHERE = ["in a handler", "in another thread"]


def close_at_first_use(
    use: str, where: str, vcpu: Vcpu, another: Callable[[], Vcpu], patch: pytest.MonkeyPatch
) -> Vcpu:
    """Close a vCPU just before it is mapped; the number is another one's at once, which is returned."""
    backend = vcpu._backend
    others: list[Vcpu] = []

    def close() -> None:
        vcpu.close()
        others.append(another())

    closer = threading.Thread(target=close)
    mmap = backend.mmap

    def slow_mmap(*arguments: int) -> memoryview | int:
        patch.undo()
        if where == "in a handler":
            close()
        else:
            closer.start()
            closer.join(0.2)
            # The number is this vCPU's as long as it is mapped.
            assert not others
        return mmap(*arguments)

    patch.setattr(backend, "mmap", slow_mmap)
    with refused(errors.ClosedError, errno.EBADF):
        FIRST_USES[use](vcpu)
    if where == "in another thread":
        closer.join(LONG)
    for again in FIRST_USES.values():
        with refused(errors.ClosedError, errno.EBADF):
            again(vcpu)
    vcpu.kick()
    return others[0]


@pytest.mark.parametrize("where", WHERE)
@pytest.mark.parametrize("use", ["run", "complete", "coalesced_writes"])
def test_close_while_a_vcpu_is_used_for_the_first_time(
    use: str, where: str, machine: GuestMachine, monkeypatch: pytest.MonkeyPatch
) -> None:
    vcpu = machine.vcpu([SPIN])
    other = close_at_first_use(use, where, vcpu, lambda: machine.vcpu([SPIN], CODE + 0x100), monkeypatch)
    # Nothing of it reached the other.
    assert other.run(timeout=0.05) == Interrupted(timed_out=True)


@pytest.mark.parametrize("where", WHERE)
def test_close_while_a_dirty_ring_is_mapped(where: str, vm: Vm, monkeypatch: pytest.MonkeyPatch) -> None:
    if not vm.check_extension(abi.KVM_CAP_DIRTY_LOG_RING_ACQ_REL):
        pytest.skip("the kernel has no dirty ring")
    vm.enable_dirty_ring(max(vm.page_size, 4096))
    with vm.create_vcpu(0) as vcpu:
        close_at_first_use("dirty_ring", where, vcpu, lambda: vm.create_vcpu(1), monkeypatch).close()


def test_vcpu_that_was_kicked_only_is_collected(machine: GuestMachine) -> None:
    vcpu = machine.vcpu([SPIN])
    machine.vcpus.remove(vcpu)
    vcpu.kick()
    with pytest.warns(ResourceWarning, match="unclosed <kvmipa.Vcpu"):
        del vcpu
    assert gc.collect() >= 0


def test_vms_that_ran_leave_nothing_behind(kvm: Kvm) -> None:
    """Descriptors, threads and mappings are as many as before."""

    def run_one() -> None:
        with GuestMachine(kvm) as machine:
            vcpu = machine.vcpu(STORE_AND_LOAD)
            vcpu.run(timeout=LONG)
            vcpu.kick()
            vcpu.run()

    def counts() -> tuple[int, int]:
        gc.collect()
        shared = Path("/proc/self/maps").read_text().count("kvm-vcpu")
        return len(list(Path("/proc/self/fd").iterdir())), shared

    run_one()
    before, threads = counts(), threading.active_count()
    for _ in range(30):
        run_one()
    assert counts() == before
    assert threading.active_count() == threads


@pytest.mark.native
def test_closed_vcpu_keeps_no_vm(kvm: Kvm) -> None:
    """The kernel keeps a VM as long as a run area of it is mapped, whoever still has exits and handles."""
    before = Path("/proc/self/maps").read_text().count("kvm-vcpu")
    with GuestMachine(kvm) as machine:
        vcpu = machine.vcpu([LOADS[4], SPIN])
        exit = vcpu.run(timeout=LONG)
        assert Path("/proc/self/maps").read_text().count("kvm-vcpu") == before + 1
    assert Path("/proc/self/maps").read_text().count("kvm-vcpu") == before
    assert (exit, vcpu.closed) == (Mmio(DEVICE, 4), True)


@pytest.mark.native
def test_rings_of_a_closed_vcpu_keep_no_vm(vm: Vm) -> None:
    """Nor as long as a ring of it is."""

    def mapped() -> int:
        return Path("/proc/self/maps").read_text().count("kvm-vcpu")

    before, has_ring = mapped(), bool(vm.check_extension(abi.KVM_CAP_DIRTY_LOG_RING_ACQ_REL))
    if has_ring:
        vm.enable_dirty_ring(max(vm.page_size, 4096))
    with vm.create_vcpu(0) as vcpu:
        vcpu.coalesced_writes()
        ring = vcpu.dirty_ring if has_ring else None
        assert mapped() == before + 1 + has_ring
    assert mapped() == before
    assert ring is None or ring.harvest() == []


# ------------------------------------------------------------------------------------------------ the signal


@pytest.mark.native
def test_signal_that_is_blocked_is_let_through(machine: GuestMachine) -> None:
    vcpu = machine.vcpu([SPIN])
    vcpu.kick()
    vcpu.run()
    signal.pthread_sigmask(signal.SIG_BLOCK, {KICK_SIGNAL})
    try:
        runner = Runner(vcpu.run)
        wait_until_it_runs(vcpu)
        runner.go_on = False
        vcpu.kick()
        runner.finish()
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {KICK_SIGNAL})
    assert runner.exits == [Interrupted(kicked=True)]


@pytest.mark.native
def test_signal_that_is_ignored_is_refused(machine: GuestMachine) -> None:
    vcpu = machine.vcpu([SPIN])
    old = signal.signal(KICK_SIGNAL, signal.SIG_IGN)
    try:
        with refused(errors.KickSignalError, errno.EBUSY, f"ignores signal {KICK_SIGNAL}"):
            vcpu.run()
    finally:
        signal.signal(KICK_SIGNAL, old if old is not None else signal.SIG_DFL)
    assert vcpu.run(timeout=0.05) == Interrupted(timed_out=True)


@pytest.mark.native
def test_handler_of_the_program_for_the_signal_stays(machine: GuestMachine) -> None:
    vcpu = machine.vcpu([SPIN])
    called = []
    old = signal.signal(KICK_SIGNAL, lambda *_: called.append(1))
    try:
        assert vcpu.run(timeout=0.1) == Interrupted(timed_out=True)
    finally:
        signal.signal(KICK_SIGNAL, signal.SIG_DFL)
    assert old is not None or called == [1]


CTRL_C = """
import _thread, os, signal, sys, threading, time
sys.path.insert(0, {root!r})
import kvmipa
from tests.guests import SPIN, GuestMachine
with kvmipa.open({backend!r}) as kvm, GuestMachine(kvm) as machine:
    vcpu = machine.vcpu([SPIN])
    vcpu.run(timeout=0.05)
    threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGINT)).start()
    try:
        vcpu.run({arguments})
    except KeyboardInterrupt:
        print("interrupted")
"""


@pytest.mark.parametrize("arguments", ["", "timeout=60"])
def test_ctrl_c(arguments: str, kvm: Kvm, machine: GuestMachine) -> None:
    program = CTRL_C.format(root=str(Path(__file__).parents[1]), backend=kvm.backend, arguments=arguments)
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=LONG, check=False)
    assert (done.stdout, done.returncode) == ("interrupted\n", 0), done.stderr


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork() here")
def test_vcpu_of_another_process_does_not_run(machine: GuestMachine) -> None:
    vcpu = machine.vcpu([SPIN])
    vcpu.run(timeout=0.01)
    child = os.fork()
    if child == 0:
        status = 1
        try:
            vcpu.run(timeout=1)
        except errors.OtherProcessError:
            status = 0
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


@needs_fork
def test_child_leaves_its_parents_vcpu_alone(machine: GuestMachine) -> None:
    """It is used there while it runs here, and closed; another one was not used before."""
    vcpu, other = machine.vcpu([SPIN]), machine.vcpu([SPIN], CODE + 0x100)
    vcpu.run(timeout=0.01)
    area = other._backend.mmap(other.fileno(), machine.vm.page_size)
    assert not isinstance(area, int)
    runner = Runner(vcpu.run)
    wait_until_it_runs(vcpu)

    def ask() -> int:
        start = time.monotonic()
        for one in (vcpu, other):
            one.kick()
            for use in (one.run, one.complete, partial(one.run, timeout=1)):
                with pytest.raises(errors.OtherProcessError):
                    use()
            one.close()
        return int(time.monotonic() - start < 1)

    assert in_child(ask) == 1
    time.sleep(0.02)
    assert runner.exits == []
    assert not any(area)
    assert other.run(timeout=0.05) == Interrupted(timed_out=True)
    runner.go_on = False
    vcpu.kick()
    runner.finish()
    assert runner.exits == [Interrupted(kicked=True)]
    assert vcpu.run(timeout=0.05) == Interrupted(timed_out=True)


def test_kvmipa_is_imported_without_the_run_loop() -> None:
    assert "Interrupted" in kvmipa.__all__
