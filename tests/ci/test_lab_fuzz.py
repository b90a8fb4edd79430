# SPDX-License-Identifier: Apache-2.0
"""The fuzzer: what it generates, what it finds, and what it makes of it."""

from __future__ import annotations

import ctypes
import gzip
import json
import sys
from errno import EEXIST, EINVAL
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ci.lab import fuzz, fuzz_guest
from ci.lab.fuzz_generator import trace
from ci.lab.fuzz_limits import LEFT_OUT
from ci.lab.fuzz_shrink import Signature, first_difference, shrink, signature
from ci.lab.trace_list.making import Host, region
from ci.lab.traces import operations
from kvmipa import HostProfile, abi
from kvmipa.backend.emulated import EmulatedBackend
from kvmipa.recording import profile_as_json
from kvmipa.trace import Ioctl, Map, Open, Operation, Result, Session, Struct, Trace, Write, replay, run

if TYPE_CHECKING:
    from pathlib import Path

    from kvmipa.backend import Backend

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="traces are done on Linux")

PROFILES = {
    name: HostProfile.preset(name)
    for name in ("qemu-max-5.10-4k", "qemu-cortex-a57-6.1-4k", "qemu-max-6.12-16k", "qemu-max-7.3-4k")
}


class Forgetful(EmulatedBackend):
    """An emulation that lets memory slots overlap."""

    def ioctl(self, fd: int, request: int, argument: int, /) -> int:
        result = super().ioctl(fd, request, argument)
        return 0 if request == abi.KVM_SET_USER_MEMORY_REGION and result == -EEXIST else result


class Slipping(Forgetful):
    """One that fails, too, where slot 1 is the first one."""

    regions = 0

    def open(self, path: str, /) -> int:
        self.regions = 0
        self.opened = getattr(self, "opened", 0) + 1
        return super().open(path)

    def ioctl(self, fd: int, request: int, argument: int, /) -> int:
        result = super().ioctl(fd, request, argument)
        if request != abi.KVM_SET_USER_MEMORY_REGION:
            return result
        self.regions += 1
        first_is_1 = self.regions == 1 and ctypes.string_at(argument, 1) == b"\x01"
        return -EINVAL if first_is_1 else result


class Raising(EmulatedBackend):
    """An emulation that fails with an exception."""

    def ioctl(self, fd: int, request: int, argument: int, /) -> int:
        if request == abi.KVM_IRQ_LINE:
            raise KeyError("line")
        return super().ioctl(fd, request, argument)


@pytest.fixture
def profile() -> HostProfile:
    return PROFILES["qemu-max-7.3-4k"]


def results(seed: int, profile: HostProfile, count: int, backend: Backend) -> list[list[Result]]:
    """What the guest would have left, had it run this backend."""
    return [fuzz_guest.do(number, seed, Host.of(profile), backend) for number in range(count)]


# ------------------------------------------------------------------------------------------------ generating


def test_traces_depend_on_seed_and_number_alone(profile: HostProfile) -> None:
    host = Host.of(profile)
    assert trace(3, 5, host) == trace(3, 5, host)
    assert (
        len({json.dumps([it.as_json() for it in trace(seed, number, host)]) for seed in (1, 2) for number in (0, 1)})
        == 4
    )


@pytest.mark.parametrize("name", PROFILES)
@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 1 << 31), number=st.integers(0, 1 << 31))
def test_trace_of_the_emulation_replays_on_it(name: str, seed: int, number: int) -> None:
    profile = PROFILES[name]
    taken = run(trace(seed, number, Host.of(profile)), EmulatedBackend(profile))
    again = Trace.of_text(taken.text())
    assert again.text() == taken.text()
    assert [str(difference) for difference in replay(again, EmulatedBackend(profile))] == []


@pytest.mark.parametrize("name", PROFILES)
def test_many_operations_succeed(name: str) -> None:
    profile = PROFILES[name]
    found = [result.value for taken in results(1, profile, 60, EmulatedBackend(profile)) for result in taken]
    good = sum(isinstance(value, str) or value >= 0 for value in found)
    assert 0.3 < good / len(found) < 0.8


def check_region(found: Struct) -> None:
    """What lies behind an area is another thing in every process."""
    size = found.fields["memory_size"]
    assert isinstance(size, int)
    assert not str(found.fields["userspace_addr"]).startswith("mem") or size <= 16 << 20


def test_traces_leave_out_what_they_are_to(profile: HostProfile) -> None:
    host = Host.of(profile)
    for number in range(200):
        for operation in trace(9, number, host):
            if isinstance(operation, Write):
                assert isinstance(operation.data, Struct)
                check_region(operation.data)
            if not isinstance(operation, Ioctl):
                continue
            assert not any(rule.applies(operation) for rule in LEFT_OUT)
            # What the kernel dereferences is never a plain number: it could be an address of the process itself.
            assert not (operation.number >> 30 and isinstance(operation.argument, int))
            if isinstance(operation.argument, Struct) and "memory_size" in operation.argument.fields:
                check_region(operation.argument)
            if operation.number == abi.KVM_CREATE_VM and isinstance(operation.argument, int):
                size = operation.argument & 0xFF
                assert size <= 44 or size > host.limit


def test_what_is_left_out_is_no_more_than_said() -> None:
    left_out = [
        Ioctl("vcpu0.1", "KVM_RUN"),
        Ioctl("vcpu0", "KVM_GET_ONE_REG", "null"),
        Ioctl("vm0", "KVM_IRQFD", "null", no_descriptor=True),
    ]
    done = [
        Ioctl("vm0", "KVM_RUN"),
        Ioctl("vm0", "KVM_ARM_SET_DEVICE_ADDR", "null"),
        Ioctl("vm0", "KVM_IRQFD", "null"),
        Ioctl("vcpu0", "KVM_SET_DEVICE_ATTR", "null", no_descriptor=True),
    ]
    assert all(any(rule.applies(operation) for rule in LEFT_OUT) for operation in left_out)
    assert not any(rule.applies(operation) for rule in LEFT_OUT for operation in done)


def test_old_kernels_are_not_made_to_corrupt_their_memory() -> None:
    host = Host.of(PROFILES["qemu-max-5.10-4k"])
    for number in range(100):
        made = [it for it in trace(4, number, host) if isinstance(it, Ioctl) and it.number == abi.KVM_CREATE_VCPU]
        identifiers = [(it.on, it.argument & 0xFFFF_FFFF) for it in made if isinstance(it.argument, int)]
        assert len(identifiers) == len(set(identifiers))
        assert not any(it.no_descriptor for it in made)


def test_lists_of_operations_are_the_same_each_time(profile: HostProfile) -> None:
    host = Host.of(profile)
    assert list(operations(host)) == list(operations(host))
    assert max(host.sizes) <= 44


# ------------------------------------------------------------------------------------------------ finding


def test_fault_in_the_emulation_is_found_and_shrunk(profile: HostProfile) -> None:
    host = Host.of(profile)
    real, wrong = EmulatedBackend(profile), Forgetful(profile)
    differences = fuzz.compare(1, host, wrong, results(1, profile, 80, real))
    kinds = fuzz.kinds(differences)
    expected = Signature("KVM_SET_USER_MEMORY_REGION", str(-EEXIST), "0")
    assert [kind.signature for kind in kinds] == [expected]
    assert kinds[0].count > 5
    shortest = shrink(kinds[0].operations, real, wrong)
    assert first_difference(shortest, real, wrong) == (len(shortest) - 1, expected)
    # The device, the VM, a slot and another one on top of it.
    assert len(shortest) == 4
    last = shortest[-1]
    assert isinstance(last, Ioctl)
    assert isinstance(last.argument, Struct)
    assert len(last.argument.fields) <= 3


def test_no_fault_is_no_difference(profile: HostProfile) -> None:
    real = EmulatedBackend(profile)
    assert list(fuzz.compare(2, Host.of(profile), EmulatedBackend(profile), results(2, profile, 20, real))) == []
    with pytest.raises(ValueError, match="answer alike"):
        shrink([Open("kvm")], real, EmulatedBackend(profile))


def test_exception_of_the_emulation_is_a_difference(profile: HostProfile) -> None:
    real, wrong = EmulatedBackend(profile), Raising(profile)
    kinds = fuzz.kinds(fuzz.compare(1, Host.of(profile), wrong, results(1, profile, 60, real)))
    assert kinds
    assert {kind.signature.other for kind in kinds} == {"KeyError: 'line'"}


def test_other_value_written_is_a_difference_of_its_own(profile: HostProfile) -> None:
    found = signature(Ioctl("vm0", "KVM_IRQ_LINE_STATUS"), Result(0, {"0+0": "ff"}), Result(0, {}))
    assert found == Signature("KVM_IRQ_LINE_STATUS", "0 wrote ['0+0']", "wrote something else")


OVERLAP: list[Operation] = [
    Map("mem0", 0x1000),
    Open("kvm"),
    Ioctl("kvm", "KVM_CREATE_VM", new="vm0"),
    region(0, 0, 0x1000),
    region(1, 0, 0x1000),
]


@pytest.mark.parametrize("budget", [0, 1, 3])
def test_shrinking_stops_when_its_budget_is_spent(profile: HostProfile, budget: int) -> None:
    wrong = Slipping(profile)
    shrink(OVERLAP, EmulatedBackend(profile), wrong, budget=budget)
    # Once to see the difference; candidates without the first operations do not even open the device.
    assert wrong.opened <= 1 + budget


def test_shrinking_keeps_to_the_difference_that_it_began_with(profile: HostProfile) -> None:
    real, wrong = EmulatedBackend(profile), Slipping(profile)
    shortest = shrink(OVERLAP, real, wrong)
    assert len(shortest) == 4
    assert first_difference(shortest, real, wrong) == (3, Signature("KVM_SET_USER_MEMORY_REGION", str(-EEXIST), "0"))


def test_one_difference_of_a_trace_counts(profile: HostProfile) -> None:
    host, real = Host.of(profile), EmulatedBackend(profile)
    taken = results(1, profile, 60, real)
    wrong = [fuzz_guest.do(number, 1, host, Forgetful(profile)) for number in range(60)]
    differing = sum(one != other for one, other in zip(taken, wrong, strict=True))
    assert len(list(fuzz.compare(1, host, Forgetful(profile), taken))) == differing


# ------------------------------------------------------------------------------------------------ the guest's results


def test_results_survive_the_way_home(profile: HostProfile, tmp_path: Path) -> None:
    taken = results(1, profile, 3, EmulatedBackend(profile))
    kept = {"profile": profile_as_json(profile)}
    lines = [kept, *map(fuzz_guest.packed, taken)]
    path = tmp_path / fuzz_guest.RESULTS
    path.write_bytes(gzip.compress("".join(json.dumps(line) + "\n" for line in lines).encode()))
    header, found = fuzz.read_results(path)
    assert header == kept["profile"]
    assert list(found) == taken


def test_packed_results_are_numbers_where_nothing_was_written() -> None:
    assert fuzz_guest.packed([Result(-EINVAL, {}), Result("new", {}), Result(0, {"0+0": "01"})]) == [
        -EINVAL,
        "new",
        [0, {"0+0": "01"}],
    ]


def test_guest_does_what_is_compared_here(profile: HostProfile) -> None:
    host = Host.of(profile)
    with Session(EmulatedBackend(profile)) as session:
        expected = [session.do(operation) for operation in trace(7, 3, host)]
    assert fuzz_guest.do(3, 7, host, EmulatedBackend(profile)) == expected
