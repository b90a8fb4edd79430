# SPDX-License-Identifier: Apache-2.0
"""Memory slots, dirty logs and guest_memfd (kernel-ipa-spec 4, kernel-device-spec 4.9)."""

from __future__ import annotations

from itertools import combinations
from typing import TYPE_CHECKING, Final

from ci.lab.trace_list.making import FILL, U64, Host, begin, check, region, region_struct
from kvmipa import abi
from kvmipa.trace import Bytes, Close, Ioctl, Map, Protect, Unmap, Write, struct, u64

if TYPE_CHECKING:
    from ci.lab.trace_list.making import Operations
    from kvmipa.trace.values import Value

LOG: Final = abi.KVM_MEM_LOG_DIRTY_PAGES
READONLY: Final = abi.KVM_MEM_READONLY
MEMFD: Final = abi.KVM_MEM_GUEST_MEMFD


def operations(host: Host) -> Operations:
    """All of them."""
    for bits in host.sizes:
        yield from _boundaries(host, bits)
    yield from _limit(host)
    yield from _slots(host)
    yield from _flags(host)
    yield from _user_addresses(host)
    yield from _alignment(host)
    yield from _page_counts(host)
    yield from _changes(host)
    yield from _overlap(host)
    yield from _deletion(host)
    yield from _two_errors(host)
    yield from _dirty_log(host)
    yield from _clear_dirty_log(host)
    yield from _manual_protection(host)
    yield from _second_request(host)
    yield from _guest_memfd(host)
    yield from _no_memory_behind(host)


def _boundaries(host: Host, bits: int) -> Operations:
    page, top = host.page_size, 1 << bits
    yield from begin(f"memory: the end of {bits} bits", bits)
    yield region(0, 0, page)
    yield region(1, top - page, page)
    yield region(2, top, page)
    yield region(2, top - page, 2 * page)
    yield region(1, 0, 0)
    yield region(2, top - page, 2 * page)
    yield region(2, top - 2 * page, 2 * page)
    yield region(2, top - 2 * page, 3 * page)
    yield region(2, top - page, 2 * page)
    yield region(2, top, 2 * page)
    yield region(2, top + page, 2 * page)
    yield region(2, top // 2, 2 * page)
    yield region(2, top - 2 * page, 2 * page, flags=LOG)
    yield region(2, top, 2 * page)
    yield region(2, top, 2 * page, flags=LOG)
    yield region(2, top - 2 * page, 2 * page)
    for gpa in (top + page, 2 * top - page, 2 * top, 1 << 48, 1 << 51, 1 << 52, 1 << 62, 1 << 63, 2**64 - 2 * page):
        yield region(3, gpa, page)
    yield region(3, 2**64 - page, page)
    yield region(3, 2**64 - page, 2 * page)
    yield region(0, 0, 0)
    yield region(2, 0, 0)
    # Whole: never with 2^31 pages or more.
    yield region(4, 0, top, "null")
    yield region(4, 0, 0)
    yield region(4, 0, top - page, "null")
    yield region(5, top - page, page)
    yield region(4, page, top - page, "null")
    yield region(4, 0, top, "null")
    yield region(6, page, top, "null")


def _limit(host: Host) -> Operations:
    page, top = host.page_size, 1 << host.top_size
    yield from begin("memory: the largest VM", host.top_size)
    yield region(0, top - page, page)
    yield region(1, top, page)
    yield region(1, (1 << 40) - page, 2 * page)
    yield from begin("memory: the default size", 0)
    yield region(0, (1 << 40) - page, page)
    yield region(1, 1 << 40, page)
    yield check(abi.KVM_CAP_ARM_VM_IPA_SIZE)


def _slots(host: Host) -> Operations:
    page = host.page_size
    yield from begin("memory: slot numbers")
    for cap in (abi.KVM_CAP_NR_MEMSLOTS, abi.KVM_CAP_USER_MEMORY, abi.KVM_CAP_MULTI_ADDRESS_SPACE):
        yield check(cap)
    for number in (0, 1, 511, 512, 513, 0x7FFE, 0x7FFF, 0x8000, 0xFFFE, 0xFFFF):
        yield region(number, number * page, page)
    for number in (0x1_0000, 0x1_0001, 0x1_7FFF, 0x2_0000, 0x7FFF_0000, 0x8000_0000, 0xFFFF_FFFF):
        yield region(number, 0x8000_0000, page)
        yield region(number, 0, 0)
    for number in (511, 512, 0x7FFE, 0x7FFF):
        yield region(number, 0, 0)
        yield region(number, 0, 0)


def _flags(host: Host) -> Operations:
    page = host.page_size
    yield from begin("memory: flags")
    for at, flags in enumerate((0, LOG, READONLY, LOG | READONLY, MEMFD, MEMFD | LOG, 8, 16, 1 << 16, 1 << 31, ~0)):
        yield region(at, at * 16 * page, page, flags=flags)
        yield region(at, 0, 0, flags=flags)


def _user_addresses(host: Host) -> Operations:
    page, va = host.page_size, 1 << host.va_bits
    yield from begin("memory: user addresses")
    addresses: tuple[Value, ...] = (
        "null",
        "unmapped",
        "kernel",
        "mem0",
        "mem0+0x10000",
        "mem0-0x10000",
        "mem0+0x100000000000000",
        "mem0+0xff00000000000000",
        "mem0+0x80000000000000",
        va - page,
        va - 2 * page,
        va,
        va + page,
        (1 << 48) - page,
        1 << 48,
        (1 << 52) - page,
        1 << 52,
        1 << 55,
        (1 << 55) - page,
        0x00FF_FFFF_FFFF_0000,
        1 << 56,
        1 << 63,
        U64 & -page,
    )
    for at, hva in enumerate(addresses):
        yield region(at, at * 16 * page, page, hva)
    yield region(60, 0x4000_0000, 4 * page, va - 2 * page)
    yield region(61, 0x4100_0000, 1 << 34, va - (1 << 33))
    yield region(62, 0x4200_0000, 2 * page, va - 2 * page)
    yield region(3, 0, 0, "kernel")
    yield region(3, 0, 0, va)
    yield region(3, 0, 0, va + page)
    yield region(0, 0, 0, 1 << 56)


def _alignment(host: Host) -> Operations:
    page = host.page_size
    yield from begin("memory: alignment")
    for offset in (1, 8, 0x800, 0x1000, page // 2, page - 1, page):
        yield region(0, 0x1000_0000 + offset, page)
        yield region(1, 0x2000_0000, page + offset)
        yield region(2, 0x3000_0000, offset)
        yield region(3, 0x4000_0000, page, f"mem0+{offset:#x}")
        for slot in range(4):
            yield region(slot, 0, 0)


def _page_counts(host: Host) -> Operations:
    page, most = host.page_size, (1 << 31) - 1
    bits = min(host.top_size, 43 if page == 4096 else 42)
    yield from begin("memory: numbers of pages", bits)
    for pages in (most, most + 1, most - 1, 1 << 32, (1 << 32) + 1, (1 << 52) // page * 15):
        yield region(0, 0, pages * page, "null")
        yield region(1, 1 << 62, pages * page, "null")
    yield region(0, 0, 0)
    yield region(2, 0, U64 & -page, "null")
    yield region(2, page, U64 & -page, "null")
    yield region(2, 0, 1 << 63, "null")


def _changes(host: Host) -> Operations:
    page = host.page_size
    at = 0x1_0000_0000
    yield from begin("memory: changes of a slot")
    yield region(0, at, 4 * page)
    yield region(0, at, 4 * page)
    yield region(0, at, 8 * page)
    yield region(0, at, 2 * page)
    yield region(0, at, 4 * page, "mem0+0x10000")
    yield region(0, at, 4 * page, "unmapped")
    yield region(0, at, 4 * page, flags=LOG)
    yield region(0, at, 4 * page, flags=LOG)
    yield region(0, at, 4 * page)
    yield region(0, at, 4 * page, flags=READONLY)
    yield region(0, at, 4 * page, flags=LOG | READONLY)
    yield region(0, 2 * at, 4 * page)
    yield region(0, 2 * at + page, 4 * page)
    yield region(0, 2 * at, 4 * page, flags=LOG)
    yield region(0, at, 8 * page, flags=LOG)
    yield region(0, at, 4 * page, flags=MEMFD)
    yield region(0, (1 << 36) - 4 * page, 4 * page)
    yield region(0, (1 << 36) - 3 * page, 4 * page)
    yield region(0, 1 << 36, 4 * page)
    yield region(0, (1 << 36) - 4 * page, 4 * page)
    yield region(1, at, 4 * page, flags=READONLY)
    yield region(1, at, 4 * page)
    yield region(1, at, 4 * page, flags=READONLY | LOG)
    yield region(1, 2 * at, 4 * page, flags=READONLY)
    yield region(1, 3 * at, 4 * page)
    yield region(1, 3 * at, 8 * page, flags=READONLY)


def _overlap(host: Host) -> Operations:
    page = host.page_size
    at = 0x1_0000_0000
    yield from begin("memory: overlap")
    yield region(0, at, 4 * page)
    for first, pages in ((-1, 1), (-1, 2), (-1, 6), (0, 4), (1, 2), (3, 1), (3, 2), (4, 1), (-4, 4), (-4, 5)):
        yield region(1, at + first * page, pages * page, "mem0+0x10000")
        yield region(1, 0, 0)
    yield region(1, 2 * at, 4 * page)
    yield region(1, at, 4 * page)
    yield region(1, at + 3 * page, 4 * page)
    yield region(1, at + 4 * page, 4 * page)
    yield region(0, at + page, 4 * page)
    yield region(0, at - page, 4 * page)
    yield region(2, at, 1 << 36, "null")
    yield region(2, 0, 1 << 36, "null")
    yield region(2, at, 1 << 41, "null")
    yield region(2, at, page, flags=READONLY)


def _deletion(host: Host) -> Operations:
    page = host.page_size
    yield from begin("memory: deletion")
    yield region(0, 0, 0)
    for gpa, hva, flags in (
        (page // 2, "mem0", 0),
        (0, "mem0+0x800", 0),
        (0, "kernel", 0),
        (0, "mem0+0x100000000000000", 0),
        (0, "mem0", MEMFD),
        (0, "mem0", 8),
        (0, "mem0", LOG),
        (0, "mem0", READONLY),
        (1 << 36, "mem0", 0),
        (1 << 63, "mem0", 0),
        (U64 & -page, "mem0", 0),
        (0, "null", 0),
        (0, "unmapped", 0),
    ):
        yield region(0, 0, page)
        yield region(0, gpa, 0, hva, flags)
        yield region(0, 0, 0)


# One thing wrong with a request each: the fields that it sets.
_WRONG: Final[dict[str, dict[str, int | str]]] = {
    "slot": {"slot": 0x7FFF},
    "space": {"slot": 0x1_0001},
    "flags": {"flags": 8},
    "memfd": {"flags": MEMFD},
    "size": {"memory_size": "odd"},
    "gpa": {"guest_phys_addr": "odd"},
    "hva": {"userspace_addr": "odd"},
    "kernel": {"userspace_addr": "kernel"},
    "wrap": {"guest_phys_addr": "last", "memory_size": "two"},
    "pages": {"memory_size": "many"},
    "none": {"slot": 77, "memory_size": 0},
    "overlap": {"guest_phys_addr": "there"},
    "beyond": {"guest_phys_addr": 1 << 40},
    "longer": {"slot": 0, "memory_size": "three"},
    "read-only": {"slot": 0, "flags": READONLY},
}


def _two_errors(host: Host) -> Operations:
    """Each pair of errors at once: which one is answered is the order of the checks."""
    page, there = host.page_size, 0x1_0000_0000
    numbers: dict[int | str, int | str] = {
        "odd": 0x800,
        "last": U64 & -page,
        "two": 2 * page,
        "three": 3 * page,
        "many": page << 31,
        "there": there,
    }
    yield from begin("memory: two errors at once")
    yield region(0, there, page)
    for first, second in combinations(_WRONG, 2):
        fields: dict[str, int | str] = {"slot": 1, "memory_size": page, "userspace_addr": "mem0"}
        # The one that comes first prevails where both are about one field.
        fields |= _WRONG[second] | _WRONG[first]
        yield Ioctl(
            "vm0",
            "KVM_SET_USER_MEMORY_REGION",
            struct("userspace_memory_region", **{name: numbers.get(value, value) for name, value in fields.items()}),
        )
        if fields["slot"] == 1:
            yield region(1, 0, 0)


def get_log(slot: int, bitmap: Value, on: str = "vm0") -> Ioctl:
    """KVM_GET_DIRTY_LOG."""
    return Ioctl(on, "KVM_GET_DIRTY_LOG", struct("dirty_log", slot=slot, dirty_bitmap=bitmap))


def clear_log(slot: int, first: int, pages: int, bitmap: Value, on: str = "vm0") -> Ioctl:
    """KVM_CLEAR_DIRTY_LOG."""
    fields = struct("clear_dirty_log", slot=slot, num_pages=pages, first_page=first, dirty_bitmap=bitmap)
    return Ioctl(on, "KVM_CLEAR_DIRTY_LOG", fields)


def _dirty_log(host: Host) -> Operations:
    page = host.page_size
    yield from begin("memory: dirty log")
    yield region(0, 0, 100 * page, flags=LOG)
    yield region(1, 0x1_0000_0000, page)
    yield region(2, 0x2_0000_0000, 64 * page, flags=LOG | READONLY)
    for slot in (0, 1, 2, 3, 511, 512, 0x7FFE, 0x7FFF, 0xFFFF, 0x1_0000, 0x1_0001):
        yield get_log(slot, Bytes(b"\xa5" * 24))
    for bitmap in ("null", "unmapped", "kernel"):
        yield get_log(0, bitmap)
        yield get_log(1, bitmap)
    yield region(0, 0, 100 * page)
    yield get_log(0, Bytes(b"\xa5" * 24))
    yield region(0, 0, 100 * page, flags=LOG)
    yield get_log(0, Bytes(b"\xa5" * 24))
    yield region(0, 0x3_0000_0000, 100 * page, flags=LOG)
    yield get_log(0, Bytes(b"\xa5" * 24))
    yield region(0, 0, 0)
    yield get_log(0, Bytes(b"\xa5" * 24))


def _clear_dirty_log(host: Host) -> Operations:
    page = host.page_size
    ones = Bytes(b"\xff" * 24)
    yield from begin("memory: clearing the dirty log")
    yield region(0, 0, 100 * page, flags=LOG)
    yield region(1, 0x1_0000_0000, page)
    for first, pages in (
        (0, 100), (0, 64), (64, 36), (64, 64), (0, 0), (0, 1), (0, 99), (0, 101), (1, 99), (32, 64), (64, 0), (64, 32),
        (64, 37), (128, 0), (128, 64), (100, 0), (99, 1), (1 << 32, 64), (1 << 63, 64), (U64 & -64, 64),
        (0, 0xFFFF_FFFF), (0, 0xFFFF_FFC0),
    ):  # fmt: skip
        yield clear_log(0, first, pages, ones)
    for slot in (1, 2, 0x7FFE, 0x7FFF, 0xFFFF, 0x1_0000):
        yield clear_log(slot, 0, 64, ones)
        yield clear_log(slot, 1, 64, ones)
    for bitmap in ("null", "unmapped", "kernel"):
        yield clear_log(0, 0, 100, bitmap)
        yield clear_log(0, 1, 64, bitmap)
    yield get_log(0, Bytes(b"\xa5" * 24))


def _manual_protection(host: Host) -> Operations:
    page = host.page_size
    for mode in (0, 1, 2, 3, 4, 1 << 32 | 1, U64):
        yield from begin(f"memory: manual dirty log protection {mode:#x}")
        fields = struct("enable_cap", cap=abi.KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2, args=[mode])
        yield Ioctl("vm0", "KVM_ENABLE_CAP", fields)
        yield region(0, 0, 100 * page, flags=LOG)
        yield get_log(0, Bytes(bytes(24)))
        yield get_log(0, Bytes(bytes(24)))
        yield clear_log(0, 0, 64, Bytes(b"\x0f" * 16))
        yield get_log(0, Bytes(bytes(24)))
        yield clear_log(0, 64, 36, Bytes(b"\xff" * 8))
        yield get_log(0, Bytes(bytes(24)))
        yield region(0, 0, 100 * page)
        yield region(0, 0, 100 * page, flags=LOG)
        yield get_log(0, Bytes(bytes(24)))
        yield region(0, 0x1_0000_0000, 100 * page, flags=LOG)
        yield get_log(0, Bytes(bytes(24)))


def region2(
    slot: int,
    gpa: Value,
    size: int,
    hva: Value = "mem0",
    flags: int = 0,
    *,
    memfd: Value = 0,
    offset: int = 0,
    **more: int | list[Value],
) -> Ioctl:
    """KVM_SET_USER_MEMORY_REGION2."""
    fields = struct(
        "userspace_memory_region2",
        slot=slot,
        flags=flags,
        guest_phys_addr=gpa,
        memory_size=size,
        userspace_addr=hva,
        guest_memfd=memfd,
        guest_memfd_offset=offset,
        **more,
    )
    return Ioctl("vm0", "KVM_SET_USER_MEMORY_REGION2", fields)


def _second_request(host: Host) -> Operations:
    page = host.page_size
    yield from begin("memory: KVM_SET_USER_MEMORY_REGION2")
    yield check(abi.KVM_CAP_USER_MEMORY2)
    yield check(abi.KVM_CAP_GUEST_MEMFD)
    yield region2(0, 0, page)
    yield region(0, 0, page)
    yield region(0, 0, 2 * page)
    yield region2(0, 0, 0)
    yield region2(1, (1 << 36) - page, page, flags=LOG)
    yield region2(2, 1 << 36, page)
    yield region2(2, (1 << 36) - page, page)
    yield region2(3, 0x1000_0000, page, memfd=7, offset=5)
    yield region2(4, 0x2000_0000, page, pad1=1)
    yield region2(5, 0x3000_0000, page, pad2=[1])
    yield region2(6, 0x4000_0000, page, flags=MEMFD, memfd="closed")
    yield region2(6, 0x4000_0000, page, flags=MEMFD, memfd="vm0")
    yield region2(6, 0x4000_0000, page, flags=MEMFD | LOG, memfd="closed")
    yield region2(6, 0x4000_0000, page, flags=8)
    yield region2(0x7FFF, 0x4000_0000, page)
    yield region2(7, 0x800, page)
    for where in ("null", "unmapped", "kernel"):
        yield Ioctl("vm0", "KVM_SET_USER_MEMORY_REGION2", where)


def create_memfd(size: int, flags: int = 0, new: str = "memfd0", **more: list[Value]) -> Ioctl:
    """KVM_CREATE_GUEST_MEMFD."""
    return Ioctl("vm0", "KVM_CREATE_GUEST_MEMFD", struct("create_guest_memfd", size=size, flags=flags, **more), new=new)


def _guest_memfd(host: Host) -> Operations:
    page = host.page_size
    yield from begin("memory: guest_memfd")
    yield check(abi.KVM_CAP_GUEST_MEMFD_FLAGS)
    for size in (0, 1, page - 1, page, 16 * page, 1 << 40, 1 << 63, U64 & -page, (1 << 63) - page):
        yield create_memfd(size)
        yield create_memfd(size, 3)
    for flags in (1, 2, 3, 4, 8, 1 << 32, 1 << 63):
        yield create_memfd(16 * page, flags, new=f"memfd{flags:x}")
    yield create_memfd(16 * page, 3, reserved=[1])
    yield Ioctl("vm0", "KVM_CREATE_GUEST_MEMFD", "unmapped")
    yield create_memfd(16 * page, 0, new="memfd0")
    for memfd in ("memfd0", "memfd1", "memfd3"):
        yield region2(0, 0, 4 * page, flags=MEMFD, memfd=memfd)
        yield region2(0, 0, 4 * page, flags=MEMFD, memfd=memfd)
        yield region2(0, 0x1000_0000, 4 * page, flags=MEMFD, memfd=memfd)
        yield region2(1, 0x2000_0000, 4 * page, flags=MEMFD, memfd=memfd)
        yield region2(1, 0x2000_0000, 4 * page, flags=MEMFD, memfd=memfd, offset=3 * page)
        yield region2(1, 0x2000_0000, 4 * page, flags=MEMFD, memfd=memfd, offset=4 * page)
        yield region2(2, 0x3000_0000, 4 * page, flags=MEMFD, memfd=memfd, offset=13 * page)
        yield region2(2, 0x3000_0000, 4 * page, flags=MEMFD, memfd=memfd, offset=page // 2)
        yield region2(2, 0x3000_0000, 4 * page, flags=MEMFD, memfd=memfd, offset=U64 & -page)
        yield region2(2, 1 << 36, 4 * page, flags=MEMFD, memfd=memfd)
        yield region2(2, 1 << 36, 4 * page, flags=MEMFD, memfd="closed")
        yield region2(2, 0x3000_0000, 17 * page, flags=MEMFD, memfd=memfd)
        yield region2(2, 0x3000_0000, page, flags=MEMFD | READONLY, memfd=memfd)
        yield region2(0, 0, 0)
        yield region2(0, 0, 0, flags=MEMFD)
        yield region2(1, 0, 0)
    yield Close("memfd3")
    yield region2(3, 0x3000_0000, page, flags=MEMFD, memfd="memfd3")


def _no_memory_behind(host: Host) -> Operations:
    page = host.page_size
    yield from begin("memory: what is mapped does not matter")
    yield Map("mem1", 0x1_0000, "none")
    yield region(0, 0, page, "mem1")
    yield Unmap("mem1")
    yield region(0, 0, page, "unmapped")
    yield Protect("mem0", "ro")
    yield region(1, 0x1000_0000, page)
    yield region(1, 0x1000_0000, page, flags=LOG)
    # A struct that lies in read-only memory is read; one on the edge of an area is not.
    yield Protect("mem0", "rw")
    yield Write("mem0+0x0", region_struct(2, 0x2000_0000, page))
    yield Write("mem0+0x3fff0", region_struct(3, 0x3000_0000, page))
    yield Protect("mem0", "ro")
    yield Ioctl("vm0", "KVM_SET_USER_MEMORY_REGION", "mem0")
    yield Ioctl("vm0", "KVM_SET_USER_MEMORY_REGION", "mem0+0x3fff0")
    yield get_log(1, "mem0")
    yield get_log(1, u64(FILL))
