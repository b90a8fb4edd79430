# SPDX-License-Identifier: Apache-2.0
"""Whether the process still has memory where it had some: the emulation is not told of munmap(), as a kernel is.

The MMU notifiers of a real kernel drop what VMs have mapped of memory that is unmapped. A process cannot listen for
that; it can ask, and asks before each page that a guest touches: msync(2) with MS_ASYNC answers ENOMEM for what is not
mapped, changes nothing, and is the cheapest system call that does so (mincore(2) takes twice as long). One check for
many pages would miss what is unmapped between their first and their last.
"""

from __future__ import annotations

from functools import lru_cache
from mmap import PAGESIZE, mmap
from typing import TYPE_CHECKING, Final

from kvmipa.backend.emulated.user_memory import is_readable
from kvmipa.buffers import address_of

if TYPE_CHECKING:
    from collections.abc import Callable

    # Of an address at the start of a page, a length in bytes, and flags: 0 where the process has memory.
    Check = Callable[[int, int, int], int]

# The same on Linux, macOS and the BSDs.
MS_ASYNC: Final = 1
PAGE_MASK: Final = -PAGESIZE


@lru_cache(maxsize=1)
def check() -> Check:
    """msync(2), or something that answers like it where that does not tell (a sandbox may forbid it).

    >>> is_missing, at = check(), address_of(bytearray(b"here"))
    >>> is_missing(at & PAGE_MASK, 1, MS_ASYNC) == 0, is_missing(0, 1, MS_ASYNC) == 0
    (True, False)
    """
    import ctypes

    try:
        msync = ctypes.CDLL(None).msync
    except (AttributeError, OSError, TypeError):
        return _by_reading
    msync.argtypes = (ctypes.c_ulong, ctypes.c_ulong, ctypes.c_int)
    with mmap(-1, PAGESIZE) as page:
        here = msync(address_of(page), 1, MS_ASYNC) == 0
    # Address 0 is nobody's.
    return msync if here and msync(0, 1, MS_ASYNC) else _by_reading


def _by_reading(address: int, _length: int, _flags: int, /) -> int:
    return 0 if is_readable(address) else -1
