# SPDX-License-Identifier: Apache-2.0
"""Structs of unsigned numbers that a caller gives: what does not fit a field is refused by the field's name."""

from __future__ import annotations

import struct
from operator import index
from typing import TYPE_CHECKING, NamedTuple

from kvmipa._abi_table import STRUCTS

if TYPE_CHECKING:
    from collections.abc import Iterator


def unsigned(name: str, value: int, bits: int) -> int:
    """The value as an int; TypeError for what is none, OverflowError for what does not fit ``bits`` bits.

    >>> unsigned("vcpu_id", 1 << 32, 32)
    Traceback (most recent call last):
    ...
    OverflowError: vcpu_id=4294967296 does not fit 32 bits
    """
    try:
        number = index(value)
    except TypeError:
        raise TypeError(f"{name} is an int, not {type(value).__name__}") from None
    if not 0 <= number < 1 << bits:
        raise OverflowError(f"{name}={number} does not fit {bits} bits")
    return number


class Field(NamedTuple):
    """A field of a struct: where it begins, in bytes; how many numbers it is, and the bits of each."""

    name: str
    offset: int
    numbers: int
    bits: int


def fields_of(struct_name: str) -> Iterator[Field]:
    """The fields of a struct of the ABI.

    >>> [*fields_of("dirty_log")][-1]
    Field(name='dirty_bitmap', offset=8, numbers=1, bits=64)
    """
    layout, names = STRUCTS[struct_name]
    following, times, offset = iter(names), "", 0
    for letter in layout.lstrip("="):
        if letter.isdigit():
            times += letter
            continue
        count, size = int(times or 1), struct.calcsize("=" + letter)
        yield Field(next(following), offset, count, 8 * size)
        offset, times = offset + count * size, ""


class PackedStruct:
    """A struct of the ABI, all of whose fields are unsigned numbers.

    >>> PackedStruct("arm_device_addr").pack(1, 0x800_0000).hex()
    '01000000000000000000000800000000'
    >>> PackedStruct("arm_device_addr").pack(1, -1)
    Traceback (most recent call last):
    ...
    OverflowError: addr=-1 does not fit 64 bits
    """

    def __init__(self, name: str) -> None:
        self._name = name
        packed = struct.Struct(STRUCTS[name][0])
        self.size = packed.size
        self.unpack = packed.unpack
        self._pack = packed.pack
        self._zeros = (0,) * len(packed.unpack(bytes(packed.size)))

    def pack(self, *values: int) -> bytearray:
        """The struct with these values in order, 0 where there are no more.

        TypeError names the first field whose value is not an int, OverflowError the first whose value does not fit.
        """
        try:
            return bytearray(self._pack(*values, *self._zeros[len(values) :]))
        except struct.error:
            fields = (field for field in fields_of(self._name) for _ in range(field.numbers))
            for field, value in zip(fields, values, strict=False):
                unsigned(field.name, value, field.bits)
            raise
