# SPDX-License-Identifier: Apache-2.0
"""Descriptors of statistics, which their user may close or replace like any other."""

from __future__ import annotations

import gc
import os
from pathlib import Path

import pytest

import kvmipa
from kvmipa.backend.emulated import shared_mapping
from kvmipa.backend.emulated.stats import OF_A_VCPU, Counters, StatsFile, stats_fd_of_vcpu
from kvmipa.backend.emulated.vcpu import VcpuFile

pytestmark = pytest.mark.skipif(not hasattr(os, "memfd_create"), reason="statistics are read from Linux's memfds")


def inside(vcpu: kvmipa.Vcpu) -> VcpuFile:
    """What stands behind its descriptor."""
    file = vcpu._backend._descriptors.get(vcpu.fileno())  # type: ignore[attr-defined]
    assert isinstance(file, VcpuFile)
    return file


def descriptors() -> list[str]:
    return sorted(os.listdir("/proc/self/fd"))  # noqa: PTH208  the names are all that counts


def mappings() -> int:
    return Path("/proc/self/maps").read_text().count("kvm-")


def test_what_is_counted_does_not_go_into_a_file_that_has_the_number_now(tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_bytes(b"A" * 4096)
    with kvmipa.open("emulated", host="qemu-max-6.12-4k") as kvm, kvm.create_vm(40) as vm, vm.create_vcpu(0) as vcpu:
        state = inside(vcpu).vcpu
        fd = stats_fd_of_vcpu(state, 0)
        os.close(fd)
        taken = os.open(victim, os.O_RDWR)
        assert taken == fd
        state.counters.count("mmio_exit_user")
        os.close(taken)
        assert victim.read_bytes() == b"A" * 4096


def test_a_duplicate_is_read_like_the_descriptor_and_cannot_be_written() -> None:
    with (
        kvmipa.open("emulated", host="qemu-max-6.12-4k") as kvm,
        kvm.create_vm(40) as vm,
        vm.create_vcpu(0) as vcpu,
        vcpu.open_stats() as stats,
    ):
        other = os.dup(stats.fileno())
        before = os.pread(other, 4096, 0)
        inside(vcpu).vcpu.counters.count("hvc_exit_stat")
        after = os.pread(other, 4096, 0)
        assert after == os.pread(stats.fileno(), 4096, 0) != before
        assert stats.read()["hvc_exit_stat"].value == 1
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.pwrite(other, b"x", 0)
        os.close(other)


def test_a_descriptor_costs_one_descriptor_and_a_mapping_until_it_is_closed() -> None:
    gc.collect()
    with kvmipa.open("emulated", host="qemu-max-6.12-4k") as kvm, kvm.create_vm(40) as vm, vm.create_vcpu(0) as vcpu:
        before, mapped = descriptors(), mappings()
        stats = vcpu.open_stats()
        assert len(descriptors()) == len(before) + 1
        assert mappings() == mapped + 1
        stats.close()
        gc.collect()
        assert descriptors() == before
        assert mappings() == mapped


def test_without_a_file_counting_goes_on() -> None:
    counters = Counters()
    counters.attach(StatsFile(None, OF_A_VCPU, None))  # type: ignore[arg-type]
    counters.count("exits")
    assert counters["exits"] == 1


def test_what_cannot_be_mapped_is_an_error() -> None:
    reading, writing = os.pipe()
    try:
        with pytest.raises(OSError, match=r"\[Errno \d+\] \w"):
            shared_mapping.map_shared(reading, 4096)
    finally:
        os.close(reading)
        os.close(writing)
