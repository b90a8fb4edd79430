# SPDX-License-Identifier: Apache-2.0
"""Memory slots of the emulated kernel on hosts and releases of one's choice: kernel-ipa-spec 4."""

from __future__ import annotations

import errno
import mmap
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import kvmipa
from kvmipa import HostProfile, errors
from kvmipa.abi import (
    KVM_CAP_NR_MEMSLOTS,
    KVM_MEM_GUEST_MEMFD,
    KVM_MEM_LOG_DIRTY_PAGES,
    KVM_MEM_READONLY,
    KVM_SET_USER_MEMORY_REGION,
    KVM_VM_TYPE_ARM_PROTECTED,
)
from kvmipa.backend.emulated import address_space
from kvmipa.backend.emulated.memslots import Memslots, Region, Slot
from kvmipa.backend.emulated.vm import VirtualMachine
from tests.backend.emulated.asking import RELEASES, SPECIFIED

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    from kvmipa import Vm

LOG, READONLY, MEMFD = KVM_MEM_LOG_DIRTY_PAGES, KVM_MEM_READONLY, KVM_MEM_GUEST_MEMFD
AT = 0x4000_0000
HVA = 0x10_0000

# PARange 48; all page sizes.
MMFR0 = 0x1125


@contextmanager
def vm_of(release: str = "6.12", bits: int | None = 36, machine_type: int | None = None, **fields: Any) -> Iterator[Vm]:
    """A VM on a host of one's choice."""
    host = HostProfile(release, **{"id_aa64mmfr0_el1": MMFR0} | fields)
    with kvmipa.open("emulated", host=host) as kvm:
        if release == "4.19":
            bits = None
        with kvm.create_vm(bits) if machine_type is None else kvm.create_vm_raw(machine_type) as vm:
            yield vm


def machine(vm: Vm) -> VirtualMachine:
    """The emulated kernel's own VM."""
    file = vm._backend._descriptors.get(vm.fileno())  # type: ignore[attr-defined]
    assert isinstance(file.vm, VirtualMachine)
    return file.vm


def code(vm: Vm, *arguments: int) -> int:
    """0, or the errno."""
    try:
        vm.set_user_memory_region(*arguments)
    except errors.MemorySlotError as error:
        assert error.errno  # noqa: PT017
        return error.errno
    return 0


# --- releases ---


@pytest.mark.parametrize(
    ("release", "accepted"),
    [
        ("4.19", False),
        ("4.20", False),
        ("5.4.105", False),
        ("5.4.106", True),
        ("5.4", True),
        ("5.10.23", False),
        ("5.10.24", True),
        ("5.11", False),
        ("5.12", True),
        ("6.1", True),
        ("7.3", True),
    ],
)
def test_slot_ends_at_the_end_of_the_ipa_space_since_march_2021(release: str, accepted: bool) -> None:
    with vm_of(release, 40) as vm:
        assert code(vm, 0, (1 << 40) - 0x2000, 0x1000, HVA) == 0
        assert code(vm, 1, (1 << 40) - 0x1000, 0x1000, HVA) == (0 if accepted else errno.EFAULT)
        assert code(vm, 2, 1 << 40, 0x1000, HVA) == errno.EFAULT


def test_error_of_old_kernels_says_that_their_space_ends_a_page_earlier() -> None:
    with vm_of("5.10.0") as vm, pytest.raises(errors.SlotBeyondIpaSpaceError, match="a page earlier"):
        vm.set_user_memory_region(0, (1 << 36) - 0x1000, 0x1000, HVA)


@pytest.mark.parametrize(("release", "count"), [("4.19", 512), ("5.10", 512), ("6.1", 32767), ("7.3", 32767)])
def test_number_of_slots(release: str, count: int) -> None:
    with vm_of(release) as vm:
        assert vm.check_extension(KVM_CAP_NR_MEMSLOTS) == count
        assert code(vm, count - 1, 0, 0x1000, HVA) == 0
        assert code(vm, count, AT, 0x1000, HVA) == errno.EINVAL


@pytest.mark.parametrize("release", RELEASES)
@pytest.mark.parametrize("page_size", [4096, 16384, 65536])
def test_pages_are_the_hosts(release: str, page_size: int) -> None:
    with vm_of(release, page_size=page_size, id_aa64mmfr0_el1=0x0010_0005) as vm:
        assert code(vm, 0, 0, page_size, HVA) == 0
        assert code(vm, 0, 0, 0, 0) == 0
        for gpa, size, hva in (
            (page_size // 2, page_size, HVA),
            (0, page_size // 2, HVA),
            (0, page_size, page_size // 2),
        ):
            assert code(vm, 0, gpa, size, hva) == errno.EINVAL


@pytest.mark.parametrize("va_bits", [39, 48, 52])
@pytest.mark.parametrize("mapped", [True, False])
def test_user_space_ends_where_the_kernel_was_built_to(va_bits: int, mapped: bool) -> None:
    size = 0x4000 if mapped else 0
    with vm_of("6.12", va_bits=va_bits) as vm:
        if not mapped:
            vm.set_user_memory_region(0, 0, 0x1000, 0)
        assert code(vm, 0, 0, size, (1 << va_bits) - size) == 0
        if not mapped:
            vm.set_user_memory_region(0, 0, 0x1000, 0)
        assert code(vm, 0, AT, size, (1 << va_bits) - size + 0x1000) == errno.EINVAL
        assert code(vm, 1, AT, 0x1000, 1 << 55) == errno.EINVAL


@pytest.mark.parametrize("release", SPECIFIED)
def test_pkvm_host_gives_each_vm_its_limit_since_6_2(release: str) -> None:
    with vm_of(release, mode="protected") as vm:
        own_size = release in ("5.10", "6.1")
        assert code(vm, 0, 1 << 36, 0x1000, HVA) == (errno.EFAULT if own_size else 0)
        assert code(vm, 1, 1 << 48, 0x1000, HVA) == errno.EFAULT


# --- protected VMs ---


def test_slots_of_a_protected_vm_have_no_flags() -> None:
    with vm_of("7.3", mode="protected", machine_type=KVM_VM_TYPE_ARM_PROTECTED | 36) as vm:
        for flags in (LOG, READONLY, LOG | READONLY):
            with pytest.raises(errors.ProtectedSlotError) as caught:
                vm.set_user_memory_region(0, AT, 0x1000, HVA, flags)
            assert caught.value.errno == errno.EPERM
            # Before the IPA space is looked at, after the overlap.
            assert code(vm, 0, 1 << 48, 0x1000, HVA, flags) == errno.EPERM
        assert code(vm, 0, AT, 0x1000, HVA) == 0
        assert code(vm, 0, AT, 0x1000, HVA, LOG) == errno.EPERM
        assert code(vm, 1, AT, 0x1000, HVA, LOG) == errno.EEXIST
        assert vm.memslots[0].flags == 0
        assert code(vm, 0, 2 * AT, 0x1000, HVA) == 0
        assert code(vm, 0, 0, 0, 0) == 0


def test_other_vms_of_the_same_host_may_log() -> None:
    with vm_of("7.3", mode="protected") as vm:
        assert code(vm, 0, AT, 0x1000, HVA, LOG | READONLY) == 0


# --- what the process has mapped ---


@pytest.mark.parametrize(("release", "accepted"), [("4.19", False), ("5.5", False), ("5.6", True), ("7.3", True)])
def test_memory_that_the_process_cannot_write_is_a_slot_since_5_6(release: str, accepted: bool, tmp_path: Path) -> None:
    path = tmp_path / "rom"
    path.write_bytes(bytes(1 << 16))
    with kvmipa.GuestMemory(1 << 16, file=path, readonly=True) as rom, vm_of(release) as vm:
        assert code(vm, 0, AT, 1 << 16, rom.address) == (0 if accepted else errno.EPERM)
        assert code(vm, 1, 2 * AT, 1 << 16, rom.address, READONLY) == 0
        assert code(vm, 2, 1 << 40, 1 << 16, rom.address) == errno.EFAULT


def list_mappings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, text: str) -> None:
    """Let the process have these mappings: the form of /proc/self/smaps, of which /proc/self/maps is a part."""
    maps = tmp_path / "maps"
    maps.write_text("".join(line + "\n" for line in text.splitlines() if not line.startswith("VmFlags")))
    smaps = tmp_path / "smaps"
    smaps.write_text(text)
    monkeypatch.setattr(address_space, "_MAPS", maps)
    monkeypatch.setattr(address_space, "_SMAPS", smaps)
    monkeypatch.setattr(address_space, "_may_map_ram", lambda: True)


MAPPINGS = """\
00100000-00200000 rw-p 00000000 00:00 0
VmFlags: rd wr mr mw me ac
00200000-00210000 rw-s 00000000 00:05 123 /dev/device
VmFlags: rd wr sh mr mw me ms io pf
00210000-00220000 rw-s 00000000 00:05 124 /dev/zero (deleted)
VmFlags: rd wr sh mr mw me ms
00300000-00310000 r-xp 00000000 08:01 125 /usr/lib/libc.so.6
VmFlags: rd ex mr mw me
00400000-00402000 r--p 00000000 00:00 0 [vvar]
VmFlags: rd mr de dd mm
00408000-0040a000 rw-s 00000000 00:05 126 /dev/mem
VmFlags: rd wr sh mr mw me ms io pf
00500000-00600000 rw-p 00000000 00:00 0 [heap]
VmFlags: rd wr mr mw me ac
"""


@pytest.fixture
def mapped(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A process with MAPPINGS."""
    list_mappings(monkeypatch, tmp_path, MAPPINGS)


@pytest.mark.parametrize("release", SPECIFIED)
@pytest.mark.parametrize(
    ("start", "end", "accepted"),
    [
        (0x10_0000, 0x20_0000, True),
        (0x10_0000, 0x20_1000, False),
        (0x20_F000, 0x21_0000, False),
        (0x21_0000, 0x22_0000, True),
        (0x22_0000, 0x30_0000, True),
        (0x40_2000, 0x40_8000, True),
        (0x40_2000, 0x40_9000, False),
        (0x40_A000, 0x50_0000, True),
        (0, 0x70_0000, False),
        (0x70_0000, 0x80_0000, True),
    ],
)
def test_what_is_mapped_by_frame_number_is_not_logged(
    mapped: None, release: str, start: int, end: int, accepted: bool
) -> None:
    with vm_of(release, dic=True) as vm:
        assert code(vm, 0, AT, end - start, start) == 0
        assert code(vm, 0, AT, end - start, start, LOG) == (0 if accepted else errno.EINVAL)
        assert vm.memslots[0].flags == (LOG if accepted else 0)
        assert code(vm, 1, 2 * AT, end - start, start, LOG | READONLY) == (0 if accepted else errno.EINVAL)
        assert code(vm, 2, 1 << 36, end - start, start, LOG) == errno.EFAULT


@pytest.mark.parametrize(("fwb", "dic", "accepted"), [(True, True, True), (True, False, False), (False, True, False)])
@pytest.mark.parametrize("release", SPECIFIED)
def test_cached_memory_mapped_by_frame_number_needs_fwb_and_dic_since_7_3(
    mapped: None, release: str, fwb: bool, dic: bool, accepted: bool
) -> None:
    with vm_of(release, fwb=fwb, dic=dic) as vm:
        assert code(vm, 0, AT, 0x2000, 0x40_7000) == (0 if accepted or release != "7.3" else errno.EINVAL)
        assert code(vm, 1, 2 * AT, 0x1000, 0x20_0000) == 0


@pytest.mark.parametrize("release", SPECIFIED)
def test_kernels_own_data_page_is_mapped_by_frame_number_before_7_3(mapped: None, release: str) -> None:
    with vm_of(release) as vm:
        for start, touches in ((0x3F_F000, True), (0x40_1000, True), (0x40_2000, False), (0x3F_E000, False)):
            refused = touches and release != "7.3"
            assert code(vm, 0, AT, 0x2000, start, LOG) == (errno.EINVAL if refused else 0)
            code(vm, 0, 0, 0, 0)


@pytest.mark.parametrize(
    ("start", "in_6_1", "in_6_12"),
    [
        (0x10_0000, 0, 0),
        (0x21_0000, errno.EINVAL, 0),
        (0x30_0000, 0, errno.EINVAL),
        (0x50_0000, 0, errno.EINVAL),
        (0x70_0000, 0, 0),
    ],
)
def test_memory_of_a_vm_with_tags_can_have_tags(mapped: None, start: int, in_6_1: int, in_6_12: int) -> None:
    for release, expected in (("6.1", in_6_1), ("6.12", in_6_12), ("7.3", in_6_12)):
        with vm_of(release) as vm:
            machine(vm).mte = True
            assert (release, code(vm, 0, AT, 0x1000, start)) == (release, expected)


def test_system_that_lists_no_mappings_has_none_to_refuse(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(address_space, "_MAPS", tmp_path / "none")
    monkeypatch.setattr(address_space, "_SMAPS", tmp_path / "none")
    with vm_of("7.3") as vm:
        assert code(vm, 0, AT, 0x10000, HVA, LOG) == 0


# --- size is no matter ---


@pytest.mark.parametrize("page_size", [4096, 16384, 65536])
def test_largest_slot_costs_nothing(page_size: int) -> None:
    import time
    import tracemalloc

    size = ((1 << 31) - 1) * page_size
    with vm_of(bits=52, page_size=page_size, id_aa64mmfr0_el1=0x32310201126) as vm:
        bits = vm.geometry.ipa_bits
        tracemalloc.start()
        start = time.perf_counter()
        size = min(size, 1 << bits)
        # Where the process has nothing: its own data page could not be logged.
        vm.set_user_memory_region(0, 0, size, 1 << 48, LOG)
        vm.set_user_memory_region(0, 0, size, 1 << 48, 0)
        vm.set_user_memory_region(0, 0, 0, 0, LOG)
        seconds = time.perf_counter() - start
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    assert seconds < 1
    assert peak < 1 << 20


# --- the table ---


def slot(number: int, first: int, pages: int) -> Slot:
    return Slot(Region(number, 0, first << 12, pages << 12, first << 12), 12)


@given(
    st.lists(st.tuples(st.integers(0, 60), st.integers(1, 6)), max_size=25),
    st.lists(st.tuples(st.sampled_from(["remove", "move"]), st.integers(0, 24), st.integers(0, 60)), max_size=10),
)
def test_table_finds_what_a_search_through_all_slots_finds(
    wanted: list[tuple[int, int]], changes: list[tuple[str, int, int]]
) -> None:
    slots = Memslots(512)
    for number, (first, pages) in enumerate(wanted):
        overlap = any(first < s.base_gfn + s.npages and s.base_gfn < first + pages for s in slots)
        assert slots.overlaps(first, pages, None) == overlap
        if not overlap:
            slots.add(slot(number, first, pages))
    for what, number, first in changes:
        known = slots.get(number)
        if known is None:
            continue
        others = [s for s in slots if s is not known]
        overlap = any(first < s.base_gfn + s.npages and s.base_gfn < first + known.npages for s in others)
        assert slots.overlaps(first, known.npages, known) == overlap
        if what == "remove":
            slots.remove(known)
        elif not overlap:
            slots.move(known, first << 12, first)
    for gfn in range(70):
        expected = next((s for s in slots if s.base_gfn <= gfn < s.base_gfn + s.npages), None)
        assert slots.find(gfn) is expected
    bases = [s.base_gfn for s in slots]
    assert bases == sorted(bases)
    assert len(slots) == len(bases)


# --- who listens ---


class Listener:
    """Writes down what it is told."""

    def __init__(self) -> None:
        self.heard: list[tuple[Any, ...]] = []

    def slot_gone(self, gone: Slot) -> None:
        self.heard.append(("gone", gone.slot_id, gone.guest_phys_addr))

    def logging_started(self, logged: Slot) -> None:
        self.heard.append(("logging", logged.slot_id, logged.guest_phys_addr))

    def dirty_pages_taken(self, taken: Slot, pages: Iterable[int]) -> None:
        self.heard.append(("taken", taken.slot_id, list(pages)))


def test_listener_is_told_before_a_slot_goes_also_where_the_move_is_refused() -> None:
    with vm_of() as vm:
        listener = machine(vm).memslots.listener = Listener()
        vm.set_user_memory_region(0, AT, 0x1000, HVA)
        vm.set_user_memory_region(0, 2 * AT, 0x1000, HVA)
        assert code(vm, 0, 1 << 36, 0x1000, HVA) == errno.EFAULT
        assert code(vm, 0, 1, 0x1000, HVA) == errno.EINVAL
        vm.set_user_memory_region(0, 2 * AT, 0x1000, HVA, LOG)
        vm.set_user_memory_region(0, 2 * AT, 0x1000, HVA, LOG)
        vm.set_user_memory_region(0, 2 * AT, 0x1000, HVA)
        vm.set_user_memory_region(1, AT, 0x1000, HVA, LOG)
        assert code(vm, 0, AT, 0x1000, HVA) == errno.EEXIST
        vm.set_user_memory_region(0, 0, 0, 0)
        assert listener.heard == [
            ("gone", 0, AT),
            ("gone", 0, 2 * AT),
            ("logging", 0, 2 * AT),
            ("logging", 1, AT),
            ("gone", 0, 2 * AT),
        ]


def test_struct_that_is_too_short_is_not_read_beyond_its_end() -> None:
    with vm_of() as vm, pytest.raises(ValueError, match="32 bytes"):
        vm._backend.ioctl_buffer(vm.fileno(), KVM_SET_USER_MEMORY_REGION, bytearray(31))


def test_struct_at_an_address_is_read_there() -> None:
    with vm_of() as vm, mmap.mmap(-1, 4096) as page:
        import ctypes

        page[:32] = bytes(8) + AT.to_bytes(8, "little") + (0x1000).to_bytes(8, "little") + HVA.to_bytes(8, "little")
        address = ctypes.addressof(ctypes.c_char.from_buffer(page))
        assert vm._backend.ioctl(vm.fileno(), KVM_SET_USER_MEMORY_REGION, address) == 0
        assert machine(vm).memslots.find(AT >> 12) is not None
        assert vm._backend.ioctl(vm.fileno(), KVM_SET_USER_MEMORY_REGION, address + 4096 - 16) in (
            -errno.EFAULT,
            -errno.EINVAL,
        )
