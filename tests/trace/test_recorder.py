# SPDX-License-Identifier: Apache-2.0
"""Traces of programs: what is recorded says all that another kernel has to do, and the same comes of it."""

from __future__ import annotations

import ctypes
import mmap
import os
import signal
import sys
import time
from contextlib import suppress
from errno import EFAULT, EINTR
from pathlib import Path
from threading import Event, Thread, active_count
from typing import TYPE_CHECKING

import pytest

from kvmipa import GuestDebug, GuestMemory, HostProfile, Kvm, abi
from kvmipa.access import Access
from kvmipa.backend.emulated import EmulatedBackend
from kvmipa.buffers import address_of
from kvmipa.exits import Interrupted, Mmio
from kvmipa.run_area import IMMEDIATE_EXIT, MMIO_DATA
from kvmipa.trace import Begin, Bytes, Ioctl, Map, Note, Protect, Run, Session, Trace, Write, replay
from kvmipa.trace.foreign import check
from kvmipa.trace.recorder import TracingBackend
from kvmipa.turn import new as new_turn
from tests.examples import hello
from tests.guests import CODE, DEVICE, LOADS, SPIN, STORES, WFI, GuestMachine, require_engine
from tests.trace import program

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="traces are taken on Linux")

DATA = Path(__file__).parents[1] / "data" / "traces"

# A program's memory that can be read and not written is not told from other memory: what fails for it is left out.
LEFT_OUT = "devices: creation with bad pointers"


@pytest.fixture
def recorder() -> TracingBackend:
    return TracingBackend(EmulatedBackend(HostProfile.preset("qemu-max-6.12-4k")))


@pytest.fixture
def kvm(recorder: TracingBackend) -> Iterator[Kvm]:
    with Kvm(recorder) as opened:
        yield opened


def recorded(recorder: TracingBackend) -> Trace:
    """The trace, as it comes out of a file."""
    assert recorder.profile is not None
    trace = Trace.of_text(recorder.trace(recorder.profile).text())
    for step in trace.steps:
        check(step.operation)
    return trace


def differences(trace: Trace, host: str = "qemu-max-6.12-4k") -> list[str]:
    return [str(found) for found in replay(trace, EmulatedBackend(HostProfile.preset(host)))]


def notes(trace: Trace) -> list[str]:
    return [operation.name for operation in trace.operations if isinstance(operation, Note)]


def of_kind(trace: Trace, kind: type) -> list[object]:
    return [step for step in trace.steps if isinstance(step.operation, kind)]


def no_more_threads_than(number: int) -> bool:
    end = time.monotonic() + 5
    while active_count() > number and time.monotonic() < end:
        time.sleep(0.01)
    return active_count() <= number


# ------------------------------------------------------------------------------------------------ programs


@pytest.mark.parametrize("main", [hello.main, program.main], ids=["hello", "program"])
def test_program_with_a_guest_is_the_same_again(
    monkeypatch: pytest.MonkeyPatch, recorder: TracingBackend, main: Callable[[], None]
) -> None:
    require_engine()
    monkeypatch.setattr("kvmipa.open", lambda *_: Kvm(recorder))
    main()
    trace = recorded(recorder)
    assert of_kind(trace, Run)
    assert differences(trace) == []


def test_another_host_differs_exactly_where_it_has_to(kvm: Kvm, recorder: TracingBackend) -> None:
    kvm.probe_machine_types([32, 44, 45])
    kvm.create_vm(36).close()
    found = differences(recorded(recorder), "qemu-cortex-a57-6.12-4k")
    assert len(found) == 2
    assert "KVM_CHECK_EXTENSION" in found[0]
    assert "165" in found[0]
    assert '"argument": 45' in found[1]
    assert found[1].endswith("but now {'result': 'EINVAL'}")


@pytest.mark.parametrize("name", ["6.12__max", "7.3-16k__max"])
def test_recording_a_replay_gives_a_trace_of_the_same_answers(name: str) -> None:
    trace = Trace.read(DATA / f"{name}.jsonl.gz")
    starts = [number for number, operation in enumerate(trace.operations) if isinstance(operation, Begin)]
    for start, end in zip(starts, [*starts[1:], len(trace.steps)], strict=True):
        part = Trace(trace.header, trace.steps[start:end])
        recorder = TracingBackend(EmulatedBackend(trace.profile))
        # It does not change an answer.
        assert list(replay(part, recorder)) == []
        again = recorded(recorder)
        found = [str(difference) for difference in replay(again, EmulatedBackend(trace.profile))]
        begin = part.operations[0]
        assert isinstance(begin, Begin)
        if begin.name == LEFT_OUT:
            assert any("read-only memory" in note for note in notes(again))
        else:
            assert found == []


# ------------------------------------------------------------------------------------------------ guest memory


def test_what_is_written_between_runs_is_in_the_trace(kvm: Kvm, recorder: TracingBackend) -> None:
    with GuestMachine(kvm) as machine:
        vcpu = machine.vcpu((STORES[4], STORES[4], SPIN))
        vcpu.regs.x[0] = 1
        assert vcpu.run() == Mmio(DEVICE, 4, is_write=True, value=1)
        # What the guest would do next is changed while it stands.
        machine.write((STORES[8],), CODE + 4)
        assert vcpu.run() == Mmio(DEVICE, 8, is_write=True, value=1)
    trace = recorded(recorder)
    assert len(of_kind(trace, Write)) == 2
    assert differences(trace) == []
    without = tuple(step for step in trace.steps if step is not of_kind(trace, Write)[1])
    assert len(differences(Trace(trace.header, without))) == 1


def test_what_the_guest_writes_is_not_taken_for_the_programs(kvm: Kvm, recorder: TracingBackend) -> None:
    with GuestMachine(kvm) as machine:
        vcpu = machine.vcpu((STORES[4], STORES[4], SPIN))
        vcpu.regs.x[0], vcpu.regs.x[1] = 0x77, CODE + 0x2000
        vcpu.set_guest_debug(GuestDebug.ENABLE | GuestDebug.SINGLESTEP)
        vcpu.run()
        vcpu.run()
    assert len(of_kind(recorded(recorder), Write)) == 1


def test_memory_is_aligned_as_it_was(kvm: Kvm, recorder: TracingBackend) -> None:
    memory = GuestMemory(4 << 20)
    with kvm.create_vm(36) as vm:
        vm.set_user_memory_region(0, 0, 0x1000, memory.address + 0x3000)
    trace = recorded(recorder)
    # Areas begin at 2 MiB.
    region = of_kind(trace, Ioctl)[-1]
    assert '"userspace_addr":"mem0+0x3000"' in Trace(trace.header, (region,)).text()  # type: ignore[arg-type]


def test_readonly_memory_gets_its_content_too(kvm: Kvm, recorder: TracingBackend, tmp_path: Path) -> None:
    require_engine()
    file = tmp_path / "code"
    file.write_bytes(b"".join(word.to_bytes(4, "little") for word in (STORES[4], SPIN)).ljust(0x10000, b"\0"))
    with kvm.create_vm(36) as vm, vm.create_vcpu() as vcpu:
        vm.add_memory(CODE, GuestMemory(0x10000, file=file, readonly=True), readonly=True)
        vcpu.init()
        vcpu.regs.pc, vcpu.regs.x[1] = CODE, DEVICE
        vcpu.run()
    trace = recorded(recorder)
    assert of_kind(trace, Protect)
    assert differences(trace) == []


def test_large_slot_costs_what_is_touched(kvm: Kvm, recorder: TracingBackend) -> None:
    require_engine()
    memory = GuestMemory(1 << 30)
    memory.buffer[:4] = SPIN.to_bytes(4, "little")
    memory.buffer[-1] = 7
    with kvm.create_vm(36) as vm, vm.create_vcpu() as vcpu:
        vm.add_memory(CODE, memory)
        vcpu.init()
        vcpu.regs.pc = CODE
        assert vcpu.run(timeout=0) == Interrupted(timed_out=True)
    trace = recorded(recorder)
    assert len(trace.text()) < 10_000
    assert len(of_kind(trace, Write)) == 2
    assert differences(trace) == []


def test_memory_of_one_vm_is_not_there_in_the_next(kvm: Kvm, recorder: TracingBackend) -> None:
    load, store = 0xB9400082, 0xB9000022  # ldr w2, [x4]; str w2, [x1]
    memory = mmap.mmap(-1, 0x10000, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    for value in (7, 0):
        # As memory that the allocator gives again.
        memory.madvise(mmap.MADV_DONTNEED)
        memory[:12] = b"".join(word.to_bytes(4, "little") for word in (load, store, SPIN))
        if value:
            memory[0x5000] = value
        with kvm.create_vm(36) as vm, vm.create_vcpu() as vcpu:
            require_engine()
            vm.set_user_memory_region(0, CODE, 0x10000, address_of(memory))
            vcpu.init()
            vcpu.regs.pc, vcpu.regs.x[1], vcpu.regs.x[4] = CODE, DEVICE, CODE + 0x5000
            seen = vcpu.run()
            assert isinstance(seen, Mmio)
            assert seen.value == value
    assert differences(recorded(recorder)) == []


def test_too_much_memory_is_said(kvm: Kvm, recorder: TracingBackend) -> None:
    require_engine()
    memory = GuestMemory(32 << 20)
    memory.buffer[:] = b"\1" * (32 << 20)
    with kvm.create_vm(36) as vm, vm.create_vcpu() as vcpu:
        vm.add_memory(CODE, memory)
        vcpu.init()
        vcpu.run(timeout=0)
    assert any("more than 16 MiB" in note for note in notes(recorded(recorder)))


def test_memory_of_two_slots_is_two_areas_in_either_order(kvm: Kvm, recorder: TracingBackend) -> None:
    memory = mmap.mmap(-1, 0x40000)
    address = address_of(memory)
    with kvm.create_vm(36) as vm:
        for slot, at in enumerate((0x20000, 0, 0x30000)):
            vm.set_user_memory_region(slot, slot << 20, 0x10000, address + at)
    trace = recorded(recorder)
    assert notes(trace) == []
    assert differences(trace) == []


def test_same_address_is_the_same_place_whatever_the_size(kvm: Kvm, recorder: TracingBackend) -> None:
    memory = mmap.mmap(-1, 0x10000)
    address = address_of(memory)
    with kvm.create_vm(36) as vm:
        for size in (0x10000, 0x1000_0000, 0x10000):
            vm.set_user_memory_region(0, 0x1_0000_0000, size, address)
            vm.set_user_memory_region(0, 0, 0, 0)
    trace = recorded(recorder)
    assert len(of_kind(trace, Map)) == 1
    assert differences(trace) == []


# ------------------------------------------------------------------------------------------------ runs


def test_answer_of_a_load_is_there_also_where_it_changes_nothing(kvm: Kvm, recorder: TracingBackend) -> None:
    with GuestMachine(kvm) as machine:
        vcpu = machine.vcpu((LOADS[4], SPIN))
        load = vcpu.run()
        assert isinstance(load, Mmio)
        # It is zeros already: on a kernel where it is not, they are needed.
        load.reply(0)
        vcpu.run(timeout=0)
    second = [one for one in recorded(recorder).operations if isinstance(one, Run)][1]
    assert second.before == {IMMEDIATE_EXIT: b"\1", MMIO_DATA: bytes(4)}


def test_interrupted_run_is_interrupted_again(kvm: Kvm, recorder: TracingBackend) -> None:
    with GuestMachine(kvm) as machine:
        vcpu = machine.vcpu((SPIN,))
        assert vcpu.run(timeout=0.01) == Interrupted(timed_out=True)
    trace = recorded(recorder)
    threads = active_count()
    run = next(step for step in trace.steps if isinstance(step.operation, Run))
    assert run.result.value == -EINTR
    assert isinstance(run.operation, Run)
    assert run.operation.interrupted is not None
    assert differences(trace) == []
    assert no_more_threads_than(threads)


def test_guest_that_does_not_come_back_is_a_difference(kvm: Kvm, recorder: TracingBackend) -> None:
    with GuestMachine(kvm) as machine:
        vcpu = machine.vcpu((STORES[4], SPIN))
        vcpu.run()
    trace = recorded(recorder)
    assert recorder.profile is not None
    spin = Bytes(SPIN.to_bytes(4, "little"))
    with Session(EmulatedBackend(recorder.profile), patience=0.05) as session:
        operations = [Write(one.where, spin) if isinstance(one, Write) else one for one in trace.operations]
        answers = [session.do(operation) for operation in operations]
    assert {"exit": "none in 0.05 s"} in [answer.wrote for answer in answers]


# ------------------------------------------------------------------------------------------------ requests


def test_raw_pointers_are_followed(kvm: Kvm, recorder: TracingBackend) -> None:
    vm = kvm.create_vm(36)
    routing = bytearray(8 + 2 * 48)
    routing[0] = 2
    for entry in range(2):
        routing[8 + 48 * entry : 12 + 48 * entry] = entry.to_bytes(4, "little")
        routing[12 + 48 * entry] = 1
    recorder.ioctl(vm.fileno(), abi.KVM_SET_GSI_ROUTING, address_of(routing))
    for bad in (0, 0x1000, 0xFFFF_0000_0000_0000, 1 << 60):
        assert recorder.ioctl(vm.fileno(), abi.KVM_SET_GSI_ROUTING, bad) == -EFAULT
    vm.close()
    trace = recorded(recorder)
    assert '{"struct":"irq_routing","nr":2},{"struct":"irq_routing_entry","type":1},' in trace.text()
    assert differences(trace) == []


def test_request_that_nobody_knows_has_its_bytes(kvm: Kvm, recorder: TracingBackend) -> None:
    number = 0x4008_AEFE
    buffer = ctypes.create_string_buffer(b"\1\2\3\4\5\6\7\x08", 8)
    assert recorder.ioctl(kvm.fileno(), number, ctypes.addressof(buffer)) < 0
    assert '{"ioctl":"0x4008aefe","on":"kvm","argument":{"hex":"0102030405060708"},' in recorded(recorder).text()


def test_requests_on_other_descriptors_are_said(kvm: Kvm, recorder: TracingBackend) -> None:
    fd = os.open(os.devnull, os.O_RDONLY)
    assert recorder.ioctl(fd, abi.KVM_CREATE_VM, 0) < 0
    os.close(fd)
    assert len(notes(recorded(recorder))) == 1
    assert differences(recorded(recorder)) == []


def test_limit_is_said_and_kept() -> None:
    profile = HostProfile()
    recorder = TracingBackend(EmulatedBackend(profile), limit=10)
    with Kvm(recorder) as kvm:
        for _ in range(20):
            kvm.check_extension(1)
    trace = recorder.trace(profile)
    assert len(trace.steps) == recorder.noted == 10
    assert notes(trace) == ["the trace is cut: 9 operations are kept, and no more"]


def test_child_of_fork_leaves_the_trace_alone(kvm: Kvm, recorder: TracingBackend) -> None:
    vm = kvm.create_vm(36)
    before = recorder.noted
    # Another thread is noting something.
    locked, free = Event(), Event()
    thread = Thread(target=hold, args=(recorder, locked, free))
    thread.start()
    locked.wait()
    child = os.fork()
    if not child:
        signal.alarm(5)
        kvm.check_extension(1)
        with suppress(Exception):
            recorder.runner(vm.fileno(), memoryview(bytearray(0x1000)), new_turn())
        with suppress(Exception):
            recorder.access(vm.fileno(), Access(0x1000))
        os._exit(recorder.noted - before)
    free.set()
    thread.join()
    vm.close()
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def hold(recorder: TracingBackend, locked: Event, free: Event) -> None:
    with recorder._lock:
        locked.set()
        free.wait()


def test_wait_for_interrupt_of_two_vcpus_says_what_is_not_traced(kvm: Kvm, recorder: TracingBackend) -> None:
    with GuestMachine(kvm) as machine:
        first, second = machine.vcpu((SPIN,)), machine.vcpu((WFI, SPIN), at=CODE + 0x100)
        thread = Thread(target=first.run, kwargs={"timeout": 0.3})
        thread.start()
        second.run(timeout=0.05)
        thread.join()
    trace = recorded(recorder)
    assert any("while another vCPU runs" in note for note in notes(trace))
