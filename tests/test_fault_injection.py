# SPDX-License-Identifier: Apache-2.0
"""Fault injection: what is asked for happens, that alone, and with the errors of the real thing."""

from __future__ import annotations

import errno
import threading
import time
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import kvmipa
from kvmipa import GuestMemory, HostProfile, Interrupted, Kvm, Mmio, abi, choice, errors
from kvmipa.backend.emulated import EmulatedBackend
from kvmipa.fault_injection import Call, FaultInjector, Faults
from kvmipa.fault_injection.calls import struct_name
from kvmipa.fault_injection.faults import Which
from kvmipa.system import EINTR_ATTEMPTS
from tests.guests import CODE, DEVICE, LOAD_FOR_EVER, SPIN, STORE_AND_LOAD, GuestMachine

if TYPE_CHECKING:
    from array import array
    from collections.abc import Callable, Iterator, Sequence


@pytest.fixture
def faults() -> Faults:
    """None yet."""
    return Faults()


@pytest.fixture
def kvm(backend_name: str, faults: Faults) -> Iterator[Kvm]:
    """An open Kvm, on each kernel that there is, with the faults."""
    with faults.open(backend_name) as opened:
        yield opened


def some_size(kvm: Kvm) -> int:
    """A size that every host has."""
    return min(kvm.host_ipa_limit or 40, 40)


# ------------------------------------------------------------------------------------------------ KVM_CREATE_VM


def test_second_creation_fails_and_the_others_do_not(kvm: Kvm, faults: Faults) -> None:
    size = some_size(kvm)
    fault = faults.fail("KVM_CREATE_VM", errno.ENOMEM, nth=2)
    with kvm.create_vm(size) as vm:
        assert vm.ipa_bits
        with pytest.raises(errors.OutOfMemoryError) as caught:
            kvm.create_vm(size)
        assert caught.value.errno == errno.ENOMEM
        kvm.create_vm(size).close()
    assert [str(one) for one in faults.injected] == [f"KVM_CREATE_VM({size:#x}), call 2: failed with ENOMEM"]
    assert (fault.calls, fault.fired) == (3, 1)
    faults.require_used()


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        (errno.EMFILE, errors.DescriptorLimitError),
        (errno.ENFILE, errors.DescriptorLimitError),
        (errno.ENOMEM, errors.OutOfMemoryError),
        (errno.EINVAL, errors.CreateVmError),
        (errno.EPERM, errors.CreateVmError),
    ],
)
def test_error_is_of_the_class_that_the_real_one_has(
    kvm: Kvm, faults: Faults, code: int, expected: type[errors.KvmError]
) -> None:
    faults.fail("KVM_CREATE_VM", code)
    with pytest.raises(expected) as caught:
        kvm.create_vm(some_size(kvm))
    assert (type(caught.value), caught.value.errno, caught.value.ioctl) == (expected, code, "KVM_CREATE_VM")


def test_interruptions_that_kvmipa_rides_out_are_seen_in_the_list_only(kvm: Kvm, faults: Faults) -> None:
    faults.fail("KVM_CREATE_VM", errno.EINTR, times=EINTR_ATTEMPTS - 1)
    kvm.create_vm(some_size(kvm)).close()
    assert len(faults.injected) == EINTR_ATTEMPTS - 1
    assert {one.error for one in faults.injected} == {errno.EINTR}


def test_interruption_without_end_is_its_own_error(kvm: Kvm, faults: Faults) -> None:
    faults.fail("KVM_CREATE_VM", "EINTR")
    with pytest.raises(errors.CreateVmInterruptedError):
        kvm.create_vm(some_size(kvm))
    with pytest.raises(errors.CreateVmInterruptedError):
        kvm.probe_machine_types([some_size(kvm)])


def test_sweep_has_the_faults(kvm: Kvm, faults: Faults) -> None:
    before = kvm.probe_machine_types([0, 1, 31, 32, 33])
    faults.fail("KVM_CREATE_VM", errno.EINTR, times=3)
    faults.fail("KVM_CREATE_VM", errno.EMFILE, when=lambda call: call.argument == 32)
    assert kvm.probe_machine_types([0, 1, 31, 32, 33]) == [*before[:3], errno.EMFILE, before[4]]
    assert [one.error for one in faults.injected] == [errno.EINTR] * 3 + [errno.EMFILE]


def test_sweep_counts_every_type(kvm: Kvm, faults: Faults) -> None:
    fault = faults.fail("KVM_CREATE_VM", errno.ENOMEM)
    assert kvm.probe_machine_types(range(8)) == [errno.ENOMEM] * 8
    assert fault.calls == 8


def test_sweep_without_faults_stays_one_call() -> None:
    class Counting(EmulatedBackend):
        sweeps = 0

        def sweep_machine_types(self, fd: int, types: array[int], /) -> Sequence[int]:
            self.sweeps += 1
            return super().sweep_machine_types(fd, types)

    behind, faults = Counting(HostProfile()), Faults()
    with Kvm(FaultInjector(behind, faults)) as kvm:
        kvm.probe_machine_types(range(64))
        assert behind.sweeps == 1
        faults.fail("KVM_CREATE_VM", errno.ENOMEM, after=1000)
        kvm.probe_machine_types(range(64))
        assert behind.sweeps == 1


def test_own_question_of_kvmipa_is_not_counted(kvm: Kvm, faults: Faults) -> None:
    fault = faults.fail("KVM_CREATE_VM", errno.ENOMEM, nth=2)
    with kvm.create_vm(32) as vm:
        # Whether the host ignores sizes is what this rests on.
        assert vm.ipa_bits in {32, kvm.host_ipa_limit}
        assert kvm.ignores_size in {True, False}
    assert fault.calls == 1
    asked = faults.fail("KVM_CREATE_VM", errno.ENOMEM, when=lambda call: call.own)
    fault = faults.limit_ipa(48)
    with pytest.raises(errors.OutOfMemoryError):
        _ = kvm.ignores_size
    assert asked.fired == 1


# ------------------------------------------------------------------------------------------------ the host is smaller


def test_lower_limit_is_the_same_everywhere(kvm: Kvm, faults: Faults) -> None:
    faults.limit_ipa(36)
    assert kvm.host_ipa_limit == kvm.check_extension(abi.KVM_CAP_ARM_VM_IPA_SIZE) == 36
    assert kvm.probe_machine_types([0, 31, 32, 36, 37, 40, 52]) == [22, 22, 0, 0, 22, 22, 22]
    with pytest.raises(errors.DefaultIpaSizeUnsupportedError):
        kvm.create_vm()
    with pytest.raises(errors.IpaSizeTooLargeError, match="limit of 36 bits"):
        kvm.create_vm(37)
    with pytest.raises(errors.IpaSizeTooSmallError):
        kvm.create_vm(31)
    with kvm.create_vm(36) as vm:
        assert vm.ipa_bits == 36
        assert vm.check_extension(abi.KVM_CAP_ARM_VM_IPA_SIZE) == 36
    assert not kvm.ignores_size
    faults.require_used()


def test_limit_above_the_hosts_changes_nothing(kvm: Kvm, faults: Faults, backend_name: str) -> None:
    some_sizes = (31, 32, 36, 53, 63)
    with kvmipa.open(backend_name) as plain:
        answers, limit = plain.probe_machine_types(some_sizes), plain.host_ipa_limit
    if kvm.ignores_size:
        pytest.skip("a host with a limit of its own does not ignore sizes")
    faults.limit_ipa(52)
    assert kvm.host_ipa_limit == limit
    assert kvm.probe_machine_types(some_sizes) == answers


def test_limit_goes_with_its_fault(kvm: Kvm, faults: Faults) -> None:
    before, ignores = kvm.host_ipa_limit, kvm.ignores_size
    fault = faults.limit_ipa(33)
    assert kvm.host_ipa_limit == 33
    faults.remove(fault)
    assert (kvm.host_ipa_limit, kvm.ignores_size) == (before, ignores)
    with pytest.raises(ValueError, match="not among the faults"):
        faults.remove(fault)


def test_kvm_of_another_making_has_to_be_named_before_the_limit_changes(backend_name: str, faults: Faults) -> None:
    with faults, kvmipa.open(backend_name) as kvm:
        with pytest.raises(RuntimeError, match="has asked for the limit already"):
            faults.limit_ipa(36)
        with pytest.raises(RuntimeError, match="has asked for the limit already"):
            faults.hide_capability(abi.KVM_CAP_ARM_VM_IPA_SIZE)
        faults.hide_capability("KVM_CAP_ARM_PMU_V3")
        assert Faults.of(kvm).limit_ipa(36).fired == 0
        assert kvm.host_ipa_limit == 36


def test_kvm_that_asks_again_meets_no_fault_but_the_hosts(kvm: Kvm, faults: Faults) -> None:
    later = faults.fail("KVM_CHECK_EXTENSION", "EIO", nth=5)
    slow = faults.delay("KVM_CHECK_EXTENSION", 30, nth=5)
    faults.limit_ipa(33)
    assert kvm.host_ipa_limit == 33
    assert (later.calls, slow.calls) == (0, 0)


def test_limit_says_nothing_to_kvms_that_are_closed(faults: Faults) -> None:
    with faults.open("emulated") as kvm:
        pass
    faults.limit_ipa(36)
    assert kvm.host_ipa_limit == 52
    with faults, kvmipa.open("emulated") as kvm:
        assert kvm.host_ipa_limit == 36


def test_hidden_capability_is_absent_from_both_descriptors(kvm: Kvm, faults: Faults) -> None:
    with kvm.create_vm(some_size(kvm)) as vm:
        # Every kernel has these, and says so.
        caps = (abi.KVM_CAP_ARM_PSCI_0_2, abi.KVM_CAP_ONE_REG)
        for cap in caps:
            assert kvm.check_extension(cap)
            assert vm.check_extension(cap)
        faults.hide_capability(caps[0])
        assert (kvm.check_extension(caps[0]), vm.check_extension(caps[0])) == (0, 0)
        assert (kvm.check_extension(caps[1]), vm.check_extension(caps[1])) == (1, 1)


def test_hidden_capability_cannot_be_enabled(kvm: Kvm, faults: Faults) -> None:
    with kvm.create_vm(some_size(kvm)) as vm:
        if not vm.check_extension(abi.KVM_CAP_ARM_NISV_TO_USER):
            pytest.skip("this kernel does not have it")
        faults.hide_capability("KVM_CAP_ARM_NISV_TO_USER")
        with pytest.raises(errors.KvmError) as caught:
            vm.enable_cap(abi.KVM_CAP_ARM_NISV_TO_USER)
        assert caught.value.errno == errno.EINVAL
        faults.remove()
        vm.enable_cap(abi.KVM_CAP_ARM_NISV_TO_USER)


def test_without_the_capability_there_are_no_sizes(kvm: Kvm, faults: Faults) -> None:
    default = kvm.probe_machine_types([0])
    faults.hide_capability(abi.KVM_CAP_ARM_VM_IPA_SIZE)
    assert kvm.host_ipa_limit is None
    assert kvm.probe_machine_types([0, 32, 40, 1 << 31]) == [*default, 22, 22, 22]
    with pytest.raises(errors.IpaSizeNotConfigurableError):
        kvm.create_vm(36)


# ------------------------------------------------------------------------------------------------ KVM_RUN


@pytest.fixture
def guest(kvm: Kvm) -> Iterator[GuestMachine]:
    """A machine whose KVM has the faults."""
    with GuestMachine(kvm) as made:
        yield made


def test_interrupted_run_is_an_exit_and_the_guest_goes_on(guest: GuestMachine, faults: Faults) -> None:
    vcpu = guest.vcpu(STORE_AND_LOAD)
    fault = faults.fail("KVM_RUN", errno.EINTR, times=3)
    assert [vcpu.run() for _ in range(3)] == [Interrupted()] * 3
    stored = vcpu.run()
    assert isinstance(stored, Mmio)
    assert (stored.phys_addr, stored.is_write) == (DEVICE, True)
    assert (fault.calls, fault.fired) == (4, 3)


def test_interruption_between_an_answer_and_the_guest_loses_nothing(guest: GuestMachine, faults: Faults) -> None:
    vcpu = guest.vcpu(LOAD_FOR_EVER)
    for number in range(1, 6):
        load = vcpu.run()
        assert isinstance(load, Mmio)
        load.reply(number)
        faults.fail("KVM_RUN", errno.EINTR, nth=1)
        assert vcpu.run() == Interrupted()
        load = vcpu.run()
        assert isinstance(load, Mmio)
        assert vcpu.regs.x[2] == number
        load.reply(0)


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        (errno.EFAULT, errors.GuestMemoryGoneError),
        (errno.ENOEXEC, errors.VcpuNotInitialisedError),
        (errno.ENOMEM, errors.OutOfMemoryError),
        (errno.EIO, errors.OtherProcessError),
    ],
)
def test_run_fails_as_the_real_one_does_and_the_next_one_runs(
    guest: GuestMachine, faults: Faults, code: int, expected: type[errors.KvmError]
) -> None:
    vcpu = guest.vcpu(STORE_AND_LOAD)
    faults.fail("KVM_RUN", code, nth=1)
    with pytest.raises(expected) as caught:
        vcpu.run()
    assert caught.value.errno == code
    assert isinstance(vcpu.run(), Mmio)


def test_run_that_does_not_get_the_turn_is_not_counted(guest: GuestMachine, faults: Faults) -> None:
    vcpu = guest.vcpu((SPIN,))
    fault = faults.fail("KVM_RUN", errno.EINTR, nth=3)
    runner = threading.Thread(target=lambda: vcpu.run(timeout=30))
    runner.start()
    while not fault.calls:
        time.sleep(0.001)
    time.sleep(0.05)
    for _ in range(5):
        with pytest.raises(errors.VcpuBusyError):
            vcpu.run()
    assert fault.calls == 1
    vcpu.kick()
    runner.join()
    assert vcpu.run(timeout=0.05) == Interrupted(timed_out=True)
    assert vcpu.run() == Interrupted()
    assert fault.fired == 1


def test_unanswered_load_is_not_a_run(guest: GuestMachine, faults: Faults) -> None:
    vcpu = guest.vcpu(LOAD_FOR_EVER)
    vcpu.run()
    fault = faults.fail("KVM_RUN", errno.EINTR)
    with pytest.raises(errors.MmioNotAnsweredError):
        vcpu.run()
    assert fault.calls == 0


def test_kick_and_time_limit_work_in_a_thread_whose_run_failed_before(guest: GuestMachine, faults: Faults) -> None:
    vcpu = guest.vcpu((SPIN,))
    faults.fail("KVM_RUN", errno.EINTR, nth=1)
    assert vcpu.run() == Interrupted()
    assert vcpu.run(timeout=0.05) == Interrupted(timed_out=True)
    threading.Timer(0.05, vcpu.kick).start()
    assert vcpu.run(timeout=30) == Interrupted(kicked=True)


def test_kick_is_not_lost_by_a_run_that_fails(guest: GuestMachine, faults: Faults) -> None:
    vcpu = guest.vcpu((SPIN,))
    assert vcpu.run(timeout=0) == Interrupted(timed_out=True)
    faults.fail("KVM_RUN", errno.EFAULT, nth=1)
    vcpu.kick()
    with pytest.raises(errors.GuestMemoryGoneError):
        vcpu.run()
    assert vcpu.run(timeout=30) == Interrupted(kicked=True)


def test_closed_vcpu_is_closed_and_nothing_else(guest: GuestMachine, faults: Faults) -> None:
    vcpu = guest.vcpu((SPIN,))
    vcpu.run(timeout=0)
    fault = faults.fail("KVM_RUN", errno.EFAULT)
    vcpu.close()
    with pytest.raises(errors.ClosedError):
        vcpu.run()
    assert fault.calls == 0


# ------------------------------------------------------------------------------------------------ all other calls


def test_device_that_may_not_be_opened(backend_name: str, faults: Faults) -> None:
    faults.fail("open", errno.EACCES)
    with pytest.raises(errors.DevicePermissionError, match="may not open /dev/kvm"):
        faults.open(backend_name)
    assert str(faults.injected[0]) == "open(/dev/kvm), call 1: failed with EACCES"


def test_device_that_is_no_kvm(backend_name: str, faults: Faults) -> None:
    faults.fail("KVM_GET_API_VERSION", errno.EINVAL)
    with pytest.raises(errors.NotKvmError):
        faults.open(backend_name)


def test_request_is_told_by_what_its_struct_has(kvm: Kvm, faults: Faults) -> None:
    memory = GuestMemory(1 << 16)
    beyond = 1 << 31
    fault = faults.fail(
        "KVM_SET_USER_MEMORY_REGION", errno.ENOMEM, when=lambda call: call.fields["guest_phys_addr"] >= beyond
    )
    with kvm.create_vm(some_size(kvm)) as vm:
        vm.add_memory(0, memory)
        with pytest.raises(errors.KvmError) as caught:
            vm.add_memory(beyond, memory)
        assert (caught.value.errno, caught.value.ioctl) == (errno.ENOMEM, "KVM_SET_USER_MEMORY_REGION")
        # As far as kvmipa and the kernel know it is free.
        vm.add_memory(beyond - (1 << 16), memory)
    assert (fault.calls, fault.fired) == (1, 1)
    assert faults.injected[0].call.fields["memory_size"] == 1 << 16


def test_request_is_told_by_the_kind_of_its_descriptor(kvm: Kvm, faults: Faults) -> None:
    cap = abi.KVM_CAP_ONE_REG
    faults.fail("KVM_CHECK_EXTENSION", errno.EINVAL, on="vm", when=lambda call: call.argument == cap)
    with kvm.create_vm(some_size(kvm)) as vm:
        assert kvm.check_extension(cap) == 1
        with pytest.raises(errors.KvmError) as caught:
            vm.check_extension(cap)
        assert caught.value.errno == errno.EINVAL


def test_two_requests_of_one_number_are_two(kvm: Kvm, faults: Faults) -> None:
    assert abi.KVM_GET_ONE_REG == abi.KVM_ARM_SET_DEVICE_ADDR
    placing = faults.fail("KVM_ARM_SET_DEVICE_ADDR", errno.EIO)
    with kvm.create_vm(some_size(kvm)) as vm, vm.create_vcpu(0) as vcpu:
        vcpu.init()
        assert vcpu.regs.pc == 0
        assert placing.calls == 0
        reading = faults.fail(
            "KVM_GET_ONE_REG", errno.ENOENT, when=lambda call: call.fields["id"] == int(kvmipa.Reg.PC)
        )
        assert vcpu.regs.pstate
        with pytest.raises(errors.NoSuchRegisterError):
            _ = vcpu.regs.pc
        assert reading.fired == 1


def run_nothing(vm: kvmipa.Vm) -> None:
    """Have a vCPU's run area mapped."""
    with vm.create_vcpu(0) as vcpu:
        vcpu.init()
        vcpu.run(timeout=0)


@pytest.mark.parametrize(
    ("request_name", "code", "act"),
    [
        ("KVM_CREATE_VCPU", errno.ENOMEM, lambda vm: vm.create_vcpu(0)),
        ("KVM_CREATE_DEVICE", errno.ENODEV, lambda vm: vm.create_device(kvmipa.DeviceType.VGIC_V3)),
        ("KVM_GET_STATS_FD", errno.EMFILE, lambda vm: vm.open_stats()),
        ("KVM_ARM_VCPU_INIT", errno.EINVAL, lambda vm: vm.create_vcpu(0).init()),
        ("mmap", errno.ENOMEM, run_nothing),
    ],
)
def test_any_call_can_fail(
    kvm: Kvm, faults: Faults, request_name: str, code: int, act: Callable[[kvmipa.Vm], object]
) -> None:
    fault = faults.fail(request_name, code)
    with kvm.create_vm(some_size(kvm)) as vm:
        with pytest.raises(errors.KvmError) as caught:
            act(vm)
        assert (caught.value.errno, fault.fired) == (code, 1)


def test_devices_are_known_as_devices(kvm: Kvm, faults: Faults) -> None:
    with kvm.create_vm(some_size(kvm)) as vm:
        try:
            device = vm.create_device(kvmipa.DeviceType.VGIC_V3)
        except errors.KvmError:
            pytest.skip("this host has no GICv3")
        with device:
            fault = faults.fail("KVM_HAS_DEVICE_ATTR", errno.EIO, on="device")
            with vm.create_vcpu(0) as vcpu:
                vcpu.init()
                vcpu.has_attr(1, 0)
            assert fault.calls == 0
            with pytest.raises(errors.KvmError):
                device.has_attr(0, 2)
            assert fault.fired == 1


def test_closed_handle_is_closed_and_nothing_else(kvm: Kvm, faults: Faults) -> None:
    fault = faults.fail("KVM_CHECK_EXTENSION", errno.EINTR)
    kvm.close()
    with pytest.raises(errors.ClosedError):
        kvm.check_extension(1)
    assert fault.calls == 0


def test_bad_argument_is_the_callers_error_and_not_the_faults(faults: Faults) -> None:
    fault = faults.fail("KVM_CREATE_VM", errno.ENOMEM)
    backend = FaultInjector(EmulatedBackend(HostProfile()), faults)
    fd = backend.open("/dev/kvm")
    with pytest.raises(OverflowError):
        backend.ioctl(fd, abi.KVM_CREATE_VM, -1)
    with pytest.raises(TypeError):
        backend.ioctl(fd, abi.KVM_CREATE_VM, "40")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="takes a struct"):
        backend.ioctl_buffer(fd, abi.KVM_ENABLE_CAP, bytearray(3))
    assert fault.calls == 0
    backend.close(fd)
    assert backend.systems() == set()


def test_struct_names_are_those_of_the_abi() -> None:
    known = {request: struct_name(request) for request in abi.REQUESTS}
    assert known["KVM_GET_ONE_REG"] == "one_reg"
    assert known["KVM_GET_VCPU_EVENTS"] == known["KVM_SET_VCPU_EVENTS"] == "vcpu_events"
    assert known["KVM_RUN"] is known["KVM_CREATE_VM"] is None
    for request, name in known.items():
        if name is not None:
            fields = Call(request, "vm", data=bytes(4096)).fields
            assert set(fields.values()) == {0}, request


def test_struct_at_a_bad_address_is_the_kernels_to_refuse(faults: Faults) -> None:
    faults.fail("KVM_SET_USER_MEMORY_REGION", errno.ENOMEM, when=lambda call: bool(call.fields.get("slot")))
    backend = FaultInjector(EmulatedBackend(HostProfile()), faults)
    fd = backend.open("/dev/kvm")
    vm = backend.ioctl(fd, abi.KVM_CREATE_VM, 0)
    assert backend.ioctl(vm, abi.KVM_SET_USER_MEMORY_REGION, 8) == -errno.EFAULT
    backend.close(vm)
    backend.close(fd)


# ------------------------------------------------------------------------------------------------ which calls


# Whatever else the machine does.
patiently = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])

WHICH = st.one_of(
    st.builds(lambda n: {"nth": n}, st.integers(1, 12)),
    st.builds(lambda n, t: {"nth": n, "times": t}, st.integers(1, 12), st.integers(1, 12)),
    st.builds(lambda a: {"after": a}, st.integers(0, 12)),
    st.builds(lambda a, t: {"after": a, "times": t}, st.integers(0, 12), st.integers(1, 12)),
)


def expected_numbers(which: dict[str, int], calls: int) -> list[int]:
    """Said another way: which of so many calls are met."""
    numbers = list(range(1, calls + 1))
    left = numbers[which["nth"] - 1 :] if "nth" in which else numbers[which.get("after", 0) :]
    if "times" in which:
        return left[: which["times"]]
    return left[:1] if "nth" in which else left


@patiently
@given(which=WHICH, calls=st.integers(0, 30))
def test_calls_that_are_met_are_those_that_were_named(which: dict[str, int], calls: int) -> None:
    faults = Faults()
    fault = faults.fail("KVM_CREATE_VM", errno.ENOMEM, **which)  # type: ignore[arg-type]
    answers = [faults.meet(Call("KVM_CREATE_VM", "kvm"), lambda: 7) for _ in range(calls)]
    met = expected_numbers(which, calls)
    assert [number for number, answer in enumerate(answers, 1) if answer == -errno.ENOMEM] == met
    assert [one.number for one in faults.injected] == met
    assert set(answers) <= {7, -errno.ENOMEM}
    assert (fault.calls, fault.fired, fault.is_unused) == (calls, len(met), not met)


@patiently
@given(first=WHICH, second=WHICH, calls=st.integers(0, 20))
def test_first_fault_that_answers_does_and_both_count(
    first: dict[str, int], second: dict[str, int], calls: int
) -> None:
    faults = Faults()
    faults.fail("KVM_RUN", errno.EINTR, **first)  # type: ignore[arg-type]
    faults.fail("KVM_RUN", errno.EFAULT, **second)  # type: ignore[arg-type]
    answers = [faults.meet(Call("KVM_RUN", "vcpu"), lambda: 0) for _ in range(calls)]
    by_first, by_second = expected_numbers(first, calls), expected_numbers(second, calls)
    assert [n for n, answer in enumerate(answers, 1) if answer == -errno.EINTR] == by_first
    assert [n for n, answer in enumerate(answers, 1) if answer == -errno.EFAULT] == sorted({*by_second} - {*by_first})


def test_threads_share_the_count(faults: Faults) -> None:
    fault = faults.fail("KVM_CHECK_EXTENSION", errno.EIO, after=100, times=250, when=lambda call: call.argument == 1)
    refused = []

    def ask(kvm: Kvm) -> None:
        for _ in range(200):
            try:
                kvm.check_extension(1)
            except OSError:
                refused.append(1)

    with faults.open("emulated") as kvm:
        threads = [threading.Thread(target=ask, args=(kvm,)) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert (fault.calls, fault.fired, len(refused)) == (800, 250, 250)
    assert sorted(one.number for one in faults.injected) == list(range(101, 351))


def test_delay_is_a_delay(kvm: Kvm, faults: Faults) -> None:
    faults.delay("KVM_CREATE_VM", 0.05, nth=2)
    faults.fail("KVM_CREATE_VM", errno.ENOMEM, nth=3)
    size = some_size(kvm)
    kvm.create_vm(size).close()
    start = time.monotonic()
    kvm.create_vm(size).close()
    assert time.monotonic() - start >= 0.05
    with pytest.raises(errors.OutOfMemoryError):
        kvm.create_vm(size)
    assert [one.what for one in faults.injected] == ["delayed by 0.05 s", "failed"]


# ------------------------------------------------------------------------------------------------ whom they meet


def test_every_opening_in_the_block_has_them_once(backend_name: str, faults: Faults) -> None:
    with faults, faults, kvmipa.open(backend_name) as kvm:
        assert Faults.of(kvm) is faults
        fault = faults.fail("KVM_CHECK_EXTENSION", errno.EIO, when=lambda call: call.argument == 9)
        with pytest.raises(errors.KvmError):
            kvm.check_extension(9)
        assert fault.calls == 1
    assert not choice.FRONTS
    with kvmipa.open(backend_name) as kvm, pytest.raises(ValueError, match="opened without faults"):
        Faults.of(kvm)


def test_blocks_nest(backend_name: str) -> None:
    with Faults() as outer, Faults() as inner, kvmipa.open(backend_name) as kvm:
        assert Faults.of(kvm) is inner
        outer.fail("KVM_CREATE_VM", errno.ENOMEM)
        with pytest.raises(errors.OutOfMemoryError):
            kvm.create_vm(some_size(kvm))
        inner.fail("KVM_CREATE_VM", errno.EMFILE)
        with pytest.raises(errors.DescriptorLimitError):
            kvm.create_vm(some_size(kvm))
    assert not choice.FRONTS


def test_block_that_raises_ends_too(faults: Faults) -> None:
    with pytest.raises(ZeroDivisionError), faults:
        raise ZeroDivisionError
    assert not choice.FRONTS


def test_faults_that_met_no_call_are_named(kvm: Kvm, faults: Faults) -> None:
    faults.require_used()
    faults.fail("KVM_CREATE_VM", errno.ENOMEM, nth=2)
    faults.limit_ipa(36)
    assert [str(fault) for fault in faults.unused] == ["fail(KVM_CREATE_VM, ENOMEM, nth=2)", "limit_ipa(36)"]
    kvm.create_vm(36).close()
    with pytest.raises(AssertionError, match=r"fail\(KVM_CREATE_VM, ENOMEM, nth=2\), which saw 1 call$"):
        faults.require_used()
    with pytest.raises(errors.OutOfMemoryError):
        kvm.create_vm(36)
    faults.require_used()
    assert not faults.unused
    assert "limit_ipa(36): fired" in repr(faults)


# ------------------------------------------------------------------------------------------------ bad input


@pytest.mark.parametrize(
    ("name", "near"),
    [
        ("KVM_CREATEVM", "KVM_CREATE_VM"),
        ("kvm_run", "KVM_RUN"),
        ("OPEN", "open"),
        ("", "open"),
        ("KVM_GET_REG", "KVM_GET_ONE_REG"),
        (None, "open"),
    ],
)
def test_unknown_request_is_refused_with_near_names(faults: Faults, name: Any, near: str) -> None:
    words = f"no system call is called .*; near: .*{near}"
    with pytest.raises(ValueError, match=words):
        faults.fail(name, errno.ENOMEM)
    with pytest.raises(ValueError, match=words):
        faults.delay(name, 1)
    assert repr(faults).endswith("none>")


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        ({"error": 0}, ValueError, "from 1 to 4095"),
        ({"error": -12}, ValueError, "from 1 to 4095"),
        ({"error": 4096}, ValueError, "from 1 to 4095"),
        ({"error": True}, TypeError, "an errno or its name"),
        ({"error": 12.0}, TypeError, "an errno or its name"),
        ({"error": "ENOMEMORY"}, ValueError, "no errno is called 'ENOMEMORY'"),
        ({"nth": 0}, ValueError, "nth=0: expected 1 or more"),
        ({"nth": True}, TypeError, "nth is an int"),
        ({"times": 0}, ValueError, "times=0: expected 1 or more"),
        ({"times": 1.5}, TypeError, "times is an int"),
        ({"after": -1}, ValueError, "after=-1: expected 0 or more"),
        ({"nth": 2, "after": 1}, ValueError, "both say where it begins"),
        ({"on": "vmm"}, ValueError, "no kind of descriptor is called 'vmm'; near: vm"),
        ({"when": 40}, TypeError, "when is a function of the call, not 40"),
    ],
)
def test_bad_fault_is_refused(faults: Faults, arguments: dict[str, Any], error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        faults.fail(**{"request": "KVM_CREATE_VM", "error": errno.ENOMEM, **arguments})
    assert not faults.concern("KVM_CREATE_VM")


@pytest.mark.parametrize("seconds", [-1, float("nan"), float("inf"), 1e30])
def test_bad_delay_is_refused(faults: Faults, seconds: float) -> None:
    with pytest.raises(ValueError, match="expected a time"):
        faults.delay("KVM_RUN", seconds)
    with pytest.raises(TypeError, match="seconds is a number"):
        faults.delay("KVM_RUN", "1")  # type: ignore[arg-type]


@pytest.mark.parametrize("bits", [-1, 0, 31, 53, 296])
def test_limit_that_no_host_has_is_refused(faults: Faults, bits: int) -> None:
    with pytest.raises(ValueError, match=f"bits={bits}: expected 32"):
        faults.limit_ipa(bits)
    with pytest.raises(TypeError):
        faults.limit_ipa(36.0)  # type: ignore[arg-type]


def test_unknown_capability_is_refused_with_near_names(faults: Faults) -> None:
    with pytest.raises(ValueError, match=r"no capability is called .*; near: .*KVM_CAP_ARM_VM_IPA_SIZE"):
        faults.hide_capability("KVM_CAP_ARM_IPA_SIZE")
    with pytest.raises(TypeError):
        faults.hide_capability(None)  # type: ignore[arg-type]
    # A number may be of a later kernel.
    assert str(faults.hide_capability(4711)) == "hide_capability(4711)"


def test_what_a_condition_raises_is_raised(kvm: Kvm, faults: Faults) -> None:
    faults.fail("KVM_CREATE_VM", errno.ENOMEM, when=lambda call: bool(call.fields["no_such_field"]))
    with pytest.raises(KeyError, match="no_such_field"):
        kvm.create_vm(some_size(kvm))


def test_selection_reads_as_it_was_written() -> None:
    which = Which(nth=2, times=3, on="vm", when=bool)
    assert str(which) == ", nth=2, times=3, on='vm', when=..."
    assert CODE
