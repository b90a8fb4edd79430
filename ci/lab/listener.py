# SPDX-License-Identifier: Apache-2.0
"""Who is told what a guest says while it says it."""

from __future__ import annotations

import sys
from typing import BinaryIO


class Listener:
    """Shows what a guest says while it says it; this one shows nothing."""

    def begin(self) -> None:
        """The kernel has booted, the command is about to run."""

    def end(self) -> None:
        """The command has ended and everything it left has arrived."""

    def kernel(self, text: bytes) -> None:
        """The kernel's console said this line."""

    def stdout(self, data: bytes) -> None:
        """The command wrote this to its standard output."""

    def stderr(self, data: bytes) -> None:
        """The command wrote this to its standard error."""


class Terminal(Listener):
    """Passes the command's output on; the kernel's lines go to stderr with a mark before them.

    `console` says which of the kernel's lines: "all", or those that come while the "command" runs, or "none".
    """

    def __init__(self, *, console: str = "command") -> None:
        self._console = console
        self._running = False

    def begin(self) -> None:
        self._running = True

    def end(self) -> None:
        self._running = False

    def kernel(self, text: bytes) -> None:
        if self._console == "all" or (self._console == "command" and self._running):
            put(sys.stderr.buffer, b"kernel| " + text)

    def stdout(self, data: bytes) -> None:
        put(sys.stdout.buffer, data)

    def stderr(self, data: bytes) -> None:
        put(sys.stderr.buffer, data)


def put(stream: BinaryIO, data: bytes) -> None:
    """Write at once."""
    stream.write(data)
    stream.flush()
