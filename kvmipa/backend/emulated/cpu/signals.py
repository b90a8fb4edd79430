# SPDX-License-Identifier: Apache-2.0
"""Signals end a KVM_RUN in the main thread, where Python runs their handlers.

Unicorn does not return for a signal, as a system call does. Python writes a byte to a descriptor when one arrives
(signal.set_wakeup_fd): a thread waits for it and kicks the vCPU, so that exits cost nothing. Whoever had a descriptor
there before gets the byte as well; who puts one there afterwards takes Ctrl-C away from vCPUs of the main thread. Where
the handler has run before the thread gets to kick, the next run ends at once.
"""

from __future__ import annotations

import os
import signal
from contextlib import suppress
from threading import Thread, get_ident, main_thread
from typing import TYPE_CHECKING, Any, Final
from weakref import WeakSet

if TYPE_CHECKING:
    from kvmipa.backend.emulated.cpu.kick import Kicks

_NOBODY: Final = -1


class _Watch:
    """The thread and its descriptors, as long as a vCPU is open that has run in the main thread."""

    def __init__(self) -> None:
        import socket

        self.users: WeakSet[Kicks] = WeakSet()
        self._reader, self._writer = socket.socketpair()
        self._writer.setblocking(False)
        self._before = signal.set_wakeup_fd(self._writer.fileno(), warn_on_full_buffer=False)
        Thread(target=self._wait, name="kvmipa signals", daemon=True).start()

    def _wait(self) -> None:
        while True:
            try:
                received = self._reader.recv(64)
            except OSError:
                return
            if not received:
                self._reader.close()
                return
            if self._before != _NOBODY:
                with suppress(OSError):
                    os.write(self._before, received)
            for kicks in list(self.users):
                if kicks.thread == _main():
                    kicks.kick()

    def end(self) -> None:
        """Put the descriptor back that was there before; in the main thread."""
        current = signal.set_wakeup_fd(self._before)
        if current != self._writer.fileno():
            signal.set_wakeup_fd(current)
        self._writer.close()


_watch: _Watch | None = None


def _main() -> int | None:
    return main_thread().ident


def runs_in(thread: int | None, kicks: Kicks) -> None:
    """A vCPU runs in a thread for the first time since it ran in another."""
    global _watch  # noqa: PLW0603  there is one main thread, and one descriptor for its signals
    if thread != _main():
        return
    if _watch is None:
        try:
            _watch = _Watch()
        except (ValueError, OSError):
            # Of another interpreter, whose main thread has no signals; or there is no descriptor to be had.
            return
    _watch.users.add(kicks)


def closed(kicks: Kicks) -> None:
    """A vCPU is closed."""
    global _watch  # noqa: PLW0603
    if _watch is None:
        return
    _watch.users.discard(kicks)
    if not _watch.users and get_ident() == _main():
        _watch.end()
        _watch = None


def _forget(*_: Any) -> None:
    """In a child after fork there is no such thread."""
    global _watch  # noqa: PLW0603
    if _watch is not None:
        signal.set_wakeup_fd(_NOBODY)
        _watch = None


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)
