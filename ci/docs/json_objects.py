# SPDX-License-Identifier: Apache-2.0
"""What commands print with --json, taken by running them on an emulated host."""

from __future__ import annotations

import contextlib
import io
from typing import TYPE_CHECKING, Final

from kvmipa.cli import main

if TYPE_CHECKING:
    from collections.abc import Iterator

_SHOWN: Final = (
    "kvmipa --host apple-m1 probe --json",
    "kvmipa --host apple-m1 create --ipa-bits 36 --json",
    "kvmipa --host apple-m1 create --json",
    "kvmipa type decode 0x80000028 --json",
    "kvmipa --host apple-m1 stage2 --ipa-bits 36 --json",
    "kvmipa --host apple-m1 plan --ram 4G --strategy minimum --json",
)

# A list of this many elements or more is the same thing again.
_LONGEST: Final = 80


def objects() -> Iterator[tuple[str, str]]:
    """Each command, and the object that it printed."""
    for command in _SHOWN:
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(io.StringIO()):
            main(command.split()[1:])
        lines = printed.getvalue().splitlines()
        yield command, "\n".join(lines if len(lines) <= _LONGEST else [*lines[:_LONGEST], "..."])
