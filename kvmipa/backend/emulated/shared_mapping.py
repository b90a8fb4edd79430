# SPDX-License-Identifier: Apache-2.0
"""Shared mappings of files that keep no descriptor: numbers that a user does not expect would be in the way."""

from __future__ import annotations

import mmap
import os
from functools import lru_cache
from typing import Any, Final
from weakref import finalize

_FAILED: Final = (1 << 64) - 1


def map_shared(fd: int, size: int) -> memoryview:
    """A file's first bytes, for reading and writing, as long as somebody has the view; OSError.

    Python's mmap would keep a duplicate of the descriptor (trackfd=False is 3.13's).
    """
    import ctypes

    libc = _libc()
    address = libc.mmap(None, size, mmap.PROT_READ | mmap.PROT_WRITE, mmap.MAP_SHARED, fd, 0)
    if address in {None, _FAILED}:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    memory = (ctypes.c_char * size).from_address(address)
    # The view refers to it. Whoever writes when the process ends still may.
    finalize(memory, libc.munmap, address, size).atexit = False
    return memoryview(memory).cast("B")


@lru_cache(maxsize=1)
def _libc() -> Any:
    import ctypes

    libc: Any = ctypes.CDLL(None, use_errno=True)
    libc.mmap.restype = ctypes.c_void_p
    libc.mmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t, *(ctypes.c_int,) * 3, ctypes.c_long)
    libc.munmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t)
    return libc
