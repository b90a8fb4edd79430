# SPDX-License-Identifier: Apache-2.0
"""KVM_RUN on the emulated CPU: exits, their completion, and what ends a run."""

from __future__ import annotations

import errno
import os
import signal
import threading
import time
from typing import TYPE_CHECKING, Any

import pytest

import kvmipa
from kvmipa import abi, errors, exits
from kvmipa.backend.emulated.cpu.engine import Engine
from tests.backend.emulated.cpu.guests import (
    CODE,
    NO_ENGINE,
    NOWHERE,
    RELEASES,
    SIZE,
    VECTORS,
    Guest,
    guest,
    host,
    mmio,
    run_in_thread,
)

if TYPE_CHECKING:
    from collections.abc import Callable

pytest.importorskip("unicorn", reason=NO_ENGINE)

LOADS = (
    0x39400001,  # ldrb w1, [x0]
    0x39C00002,  # ldrsb w2, [x0]
    0x39800003,  # ldrsb x3, [x0]
    0xB9800004,  # ldrsw x4, [x0]
    0xF8667805,  # ldr x5, [x0, x6, lsl #3]
    0xB85FC007,  # ldur w7, [x0, #-4]
    0x14000000,  # b .
)
STORE = (
    0xF9000001,  # str x1, [x0]
    0x91000442,  # add x2, x2, #1
    0x17FFFFFE,  # b .-8
)
COUNT = (
    0x91000400,  # add x0, x0, #1
    0x17FFFFFF,  # b .-4
)
WAIT = (
    0xD503207F,  # wfi
    0x91000400,  # add x0, x0, #1
    0x17FFFFFE,  # b .-8
)
PAIR = (
    0xA9400801,  # ldp x1, x2, [x0]
    0x17FFFFFF,  # b .-4
)
WRITES = (
    0xF9000041,  # str x1, [x2]
    0xF9400043,  # ldr x3, [x2]
    0xF9000003,  # str x3, [x0]
    0x17FFFFFD,  # b .-12
)
ONE = (
    0xD2800021,  # mov x1, #1
    0xF9000001,  # str x1, [x0]
)
TWO = (
    0xD2800041,  # mov x1, #2
    0xF9000001,  # str x1, [x0]
)


@pytest.mark.parametrize(("release", "extends"), [("5.10", False), ("6.1", False), ("6.12", False), ("7.3", True)])
def test_loads_of_every_kind_are_completed_by_the_next_run(release: str, extends: bool) -> None:
    with guest(LOADS, release=release) as it:
        regs = it.vcpu.regs
        regs.x[0], regs.x[6] = NOWHERE, 2
        seen = []
        for _ in range(6):
            exit = mmio(it.vcpu.run(timeout=10))
            assert not exit.is_write
            seen.append((exit.phys_addr - NOWHERE, exit.size))
            exit.reply(0xF1F2F3F4F5F6F7F8 & (1 << 8 * exit.size) - 1)
        it.vcpu.run(timeout=0)
        assert seen == [(0, 1), (0, 1), (0, 1), (0, 4), (16, 8), (-4, 4)]
        high = 0xFFFFFFFF_00000000 if extends else 0
        sign = 0xFFFFFF00 if extends else 0
        expected = (0xF8, 0xF8 | sign, 0xF8 | sign | high, 0xF5F6F7F8 | high, 0xF1F2F3F4F5F6F7F8, 0xF5F6F7F8)
        assert tuple(regs.x[number] for number in (1, 2, 3, 4, 5, 7)) == expected
        assert regs.pc == CODE + 24


def test_a_store_shows_its_bytes_and_is_passed_by_the_next_run() -> None:
    with guest(STORE) as it:
        it.vcpu.regs.x[0], it.vcpu.regs.x[1] = NOWHERE, 0x1122334455667788
        exit = mmio(it.vcpu.run(timeout=10))
        assert (exit.phys_addr, exit.size, exit.is_write, exit.value) == (NOWHERE, 8, True, 0x1122334455667788)
        assert (it.vcpu.regs.pc, it.vcpu.regs.x[2]) == (CODE, 0)
        mmio(it.vcpu.run(timeout=10))
        assert it.vcpu.regs.x[2] == 1


def test_completion_happens_also_where_the_guest_does_not_run() -> None:
    with guest(LOADS) as it:
        it.vcpu.regs.x[0] = NOWHERE
        mmio(it.vcpu.run(timeout=10)).reply(0x5A)
        assert it.vcpu.run(timeout=0) == exits.Interrupted(kicked=False, timed_out=True)
        assert (it.vcpu.regs.x[1], it.vcpu.regs.pc) == (0x5A, CODE + 4)


def test_memory_is_shared_and_not_copied() -> None:
    with guest(WRITES) as it:
        it.vcpu.regs.x[0], it.vcpu.regs.x[1], it.vcpu.regs.x[2] = NOWHERE, 0xABCD, CODE + 0x8000
        assert mmio(it.vcpu.run(timeout=10)).value == 0xABCD
        assert int.from_bytes(it.memory.buffer[0x8000:0x8008], "little") == 0xABCD
        it.vcpu.regs.x[1] = 0x1234
        assert mmio(it.vcpu.run(timeout=10)).value == 0x1234


@pytest.mark.parametrize("release", RELEASES)
def test_an_access_without_syndrome_is_enosys_or_nisv(release: str) -> None:
    with guest(PAIR, release=release) as it:
        it.vcpu.regs.x[0] = NOWHERE + 0x18
        with pytest.raises(errors.KvmError) as caught:
            it.vcpu.run()
        assert caught.value.errno == errno.ENOSYS
        it.vm.enable_cap(abi.KVM_CAP_ARM_NISV_TO_USER)
        exit = it.vcpu.run(timeout=10)
        assert isinstance(exit, exits.Nisv)
        assert (exit.fault_ipa, it.vcpu.regs.pc) == (NOWHERE + 0x18, CODE)


def test_memory_that_the_process_does_not_have_is_efault() -> None:
    with guest(WRITES) as it:
        it.vm.set_user_memory_region(9, 0x8000_0000, 1 << 16, 0)
        it.vcpu.regs.x[2] = 0x8000_0000
        with pytest.raises(errors.KvmError) as caught:
            it.vcpu.run()
        assert caught.value.errno == errno.EFAULT


# ------------------------------------------------------------------------------------------------ what ends a run


def test_a_kick_ends_a_guest_that_never_exits() -> None:
    with guest(COUNT) as it:
        it.vcpu.run(timeout=0.01)
        it.vcpu.regs.x[0] = 0
        timer = threading.Timer(0.3, it.vcpu.kick)
        timer.start()
        assert it.vcpu.run() == exits.Interrupted(kicked=True, timed_out=False)
        timer.join()
        assert it.vcpu.regs.x[0] > 1000


def test_kicks_at_any_moment_are_not_lost() -> None:
    with guest(COUNT) as it:
        it.vcpu.run(timeout=0.01)
        results = []

        def run() -> None:
            for _ in range(200):
                results.append(it.vcpu.run())

        thread = threading.Thread(target=run)
        thread.start()
        deadline = time.monotonic() + 20
        while thread.is_alive() and time.monotonic() < deadline:
            it.vcpu.kick()
            time.sleep(0)
        thread.join(1)
        assert len(results) == 200


def test_a_stop_that_comes_too_early_is_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Unicorn forgets it where it has not begun to execute."""
    with guest(COUNT) as it:
        it.vcpu.run(timeout=0.01)
        stop = Engine.stop
        lost: list[Engine] = []

        def forgetful(engine: Engine) -> None:
            if len(lost) < 5:
                lost.append(engine)
            else:
                stop(engine)

        monkeypatch.setattr(Engine, "stop", forgetful)
        start = time.monotonic()
        timer = threading.Timer(0.05, it.vcpu.kick)
        timer.start()
        assert it.vcpu.run(timeout=10) == exits.Interrupted(kicked=True, timed_out=False)
        timer.join()
        assert len(lost) == 5
        assert time.monotonic() - start < 5


@pytest.mark.parametrize("code", [COUNT, WAIT], ids=["loop", "wfi"])
def test_a_timeout_ends_it(code: tuple[int, ...]) -> None:
    with guest(code) as it:
        start = time.monotonic()
        assert it.vcpu.run(timeout=0.05) == exits.Interrupted(kicked=False, timed_out=True)
        assert 0.04 < time.monotonic() - start < 5


def test_wfi_is_passed_when_the_run_ends() -> None:
    # The first run of a process loads the engine, and the time that it has below may be over with that.
    with guest(STORE) as it:
        it.vcpu.regs.x[0] = NOWHERE
        mmio(it.vcpu.run(timeout=10))
    with guest(WAIT) as it:
        it.vcpu.run(timeout=0.05)
        assert (it.vcpu.regs.pc, it.vcpu.regs.x[0]) == (CODE + 4, 0)
        it.vcpu.run(timeout=0.05)
        assert (it.vcpu.regs.pc, it.vcpu.regs.x[0]) == (CODE + 4, 1)


def test_stage_1_is_that_of_the_registers_after_another_init() -> None:
    with guest((0xF9000001,)) as it:  # str x1, [x0]
        it.vcpu.regs.x[0] = NOWHERE
        mmio(it.vcpu.run(timeout=10))
        it.vcpu.init(kvmipa.VcpuFeature.PSCI_0_2)
        # TBI0: the upper byte is a tag.
        it.vcpu.regs.tcr_el1 = 1 << 37
        it.vcpu.regs.pc, it.vcpu.regs.x[0] = CODE, 0xAB << 56 | NOWHERE
        assert mmio(it.vcpu.run(timeout=1)).phys_addr == NOWHERE


def test_stage_1_is_that_of_the_registers_that_user_space_writes_between_runs() -> None:
    with guest(STORES_ON) as it:
        it.vcpu.regs.x[1], it.vcpu.regs.x[2] = 5, NOWHERE
        mmio(it.vcpu.run(timeout=10))
        # Up to 512 GiB by pages of 4K: the first and the second gigabyte are their own, the third is the second.
        for index, output in enumerate((0, CODE, CODE)):
            it.memory.buffer[0x8000 + 8 * index :][:8] = (output | 1 << 10 | 1).to_bytes(8, "little")
        registers = {"ttbr0_el1": CODE + 0x8000, "tcr_el1": 25 | 25 << 16 | 2 << 30 | 2 << 32, "sctlr_el1": 0xC50079}
        for name, value in registers.items():
            it.vcpu.set(name, value)
        it.vcpu.regs.x[2] = 0x8000_4000
        assert it.vcpu.run(timeout=0.1) == exits.Interrupted(kicked=False, timed_out=True)
        assert it.memory.buffer[0x4000] == 5
        it.vcpu.set("sctlr_el1", 0xC50078)
        assert mmio(it.vcpu.run(timeout=10)).phys_addr == 0x8000_4000


@pytest.fixture
def alarm() -> Any:
    """A signal to this process in a moment, whose handler is as asked."""
    before = signal.getsignal(signal.SIGUSR1)

    def arrange(handler: Callable[[int, Any], Any]) -> None:
        signal.signal(signal.SIGUSR1, handler)
        threading.Timer(0.05, lambda: os.kill(os.getpid(), signal.SIGUSR1)).start()

    yield arrange
    signal.signal(signal.SIGUSR1, before)


in_main_thread = pytest.mark.skipif(
    threading.current_thread() is not threading.main_thread(), reason="Python has signals in its main thread only"
)


@in_main_thread
@pytest.mark.parametrize("code", [COUNT, WAIT], ids=["loop", "wfi"])
def test_a_signal_ends_a_run_of_the_main_thread(code: tuple[int, ...], alarm: Any) -> None:
    handled: list[int] = []
    alarm(lambda number, _frame: handled.append(number))
    with guest(code) as it:
        assert it.vcpu.run(timeout=10) == exits.Interrupted(kicked=False, timed_out=False)
        assert handled == [signal.SIGUSR1]


SVCS = (
    0xD4000021,  # svc #1
    0x91000442,  # add x2, x2, #1
    0xD5380703,  # mrs x3, id_aa64mmfr0_el1
    0x17FFFFFD,  # b .-12
)
COUNTS_SVCS = (
    0x91000421,  # add x1, x1, #1
    0xD69F03E0,  # eret
)


def run_on(it: Guest) -> None:
    """Run until there is something else than a signal: the kick for one that was seen may come late."""
    while it.vcpu.run(timeout=10) == exits.Interrupted(kicked=False, timed_out=False):
        pass


@in_main_thread
def test_a_handler_that_raises_loses_nothing_of_the_guest(alarm: Any) -> None:
    def interrupt(_number: int, _frame: Any) -> None:
        raise KeyboardInterrupt

    with guest(SVCS) as it:
        it.put(COUNTS_SVCS, CODE + 0xA00)
        for _ in range(10):
            alarm(interrupt)
            with pytest.raises(KeyboardInterrupt):
                run_on(it)
            assert it.vcpu.regs.x[1] - it.vcpu.regs.x[2] in {0, 1}
        assert it.vcpu.regs.x[2] > 100


@in_main_thread
def test_the_wakeup_descriptor_of_others_comes_back() -> None:
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    before = signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
    try:
        with guest(STORE) as it:
            it.vcpu.regs.x[0] = NOWHERE
            mmio(it.vcpu.run(timeout=10))
        assert signal.set_wakeup_fd(before) == writing
    finally:
        signal.set_wakeup_fd(before)
        os.close(reading)
        os.close(writing)


# ------------------------------------------------------------------------------------------------ refusals


def test_a_vcpu_that_is_not_initialised_is_enoexec() -> None:
    with kvmipa.open("emulated") as kvm, kvm.create_vm(40) as vm, vm.create_vcpu(0) as vcpu:
        with pytest.raises(errors.KvmError) as caught:
            vcpu.run()
        assert caught.value.errno == errno.ENOEXEC


def test_run_takes_no_argument_and_looks_at_that_first() -> None:
    with guest(COUNT) as it:
        assert it.vcpu._backend.ioctl(it.vcpu.fileno(), abi.KVM_RUN, 1) == -errno.EINVAL
    with kvmipa.open("emulated") as kvm, kvm.create_vm(40) as vm, vm.create_vcpu(0) as vcpu:
        assert vcpu._backend.ioctl(vcpu.fileno(), abi.KVM_RUN, 1) == -errno.EINVAL
        assert vcpu._backend.ioctl(vcpu.fileno(), abi.KVM_RUN, 0) == -errno.ENOEXEC


def test_sve_that_is_not_finalised_is_eperm() -> None:
    profile = host(id_aa64pfr0_el1=0x1_0000_0011)
    features = kvmipa.VcpuFeature.PSCI_0_2 | kvmipa.VcpuFeature.SVE
    with guest(COUNT, profile=profile, features=features) as it:
        with pytest.raises(errors.KvmError) as caught:
            it.vcpu.run(timeout=0)
        assert caught.value.errno == errno.EPERM
        it.vcpu.finalize()
        assert isinstance(it.vcpu.run(timeout=0), exits.Interrupted)


def test_a_guest_of_32_bits_fails_to_enter() -> None:
    profile = host(id_aa64pfr0_el1=0x22)
    features = kvmipa.VcpuFeature.PSCI_0_2 | kvmipa.VcpuFeature.EL1_32BIT
    with kvmipa.open("emulated", host=profile) as kvm, kvm.create_vm(40) as vm, vm.create_vcpu(0) as vcpu:
        vcpu.init(features)
        with pytest.raises(errors.IllegalGuestStateError):
            vcpu.run()


def test_other_requests_wait_for_the_run_to_end() -> None:
    with guest(COUNT) as it:
        thread = threading.Thread(target=lambda: it.vcpu.run(timeout=0.3))
        thread.start()
        time.sleep(0.1)
        start = time.monotonic()
        assert it.vcpu.get("x0") > 0
        assert time.monotonic() - start > 0.05
        thread.join()


# ------------------------------------------------------------------------------------------------ stage 2 changes


STORES_ON = (
    0xF9000041,  # str x1, [x2]
    0x17FFFFFF,  # b .-4
)


def test_a_slot_that_is_deleted_is_mmio_for_the_running_guest() -> None:
    with guest(STORES_ON) as it:
        other = it.vm.add_memory(0x8000_0000, kvmipa.GuestMemory(SIZE))
        it.vcpu.regs.x[1], it.vcpu.regs.x[2] = 5, 0x8000_0000
        thread, found = run_in_thread(it)
        time.sleep(0.1)
        other.delete()
        thread.join(5)
        assert (mmio(found[0]).phys_addr, found[0].value) == (0x8000_0000, 5)


def test_code_whose_slot_is_deleted_runs_no_longer() -> None:
    """It jumps within its page, and is in a callback, for a page that it has not seen yet."""
    with guest(()) as it:
        code, data = kvmipa.GuestMemory(SIZE), kvmipa.GuestMemory(1 << 30)
        slot = it.vm.add_memory(0x8000_0000, code)
        it.vm.add_memory(0x1_0000_0000, data)
        # ldr x1, [x2]; add x2, x2, x3; b .-8
        words = (0xF9400041, 0x8B030042, 0x17FFFFFE)
        code.buffer[:12] = b"".join(word.to_bytes(4, "little") for word in words)
        it.put((0xF9000000,), VECTORS + 0x200)  # str x0, [x0]
        it.vcpu.regs.pc, it.vcpu.regs.x[0] = 0x8000_0000, NOWHERE
        it.vcpu.regs.x[2], it.vcpu.regs.x[3] = 0x1_0000_0000, 4096
        thread, found = run_in_thread(it)
        file = it.vcpu._backend._descriptors.get(it.vcpu.fileno())  # type: ignore[attr-defined]
        time.sleep(0.1)
        with file.vm.lock:
            while not file.vcpu.cpu.kicks.in_callback:
                time.sleep(0)
            # It is in a callback, and waits for the lock.
            slot.delete()
        thread.join(20)
        # Not the load behind the last page.
        assert mmio(found[0]).phys_addr == NOWHERE
        assert it.vcpu.regs.esr_el1 >> 26 == 0x21


def test_dirty_pages_are_seen_again_after_they_were_taken() -> None:
    with guest(STORES_ON) as it:
        slot = it.vm.add_memory(0x8000_0000, kvmipa.GuestMemory(SIZE), log_dirty=True)
        it.vcpu.regs.x[2] = 0x8000_3000
        thread, found = run_in_thread(it)
        for _ in range(3):
            time.sleep(0.05)
            assert slot.dirty_log() == [3]
        it.vcpu.kick()
        thread.join(5)
        assert found == [exits.Interrupted(kicked=True, timed_out=False)]


def test_code_that_the_process_replaces_is_seen_after_the_pc_was_set() -> None:
    with guest(ONE) as it:
        it.vcpu.regs.x[0] = NOWHERE
        assert mmio(it.vcpu.run(timeout=10)).value == 1
        it.put(TWO)
        # The store is completed, which moves the PC on.
        it.vcpu.regs.pc = CODE - 4
        assert mmio(it.vcpu.run(timeout=10)).value == 2


SELF_MODIFYING = (
    0x10000081,  # adr x1, .+16
    0xB9400062,  # ldr w2, [x3]
    0xB9000022,  # str w2, [x1]
    0xD5033FDF,  # isb
    0x52800124,  # mov w4, #9
    0xF9000004,  # str x4, [x0]
)


def test_code_that_the_guest_writes_is_seen_at_once() -> None:
    with guest(SELF_MODIFYING) as it:
        it.put((0x52800064,), CODE + 0x8000)  # mov w4, #3
        it.vcpu.regs.x[0], it.vcpu.regs.x[3] = NOWHERE, CODE + 0x8000
        assert mmio(it.vcpu.run(timeout=10)).value == 3


def test_a_vcpu_that_is_initialised_again_begins_anew() -> None:
    with guest(COUNT) as it:
        it.vcpu.run(timeout=0.01)
        it.vcpu.init()
        regs = it.vcpu.regs
        assert (regs.x[0], regs.pc, regs.pstate) == (0, 0, 0x3C5)
        it.vcpu.regs.pc = CODE
        it.vcpu.run(timeout=0.01)
        assert regs.x[0] > 0


def test_registers_of_every_kind_go_to_the_cpu_and_come_back() -> None:
    code = (0x4EA01C01, 0x17FFFFFF)  # mov v1.16b, v0.16b; b .-4
    with guest(code) as it:
        regs = it.vcpu.regs
        written = {"x29": 29, "x30": 30, "sp_el0": 0x1000, "sp_el1": 0x2000, "elr_el1": 0x30, "spsr_el1": 0x3C5}
        written |= {"tpidr_el0": 7, "tpidr_el1": 8, "fpsr": 1, "mair_el1": 0xFF, "contextidr_el1": 9}
        for name, value in written.items():
            it.vcpu.set(name, value)
        regs.cpacr_el1 = 3 << 20
        regs.v[0] = (0x1122 << 64) | 0x3344
        it.vcpu.run(timeout=0.05)
        assert regs.v[1] == (0x1122 << 64) | 0x3344
        assert {name: it.vcpu.get(name) for name in written} == written
        it.vcpu.set("sp_el1", 0x5000)
        assert it.vcpu.get("sp_el1") == 0x5000


def test_a_coalesced_write_is_no_exit() -> None:
    code = (0xF9000001, 0xF9000022, 0x17FFFFFF)  # str x1, [x0]; str x2, [x1]; b .-4
    with guest(code) as it:
        it.vm.add_coalesced_mmio(NOWHERE, 8)
        it.vcpu.regs.x[0], it.vcpu.regs.x[1] = NOWHERE, NOWHERE + 0x1000
        assert mmio(it.vcpu.run(timeout=10)).phys_addr == NOWHERE + 0x1000
        assert [write.phys_addr for write in it.vcpu.coalesced_writes()] == [NOWHERE]
