# SPDX-License-Identifier: Apache-2.0
"""KVM_IOEVENTFD and coalesced MMIO (kernel-device-spec 4.8), on every kernel there is."""

from __future__ import annotations

import os
from errno import EBADF, EEXIST, EFAULT, EINVAL, ENOENT, ENOSPC
from typing import TYPE_CHECKING

import pytest

from tests.backend.emulated.vm_asking import (
    KVM_IOEVENTFD,
    KVM_REGISTER_COALESCED_MMIO,
    KVM_UNREGISTER_COALESCED_MMIO,
    Asked,
    needs_eventfd,
    of,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from kvmipa import Kvm

MATCH, PIO, DEASSIGN, CCW = 1, 2, 4, 8
END = 1 << 64


@pytest.fixture
def vm(kvm: Kvm, limit: int) -> Iterator[Asked]:
    """A VM on each kernel."""
    with kvm.create_vm(min(limit, 40)) as created:
        yield of(created)


@pytest.fixture
def fd() -> Iterator[int]:
    """An eventfd."""
    opened = os.eventfd(0, os.EFD_CLOEXEC)
    yield opened
    os.close(opened)


@pytest.fixture
def other() -> Iterator[int]:
    """Another one."""
    opened = os.eventfd(0, os.EFD_CLOEXEC)
    yield opened
    os.close(opened)


@pytest.mark.parametrize("request_number", [KVM_IOEVENTFD, KVM_REGISTER_COALESCED_MMIO, KVM_UNREGISTER_COALESCED_MMIO])
def test_bad_pointer_comes_first(vm: Asked, request_number: int) -> None:
    assert vm.value(request_number, 8) == -EFAULT


@needs_eventfd
def test_lengths(vm: Asked, fd: int) -> None:
    assert {length for length in range(20) if vm.ioeventfd(fd, 0x1000 * length, length) == 0} == {0, 1, 2, 4, 8}


@needs_eventfd
@pytest.mark.parametrize("length", [1, 2, 4, 8])
def test_range_ends_before_the_last_address(vm: Asked, fd: int, length: int) -> None:
    assert (vm.ioeventfd(fd, END - length, length), vm.ioeventfd(fd, END - length - 1, length)) == (-EINVAL, 0)


@needs_eventfd
def test_addresses_beyond_the_ipa_space_are_taken(vm: Asked, fd: int) -> None:
    assert (vm.ioeventfd(fd, 1 << 60), vm.zone(1 << 60, 4096)) == (0, 0)


@needs_eventfd
@pytest.mark.parametrize("flags", range(64))
def test_flags(vm: Asked, fd: int, flags: int) -> None:
    expected = -ENOENT if flags & DEASSIGN else -EINVAL if flags & 32 else 0
    assert vm.ioeventfd(fd, 0x1000, 4, flags) == expected
    assert vm.ioeventfd(fd, 0x2000, 0, flags) == (-EINVAL if flags & MATCH and not flags & DEASSIGN else expected)


@needs_eventfd
def test_descriptor_is_looked_at_last(vm: Asked) -> None:
    with open(os.devnull) as file:  # noqa: PTH123  a descriptor that is no eventfd
        null = file.fileno()
        assert [vm.ioeventfd(bad, 0, 4, flags) for bad in (-1, null) for flags in (0, DEASSIGN)] == [
            -EBADF,
            -EBADF,
            -EINVAL,
            -EINVAL,
        ]
    assert vm.ioeventfd(-1, 0, 3) == -EINVAL


@needs_eventfd
def test_writes_that_could_be_for_two_collide(vm: Asked, fd: int, other: int) -> None:
    assert vm.ioeventfd(fd, 0x1000, 4) == 0
    assert vm.ioeventfd(other, 0x1000, 4) == -EEXIST
    assert vm.ioeventfd(other, 0x1000, 4, MATCH, 7) == -EEXIST
    assert vm.ioeventfd(other, 0x1000, 0) == -EEXIST
    assert vm.ioeventfd(other, 0x1000, 8) == 0
    assert (vm.ioeventfd(other, 0x1000, 4, PIO), vm.ioeventfd(other, 0x1000, 4, CCW)) == (0, 0)
    assert [vm.ioeventfd(fd, 0x2000, 4, MATCH, value) for value in (7, 8, 7)] == [0, 0, -EEXIST]
    assert (vm.ioeventfd(fd, 0x2001, 2), vm.ioeventfd(fd, 0x2000, 4)) == (0, -EEXIST)


@needs_eventfd
def test_ending_one_takes_all_that_it_was_assigned_with(vm: Asked, fd: int, other: int) -> None:
    assert (vm.ioeventfd(fd, 0x1000, 4), vm.ioeventfd(fd, 0x2000, 4, MATCH, 7)) == (0, 0)
    assert {
        vm.ioeventfd(other, 0x1000, 4, DEASSIGN),
        vm.ioeventfd(fd, 0x1000, 8, DEASSIGN),
        vm.ioeventfd(fd, 0x1004, 4, DEASSIGN),
        vm.ioeventfd(fd, 0x1000, 4, DEASSIGN | MATCH),
        vm.ioeventfd(fd, 0x1000, 4, DEASSIGN | PIO),
        vm.ioeventfd(fd, 0x2000, 4, DEASSIGN),
        vm.ioeventfd(fd, 0x2000, 4, DEASSIGN | MATCH, 8),
    } == {-ENOENT}
    duplicate = os.dup(fd)
    assert vm.ioeventfd(duplicate, 0x1000, 4, DEASSIGN) == 0
    os.close(duplicate)
    assert vm.ioeventfd(fd, 0x1000, 4, DEASSIGN) == -ENOENT
    assert vm.ioeventfd(fd, 0x2000, 4, DEASSIGN | MATCH | 0x40, 7) == 0


@needs_eventfd
def test_ioeventfd_outlives_its_eventfd_and_is_not_another_ones(vm: Asked) -> None:
    first = os.eventfd(0, 0)
    assert vm.ioeventfd(first, 0x1000, 4) == 0
    os.close(first)
    second = os.eventfd(0, 0)
    assert vm.ioeventfd(second, 0x1000, 4, DEASSIGN) == -ENOENT
    assert vm.ioeventfd(second, 0x1000, 4) == -EEXIST
    os.close(second)


@pytest.mark.parametrize(("pio", "result"), [(0, 0), (1, 0), (2, -EINVAL), (0xFFFFFFFF, -EINVAL)])
def test_zone_is_of_memory_or_of_ports(vm: Asked, pio: int, result: int) -> None:
    assert vm.zone(0x1000, 0x1000, pio) == result
    assert vm.zone(0x1000, 0x1000, pio, KVM_UNREGISTER_COALESCED_MMIO) == result
    assert vm.zone(0x1000, 0x1000, pio, KVM_UNREGISTER_COALESCED_MMIO) == result


@needs_eventfd
def test_bus_has_room_for_a_thousand_zones_and_ioeventfds_do_not_count(vm: Asked, fd: int) -> None:
    assert {vm.zone(0x10_0000 + 0x1000 * number, 0x1000) for number in range(1000)} == {0}
    assert (vm.zone(0, 0x1000), vm.ioeventfd(fd, 0), vm.ioeventfd(fd, 0, 0)) == (-ENOSPC, -ENOSPC, -ENOSPC)
    assert (vm.zone(0, 0x1000, 1), vm.ioeventfd(fd, 0, 4, PIO)) == (0, 0)
    # The part that is named is in the first zone, which goes as a whole.
    assert vm.zone(0x10_0800, 0x100, request=KVM_UNREGISTER_COALESCED_MMIO) == 0
    assert [vm.ioeventfd(fd, 64 * number) for number in range(3)] == [0, 0, 0]
    assert (vm.zone(0, 0x1000), vm.zone(0, 0x1000)) == (0, -ENOSPC)
    # A range across two zones is in neither.
    assert vm.zone(0x10_1000, 0x2000, request=KVM_UNREGISTER_COALESCED_MMIO) == 0
    assert vm.zone(0, 0x1000) == -ENOSPC


def test_zone_cannot_be_ended_by_a_size_that_is_negative_to_the_kernel(vm: Asked) -> None:
    assert {vm.zone(0, 0xFFFFFFFF) for _ in range(1000)} == {0}
    assert vm.zone(0, 1 << 31, request=KVM_UNREGISTER_COALESCED_MMIO) == 0
    assert vm.zone(0, 0x1000) == -ENOSPC
    assert vm.zone(0, (1 << 31) - 1, request=KVM_UNREGISTER_COALESCED_MMIO) == 0
    assert vm.zone(0, 0x1000) == 0
