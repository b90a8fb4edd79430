# SPDX-License-Identifier: Apache-2.0
"""guest_memfd of the emulated kernel: kernel-device-spec 4.9, steps 18, 21 and 23 of kernel-ipa-spec 4.2."""

from __future__ import annotations

import errno
import mmap
import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

import kvmipa
from kvmipa import HostProfile, errors
from kvmipa.abi import KVM_MEM_GUEST_MEMFD
from kvmipa.access import RunFailed
from tests.backend.emulated.asking import RELEASES
from tests.backend.emulated.test_memslots import AT, HVA, machine, vm_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from kvmipa import Vm

MMAP, SHARED = 1, 2
SIZE = 16 << 12

needs_memfd = pytest.mark.skipif(not hasattr(os, "memfd_create"), reason="this system has no memfd_create()")


@pytest.fixture
def vm() -> Iterator[Vm]:
    with vm_of("7.3") as made:
        yield made


def bind(vm: Vm, slot: int, memfd: int, offset: int = 0, gpa: int = AT, size: int = 0x4000) -> int:
    """0, or the errno."""
    try:
        vm.set_user_memory_region2(
            slot, gpa, size, HVA, KVM_MEM_GUEST_MEMFD, guest_memfd=memfd, guest_memfd_offset=offset
        )
    except errors.MemorySlotError as error:
        assert error.errno  # noqa: PT017
        return error.errno
    return 0


@pytest.mark.parametrize("release", RELEASES)
def test_arm64_has_it_since_7_3(release: str) -> None:
    with vm_of(release) as vm:
        if release == "7.3":
            vm.create_guest_memfd(SIZE).close()
        else:
            with pytest.raises(errors.NotSupportedError) as caught:
                vm.create_guest_memfd(SIZE)
            assert caught.value.errno == errno.EINVAL


@needs_memfd
def test_memory_is_that_of_the_file(vm: Vm) -> None:
    with vm.create_guest_memfd(SIZE, MMAP | SHARED) as memfd:
        assert os.fstat(memfd.fileno()).st_size == SIZE
        with mmap.mmap(memfd.fileno(), SIZE) as one, mmap.mmap(memfd.fileno(), SIZE) as other:
            one[100] = 7
            assert other[100] == 7


def test_file_that_is_not_for_mapping_cannot_be_mapped(vm: Vm) -> None:
    with vm.create_guest_memfd(SIZE) as memfd, pytest.raises(OSError, match="No such device"):
        mmap.mmap(memfd.fileno(), SIZE)


@needs_memfd
def test_memory_that_is_not_shared_is_a_sigbus() -> None:
    program = (
        "import kvmipa, mmap\n"
        "with kvmipa.open('emulated', host=kvmipa.HostProfile('7.3')) as kvm, kvm.create_vm(40) as vm:\n"
        "    memfd = vm.create_guest_memfd(65536, 1)\n"
        "    import ctypes; libc = ctypes.CDLL(None); libc.mmap.restype = ctypes.c_void_p\n"
        "    at = libc.mmap(None, ctypes.c_size_t(65536), 3, 1, memfd.fileno(), ctypes.c_int64(0))\n"
        "    print('mapped', flush=True); ctypes.string_at(at, 1)\n"
    )
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False, timeout=60)
    assert run.stdout == "mapped\n"
    assert run.returncode == -7


def test_no_request_is_known(vm: Vm) -> None:
    with vm.create_guest_memfd(SIZE, 3) as memfd:
        assert vm._backend.ioctl(memfd.fileno(), 0xAE00, 0) == -errno.ENOTTY


def test_ranges_belong_to_one_slot_each(vm: Vm) -> None:
    with vm.create_guest_memfd(SIZE, 3) as memfd:
        fd = memfd.fileno()
        assert bind(vm, 0, fd) == 0
        assert bind(vm, 1, fd, 0, 2 * AT) == errno.EEXIST
        assert bind(vm, 1, fd, 0x3000, 2 * AT) == errno.EEXIST
        assert bind(vm, 1, fd, 0x4000, 2 * AT) == 0
        with pytest.raises(errors.SlotResizeError, match="guest_memfd cannot be changed"):
            vm.set_user_memory_region2(1, 3 * AT, 0x4000, HVA, KVM_MEM_GUEST_MEMFD, guest_memfd=fd)
        with pytest.raises(errors.SlotResizeError, match="its guest_memfd"):
            vm.set_user_memory_region2(1, 3 * AT, 0x4000, HVA)
        with pytest.raises(errors.GuestMemfdError, match="another slot's"):
            vm.set_user_memory_region2(2, 3 * AT, 0x4000, HVA, KVM_MEM_GUEST_MEMFD, guest_memfd=fd)
        vm.memslots[0].delete()
        assert bind(vm, 2, fd, 0, 3 * AT) == 0
    slot = machine(vm).memslots.get(2)
    assert slot is not None
    assert slot.is_guest_memfd
    assert not slot.is_logging


def outcomes(vm: Vm, *addresses: int) -> list[str]:
    """What comes of a store to each."""
    return [type(vm.access(address, "store")).__name__ for address in addresses]


@pytest.mark.parametrize("touched", [True, False])
def test_slots_of_a_closed_file_have_no_memory(vm: Vm, touched: bool) -> None:
    memfd = vm.create_guest_memfd(SIZE, 3)
    with vm.create_guest_memfd(SIZE, 3) as other:
        assert bind(vm, 0, memfd.fileno()) == bind(vm, 1, other.fileno(), gpa=2 * AT) == 0
        if touched:
            assert outcomes(vm, AT, 2 * AT) == ["Mapped", "Mapped"]
        memfd.close()
        assert vm.access(AT, "store") == RunFailed(errno.EFAULT)
        assert vm.access(AT, "load") == RunFailed(errno.EFAULT)
        assert vm.access(AT + 0x1000, "store") == RunFailed(errno.EFAULT)
        assert outcomes(vm, 2 * AT, 2 * AT + 0x1000) == ["Mapped", "Mapped"]
        assert [ipa for ipa, _ in machine(vm).stage2.mappings()] == [2 * AT, 2 * AT + 0x1000]
        vm.memslots[0].delete()
        assert bind(vm, 0, other.fileno(), 0x4000) == 0
        assert outcomes(vm, AT) == ["Mapped"]


@needs_memfd
def test_mapping_keeps_the_file_of_a_closed_descriptor(vm: Vm) -> None:
    memfd = vm.create_guest_memfd(SIZE, 3)
    assert bind(vm, 0, memfd.fileno()) == 0
    memory = kvmipa.GuestMemory(SIZE, file=memfd, alignment=1 << 16)
    assert outcomes(vm, AT) == ["Mapped"]
    memfd.close()
    assert outcomes(vm, AT, AT + 0x1000) == ["Mapped", "Mapped"]
    memory.close()
    assert vm.access(AT + 0x2000, "store") == RunFailed(errno.EFAULT)
    assert vm.access(AT, "store") == RunFailed(errno.EFAULT)
    assert list(machine(vm).stage2.mappings()) == []
    vm.memslots[0].delete()


@needs_memfd
def test_duplicate_keeps_the_file_of_a_closed_descriptor(vm: Vm) -> None:
    memfd = vm.create_guest_memfd(SIZE, 3)
    assert bind(vm, 0, memfd.fileno()) == 0
    duplicate = os.dup(memfd.fileno())
    memfd.close()
    assert outcomes(vm, AT) == ["Mapped"]
    os.close(duplicate)
    assert vm.access(AT + 0x2000, "store") == RunFailed(errno.EFAULT)


def test_slot_that_is_deleted_before_its_file_is_closed_is_left_alone(vm: Vm) -> None:
    memfd = vm.create_guest_memfd(SIZE, 3)
    assert bind(vm, 0, memfd.fileno()) == 0
    vm.memslots[0].delete()
    with kvmipa.GuestMemory(1 << 20) as memory:
        vm.add_memory(AT, memory)
        assert outcomes(vm, AT) == ["Mapped"]
        memfd.close()
        assert [ipa for ipa, _ in machine(vm).stage2.mappings()] == [AT]
        vm.memslots[0].delete()


def test_closed_file_can_be_bound_no_more_but_its_slots_stay(vm: Vm) -> None:
    memfd = vm.create_guest_memfd(SIZE, 3)
    fd = memfd.fileno()
    assert bind(vm, 0, fd) == 0
    memfd.close()
    assert bind(vm, 1, fd, 0x4000, 2 * AT) == errno.EBADF
    assert list(vm.memslots) == [0]
    vm.memslots[0].delete()


def test_slot_ends_within_the_file(vm: Vm) -> None:
    with vm.create_guest_memfd(SIZE, 3) as memfd:
        for offset, size, expected in (
            (0, SIZE + 0x1000, errno.EINVAL),
            (SIZE - 0x3000, 0x4000, errno.EINVAL),
            (SIZE, 0x1000, errno.EINVAL),
            ((1 << 63), 0x1000, errno.EINVAL),
            ((1 << 64) - 0x1000, 0x1000, errno.EINVAL),
            (0x800, 0x1000, errno.EINVAL),
            (SIZE - 0x4000, 0x4000, 0),
            (0, SIZE - 0x4000, 0),
        ):
            slot = len(vm.memslots)
            assert (offset, bind(vm, slot, memfd.fileno(), offset, AT * (slot + 1), size)) == (offset, expected)


def test_file_is_of_one_vm(vm: Vm) -> None:
    with vm_of("7.3") as other, other.create_guest_memfd(SIZE, 3) as memfd:
        assert bind(vm, 0, memfd.fileno()) == errno.EINVAL
    host = HostProfile("7.3")
    with (
        kvmipa.open("emulated", host=host) as kvm,
        kvm.create_vm(40) as first,
        kvm.create_vm(40) as second,
        first.create_guest_memfd(SIZE, 3) as memfd,
    ):
        assert bind(second, 0, memfd.fileno()) == errno.EINVAL
        assert bind(first, 0, memfd.fileno()) == 0


def test_ordinary_descriptors_are_no_guest_memfds(vm: Vm) -> None:
    assert bind(vm, 0, 0) == errno.EINVAL
    assert bind(vm, 0, vm.fileno()) == errno.EINVAL
    assert bind(vm, 0, 99999) == errno.EBADF
    assert bind(vm, 0, 1 << 31) == errno.EBADF


def test_vm_with_tags_takes_none(vm: Vm) -> None:
    with vm.create_guest_memfd(SIZE, 3) as memfd:
        machine(vm).mte = True
        assert bind(vm, 0, memfd.fileno()) == errno.EINVAL
        machine(vm).mte = False
        assert bind(vm, 0, memfd.fileno()) == 0


def test_what_is_not_for_mapping_is_refused_after_the_ipa_space(vm: Vm) -> None:
    with vm.create_guest_memfd(SIZE) as memfd:
        assert bind(vm, 0, memfd.fileno()) == errno.EINVAL
        assert bind(vm, 0, memfd.fileno(), gpa=1 << 36) == errno.EFAULT


def test_descriptors_that_run_out_are_named(vm: Vm) -> None:
    resource = pytest.importorskip("resource", reason="needs RLIMIT_NOFILE")
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    held = os.dup(0)
    os.close(held)
    resource.setrlimit(resource.RLIMIT_NOFILE, (held, hard))
    try:
        for flags in (0, 3):
            with pytest.raises(errors.DescriptorLimitError, match="no file descriptor left") as caught:
                vm.create_guest_memfd(SIZE, flags)
            assert caught.value.errno == errno.EMFILE
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
