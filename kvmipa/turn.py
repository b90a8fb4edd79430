# SPDX-License-Identifier: Apache-2.0
"""Whose turn it is to run a vCPU: bytes that Python and the C of the native backend share (struct kvmipa_turn)."""

from __future__ import annotations

from errno import EALREADY, EINPROGRESS
from struct import Struct
from threading import Lock, get_native_id
from typing import TYPE_CHECKING, Final

from kvmipa.abi import KVM_EXIT_MMIO, KVM_EXIT_UNKNOWN
from kvmipa.ordering import fence
from kvmipa.run_area import EXIT_REASON, MMIO_LEN, exit_reason, set_exit_reason

if TYPE_CHECKING:
    from collections.abc import Callable

    Turn = bytearray

# The number of the thread whose turn it is, or was last, in 24 bits; behind it is what this index is of.
_HOLDER: Final = Struct("<I").unpack_from
_SET_HOLDER: Final = Struct("<I").pack_into
_THREAD: Final = 0xFF_FFFF
_IS_TAKEN: Final = 1 << 24
#: Whether a thread is at KVM_RUN, until it has read what the exit is.
TAKEN: Final = 3
#: Whether an exit is there that has to be dealt with before the vCPU runs on.
OPEN: Final = 4
# Whether the descriptor is an errno, for whom a look at one byte is faster.
_ENDED: Final = 5

# The vCPU's descriptor, or -errno. Behind it is what the native backend needs.
_FD: Final = 8
_NUMBER: Final = Struct("=i")
_SIZE: Final = 24


def new() -> Turn:
    """Nobody's turn.

    >>> holder(new())
    0
    """
    return bytearray(_SIZE)


def this_thread() -> int:
    """What holder() is in a turn of this thread's: its number in the system, which on Linux has 22 bits."""
    return get_native_id() & _THREAD


def holder(turn: Turn) -> int:
    """The thread whose turn it is, 0 for nobody."""
    word: int = _HOLDER(turn)[0]
    return word & _THREAD if word & _IS_TAKEN else 0


def end(turn: Turn, code: int) -> None:
    """Have no thread enter KVM_RUN any more: errno ``code`` is what it gets instead.

    A thread takes the turn first and looks for the descriptor then; whoever ends the turns looks for the thread behind
    this: it is seen, or it sees this.

    >>> whose = new()
    >>> end(whose, 9)
    >>> ended(whose)
    9
    """
    _NUMBER.pack_into(turn, _FD, -code)
    turn[_ENDED] = 1
    fence()


def ended(turn: Turn) -> int:
    """The errno by which it was ended; 0 where it was not."""
    if not turn[_ENDED]:
        return 0
    code: int = -_NUMBER.unpack_from(turn, _FD)[0]
    return code


def taking(turn: Turn, area: memoryview, run: Callable[[], int]) -> Callable[[], int]:
    """A KVM_RUN in Python that takes turns as the one in C does (Backend.runner)."""
    lock = Lock()

    def run_in_turn() -> int:
        # A child of fork() may have got the lock as somebody else's, and the area is its parent's.
        if turn[_ENDED]:
            return -ended(turn)
        with lock:
            if turn[TAKEN]:
                return -EALREADY
            is_open = turn[OPEN]
            if not is_open:
                # Before the turn is taken: from then on an exit that is there is a new one.
                area[MMIO_LEN] = 0
                if exit_reason(area, EXIT_REASON)[0] != KVM_EXIT_MMIO:
                    set_exit_reason(area, EXIT_REASON, KVM_EXIT_UNKNOWN)
            _SET_HOLDER(turn, 0, this_thread() | _IS_TAKEN)
        if turn[_ENDED]:
            return -ended(turn)
        return -EINPROGRESS if is_open else run()

    return run_in_turn
