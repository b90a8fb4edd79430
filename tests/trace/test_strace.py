# SPDX-License-Identifier: Apache-2.0
"""Logs of strace as traces: real ones of QEMU, and every way in which strace writes a line."""

from __future__ import annotations

import sys
import time
from errno import EINVAL
from pathlib import Path

import pytest

from kvmipa import HostProfile
from kvmipa.backend.emulated import EmulatedBackend
from kvmipa.trace import NEW, Close, EventFd, Ioctl, Map, MapRunArea, Open, Operation, Struct
from kvmipa.trace.reading import load
from kvmipa.trace.replaying import replay
from kvmipa.trace.strace import is_log, read

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="traces are done on Linux")

LOGS = Path(__file__).parents[1] / "data" / "strace"

OPEN = 'openat(AT_FDCWD, "/dev/kvm", O_RDWR|O_CLOEXEC) = 7'
VM = "ioctl(7, KVM_CREATE_VM, 0x24) = 8"


def operations(*lines: str) -> list[Operation]:
    return list(read("\n".join(lines)).trace.operations)


@pytest.mark.parametrize(
    ("name", "vm", "steps"), [("qemu-10.0-virt__6.12__max", 40, 88), ("qemu-10.0-virt-600g__6.12__max", 41, 87)]
)
def test_qemu_on_a_real_kernel_gets_the_same_answers_of_the_emulation(name: str, vm: int, steps: int) -> None:
    found = load(LOGS / f"{name}.log.gz")
    assert found.of_strace
    assert len(found.trace.steps) == steps
    outcome = replay(found, EmulatedBackend(HostProfile.preset("qemu-max-6.12-4k")), "/dev/kvm")
    assert [one.words for one in outcome.differences] == []
    made = [step.operation for step in found.trace.steps if getattr(step.operation, "new", "") == "vm0"]
    assert [one.argument for one in made if isinstance(one, Ioctl)] == [vm]
    assert dict(found.skipped)["KVM_CREATE_DEVICE: strace does not show the argument"] == 4


def test_smaller_host_refuses_what_qemu_asked_for() -> None:
    found = load(LOGS / "qemu-10.0-virt-600g__6.12__max.log.gz")
    outcome = replay(found, EmulatedBackend(HostProfile.preset("qemu-cortex-a53-6.12-4k")), "/dev/kvm")
    assert any(one.call == "ioctl(kvm, KVM_CREATE_VM, 41) = vm0" for one in outcome.differences)
    assert outcome.consequences


@pytest.mark.parametrize(
    "line",
    [
        "ioctl(7, KVM_CREATE_VM, 0x24) = 8",
        "ioctl(7, KVM_CREATE_VM, 0x24)     = 8",
        "ioctl(7, KVM_CREATE_VM, 36) = 8",
        "123   ioctl(7, KVM_CREATE_VM, 0x24) = 8",
        "[pid  4711] ioctl(7, KVM_CREATE_VM, 0x24) = 8",
        "20:38:34 ioctl(7, KVM_CREATE_VM, 0x24) = 8",
        "20:38:34.003815 ioctl(7, KVM_CREATE_VM, 0x24) = 8 <0.000029>",
        "1700000000.003815 ioctl(7, KVM_CREATE_VM, 0x24) = 8 <0.000029>",
        "[pid 12] 20:38:34.003815 ioctl(7</dev/kvm>, KVM_CREATE_VM, 0x24) = 8<anon_inode:kvm-vm> <0.000029>",
        "12 20:38:34.003815 ioctl(7</dev/kvm<char 10:232>>, KVM_CREATE_VM, 0x24) = 8<anon_inode:kvm-vm>",
        "     0.000123 ioctl(7, KVM_CREATE_VM, 0x24) = 8",
        "ioctl(7, _IOC(_IOC_NONE, 0xae, 0x1, 0), 0x24) = 8",
        "ioctl(7, 0xae01 /* KVM_CREATE_VM */, 0x24) = 8",
    ],
)
def test_decorations_do_not_matter(line: str) -> None:
    found = operations(OPEN, line)
    assert found[0] == Open("kvm")
    made = found[1]
    assert isinstance(made, Ioctl)
    assert (made.on, made.number, made.argument, made.new) == ("kvm", 0xAE01, 36, "vm0")


def test_calls_that_other_threads_interrupt_are_put_together() -> None:
    found = read(
        "\n".join(
            [
                OPEN,
                "[pid 11] ioctl(7, KVM_CREATE_VM, 0x24 <unfinished ...>",
                "[pid 12] ioctl(7, KVM_CHECK_EXTENSION, KVM_CAP_ARM_VM_IPA_SIZE <unfinished ...>",
                "[pid 11] <... ioctl resumed>) = 8",
                "[pid 12] <... ioctl resumed>) = 40",
                "[pid 12] --- SIGUSR1 {si_signo=SIGUSR1, si_code=SI_TKILL} ---",
                "[pid 12] +++ exited with 0 +++",
            ]
        )
    )
    assert [step.result.value for step in found.trace.steps] == [NEW, NEW, 40]
    assert found.lines == (1, 4, 5)


def test_failure_has_its_errno() -> None:
    found = read(f"{OPEN}\nioctl(7, KVM_CREATE_VM, 0x35) = -1 EINVAL (Invalid argument)")
    assert found.trace.steps[-1].result.value == -EINVAL


def test_memory_slots_are_read_by_their_fields() -> None:
    line = (
        "ioctl(8, KVM_SET_USER_MEMORY_REGION, {slot=1, flags=KVM_MEM_LOG_DIRTY_PAGES|KVM_MEM_READONLY, "
        "guest_phys_addr=0x40000000, memory_size=134217728, userspace_addr=0xffff67a01000}) = 0"
    )
    *_, area, region = operations(OPEN, VM, line)
    assert area == Map("mem0", 0x8000000 + 0x1000 + 0, "rw")
    assert isinstance(region, Ioctl)
    assert isinstance(region.argument, Struct)
    assert region.argument.fields == {
        "slot": 1,
        "flags": 3,
        "guest_phys_addr": 0x40000000,
        "memory_size": 0x8000000,
        "userspace_addr": "mem0+0x1000",
    }


def test_memory_that_is_used_again_is_the_same_area() -> None:
    line = "ioctl(8, KVM_SET_USER_MEMORY_REGION, {slot=%d, flags=0, guest_phys_addr=%d, memory_size=4096, "
    lines = [
        line % (0, 0) + "userspace_addr=0x7f0000000000}) = 0",
        line % (1, 4096) + "userspace_addr=0x7f0000000000}) = 0",
    ]
    assert sum(isinstance(one, Map) for one in operations(OPEN, VM, *lines)) == 1


def test_descriptors_end_with_close_and_their_numbers_are_used_again() -> None:
    found = operations(OPEN, VM, "close(8) = 0", VM, "close(7) = 0", "close(99) = 0")
    assert found[2] == Close("vm0")
    assert found[-1] == Close("kvm")
    assert [one.new for one in found if isinstance(one, Ioctl)] == ["vm0", "vm1"]


def test_duplicate_is_the_same_descriptor_until_both_are_closed() -> None:
    found = operations(OPEN, "dup(7) = 9", "close(7) = 0", "ioctl(9, KVM_GET_API_VERSION, 0) = 12", "close(9) = 0")
    assert found == [Open("kvm"), Ioctl("kvm", "KVM_GET_API_VERSION"), Close("kvm")]


def test_number_that_another_file_gets_is_no_longer_kvms() -> None:
    found = read("\n".join([OPEN, 'openat(AT_FDCWD, "/etc/hosts", O_RDONLY) = 7', VM]))
    assert list(found.trace.operations) == [Open("kvm"), Close("kvm")]
    assert list(found.skipped) == ["KVM_CREATE_VM on a descriptor whose making is not in the log"]


def test_run_area_and_eventfds_are_there() -> None:
    found = operations(
        OPEN,
        "ioctl(7, KVM_GET_VCPU_MMAP_SIZE, 0) = 32768",
        VM,
        "ioctl(8, KVM_CREATE_VCPU, 0) = 9",
        "mmap(NULL, 32768, PROT_READ|PROT_WRITE, MAP_SHARED, 9, 0) = 0xffff9c000000",
        "eventfd2(0, EFD_CLOEXEC|EFD_NONBLOCK) = 10",
    )
    assert found[-2:] == [MapRunArea("vcpu0", 2), EventFd("eventfd0")]


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("ioctl(8, KVM_CREATE_DEVICE, 0xffffc547b648) = 0", "KVM_CREATE_DEVICE: strace does not show the argument"),
        ("ioctl(8, KVM_RUN, 0) = 0", "KVM_RUN: a log has no registers and no memory"),
        ("ioctl(7, KVM_CHECK_EXTENSION, 0x12c /* KVM_CAP_??? */) = 0", None),
        ("ioctl(7, KVM_CHECK_EXTENSION, KVM_CAP_DANCING) = 0", "an argument that kvmipa does not know"),
        ("ioctl(8, KVM_DANCE, 0) = 0", "KVM_DANCE: a request that kvmipa does not know"),
        ("ioctl(8, TCGETS, 0x7ffe) = -1 ENOTTY (Inappropriate ioctl for device)", None),
        ("ioctl(8, KVM_CREATE_VC", "lines that end in the middle"),
        ("ioctl(7, KVM_CREATE_VM, 0x24) = ?", None),
        ('read(8, "ioctl(8, KVM_CREATE_VM", 100) = 22', None),
    ],
)
def test_what_cannot_be_read_is_counted(line: str, expected: str | None) -> None:
    skipped = read("\n".join([OPEN, VM, line])).skipped
    assert len(skipped) == (expected is not None)
    assert expected is None or expected in next(iter(skipped))


@pytest.mark.parametrize("text", ["", "hello", '{"kvmipa_trace":1}', '{"a": "ioctl(1, 2) = 3"}', "int main() = 0"])
def test_other_text_is_no_log(text: str) -> None:
    assert not is_log(text)


def test_other_text_is_no_log_within_a_moment() -> None:
    start = time.perf_counter()
    assert not is_log("read(" + " " * 100_000)
    assert read(f"{OPEN}\nioctl(7, KVM_CREATE_VM, {'/*' * 50_000}) = 8").skipped
    assert time.perf_counter() - start < 1
