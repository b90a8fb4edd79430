# SPDX-License-Identifier: Apache-2.0
"""The emulated stage-2 MMU: what faults find behind slots, threads that use one VM, and what a page costs."""

from __future__ import annotations

import ctypes
import errno
import mmap
import sys
import threading
import tracemalloc
from contextlib import contextmanager
from random import Random
from struct import Struct
from typing import TYPE_CHECKING, Any

import pytest

import kvmipa
from kvmipa import abi
from kvmipa.abi import KVM_CAP_ARM_EAGER_SPLIT_CHUNK_SIZE, KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2, KVM_MEM_LOG_DIRTY_PAGES
from kvmipa.access import Aborted, Mapped, MmioExit, Retried, RunFailed
from kvmipa.backend.emulated import address_space
from kvmipa.backend.emulated.address_space import Mapping
from kvmipa.buffers import address_of
from kvmipa.stage2 import Stage2
from kvmipa.stage2.walk import Translation

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from kvmipa import Vm
    from kvmipa.backend.emulated.vm import VirtualMachine

PAGE = 4096
BLOCK = 2 << 20
GIGANTIC = 1 << 30
SLOT = 0x4000_0000
WRITABLE, EXECUTE_NEVER, ACCESSED, BORROWED = 1 << 7, 1 << 54, 1 << 10, 2 << 55
RELEASES = ("5.10", "6.1", "6.12", "7.3")

DIRTY_LOG = Struct(abi.STRUCTS["dirty_log"][0])
CLEAR_DIRTY_LOG = Struct(abi.STRUCTS["clear_dirty_log"][0])


class Area:
    """Anonymous memory of this process, from a block's first byte on."""

    def __init__(self, size: int, *, shared: bool = False) -> None:
        flags = (mmap.MAP_SHARED if shared else mmap.MAP_PRIVATE) | mmap.MAP_ANONYMOUS
        self.map = mmap.mmap(-1, size + BLOCK, flags=flags)
        start = ctypes.addressof(ctypes.c_char.from_buffer(self.map))
        self.first = -start % BLOCK
        self.address = start + self.first
        self.size = size


@contextmanager
def new_vm(release: str = "6.12", ipa_bits: int = 40, **fields: Any) -> Iterator[Vm]:
    with (
        kvmipa.open("emulated", host=kvmipa.HostProfile(release, **fields)) as kvm,
        kvm.create_vm(ipa_bits) as vm,
    ):
        yield vm


def machine(vm: Vm) -> VirtualMachine:
    return vm._backend._vm(vm.fileno())  # type: ignore[attr-defined, no-any-return]


def stage2(vm: Vm) -> Stage2:
    found = vm.stage2
    assert isinstance(found, Stage2)
    return found


def mapped(vm: Vm, ipa: int, kind: str = "load") -> Mapped:
    found = vm.access(ipa, kind)
    assert isinstance(found, Mapped)
    return found


def levels(vm: Vm) -> list[tuple[int, int]]:
    return [(ipa, leaf.level) for ipa, leaf in stage2(vm).mappings()]


def clear_dirty_log(vm: Vm, slot: int, pages: list[int], npages: int) -> None:
    bitmap = bytearray(sum(1 << page for page in pages).to_bytes(-(-npages // 64) * 8, "little"))
    argument = bytearray(CLEAR_DIRTY_LOG.pack(slot, npages, 0, address_of(bitmap)))
    assert vm._backend.ioctl_buffer(vm.fileno(), abi.KVM_CLEAR_DIRTY_LOG, argument) == 0


def get_dirty_log(vm: Vm, slot: int, npages: int) -> int:
    bitmap = bytearray(-(-npages // 64) * 8)
    argument = bytearray(DIRTY_LOG.pack(slot, 0, address_of(bitmap)))
    return vm._backend.ioctl_buffer(vm.fileno(), abi.KVM_GET_DIRTY_LOG, argument)


# ---------------------------------------------------------------------------------------------- behind slots


@pytest.fixture
def behind(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Say what the process has behind its slots, whatever it is."""

    def use(permissions: str = "rw-p", *, path: str = "", flags: tuple[str, ...] = (), page_size: int = PAGE) -> None:
        def backing(start: int, end: int, _block_size: int) -> tuple[Mapping, ...]:
            return (Mapping(start, end, permissions, 0, path, frozenset(flags), page_size),)

        monkeypatch.setattr(address_space, "backing", backing)

    return use


@pytest.mark.parametrize("enabled", ["always", "madvise", "never"])
@pytest.mark.parametrize("advice", [None, "MADV_HUGEPAGE", "MADV_NOHUGEPAGE"])
def test_huge_pages_are_as_the_host_and_madvise_have_them(enabled: str, advice: str | None) -> None:
    area = Area(BLOCK)
    if advice:
        try:
            area.map.madvise(getattr(mmap, advice))
        except (AttributeError, OSError) as error:
            pytest.skip(f"no {advice} here: {error}")
    huge = {"always": advice != "MADV_NOHUGEPAGE", "madvise": advice == "MADV_HUGEPAGE", "never": False}
    with new_vm(thp=enabled) as vm:
        vm.set_user_memory_region(0, SLOT, BLOCK, area.address)
        assert mapped(vm, SLOT + 0x5000, "store").level == (2 if huge[enabled] else 3)


def test_a_mapping_that_ends_within_a_block_has_no_huge_page_there() -> None:
    area = Area(2 * BLOCK)
    libc = ctypes.CDLL(None)
    libc.mprotect.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
    assert libc.mprotect(area.address + BLOCK + BLOCK // 2, PAGE, mmap.PROT_READ) == 0
    with new_vm() as vm:
        vm.set_user_memory_region(0, SLOT, 2 * BLOCK, area.address)
        assert [mapped(vm, SLOT + block, "store").level for block in (0, BLOCK)] == [2, 3]


def test_shared_memory_is_writable_at_once_and_in_pages() -> None:
    area = Area(BLOCK, shared=True)
    with new_vm() as vm:
        vm.set_user_memory_region(0, SLOT, BLOCK, area.address)
        found = mapped(vm, SLOT, "load")
        assert found.level == 3
        assert found.descriptor & WRITABLE


@pytest.mark.parametrize("release", RELEASES)
def test_pages_of_1g_are_blocks_of_level_1(release: str, behind: Callable[..., None]) -> None:
    behind(path="/anon_hugepage (deleted)", flags=("ht",), page_size=GIGANTIC)
    with new_vm(release) as vm:
        vm.set_user_memory_region(0, SLOT, GIGANTIC, GIGANTIC)
        assert mapped(vm, SLOT + 0x1234_5000, "store").level == 1
        assert mapped(vm, SLOT + 0x2345_6000, "fetch").level == 1


def test_pkvm_of_7_3_has_no_blocks_of_level_1_and_marks_leaves_as_borrowed(behind: Callable[..., None]) -> None:
    behind(path="/anon_hugepage (deleted)", flags=("ht",), page_size=GIGANTIC)
    for release, level, mark in (("6.12", 1, 0), ("7.3", 2, BORROWED)):
        with kvmipa.open("emulated", host=kvmipa.HostProfile(release, mode="protected")) as kvm:
            with kvm.create_vm() as vm:
                vm.set_user_memory_region(0, SLOT, GIGANTIC, GIGANTIC)
                found = mapped(vm, SLOT, "store")
            assert (found.level, found.descriptor & BORROWED) == (level, mark)


@pytest.mark.parametrize("release", RELEASES)
def test_a_page_of_1g_without_level_1_never_becomes_executable_since_6_1(
    release: str, behind: Callable[..., None]
) -> None:
    # Seen in the lab (ci.lab.stage2_sampler): blocks of 2M that differ in permissions only are left as they are.
    behind(path="/anon_hugepage (deleted)", flags=("ht",), page_size=GIGANTIC)
    with new_vm(release, 34) as vm:
        vm.set_user_memory_region(0, SLOT, GIGANTIC, GIGANTIC)
        assert mapped(vm, SLOT, "store").level == 2
        found = vm.access(SLOT, "fetch")
        assert isinstance(found, Mapped if release == "5.10" else Retried)


def test_a_device_is_never_executable_and_not_cached(behind: Callable[..., None]) -> None:
    behind("rw-s", path="/dev/mem", flags=("pf",))
    with new_vm() as vm:
        vm.set_user_memory_region(0, SLOT, PAGE, 0x10000)
        assert vm.access(SLOT, "fetch") == Aborted(0x8600_0010, SLOT)
        found = mapped(vm, SLOT)
        assert found.descriptor & EXECUTE_NEVER
        assert found.descriptor >> 2 & 0xF == 1
        assert found.descriptor & WRITABLE


def test_memory_that_is_mapped_after_a_fault_is_found_by_the_next() -> None:
    area = Area(BLOCK)
    libc = ctypes.CDLL(None)
    libc.mprotect.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
    with new_vm() as vm:
        vm.set_user_memory_region(0, SLOT, PAGE, area.address)
        assert libc.mprotect(area.address, PAGE, 0) == 0
        assert vm.access(SLOT) == RunFailed(errno.EFAULT)
        assert libc.mprotect(area.address, PAGE, mmap.PROT_READ) == 0
        mapped(vm, SLOT)
        assert vm.access(SLOT, "store") == RunFailed(errno.EFAULT)
        assert libc.mprotect(area.address, PAGE, mmap.PROT_READ | mmap.PROT_WRITE) == 0
        mapped(vm, SLOT, "store")


def test_memory_that_is_gone_is_unmapped_in_every_slot_that_has_it() -> None:
    area = Area(BLOCK)
    with new_vm(thp="never") as vm:
        for number, gpa in enumerate((SLOT, 2 * SLOT)):
            vm.set_user_memory_region(number, gpa, BLOCK, area.address)
            for page in range(3):
                mapped(vm, gpa + page * PAGE, "store")
        area.map.madvise(mmap.MADV_DONTNEED)
        machine(vm).mmu.memory_gone(area.address + PAGE + 1, 10)
        assert levels(vm) == [(gpa + page * PAGE, 3) for gpa in (SLOT, 2 * SLOT) for page in (0, 2)]
        # What the guest had written is gone with it: a page of zeros.
        assert not mapped(vm, SLOT + PAGE).descriptor & WRITABLE


def test_a_block_that_was_written_and_is_gone_is_a_page_of_zeros() -> None:
    area = Area(2 * BLOCK)
    with new_vm() as vm:
        vm.set_user_memory_region(0, SLOT, 2 * BLOCK, area.address)
        mapped(vm, SLOT, "store")
        mapped(vm, SLOT + BLOCK, "store")
        machine(vm).mmu.memory_gone(area.address, BLOCK)
        assert levels(vm) == [(SLOT + BLOCK, 2)]
        assert not mapped(vm, SLOT).descriptor & WRITABLE


def test_what_a_guest_wrote_is_writable_when_it_is_mapped_anew() -> None:
    area = Area(2 * BLOCK)
    with new_vm() as vm:
        vm.set_user_memory_region(0, SLOT, 2 * BLOCK, area.address)
        mapped(vm, SLOT, "store")
        vm.set_user_memory_region(0, SLOT, 2 * BLOCK, area.address, KVM_MEM_LOG_DIRTY_PAGES)
        mapped(vm, SLOT, "store")
        vm.set_user_memory_region(0, SLOT, 2 * BLOCK, area.address)
        found = mapped(vm, SLOT + 0x8000)
        assert (found.level, bool(found.descriptor & WRITABLE)) == (2, True)
        assert not mapped(vm, SLOT + BLOCK).descriptor & WRITABLE


def test_a_guest_memfd_is_mapped_by_pages_without_a_user_address() -> None:
    with new_vm("7.3") as vm, vm.create_guest_memfd(2 * BLOCK, flags=3) as memfd:
        vm.set_user_memory_region2(
            0, SLOT, BLOCK, 0, abi.KVM_MEM_GUEST_MEMFD, guest_memfd=memfd.fileno(), guest_memfd_offset=BLOCK
        )
        found = mapped(vm, SLOT + PAGE)
        assert (found.level, bool(found.descriptor & WRITABLE)) == (3, True)


def test_an_old_leaf_is_young_again_after_an_access() -> None:
    area = Area(BLOCK)
    with new_vm(thp="never") as vm:
        vm.set_user_memory_region(0, SLOT, BLOCK, area.address)
        mapped(vm, SLOT, "store")
        tables = machine(vm).mmu.tables
        tables.test_young(SLOT, PAGE, clear=True)
        found = mapped(vm, SLOT, "store")
        assert found.faulted
        assert found.descriptor & ACCESSED
        tables.test_young(SLOT, PAGE, clear=True)
        found = mapped(vm, SLOT, "fetch")
        assert found.descriptor & ACCESSED
        assert not found.descriptor & EXECUTE_NEVER
        assert not mapped(vm, SLOT, "fetch").faulted


# ---------------------------------------------------------------------------------------------- dirty logs


def test_eager_splitting_leaves_write_protected_pages() -> None:
    area = Area(2 * BLOCK)
    with new_vm() as vm:
        vm.enable_cap(KVM_CAP_ARM_EAGER_SPLIT_CHUNK_SIZE, BLOCK)
        vm.set_user_memory_region(0, SLOT, 2 * BLOCK, area.address)
        mapped(vm, SLOT, "store")
        vm.set_user_memory_region(0, SLOT, 2 * BLOCK, area.address, KVM_MEM_LOG_DIRTY_PAGES)
        leaves = list(stage2(vm).mappings())
        assert [ipa for ipa, _ in leaves] == list(range(SLOT, SLOT + BLOCK, PAGE))
        assert not any(leaf.writable for _, leaf in leaves)


@pytest.mark.parametrize("chunk", [0, BLOCK])
def test_where_all_is_dirty_at_first_protection_comes_with_clear_dirty_log(chunk: int) -> None:
    area = Area(2 * BLOCK)
    npages = 2 * BLOCK // PAGE
    with new_vm() as vm:
        if chunk:
            vm.enable_cap(KVM_CAP_ARM_EAGER_SPLIT_CHUNK_SIZE, chunk)
        vm.enable_cap(KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2, 3)
        vm.set_user_memory_region(0, SLOT, 2 * BLOCK, area.address)
        mapped(vm, SLOT, "store")
        mapped(vm, SLOT + BLOCK, "store")
        vm.set_user_memory_region(0, SLOT, 2 * BLOCK, area.address, KVM_MEM_LOG_DIRTY_PAGES)
        assert [(leaf.level, leaf.writable) for _, leaf in stage2(vm).mappings()] == [(2, True)] * 2
        clear_dirty_log(vm, 0, [3, 5], npages)
        protected = [ipa for ipa, leaf in stage2(vm).mappings() if not leaf.writable]
        # The whole block is write-protected before it is split.
        assert protected == ([SLOT] if not chunk else list(range(SLOT, SLOT + BLOCK, PAGE)))
        assert levels(vm)[-1] == (SLOT + BLOCK, 2)


def test_pages_between_two_that_are_cleared_are_protected_with_them() -> None:
    # kvm_arch_mmu_enable_log_dirty_pt_masked: from the first to the last bit that was set in a word.
    area = Area(BLOCK)
    with new_vm(thp="never") as vm:
        vm.enable_cap(KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2, 3)
        vm.set_user_memory_region(0, SLOT, BLOCK, area.address, KVM_MEM_LOG_DIRTY_PAGES)
        for page in range(70):
            mapped(vm, SLOT + page * PAGE, "store")
        clear_dirty_log(vm, 0, [2, 5, 66, 68], BLOCK // PAGE)
        protected = [(ipa - SLOT) // PAGE for ipa, leaf in stage2(vm).mappings() if not leaf.writable]
        assert protected == [2, 3, 4, 5, 66, 67, 68]


@pytest.mark.parametrize(("chunk", "split"), [(BLOCK, [SLOT]), (GIGANTIC, range(SLOT, SLOT + GIGANTIC, BLOCK))])
def test_a_block_of_1g_is_split_as_far_as_the_chunk_size_goes(
    chunk: int, split: list[int], behind: Callable[..., None]
) -> None:
    behind(path="/anon_hugepage (deleted)", flags=("ht",), page_size=GIGANTIC)
    with new_vm() as vm:
        vm.enable_cap(KVM_CAP_ARM_EAGER_SPLIT_CHUNK_SIZE, chunk)
        vm.enable_cap(KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2, 3)
        vm.set_user_memory_region(0, SLOT, GIGANTIC, GIGANTIC)
        mapped(vm, SLOT, "store")
        vm.set_user_memory_region(0, SLOT, GIGANTIC, GIGANTIC, KVM_MEM_LOG_DIRTY_PAGES)
        clear_dirty_log(vm, 0, [1], GIGANTIC // PAGE)
        pages = {ipa & -BLOCK for ipa, level in levels(vm) if level == 3}
        assert pages == set(split)


# ---------------------------------------------------------------------------------------------- threads

SLOTS = 6
SLOT_SIZE = 2 * BLOCK
DISTANCE = 0x1000_0000
ROUNDS = 250


def check(vm: Vm) -> None:
    """What has to be true at any moment: held against the tables entry by entry."""
    state = machine(vm)
    with state.lock:
        mmu, tables = state.mmu, state.mmu.tables
        for ipa, leaf in tables.leaves():
            slot = state.memslots.find(ipa >> state.page_shift)
            size = 1 << tables.geometry.shift(leaf.level)
            assert slot is not None, hex(ipa)
            assert ipa + size <= slot.guest_phys_addr + slot.memory_size
            assert leaf.writable <= (not slot.is_logging or leaf.level == 3)
            found = mmu.walk(ipa, "load")
            assert isinstance(found, Translation)
            assert (found.level, found.pa) == (leaf.level, leaf.output_address)
            hva = ipa + slot.userspace_addr - slot.guest_phys_addr
            assert leaf.output_address == mmu.memory.frame(hva)
        nodes = [*tables._roots, *tables._nodes.values()]
        assert all(node.used == sum(map(bool, node.entries)) for node in nodes)
        assert all(node.used for node in tables._nodes.values())
        assert tables.table_pages == mmu.memory.table_pages


class Worker(threading.Thread):
    """A thread whose exception is the test's."""

    def __init__(self, work: Callable[[Random], None], seed: int) -> None:
        super().__init__()
        self._work, self._random = work, Random(seed)
        self.error: BaseException | None = None

    def run(self) -> None:
        try:
            for _ in range(ROUNDS):
                self._work(self._random)
        except BaseException as error:
            self.error = error


def test_threads_that_use_one_vm_leave_it_consistent() -> None:
    area = Area(SLOTS * SLOT_SIZE)

    def gpa(number: int, place: int = 0) -> int:
        return SLOT + number * DISTANCE + place * SLOT_SIZE

    def region(number: int, flags: int = 0, size: int = SLOT_SIZE, place: int = 0) -> None:
        vm.set_user_memory_region(number, gpa(number, place), size, area.address + number * SLOT_SIZE, flags)

    def touch(random: Random) -> None:
        ipa = gpa(random.randrange(SLOTS), random.randrange(2)) + random.randrange(0, SLOT_SIZE, PAGE)
        found = vm.access(ipa, random.choice(("load", "store", "fetch")))
        assert isinstance(found, Mapped | MmioExit | Aborted)
        if isinstance(found, Mapped):
            assert area.address <= found.hva < area.address + area.size
            assert (found.hva - area.address) % SLOT_SIZE == (ipa - SLOT) % SLOT_SIZE

    def delete(number: int) -> Callable[[Random], None]:
        def work(_random: Random) -> None:
            region(number, size=0)
            region(number)

        return work

    def move(random: Random) -> None:
        region(2, place=random.randrange(2))

    def log(random: Random) -> None:
        region(3, KVM_MEM_LOG_DIRTY_PAGES if random.randrange(2) else 0)
        assert get_dirty_log(vm, 3, SLOT_SIZE // PAGE) in (0, -errno.ENOENT)

    def look(random: Random) -> None:
        assert stage2(vm).dump().startswith("---[")
        assert all(leaf.output_address for _, leaf in stage2(vm).mappings())
        with state.lock:
            state.mmu.memory_gone(area.address + 4 * SLOT_SIZE + random.randrange(SLOT_SIZE), BLOCK)
        if not random.randrange(10):
            check(vm)

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        with new_vm() as vm:
            state = machine(vm)
            for number in range(SLOTS):
                region(number)
            works = (touch, touch, touch, delete(0), delete(1), move, log, look)
            workers = [Worker(work, seed) for seed, work in enumerate(works)]
            for worker in workers:
                worker.start()
            for worker in workers:
                worker.join()
            for worker in workers:
                if worker.error is not None:
                    raise worker.error
            check(vm)
    finally:
        sys.setswitchinterval(interval)


# ---------------------------------------------------------------------------------------------- what a page costs


def test_a_mapped_page_takes_no_more_than_100_bytes() -> None:
    pages = 20_000
    area = Area(pages * PAGE + BLOCK)
    with new_vm(thp="never") as vm:
        vm.set_user_memory_region(0, SLOT, pages * PAGE, area.address)
        vm.access(SLOT, "store")
        tracemalloc.start()
        for ipa in range(SLOT, SLOT + pages * PAGE, PAGE):
            vm.access(ipa, "store")
        taken, _ = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert taken / pages <= 100
