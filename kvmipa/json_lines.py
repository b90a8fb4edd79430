# SPDX-License-Identifier: Apache-2.0
"""Files of JSON lines whose first line is a header: it names the kind of file and the version of its format."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator


def read(lines: Iterable[str], kind: str, version: int) -> tuple[dict[str, Any], Iterator[dict[str, Any]]]:
    """The header and what follows it; ValueError where it is no such file.

    >>> header, rest = read(['{"kvmipa_trace": 1, "host": "here"}', '{"open": "kvm"}'], "kvmipa_trace", 1)
    >>> header, list(rest)
    ({'kvmipa_trace': 1, 'host': 'here'}, [{'open': 'kvm'}])
    """
    rows = iter(lines)
    header = json.loads(next(rows, "{}"))
    if not isinstance(header, dict) or header.get(kind) != version:
        raise ValueError(f"not a {kind.replace('_', ' ')} of format {version}: {header!r}")
    return header, map(json.loads, rows)


def text(lines: Iterable[dict[str, Any]], separators: tuple[str, str] | None = None) -> str:
    """A line for each object."""
    return "".join(json.dumps(line, separators=separators) + "\n" for line in lines)
