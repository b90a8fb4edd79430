# SPDX-License-Identifier: Apache-2.0
"""What commands print: aligned text, or one JSON object."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any, Final

from kvmipa.errno_names import errno_name

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from kvmipa.stage2.geometry import Geometry
    from kvmipa.system import Kvm

SCHEMA: Final = 1


class Output:
    """Standard output of one command. Text may have many parts; JSON is one object, whatever happens."""

    def __init__(self, *, as_json: bool) -> None:
        self.as_json = as_json

    def result(self, found: dict[str, Any], text: str) -> None:
        """Print a command's result, in the one form or the other."""
        if self.as_json:
            import json

            print(json.dumps({"schema": SCHEMA, **found}, indent=2))
        else:
            print(text)

    def fail(self, error: Exception) -> None:
        """Print an error: on standard error, and as the JSON object where one is expected."""
        print(f"kvmipa: {error}", file=sys.stderr)
        if not self.as_json:
            return
        import json

        found: dict[str, Any] = {"class": type(error).__name__, "message": str(error).partition("\n")[0]}
        for part in ("asked", "available", "cause", "fix"):
            if getattr(error, part, None):
                found[part] = getattr(error, part)
        code = getattr(error, "errno", None)
        if code is not None:
            found["errno"] = errno_name(code)
        print(json.dumps({"schema": SCHEMA, "error": found}, indent=2))


def rows(pairs: Iterable[tuple[str, str]]) -> str:
    """Names and values in two columns."""
    table = list(pairs)
    width = max(len(name) for name, _ in table)
    return "\n".join(f"{name:<{width}}  {value}".rstrip() for name, value in table)


def columns(head: Sequence[str], body: Sequence[Sequence[str]]) -> str:
    """A table with a head line."""
    widths = [max(len(row[column]) for row in (head, *body)) for column in range(len(head))]
    return "\n".join(
        "  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)).rstrip() for row in (head, *body)
    )


def runs(numbers: Iterable[int]) -> str:
    """Integers as runs.

    >>> runs([0, 32, 33, 34, 40])
    '0, 32..34, 40'
    """
    spans: list[list[int]] = []
    for number in numbers:
        if spans and number == spans[-1][1] + 1:
            spans[-1][1] = number
        else:
            spans.append([number, number])
    return ", ".join(f"{low}" if low == high else f"{low}..{high}" for low, high in spans)


def headline(kvm: Kvm) -> tuple[str, str]:
    """REAL or EMULATED, and which host: the first thing that every report says."""
    import os

    profile = kvm._backend.profile
    if profile is None:
        uname = os.uname()
        return "REAL", f"{kvm.device}, Linux {uname.release} {uname.machine}"
    name = profile.name or "custom host"
    return (
        "EMULATED",
        f"{name}: Linux {profile.release}, {profile.page_size >> 10}K pages, mode {profile.effective_mode}",
    )


class Progress:
    """A line on standard error that counts, where somebody watches."""

    def __init__(self, total: int, what: str) -> None:
        self._total = total
        self._what = what
        self._watched = sys.stderr.isatty()

    def show(self, done: int) -> None:
        """Replace the line."""
        if self._watched:
            print(f"\r{self._what}: {done} of {self._total}", end="", file=sys.stderr, flush=True)

    def clear(self) -> None:
        """Remove the line."""
        if self._watched:
            print("\r\033[K", end="", file=sys.stderr, flush=True)


def shape_numbers(shape: Geometry) -> dict[str, Any]:
    """The shape of stage-2 tables, as JSON shows it."""
    return {
        "page_size": shape.page_size,
        "levels": shape.levels,
        "start_level": shape.start_level,
        "concatenated_tables": shape.concatenated_tables,
        "pgd_size": shape.pgd_size,
    }
