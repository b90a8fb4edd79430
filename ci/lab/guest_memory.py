# SPDX-License-Identifier: Apache-2.0
"""Memory of a process in the lab's guests that memory slots are made of, and how the guest's kernel maps it."""

from __future__ import annotations

import ctypes
import mmap
import os
from pathlib import Path
from typing import Final

_PRIVATE: Final = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
_READ_WRITE: Final = mmap.PROT_READ | mmap.PROT_WRITE
# asm-generic/mman-common.h.
_MAP_FIXED: Final = 0x10
_MAP_HUGETLB: Final = 0x40000
_MAP_HUGE_SHIFT: Final = 26
_PROT_NONE: Final = 0

_MIB: Final = 1 << 20


def smaps(address: int) -> dict[str, int]:
    """What /proc/self/smaps says of the mapping that holds an address: its figures, in KiB where they are sizes."""
    inside, found = False, {}
    for line in Path("/proc/self/smaps").read_text().splitlines():
        name, _, rest = line.partition(" ")
        if not name.endswith(":"):
            low, _, high = name.partition("-")
            inside = int(low, 16) <= address < int(high, 16)
        elif inside and (words := rest.split())[0].isdigit():
            found[name[:-1]] = int(words[0])
    return found


def huge_flags(page_size: int) -> int:
    """Flags of mmap() for memory from hugetlb's pool of pages of this size.

    >>> huge_flags(1 << 30) & 0x40000
    262144
    """
    return _PRIVATE | _MAP_HUGETLB | page_size.bit_length() - 1 << _MAP_HUGE_SHIFT


class Libc:
    """mmap() where and how it is told, and madvise(), of memory that stays until the process ends."""

    def __init__(self) -> None:
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._libc.mmap.restype = ctypes.c_void_p
        self._libc.mmap.argtypes = (
            *(ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long),
        )
        self._libc.madvise.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)

    def _map(self, address: int | None, size: int, protection: int, flags: int) -> int:
        found: int | None = self._libc.mmap(address, size, protection, flags, -1, 0)
        if found in (None, ctypes.c_void_p(-1).value):
            raise self._error("mmap")
        return found

    @staticmethod
    def _error(what: str) -> OSError:
        number = ctypes.get_errno()
        return OSError(number, os.strerror(number), what)

    def area(self, size: int, align: int, phase: int = 0) -> int:
        """The address of anonymous memory, `phase` bytes behind a multiple of `align`.

        Nothing is mapped beside it, so that it is a mapping of its own.
        """
        around = self._map(None, size + 2 * (align + _MIB), _PROT_NONE, _PRIVATE)
        start = -(-(around + _MIB) // align) * align + phase
        return self._map(start, size, _READ_WRITE, _PRIVATE | _MAP_FIXED)

    def huge_area(self, size: int, page_size: int) -> int:
        """The address of memory from hugetlb's pool; OSError where the pool has too few pages, or there is none."""
        return self._map(None, size, _READ_WRITE, huge_flags(page_size))

    def discard(self, address: int, size: int) -> None:
        """madvise(MADV_DONTNEED)."""
        if self._libc.madvise(address, size, mmap.MADV_DONTNEED):
            raise self._error("madvise")


def populate(address: int, size: int) -> None:
    """Touch every page."""
    for offset in range(0, size, mmap.PAGESIZE):
        ctypes.memset(address + offset, 0x5A, 1)
