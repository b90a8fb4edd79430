# SPDX-License-Identifier: Apache-2.0
"""Memory slots as the kernel has them, real or emulated: kernel-ipa-spec 4 and kernel-device-spec 4.9.

Through the public methods: every refusal is an error of its cause with the kernel's errno, and changes nothing.
"""

from __future__ import annotations

import ctypes
import errno
import os
import random
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest

from kvmipa import GuestMemory, errors
from kvmipa.abi import (
    KVM_CAP_GUEST_MEMFD,
    KVM_CAP_NR_MEMSLOTS,
    KVM_CAP_USER_MEMORY2,
    KVM_CLEAR_DIRTY_LOG,
    KVM_GET_DIRTY_LOG,
    KVM_MEM_GUEST_MEMFD,
    KVM_MEM_LOG_DIRTY_PAGES,
    KVM_MEM_READONLY,
    KVM_SET_USER_MEMORY_REGION,
    KVM_SET_USER_MEMORY_REGION2,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from kvmipa import Kvm, Vm

LOG, READONLY, MEMFD = KVM_MEM_LOG_DIRTY_PAGES, KVM_MEM_READONLY, KVM_MEM_GUEST_MEMFD
AT = 0x4000_0000
MAX_PAGES = (1 << 31) - 1
NO_GUEST_MEMFD = "this kernel has no guest_memfd (arm64 has it since 7.3; those tests run on emulated hosts of 7.3)"


class Space(NamedTuple):
    """A VM, its page size and the end of its IPA space; memory to set slots of."""

    vm: Vm
    page: int
    end: int
    hva: int

    def set(self, slot: int, gpa: int, size: int, hva: int | None = None, flags: int = 0) -> None:
        self.vm.set_user_memory_region(slot, gpa, size, self.hva if hva is None else hva, flags)

    def slots(self) -> list[tuple[int, int, int, int]]:
        """What kvmipa believes: number, address, size, flags."""
        return [(s.slot_id, s.guest_phys_addr, s.memory_size, s.flags) for s in self.vm.memslots.values()]


@pytest.fixture(scope="module")
def memory() -> Iterator[GuestMemory]:
    with GuestMemory(4 << 20) as mapped:
        yield mapped


@pytest.fixture
def space(kvm: Kvm, limit: int, ignores_size: bool, memory: GuestMemory) -> Iterator[Space]:
    """A VM of 36 bits, or of the limit where that is all there is."""
    bits = limit if ignores_size else min(limit, 36)
    with kvm.create_vm(bits) as vm:
        assert kvm.page_size is not None
        yield Space(vm, kvm.page_size, 1 << bits, memory.address)


def refusal(space: Space, *arguments: Any, **more: Any) -> type[BaseException]:
    """The class of the error, after a look at that nothing has changed."""
    before = space.slots()
    with pytest.raises(errors.MemorySlotError) as caught:
        space.set(*arguments, **more)
    assert space.slots() == before
    error = caught.value
    assert error.ioctl == "KVM_SET_USER_MEMORY_REGION"
    assert error.asked
    assert error.available
    assert error.fix
    assert (type(error), error.errno) in ERRNOS
    return type(error)


ERRNOS = {
    (errors.SlotBeyondIpaSpaceError, errno.EFAULT),
    (errors.SlotOverlapError, errno.EEXIST),
    (errors.MisalignedSlotError, errno.EINVAL),
    (errors.SlotIdError, errno.EINVAL),
    (errors.SlotFlagsError, errno.EINVAL),
    (errors.SlotAddressError, errno.EINVAL),
    (errors.SlotSizeError, errno.EINVAL),
    (errors.SlotResizeError, errno.EINVAL),
    (errors.NoSuchSlotError, errno.EINVAL),
    (errors.SlotMappingError, errno.EINVAL),
}


# --- the IPA space ---


def test_slot_may_end_where_the_ipa_space_ends(space: Space) -> None:
    space.set(0, space.end - space.page, space.page)
    space.set(1, space.end - 4 * space.page, 2 * space.page)
    assert space.slots()[-1] == (0, space.end - space.page, space.page, 0)


@pytest.mark.parametrize(("pages_below", "pages"), [(0, 1), (1, 2), (-1, 1), (3, 4), (8, 9), (-1000, 1)])
def test_slot_beyond_the_ipa_space_is_efault(space: Space, pages_below: int, pages: int) -> None:
    gpa = space.end - pages_below * space.page
    assert refusal(space, 0, gpa, pages * space.page) is errors.SlotBeyondIpaSpaceError


def test_error_says_how_far_beyond_and_which_size_would_do(kvm: Kvm, limit: int, ignores_size: bool) -> None:
    page = kvm.page_size or 0
    if ignores_size:
        pytest.skip("pKVM gives every VM the host's limit: there is no size beyond which another would do")
    if limit < 36:
        pytest.skip("the host's limit is less than the sizes of this test, 32 and 34 bits")
    with kvm.create_vm(32) as vm, pytest.raises(errors.SlotBeyondIpaSpaceError) as caught:
        vm.set_user_memory_region(0, (1 << 33) - 2 * page, 3 * page, 0x10000)
    assert f"ends {(1 << 32) + page:#x} bytes beyond the VM's IPA space of 2^32 bytes" in caught.value.cause
    assert "create the VM with 34 IPA bits" in caught.value.fix
    with kvm.create_vm(34) as vm:
        vm.set_user_memory_region(0, (1 << 33) - 2 * page, 3 * page, 0x10000)


def test_error_says_where_no_size_would_do(kvm: Kvm, limit: int) -> None:
    page = kvm.page_size or 0
    with kvm.create_vm(limit) as vm, pytest.raises(errors.SlotBeyondIpaSpaceError) as caught:
        vm.set_user_memory_region(0, 1 << limit, page, 0x10000)
    assert f"{limit + 1} bits, which this host does not have" in caught.value.fix


def test_whole_ipa_space_can_be_one_slot(kvm: Kvm, limit: int, ignores_size: bool) -> None:
    page = kvm.page_size or 0
    bits = limit if ignores_size else 32
    with kvm.create_vm(bits) as vm:
        if (1 << bits) // page > MAX_PAGES:
            with pytest.raises(errors.SlotSizeError):
                vm.set_user_memory_region(0, 0, 1 << bits, 0)
        else:
            vm.set_user_memory_region(0, 0, 1 << bits, 0)


# --- EINVAL ---


@pytest.mark.parametrize("offset", [1, 8, 0x800, -1])
def test_everything_is_in_whole_pages_of_the_host(space: Space, offset: int) -> None:
    page = space.page
    for gpa, size, hva in (
        (AT + offset, page, space.hva),
        (AT, page + offset, space.hva),
        (AT, page, space.hva + offset),
    ):
        assert refusal(space, 0, gpa, size, hva) is errors.MisalignedSlotError


def test_4k_is_not_enough_where_pages_are_larger(space: Space) -> None:
    if space.page == 4096:
        space.set(0, AT + 4096, 4096)
    else:
        assert refusal(space, 0, AT + 4096, space.page) is errors.MisalignedSlotError
        assert refusal(space, 0, AT, 4096) is errors.MisalignedSlotError


def test_slot_numbers_are_as_many_as_the_capability_says(space: Space) -> None:
    limit = space.vm.check_extension(KVM_CAP_NR_MEMSLOTS)
    space.set(limit - 1, AT, space.page)
    for number in (limit, limit + 1, 0x8000, 0xFFFF, 0x1_0000, 0x1_0001, 0xFFFF_FFFF):
        assert refusal(space, number, 2 * AT, space.page) is errors.SlotIdError
        assert refusal(space, number, 0, 0) is errors.SlotIdError


@pytest.mark.parametrize("flags", [8, 16, 1 << 31, LOG | 8, 0xFFFF_FFFF])
def test_unknown_flags_are_refused_also_of_a_deletion(space: Space, flags: int) -> None:
    space.set(0, AT, space.page)
    assert refusal(space, 1, 2 * AT, space.page, flags=flags) is errors.SlotFlagsError
    assert refusal(space, 0, AT, 0, flags=flags) is errors.SlotFlagsError


@pytest.mark.parametrize("flags", [0, LOG, READONLY, LOG | READONLY])
def test_flags_that_all_kernels_have(space: Space, flags: int) -> None:
    space.set(0, AT, space.page, flags=flags)
    assert space.slots() == [(0, AT, space.page, flags)]
    space.set(0, AT, 0, flags=flags)


def test_guest_memfd_needs_the_second_request(space: Space) -> None:
    before = space.slots()
    with pytest.raises(errors.MemorySlotError) as caught:
        space.set(0, AT, space.page, flags=MEMFD)
    assert caught.value.errno == errno.EINVAL
    assert space.slots() == before


@pytest.mark.parametrize("tag", [1 << 56, 0xFF << 56, 0xFF80 << 48, 1 << 63])
def test_tagged_user_address_is_refused(space: Space, tag: int) -> None:
    assert refusal(space, 0, AT, space.page, space.hva | tag) is errors.SlotAddressError


@pytest.mark.parametrize("hva", [1 << 52, 1 << 55, (1 << 52) - 0x10000])
def test_user_address_beyond_user_space_is_refused(space: Space, hva: int) -> None:
    assert refusal(space, 0, AT, 0x20000, hva) is errors.SlotAddressError


def test_user_memory_need_not_be_mapped(space: Space) -> None:
    space.set(0, AT, space.page, 0)
    space.set(1, 2 * AT, space.page, 0x10000)
    space.set(2, 0, space.page, (1 << 48) - 2 * 65536)


@pytest.mark.parametrize("pages", [1, 2, 100])
def test_slot_may_not_wrap_or_end_at_2_64(space: Space, pages: int) -> None:
    assert refusal(space, 0, (1 << 64) - pages * space.page, pages * space.page) is errors.SlotSizeError
    assert refusal(space, 0, (1 << 64) - space.page, (pages + 1) * space.page) is errors.SlotSizeError


def test_slot_has_less_than_2_31_pages(space: Space) -> None:
    size = (MAX_PAGES + 1) * space.page
    assert refusal(space, 0, 0, size, 0) is errors.SlotSizeError
    if MAX_PAGES * space.page > space.end:
        assert refusal(space, 0, 0, size - space.page, 0) is errors.SlotBeyondIpaSpaceError
    else:
        space.set(0, 0, size - space.page, 0)


def test_deleting_what_is_not_there_is_refused(space: Space) -> None:
    assert refusal(space, 0, 0, 0) is errors.NoSuchSlotError
    space.set(0, AT, space.page)
    space.set(0, 0, 0)
    assert refusal(space, 0, 0, 0) is errors.NoSuchSlotError


def test_deletion_looks_at_alignment_and_user_address_but_at_no_ipa_limit(space: Space) -> None:
    for gpa, hva, expected in (
        (1, space.hva, errors.MisalignedSlotError),
        (0, space.hva + 1, errors.MisalignedSlotError),
        (0, 1 << 55, errors.SlotAddressError),
        (0, space.hva | 1 << 56, errors.SlotAddressError),
    ):
        space.set(0, AT, space.page)
        assert refusal(space, 0, gpa, 0, hva) is expected
        space.set(0, 0, 0, 0)
    for gpa in (space.end, 1 << 63, (1 << 64) - space.page):
        space.set(0, AT, space.page)
        space.set(0, gpa, 0)
        assert space.slots() == []


# --- changes ---


def test_the_same_again_is_accepted(space: Space) -> None:
    for flags in (0, LOG):
        space.set(0, AT, 4 * space.page, flags=flags)
        space.set(0, AT, 4 * space.page, flags=flags)
    assert space.slots() == [(0, AT, 4 * space.page, LOG)]


def test_size_user_address_and_readonly_stay(space: Space) -> None:
    page = space.page
    space.set(0, AT, 4 * page)
    for arguments in (
        (AT, 8 * page),
        (AT, 2 * page),
        (AT, 4 * page, space.hva + page),
        (AT, 4 * page, space.hva, READONLY),
        (2 * AT, 8 * page),
        (1 << 62, 8 * page),
        (AT, 4 * page, 0),
    ):
        assert refusal(space, 0, *arguments) is errors.SlotResizeError


def test_moving_and_switching_logging_go_together(space: Space) -> None:
    page = space.page
    space.set(0, AT, 4 * page)
    space.set(0, 2 * AT, 4 * page, flags=LOG)
    assert space.slots() == [(0, 2 * AT, 4 * page, LOG)]
    space.set(0, space.end - 4 * page, 4 * page)
    assert refusal(space, 0, space.end - 3 * page, 4 * page) is errors.SlotBeyondIpaSpaceError
    assert refusal(space, 0, space.end, 4 * page) is errors.SlotBeyondIpaSpaceError
    space.set(1, AT, 4 * page)
    assert refusal(space, 2, space.end - page, page) is errors.SlotOverlapError


def test_overlap_is_eexist_and_touching_is_not(space: Space) -> None:
    page = space.page
    space.set(0, AT, 4 * page)
    for first, pages in ((-1, 2), (-1, 6), (0, 4), (1, 2), (3, 1), (3, 2), (-4, 5), (0, 1)):
        assert refusal(space, 1, AT + first * page, pages * page) is errors.SlotOverlapError
    space.set(1, AT - page, page)
    space.set(2, AT + 4 * page, page)
    assert refusal(space, 0, AT + page, 4 * page) is errors.SlotOverlapError
    space.set(2, 0, 0)
    space.set(0, AT + page, 4 * page)
    assert refusal(space, 1, AT + page, page) is errors.SlotOverlapError


def test_overlap_names_the_other_slot(space: Space) -> None:
    space.set(7, AT, 4 * space.page)
    with pytest.raises(FileExistsError, match=rf"slot 7 \({AT:#x} to {AT + 4 * space.page - 1:#x}\)"):
        space.set(1, AT, space.page)


def test_random_slots_overlap_exactly_where_they_do(space: Space) -> None:
    choose = random.Random(1)
    page = space.page
    known: dict[int, tuple[int, int]] = {}
    for _ in range(400):
        number, first, pages = choose.randrange(12), choose.randrange(40), choose.randrange(1, 6)
        if number in known and choose.random() < 0.3:
            space.set(number, 0, 0)
            del known[number]
            continue
        pages = known[number][1] if number in known else pages
        others = [span for other, span in known.items() if other != number]
        free = all(first + pages <= start or start + length <= first for start, length in others)
        if free:
            space.set(number, AT + first * page, pages * page)
            known[number] = (first, pages)
        else:
            assert refusal(space, number, AT + first * page, pages * page) is errors.SlotOverlapError
    assert {s[0]: ((s[1] - AT) // page, s[2] // page) for s in space.slots()} == known


def test_einval_beats_eexist_beats_efault(space: Space) -> None:
    page = space.page
    space.set(0, space.end - page, page)
    assert refusal(space, 1, space.end - page, 2 * page) is errors.SlotOverlapError
    assert refusal(space, 1, space.end - page, 2 * page, flags=8) is errors.SlotFlagsError
    assert refusal(space, 1, space.end, page, 1 << 55) is errors.SlotAddressError
    assert refusal(space, 0, space.end, 2 * page) is errors.SlotResizeError


def test_readonly_memory_of_the_process_is_memory(space: Space, tmp_path: Path) -> None:
    path = tmp_path / "rom"
    path.write_bytes(bytes(1 << 20))
    with GuestMemory(1 << 20, file=path, readonly=True, alignment=1 << 20) as rom:
        space.set(0, AT, 1 << 20, rom.address)
        space.set(0, AT, 1 << 20, rom.address, LOG)
        space.set(0, 0, 0, 0)


def flags_of(name: str) -> list[str]:
    """VmFlags of a mapping of this process."""
    lines = iter(Path("/proc/self/smaps").read_text().splitlines())
    next(line for line in lines if line.endswith(name))
    return next(line.split()[1:] for line in lines if line.startswith("VmFlags:"))


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="only Linux lists the mappings of a process")
def test_what_is_mapped_by_frame_number_cannot_be_logged(space: Space) -> None:
    found = [line for line in Path("/proc/self/maps").read_text().splitlines() if line.endswith("[vvar]")]
    if not found:
        pytest.skip("no memory that is mapped by frame number: the kernel gives this process no [vvar]")
    start, end = (int(number, 16) for number in found[0].split()[0].split("-"))
    profile = space.vm._backend.profile
    by_frame_number = not profile.behaviour.data_page_is_mixed if profile else "pf" in flags_of("[vvar]")
    start, end = -(-start // space.page) * space.page, end // space.page * space.page
    if start >= end:
        pytest.skip("no such memory is as large as a page of the emulated host: the [vvar] of this process is not")
    space.set(0, AT, end - start, start)
    space.set(0, 0, 0)
    if not by_frame_number:
        space.set(0, AT, end - start, start, LOG)
        return
    assert refusal(space, 0, AT, end - start, start, LOG) is errors.SlotMappingError
    assert refusal(space, 0, AT, 4 * space.page + end - start, start - 4 * space.page, LOG) is errors.SlotMappingError


# --- what does not fit the struct ---


@pytest.mark.parametrize(
    ("arguments", "error", "name"),
    [
        ((-1, 0, 0, 0), OverflowError, "slot"),
        ((1 << 32, 0, 0, 0), OverflowError, "slot"),
        ((0, 1 << 64, 0, 0), OverflowError, "guest_phys_addr"),
        ((0, -1, 0, 0), OverflowError, "guest_phys_addr"),
        ((0, 0, 1 << 64, 0), OverflowError, "memory_size"),
        ((0, 0, 0, 1 << 64), OverflowError, "userspace_addr"),
        ((0, 0, 0, 0, 1 << 32), OverflowError, "flags"),
        ((None, 0, 0, 0), TypeError, "slot"),
        ((0, 0.0, 0, 0), TypeError, "guest_phys_addr"),
        ((0, 0, "4096", 0), TypeError, "memory_size"),
        ((0, 0, 0, b"0"), TypeError, "userspace_addr"),
    ],
)
def test_what_does_not_fit_the_struct_is_refused_before(
    space: Space, arguments: tuple[Any, ...], error: type[Exception], name: str
) -> None:
    with pytest.raises(error, match=f"^{name}"):
        space.vm.set_user_memory_region(*arguments)
    with pytest.raises(error, match=f"^{name}"):
        space.vm.set_user_memory_region2(*arguments)


def test_closed_vm_says_so(space: Space) -> None:
    slot = space.vm.add_memory(AT, GuestMemory(2 << 20), log_dirty=True)
    space.vm.close()
    with pytest.raises(errors.ClosedError, match="Vm is closed"):
        space.set(0, 0, 0)
    with pytest.raises(errors.ClosedError, match="Vm is closed"):
        space.vm.create_guest_memfd(space.page)
    for use in (slot.dirty_log, slot.clear_dirty_log, lambda: slot.move(2 * AT), lambda: slot.set_logging(False)):
        with pytest.raises(errors.ClosedError, match="Vm is closed"):
            use()
    assert space.vm.memslots == {}


def test_slot_of_a_closed_vm_stays_as_long_as_a_vcpu_keeps_the_vm(space: Space) -> None:
    memory = GuestMemory(2 << 20)
    slot = space.vm.add_memory(AT, memory, log_dirty=True)
    with space.vm.create_vcpu(0):
        space.vm.close()
        assert not slot.deleted
        assert space.vm.memslots == {0: slot}
        assert memory.in_use
        for use in (slot.delete, slot.dirty_log, lambda: slot.move(2 * AT), lambda: slot.set_logging(False)):
            with pytest.raises(errors.ClosedError, match="Vm is closed"):
                use()
        assert (slot.guest_phys_addr, slot.log_dirty, slot.deleted) == (AT, True, False)
    assert slot.deleted
    assert space.vm.memslots == {}
    slot.delete()
    memory.close()


def test_nothing_is_sent_to_whoever_has_the_number_of_a_closed_vm(kvm: Kvm, monkeypatch: pytest.MonkeyPatch) -> None:
    """As another thread would, at once when the number is free."""
    memory = GuestMemory(2 << 20)
    backend = kvm._backend
    close = backend.close
    others: list[Vm] = []

    def reuse(fd: int) -> None:
        monkeypatch.setattr(backend, "close", close)
        close(fd)
        other = kvm.create_vm(vm.ipa_bits)
        others.append(other)
        assert other.fileno() == fd
        other.add_memory(AT, memory, log_dirty=True)
        for use in (lambda: slot.move(2 * AT), slot.delete, slot.dirty_log, lambda: vm.add_memory(2 * AT, memory)):
            with pytest.raises(errors.ClosedError, match="Vm is closed"):
                use()

    vm = kvm.create_vm(kvm.host_ipa_limit)
    slot = vm.add_memory(AT, memory, log_dirty=True)
    monkeypatch.setattr(backend, "close", reuse)
    vm.close()
    assert slot.deleted
    with others[0] as other:
        # Its slot is where it was.
        with pytest.raises(errors.SlotOverlapError):
            other.add_memory(AT, memory)
        other.add_memory(2 * AT, memory)


# --- the second request ---


def test_second_request_is_known_where_the_capability_says_so(space: Space) -> None:
    vm = space.vm
    if not vm.check_extension(KVM_CAP_USER_MEMORY2):
        with pytest.raises(errors.NotSupportedError, match="KVM_SET_USER_MEMORY_REGION2") as caught:
            vm.set_user_memory_region2(0, AT, space.page, space.hva)
        assert caught.value.errno == errno.EINVAL
        return
    vm.set_user_memory_region2(0, AT, space.page, space.hva, LOG, guest_memfd=12345, guest_memfd_offset=1)
    vm.set_user_memory_region(0, AT, space.page, space.hva)
    assert space.slots() == [(0, AT, space.page, 0)]
    with pytest.raises(errors.SlotBeyondIpaSpaceError) as beyond:
        vm.set_user_memory_region2(1, space.end, space.page, space.hva)
    assert beyond.value.ioctl == "KVM_SET_USER_MEMORY_REGION2"
    vm.set_user_memory_region2(0, 0, 0, 0)
    assert space.slots() == []


def test_guest_memfd_is_known_where_the_capability_says_so(space: Space) -> None:
    vm, page = space.vm, space.page
    if not vm.check_extension(KVM_CAP_GUEST_MEMFD):
        with pytest.raises(errors.NotSupportedError, match="KVM_CREATE_GUEST_MEMFD") as missing:
            vm.create_guest_memfd(16 * page, flags=3)
        assert missing.value.errno == errno.EINVAL
        return
    with vm.create_guest_memfd(16 * page, flags=3) as memfd:
        fd = memfd.fileno()

        def bind(slot: int, gpa: int, pages: int, offset: int = 0, fd: int = fd, flags: int = MEMFD) -> int:
            """0, or the errno."""
            try:
                vm.set_user_memory_region2(
                    slot, gpa, pages * page, space.hva, flags, guest_memfd=fd, guest_memfd_offset=offset
                )
            except errors.MemorySlotError as error:
                assert error.errno  # noqa: PT017
                return error.errno
            return 0

        assert bind(0, AT, 4) == 0
        assert bind(0, AT, 4) == errno.EINVAL
        assert bind(0, 2 * AT, 4) == errno.EINVAL
        assert bind(1, 2 * AT, 4) == errno.EEXIST
        assert bind(1, 2 * AT, 4, 3 * page) == errno.EEXIST
        assert bind(1, 2 * AT, 4, 4 * page) == 0
        assert bind(2, 3 * AT, 4, 13 * page) == errno.EINVAL
        assert bind(2, 3 * AT, 4, page // 2) == errno.EINVAL
        assert bind(2, 3 * AT, 4, (1 << 64) - page) == errno.EINVAL
        assert bind(2, 3 * AT, 17) == errno.EINVAL
        assert bind(2, 3 * AT, 4, 8 * page, flags=MEMFD | READONLY) == errno.EINVAL
        assert bind(2, 3 * AT, 4, 8 * page, fd=vm.fileno()) == errno.EINVAL
        assert bind(2, 3 * AT, 4, 8 * page, fd=9999) == errno.EBADF
        assert bind(2, 3 * AT, 4, 8 * page, fd=0xFFFF_FFFF) == errno.EBADF
        assert bind(2, space.end, 4, 8 * page) == errno.EFAULT
        assert bind(2, AT, 4, 8 * page) == errno.EEXIST
        vm.set_user_memory_region(0, 0, 0, 0)
        assert bind(2, AT, 4) == 0
        with GuestMemory(16 * page, file=memfd, alignment=page) as mapped:
            mapped.buffer[0] = 1
    assert memfd.closed


def test_slot_outlives_its_guest_memfd_and_goes_as_any_other(space: Space) -> None:
    vm, page = space.vm, space.page
    if not vm.check_extension(KVM_CAP_GUEST_MEMFD):
        pytest.skip(NO_GUEST_MEMFD)

    def bind(slot: int, gpa: int, fd: int) -> None:
        vm.set_user_memory_region2(slot, gpa, page, 0, MEMFD, guest_memfd=fd)

    first = vm.create_guest_memfd(page, flags=3)
    fd = first.fileno()
    bind(0, AT, fd)
    first.close()
    with pytest.raises(errors.GuestMemfdError) as caught:
        bind(1, 2 * AT, fd)
    assert caught.value.errno == errno.EBADF
    with vm.create_guest_memfd(page, flags=3) as second:
        with pytest.raises(errors.SlotOverlapError):
            bind(1, AT, second.fileno())
        with pytest.raises(errors.SlotResizeError):
            bind(0, AT, second.fileno())
        vm.memslots[0].delete()
        bind(0, AT, second.fileno())
    vm.memslots[0].delete()


def test_guest_memfd_keeps_the_vm_and_its_slots(space: Space) -> None:
    if not space.vm.check_extension(KVM_CAP_GUEST_MEMFD):
        pytest.skip(NO_GUEST_MEMFD)
    memory = GuestMemory(2 << 20)
    slot = space.vm.add_memory(AT, memory)
    with space.vm.create_guest_memfd(space.page, flags=3):
        space.vm.close()
        assert not slot.deleted
        with pytest.raises(errors.MemoryInUseError):
            memory.close()
    assert slot.deleted
    memory.close()


@pytest.mark.parametrize(("flags", "expected"), [(0, errno.EINVAL), (1, 0), (2, errno.EINVAL), (3, 0)])
def test_only_guest_memfds_that_can_be_mapped_are_slots(space: Space, flags: int, expected: int) -> None:
    vm, page = space.vm, space.page
    if not vm.check_extension(KVM_CAP_GUEST_MEMFD):
        pytest.skip(NO_GUEST_MEMFD)
    with vm.create_guest_memfd(page, flags) as memfd:
        if not expected:
            vm.set_user_memory_region2(0, AT, page, 0, MEMFD, guest_memfd=memfd.fileno())
            return
        with pytest.raises(errors.GuestMemfdError) as caught:
            vm.set_user_memory_region2(0, AT, page, 0, MEMFD, guest_memfd=memfd.fileno())
        assert caught.value.errno == expected


def test_sizes_and_flags_of_guest_memfds(space: Space) -> None:
    vm, page = space.vm, space.page
    if not vm.check_extension(KVM_CAP_GUEST_MEMFD):
        pytest.skip(NO_GUEST_MEMFD)
    for size, flags in ((0, 3), (1, 3), (page - 1, 0), (1 << 63, 3), ((1 << 64) - page, 3), (page, 4), (page, 1 << 63)):
        with pytest.raises(errors.GuestMemfdError) as caught:
            vm.create_guest_memfd(size, flags)
        assert (size, flags, caught.value.errno) == (size, flags, errno.EINVAL)
    for size in (page, 1 << 40, (1 << 63) - page):
        vm.create_guest_memfd(size, 3).close()


# --- dirty logs ---


def get_log(space: Space, slot: int, address: int) -> int:
    """KVM_GET_DIRTY_LOG: the result or -errno."""
    argument = bytearray(slot.to_bytes(8, "little") + address.to_bytes(8, "little"))
    return space.vm._backend.ioctl_buffer(space.vm.fileno(), KVM_GET_DIRTY_LOG, argument)


def clear_log(space: Space, slot: int, first: int, pages: int, address: int) -> int:
    """KVM_CLEAR_DIRTY_LOG: the result or -errno."""
    argument = bytearray()
    for value, size in ((slot, 4), (pages, 4), (first, 8), (address, 8)):
        argument += value.to_bytes(size, "little")
    return space.vm._backend.ioctl_buffer(space.vm.fileno(), KVM_CLEAR_DIRTY_LOG, argument)


class Words:
    """Words of a bitmap at an address."""

    def __init__(self, count: int, fill: int = 0xA5) -> None:
        self._bytes = (ctypes.c_ubyte * (8 * count))(*[fill] * (8 * count))
        self.address = ctypes.addressof(self._bytes)

    def __bytes__(self) -> bytes:
        return bytes(self._bytes)


def test_log_is_whole_words_and_no_more(space: Space) -> None:
    space.set(0, AT, 100 * space.page, flags=LOG)
    words = Words(3)
    assert get_log(space, 0, words.address) == 0
    assert bytes(words) == bytes(16) + b"\xa5" * 8


def test_order_of_the_errors_of_a_dirty_log(space: Space) -> None:
    limit = space.vm.check_extension(KVM_CAP_NR_MEMSLOTS)
    space.set(0, AT, 100 * space.page, flags=LOG)
    space.set(1, 2 * AT, 100 * space.page)
    for slot in (limit, 0x1_0000, 0xFFFF_FFFF):
        assert get_log(space, slot, 8) == -errno.EINVAL
        assert clear_log(space, slot, 1, 64, 8) == -errno.EINVAL
    for slot in (1, 2, limit - 1):
        assert get_log(space, slot, 8) == -errno.ENOENT
        assert clear_log(space, slot, 0, 1000, 8) == -errno.ENOENT
        assert clear_log(space, slot, 1, 64, 8) == -errno.EINVAL
    for address in (0, 8, 1 << 47, 1 << 63, (1 << 64) - 8):
        assert get_log(space, 0, address) == -errno.EFAULT
        assert clear_log(space, 0, 0, 64, address) == -errno.EFAULT
        assert clear_log(space, 0, 0, 0, address) == 0
    for first, pages in ((0, 63), (0, 101), (64, 64), (128, 0), (1 << 63, 64), (64, 35), (0, 0xFFFF_FFFF), (1, 64)):
        assert (first, pages, clear_log(space, 0, first, pages, 8)) == (first, pages, -errno.EINVAL)
    ones = Words(2, 0xFF)
    for first, pages in ((0, 64), (0, 100), (64, 36), (64, 0), (0, 0)):
        assert (first, pages, clear_log(space, 0, first, pages, ones.address)) == (first, pages, 0)


def test_wrong_ranges_are_an_error_of_their_own(space: Space) -> None:
    slot = space.vm.add_memory(AT, GuestMemory(8 << 20), log_dirty=True)
    pages = slot.memory_size // space.page
    for first, count in ((1, 64), (0, 63), (0, pages + 64), (pages + 64, 0)):
        with pytest.raises(errors.DirtyLogRangeError) as caught:
            slot.clear_dirty_log(first, count)
        assert caught.value.errno == errno.EINVAL
    slot.clear_dirty_log(64, pages - 64)
    slot.clear_dirty_log(bitmap=bytes(pages // 8))
    with pytest.raises(ValueError, match="bytes"):
        slot.clear_dirty_log(bitmap=b"")
    with pytest.raises(OverflowError):
        slot.clear_dirty_log(-64)


def test_log_of_readonly_memory_is_empty(space: Space) -> None:
    slot = space.vm.add_memory(AT, GuestMemory(2 << 20), log_dirty=True, readonly=True)
    assert slot.dirty_log() == []
    assert slot.dirty_bitmap() == bytes(-(-slot.memory_size // space.page // 64) * 8)


# --- bad pointers, garbage, freed memory, threads ---


@pytest.mark.parametrize(
    "request_", [KVM_SET_USER_MEMORY_REGION, KVM_SET_USER_MEMORY_REGION2, KVM_GET_DIRTY_LOG, KVM_CLEAR_DIRTY_LOG]
)
@pytest.mark.parametrize("address", [0, 8, 1 << 47, 1 << 55, 1 << 63, (1 << 64) - 8])
def test_bad_pointer_is_efault(space: Space, request_: int, address: int) -> None:
    known = request_ != KVM_SET_USER_MEMORY_REGION2 or space.vm.check_extension(KVM_CAP_USER_MEMORY2)
    result = space.vm._backend.ioctl(space.vm.fileno(), request_, address)
    assert result == (-errno.EFAULT if known else -errno.EINVAL)


def test_garbage_does_no_harm(space: Space) -> None:
    choose = random.Random(2)
    for _ in range(300):
        for request, size in ((KVM_SET_USER_MEMORY_REGION, 32), (KVM_SET_USER_MEMORY_REGION2, 160)):
            garbage = bytearray(choose.randbytes(size))
            assert space.vm._backend.ioctl_buffer(space.vm.fileno(), request, garbage) == -errno.EINVAL
    space.set(0, AT, space.page)


def test_slot_of_memory_that_was_freed_does_no_harm(space: Space) -> None:
    memory = GuestMemory(2 << 20)
    address = memory.address
    space.set(0, AT, 2 << 20, address)
    memory.close()
    space.set(0, 2 * AT, 2 << 20, address, LOG)
    space.set(1, AT, 2 << 20, address)
    words = Words((2 << 20) // space.page // 64)
    assert get_log(space, 0, words.address) == 0
    space.set(0, 0, 0, address)


def test_threads_leave_kernel_and_table_in_agreement(space: Space) -> None:
    page = space.page
    spots = 24

    def work(seed: int) -> None:
        choose = random.Random(seed)
        for _ in range(100):
            number, spot = choose.randrange(16), choose.randrange(spots)
            try:
                if choose.random() < 0.3:
                    space.set(number, 0, 0)
                else:
                    space.set(number, AT + spot * page, 2 * page, flags=choose.choice((0, LOG)))
            except errors.MemorySlotError as error:
                assert error.errno in (errno.EEXIST, errno.EINVAL)  # noqa: PT017

    with ThreadPoolExecutor(8) as pool:
        for done in [pool.submit(work, seed) for seed in range(8)]:
            done.result()
    slots = space.slots()
    ends = [gpa + size for _, gpa, size, _ in slots]
    assert all(end <= following[1] for end, following in zip(ends, slots[1:], strict=False))
    # The kernel agrees: what the table has is there, and what it does not have is free.
    taken = {(gpa - AT) // page + offset for _, gpa, _, _ in slots for offset in (0, 1)}
    for spot in range(spots + 1):
        if spot in taken:
            assert refusal(space, 20, AT + spot * page, page) is errors.SlotOverlapError
        else:
            space.set(20, AT + spot * page, page)
            space.set(20, 0, 0)
    for number, gpa, size, flags in slots:
        space.set(number, gpa, size, flags=flags)
        space.set(number, 0, 0)
    assert space.slots() == []


def test_as_many_slots_as_there_are(space: Space) -> None:
    count = min(space.vm.check_extension(KVM_CAP_NR_MEMSLOTS), 2000)
    for number in range(count):
        space.set(number, (count - number) * 2 * space.page, space.page)
    assert len(space.vm.memslots) == count
    assert refusal(space, 0, 2 * space.page, space.page) is errors.SlotOverlapError
    for number in range(count):
        space.set(number, 0, 0)


def test_descriptors_are_not_used_up(space: Space) -> None:
    before = os.dup(0)
    os.close(before)
    for _ in range(5):
        space.vm.add_memory(AT, GuestMemory(2 << 20)).delete()
    after = os.dup(0)
    os.close(after)
    assert after == before
