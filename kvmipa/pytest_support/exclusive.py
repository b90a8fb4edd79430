# SPDX-License-Identifier: Apache-2.0
"""Whose turn it is to use the real KVM: many tests together, or one alone, over all processes of the machine.

The locks are on the device's own node, so that there is no file to agree on. One says who is in; the other is a gate
through which everybody goes and at which a test that wants to be alone stays until it is in, so that it is not kept
waiting by those who come later.
"""

from __future__ import annotations

import os
import struct
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator

# struct flock of 64-bit Linux: l_type, l_whence, l_start, l_len, l_pid. flock(2) and open file description locks
# (fcntl(2), F_OFD_SETLKW) know nothing of each other, so that one file has both.
_FLOCK: Final = struct.Struct("=hh4xqqi4x")


@contextmanager
def using(device: str, *, alone: bool) -> Iterator[None]:
    """Use the device, together with others or alone; without any lock where it cannot be opened."""
    import fcntl

    try:
        fd = os.open(device, os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        # The test says it better.
        yield
        return
    try:
        fcntl.fcntl(fd, fcntl.F_OFD_SETLKW, _FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0))
        fcntl.flock(fd, fcntl.LOCK_EX if alone else fcntl.LOCK_SH)
        fcntl.fcntl(fd, fcntl.F_OFD_SETLKW, _FLOCK.pack(fcntl.F_UNLCK, os.SEEK_SET, 0, 0, 0))
        yield
    finally:
        os.close(fd)
