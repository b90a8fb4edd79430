# SPDX-License-Identifier: Apache-2.0
"""What comes of a guest's accesses: kernel-ipa-spec 5.2 and 5.3, row by row.

Real kernels were seen to do all of it (spec 5.3 [run]) but: cache maintenance, walks, the 7.3 levels of walks.
"""

from __future__ import annotations

import errno
import mmap
from typing import TYPE_CHECKING, Any

import pytest

import kvmipa
from kvmipa.abi import KVM_CAP_ARM_NISV_TO_USER, KVM_MEM_LOG_DIRTY_PAGES, KVM_MEM_READONLY
from kvmipa.access import Aborted, Mapped, MmioExit, NisvExit, Retried, RunFailed, Skipped
from kvmipa.buffers import address_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from kvmipa import Vm

# Limit 48, PARange 52: between the two there is no IPA space, but the CPU can go there.
NO_LPA2 = 0x10201126
N = 36
SLOT = 0x4000_0000
SLOT_SIZE = 0x40_0000
READONLY = 0x8000_0000
UNMAPPED = 0xC000_0000
RELEASES = ("5.10", "6.1", "6.12", "7.3")


class Memory:
    """Anonymous memory of the test, aligned to 2M."""

    def __init__(self, size: int) -> None:
        # Private: transparent huge pages are for that, and not for the shared memory that is Python's default.
        self._map = mmap.mmap(-1, size + (2 << 20), flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        import ctypes

        start = ctypes.addressof(ctypes.c_char.from_buffer(self._map))
        self.address = -(-start // (2 << 20)) * (2 << 20)


@pytest.fixture(scope="module")
def memory() -> Memory:
    return Memory(2 * SLOT_SIZE)


def open_host(release: str, **fields: Any) -> kvmipa.Kvm:
    return kvmipa.open("emulated", host=kvmipa.HostProfile(release, **{"id_aa64mmfr0_el1": NO_LPA2, **fields}))


@pytest.fixture(params=RELEASES)
def release(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def vm(release: str, memory: Memory) -> Iterator[Vm]:
    with open_host(release) as kvm, kvm.create_vm(N) as made:
        made.set_user_memory_region(0, SLOT, SLOT_SIZE, memory.address)
        made.set_user_memory_region(1, READONLY, 0x10000, memory.address + SLOT_SIZE, KVM_MEM_READONLY)
        made.set_user_memory_region(2, UNMAPPED, 0x10000, 0x10000)
        yield made


def esr(release: str, value: int) -> int:
    """6.1 sign-extends what it injects."""
    return value | 0xFFFF_FFFF_0000_0000 if release == "6.1" else value


def test_an_access_inside_a_slot_is_mapped(vm: Vm, memory: Memory) -> None:
    for kind in ("load", "store", "fetch", "walk", "cache"):
        found = vm.access(SLOT + 0x1238, kind)
        assert isinstance(found, Mapped)
        assert (found.ipa, found.hva) == (SLOT + 0x1238, memory.address + 0x1238)


def test_a_second_access_finds_the_mapping(vm: Vm) -> None:
    first, second = vm.access(SLOT, "store"), vm.access(SLOT, "store")
    assert isinstance(first, Mapped)
    assert first.faulted
    assert second == first._replace(faulted=False)


def test_memory_is_executable_only_after_a_fetch(vm: Vm) -> None:
    store, fetch = vm.access(SLOT, "store"), vm.access(SLOT, "fetch")
    assert isinstance(store, Mapped)
    assert isinstance(fetch, Mapped)
    assert store.descriptor >> 54 & 1
    assert not fetch.descriptor >> 54 & 1
    assert fetch.faulted
    assert not vm.access(SLOT, "store").faulted  # type: ignore[union-attr]


def test_memory_of_the_slot_that_the_process_does_not_have_is_efault(vm: Vm) -> None:
    for kind in ("load", "store", "fetch"):
        assert vm.access(UNMAPPED + 0x100, kind) == RunFailed(errno.EFAULT)


def test_no_slot_is_mmio(vm: Vm) -> None:
    assert vm.access(0x1234, "load", 4) == MmioExit(0x1234, 4, False)
    assert vm.access(0x1234, "store", 1) == MmioExit(0x1234, 1, True)


def test_mmio_takes_its_last_12_bits_from_the_virtual_address(vm: Vm) -> None:
    assert vm.access(0x1000, "load", 4, va=0xFFFF_0000_0000_0ABC) == MmioExit(0x1ABC, 4, False)


def test_no_slot_and_no_syndrome_is_enosys(vm: Vm) -> None:
    assert vm.access(0x1234, "load", valid_syndrome=False) == RunFailed(errno.ENOSYS)
    assert vm.access(READONLY, "store", valid_syndrome=False) == RunFailed(errno.ENOSYS)


def test_no_syndrome_exits_as_nisv_where_that_is_enabled(vm: Vm) -> None:
    vm.enable_cap(KVM_CAP_ARM_NISV_TO_USER)
    level = vm.geometry.start_level
    assert vm.access(0x1234, "load", valid_syndrome=False) == NisvExit(4 | level, 0x1234)
    assert vm.access(0x1234, "store", valid_syndrome=False) == NisvExit(0x40 | 4 | level, 0x1234)
    vm.access(READONLY, "load")
    found = vm.access(READONLY, "store", valid_syndrome=False)
    assert found == NisvExit(0x40 | 0xC | 3, READONLY)


def test_a_store_to_a_readonly_slot_is_mmio_and_a_load_is_mapped(vm: Vm, memory: Memory) -> None:
    assert vm.access(READONLY + 8, "store") == MmioExit(READONLY + 8, 8, True)
    found = vm.access(READONLY + 8, "load")
    assert isinstance(found, Mapped)
    assert found.hva == memory.address + SLOT_SIZE + 8
    assert not found.descriptor >> 7 & 1
    assert vm.access(READONLY + 8, "store") == MmioExit(READONLY + 8, 8, True)


def test_a_fetch_from_no_slot_is_an_external_abort(vm: Vm, release: str) -> None:
    assert vm.access(0x1234, "fetch") == Aborted(esr(release, 0x8600_0010), 0x1234)
    assert vm.access(0x1234, "fetch", from_el=0) == Aborted(esr(release, 0x8200_0010), 0x1234)


def test_a_walk_outside_slots_is_an_external_data_abort(vm: Vm, release: str) -> None:
    fsc = 0x16 if release == "7.3" else 0x10
    assert vm.access(0x1000, "walk", va=0x1234, stage1_level=2) == Aborted(esr(release, 0x9600_0000 | fsc), 0x1234)
    fetch = Aborted(esr(release, 0x8600_0000 | fsc), 0x1234)
    assert vm.access(0x1000, "fetch-walk", va=0x1234, stage1_level=2) == fetch
    unknown = vm.access(0x1000, "walk", stage1_level=None)
    assert unknown == (Retried() if release == "7.3" else Aborted(esr(release, 0x9600_0010), 0x1000))


@pytest.mark.parametrize("kind", ["walk", "fetch-walk"])
def test_a_walk_beyond_the_vms_size_never_ends_on_7_3(vm: Vm, release: str, kind: str) -> None:
    found = vm.access(1 << N, kind, va=0x1234, stage1_level=2)
    value = esr(release, 0x8600_0010 if kind == "fetch-walk" else 0x9600_0010)
    # 5.10 knows no range; the others report the IPA.
    assert found == (Retried() if release == "7.3" else Aborted(value, 0x1234 if release == "5.10" else 1 << N | 0x234))


def test_cache_maintenance_of_no_slot_is_skipped(vm: Vm) -> None:
    assert vm.access(0x1234, "cache") == Skipped()


@pytest.mark.parametrize("kind", ["load", "store", "fetch"])
def test_beyond_the_vms_size_is_mmio_on_5_10_and_an_external_abort_since(vm: Vm, release: str, kind: str) -> None:
    address = (1 << N) + 0x1238
    found = vm.access(address, kind, va=0x8000_1238)
    if release == "5.10":
        fetch = Aborted(0x8600_0010, 0x8000_1238)
        assert found == (fetch if kind == "fetch" else MmioExit(address, 8, kind == "store"))
    else:
        assert found == Aborted(esr(release, 0x8600_0010 if kind == "fetch" else 0x9600_0010), address)


@pytest.mark.parametrize("kind", ["load", "store", "fetch"])
def test_beyond_the_hosts_limit_is_an_address_size_fault_since_6_1(vm: Vm, release: str, kind: str) -> None:
    address = 1 << 48
    found = vm.access(address, kind)
    if release == "5.10":
        fetch = Aborted(0x8600_0010, address)
        assert found == (fetch if kind == "fetch" else MmioExit(address, 8, kind == "store"))
    else:
        assert found == Aborted(esr(release, 0x8600_0000 if kind == "fetch" else 0x9600_0000), address)


def test_beyond_what_the_cpu_has_is_the_cpus_own_fault(vm: Vm) -> None:
    assert vm.access(1 << 52, "load") == Aborted(0x9600_0000, 1 << 52, by_cpu=True)
    assert vm.access(1 << 52, "store") == Aborted(0x9600_0040, 1 << 52, by_cpu=True)
    assert vm.access((1 << 64) - 4, "fetch") == Aborted(0x8600_0000, (1 << 64) - 4, by_cpu=True)


def test_the_top_page_of_the_ipa_space_is_memory(memory: Memory, release: str) -> None:
    with open_host(release) as kvm, kvm.create_vm(40) as vm:
        vm.set_user_memory_region(0, (1 << 40) - 4096, 4096, memory.address)
        assert isinstance(vm.access((1 << 40) - 8, "store"), Mapped)
        assert not isinstance(vm.access(1 << 40, "store"), Mapped)


def test_huge_pages_give_blocks_where_slot_and_memory_have_one_phase(memory: Memory, release: str) -> None:
    with open_host(release) as kvm, kvm.create_vm(40) as vm:
        vm.set_user_memory_region(0, SLOT, SLOT_SIZE, memory.address)
        vm.set_user_memory_region(1, SLOT + SLOT_SIZE + 4096, SLOT_SIZE, memory.address)
        block, page = vm.access(SLOT + 0x1000, "store"), vm.access(SLOT + SLOT_SIZE + 0x201000, "store")
        assert (block.level, page.level) == (2, 3)  # type: ignore[union-attr]


def test_no_huge_pages_no_blocks(memory: Memory) -> None:
    with open_host("6.12", thp="never") as kvm, kvm.create_vm(40) as vm:
        vm.set_user_memory_region(0, SLOT, SLOT_SIZE, memory.address)
        assert vm.access(SLOT, "store").level == 3  # type: ignore[union-attr]


def test_a_read_of_untouched_memory_is_mapped_read_only(release: str) -> None:
    fresh = Memory(SLOT_SIZE)
    with open_host(release, thp="never") as kvm, kvm.create_vm(40) as vm:
        vm.set_user_memory_region(0, SLOT, SLOT_SIZE, fresh.address)
        load, store = vm.access(SLOT, "load"), vm.access(SLOT, "store")
        assert not load.descriptor >> 7 & 1  # type: ignore[union-attr]
        assert store.descriptor >> 7 & 1  # type: ignore[union-attr]
        assert store.faulted  # type: ignore[union-attr]


def test_deleting_a_slot_unmaps_it(vm: Vm) -> None:
    vm.access(SLOT, "store")
    vm.set_user_memory_region(0, 0, 0, 0)
    assert vm.access(SLOT, "store") == MmioExit(SLOT, 8, True)
    assert list(vm.stage2.mappings()) == []


def test_moving_a_slot_unmaps_its_old_place(vm: Vm, memory: Memory) -> None:
    vm.access(SLOT, "store")
    vm.set_user_memory_region(0, SLOT + SLOT_SIZE, SLOT_SIZE, memory.address)
    assert vm.access(SLOT, "store") == MmioExit(SLOT, 8, True)
    assert isinstance(vm.access(SLOT + SLOT_SIZE, "store"), Mapped)


def dirty_words(vm: Vm, slot: int, pages: int) -> bytes:
    bitmap = bytearray((pages + 63) // 64 * 8)
    request = kvmipa.abi.KVM_GET_DIRTY_LOG
    argument = bytearray(slot.to_bytes(4, "little") + bytes(4) + address_of(bitmap).to_bytes(8, "little"))
    assert vm._backend.ioctl_buffer(vm.fileno(), request, argument) == 0
    return bytes(bitmap)


def test_stores_are_logged_page_by_page(vm: Vm, memory: Memory) -> None:
    vm.access(SLOT, "store")
    vm.set_user_memory_region(0, SLOT, SLOT_SIZE, memory.address, KVM_MEM_LOG_DIRTY_PAGES)
    vm.access(SLOT + 0x3000, "load")
    vm.access(SLOT + 0x1000, "store")
    vm.access(SLOT + 0x5000, "store")
    assert int.from_bytes(dirty_words(vm, 0, SLOT_SIZE >> 12), "little") == 1 << 1 | 1 << 5
    assert int.from_bytes(dirty_words(vm, 0, SLOT_SIZE >> 12), "little") == 0
    again = vm.access(SLOT + 0x1000, "store")
    assert isinstance(again, Mapped)
    assert again.faulted
    assert again.level == 3
    assert int.from_bytes(dirty_words(vm, 0, SLOT_SIZE >> 12), "little") == 1 << 1


def test_what_no_guest_does_is_refused(vm: Vm) -> None:
    for arguments in ((-1,), (1 << 64,), (0, "jump"), (0, "load", 3)):
        with pytest.raises(ValueError, match=r"IPA|access|64 bits"):
            vm.access(*arguments)
    with pytest.raises(ValueError, match="EL2"):
        vm.access(0, from_el=2)
    with pytest.raises(ValueError, match="VA"):
        vm.access(0, va=1 << 64)
    with pytest.raises(ValueError, match="levels 0 to 3"):
        vm.access(0, "walk", stage1_level=4)
    with pytest.raises(ValueError, match="two pages"):
        vm.access(SLOT + 0xFFC, "load", 8)
    with pytest.raises(TypeError):
        vm.access("a")  # type: ignore[arg-type]


def test_more_memory_than_the_host_has_is_enomem() -> None:
    # A host of 32 bits: 3 GiB of memory from 1 GiB on.
    memory = Memory(1 << 32)
    with open_host("6.12", id_aa64mmfr0_el1=0x1120, thp="never") as kvm, kvm.create_vm(32) as vm:
        vm.set_user_memory_region(0, 0, 1 << 32, memory.address)
        results = [vm.access(ipa, "store") for ipa in range(0, 1 << 32, 2 << 20)]
        kinds = {type(found) for found in results}
        assert kinds == {Mapped, RunFailed}
        assert {found.errno for found in results if isinstance(found, RunFailed)} == {errno.ENOMEM}
        assert len(list(vm.stage2.mappings())) == sum(isinstance(found, Mapped) for found in results)
