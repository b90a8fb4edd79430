# SPDX-License-Identifier: Apache-2.0
"""Timeouts of runs: one thread of the process says when the time is up."""

from __future__ import annotations

import os
import threading
import time
from contextlib import suppress
from math import inf
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from kvmipa.running import Running

# Seconds until a vCPU that could not be called back is so again.
_PAUSE: Final = 0.001

# Of what the clocks have. A child of fork() has it free, and no signal handler waits for its own thread.
_LOCK: Final = threading.RLock()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_LOCK.acquire, after_in_parent=_LOCK.release, after_in_child=_LOCK.release)


class Deadline:
    """When the run of a vCPU has to end. has_ended: it has, and what may be left of this counts no more.

    timeout: in seconds; ValueError for what is negative or no number.
    """

    def __init__(self, running: Running, timeout: float) -> None:
        if not timeout >= 0:
            raise ValueError(f"timeout={timeout!r}: it is a number of seconds, from 0 on")
        self.has_ended = False
        self.at = time.monotonic() + timeout
        self._is_over = timeout == 0
        self._running = running
        self._clock: _Clock | None = None
        # Held while the vCPU is called back: what ends is this run, and not the next.
        self._lock = threading.Lock()

    def start(self) -> None:
        """Have the vCPU called back when the time is up."""
        if self._is_over:
            self._running.enter_no_guest(self)
        else:
            self._clock = _clock()
            self._clock.add(self)

    def is_up(self) -> bool:
        """Call the vCPU back; False where that has to be done again."""
        with self._lock:
            return self.has_ended or self._running.time_is_up(self)

    def stop(self) -> None:
        """The run has ended, one way or another. In a child of fork() there is no clock, and nobody called back."""
        self.has_ended = True
        if self._clock is not None and self._clock.is_alive():
            self._clock.remove(self)
            with self._lock:
                pass
        self._running.forget(self)


class _Clock(threading.Thread):
    """Sleeps until the next deadline."""

    def __init__(self) -> None:
        super().__init__(name="kvmipa timeouts", daemon=True)
        self._deadlines: set[Deadline] = set()
        # When it looks by itself. Whoever wants it to earlier puts something into the queue.
        self._looks_at = inf
        self._wakes: SimpleQueue[None] = SimpleQueue()

    def add(self, deadline: Deadline) -> None:
        """Call this one."""
        with _LOCK:
            self._deadlines.add(deadline)
            if deadline.at < self._looks_at:
                self._wakes.put(None)
                self._looks_at = deadline.at

    def remove(self, deadline: Deadline) -> None:
        """Do not."""
        with _LOCK:
            self._deadlines.discard(deadline)

    def run(self) -> None:
        """Call those whose time is up, again and again."""
        while True:
            for deadline in self._due():
                if deadline.is_up():
                    self.remove(deadline)
                else:
                    deadline.at = time.monotonic() + _PAUSE
            with _LOCK:
                self._looks_at = min((deadline.at for deadline in self._deadlines), default=inf)
                seconds = self._looks_at - time.monotonic()
            with suppress(Empty):
                self._wakes.get(timeout=min(max(seconds, 0), threading.TIMEOUT_MAX))

    def _due(self) -> list[Deadline]:
        with _LOCK:
            self._deadlines -= {deadline for deadline in self._deadlines if deadline.has_ended}
            now = time.monotonic()
            return [deadline for deadline in self._deadlines if deadline.at <= now]


def _clock() -> _Clock:
    """The process's."""
    global _running_clock  # noqa: PLW0603  there is one, and a child of fork() has none
    clock = _running_clock
    if clock is None or not clock.is_alive():
        with _LOCK:
            clock = _running_clock
            if clock is None or not clock.is_alive():
                # Ctrl-C may leave one that has nothing to do, and is not this.
                clock = _Clock()
                clock.start()
                _running_clock = clock
    return clock


_running_clock: _Clock | None = None
