# SPDX-License-Identifier: Apache-2.0
"""Calls of a guest: SMCCC and PSCI, by release (kernel-device-spec 5.1 to 5.3)."""

from __future__ import annotations

import threading
import time
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

import pytest

import kvmipa
from kvmipa import abi, exits
from tests.backend.emulated.cpu.guests import CODE, NO_ENGINE, NOWHERE, RELEASES, SIZE, Guest, guest, host

if TYPE_CHECKING:
    from collections.abc import Iterator

pytest.importorskip("unicorn", reason=NO_ENGINE)

RESULT = (
    0xF9000260,  # str x0, [x19]
    0x14000000,  # b .
)
HVC = (0xD4000002, *RESULT)  # hvc #0
HVC_7 = (0xD40000E2, *RESULT)  # hvc #7
SMC = (0xD4000003, *RESULT)  # smc #0
SMC_1 = (0xD4000023, *RESULT)  # smc #1

VERSION, CPU_SUSPEND, CPU_OFF, CPU_ON, AFFINITY_INFO = 0x84000000, 0x84000001, 0x84000002, 0xC4000003, 0xC4000004
MIGRATE, MIGRATE_INFO_TYPE, OFF, RESET, FEATURES = 0x84000005, 0x84000006, 0x84000008, 0x84000009, 0x8400000A
SUSPEND, RESET2, OFF2 = 0xC400000E, 0xC4000012, 0xC4000015
ALL = (1 << 64) - 1


def ask(it: Guest, *x: int) -> Any:
    """The call's result, with x0 to x3; or the exit that it is."""
    it.vcpu.regs.x[19] = NOWHERE
    for register in range(4):
        it.vcpu.regs.x[register] = x[register] if register < len(x) else 0x77
    exit = it.vcpu.run(timeout=10)
    if not isinstance(exit, exits.Mmio):
        return exit
    return tuple(it.vcpu.regs.x[register] for register in range(4))


def result(code: tuple[int, ...], *x: int, release: str = "6.12", **more: Any) -> Any:
    with guest(code, release=release, **more) as it:
        return ask(it, *x)


PSCI: dict[tuple[int, ...], Any] = {
    (VERSION,): {"5.10": 0x10000, "6.1": 0x10001, "6.12": 0x10001, "7.3": 0x10003},
    (MIGRATE,): -1,
    (MIGRATE_INFO_TYPE,): 2,
    (FEATURES, VERSION): 0,
    (FEATURES, CPU_ON): 0,
    (FEATURES, 0x80000000): 0,
    (FEATURES, SUSPEND): -1,
    (FEATURES, RESET2): {"5.10": -1, "6.1": 0, "6.12": 0, "7.3": 0},
    (FEATURES, OFF2): {"5.10": -1, "6.1": -1, "6.12": -1, "7.3": 1},
    (FEATURES, MIGRATE): -1,
    (AFFINITY_INFO, 0, 0): 0,
    (AFFINITY_INFO, 1, 0): -2,
    (AFFINITY_INFO, 0, 4): -2,
    (AFFINITY_INFO, 1 << 30, 0): {"5.10": 0, "6.1": -2, "6.12": -2, "7.3": -2},
    (CPU_ON, 5, 0, 0): -2,
    (CPU_ON, 0, 0, 0): -4,
    (RESET2, 3): {"5.10": -1, "6.1": -2, "6.12": -2, "7.3": -2},
    (OFF2, 3, 0): {"5.10": -1, "6.1": -1, "6.12": -1, "7.3": -2},
    (SUSPEND,): -1,
    (0x84001234,): -1,
    (0x12345678,): -1,
    (0x80000000,): 0x10001,
    (0xC5000021,): -1,
    (0xC5000020, 0xC5000021): -1,
    (0x84000050,): {"5.10": -1, "6.1": 0x10000, "6.12": 0x10000, "7.3": 0x10000},
    (0x84000052,): {"5.10": -1, "6.1": 0x00E0210D, "6.12": 0x00E0210D, "7.3": 0x00E0210D},
    (0x8600FF01,): {"5.10": -1, "6.1": 0xB66FB428, "6.12": 0xB66FB428, "7.3": 0xB66FB428},
    (0x86000000,): {"5.10": -1, "6.1": 3, "6.12": 3, "7.3": 3},
}


@pytest.mark.parametrize("release", RELEASES)
@pytest.mark.parametrize("asked", PSCI, ids=lambda asked: "-".join(map(hex, asked)))
def test_a_call_returns_what_the_release_does(asked: tuple[int, ...], release: str) -> None:
    expected = PSCI[asked]
    value = expected[release] if isinstance(expected, dict) else expected
    assert result(HVC, *asked, release=release)[0] == value & ALL


def test_the_other_result_registers_are_zero() -> None:
    assert result(HVC, VERSION) == (0x10001, 0, 0, 0)
    assert result(HVC, 0x84001234) == (ALL, 0, 0, 0)


def test_the_uid_of_the_random_numbers_is_that_of_its_bytes() -> None:
    # trng.c: arm_smc_trng_uuid, 0d21e000-4384-11eb-8070-5244554e5a4c; Linux 6.12.117 gave these.
    uuid = bytes.fromhex("0d21e000438411eb80705244554e5a4c")
    assert result(HVC, 0x84000052) == tuple(
        int.from_bytes(uuid[start : start + 4], "little") for start in range(0, 16, 4)
    )


# First release in which a call is known, and what it returned one before.
FIRST = [
    ((0x84000050,), "5.12", 0x10000, -1),
    ((0x8600FF01,), "5.13", 0xB66FB428, -1),
    ((0x86000000,), "5.13", 3, -1),
    ((AFFINITY_INFO, 1 << 30, 0), "5.15", -2, 0),
]


@pytest.mark.parametrize(("asked", "release", "found", "before"), FIRST, ids=str)
def test_calls_are_as_old_as_what_brought_them(asked: tuple[int, ...], release: str, found: int, before: int) -> None:
    line, minor = release.split(".")
    assert result(HVC, *asked, release=release)[0] == found & ALL
    assert result(HVC, *asked, release=f"{line}.{int(minor) - 1}")[0] == before & ALL


def test_any_immediate_of_hvc_is_a_call() -> None:
    assert result(HVC_7, VERSION)[0] == 0x10001


@pytest.mark.parametrize("release", RELEASES)
def test_smc_is_a_call_since_6_12_and_with_immediate_0_only(release: str) -> None:
    is_call = release in {"6.12", "7.3"}
    assert (result(SMC, VERSION, release=release)[0] < ALL) == is_call
    assert result(SMC_1, VERSION, release=release)[0] == ALL


def test_without_the_feature_psci_is_0_1() -> None:
    assert result(HVC, VERSION, features=0)[0] == ALL
    assert result(HVC, 0x95C1BA60, 0, features=0)[0] == -2 & ALL


def test_a_version_that_user_space_chose_counts() -> None:
    with guest(HVC) as it:
        it.vcpu.set("psci_version", 2)
        assert ask(it, VERSION)[0] == 2
    with guest(HVC) as it:
        it.vcpu.set("psci_version", 2)
        assert ask(it, FEATURES, VERSION)[0] == ALL


def test_a_cleared_bit_of_a_bitmap_is_not_supported() -> None:
    with guest(HVC) as it:
        it.vcpu.set("std_bmap", 0)
        assert ask(it, 0x84000050)[0] == ALL


SYSTEM_EVENTS = {
    (OFF,): (RELEASES, 1, 0),
    (RESET,): (RELEASES, 2, 0),
    (RESET2, 0): (RELEASES[1:], 2, 1),
    (RESET2, 0x80000000): (RELEASES[1:], 2, 1),
    (OFF2, 0, 0): (RELEASES[3:], 1, 1),
}


@pytest.mark.parametrize("asked", SYSTEM_EVENTS, ids=lambda asked: "-".join(map(hex, asked)))
def test_the_end_of_a_system_is_an_exit_and_stops_every_vcpu(asked: tuple[int, ...]) -> None:
    releases, kind, flags = SYSTEM_EVENTS[asked]
    for release in releases:
        with guest(HVC, release=release) as it, it.vm.create_vcpu(1) as other:
            other.init()
            exit = ask(it, *asked)
            assert isinstance(exit, exits.SystemEvent)
            assert int(exit.type) == kind
            assert tuple(exit.data) == (() if release == "5.10" else (flags,))
            assert it.vcpu.regs.x[0] == -6 & ALL
            assert it.vcpu.regs.pc == CODE + 4
            assert int(it.vcpu.mp_state) == int(other.mp_state) == abi.KVM_MP_STATE_STOPPED
            assert it.vcpu.run(timeout=0.05) == exits.Interrupted(kicked=False, timed_out=True)


def test_system_suspend_leaves_everything_to_user_space() -> None:
    with guest(HVC) as it:
        it.vm.enable_cap(abi.KVM_CAP_ARM_SYSTEM_SUSPEND)
        exit = ask(it, SUSPEND)
        assert isinstance(exit, exits.SystemEvent)
        assert (int(exit.type), tuple(exit.data)) == (5, ())
        assert (it.vcpu.regs.x[0], it.vcpu.regs.pc) == (SUSPEND, CODE + 4)
        assert int(it.vcpu.mp_state) == abi.KVM_MP_STATE_RUNNABLE


def test_cpu_suspend_waits_and_returns_0() -> None:
    with guest(HVC) as it:
        it.vcpu.regs.x[0], it.vcpu.regs.x[19] = CPU_SUSPEND, NOWHERE
        assert isinstance(it.vcpu.run(timeout=0.05), exits.Interrupted)
        assert isinstance(it.vcpu.run(), exits.Mmio)
        assert it.vcpu.regs.x[0] == 0


@pytest.mark.parametrize("code", [HVC, SMC], ids=["hvc", "smc"])
def test_the_filter_hands_calls_to_user_space_or_denies_them(code: tuple[int, ...]) -> None:
    with guest(code) as it:
        it.vm.set_smccc_filter(0xC600_0000, 16, kvmipa.SmcccAction.FORWARD)
        it.vm.set_smccc_filter(0xC700_0000, 16, kvmipa.SmcccAction.DENY)
        exit = ask(it, 0xC600_0003, 5)
        assert isinstance(exit, exits.Hypercall)
        assert exit.nr == 0xC600_0003
        assert (it.vcpu.regs.x[0], it.vcpu.regs.x[1], it.vcpu.regs.pc) == (0xC600_0003, 5, CODE + 4)
        it.vcpu.regs.pc = CODE
        assert ask(it, 0xC700_0000)[0] == ALL


# ------------------------------------------------------------------------------------------------ several vCPUs

TURNS_ON = (
    0xD4000002,  # hvc #0
    0xF9000260,  # str x0, [x19]
    0x14000000,  # b .
)
TURNS_OFF = (
    0xF9400013,  # ldr x19, [x0]
    0xD2B08000,  # movz x0, #0x8400, lsl #16
    0xF2800040,  # movk x0, #2
    0xD4000002,  # hvc #0
    0x14000000,  # b .
)


@contextmanager
def two(release: str) -> Iterator[tuple[Guest, kvmipa.Vcpu]]:
    """Two vCPUs, of which the second is off."""
    features = kvmipa.VcpuFeature.PSCI_0_2
    with ExitStack() as stack:
        it = stack.enter_context(guest(TURNS_ON, release=release))
        other = stack.enter_context(it.vm.create_vcpu(1))
        other.init(features | kvmipa.VcpuFeature.POWER_OFF)
        yield it, other


@pytest.mark.parametrize("release", RELEASES)
def test_cpu_on_starts_a_vcpu_that_waits_in_another_thread(release: str) -> None:
    with two(release) as (it, other):
        it.put(TURNS_OFF, CODE + 0x4000)
        other.regs.x[5] = 5
        found: list[Any] = []
        thread = threading.Thread(target=lambda: found.append(other.run(timeout=10)))
        thread.start()
        time.sleep(0.05)
        assert ask(it, AFFINITY_INFO, 1, 0)[0] == 1
        it.vcpu.regs.pc = CODE - 4
        assert ask(it, CPU_ON, 1, CODE + 0x4000, NOWHERE + 0x100)[0] == 0
        thread.join(5)
        exit = found[0]
        assert isinstance(exit, exits.Mmio)
        assert exit.phys_addr == NOWHERE + 0x100
        assert other.regs.x[5] == 0
        assert other.regs.pstate == 0x3C5
        it.vcpu.regs.pc = CODE - 4
        assert ask(it, CPU_ON, 1, CODE, 0)[0] == -4 & ALL
        exit.reply(0)
        thread = threading.Thread(target=lambda: found.append(other.run(timeout=10)))
        thread.start()
        for _ in range(100):
            it.vcpu.regs.pc = CODE - 4
            if ask(it, AFFINITY_INFO, 1, 0)[0] == 1:
                break
            time.sleep(0.01)
        else:
            pytest.fail("it did not turn itself off")
        other.kick()
        thread.join(5)
        assert int(other.mp_state) == abi.KVM_MP_STATE_STOPPED


def booted_at(call: int, features: int, pc: int) -> tuple[int, int, int]:
    """PC, X0 and SCTLR_EL1 of a vCPU that another one has turned on, at its first exit; pc: where it is to begin."""
    with guest(TURNS_ON, features=features) as it, it.vm.create_vcpu(1) as other:
        other.init(features | kvmipa.VcpuFeature.POWER_OFF)
        memory = kvmipa.GuestMemory(SIZE)
        it.vm.add_memory(0x1_4000_0000, memory)
        memory.buffer[:4] = (0xF9000000).to_bytes(4, "little")  # str x0, [x0]
        it.put((0xF9000000,), CODE + 0x4000)
        assert ask(it, call, 1, pc, 0x1_0000_9000)[0] == 0
        assert isinstance(other.run(timeout=10), exits.Mmio)
        return other.regs.pc, other.regs.x[0], other.get("sctlr_el1")


def test_only_calls_of_32_bits_have_parameters_of_32_bits() -> None:
    above, below = 0x1_4000_0000, CODE + 0x4000
    assert booted_at(0x95C1BA60, 0, above)[:2] == (above, 0x1_0000_9000)
    assert booted_at(CPU_ON, kvmipa.VcpuFeature.PSCI_0_2, above)[:2] == (above, 0x1_0000_9000)
    assert booted_at(0x84000003, kvmipa.VcpuFeature.PSCI_0_2, 0xFFFF_0000_0000 | below)[:2] == (below, 0x9000)


def test_system_off_ends_the_run_of_nobody_else() -> None:
    with guest(HVC) as it, it.vm.create_vcpu(1) as other:
        other.init()
        it.put((0x14000000,), CODE + 0x4000)  # b .
        other.regs.pc = CODE + 0x4000
        found: list[Any] = []
        thread = threading.Thread(target=lambda: found.append(other.run(timeout=10)))
        thread.start()
        time.sleep(0.1)
        assert isinstance(ask(it, OFF), exits.SystemEvent)
        time.sleep(0.05)
        assert not found
        other.kick()
        thread.join(5)
        assert found == [exits.Interrupted(kicked=True, timed_out=False)]


def test_vcpus_run_at_once_on_the_same_memory() -> None:
    # 1: ldr x1, [x2]; add x1, x1, #1; str x1, [x2]; subs x3, x3, #1; b.ne 1b; str x1, [x0]
    code = (0xF9400041, 0x91000421, 0xF9000041, 0xF1000463, 0x54FFFF81, 0xF9000001)
    with guest(code, profile=host(cpus=4)) as it, ExitStack() as stack:
        vcpus = [it.vcpu]
        for number in (1, 2):
            vcpus.append(stack.enter_context(it.vm.create_vcpu(number)))
            vcpus[-1].init()
        found: dict[int, Any] = {}

        def run(number: int) -> None:
            regs = vcpus[number].regs
            regs.pc, regs.x[0], regs.x[2], regs.x[3] = CODE, NOWHERE, CODE + 0x8000 + 64 * number, 1_000_000
            found[number] = vcpus[number].run(timeout=20)

        threads = [threading.Thread(target=run, args=(number,)) for number in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(20)
        assert [found[number].value for number in range(3)] == [1_000_000] * 3
        places = [it.memory.buffer[0x8000 + 64 * number :][:8] for number in range(3)]
        assert [int.from_bytes(place, "little") for place in places] == [1_000_000] * 3
