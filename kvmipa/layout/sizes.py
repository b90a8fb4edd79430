# SPDX-License-Identifier: Apache-2.0
"""Sizes and addresses as people write them: "64G", "1.5GiB", "0x40000000"."""

from __future__ import annotations

from typing import Final

from kvmipa.layout.errors import LayoutError
from kvmipa.machine_type import size_text

#: Powers of two, as QEMU and kvmtool read them; "GB" is refused, for it is 10^9 bytes to some.
UNITS: Final = {"": 0, "B": 0, "BYTES": 0, "K": 10, "M": 20, "G": 30, "T": 40, "P": 50, "E": 60}
UNITS_TEXT: Final = "K, M, G, T, P or E (powers of two: KiB, MiB ... mean the same), or none for bytes"

# Four digits are read at a glance.
_LONG_NUMBER: Final = 10000

_DIGITS: Final = frozenset("0123456789")


def parse_size(text: str | int, what: str = "size") -> int:
    """Bytes of a size or an address; the inverse of machine_type.size_text().

    what: its name in errors. Raises LayoutError (a ValueError) for what is no size, names an unknown unit, or is not a
    whole number of bytes.

    >>> parse_size("64G") == 64 << 30, parse_size("1.5 GiB") == 3 << 29, parse_size("0x4000_0000") == 1 << 30
    (True, True, True)
    >>> parse_size("64Q")
    Traceback (most recent call last):
    ...
    kvmipa.layout.errors.LayoutError: size '64Q': no unit 'Q'; there are K, M, G, T, P or E (powers of two: KiB, ...
    """
    if isinstance(text, bool) or not isinstance(text, (str, int)):
        raise LayoutError(f'{what} {text!r}: a number of bytes, or text like "64G", is wanted')
    if isinstance(text, int):
        return text
    word = text.strip()
    if word[:1] == "-":
        raise LayoutError(f"{what} {text!r}: is negative")
    if word[:2].lower() == "0x":
        return _hexadecimal(word, text, what)
    end = next((place for place, letter in enumerate(word) if letter not in _DIGITS and letter not in "._"), len(word))
    number, unit = word[:end], word[end:].strip()
    if not number:
        raise _no_number(text, what)
    return _scaled(number, _shift(unit, text, what), text, what)


def _hexadecimal(word: str, text: str, what: str) -> int:
    try:
        if word.isascii():
            return int(word, 16)
    except ValueError:
        pass
    raise LayoutError(f"{what} {text!r}: no hexadecimal number; one with 0x has no unit")


def _no_number(text: str, what: str) -> LayoutError:
    return LayoutError(f'{what} {text!r}: no number; a size looks like "64G", "1.5T" or "0x40000000"')


def _shift(unit: str, text: str, what: str) -> int:
    name = unit.upper()
    if name.endswith("IB") and len(name) == 3:
        name = name[0]
    if name in UNITS:
        return UNITS[name]
    if len(name) == 2 and name[1] == "B" and name[0] in UNITS:
        raise LayoutError(f"{what} {text!r}: {unit} is a power of ten to some; write {name[0]} or {name[0]}iB")
    raise LayoutError(f"{what} {text!r}: no unit {unit!r}; there are {UNITS_TEXT}")


def _scaled(number: str, shift: int, text: str, what: str) -> int:
    """A decimal number, maybe with a fraction, times 2^shift: in integers, for floats have no 64 bits."""
    whole, point, fraction = number.partition(".")
    try:
        digits = int(whole + fraction) if whole and (fraction or not point) else None
    except ValueError:
        digits = None
    if digits is None:
        raise _no_number(text, what)
    places = len(fraction.replace("_", ""))
    size, rest = divmod(digits << shift, int("1" + "0" * places))
    if rest:
        raise LayoutError(f"{what} {text!r}: is not a whole number of bytes")
    return size


def amount_text(size: int) -> str:
    """Bytes for people: exact, and where that says little, in a unit that does, rounded down.

    >>> amount_text(64 << 30), amount_text((64 << 30) - 4096)
    ('64 GiB', '67108860 KiB (~63.9 GiB)')
    """
    exact, short = size_text(size), short_text(size)
    return exact if exact == short else f"{exact} ({short})"


def short_text(size: int) -> str:
    """Bytes for a table: "~" where it is rounded, always down.

    >>> short_text(64 << 30), short_text((64 << 30) - 4096), short_text(65994688 << 10)
    ('64 GiB', '~63.9 GiB', '~62.9 GiB')
    """
    exact = size_text(size)
    if int(exact.split()[0]) < _LONG_NUMBER or size < _LONG_NUMBER:
        return exact
    unit, shift = next((unit, shift) for unit, shift in reversed(UNITS.items()) if size >> shift)
    tenths = size * 10 >> shift
    return f"~{tenths // 10}.{tenths % 10} {unit}iB"
