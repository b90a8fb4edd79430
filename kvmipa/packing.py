# SPDX-License-Identifier: Apache-2.0
"""Structs of unsigned numbers that a caller gives: what does not fit a field is refused by the field's name."""

from __future__ import annotations

import struct
from operator import index
from typing import TYPE_CHECKING

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
        self._layout, self._names = STRUCTS[name]
        packed = struct.Struct(self._layout)
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
            for (name, bits), value in zip(self._fields(), values, strict=False):
                unsigned(name, value, bits)
            raise

    def _fields(self) -> Iterator[tuple[str, int]]:
        """Name and width in bits of each number; those of an array have its name."""
        names, times = iter(self._names), ""
        for letter in self._layout.lstrip("="):
            if letter.isdigit():
                times += letter
                continue
            yield from [(next(names), 8 * struct.calcsize("=" + letter))] * int(times or 1)
            times = ""
