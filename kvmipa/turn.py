# SPDX-License-Identifier: Apache-2.0
"""Whose turn it is to run a vCPU: numbers that Python and the C of the native backend share (struct kvmipa_turn)."""

from __future__ import annotations

from errno import EALREADY, EINPROGRESS
from threading import Lock, get_native_id
from typing import TYPE_CHECKING, Final

from kvmipa.run_area import MMIO_LEN

if TYPE_CHECKING:
    from collections.abc import Callable

    #: Numbers of 32 bits.
    Turn = memoryview[int]

#: The thread that is at KVM_RUN, by its number in the system, until it has read what the exit is; 0: nobody.
THREAD: Final = 0
#: Whether an exit is there that has to be dealt with before the vCPU runs on.
OPEN: Final = 1

# With what the native backend has behind them.
_SIZE: Final = 32


def new() -> Turn:
    """Nobody's turn."""
    return memoryview(bytearray(_SIZE)).cast("i")


def taking(turn: Turn, area: memoryview, run: Callable[[], int]) -> Callable[[], int]:
    """A KVM_RUN in Python that takes turns as the one in C does (Backend.runner)."""
    lock = Lock()

    def run_in_turn() -> int:
        with lock:
            if turn[THREAD]:
                return -EALREADY
            # Before the turn is taken: from then on an access of some bytes is a new one.
            is_open = turn[OPEN]
            if not is_open:
                area[MMIO_LEN] = 0
            turn[THREAD] = get_native_id()
        return -EINPROGRESS if is_open else run()

    return run_in_turn
