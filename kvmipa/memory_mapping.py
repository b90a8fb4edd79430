# SPDX-License-Identifier: Apache-2.0
"""How memory for guests is mapped: anonymous, from the pool of huge pages, or of a file, at an aligned address."""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
import sys
from operator import index
from typing import Any, Final

from kvmipa import errors
from kvmipa.buffers import address_of

# A path, a descriptor, or what has one.
File = str | os.PathLike[str] | int | Any

PAGE_SIZE: Final = mmap.PAGESIZE

# include/uapi/asm-generic/mman-common.h; Python has no names for them.
_MAP_HUGETLB: Final = 0x40000
_MAP_HUGE_SHIFT: Final = 26
_MAP_FIXED: Final = 0x10


def map_anonymous(size: int, alignment: int, unit: int, *, shared: bool, huge: bool) -> tuple[mmap.mmap, int]:
    """A mapping, and where in it the memory is: mmap() aligns to pages, so what is mapped is that much longer."""
    length = size + alignment - unit
    try:
        if not hasattr(mmap, "MAP_PRIVATE"):
            found = mmap.mmap(-1, length)
        else:
            flags = (mmap.MAP_SHARED if shared else mmap.MAP_PRIVATE) | mmap.MAP_ANONYMOUS
            if huge:
                flags |= _huge_page_flags(unit)
            found = mmap.mmap(-1, length, flags=flags, prot=mmap.PROT_READ | mmap.PROT_WRITE)
    except OSError as failure:
        raise _refused(failure, f"{size:#x} bytes", huge=huge) from failure
    except OverflowError:
        raise _refused(OSError(errno.ENOMEM, "too large"), f"{size:#x} bytes", huge=huge) from None
    return found, -address_of(found) % alignment


def _huge_page_flags(size: int) -> int:
    if sys.platform != "linux":
        raise errors.NotSupportedError(
            errno.EOPNOTSUPP,
            cause="only Linux has a pool of huge pages",
            asked=f"huge pages of {size:#x} bytes",
            available="memory aligned so that the system may use large pages by itself",
            fix="leave hugetlb out",
        )
    return _MAP_HUGETLB | (size.bit_length() - 1) << _MAP_HUGE_SHIFT


def map_file(
    size: int, alignment: int, file: File, offset: int, *, private: bool, readonly: bool
) -> tuple[mmap.mmap, int]:
    fd, is_ours = _descriptor(file, readonly=readonly and not private)
    try:
        _check_length(fd, offset, size)
        prot = mmap.PROT_READ | (0 if readonly else mmap.PROT_WRITE)
        flags = mmap.MAP_PRIVATE if private else mmap.MAP_SHARED
        if alignment <= PAGE_SIZE:
            return mmap.mmap(fd, size, flags=flags, prot=prot, offset=offset), 0
        # Address space first, and the file over its aligned part; unmapping the whole unmaps that too.
        space = mmap.mmap(-1, size + alignment - PAGE_SIZE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS, prot=prot)
        address = address_of(space)
        start = -address % alignment
        _map_over(address + start, size, (prot, flags), fd, offset)
        return space, start
    except OSError as failure:
        if isinstance(failure, errors.KvmError):
            raise
        raise _refused(failure, f"{size:#x} bytes of {file!r}") from failure
    finally:
        if is_ours:
            os.close(fd)


def _descriptor(file: File, *, readonly: bool) -> tuple[int, bool]:
    """A descriptor of the file, and whether it was opened here."""
    if isinstance(file, (str, os.PathLike)):
        try:
            return os.open(file, (os.O_RDONLY if readonly else os.O_RDWR) | os.O_CLOEXEC), True
        except OSError as failure:
            raise _refused(failure, f"a mapping of {file!r}") from failure
    if isinstance(file, int):
        return file, False
    if not hasattr(file, "fileno"):
        raise TypeError(f"file is a path, a descriptor or what has a fileno(), not {type(file).__name__}")
    return index(file.fileno()), False


def _check_length(fd: int, offset: int, size: int) -> None:
    """What is mapped beyond the end of a file is a SIGBUS when it is touched."""
    import stat

    status = os.fstat(fd)
    if stat.S_ISREG(status.st_mode) and offset + size > status.st_size:
        raise errors.GuestMemorySizeError(
            errno.EINVAL,
            cause="the file is shorter than that",
            asked=f"{size:#x} bytes from {offset:#x} on",
            available=f"a file of {status.st_size:#x} bytes",
            fix="make the file longer first (os.truncate), or map less",
        )


def _map_over(address: int, size: int, how: tuple[int, int], fd: int, offset: int) -> None:
    """mmap(2) with MAP_FIXED, over a part of a mapping that is ours. how: protection and flags."""
    prot, flags = how
    libc = ctypes.CDLL(None, use_errno=True)
    libc.mmap.restype = ctypes.c_void_p
    number = ctypes.c_int
    libc.mmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t, number, number, number, ctypes.c_int64)
    if libc.mmap(address, size, prot, flags | _MAP_FIXED, fd, offset) != address:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))


def _refused(failure: OSError, asked: str, *, huge: bool = False) -> errors.GuestMemoryError:
    fix = "map less, or free memory; look at ulimit -v and vm.overcommit_memory"
    if huge:
        fix = "put pages into the pool (sysctl vm.nr_hugepages), or leave hugetlb out"
    elif failure.errno != errno.ENOMEM:
        fix = "look at the file and its permissions"
    return errors.GuestMemoryError(
        failure.errno or errno.ENOMEM,
        cause=f"the system does not map it: {os.strerror(failure.errno or errno.ENOMEM)}",
        asked=asked,
        available="what the system has left",
        fix=fix,
    )
