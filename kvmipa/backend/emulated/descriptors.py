# SPDX-License-Identifier: Apache-2.0
"""The emulated kernel's descriptor table."""

from __future__ import annotations

import errno
import os
from contextlib import suppress
from threading import Lock
from typing import TYPE_CHECKING, Final, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from kvmipa.backend.emulated.user_memory import Argument

# Windows has no such flag: descriptors are not inherited there.
_FLAGS: Final = os.O_RDWR | getattr(os, "O_CLOEXEC", 0)


def is_open(fd: int) -> bool:
    """Whether a number is a descriptor of the process, of whatever file."""
    try:
        os.fstat(fd)
    except (OSError, OverflowError):
        return False
    return True


class File(Protocol):
    """What stands behind a descriptor."""

    def ioctl(self, request: int, argument: Argument, /) -> int:
        """The result, or -errno. The argument is a bytearray only where the request takes a struct."""
        ...


class Descriptors:
    """From descriptor numbers to files.

    Each number is a real descriptor of this process, of the null device. So numbers, RLIMIT_NOFILE and close-on-exec
    are Linux's own, and two emulated kernels in one process do not get in each other's way.

    eventfd_lock: of all VMs' eventfds, for an irqfd of one VM may be in the way of another's. It is taken with a VM's
    own lock held, and nothing else is taken while it is.
    """

    def __init__(self) -> None:
        self._files: dict[int, File] = {}
        self._on_close: dict[int, Callable[[], None]] = {}
        self.eventfd_lock = Lock()

    def reserve(self) -> int:
        """The lowest free number, or -errno (get_unused_fd_flags in fs/file.c)."""
        try:
            return os.open(os.devnull, _FLAGS)
        except OSError as failure:
            return -(failure.errno or errno.EMFILE)

    def give_back(self, fd: int) -> None:
        """Undo reserve()."""
        os.close(fd)

    def install(self, fd: int, file: File, *, on_close: Callable[[], None] | None = None) -> int:
        """Put a file behind a reserved number. on_close: called when it is closed (a file's release operation)."""
        self._files[fd] = file
        if on_close is not None:
            self._on_close[fd] = on_close
        return fd

    def get(self, fd: int) -> File | None:
        """The file behind a number, or None."""
        return self._files.get(fd)

    def close(self, fd: int) -> None:
        """Close a number; a file with no other number is gone."""
        if self._files.pop(fd, None) is not None:
            on_close = self._on_close.pop(fd, None)
            with suppress(OSError):
                os.close(fd)
            if on_close is not None:
                on_close()

    def files(self) -> Iterator[File]:
        """Every open file."""
        return iter(list(self._files.values()))
