# SPDX-License-Identifier: Apache-2.0
"""What a trace of somebody else's must not do: reach anything of this process but what it was given.

An address that a kernel writes to is one of a trace's own buffers or areas, or one at which no process has memory; a
descriptor has a name. Where a guest may write is looked at when it runs (kvmipa.trace.session), for that depends on
what became of the slots.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from kvmipa.abi import REQUESTS
from kvmipa.trace.arguments import POINTERS
from kvmipa.trace.operations import Ioctl, Map, MapRunArea, Protect, Run, Write
from kvmipa.trace.session import CLOSED, NO_MEMORY_BELOW, NO_MEMORY_FROM, SYMBOL
from kvmipa.trace.values import Bytes, Struct

if TYPE_CHECKING:
    from collections.abc import Iterator

    from kvmipa.trace.operations import Operation
    from kvmipa.trace.values import Value

_TAKES_ADDRESS: Final = 0xC000_0000
_NAME: Final = re.compile(r"[A-Za-z_][\w.]*")
_AREA: Final = re.compile(r"mem\w*")
_PAGES: Final = 1 << 16
_SECONDS: Final = 3600

# No value lies deeper than a struct in a list of structs.
_DEEPEST: Final = 8


def check(operation: Operation) -> None:
    """ValueError or TypeError for an operation that cannot be, or must not."""
    if isinstance(operation, Ioctl):
        _check_ioctl(operation)
        return
    name = getattr(operation, "vcpu", None) or getattr(operation, "where", None) or getattr(operation, "name", None)
    if not isinstance(name, str):
        raise TypeError(f"a name is text, not {name!r}")
    if isinstance(operation, (Map, Protect)):
        if operation.protection not in {"rw", "ro", "none"}:
            raise ValueError(f"protection {operation.protection!r}: it is rw, ro or none")
        if not _AREA.fullmatch(name):
            raise ValueError(f"an area's name begins with mem, not {name!r}")
    if isinstance(operation, Write):
        _check_value(operation.data)
        _check_symbol(name)
    if isinstance(operation, MapRunArea) and not (0 <= operation.first < _PAGES and 0 < operation.pages < _PAGES):
        raise ValueError(f"{operation.pages!r} pages from page {operation.first!r} on")
    if isinstance(operation, Run) and not 0 <= (operation.interrupted or 0) <= _SECONDS:
        raise ValueError(f"interrupted after {operation.interrupted!r} s")


def _check_ioctl(operation: Ioctl) -> None:
    request, argument = operation.request, operation.argument
    if isinstance(request, str) and request not in REQUESTS:
        raise ValueError(f"no request is called {request!r}")
    if isinstance(operation.on, int):
        if 0 <= operation.on < CLOSED:
            raise ValueError(f"descriptor {operation.on} may be another than the trace's: it has to have a name")
    elif not isinstance(operation.on, str) or not _NAME.fullmatch(operation.on):
        raise ValueError(f"no descriptor can be called {operation.on!r}")
    if operation.new is not None and not (isinstance(operation.new, str) and _NAME.fullmatch(operation.new)):
        raise ValueError(f"no descriptor can be called {operation.new!r}")
    if operation.number & _TAKES_ADDRESS and isinstance(argument, int):
        _check_address(argument)
    _check_value(argument)


def _check_value(value: Value, depth: int = 0) -> None:
    if depth > _DEEPEST:
        raise ValueError("data that points to data that points to data, and so on")
    if isinstance(value, str):
        _check_symbol(value)
    elif isinstance(value, tuple):
        for piece in value:
            if not isinstance(piece, (Struct, Bytes)):
                raise TypeError(f"{piece!r} is not data")
            _check_value(piece, depth + 1)
    elif isinstance(value, Struct):
        pointer = POINTERS.get(value.name)
        for name, field in value.fields.items():
            if name == pointer and isinstance(field, int):
                _check_address(field)
            for element in _elements(field):
                _check_value(element, depth + 1)


def _elements(field: object) -> Iterator[Value]:
    if isinstance(field, list):
        yield from field
    elif isinstance(field, (int, str, Struct, Bytes, tuple)):
        yield field
    else:
        raise TypeError(f"no value: {field!r}")


def _check_symbol(symbol: str) -> None:
    if not SYMBOL.fullmatch(symbol):
        raise ValueError(f"not a symbol: {symbol!r}")


def _check_address(address: int) -> None:
    if NO_MEMORY_BELOW <= address & (1 << 64) - 1 < NO_MEMORY_FROM:
        raise ValueError(f"address {address:#x} may be this process's own memory: a trace has symbols and data instead")
