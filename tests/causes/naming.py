# SPDX-License-Identifier: Apache-2.0
"""What an error has to say of itself."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from kvmipa.errors import KvmError


def assert_names(error: KvmError, kind: type[KvmError], code: int, ioctl: str, words: str = "") -> None:
    """It is of exactly this class, with the kernel's errno, the request, and these words in its cause."""
    found = (type(error), error.errno, error.ioctl)
    assert found == (kind, code, ioctl), found
    assert words in error.cause, error.cause
