# SPDX-License-Identifier: Apache-2.0
"""Whose turn it is to run a vCPU: bytes that Python and the C of the native backend share (struct kvmipa_turn)."""

from __future__ import annotations

from errno import EALREADY, EINPROGRESS
from struct import Struct
from threading import Lock, get_native_id
from typing import TYPE_CHECKING, Final

from kvmipa.run_area import MMIO_LEN

if TYPE_CHECKING:
    from collections.abc import Callable

    Turn = bytearray

#: Whether a thread is at KVM_RUN, until it has read what the exit is.
TAKEN: Final = 0
#: Whether an exit is there that has to be dealt with before the vCPU runs on.
OPEN: Final = 1

# The thread's number in the system, or of the one that was there last. Behind it is what the native backend needs.
_THREAD: Final = 4
_NUMBER: Final = Struct("=i")
_SIZE: Final = 24


def new() -> Turn:
    """Nobody's turn.

    >>> holder(new())
    0
    """
    return bytearray(_SIZE)


def holder(turn: Turn) -> int:
    """The thread whose turn it is, 0 for nobody."""
    thread: int = _NUMBER.unpack_from(turn, _THREAD)[0]
    return thread if turn[TAKEN] else 0


def taking(turn: Turn, area: memoryview, run: Callable[[], int]) -> Callable[[], int]:
    """A KVM_RUN in Python that takes turns as the one in C does (Backend.runner)."""
    lock = Lock()

    def run_in_turn() -> int:
        with lock:
            if turn[TAKEN]:
                return -EALREADY
            # Before the turn is taken: from then on an access of some bytes is a new one.
            is_open = turn[OPEN]
            if not is_open:
                area[MMIO_LEN] = 0
            _NUMBER.pack_into(turn, _THREAD, get_native_id())
            turn[TAKEN] = 1
        return -EINPROGRESS if is_open else run()

    return run_in_turn
