# SPDX-License-Identifier: Apache-2.0
"""GuestMemory: what it maps, how long it stays, and what it refuses."""

from __future__ import annotations

import errno
import gc
import mmap
import os
import sys
from typing import TYPE_CHECKING, Any

import pytest

import kvmipa
from kvmipa import GuestMemory, errors
from kvmipa.abi import KVM_MEM_READONLY
from tests.forking import assert_belongs_to_this_process, needs_fork

if TYPE_CHECKING:
    from pathlib import Path

    from kvmipa import Kvm, Vm

PAGE = mmap.PAGESIZE
MIB = 1 << 20
HUGE = 2 * MIB


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A file of 8 MiB whose MiBs begin with their number."""
    path = tmp_path / "memory"
    path.write_bytes(b"".join(bytes([number]) * MIB for number in range(8)))
    return path


def is_mapped(address: int) -> bool:
    from kvmipa.backend.emulated.user_memory import is_readable

    return is_readable(address)


# --- mapping ---


@pytest.mark.parametrize("size", [PAGE, 3 * PAGE, 64 << 10, MIB, HUGE, HUGE + PAGE, 64 * MIB])
def test_memory_is_writable_zero_and_of_the_size_asked_for(size: int) -> None:
    with GuestMemory(size) as memory:
        assert len(memory.buffer) == memory.size == size
        assert memory.buffer[0] == memory.buffer[-1] == 0
        memory.buffer[0], memory.buffer[-1] = 1, 2
        assert (memory.buffer[0], memory.buffer[-1]) == (1, 2)
        assert is_mapped(memory.address)
        assert is_mapped(memory.address + size - 1)


@pytest.mark.parametrize("size", [HUGE, 3 * HUGE, HUGE + PAGE, 64 * MIB])
def test_memory_as_large_as_a_huge_page_is_aligned_to_one(size: int) -> None:
    memories = [GuestMemory(size) for _ in range(3)]
    assert [memory.address % HUGE for memory in memories] == [0, 0, 0]


@pytest.mark.parametrize("alignment", [PAGE, 1 << 16, 1 << 21, 1 << 25, 1 << 30])
@pytest.mark.parametrize("size", [PAGE, 5 * PAGE])
def test_address_has_the_alignment_asked_for(size: int, alignment: int) -> None:
    with GuestMemory(size, alignment=alignment) as memory:
        assert memory.address % alignment == 0
        memory.buffer[size - 1] = 1


def test_address_is_where_the_buffer_is() -> None:
    import ctypes

    with GuestMemory(HUGE) as memory:
        memory.buffer[:4] = b"here"
        assert ctypes.string_at(memory.address, 4) == b"here"


def test_file_is_mapped_from_its_offset_and_shared(file: Path) -> None:
    with GuestMemory(4 * MIB, file=file, offset=2 * MIB) as memory:
        assert memory.address % HUGE == 0
        assert (memory.buffer[0], memory.buffer[4 * MIB - 1]) == (2, 5)
        memory.buffer[1] = 0xAA
    assert file.read_bytes()[2 * MIB + 1] == 0xAA


def test_private_mapping_of_a_file_leaves_it_alone(file: Path) -> None:
    with GuestMemory(MIB, file=str(file), private=True) as memory:
        memory.buffer[0] = 0xAA
    assert file.read_bytes()[0] == 0


@pytest.mark.parametrize("size", [PAGE, 4 * MIB])
@pytest.mark.parametrize("alignment", [PAGE, None])
def test_readonly_mapping_of_a_file_cannot_be_written(file: Path, size: int, alignment: int | None) -> None:
    file.chmod(0o400)
    with GuestMemory(size, file=file, readonly=True, alignment=alignment, offset=MIB) as memory:
        assert memory.readonly
        assert memory.buffer[0] == 1
        assert is_mapped(memory.address)
        with pytest.raises(TypeError):
            memory.buffer[0] = 1


def test_descriptor_is_taken_and_stays_open(file: Path) -> None:
    fd = os.open(file, os.O_RDWR)
    try:
        with GuestMemory(MIB, file=fd, offset=MIB) as memory:
            assert memory.buffer[0] == 1
        with file.open("r+b") as opened, GuestMemory(MIB, file=opened) as memory:
            assert memory.buffer[0] == 0
        os.fstat(fd)
    finally:
        os.close(fd)


def test_a_path_costs_no_descriptor_that_is_not_the_mappings_own(file: Path) -> None:
    memory = GuestMemory(4 * MIB, file=file)
    before = os.dup(0)
    os.close(before)
    memory.close()
    after = os.dup(0)
    os.close(after)
    assert after <= before


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has a pool of huge pages")
def test_huge_pages_are_mapped_or_the_pool_is_named() -> None:
    try:
        with GuestMemory(HUGE, hugetlb=HUGE) as memory:
            assert memory.address % HUGE == 0
    except errors.GuestMemoryError as error:
        assert error.errno in (errno.ENOMEM, errno.EINVAL, errno.ENODEV)  # noqa: PT017
        assert "vm.nr_hugepages" in error.fix  # noqa: PT017


# --- what cannot be ---


@pytest.mark.parametrize(
    ("size", "more"),
    [
        (0, {}),
        (-PAGE, {}),
        (1, {}),
        (PAGE - 1, {}),
        (PAGE + 1, {}),
        (PAGE, {"alignment": 0}),
        (PAGE, {"alignment": 3 * PAGE}),
        (PAGE, {"alignment": PAGE // 2}),
        (PAGE, {"offset": PAGE}),
        (PAGE, {"readonly": True}),
        (HUGE + PAGE, {"hugetlb": HUGE}),
        (HUGE, {"hugetlb": 3 * PAGE}),
        (HUGE, {"hugetlb": 0}),
    ],
)
def test_sizes_are_refused_and_never_rounded(size: int, more: dict[str, Any]) -> None:
    with pytest.raises(errors.GuestMemorySizeError) as caught:
        GuestMemory(size, **more)
    assert isinstance(caught.value, ValueError)
    assert caught.value.fix


def test_part_of_a_file_that_is_not_there_is_refused(file: Path) -> None:
    for size, offset in ((16 * MIB, 0), (MIB, 8 * MIB), (2 * MIB, 7 * MIB)):
        with pytest.raises(errors.GuestMemorySizeError, match="shorter"):
            GuestMemory(size, file=file, offset=offset)
    with pytest.raises(errors.GuestMemorySizeError, match="offset"):
        GuestMemory(MIB, file=file, offset=1)


def test_file_that_is_not_there_is_an_error_of_the_system(tmp_path: Path) -> None:
    with pytest.raises(errors.GuestMemoryError) as caught:
        GuestMemory(PAGE, file=tmp_path / "none")
    assert caught.value.errno == errno.ENOENT


@pytest.mark.parametrize("size", [1 << 60, 1 << 62, 1 << 70])
def test_more_than_the_system_has_is_an_error(size: int) -> None:
    with pytest.raises(errors.GuestMemoryError) as caught:
        GuestMemory(size)
    assert caught.value.errno == errno.ENOMEM


@pytest.mark.parametrize("size", ["4096", 4096.0, None])
def test_size_is_an_int(size: object) -> None:
    with pytest.raises(TypeError):
        GuestMemory(size)  # type: ignore[arg-type]


@pytest.mark.parametrize("file", [object(), 1.5, b"path", ["path"]])
def test_file_is_a_path_or_has_a_descriptor(file: object) -> None:
    with pytest.raises(TypeError, match=f"^file is a path, .*, not {type(file).__name__}"):
        GuestMemory(PAGE, file=file)


# --- lifetime ---


def test_closed_memory_says_so() -> None:
    memory = GuestMemory(PAGE)
    memory.close()
    memory.close()
    assert memory.closed
    for use in (lambda: memory.address, lambda: memory.buffer, memory.__enter__):
        with pytest.raises(errors.ClosedError, match="GuestMemory is closed"):
            use()


def test_closing_unmaps() -> None:
    memory = GuestMemory(64 * MIB)
    address = memory.address
    memory.close()
    assert not is_mapped(address)


def test_closing_is_refused_while_somebody_has_a_view() -> None:
    memory = GuestMemory(PAGE)
    view = memory.buffer[10:20]
    with pytest.raises(errors.MemoryInUseError, match="view") as caught:
        memory.close()
    assert caught.value.errno == errno.EBUSY
    view[0] = 7
    assert memory.buffer[10] == 7
    view.release()
    memory.close()


def test_memory_of_a_slot_cannot_be_closed(vm: Vm) -> None:
    memory = GuestMemory(HUGE)
    slot = vm.add_memory(0x4000_0000, memory)
    assert memory.in_use
    with pytest.raises(errors.MemoryInUseError, match=r"1 memory slot"):
        memory.close()
    assert is_mapped(memory.address)
    slot.delete()
    assert not memory.in_use
    memory.close()


def test_memory_of_several_slots_is_free_after_the_last(vm: Vm) -> None:
    memory = GuestMemory(HUGE)
    first = vm.add_memory(0x4000_0000, memory, size=MIB)
    second = vm.add_memory(0x5000_0000, memory, offset=MIB)
    assert (second.userspace_addr, second.memory_size) == (memory.address + MIB, MIB)
    first.delete()
    with pytest.raises(errors.MemoryInUseError):
        memory.close()
    second.delete()
    memory.close()


def test_slot_keeps_memory_that_the_user_dropped(vm: Vm) -> None:
    slot = vm.add_memory(0x4000_0000, GuestMemory(HUGE))
    address = slot.userspace_addr
    gc.collect()
    assert is_mapped(address)
    assert slot.memory is not None
    assert slot.memory.address == address
    del slot
    gc.collect()
    assert is_mapped(address)
    vm.close()
    gc.collect()
    assert not is_mapped(address)


def test_closed_vm_uses_no_memory(vm: Vm) -> None:
    memory = GuestMemory(HUGE)
    slot = vm.add_memory(0x4000_0000, memory)
    vm.close()
    assert slot.deleted
    assert not memory.in_use
    memory.close()


def test_dropped_vm_uses_no_memory(kvm: Kvm) -> None:
    memory = GuestMemory(HUGE)
    vm = kvm.create_vm(32)
    vm.add_memory(0x4000_0000, memory)
    with pytest.warns(ResourceWarning, match="unclosed"):
        del vm
    memory.close()


def test_memory_stays_while_another_descriptor_keeps_the_vm_alive(vm: Vm) -> None:
    memory = GuestMemory(HUGE)
    vm.add_memory(0x4000_0000, memory)
    table = vm._slots()
    table.hold()
    vm.close()
    with pytest.raises(errors.MemoryInUseError):
        memory.close()
    table.release()
    memory.close()


def test_raw_deletion_frees_the_memory_too(vm: Vm) -> None:
    memory = GuestMemory(HUGE)
    slot = vm.add_memory(0x4000_0000, memory)
    vm.set_user_memory_region(slot.slot_id, 0, 0, 0)
    assert slot.deleted
    memory.close()


def test_memory_that_the_kernel_refused_is_not_in_use(vm: Vm) -> None:
    memory = GuestMemory(HUGE)
    with pytest.raises(errors.SlotBeyondIpaSpaceError):
        vm.add_memory(1 << vm.geometry.ipa_bits, memory)
    assert vm.memslots == {}
    memory.close()


def test_closed_memory_is_not_added(vm: Vm) -> None:
    memory = GuestMemory(PAGE)
    memory.close()
    with pytest.raises(errors.ClosedError, match="GuestMemory"):
        vm.add_memory(0, memory)
    assert vm.memslots == {}


# --- Memslot ---


def test_lowest_free_number_is_taken(vm: Vm) -> None:
    memory = GuestMemory(HUGE)
    slots = [vm.add_memory(number * HUGE, memory) for number in range(4)]
    assert [slot.slot_id for slot in slots] == [0, 1, 2, 3]
    slots[1].delete()
    slots[2].delete()
    assert vm.add_memory(16 * HUGE, memory).slot_id == 1
    assert vm.add_memory(17 * HUGE, memory).slot_id == 2
    assert vm.add_memory(18 * HUGE, memory).slot_id == 4
    assert vm.add_memory(19 * HUGE, memory, slot=9).slot_id == 9
    assert sorted(vm.memslots) == [0, 1, 2, 3, 4, 9]


def test_number_that_is_in_use_is_refused(vm: Vm) -> None:
    memory = GuestMemory(HUGE)
    vm.add_memory(0, memory)
    with pytest.raises(errors.SlotIdError, match="slot 0 is in use") as caught:
        vm.add_memory(HUGE, memory, slot=0)
    assert caught.value.errno == errno.EEXIST
    assert vm.memslots[0].guest_phys_addr == 0


def test_slots_are_listed_in_the_order_of_their_addresses(vm: Vm) -> None:
    memory = GuestMemory(HUGE)
    for address in (0x4000_0000, 0x1000_0000, 0x2000_0000):
        vm.add_memory(address, memory)
    assert list(vm.memslots) == [1, 2, 0]
    vm.memslots[0].move(0)
    assert list(vm.memslots) == [0, 1, 2]


def test_moving_keeps_the_slot_and_a_refused_move_leaves_it(vm: Vm) -> None:
    memory = GuestMemory(HUGE)
    slot = vm.add_memory(0x4000_0000, memory)
    slot.move(0x8000_0000)
    assert vm.memslots[0] is slot
    assert slot.guest_phys_addr == 0x8000_0000
    with pytest.raises(errors.SlotBeyondIpaSpaceError):
        slot.move(1 << vm.geometry.ipa_bits)
    with pytest.raises(errors.MisalignedSlotError):
        slot.move(0x8000_0001)
    assert slot.guest_phys_addr == 0x8000_0000
    # The kernel has it where this says that it is.
    with pytest.raises(errors.SlotOverlapError, match="slot 0"):
        vm.add_memory(0x8000_0000, memory)


def test_logging_is_switched(vm: Vm) -> None:
    slot = vm.add_memory(0x4000_0000, GuestMemory(HUGE))
    with pytest.raises(errors.DirtyLogOffError, match="off"):
        slot.dirty_log()
    slot.set_logging(True)
    assert slot.log_dirty
    assert slot.dirty_log() == []
    slot.clear_dirty_log()
    slot.set_logging(False)
    assert not slot.log_dirty
    with pytest.raises(errors.DirtyLogOffError):
        slot.clear_dirty_log()


def test_deleted_slot_says_so(vm: Vm) -> None:
    slot = vm.add_memory(0x4000_0000, GuestMemory(HUGE))
    slot.delete()
    slot.delete()
    assert slot.deleted
    assert vm.memslots == {}
    for use in (lambda: slot.move(0), lambda: slot.set_logging(True), slot.dirty_log, slot.clear_dirty_log):
        with pytest.raises(errors.NoSuchSlotError, match="slot 0 was deleted"):
            use()
    again = vm.add_memory(0x4000_0000, GuestMemory(HUGE))
    slot.delete()
    assert vm.memslots == {0: again}


@pytest.mark.parametrize(("offset", "size"), [(-PAGE, None), (HUGE, None), (0, HUGE + PAGE), (MIB, 2 * MIB), (0, 0)])
def test_piece_is_within_the_memory(vm: Vm, offset: int, size: int | None) -> None:
    with pytest.raises(errors.GuestMemorySizeError):
        vm.add_memory(0, GuestMemory(HUGE), offset=offset, size=size)


def test_memory_is_a_guest_memory(vm: Vm) -> None:
    with pytest.raises(TypeError, match="GuestMemory"):
        vm.add_memory(0, bytearray(PAGE))  # type: ignore[arg-type]


def test_flags_are_the_slots(vm: Vm) -> None:
    slot = vm.add_memory(0, GuestMemory(HUGE), readonly=True)
    assert (slot.flags, slot.readonly, slot.log_dirty) == (KVM_MEM_READONLY, True, False)
    assert repr(slot) == "<kvmipa.Memslot 0: 0x0..0x1fffff readonly>"


@needs_fork
def test_memory_for_a_vm_survives_a_fork(vm: Vm) -> None:
    memory = GuestMemory(HUGE)
    vm.add_memory(0x4000_0000, memory)
    assert_belongs_to_this_process(lambda: vm.memslots[0].move(0))
    vm.memslots[0].move(0)


def test_public_names_are_these() -> None:
    assert kvmipa.GuestMemory is GuestMemory
    assert kvmipa.Memslot.__module__ == "kvmipa.memslot"


def test_memory_stays_while_a_vcpu_keeps_the_vm_alive(kvm: Kvm) -> None:
    memory = GuestMemory(1 << 20)
    vm = kvm.create_vm_raw(32)
    vm.add_memory(0, memory)
    with vm.create_vcpu(0):
        vm.close()
        with pytest.raises(errors.MemoryInUseError):
            memory.close()
    memory.close()
