# SPDX-License-Identifier: Apache-2.0
"""KVM_RUN in a trace: the run areas of its vCPUs, and guests that do not come back by themselves."""

from __future__ import annotations

import dataclasses
import time
from errno import EBADF, EFAULT
from threading import Condition, Thread, current_thread
from typing import TYPE_CHECKING, Any, Final

from kvmipa.abi import KVM_EXIT_MEMORY_FAULT
from kvmipa.exit_decoding import decode
from kvmipa.exits import Mmio
from kvmipa.run_area import EXIT, EXIT_REASON, IMMEDIATE_EXIT, exit_reason
from kvmipa.turn import TAKEN, end
from kvmipa.turn import new as new_turn

if TYPE_CHECKING:
    from collections.abc import Callable

    from kvmipa.backend import Backend
    from kvmipa.exits import Exit
    from kvmipa.turn import Turn

#: Seconds that a guest may take to its next exit; with its CPU emulated twice it takes a hundredth of one.
PATIENCE: Final = 10.0

#: What user space writes to is in so many bytes of the run area: the union, and the words behind it.
WRITABLE: Final = EXIT + 256 + 16

# How long somebody waits between two attempts to end a run.
_PAUSE: Final = 0.002

# KVM_RUN fails with one of them, and there is an exit nevertheless; Python has no name for EHWPOISON.
_FAULTS: Final = {-EFAULT, -133}


def exit_of(result: int, area: memoryview) -> dict[str, Any]:
    """What KVM_RUN left in the run area, as a trace has it: by the fields of kvmipa.exits.

    >>> exit_of(99, memoryview(bytearray(0x1000)))
    {'exit': {'kind': 'Unknown', 'reason': 99}}
    """
    if result < 0 and not (result in _FAULTS and exit_reason(area, EXIT_REASON)[0] == KVM_EXIT_MEMORY_FAULT):
        return {}
    return {"exit": _as_json(decode(result if result >= 0 else KVM_EXIT_MEMORY_FAULT, area))}


def _as_json(exit: Exit) -> dict[str, Any]:
    if isinstance(exit, Mmio):
        found: dict[str, Any] = {"phys_addr": hex(exit.phys_addr), "size": exit.size}
        found |= {"value": hex(exit.value)} if exit.is_write else {}
        return {"kind": "Mmio", "is_write": exit.is_write, **found}
    fields: tuple[dataclasses.Field[Any], ...] = dataclasses.fields(exit) if dataclasses.is_dataclass(exit) else ()
    names = [field.name for field in fields if field.compare]
    return {"kind": type(exit).__name__} | {name: _plain(getattr(exit, name)) for name in names}


def _plain(value: object) -> object:
    if isinstance(value, tuple):
        return [_plain(element) for element in value]
    return (int(value) if value < 1 << 16 else hex(value)) if isinstance(value, int) else value


class RunArea:
    """The run area of one vCPU, and KVM_RUN of it."""

    def __init__(self, backend: Backend, fd: int, area: memoryview) -> None:
        self._backend = backend
        self._fd = fd
        self.area = area
        self._turn: Turn = new_turn()
        self._enter: Callable[[], int] = backend.runner(fd, area, self._turn)

    def put(self, before: dict[int, bytes]) -> None:
        """What user space writes before a run; ValueError for what is beyond the part that it has."""
        self.area[IMMEDIATE_EXIT] = 0
        for offset, content in before.items():
            if not 0 <= offset <= WRITABLE - len(content):
                raise ValueError(f"{len(content)} bytes at {offset}: user space writes to {WRITABLE} of the run area")
            self.area[offset : offset + len(content)] = content

    def run(self) -> int:
        """One KVM_RUN."""
        result = self._enter()
        self._turn[TAKEN] = 0
        return result

    def kick(self) -> None:
        """Have it come back."""
        self.area[IMMEDIATE_EXIT] = 1
        self._backend.kick(self._fd, self._turn)

    def let_go(self) -> None:
        """The descriptor is about to be closed."""
        end(self._turn, EBADF)


class Watchdog:
    """A thread that ends runs whose time is up."""

    def __init__(self) -> None:
        self._changed = Condition()
        self._thread: Thread | None = None
        self._watched: tuple[float, RunArea] | None = None
        self.has_barked = False

    def run(self, area: RunArea, seconds: float) -> int:
        """KVM_RUN, for so long at most."""
        if self._thread is None:
            self._thread = Thread(target=self._watch, name="kvmipa replay", daemon=True)
            self._thread.start()
        self.has_barked = False
        with self._changed:
            self._watched = (time.monotonic() + seconds, area)
            # A deadline that is far away is seen in time.
            if seconds < PATIENCE:
                self._changed.notify()
        try:
            return area.run()
        finally:
            with self._changed:
                self._watched = None

    def close(self) -> None:
        """End the thread; the next run has another."""
        with self._changed:
            self._thread = None
            self._changed.notify_all()

    def _watch(self) -> None:
        with self._changed:
            while self._thread is current_thread():
                watched = self._watched
                if watched is None or watched[0] > time.monotonic():
                    left = PATIENCE / 8 if watched is None else watched[0] - time.monotonic()
                    self._changed.wait(min(max(left, 0), PATIENCE / 8))
                    continue
                self.has_barked = True
                watched[1].kick()
                self._changed.wait(_PAUSE)
