# SPDX-License-Identifier: Apache-2.0
"""The small requests of a VM (kernel-device-spec 4.9): on every kernel there is, and what needs a host of its own."""

from __future__ import annotations

import ctypes
import os
import struct
from errno import EBUSY, EFAULT, EINVAL, EMFILE, ENOTTY
from typing import TYPE_CHECKING

import pytest

from kvmipa import abi
from tests.backend.emulated.asking import PROTECTED, SPECIFIED, needs_rlimit
from tests.backend.emulated.vm_asking import (
    KVM_ARM_GET_REG_WRITABLE_MASKS,
    KVM_ARM_MTE_COPY_TAGS,
    KVM_ARM_SET_COUNTER_OFFSET,
    KVM_CREATE_DEVICE,
    KVM_CREATE_VCPU,
    KVM_GET_STATS_FD,
    KVM_RESET_DIRTY_RINGS,
    KVM_SET_DEVICE_ATTR,
    Asked,
    emulated,
    memory,
    of,
    state,
)

if TYPE_CHECKING:
    from kvmipa import Vm

FROM_GUEST = 1
MASKS = 192
PAGE = 4096


@pytest.fixture
def asked(vm: Vm) -> Asked:
    """The VM, asked directly."""
    return of(vm)


def masks(vm: Asked, address: int, which: int = 0, reserved: int = 0, at: int = 0) -> int:
    words = [0] * 13
    words[at] = reserved
    return vm.struct(KVM_ARM_GET_REG_WRITABLE_MASKS, "=QI13I", address, which, *words)


def test_dirty_rings_are_reset_where_there_are_some(vm: Vm, asked: Asked) -> None:
    assert asked.value(KVM_RESET_DIRTY_RINGS) == -EINVAL
    size = vm.check_extension(abi.KVM_CAP_DIRTY_LOG_RING_ACQ_REL)
    if size:
        vm.enable_cap(abi.KVM_CAP_DIRTY_LOG_RING_ACQ_REL, size)
        assert asked.value(KVM_RESET_DIRTY_RINGS) == 0


def test_counter_offset(vm: Vm, asked: Asked) -> None:
    known = vm.check_extension(abi.KVM_CAP_COUNTER_OFFSET)
    for offset in (0, 5, (1 << 64) - 1):
        assert asked.struct(KVM_ARM_SET_COUNTER_OFFSET, "=QQ", offset, 0) == (0 if known else -EINVAL)
    assert asked.struct(KVM_ARM_SET_COUNTER_OFFSET, "=QQ", 0, 1) == -EINVAL
    assert asked.value(KVM_ARM_SET_COUNTER_OFFSET, 8) == (-EFAULT if known else -EINVAL)


def test_writable_masks_are_written_into_room_for_192(vm: Vm, asked: Asked) -> None:
    if not vm.check_extension(abi.KVM_CAP_ARM_SUPPORTED_REG_MASK_RANGES):
        assert masks(asked, 8) == -EINVAL
        return
    room = (ctypes.c_uint64 * (MASKS + 1))(*[0xAA] * (MASKS + 1))
    address = ctypes.addressof(room)
    assert (masks(asked, address, which=1), masks(asked, address, reserved=1), masks(asked, 8, reserved=1, at=12)) == (
        -EINVAL,
        -EINVAL,
        -EINVAL,
    )
    assert (masks(asked, 8), list(room)) == (-EFAULT, [0xAA] * (MASKS + 1))
    assert (masks(asked, address), room[MASKS]) == (0, 0xAA)
    # ID_AA64MMFR0_EL1: PARange can be changed, ASIDBits cannot.
    assert room[56] & 0xFF == 0x0F


def test_statistics_are_a_file_to_read(vm: Vm, asked: Asked) -> None:
    fd = asked.value(KVM_GET_STATS_FD, 5)
    if not vm.check_extension(abi.KVM_CAP_BINARY_STATS_FD):
        assert fd == -EINVAL
        return
    assert fd >= 0
    content = os.pread(fd, 4096, 0)
    flags, name_size, count, name_at, rows_at, values_at = struct.unpack_from("=6I", content)
    assert (flags, name_size, name_at, rows_at) == (0, 48, 24, 72)
    assert content[name_at:rows_at].rstrip(b"\0") == b"kvm-%d" % os.getpid()
    rows = [struct.unpack_from("=IhHII48s", content, rows_at + 64 * row) for row in range(count)]
    assert [row[5].rstrip(b"\0") for row in rows] == [b"remote_tlb_flush", b"remote_tlb_flush_requests"]
    assert [row[:5] for row in rows] == [(0, 0, 1, 0, 0), (0, 0, 1, 8, 0)]
    assert len(content) == values_at + 8 * count
    assert asked.backend.ioctl(fd, 0xAE03, 0) == -ENOTTY
    with pytest.raises(OSError, match="descriptor"):
        os.write(fd, b"x")
    asked.backend.close(fd)


def test_tags_need_a_vm_with_mte(asked: Asked) -> None:
    with memory() as at:
        assert asked.tags(at) == -EINVAL
    # A pKVM host since 7.3 does not know the request at all, nor do kernels before 5.14.
    assert asked.value(KVM_ARM_MTE_COPY_TAGS, 8) in {-EFAULT, -EINVAL}


@pytest.mark.parametrize("release", ["6.1", "6.12", "7.3"])
def test_tags_are_copied_page_by_page(release: str) -> None:
    # Seen on 6.12.117 with QEMU's max and mte=on.
    with emulated(release, id_aa64pfr1_el1=0x200) as vm, memory() as at, memory() as tags:
        assert (vm.enable(abi.KVM_CAP_ARM_MTE), vm.slot(at)) == (0, 0)
        ctypes.memset(tags, 0xF3, 512)
        assert vm.tags(tags, length=2 * PAGE) == 2 * PAGE
        ctypes.memset(tags, 0xFF, 1024)
        assert vm.tags(tags, PAGE, 2 * PAGE, FROM_GUEST) == 2 * PAGE
        assert ctypes.string_at(tags, 513) == b"\x03" * 256 + bytes(256) + b"\xff"
        assert vm.tags(tags, 0x10000 - PAGE, 2 * PAGE) == PAGE
        assert (vm.tags(tags, 1 << 30), vm.tags(8), vm.tags(8, flags=FROM_GUEST)) == (-EFAULT, -EFAULT, -EFAULT)
        assert vm.tags(tags, length=0) == 0
        bad = [{"ipa": 1}, {"length": 1}, {"flags": 2}, {"reserved": (1, 0)}, {"reserved": (0, 1)}]
        assert [vm.tags(tags, **wrong) for wrong in bad] == [-EINVAL] * 5  # type: ignore[arg-type]


@pytest.mark.parametrize(("release", "bounded"), [("6.1", False), ("6.12", True), ("7.3", True)])
def test_tags_are_not_written_while_pages_are_logged_since_6_12(release: str, bounded: bool) -> None:
    with emulated(release, id_aa64pfr1_el1=0x200) as vm, memory() as at, memory() as tags:
        vm.enable(abi.KVM_CAP_ARM_MTE)
        assert (vm.slot(at, flags=1), vm.slot(at, 1 << 21, flags=2, number=1)) == (0, 0)
        assert vm.tags(tags) == (-EBUSY if bounded else PAGE)
        assert vm.tags(tags, length=0) == (-EBUSY if bounded else 0)
        assert vm.tags(tags, flags=FROM_GUEST) == PAGE
        assert vm.tags(tags, length=1 << 31, flags=FROM_GUEST) == (-EINVAL if bounded else 0x10000)
        vm.slot(at)
        assert (vm.tags(tags, 1 << 21), vm.tags(tags, 1 << 21, flags=FROM_GUEST)) == (-EFAULT, PAGE)


@pytest.mark.parametrize(("el0", "aarch32"), [(1, 0), (2, 0xFFFFFFFF)])
@pytest.mark.parametrize(("release", "midr"), [("6.12", 0), ("7.3", 0xFFFFFFFF)])
def test_aarch32_registers_have_masks_where_there_is_aarch32(release: str, midr: int, el0: int, aarch32: int) -> None:
    room = (ctypes.c_uint64 * MASKS)()
    with emulated(release, id_aa64pfr0_el1=0x10 | el0) as vm:
        assert masks(vm, ctypes.addressof(room)) == 0
    assert (room[0], room[8], room[27], room[32] & 0xF) == (midr, aarch32, 0, 0xF)


@pytest.mark.parametrize("release", SPECIFIED)
@pytest.mark.parametrize("protected", [False, True])
def test_pkvm_does_not_know_some_requests_since_7_3(release: str, protected: bool) -> None:
    if protected and release != "7.3":
        return
    machine_type = 40 | PROTECTED if protected else 40
    with emulated(release, machine_type, mode="protected") as vm:
        filtered = {KVM_ARM_MTE_COPY_TAGS} if release == "7.3" else set()
        if protected:
            filtered |= {KVM_ARM_SET_COUNTER_OFFSET, KVM_ARM_GET_REG_WRITABLE_MASKS, KVM_SET_DEVICE_ATTR}
        known = {"5.10": 0, "6.1": 1, "6.12": 3, "7.3": 3}[release]
        requests = [KVM_ARM_MTE_COPY_TAGS, KVM_ARM_SET_COUNTER_OFFSET, KVM_ARM_GET_REG_WRITABLE_MASKS]
        answers = {request: vm.value(request, 8) for request in requests[:known]}
        assert answers == {request: -EINVAL if request in filtered else -EFAULT for request in requests[:known]}
        assert {vm.value(request, 8) for request in requests[known:]} <= {-EINVAL}
        assert vm.value(KVM_CREATE_DEVICE, 8) in {-EFAULT, -EINVAL}


@needs_rlimit
def test_statistics_need_a_descriptor() -> None:
    import resource

    with emulated() as vm:
        limits = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (vm.fd, limits[1]))
        try:
            assert vm.value(KVM_GET_STATS_FD) == -EMFILE
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, limits)


def test_statistics_keep_the_vm() -> None:
    with emulated() as vm:
        fd = vm.value(KVM_GET_STATS_FD)
        assert vm.backend._descriptors.get(fd).vm is state(vm)
        vm.backend.close(fd)


def test_statistics_show_what_was_counted_since_they_were_opened() -> None:
    with emulated() as vm:
        number = vm.value(KVM_CREATE_VCPU, 0)
        counters = state(vm).vcpus[0].counters
        counters.count("mmio_exit_user")
        fd = vm.backend.ioctl(number, KVM_GET_STATS_FD, 0)
        content = os.pread(fd, 4096, 0)
        names = [content[72 + 64 * row + 16 : 72 + 64 * (row + 1)].rstrip(b"\0") for row in range(18)]
        assert (len(content), names[14], names[17]) == (2112, b"mmio_exit_user", b"exits")
        offsets = {at: struct.unpack_from("=I", content, 72 + 64 * at + 8)[0] for at in (14, 17)}
        values = struct.unpack_from("=I", content, 20)[0]

        def shown() -> list[int]:
            return [struct.unpack("=Q", os.pread(fd, 8, values + offset))[0] for offset in offsets.values()]

        assert shown() == [1, 1]
        counters.count("mmio_exit_user")
        counters.count("exits")
        assert shown() == [2, 3]
        vm.backend.close(fd)
        counters.count("mmio_exit_user")
        assert counters["exits"] == 4
        vm.backend.close(number)
