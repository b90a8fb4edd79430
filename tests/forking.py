# SPDX-License-Identifier: Apache-2.0
"""What a child process gets of what its parent made."""

from __future__ import annotations

import os
from errno import EIO
from typing import TYPE_CHECKING

import pytest

from kvmipa import errors

if TYPE_CHECKING:
    from collections.abc import Callable

needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")


def in_child(ask: Callable[[], int]) -> int:
    """What a forked child gets; it comes back through a pipe."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.write(writer, str(ask()).encode())
        finally:
            os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as answer:
        text = answer.read()
    os.waitpid(child, 0)
    return int(text)


def assert_belongs_to_this_process(use: Callable[[], object]) -> None:
    """A child that does it gets OtherProcessError, with the kernel's EIO."""

    def ask() -> int:
        try:
            use()
        except errors.OtherProcessError as error:
            return error.errno or 0
        return 0

    assert in_child(ask) == EIO
