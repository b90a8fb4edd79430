# SPDX-License-Identifier: Apache-2.0
"""Claims about memory slots: KVM_SET_USER_MEMORY_REGION, without a guest that uses the memory."""

from __future__ import annotations

import mmap
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

from kvmipa import abi
from kvmipa.abi import KVM_MEM_LOG_DIRTY_PAGES, KVM_MEM_READONLY
from kvmipa.conformance.claim import IMPLEMENTATION, Claim
from kvmipa.conformance.target import OK
from kvmipa.memory import GuestMemory

if TYPE_CHECKING:
    from collections.abc import Iterator

    from kvmipa.conformance.target import Target
    from kvmipa.vm import Vm

# Where these slots are, with room on both sides; and user addresses, at which nothing needs to be.
_HERE: Final = 0x1000_0000
_ELSEWHERE: Final = 0x2000_0000
_HVA: Final = 0
# Both address spaces of user and kernel are smaller than that.
_TAG: Final = 0x5A << 56
_NO_USER: Final = 1 << 52
_KERNEL: Final = 0xFFFF_0000_0000_0000

_LOG: Final = KVM_MEM_LOG_DIRTY_PAGES
# Flags that KVM_SET_USER_MEMORY_REGION has on no architecture, and the one that only the "2" request takes.
_UNKNOWN_FLAGS: Final = (abi.KVM_MEM_GUEST_MEMFD, 1 << 3, 1 << 31)
_MOST_PAGES: Final = (1 << 31) - 1


class _Slots:
    """A VM whose slots are set and refused. page: the host's page size in bytes."""

    def __init__(self, on: Target, vm: Vm) -> None:
        self._on = on
        self.vm = vm
        self.page = on.facts.profile.page_size

    def ok(self, what: str, slot: int, address: int, size: int, *, hva: int = _HVA, flags: int = 0) -> None:
        """Setting a slot goes well."""
        self.answers(OK, what, slot, address, size, hva=hva, flags=flags)

    def answers(
        self, expected: str, what: str, slot: int, address: int, size: int, *, hva: int = _HVA, flags: int = 0
    ) -> None:
        """Setting a slot comes to OK, or an errno."""
        self._on.expect_answer(what, expected, lambda: self.vm.set_user_memory_region(slot, address, size, hva, flags))

    def refused(self, what: str, slot: int, address: int, size: int, *, hva: int = _HVA, flags: int = 0) -> None:
        """Setting a slot is an error."""
        self._on.expect_error(what, lambda: self.vm.set_user_memory_region(slot, address, size, hva, flags))


@contextmanager
def _slots(on: Target) -> Iterator[_Slots]:
    with on.small_vm() as vm:
        yield _Slots(on, vm)


# ------------------------------------------------------------------------------------------------ numbers and places


def _ids(on: Target) -> None:
    with _slots(on) as it:
        count = it.vm.check_extension(abi.KVM_CAP_NR_MEMSLOTS)
        on.expect("KVM_CAP_NR_MEMSLOTS is more than 32", True, count > 32)
        it.refused(f"slot {count}, of {count}", count, _HERE, it.page)
        it.refused("slot 0 of address space 1, where there is one", 1 << 16, _HERE, it.page)
        it.ok(f"slot {count - 1}, of {count}", count - 1, _HERE, it.page)
        it.ok("slot 0", 0, _ELSEWHERE, it.page)


def _overlaps(on: Target) -> None:
    with _slots(on) as it:
        page = it.page
        it.ok("a slot of four pages", 0, _HERE, 4 * page)
        # A number for each: what is taken by mistake must not be why the next one is refused.
        for slot, start, pages, what in (
            (3, 0, 4, "the same pages"),
            (4, -1, 2, "its first page, and the one before"),
            (5, 3, 2, "its last page, and the one behind"),
            (6, 1, 1, "a page within"),
            (7, -1, 6, "all around it"),
        ):
            it.refused(f"another slot of {what}", slot, _HERE + start * page, pages * page)
        it.ok("a slot that ends where it starts", 1, _HERE - page, page)
        it.ok("a slot that starts where it ends", 2, _HERE + 4 * page, page)
        it.refused("moving that over it", 2, _HERE + page, page)


def _fixed(on: Target) -> None:
    with _slots(on) as it:
        page = it.page
        it.ok("a slot of two pages", 0, _HERE, 2 * page)
        it.refused("making it larger", 0, _HERE, 4 * page)
        it.refused("making it smaller", 0, _HERE, page)
        it.refused("giving it another user address", 0, _HERE, 2 * page, hva=_HVA + page)
        it.refused("making it read-only", 0, _HERE, 2 * page, flags=KVM_MEM_READONLY)
        it.ok("a read-only slot", 1, _ELSEWHERE, page, flags=KVM_MEM_READONLY)
        it.refused("making it writable", 1, _ELSEWHERE, page)


def _moves(on: Target) -> None:
    with _slots(on) as it:
        it.ok("a slot", 0, _HERE, it.page)
        it.ok("moving it", 0, _ELSEWHERE, it.page)
        it.refused("another slot where it is now", 1, _ELSEWHERE, it.page)
        it.ok("another slot where it was", 1, _HERE, it.page)
        it.ok("moving it by a page, and logging from then on", 0, _ELSEWHERE + it.page, it.page, flags=_LOG)


def _flags(on: Target) -> None:
    with _slots(on) as it:
        page = it.page
        for flag in _UNKNOWN_FLAGS:
            it.refused(f"a slot with flags {flag:#x}", 0, _HERE, page, flags=flag)
        it.ok("a slot without flags", 0, _HERE, page)
        _expect_log(on, it.vm, logged=False)
        it.ok("logging its dirty pages", 0, _HERE, page, flags=_LOG)
        _expect_log(on, it.vm, logged=True)
        it.ok("no longer logging them", 0, _HERE, page)
        _expect_log(on, it.vm, logged=False)
        it.ok("a read-only slot", 1, _ELSEWHERE, page, flags=KVM_MEM_READONLY)
        it.ok("a slot that is logged from the start", 2, _HERE + 8 * page, page, flags=_LOG)


def _expect_log(on: Target, vm: Vm, *, logged: bool) -> None:
    slot = vm.memslots.get(0)
    if slot is None:
        return
    what = f"KVM_GET_DIRTY_LOG of a slot that is {'' if logged else 'not '}logged"
    if logged:
        on.expect_answer(what, OK, slot.dirty_bitmap)
    else:
        on.expect_error(what, slot.dirty_bitmap)


def _deletes(on: Target) -> None:
    with _slots(on) as it:
        page = it.page
        it.ok("a slot", 0, _HERE, page)
        it.ok("deleting it", 0, _HERE, 0)
        it.refused("deleting it again", 0, _HERE, 0)
        it.ok("another slot where it was", 1, _HERE - page, 4 * page)
        it.ok("a slot of its number, and another size", 0, _ELSEWHERE, 2 * page, hva=_HVA + page)


# ------------------------------------------------------------------------------------------------ user addresses


def _user_addresses(on: Target) -> None:
    with _slots(on) as it:
        page = it.page
        it.refused("a user address with a tag", 0, _HERE, page, hva=_TAG | 0x1000_0000)
        it.refused("a user address with bit 56 set", 0, _HERE, page, hva=1 << 56 | 0x1000_0000)
        it.refused("a user address beyond every user space", 0, _HERE, page, hva=_NO_USER)
        it.refused("a user address whose last page only is beyond", 0, _HERE, 2 * page, hva=_NO_USER - page)
        it.refused("an address of the kernel's", 0, _HERE, page, hva=_KERNEL)
        it.ok("the same without the tag", 0, _HERE, page, hva=0x1000_0000)


def _user_space_end(on: Target) -> int | None:
    """Where user space ends for slots (kernel-ipa-spec 4.3); None: the kernel does not show its configuration."""
    profile = on.facts.profile
    return None if on.facts.real and profile.va_bits is None else 1 << profile.config_va_bits


def _least_user_space(on: Target) -> int:
    """The same, or at least what this process's addresses say: as many bits as they have."""
    end = _user_space_end(on)
    if end is not None:
        return end
    with GuestMemory(mmap.PAGESIZE) as memory:
        return 1 << memory.address.bit_length()


def _user_space(on: Target) -> None:
    end = _user_space_end(on)
    if end is None:
        on.skip("it depends on the kernel's configuration, which is not to be found")
    with _slots(on) as it:
        page = it.page
        it.answers("EINVAL", f"a page at user address {end:#x}", 0, _HERE, page, hva=end)
        it.answers("EINVAL", f"two pages, the second one at {end:#x}", 0, _HERE, 2 * page, hva=end - page)
        it.ok(f"a page that ends at user address {end:#x}", 0, _HERE, page, hva=end - page)


# ------------------------------------------------------------------------------------------------ errors


def _beyond(on: Target) -> None:
    with _slots(on) as it:
        page, end = it.page, 1 << on.space_bits(it.vm)
        it.answers("EFAULT", "a page at the end of the space", 0, end, page)
        it.answers("EFAULT", "a page far beyond it", 0, end << 3, page)
        it.answers("EFAULT", "two pages, one of them beyond", 0, end - page, 2 * page)
        it.ok("a slot", 0, _HERE, page)
        it.answers("EFAULT", "moving it beyond", 0, end, page)


def _order(on: Target) -> None:
    """kernel-ipa-spec 4.2."""
    with _slots(on) as it:
        page, end = it.page, 1 << on.space_bits(it.vm)
        top = end - 4 * page
        it.ok("a slot near the end of the space", 0, top, 2 * page)
        it.answers("EEXIST", "one that overlaps it and ends beyond the space", 1, top, 8 * page)
        it.answers("EINVAL", "one that is misaligned and overlaps it", 1, top + page // 2, page)
        it.answers("EINVAL", "one with unknown flags that overlaps it", 1, top, page, flags=1 << 3)
        it.answers("EINVAL", "one that is misaligned and beyond the space", 1, end + page // 2, page)
        it.answers("EINVAL", "one of no user address beyond the space", 1, end, page, hva=_KERNEL)
        it.answers("EINVAL", "making it larger than the space", 0, top, 8 * page)
        it.ok("the same slot again", 0, top, 2 * page)


def _alignment(on: Target) -> None:
    with _slots(on) as it:
        page, off = it.page, it.page // 2
        it.answers("EINVAL", "a guest address that is no multiple of a page", 0, _HERE + off, page)
        it.answers("EINVAL", "a size that is none", 0, _HERE, page + off)
        it.answers("EINVAL", "a user address that is none", 0, _HERE, page, hva=_HVA + off)
        it.answers("EINVAL", "less than a page", 0, _HERE, 1)
        it.ok("all of them are", 0, _HERE + page, page, hva=_HVA + page)


def _most_pages(on: Target) -> None:
    with _slots(on) as it:
        space = 1 << on.space_bits(it.vm)
        it.answers("EINVAL", "a slot of 2^31 pages", 0, 0, (_MOST_PAGES + 1) * it.page)
        # Where the IPA space has room for it it is not tried: deleting it takes long with 16K pages. Nor where user
        # space has none (2^39 bytes on many boards), which is EINVAL.
        if space < _MOST_PAGES * it.page <= _least_user_space(on):
            it.answers("EFAULT", "a slot of a page less, larger than the space", 0, 0, _MOST_PAGES * it.page)
        it.answers("EINVAL", "a slot that ends at 2^64", 0, (1 << 64) - it.page, it.page)
        it.answers("EINVAL", "a slot that goes on at 0", 0, (1 << 64) - it.page, 2 * it.page)


def _keeps(on: Target) -> None:
    with _slots(on) as it:
        page, end = it.page, 1 << on.space_bits(it.vm)
        it.ok("a slot", 0, _HERE, page, flags=_LOG)
        it.refused("moving it beyond the space", 0, end, page, flags=_LOG)
        it.refused("another slot where it still is", 1, _HERE, page)
        _expect_log(on, it.vm, logged=True)
        it.refused("making it larger", 0, _HERE, 2 * page, flags=_LOG)
        _expect_log(on, it.vm, logged=True)
        it.ok("the same slot again", 0, _HERE, page, flags=_LOG)


def _deletion_is_checked(on: Target) -> None:
    with _slots(on) as it:
        page, end = it.page, 1 << on.space_bits(it.vm)
        for slot in range(5):
            it.ok(f"slot {slot}", slot, _HERE + slot * page, page)
        it.answers("EINVAL", "deleting one, with unknown flags", 0, _HERE, 0, flags=1 << 3)
        it.answers("EINVAL", "deleting one, with a misaligned guest address", 1, _HERE + page // 2, 0)
        it.answers("EINVAL", "deleting one, with a misaligned user address", 2, _HERE, 0, hva=page // 2)
        it.answers("EINVAL", "deleting one, with an address of the kernel's", 3, _HERE, 0, hva=_KERNEL)
        it.ok("deleting one, with a guest address beyond the space", 4, end, 0)


CLAIMS: Final = (
    Claim(
        id="C11",
        name="memory.flags",
        text="A slot is read-only or its dirty pages are logged where it is set with these flags; logging can be "
        "switched on and off; other flags are refused.",
        source="api.rst 4.35, 4.8; kernel-ipa-spec 4.2 (steps 2, 4), 10 (C11)",
        how="Slots are set and changed with flags, known ones and others, and the dirty log is asked for.",
        since="4.19",
        check=_flags,
    ),
    Claim(
        id="C11i",
        name="memory.slot_ids",
        text="A slot's number is below KVM_CAP_NR_MEMSLOTS; its upper half is the address space, and there is one.",
        source="api.rst 4.35; kernel-ipa-spec 4.1, 4.2 (steps 3, 9), 10 (C11)",
        how="The first and the last slot are set, one more, and one of address space 1.",
        since="4.19",
        check=_ids,
    ),
    Claim(
        id="C11o",
        name="memory.overlap",
        text="A guest physical address belongs to one slot at most; slots may touch.",
        source="api.rst 4.35; kernel-ipa-spec 4.2 (step 17), 10 (C11)",
        how="Beside a slot others are set that overlap it on each side, within and around, and that touch it; one is "
        "moved over it.",
        since="4.19",
        check=_overlaps,
    ),
    Claim(
        id="C11r",
        name="memory.fixed_properties",
        text="A slot that exists cannot be resized, and has its user address and whether it is read-only for good.",
        source="api.rst 4.35; kernel-ipa-spec 4.2 (step 15), 10 (C11)",
        how="A slot is set again with another size, user address and READONLY flag.",
        since="4.19",
        rests_on=("C11",),
        check=_fixed,
    ),
    Claim(
        id="C11m",
        name="memory.move",
        text="A slot can be moved in guest physical address space.",
        source="api.rst 4.35; kernel-ipa-spec 4.2, 10 (C11)",
        how="A slot is moved; its old place is free for another one then, and its new one is not.",
        since="4.19",
        rests_on=("C11", "C11o"),
        check=_moves,
    ),
    Claim(
        id="C11d",
        name="memory.delete",
        text="A slot is deleted by setting it with a size of zero.",
        source="api.rst 4.35; kernel-ipa-spec 4.2 (step 12), 10 (C11)",
        how="A slot is deleted, which cannot be done twice; its place and its number are free then.",
        since="4.19",
        check=_deletes,
    ),
    Claim(
        id="C12",
        name="memory.user_address",
        text="The user address of a slot has no tag, and is in user space for the slot's whole size.",
        source="api.rst 4.35; kernel-ipa-spec 4.3, 10 (C12)",
        how="Slots are set with tagged addresses, with the kernel's, and with ones that go beyond 2^52.",
        since="5.10",
        check=_user_addresses,
    ),
    Claim(
        id="I7",
        name="memory.beyond_space",
        text="Memory beyond the IPA space is refused with EFAULT, new slots and moves alike.",
        source="kvm_arch_prepare_memory_region; kernel-ipa-spec 4.2 (step 20)",
        how="A slot is set at the end of the space, across it and far beyond, and moved there.",
        kind=IMPLEMENTATION,
        since="4.19",
        rests_on=("C4",),
        check=_beyond,
    ),
    Claim(
        id="I8",
        name="memory.error_order",
        text="What is wrong with a slot itself is EINVAL and comes first; overlap is EEXIST and comes next; beyond the "
        "IPA space is EFAULT. Nothing is wrong with what is already so.",
        source="__kvm_set_memory_region; kernel-ipa-spec 4.2",
        how="Slots are set with two things wrong, and a slot again as it is.",
        kind=IMPLEMENTATION,
        since="4.19",
        rests_on=("C11", "C11o", "C11r", "C12", "I7", "I9"),
        check=_order,
    ),
    Claim(
        id="I9",
        name="memory.alignment",
        text="Guest address, user address and size are multiples of the host's page size, or EINVAL.",
        source="__kvm_set_memory_region; kernel-ipa-spec 4.2 (steps 5 to 7)",
        how="Slots are set with half a page too much in each of them.",
        kind=IMPLEMENTATION,
        since="4.19",
        check=_alignment,
    ),
    Claim(
        id="I10",
        name="memory.user_space_end",
        text="User space ends at 2^CONFIG_ARM64_VA_BITS for a slot's memory, whatever the CPU has; there need not be "
        "any memory.",
        source="access_ok; kernel-ipa-spec 4.3",
        how="Slots are set that end there, start there, and go beyond.",
        kind=IMPLEMENTATION,
        since="5.10",
        rests_on=("C12",),
        check=_user_space,
    ),
    Claim(
        id="I11",
        name="memory.largest_slot",
        text="A slot has 2^31 - 1 pages at most, and does not reach 2^64.",
        source="__kvm_set_memory_region; kernel-ipa-spec 4.2 (steps 10, 11)",
        how="Slots with a page more, and at the end of 64 bits, are EINVAL; one of just that many, where only "
        "the IPA space has no room for it, is EFAULT.",
        kind=IMPLEMENTATION,
        since="4.19",
        rests_on=("C2", "I7"),
        check=_most_pages,
    ),
    Claim(
        id="I12",
        name="memory.refused_change",
        text="A change of a slot that is refused leaves it as it was.",
        source="kvm_set_memslot; kernel-ipa-spec 4.5",
        how="A slot is moved beyond the space and resized; it is where it was, and its dirty pages are logged.",
        kind=IMPLEMENTATION,
        since="4.19",
        rests_on=("C11", "C11o", "C11r", "C4", "I7", "I8"),
        check=_keeps,
    ),
    Claim(
        id="I13",
        name="memory.checked_deletion",
        text="When a slot is deleted, flags, alignment and user address are looked at all the same; the guest address "
        "may be beyond the space.",
        source="__kvm_set_memory_region; kernel-ipa-spec 4.5",
        how="Slots are deleted, each with one of them wrong.",
        kind=IMPLEMENTATION,
        since="4.19",
        rests_on=("C11", "C11d", "C12", "I9"),
        check=_deletion_is_checked,
    ),
)
