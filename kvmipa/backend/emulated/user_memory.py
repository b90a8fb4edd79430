# SPDX-License-Identifier: Apache-2.0
"""The calling process's memory as the emulated kernel reaches it: copy_from_user and copy_to_user.

A bad pointer is BadAddressError, as the kernel has EFAULT: never a crash of the process, whatever the address.
"""

from __future__ import annotations

import errno
import os
from contextlib import suppress
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Callable

    # The argument of an ioctl: a value or an address, or the struct itself where the caller has it as a bytearray.
    Argument = int | bytearray

    # Copies from an address to an address: how many bytes it managed, or a negative number.
    Copy = Callable[[int, int, int], int]

_ADDRESSES: Final = 1 << 64

# Every pipe takes that much at once.
_PIPE_CHUNK: Final = 512


class BadAddressError(Exception):
    """The process has no such memory, or may not use it so: EFAULT."""


def read(where: Argument, size: int) -> bytes:
    """Copy from the process: from an address, or from the start of a buffer.

    >>> read(bytearray(b"memory"), 3)
    b'mem'
    >>> read(0, 8)
    Traceback (most recent call last):
    ...
    kvmipa.backend.emulated.user_memory.BadAddressError
    """
    if isinstance(where, bytearray):
        if len(where) < size:
            raise BadAddressError
        return bytes(where[:size])
    import ctypes

    found = ctypes.create_string_buffer(size)
    _copy(_copies()[0], where, ctypes.addressof(found), size)
    return found.raw


def write(where: Argument, data: bytes) -> None:
    """Copy to the process: to an address, or to the start of a buffer."""
    if isinstance(where, bytearray):
        if len(where) < len(data):
            raise BadAddressError
        where[: len(data)] = data
        return
    import ctypes

    source = ctypes.create_string_buffer(data, len(data))
    _copy(_copies()[1], where, ctypes.addressof(source), len(data))


def read_number(where: Argument, size: int, *, signed: bool = False) -> int:
    """The number of ``size`` bytes that is there (get_user).

    >>> read_number(bytearray([0xFE, 0xFF, 0xFF, 0xFF]), 4, signed=True)
    -2
    """
    return int.from_bytes(read(where, size), "little", signed=signed)


def write_number(where: Argument, value: int, size: int) -> None:
    """Write a number of ``size`` bytes (put_user)."""
    write(where, value.to_bytes(size, "little"))


def is_readable(address: int, size: int = 1) -> bool:
    """Whether the process itself could read there."""
    try:
        read(address, size)
    except BadAddressError:
        return False
    return True


def prepare() -> None:
    """Import what addresses are reached with, which needs a descriptor, while there is one.

    A request with an address that somebody has before any vCPU or device is made has it from ctypes, as a rule.
    """
    with suppress(ImportError, OSError):
        _copies()


def _copy(copy: Copy, theirs: int, ours: int, size: int) -> None:
    if not 0 <= theirs <= _ADDRESSES - size or copy(theirs, ours, size) != size:
        raise BadAddressError


@lru_cache(maxsize=1)
def _copies() -> tuple[Copy, Copy]:
    """How memory is read and written here: the first way that works on memory that is certainly there."""
    import ctypes

    known = ctypes.create_string_buffer(b"known")
    target = ctypes.create_string_buffer(5)
    for way in (_across_processes, _through_a_pipe):
        copies = way()
        if copies and copies[0](ctypes.addressof(known), ctypes.addressof(target), 5) == 5:
            return copies
    raise OSError(errno.ENOSYS, "this system has no way to look at memory that may not be there")


def _across_processes() -> tuple[Copy, Copy] | None:
    """process_vm_readv(2) on this process itself; sandboxes may forbid it."""
    import ctypes

    libc = ctypes.CDLL(None, use_errno=True)
    if not hasattr(libc, "process_vm_readv"):
        return None

    class IoVector(ctypes.Structure):
        _fields_ = (("base", ctypes.c_void_p), ("length", ctypes.c_size_t))

    def through(function: Any) -> Copy:
        function.restype = ctypes.c_ssize_t
        function.argtypes = (ctypes.c_int, *(ctypes.c_void_p, ctypes.c_ulong) * 2, ctypes.c_ulong)

        def copy(theirs: int, ours: int, size: int) -> int:
            local, remote = IoVector(ours, size), IoVector(theirs, size)
            return int(function(os.getpid(), ctypes.byref(local), 1, ctypes.byref(remote), 1, 0))

        return copy

    return through(libc.process_vm_readv), through(libc.process_vm_writev)


def _through_a_pipe() -> tuple[Copy, Copy]:
    """write(2) and read(2) on a pipe: POSIX lets them answer EFAULT, and so do Linux, macOS and the BSDs."""
    import ctypes

    libc = ctypes.CDLL(None, use_errno=True)
    for function in (libc.read, libc.write):
        function.restype = ctypes.c_ssize_t
        function.argtypes = (ctypes.c_int, ctypes.c_void_p, ctypes.c_size_t)

    def copy(source: int, target: int, size: int) -> int:
        reading, writing = os.pipe()
        done = 0
        try:
            while done < size:
                chunk = min(_PIPE_CHUNK, size - done)
                if libc.write(writing, source + done, chunk) != chunk or (
                    libc.read(reading, target + done, chunk) != chunk
                ):
                    return -1
                done += chunk
        finally:
            os.close(reading)
            os.close(writing)
        return done

    def read_theirs(theirs: int, ours: int, size: int) -> int:
        return copy(theirs, ours, size)

    def write_theirs(theirs: int, ours: int, size: int) -> int:
        return copy(ours, theirs, size)

    return read_theirs, write_theirs
