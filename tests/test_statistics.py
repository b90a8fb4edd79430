# SPDX-License-Identifier: Apache-2.0
"""What KVM counts (KVM_GET_STATS_FD), on every kernel there is."""

from __future__ import annotations

import os
import struct
from typing import TYPE_CHECKING, Any

import pytest

from kvmipa import abi, errors
from kvmipa.statistics import Bucket, Statistic, StatisticDescriptor, StatisticKind, StatisticsFile, StatisticUnit
from tests.guests import HVC, OTHER_DEVICE, SPIN, STORE_X2, STORES, GuestMachine

if TYPE_CHECKING:
    from kvmipa import Kvm, Vm

# As 6.1, 6.12 and 7.3 have them.
OF_A_VM = ["remote_tlb_flush", "remote_tlb_flush_requests"]
OF_A_VCPU = [
    "halt_successful_poll",
    "halt_attempted_poll",
    "halt_poll_invalid",
    "halt_wakeup",
    "halt_poll_success_ns",
    "halt_poll_fail_ns",
    "halt_wait_ns",
    "halt_poll_success_hist",
    "halt_poll_fail_hist",
    "halt_wait_hist",
    "blocking",
    "hvc_exit_stat",
    "wfe_exit_stat",
    "wfi_exit_stat",
    "mmio_exit_user",
    "mmio_exit_kernel",
    "signal_exits",
    "exits",
]


@pytest.fixture
def counted(vm: Vm) -> Vm:
    """A VM whose kernel has statistics."""
    if not vm.check_extension(abi.KVM_CAP_BINARY_STATS_FD):
        pytest.skip("this kernel has no KVM_GET_STATS_FD")
    return vm


def test_kernel_without_it_says_so(vm: Vm) -> None:
    if vm.check_extension(abi.KVM_CAP_BINARY_STATS_FD):
        assert vm.stats()
        return
    with pytest.raises(errors.NotSupportedError, match="no KVM_GET_STATS_FD"):
        vm.stats()
    with vm.create_vcpu(0) as vcpu, pytest.raises(errors.NotSupportedError):
        vcpu.stats()


def test_statistics_of_a_vm(counted: Vm) -> None:
    with counted.open_stats() as file:
        assert [one.name for one in file.descriptors] == OF_A_VM
        assert file.source == f"kvm-{os.getpid()}"
        assert {(one.kind, one.unit, one.base, one.exponent) for one in file.descriptors} == {
            (StatisticKind.CUMULATIVE, StatisticUnit.NONE, 10, 0)
        }
        assert file.read().keys() == set(OF_A_VM)
    assert file.closed
    with pytest.raises(errors.ClosedError):
        file.read()


def test_statistics_of_a_vcpu(counted: Vm) -> None:
    with counted.create_vcpu(3) as vcpu, vcpu.open_stats() as file:
        assert [one.name for one in file.descriptors] == OF_A_VCPU
        assert file.source == f"kvm-{os.getpid()}/vcpu-3"
        found = file.read()
        waited, histogram, blocking = found["halt_wait_ns"], found["halt_wait_hist"], found["blocking"]
        assert (waited.unit, waited.scale, waited.value) == (StatisticUnit.SECONDS, 1e-9, 0)
        assert (histogram.kind, len(histogram.buckets), histogram.value) == (StatisticKind.LOG_HISTOGRAM, 32, 0)
        assert (blocking.kind, blocking.unit, blocking.value) == (StatisticKind.INSTANT, StatisticUnit.BOOLEAN, 0)
        assert found["exits"].value == 0


def test_descriptor_outlives_the_vcpu_and_the_vm(counted: Vm) -> None:
    with counted.create_vcpu(0) as vcpu:
        file = vcpu.open_stats()
    counted.close()
    with file:
        assert file.read()["exits"].value == 0


def test_closed_handles_say_so(counted: Vm) -> None:
    vcpu = counted.create_vcpu(0)
    vcpu.close()
    counted.close()
    for handle in (vcpu, counted):
        with pytest.raises(errors.ClosedError):
            handle.open_stats()


def test_exits_are_counted(kvm: Kvm) -> None:
    with GuestMachine(kvm) as machine:
        vcpu = machine.vcpu([*[STORES[4]] * 3, HVC, STORES[4], STORE_X2, STORES[8], SPIN])
        if not machine.vm.check_extension(abi.KVM_CAP_BINARY_STATS_FD):
            pytest.skip("this kernel has no KVM_GET_STATS_FD")
        with vcpu.open_stats() as file:
            for _ in range(4):
                vcpu.run(timeout=60)
            found = file.read()
            assert (found["mmio_exit_user"].value, found["hvc_exit_stat"].value) == (4, 1)
            assert found["exits"].value >= 5
            assert found["mmio_exit_kernel"].value == 0
            # What is collected is no exit to user space.
            vcpu.regs.x[4] = OTHER_DEVICE
            machine.vm.add_coalesced_mmio(OTHER_DEVICE, 8)
            vcpu.run(timeout=60)
            found = file.read()
            assert (found["mmio_exit_user"].value, found["mmio_exit_kernel"].value) == (5, 1)


# ------------------------------------------------------------------------------------------------ decoding


class ABackend:
    """As much of a backend as a descriptor needs."""

    name = "emulated"
    ioctl = None

    @staticmethod
    def close(fd: int) -> None:
        os.close(fd)


def a_file(rows: list[tuple[str, int, int, int, int]], values: list[int], *, cut: int = 0) -> StatisticsFile:
    """A descriptor with other statistics than today's kernels have: name, flags, exponent, size, bucket size."""
    content = struct.pack("=6I", 0, 16, len(rows), 24, 40, 40 + len(rows) * 32) + b"kvm-1".ljust(16, b"\0")
    at = 0
    for name, flags, exponent, size, bucket in rows:
        content += struct.pack("=IhHII", flags, exponent, size, at, bucket) + name.encode().ljust(16, b"\0")
        at += 8 * size
    content += struct.pack(f"={len(values)}Q", *values)
    fd = os.memfd_create("statistics")
    os.write(fd, content[: len(content) - cut])
    backend: Any = ABackend()
    return StatisticsFile(backend, fd)


needs_memfd = pytest.mark.skipif(not hasattr(os, "memfd_create"), reason="needs memfd_create(2)")


@needs_memfd
def test_every_kind_unit_and_base_is_decoded() -> None:
    rows = [(f"s{flags:x}", flags, -3, 1, 0) for flags in (0x000, 0x011, 0x122, 0x030, 0x141, 0x5F7)]
    with a_file(rows, list(range(6))) as file:
        found = [(one.kind.name, one.unit.name, one.base) for one in file.descriptors]
        assert found == [
            ("CUMULATIVE", "NONE", 10),
            ("INSTANT", "BYTES", 10),
            ("PEAK", "SECONDS", 2),
            ("CUMULATIVE", "CYCLES", 10),
            ("INSTANT", "BOOLEAN", 2),
            ("UNKNOWN", "UNKNOWN", 10),
        ]
        assert [one.value for one in file.read().values()] == list(range(6))
        assert file.read()["s122"].scale == 0.125


@needs_memfd
def test_histograms_have_their_buckets() -> None:
    with a_file([("linear", 3, 0, 3, 10), ("log", 4, 0, 4, 0)], [1, 0, 2, 5, 6, 7, 8]) as file:
        linear, log = file.read().values()
        assert linear.buckets == (Bucket(0, 10, 1), Bucket(10, 20, 0), Bucket(20, None, 2))
        assert log.buckets == (Bucket(0, 1, 5), Bucket(1, 2, 6), Bucket(2, 4, 7), Bucket(4, None, 8))
        assert (linear.value, log.value) == (3, 26)


def test_what_is_no_histogram_has_no_buckets() -> None:
    one = StatisticDescriptor("x", StatisticKind.PEAK, StatisticUnit.NONE, 10, 0, 1, 0, 0)
    assert Statistic(one, (5,)).buckets == ()


@needs_memfd
@pytest.mark.parametrize(("cut", "words"), [(8 + 30, "cut off"), (8 + 32 + 16 + 24, "header is missing")])
def test_descriptor_that_holds_something_else(cut: int, words: str) -> None:
    with pytest.raises(errors.StatisticsError, match=words):
        a_file([("x", 0, 0, 1, 0)], [1], cut=cut)


@needs_memfd
def test_values_that_are_missing() -> None:
    with (
        a_file([("x", 0, 0, 1, 0)], [1], cut=1) as file,
        pytest.raises(errors.StatisticsError, match="values are missing"),
    ):
        file.read()
