# SPDX-License-Identifier: Apache-2.0
"""Memory of this process as a recorder looks at it: what is mapped, what was ever touched, and its bytes."""

from __future__ import annotations

import mmap
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from kvmipa.backend.emulated.user_memory import BadAddressError
from kvmipa.backend.emulated.user_memory import read as _read

if TYPE_CHECKING:
    from collections.abc import Iterator

_PAGE: Final = mmap.PAGESIZE
_ADDRESSES: Final = 1 << 64


class Mapping(NamedTuple):
    """Memory that is mapped together. protection: as traces have it."""

    start: int
    end: int
    protection: str


def read(address: int, size: int) -> bytes | None:
    """The bytes at an address, None where not all of them can be read; never a crash.

    >>> from kvmipa.buffers import address_of
    >>> data = bytearray(b"kvm")
    >>> read(address_of(data), 3), read(0, 1)
    (b'kvm', None)
    """
    if not 0 <= address <= _ADDRESSES - size:
        return None
    try:
        return _read(address, size)
    except BadAddressError:
        return None


def mapping_of(address: int, size: int) -> Mapping | None:
    """What is mapped at an address, None where nothing is. Mappings that follow each other are one up to ``size``."""
    found: Mapping | None = None
    for start, end, protection in _mappings(address, size):
        if found is None:
            if not start <= address < end:
                return None
            found = Mapping(start, end, protection)
        elif start != found.end or protection != found.protection:
            break
        else:
            found = found._replace(end=end)
        if found.end - address >= size:
            break
    return found


def _mappings(address: int, size: int) -> Iterator[Mapping]:
    """The mappings that end behind an address, in order."""
    try:
        text = Path("/proc/self/maps").read_text()
    except OSError:
        # Another system: that much, if its ends can be read.
        if read(address, 1) and read(address + size - 1, 1):
            yield Mapping(address, address + size, "rw")
        return
    for line in text.splitlines():
        extent, flags, _ = line.split(" ", 2)
        start, _, end = extent.partition("-")
        if int(end, 16) > address:
            yield Mapping(int(start, 16), int(end, 16), {"rw": "rw", "r-": "ro"}.get(flags[:2], "none"))


def touched(address: int, size: int) -> list[tuple[int, int]]:
    """From where to where there are pages that somebody touched (mincore); all of it where that does not show.

    address: the page's; size: a multiple of the page's.
    """
    if not size:
        return []
    pages = bytearray(size // _PAGE)
    mincore = _mincore()
    if mincore is None or mincore(address, size, (_char_array(len(pages))).from_buffer(pages)):
        return [(address, address + size)]
    ranges, at = [], pages.find(1)
    while at >= 0:
        end = pages.find(0, at)
        end = len(pages) if end < 0 else end
        ranges.append((address + at * _PAGE, address + end * _PAGE))
        at = pages.find(1, end)
    return ranges


@lru_cache
def _char_array(length: int) -> Any:
    import ctypes

    return ctypes.c_char * length


@lru_cache(maxsize=1)
def _mincore() -> Any:
    import ctypes

    function = getattr(ctypes.CDLL(None, use_errno=True), "mincore", None)
    if function is not None:
        function.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_void_p)
    return function
