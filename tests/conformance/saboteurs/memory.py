# SPDX-License-Identifier: Apache-2.0
"""Saboteurs of claims about memory slots."""

from __future__ import annotations

from errno import EEXIST, EFAULT, EINVAL
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from kvmipa.abi import KVM_MEM_LOG_DIRTY_PAGES, KVM_MEM_READONLY
from tests.conformance.sabotage import USUAL, Region, Sabotage, Saboteur

if TYPE_CHECKING:
    from collections.abc import Callable

    from kvmipa.backend import Backend

    Send = Callable[[Any], int]
    # Told the slot of that number before, what is asked, and what asks the kernel.
    OfSlot = Callable[[Region | None, Region, Send], int]

_LAST: Final = 32766
_PAGE: Final = 0x1000
_MOST: Final = (1 << 31) * _PAGE
_KNOWN_FLAGS: Final = KVM_MEM_LOG_DIRTY_PAGES | KVM_MEM_READONLY


def _broken(claim: str, what: str, change: OfSlot, host: str = USUAL) -> Sabotage:
    def of_vm(kernel: Saboteur, fd: int, region: Region, send: Send) -> int:
        return change(kernel.slots.get((fd, region.slot)), region, send)

    return Sabotage(claim, what, partial(Saboteur, region=of_vm), host)


def _touching(*, above: bool) -> Callable[[Backend], Backend]:
    """Slots that touch one, above it or below it, count as overlapping."""

    def of_vm(kernel: Saboteur, fd: int, region: Region, send: Send) -> int:
        for (vm, number), one in kernel.slots.items():
            low, high = (one, region) if above else (region, one)
            touches = vm == fd and number != region.slot and low.address + low.size == high.address
            if touches and _is_small(region) and one.size > _PAGE:
                return -EEXIST
        return send(region)

    return partial(Saboteur, region=of_vm)


def _is_small(region: Region) -> bool:
    """As the slots of claims about slots are; not those that guests have."""
    return region.size == _PAGE and region.hva == 0


def _in_space(allowed: Callable[[Region, int], bool]) -> Callable[[Backend], Backend]:
    """Some slots beyond a VM's space are taken."""

    def of_vm(kernel: Saboteur, fd: int, region: Region, send: Send) -> int:
        result = send(region)
        return 0 if result == -EFAULT and allowed(region, kernel.bits(fd) or 0) else result

    return partial(Saboteur, region=of_vm)


def _instead(result: int, code: int, other: int) -> int:
    return other if result == -code else result


# ------------------------------------------------------------------------------------------------ numbers, places


def _one_more(_old: Region | None, region: Region, send: Send) -> int:
    return 0 if region.slot == _LAST + 1 else send(region)


def _one_less(_old: Region | None, region: Region, send: Send) -> int:
    return -EINVAL if region.slot == _LAST else send(region)


def _one_address_space(_old: Region | None, region: Region, send: Send) -> int:
    return send(region._replace(slot=region.slot & 0xFFFF))


def _may_overlap(old: Region | None, region: Region, send: Send) -> int:
    return _instead(send(region), EEXIST, 0) if old is None else send(region)


def _may_begin_before(old: Region | None, region: Region, send: Send) -> int:
    before = old is None and region.address < 0x1000_0000
    return _instead(send(region), EEXIST, 0 if before else -EEXIST)


def _may_move_over(old: Region | None, region: Region, send: Send) -> int:
    return _instead(send(region), EEXIST, 0) if old is not None else send(region)


# ------------------------------------------------------------------------------------------------ changes


def _resized(old: Region | None, region: Region, send: Send) -> int:
    return 0 if old and region.size not in {0, old.size} else send(region)


def _grown(old: Region | None, region: Region, send: Send) -> int:
    return 0 if old and region.size > old.size else send(region)


def _elsewhere(old: Region | None, region: Region, send: Send) -> int:
    return 0 if old and region.size and region.hva != old.hva else send(region)


def _made_readonly(old: Region | None, region: Region, send: Send) -> int:
    changes = old and region.size and region.flags & KVM_MEM_READONLY > old.flags & KVM_MEM_READONLY
    return 0 if changes else send(region)


def _made_writable(old: Region | None, region: Region, send: Send) -> int:
    changes = old and region.size and region.flags & KVM_MEM_READONLY < old.flags & KVM_MEM_READONLY
    return 0 if changes else send(region)


def _moves(old: Region | None, region: Region) -> bool:
    return old is not None and bool(region.size) and region.address != old.address


def _never_moves(old: Region | None, region: Region, send: Send) -> int:
    return -EINVAL if _moves(old, region) and region.address < 1 << 32 else send(region)


def _stays(old: Region | None, region: Region, send: Send) -> int:
    result = send(region)
    if result == 0 and _moves(old, region):
        send(old)
    return result


def _not_deleted(old: Region | None, region: Region, send: Send) -> int:
    return 0 if old and not region.size else send(region)


def _deleted_twice(_old: Region | None, region: Region, send: Send) -> int:
    result = send(region)
    return result if region.size or region.slot else max(result, 0)


def _never_deleted(_old: Region | None, region: Region, send: Send) -> int:
    return send(region) if region.size else -EINVAL


# ------------------------------------------------------------------------------------------------ flags


def _any_flags(_old: Region | None, region: Region, send: Send) -> int:
    return send(region._replace(flags=region.flags & _KNOWN_FLAGS))


def _without(flag: int) -> OfSlot:
    return lambda _old, region, send: send(region._replace(flags=region.flags & ~flag))


def _refusing(flag: int) -> OfSlot:
    return lambda _old, region, send: -EINVAL if region.flags & flag else send(region)


def _not_switched_off(old: Region | None, region: Region, send: Send) -> int:
    kept = old.flags & KVM_MEM_LOG_DIRTY_PAGES if old and region.size else 0
    return send(region._replace(flags=region.flags | kept))


def _not_switched_on(old: Region | None, region: Region, send: Send) -> int:
    changes = old and region.size and region.flags & ~old.flags & KVM_MEM_LOG_DIRTY_PAGES
    return -EINVAL if changes and not _moves(old, region) else send(region)


# ------------------------------------------------------------------------------------------------ addresses


def _untagged(_old: Region | None, region: Region, send: Send) -> int:
    tagged = region.hva >> 56 not in {0, 0xFF}
    return send(region._replace(hva=region.hva & (1 << 56) - 1 if tagged else region.hva))


def _of_the_kernel(_old: Region | None, region: Region, send: Send) -> int:
    return send(region._replace(hva=region.hva & (1 << 48) - 1 if region.hva >> 56 == 0xFF else region.hva))


def _to_the_end(_old: Region | None, region: Region, send: Send) -> int:
    """The size is not looked at."""
    crosses = region.hva < 1 << 52 < region.hva + region.size
    return send(region._replace(hva=region.hva - region.size if crosses else region.hva))


def _less_user_space(_old: Region | None, region: Region, send: Send) -> int:
    return -EINVAL if region.hva >> 48 else send(region)


def _more_user_space(_old: Region | None, region: Region, send: Send) -> int:
    """A kernel with 48 bits takes what one with 52 does."""
    return send(region._replace(hva=region.hva & (1 << 48) - 1 if region.hva >> 48 < 16 else region.hva))


# ------------------------------------------------------------------------------------------------ errors


def _beyond_is(code: int) -> OfSlot:
    return lambda _old, region, send: _instead(send(region), EFAULT, -code)


def _moves_beyond(old: Region | None, region: Region, send: Send) -> int:
    moves = _moves(old, region) and region.flags == 0
    return _instead(send(region), EFAULT, 0 if moves else -EFAULT)


def _range_first(_old: Region | None, region: Region, send: Send) -> int:
    beyond = region.address + region.size > 1 << 32
    return _instead(send(region), EEXIST, -EFAULT if beyond else -EEXIST)


def _overlap_first(_old: Region | None, region: Region, send: Send) -> int:
    result = send(region)
    if result == -EINVAL and region.size and region.slot and region.flags not in {0, 1, 2}:
        return send(region._replace(flags=0)) if send(region._replace(flags=0)) == -EEXIST else result
    return result


def _never_twice(old: Region | None, region: Region, send: Send) -> int:
    return -EEXIST if old == region else send(region)


def _rounded(field: str) -> OfSlot:
    def change(_old: Region | None, region: Region, send: Send) -> int:
        value = getattr(region, field)
        rounded = value & -_PAGE if region.size >= _PAGE else value
        return send(region._replace(**{field: rounded}))

    return change


def _up_to_a_page(_old: Region | None, region: Region, send: Send) -> int:
    return send(region._replace(size=_PAGE) if 0 < region.size < _PAGE else region)


def _more_pages(_old: Region | None, region: Region, send: Send) -> int:
    return -EFAULT if region.size == _MOST else send(region)


def _less_pages(_old: Region | None, region: Region, send: Send) -> int:
    return -EINVAL if region.size == _MOST - _PAGE else send(region)


def _wraps(_old: Region | None, region: Region, send: Send) -> int:
    return -EFAULT if region.address + region.size > 1 << 64 else send(region)


def _to_2_64(_old: Region | None, region: Region, send: Send) -> int:
    return -EFAULT if region.address + region.size == 1 << 64 else send(region)


def _lost(old: Region | None, region: Region, send: Send) -> int:
    result = send(region)
    if result == -EFAULT and _moves(old, region):
        send(region._replace(size=0, address=0))
    return result


def _log_lost(old: Region | None, region: Region, send: Send) -> int:
    result = send(region)
    if result == -EFAULT and old and _moves(old, region):
        send(old._replace(flags=0))
    return result


def _deleted_anyhow(_old: Region | None, region: Region, send: Send) -> int:
    return send(region if region.size else Region(region.slot, 0, 0, 0, 0))


def _deletion_of(**fields: int) -> OfSlot:
    """One of its fields is not looked at, where the others are good."""
    return lambda _old, region, send: send(region if region.size else region._replace(**fields))


def _deletion_in_range(_old: Region | None, region: Region, send: Send) -> int:
    return -EFAULT if not region.size and region.address >> 32 else send(region)


def _range_before_alignment(_old: Region | None, region: Region, send: Send) -> int:
    beyond = region.size and 1 << 32 <= region.address < 1 << 40
    return _instead(send(region), EINVAL, -EFAULT if beyond else -EINVAL)


def _overlap_before_alignment(_old: Region | None, region: Region, send: Send) -> int:
    misaligned = region.size and region.address > 0x8000_0000 and region.address % _PAGE
    return _instead(send(region), EINVAL, -EEXIST if misaligned else -EINVAL)


def _range_before_size(old: Region | None, region: Region, send: Send) -> int:
    beyond = old and region.address + region.size > 1 << 32
    return _instead(send(region), EINVAL, -EFAULT if beyond else -EINVAL)


def _not_logged_at_once(old: Region | None, region: Region, send: Send) -> int:
    at_once = old is None and region.flags == KVM_MEM_LOG_DIRTY_PAGES and region.address % 0x1000_0000
    return -EINVAL if at_once and _is_small(region) else send(region)


def _at_2_52(_old: Region | None, region: Region, send: Send) -> int:
    return send(region._replace(hva=0) if region.hva == 1 << 52 else region)


SABOTAGES: Final = (
    Sabotage("C4", "only the start is looked at", _in_space(lambda region, bits: not region.address >> bits)),
    Sabotage("C4", "one bit is looked at", _in_space(lambda region, bits: not region.address >> bits & 1)),
    _broken("C11", "unknown flags are not looked at", _any_flags),
    _broken("C11", "there are no read-only slots", _refusing(KVM_MEM_READONLY)),
    _broken("C11", "dirty pages are never logged", _without(KVM_MEM_LOG_DIRTY_PAGES)),
    _broken("C11", "logging cannot be switched on", _not_switched_on),
    _broken("C11", "logging is not switched off", _not_switched_off),
    _broken("C11", "there are no slots that are logged from the start", _not_logged_at_once),
    _broken("C11i", "there is a slot more", _one_more),
    _broken("C11i", "there is a slot less", _one_less),
    _broken("C11i", "the address space is not looked at", _one_address_space),
    _broken("C11o", "slots may overlap", _may_overlap),
    _broken("C11o", "slots may be moved over others", _may_move_over),
    _broken("C11o", "a slot may begin before another one", _may_begin_before),
    Sabotage("C11o", "slots may not touch those below", _touching(above=True)),
    Sabotage("C11o", "slots may not touch those above", _touching(above=False)),
    _broken("C11r", "slots are resized", _resized),
    _broken("C11r", "slots grow", _grown),
    _broken("C11r", "slots get other user addresses", _elsewhere),
    _broken("C11r", "slots become read-only", _made_readonly),
    _broken("C11r", "slots become writable", _made_writable),
    _broken("C11m", "slots cannot be moved", _never_moves),
    _broken("C11m", "slots stay where they are", _stays),
    _broken("C11d", "slots cannot be deleted", _never_deleted),
    _broken("C11d", "slots are not deleted", _not_deleted),
    _broken("C11d", "slots are deleted twice", _deleted_twice),
    _broken("C12", "tags are removed", _untagged),
    _broken("C12", "addresses of the kernel are taken", _of_the_kernel),
    _broken("C12", "only the start is looked at", _to_the_end),
    _broken("C12", "2^52 is in user space", _at_2_52),
    _broken("I7", "it is EINVAL", _beyond_is(EINVAL)),
    _broken("I7", "slots are moved beyond the space", _moves_beyond),
    _broken("I8", "the space is looked at before overlap", _range_first),
    _broken("I8", "overlap is looked at before flags", _overlap_first),
    _broken("I8", "overlap is looked at before alignment", _overlap_before_alignment),
    _broken("I8", "the space is looked at before alignment", _range_before_alignment),
    _broken("I8", "the space is looked at before the size", _range_before_size),
    _broken("I8", "what is so cannot be set again", _never_twice),
    _broken("I9", "guest addresses are rounded", _rounded("address")),
    _broken("I9", "sizes are rounded", _rounded("size")),
    _broken("I9", "sizes are rounded up", _up_to_a_page),
    _broken("I9", "user addresses are rounded", _rounded("hva")),
    _broken("I10", "user space is smaller", _less_user_space),
    _broken("I10", "user space is larger", _more_user_space, "qemu-max-5.10-4k"),
    _broken("I11", "there is one page more", _more_pages),
    _broken("I11", "there is one page less", _less_pages),
    _broken("I11", "the end is not looked at", _wraps),
    _broken("I11", "the end may be 2^64", _to_2_64),
    _broken("I12", "a slot that cannot be moved is gone", _lost),
    _broken("I12", "a slot that cannot be moved is no longer logged", _log_lost),
    _broken("I13", "nothing is looked at", _deleted_anyhow),
    _broken("I13", "flags are not looked at", _deletion_of(flags=0)),
    _broken("I13", "the guest address is not looked at", _deletion_of(address=0)),
    _broken("I13", "the user address is not looked at", _deletion_of(hva=0)),
    _broken("I13", "the guest address has to be in range", _deletion_in_range),
)
