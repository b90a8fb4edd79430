# SPDX-License-Identifier: Apache-2.0
"""Eventfds of this process, as KVM gets them: by their number (eventfd_ctx_fdget in fs/eventfd.c)."""

from __future__ import annotations

import os
import re
import select
from contextlib import suppress
from dataclasses import dataclass
from errno import EBADF, EINVAL
from pathlib import Path
from typing import Any, Final

from kvmipa.backend.emulated.descriptors import is_open
from kvmipa.backend.emulated.requests import RefusedError

_LINK: Final = "anon_inode:[eventfd]"
_PROC: Final = "/proc/self/"


def eventfd(fd: int) -> int:
    """Which eventfd is behind a number: one value for all its duplicates.

    Raises RefusedError: EBADF where the number is not open, EINVAL where it is something else. Where the system does
    not tell (no /proc, Linux before 5.2, or no free descriptor to look with) the answer is negative and stands for the
    number alone: whatever is open passes where there is no /proc, and duplicates are taken for other eventfds. A real
    kernel needs no descriptor for this, and knows duplicates always.
    """
    if not is_open(fd):
        raise RefusedError(EBADF)
    try:
        if os.readlink(f"{_PROC}fd/{fd}") != _LINK:  # noqa: PTH115  pathlib costs more than the call
            raise RefusedError(EINVAL)
        found = re.search(r"^eventfd-id:\s*(\d+)", Path(f"{_PROC}fdinfo/{fd}").read_text(), re.MULTILINE)
    except OSError:
        return -1 - fd
    return int(found[1]) if found else -1 - fd


def _duplicate(identity: int) -> int | None:
    """Some number of an eventfd."""
    for name in os.listdir(f"{_PROC}fd") if identity >= 0 else ():  # noqa: PTH208  names, not paths
        with suppress(RefusedError):
            if eventfd(int(name)) == identity:
                return int(name)
    return None


def _is_ready(fd: int, event: int) -> bool:
    """Whether reading, or writing, does not wait."""
    poll = select.poll()
    poll.register(fd, event)
    return bool(poll.poll(0))


@dataclass(eq=False)
class HeldEventFd:
    """An eventfd that something in a VM refers to. identity: None once it is closed, though it is referred to still."""

    identity: int | None
    fd: int


class EventFds:
    """The eventfds that a VM refers to, and whether they are still open under any number.

    Whoever uses it holds Descriptors.eventfd_lock. irqfds: eventfd and gsi.

    Another eventfd may have got the number and the identity of one that is closed. Linux's epoll forgets a file when
    its last descriptor is closed, and takes a descriptor itself; where there is none, everything counts as open.
    """

    def __init__(self) -> None:
        self.irqfds: list[tuple[HeldEventFd, int]] = []
        self._held: dict[int, HeldEventFd] = {}
        self._epoll: Any = None

    def hold(self, fd: int) -> HeldEventFd:
        """Refer to what is behind a number; RefusedError as eventfd() has it."""
        identity = eventfd(fd)
        self.refresh()
        if self._epoll is None and not self._held and hasattr(select, "epoll"):
            with suppress(OSError):
                self._epoll = select.epoll()
        held = self._held.get(fd)
        if held is None or not self.is_to(held, fd, identity):
            held = self._held[fd] = HeldEventFd(identity, fd)
            if self._epoll is not None:
                # What is watched already is so from a time before.
                with suppress(OSError):
                    self._epoll.register(fd, 0)
        return held

    def is_to(self, held: HeldEventFd, fd: int, identity: int) -> bool:
        """Whether something is referred to that is open under a number, and is what eventfd() says of it."""
        if held.identity is None or held.identity == identity:
            return held.identity is not None
        # One of them was looked at when no descriptor was free. Epoll knows files together with their numbers.
        is_unknown = held.identity < 0 or identity < 0
        return is_unknown and held.fd == fd and self._is_watched(fd)

    def signal(self, held: HeldEventFd) -> None:
        """Add 1 to its counter (eventfd_signal): under the number that it had, or that of a duplicate.

        What is closed everywhere nobody reads. A counter that has reached its end stays there; nothing waits.
        """
        self.refresh()
        fd = self._number(held)
        with suppress(OSError):
            if fd is not None and _is_ready(fd, select.POLLOUT):
                os.eventfd_write(fd, 1)

    def signalled(self) -> list[int]:
        """The gsis of the irqfds whose eventfds were signalled; their counters are 0 then (irqfd_wakeup)."""
        if not self.irqfds:
            return []
        self.refresh()
        return [gsi for held, gsi in self.irqfds if self._was_signalled(held)]

    def _was_signalled(self, held: HeldEventFd) -> bool:
        fd = self._number(held)
        with suppress(OSError):
            return fd is not None and _is_ready(fd, select.POLLIN) and os.eventfd_read(fd) > 0
        return False

    def _number(self, held: HeldEventFd) -> int | None:
        """Some number that something has which is referred to: that from then, or a duplicate's."""
        if held.identity is None or self._is_watched(held.fd):
            return None if held.identity is None else held.fd
        return _duplicate(held.identity)

    def _is_watched(self, fd: int) -> bool:
        """Whether a number has the same eventfd as when it was referred to; this takes no descriptor."""
        if self._epoll is None:
            return True
        try:
            self._epoll.modify(fd, 0)
        except OSError:
            return False
        return True

    def refresh(self) -> None:
        """Find out which eventfds were closed since; an irqfd ends with its eventfd (irqfd_wakeup, EPOLLHUP)."""
        still_open = self._watched()
        if still_open is None:
            return
        for fd in self._held.keys() - still_open:
            self._held.pop(fd).identity = None
        self.irqfds = [irqfd for irqfd in self.irqfds if irqfd[0].identity is not None]

    def _watched(self) -> set[int] | None:
        """The numbers that eventfds had which are open, or None where that does not show."""
        if self._epoll is None:
            return None
        try:
            text = Path(f"{_PROC}fdinfo/{self._epoll.fileno()}").read_text()
        except OSError:
            return None
        return {int(number) for number in re.findall(r"^tfd:\s*(\d+)", text, re.MULTILINE)}
