# SPDX-License-Identifier: Apache-2.0
"""Anonymous memory of this process by name, with the protections that a trace asks for."""

from __future__ import annotations

import ctypes
import mmap
import os
from functools import lru_cache
from typing import Any, Final

# PROT_NONE, PROT_READ, and PROT_READ with PROT_WRITE: the same on every Unix, and not in every Python.
PROTECTIONS: Final = {"none": 0, "ro": 1, "rw": 3}

# Aligned for every page size of arm64, and for its 2 MiB blocks.
ALIGNMENT: Final = 2 << 20

# On both sides of an area, without access: a kernel that writes beyond an area must not meet the process's own memory,
# nor must a slot that is longer than its area.
_GUARD: Final = 16 << 20


#: The bytes that all areas have together, at most: a trace is foreign input.
LIMIT: Final = 1 << 36
_ROOM: Final = 1 << 45


class Areas:
    """Memory that is mapped under names."""

    def __init__(self) -> None:
        self._found: dict[str, tuple[int, int]] = {}
        self._blocks: dict[str, tuple[int, int]] = {}
        self._protections: dict[str, str] = {}

    def map(self, name: str, size: int, protection: str, room: int = 0) -> None:
        """Map size bytes; a name that is in use is unmapped first. room: of bytes behind it that stay free, at least.

        Raises ValueError for what is larger than the system has address space, or than LIMIT for all areas together.
        """
        self.unmap(name)
        taken = sum(size for _, size in self._found.values())
        if not (0 < size <= LIMIT - taken and 0 <= room <= _ROOM and protection in PROTECTIONS):
            raise ValueError(f"area {name}: size {size:#x}, room {room:#x}, protection {protection!r}")
        block = _reserve(_GUARD + ALIGNMENT + size + max(room, _GUARD))
        self._blocks[name] = block
        self._found[name] = (-(-(block[0] + _GUARD) // ALIGNMENT) * ALIGNMENT, size)
        self.protect(name, protection)

    def protect(self, name: str, protection: str) -> None:
        """Change the protection; nothing where there is no such area."""
        if name in self._found:
            _check(_libc().mprotect(*self._found[name], PROTECTIONS[protection]))
            self._protections[name] = protection

    def unmap(self, name: str) -> None:
        """Unmap; nothing where there is no such area."""
        if self._found.pop(name, None):
            _check(_libc().munmap(*self._blocks.pop(name)))

    def unmap_all(self) -> None:
        """Unmap every area."""
        for name in list(self._found):
            self.unmap(name)

    def has_free(self, address: int, size: int) -> bool:
        """Whether a range is an area's, or in what is kept free around one: nothing of the process's own is there."""
        return any(start <= address and address + size <= start + length for start, length in self._blocks.values())

    def address_of(self, name: str, *, otherwise: int) -> int:
        """Where an area begins."""
        found = self._found.get(name)
        return found[0] if found else otherwise

    def write(self, name: str, offset: int, content: bytes) -> None:
        """Write into an area that can be written; what does not fit is left out."""
        address, size = self._found.get(name, (0, 0))
        content = content[: max(size - offset, 0)]
        if content and self._protections[name] == "rw":
            ctypes.memmove(address + offset, content, len(content))

    @staticmethod
    def peek(address: int, size: int) -> bytes:
        """Memory that is known to be readable."""
        return ctypes.string_at(address, size)


def forbid(address: int, size: int) -> None:
    """Let nobody use memory of this process."""
    _check(_libc().mprotect(address, size, PROTECTIONS["none"]))


def _reserve(size: int) -> tuple[int, int]:
    """Address space without access: where it begins, and its size."""
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | getattr(mmap, "MAP_NORESERVE", 0)
    start: int | None = _libc().mmap(None, size, PROTECTIONS["none"], flags, -1, 0)  # no memory is taken for it
    if start is None or start == ctypes.c_void_p(-1).value:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return start, size


def _check(result: int) -> None:
    if result:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


@lru_cache(maxsize=1)
def _libc() -> Any:
    libc = ctypes.CDLL(None, use_errno=True)
    pointer, size = ctypes.c_void_p, ctypes.c_size_t
    libc.mmap.restype = pointer
    libc.mmap.argtypes = (pointer, size, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long)
    libc.munmap.argtypes = (pointer, size)
    libc.mprotect.argtypes = (pointer, size, ctypes.c_int)
    return libc
