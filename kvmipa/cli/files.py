# SPDX-License-Identifier: Apache-2.0
"""Files that commands write."""

from __future__ import annotations

import errno
import os
from contextlib import suppress
from pathlib import Path
from typing import Final

_OF_THE_DIRECTORY: Final = (errno.EACCES, errno.EPERM, errno.EROFS, errno.EBUSY)


def write_text(name: str, text: str) -> None:
    """Write a file, with the directories that lead to it; OSError, whose message names it, where that fails.

    The file is whole or what it was before; where its directory takes no further file, and for what is no regular file,
    it is written in place.
    """
    path = Path(name)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _write(path, text.encode("utf-8", "backslashreplace"))
    except (OSError, ValueError) as error:
        # ValueError: a name with a zero byte.
        reason = getattr(error, "strerror", None) or str(error)
        raise _NotWrittenError(getattr(error, "errno", None), f"cannot write {name}: {reason}") from None


def obstacle(name: str) -> str:
    """Why a file could not be written, as far as that can be told without trying; "" where nothing is in the way."""
    path = Path(name)
    try:
        if path.is_dir():
            return "it is a directory"
        if path.exists() and os.access(path, os.W_OK):
            return ""
        above = next(one for one in path.absolute().parents if one.exists())
    except (OSError, ValueError) as error:
        return getattr(error, "strerror", None) or str(error)
    if not above.is_dir():
        return f"{above} is no directory"
    return "" if os.access(above, os.W_OK | os.X_OK) else f"{above} takes no further file from this user"


def _write(path: Path, content: bytes) -> None:
    if path.exists() and not path.is_file():
        path.write_bytes(content)
        return
    # Of a symbolic link, what it leads to.
    target = Path(os.path.realpath(path))
    beside = target.with_name(f".kvmipa-{os.getpid()}-{os.urandom(4).hex()}")
    try:
        with beside.open("xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        if target.exists():
            beside.chmod(target.stat().st_mode & 0o777)
        beside.replace(target)
    except BaseException as error:
        with suppress(OSError):
            beside.unlink()
        # EACCES, EPERM, EROFS: in this directory; EBUSY: something is mounted on the file. The disk is not full.
        if not isinstance(error, OSError) or error.errno not in _OF_THE_DIRECTORY or not target.exists():
            raise
        target.write_bytes(content)


class _NotWrittenError(OSError):
    def __str__(self) -> str:
        return str(self.args[-1])
