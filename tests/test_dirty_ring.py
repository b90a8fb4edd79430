# SPDX-License-Identifier: Apache-2.0
"""Dirty rings (KVM_CAP_DIRTY_LOG_RING_ACQ_REL), on every kernel there is."""

from __future__ import annotations

import errno
import gc
import struct
import weakref
from typing import TYPE_CHECKING

import pytest

from kvmipa import DirtyPage, DirtyRing, GuestMemory, Mmio, Vcpu, abi, errors
from kvmipa.exits import DirtyRingFull
from tests.guests import CODE, SPIN, require_cpu

if TYPE_CHECKING:
    from collections.abc import Iterator

    from kvmipa import Kvm, Vm

#: Entries that stay free for what is written while the vCPU is on its way out (KVM_DIRTY_RING_RSVD_ENTRIES).
RESERVED = 64
#: Bytes of one (struct kvm_dirty_gfn).
ENTRY = 16
DATA = 0x5000_0000
LONG = 60.0

# loop: str x1, [x0]; add x0, x0, x2; subs x3, x3, #1; b.ne loop; str x1, [x4]; b .
WRITE_PAGES = (0xF9000001, 0x8B020000, 0xF1000463, 0x54FFFFA1, 0xF9000081, SPIN)


@pytest.fixture
def rings(vm: Vm) -> Vm:
    """A VM whose kernel has dirty rings."""
    if not vm.check_extension(abi.KVM_CAP_DIRTY_LOG_RING_ACQ_REL):
        pytest.skip("this kernel has no dirty ring")
    return vm


@pytest.mark.parametrize("name", ["_coalesced", "_dirty_ring"])
def test_closed_vcpu_lets_go_of_its_rings(name: str, rings: Vm) -> None:
    """The kernel keeps the VM as long as one of them is mapped, whoever still has the handles."""
    rings.enable_dirty_ring(max(rings.page_size, 4096))
    with rings.create_vcpu(0) as vcpu:
        vcpu.coalesced_writes()
        ring = vcpu.dirty_ring
        mapping = weakref.ref(ring._area if name == "_dirty_ring" else vcpu._coalesced)
        assert mapping() is not None
    gc.collect()
    assert mapping() is None
    assert ring.capacity
    with pytest.raises(errors.ClosedError):
        _ = vcpu.dirty_ring
    with pytest.raises(errors.ClosedError):
        vcpu.coalesced_writes()


class Writer:
    """A guest that writes to one page after the other, in a VM with a dirty ring of the smallest size."""

    def __init__(self, vm: Vm, *, with_bitmap: bool = True) -> None:
        self.vm = vm
        self.page = vm.page_size
        self.size = max(self.page, 4096)
        vm.enable_dirty_ring(self.size, with_bitmap=with_bitmap)
        # A page for each entry, and some more.
        self.code, self.memory = GuestMemory(self.page), GuestMemory(self.page * max(self.size // ENTRY, 1024))
        self.code.buffer[: 4 * len(WRITE_PAGES)] = struct.pack(f"={len(WRITE_PAGES)}I", *WRITE_PAGES)
        vm.add_memory(CODE, self.code, slot=1)
        self.slot = vm.add_memory(DATA, self.memory, slot=5, log_dirty=True)
        self.vcpu: Vcpu = vm.create_vcpu(0)
        self.vcpu.init()

    def write(self, first: int, count: int) -> None:
        """The next run writes pages, and then to nowhere."""
        # Otherwise the next run would step over the first of them, for the exit before.
        self.vcpu.complete()
        regs = self.vcpu.regs
        regs.pc = CODE
        regs.x[0], regs.x[1], regs.x[2], regs.x[3], regs.x[4] = DATA + first * self.page, 7, self.page, count, 0x1000

    def __enter__(self) -> Writer:
        return self

    def __exit__(self, *_raised: object) -> None:
        self.vcpu.close()
        self.vm.close()


@pytest.fixture
def writer(kvm: Kvm, rings: Vm) -> Iterator[Writer]:
    """A guest that writes pages."""
    require_cpu(kvm)
    with Writer(rings) as made:
        yield made


def test_kernel_without_it_says_so(vm: Vm) -> None:
    if vm.check_extension(abi.KVM_CAP_DIRTY_LOG_RING_ACQ_REL):
        return
    with pytest.raises(errors.CapabilityNotEnableableError):
        vm.enable_dirty_ring(1 << 16)


def test_vm_without_a_ring(vm: Vm) -> None:
    assert vm.dirty_ring_size == 0
    with pytest.raises(errors.DirtyRingOffError) as caught:
        vm.reset_dirty_rings()
    assert (caught.value.errno, caught.value.ioctl) == (errno.EINVAL, "KVM_RESET_DIRTY_RINGS")
    with vm.create_vcpu(0) as vcpu, pytest.raises(errors.DirtyRingOffError):
        vcpu.dirty_ring  # noqa: B018


def test_sizes(rings: Vm) -> None:
    for size in (0, 100, rings.page_size // 2, rings.page_size + 4096 + 1, 2 << 20):
        with pytest.raises(errors.InvalidCapabilityArgumentError):
            rings.enable_dirty_ring(size)
    with pytest.raises(OverflowError, match="size=4294967296 does not fit 32 bits"):
        rings.enable_dirty_ring(1 << 32)
    assert rings.dirty_ring_size == 0
    rings.enable_dirty_ring(1 << 20)
    assert rings.dirty_ring_size == 1 << 20
    with pytest.raises(errors.AlreadyEnabledError):
        rings.enable_dirty_ring(1 << 20)
    with rings.create_vcpu(0) as vcpu:
        assert vcpu.dirty_ring.capacity == 1 << 16
        assert vcpu.dirty_ring is vcpu.dirty_ring


def test_it_is_too_late_with_a_vcpu(rings: Vm) -> None:
    with rings.create_vcpu(0), pytest.raises(errors.TooLateToEnableError):
        rings.enable_dirty_ring(1 << 16)


def test_bitmap_is_before_the_first_slot(rings: Vm) -> None:
    with GuestMemory(rings.page_size) as memory:
        slot = rings.add_memory(0, memory)
        with pytest.raises(errors.TooLateToEnableError):
            rings.enable_dirty_ring(1 << 16)
        slot.delete()


def test_ring_of_the_capability_is_known_too(rings: Vm) -> None:
    rings.enable_cap(abi.KVM_CAP_DIRTY_LOG_RING_ACQ_REL, 1 << 16)
    with rings.create_vcpu(0) as vcpu:
        assert (vcpu.dirty_ring.harvest(), rings.reset_dirty_rings()) == ([], 0)
    with pytest.raises(errors.ClosedError):
        vcpu.dirty_ring  # noqa: B018


def test_pages_come_in_the_order_of_their_writes(writer: Writer) -> None:
    writer.write(10, 5)
    assert isinstance(writer.vcpu.run(timeout=LONG), Mmio)
    ring = writer.vcpu.dirty_ring
    assert ring.harvest() == [DirtyPage(5, offset) for offset in range(10, 15)]
    assert ring.harvest() == []
    # They are watched again once they are reset.
    for pages in ([], [DirtyPage(5, 12), DirtyPage(5, 13)]):
        writer.write(12, 2)
        writer.vcpu.run(timeout=LONG)
        assert ring.harvest() == pages
        assert writer.vm.reset_dirty_rings() == (len(pages) or 5)
    assert writer.vm.reset_dirty_rings() == 0
    assert writer.slot.dirty_log() == []


def test_ring_that_is_nearly_full_ends_the_run(writer: Writer) -> None:
    ring = writer.vcpu.dirty_ring
    room = ring.capacity - RESERVED
    writer.write(0, room + 50)
    first, again = writer.vcpu.run(timeout=LONG), writer.vcpu.run(timeout=LONG)
    assert (type(first), type(again)) == (DirtyRingFull, DirtyRingFull)
    assert ring.harvest() == [DirtyPage(5, offset) for offset in range(room)]
    assert isinstance(writer.vcpu.run(timeout=LONG), DirtyRingFull)
    assert writer.vm.reset_dirty_rings() == room
    assert isinstance(writer.vcpu.run(timeout=LONG), Mmio)
    # The store that the run ended at was not carried out: its page is written again.
    assert ring.harvest() == [DirtyPage(5, offset) for offset in range(room - 1, room + 50)]


def test_without_a_bitmap_a_ring_knows_blocks_alone(kvm: Kvm, rings: Vm) -> None:
    """As the real kernel has it (6.12.117, 7.3.4): memory is mapped as if it was not logged."""
    require_cpu(kvm)
    with Writer(rings, with_bitmap=False) as writer:
        writer.write(0, 5)
        writer.vcpu.run(timeout=LONG)
        found = writer.vcpu.dirty_ring.harvest()
        assert found
        assert found[0] == DirtyPage(5, 0)


# ------------------------------------------------------------------------------------------------ the ring's bytes


def a_ring(entries: int = 4) -> tuple[bytearray, DirtyRing]:
    content = bytearray(16 * entries)
    return content, DirtyRing(memoryview(content))


def put(content: bytearray, at: int, slot: int, offset: int, flags: int = 1) -> None:
    struct.pack_into("=IIQ", content, 16 * at, flags, slot, offset)


def flags(content: bytearray) -> list[int]:
    return [flag for flag, _, _ in struct.iter_unpack("=IIQ", content)]


def test_harvest_goes_around_and_marks_what_it_took() -> None:
    content, ring = a_ring()
    for at, offset in ((0, 7), (1, 1 << 40)):
        put(content, at, 1, offset)
    assert ring.harvest() == [DirtyPage(1, 7), DirtyPage(1, 1 << 40)]
    assert flags(content) == [2, 2, 0, 0]
    for at, offset in ((2, 3), (3, 4), (0, 5)):
        put(content, at, 2, offset)
    assert ring.harvest() == [DirtyPage(2, 3), DirtyPage(2, 4), DirtyPage(2, 5)]
    assert flags(content) == [2, 2, 2, 2]
    assert ring.harvest() == []


def test_harvest_of_a_full_ring_ends() -> None:
    content, ring = a_ring()
    for at in range(4):
        put(content, at, 0, at)
    assert [page.offset for page in ring.harvest()] == [0, 1, 2, 3]
