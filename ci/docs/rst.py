# SPDX-License-Identifier: Apache-2.0
"""reStructuredText by parts, for pages that are made from data."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from kvmipa import errors

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence


def escape(text: str) -> str:
    """Plain text: nothing in it is markup."""
    return re.sub(r"([\\*`|_<>])", r"\\\1", text)


def code(text: str) -> str:
    """Text as code; an empty string stays one."""
    return f"``{text}``" if text else ""


def table(head: Sequence[str], body: Iterable[Sequence[str]], widths: str = "auto") -> str:
    """A table; cells are markup, of one or more lines."""
    lines = [".. list-table::", "   :header-rows: 1", f"   :widths: {widths}", ""]
    for row in (head, *body):
        for number, cell in enumerate(row):
            first, *more = cell.splitlines() or [""]
            lines.append(f"   {'*' if number == 0 else ' '} - {first}".rstrip())
            lines += [f"       {line}".rstrip() for line in more]
    return "\n".join(lines) + "\n"


def literal(lines: Iterable[str], language: str = "text") -> str:
    """A block that is shown as it is."""
    return "\n".join([f".. code-block:: {language}", "", *(f"   {line}".rstrip() for line in lines)]) + "\n"


def indented(text: str, by: int = 3) -> str:
    """Every line further to the right."""
    return "\n".join(" " * by + line if line else "" for line in text.splitlines())


def plain_docstring(lines: Iterable[str]) -> Iterator[str]:
    """The lines of a docstring, whose prose is plain text beside ``code``; examples stay as they are."""
    in_example = False
    for line in lines:
        in_example = line.lstrip().startswith(">>>") or (in_example and bool(line.strip()))
        yield line if in_example else _plain(line)


def _plain(line: str) -> str:
    parts = re.split(r"(``.+?``|:\w+:`[^`]+`)", line)
    return "".join(part if number % 2 else _escaped_prose(part) for number, part in enumerate(parts))


def _escaped_prose(text: str) -> str:
    text = re.sub(r"([*`|])", r"\\\1", text)
    text = re.sub(r"(?<![\w.])[A-Z]\w+Error\b", lambda name: _link(name[0]), text)
    return re.sub(r"(?<=\w)_(?!\w)", r"\\_", text)


def _link(name: str) -> str:
    """An error of kvmipa's as a link."""
    return rf":exc:`~kvmipa.errors.{name}`\ " if hasattr(errors, name) else name
