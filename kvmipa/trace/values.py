# SPDX-License-Identifier: Apache-2.0
"""The values of a trace: numbers, symbols, and data that lies in a buffer."""

from __future__ import annotations

import base64
import re
import zlib
from dataclasses import dataclass
from functools import cache
from itertools import islice
from struct import calcsize
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from kvmipa.abi import STRUCTS

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

# What attributes point to.
_PLAIN: Final[dict[str, tuple[str, tuple[str, ...]]]] = {"u32": ("=I", ("value",)), "u64": ("=Q", ("value",))}

# Numbers up to here are written in decimal.
_SMALL: Final = 0x1_0000

# From so many bytes on, zeros are counted and other bytes compressed.
_MANY_ZEROS: Final = 64
_MANY_BYTES: Final = 256

#: What one piece of data can have at most: a trace is foreign input, and compressed data small.
LARGEST: Final = 16 << 20

# One element of a format: how many, and of which type.
_ELEMENT: Final = re.compile(r"(\d*)([BHIQhi])")


@dataclass(frozen=True)
class Struct:
    """A struct by the values of its fields; those that are absent are 0.

    An array takes a sequence, whose end may be missing. Raises ValueError for a struct or a field that the ABI has not.
    """

    name: str
    fields: Mapping[str, Value | Sequence[Value]]

    def __post_init__(self) -> None:
        """Check the names."""
        unknown = self.fields.keys() - layout_of(self.name).fields.keys()
        if unknown:
            raise ValueError(f"struct {self.name} has no field {', '.join(sorted(unknown))}")

    @property
    def size(self) -> int:
        """Length in bytes."""
        return layout_of(self.name).size

    def pack(self, number_of: Callable[[Value], int]) -> bytes:
        """The bytes; number_of makes a number of a value that is none."""
        layout = layout_of(self.name)
        content = bytearray(layout.size)
        for name, value in self.fields.items():
            offset, width, count, mask = layout.fields[name]
            if isinstance(value, int):
                content[offset : offset + width] = (value & mask).to_bytes(width, "little")
            elif count == 1:
                content[offset : offset + width] = (number_of(value) & mask).to_bytes(width, "little")  # type: ignore[arg-type]
            else:
                for element in islice(value, count):  # type: ignore[arg-type]
                    content[offset : offset + width] = (number_of(element) & mask).to_bytes(width, "little")
                    offset += width
        return bytes(content)


@dataclass(frozen=True)
class Bytes:
    """Bytes as they are."""

    content: bytes

    @property
    def size(self) -> int:
        """Length in bytes."""
        return len(self.content)

    def pack(self, number_of: Callable[[Value], int]) -> bytes:
        """The bytes."""
        return self.content


# Data in a buffer, one piece behind the other; its value is the buffer's address.
Data = tuple[Struct | Bytes, ...]
Value = int | str | Struct | Bytes | Data


def struct(name: str, /, **fields: Value | Sequence[Value]) -> Struct:
    """A struct by keywords.

    >>> struct("irq_level", irq=32, level=1).pack(int).hex()
    '2000000001000000'
    """
    return Struct(name, fields)


def u32(value: int = 0) -> Struct:
    """A buffer of one 32-bit number."""
    return Struct("u32", {"value": value})


def u64(value: int = 0) -> Struct:
    """A buffer of one 64-bit number."""
    return Struct("u64", {"value": value})


class Place(NamedTuple):
    """Where a field is: offset and width of an element in bytes, how many there are, and the mask of one."""

    offset: int
    width: int
    number: int
    mask: int


@dataclass(frozen=True)
class Layout:
    """A struct's size in bytes, and where its fields are."""

    size: int
    fields: Mapping[str, Place]


@cache
def layout_of(name: str) -> Layout:
    """The layout of a struct of the ABI; ValueError where there is none."""
    found = _PLAIN.get(name) or STRUCTS.get(name)
    if found is None:
        raise ValueError(f"no struct is called {name!r}")
    text, names = found
    elements = [(int(count or 1), calcsize("=" + kind)) for count, kind in _ELEMENT.findall(text)]
    fields, offset = {}, 0
    for field, (count, width) in zip(names, _spread(elements, len(names)), strict=True):
        # Unsigned throughout: a field of -1 is its mask.
        fields[field] = Place(offset, width, count, (1 << 8 * width) - 1)
        offset += count * width
    return Layout(offset, fields)


def _spread(elements: list[tuple[int, int]], count: int) -> list[tuple[int, int]]:
    """One element a field: a format may count plain fields of one type together, as in "2I"."""
    if len(elements) == count:
        return elements
    return [(1, width) for number, width in elements for _ in range(number)]


# ------------------------------------------------------------------------------------------------ JSON


def as_json(value: Value) -> Any:
    """A value as JSON has it.

    >>> as_json(struct("one_reg", id=1 << 60, addr="null"))
    {'struct': 'one_reg', 'id': '0x1000000000000000', 'addr': 'null'}
    """
    if isinstance(value, int):
        return value if 0 <= value < _SMALL else hex(value)
    if isinstance(value, Struct):
        return {"struct": value.name} | {name: _field_as_json(field) for name, field in value.fields.items()}
    if isinstance(value, Bytes):
        return _bytes_as_json(value.content)
    if isinstance(value, tuple):
        return [as_json(piece) for piece in value]
    return value


def _bytes_as_json(content: bytes) -> dict[str, Any]:
    size = len(content)
    if size >= _MANY_ZEROS and not content.strip(b"\0"):
        return {"zeros": size}
    if size < _MANY_BYTES:
        return {"hex": content.hex()}
    return {"zlib": base64.b64encode(zlib.compress(content)).decode(), "size": size}


def _bytes_from_json(found: dict[str, Any]) -> bytes | None:
    """The bytes; None where it is something else. Raises ValueError for more than LARGEST, and what is damaged."""
    if "hex" in found:
        return bytes.fromhex(found["hex"])
    if "zeros" not in found and "zlib" not in found:
        return None
    size = found["zeros"] if "zeros" in found else found["size"]
    if not isinstance(size, int) or not 0 <= size <= LARGEST:
        raise ValueError(f"data of {size!r} bytes: a trace has {LARGEST} at most in one piece")
    if "zeros" in found:
        return bytes(size)
    try:
        content = zlib.decompressobj().decompress(base64.b64decode(found["zlib"], validate=True), size + 1)
    except zlib.error as error:
        raise ValueError(f"data that cannot be decompressed: {error}") from None
    if len(content) != size:
        raise ValueError(f"data that should have {size} bytes has {'more' if len(content) > size else len(content)}")
    return content


def _field_as_json(field: Value | Sequence[Value]) -> Any:
    return [as_json(element) for element in field] if isinstance(field, list) else as_json(field)  # type: ignore[arg-type]


def from_json(found: Any) -> Value:
    """The inverse of as_json()."""
    if isinstance(found, str):
        return int(found, 16) if found.startswith(("0x", "-0x")) else found
    if isinstance(found, list):
        return tuple(from_json(piece) for piece in found)  # type: ignore[misc]
    if isinstance(found, int):
        return int(found)
    if not isinstance(found, dict):
        raise TypeError(f"no value: {found!r}")
    content = _bytes_from_json(found)
    if content is not None:
        return Bytes(content)
    if "struct" not in found:
        raise ValueError(f"no value: {found!r}")
    name = found["struct"]
    arrays = {field for field, place in layout_of(name).fields.items() if place.number > 1}
    return Struct(
        name,
        {
            field: [from_json(element) for element in value]
            if field in arrays and isinstance(value, list)
            else from_json(value)
            for field, value in found.items()
            if field != "struct"
        },
    )
