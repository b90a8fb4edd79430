# SPDX-License-Identifier: Apache-2.0
"""Writes that KVM collects (kernel-device-spec 4.8), on every kernel there is."""

from __future__ import annotations

import errno
import struct
from typing import TYPE_CHECKING

import pytest

from kvmipa import CoalescedWrite, Mmio, coalesced_mmio, errors
from tests.device_asking import release_of
from tests.guests import BACK, DEVICE, OTHER_DEVICE, SPIN, STORE_X2, STORES, GuestMachine

if TYPE_CHECKING:
    from kvmipa import Kvm, Vcpu, Vm

ADD = 0x11000400  # add w0, w0, #1
LONG = 60.0


def counting(machine: GuestMachine) -> Vcpu:
    """A guest that writes 0, 1, 2 ... for ever."""
    vcpu = machine.vcpu([STORES[4], ADD, BACK[2]])
    vcpu.regs.x[0] = 0
    return vcpu


def test_zones_are_registered_and_taken_away(vm: Vm) -> None:
    vm.add_coalesced_mmio(DEVICE, 0x1000)
    vm.add_coalesced_mmio(1 << 60, 0xFFFF_FFFF)
    vm.remove_coalesced_mmio(DEVICE, 8)
    vm.remove_coalesced_mmio(DEVICE, 8)
    with pytest.raises(OverflowError, match="size=4294967296 does not fit 32 bits"):
        vm.add_coalesced_mmio(0, 1 << 32)
    vm.close()
    for call in (vm.add_coalesced_mmio, vm.remove_coalesced_mmio):
        with pytest.raises(errors.ClosedError):
            call(0, 8)


def test_bus_that_is_full(vm: Vm) -> None:
    for number in range(1000):
        vm.add_coalesced_mmio(0x1000 * number, 0x1000)
    with pytest.raises(errors.IoBusFullError) as caught:
        vm.add_coalesced_mmio(0x1000_0000, 0x1000)
    assert (caught.value.errno, caught.value.ioctl) == (errno.ENOSPC, "KVM_REGISTER_COALESCED_MMIO")
    assert isinstance(caught.value, errors.CoalescedMmioError)


def test_nothing_was_written(vm: Vm) -> None:
    with vm.create_vcpu(0) as vcpu:
        assert vcpu.coalesced_writes() == []
    with pytest.raises(errors.ClosedError):
        vcpu.coalesced_writes()


def test_writes_come_with_their_bytes_in_order(machine: GuestMachine) -> None:
    vcpu = machine.vcpu([*STORES.values(), STORE_X2, SPIN])
    vcpu.regs.x[0], vcpu.regs.x[4] = 0x1122_3344_5566_7788, OTHER_DEVICE
    machine.vm.add_coalesced_mmio(DEVICE, 8)
    assert isinstance(vcpu.run(timeout=LONG), Mmio)
    found = vcpu.coalesced_writes()
    assert found == [CoalescedWrite(DEVICE, (0x1122_3344_5566_7788).to_bytes(8, "little")[:size]) for size in STORES]
    assert [write.value for write in found] == [0x88, 0x7788, 0x5566_7788, 0x1122_3344_5566_7788]
    assert vcpu.coalesced_writes() == []


def test_write_across_the_end_of_a_zone_is_an_exit(machine: GuestMachine) -> None:
    vcpu = machine.vcpu([STORES[4], STORES[8], SPIN])
    machine.vm.add_coalesced_mmio(DEVICE, 7)
    exit = vcpu.run(timeout=LONG)
    assert isinstance(exit, Mmio)
    assert (exit.size, len(vcpu.coalesced_writes())) == (8, 1)


def test_full_ring_is_an_exit(kvm: Kvm, machine: GuestMachine) -> None:
    """Until 6.12 it is full before it is: free entries are counted modulo 2^32, which its size does not divide."""
    entries = coalesced_mmio.capacity(machine.vm.page_size)
    early = None if release_of(kvm) >= (6, 12) else (1 << 32) % entries - 1
    vcpu = counting(machine)
    machine.vm.add_coalesced_mmio(DEVICE, 4)
    first, written = 0, 0
    for _ in range(4):
        room = entries - 1 if early is None or first + early >= entries else early
        exit = vcpu.run(timeout=LONG)
        assert exit == Mmio(DEVICE, 4, is_write=True, value=written + room)
        assert [write.value for write in vcpu.coalesced_writes()] == list(range(written, written + room))
        written += room + 1
        first = (first + room) % entries


def test_ring_is_the_vms(machine: GuestMachine) -> None:
    first = machine.vcpu([STORES[4], STORE_X2, SPIN])
    second = machine.vcpu([STORES[4], STORE_X2, SPIN], at=0x4000_2000)
    machine.vm.add_coalesced_mmio(DEVICE, 4)
    for number, vcpu in enumerate((first, second, first)):
        vcpu.regs.x[0], vcpu.regs.x[4] = number, OTHER_DEVICE
        vcpu.regs.pc = 0x4000_2000 if vcpu is second else 0x4000_0000
        vcpu.run(timeout=LONG)
        vcpu.complete()
    assert [write.value for write in second.coalesced_writes()] == [0, 1, 2]
    assert first.coalesced_writes() == []


def test_what_is_no_longer_collected_is_an_exit(machine: GuestMachine) -> None:
    vcpu = counting(machine)
    machine.vm.add_coalesced_mmio(DEVICE, 4)
    vcpu.run(timeout=LONG)
    machine.vm.remove_coalesced_mmio(DEVICE, 4)
    vcpu.coalesced_writes()
    vcpu.run(timeout=LONG)
    vcpu.run(timeout=LONG)
    assert vcpu.coalesced_writes() == []


# ------------------------------------------------------------------------------------------------ the ring's bytes


def a_ring(first: int, last: int, page: int = 4096) -> memoryview:
    """A ring whose entries say where they are."""
    ring = bytearray(page)
    struct.pack_into("=II", ring, 0, first, last)
    for at in range((page - 8) // 24):
        struct.pack_into("=QIIQ", ring, 8 + 24 * at, 0x1000 + at, 4, 0, at)
    return memoryview(ring)


@pytest.mark.parametrize(("first", "last", "places"), [(0, 0, []), (0, 2, [0, 1]), (168, 1, [168, 169, 0]), (5, 5, [])])
def test_entries_go_around(first: int, last: int, places: list[int]) -> None:
    ring = a_ring(first, last)
    assert [write.phys_addr - 0x1000 for write in coalesced_mmio.drain(ring)] == places
    assert struct.unpack_from("=II", ring) == (last, last)


@pytest.mark.parametrize(("first", "last"), [(0, 170), (170, 0), (2**32 - 1, 3)])
def test_indices_beyond_the_ring_give_nothing(first: int, last: int) -> None:
    ring = a_ring(first, last)
    assert coalesced_mmio.drain(ring) == []
    assert struct.unpack_from("=II", ring) == (first, last)


def test_length_beyond_the_data_is_cut() -> None:
    ring = a_ring(0, 1)
    struct.pack_into("=I", ring, 16, 2**32 - 1)
    assert len(coalesced_mmio.drain(ring)[0].data) == 8
