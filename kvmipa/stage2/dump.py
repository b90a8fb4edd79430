# SPDX-License-Identifier: Apache-2.0
"""The kernel's own picture of stage-2 tables, written and read: debugfs stage2_page_tables (kernel-ipa-spec 8.1)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from kvmipa.stage2.descriptors import ACCESS_FLAG, S2AP_READ, S2AP_WRITE, TABLE_OR_PAGE, VALID, XN, XN_FIELD

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

HEADER: Final = "---[ Guest IPA ]---"
UNITS: Final = "KMGTPE"


@dataclass(frozen=True, slots=True)
class Word:
    """An attribute of the dump: bits, and the words for their values.

    A value that is not in the table is written as the first one: none of KVM's leaves has it.
    """

    mask: int
    values: dict[int, str]

    def text(self, descriptor: int) -> str:
        """The word for a descriptor."""
        return self.values.get(descriptor & self.mask, next(iter(self.values.values())))


@dataclass(frozen=True, slots=True)
class Style:
    """How one release writes the dump. last_run: the run that ends at the end of the IPA space is written too."""

    words: tuple[Word, ...]
    last_run: bool

    @property
    def mask(self) -> int:
        """The bits that set runs apart."""
        bits = 0
        for word in self.words:
            bits |= word.mask
        return bits

    def attributes(self, descriptor: int) -> str:
        """The words for a leaf, each after a space; nothing for an unmapped range."""
        return "".join(f" {word.text(descriptor)}" for word in self.words) if descriptor & self.mask else ""


_F: Final = Word(VALID, {VALID: " ", 0: "F"})
_R: Final = Word(S2AP_READ, {0: " ", S2AP_READ: "R"})
_W: Final = Word(S2AP_WRITE, {0: " ", S2AP_WRITE: "W"})
_X: Final = Word(XN, {0: " ", XN: "X"})
_XNX: Final = Word(XN_FIELD, {0: "px ux ", 1 << 53: "PXNux ", 2 << 53: "PXNUXN", 3 << 53: "px UXN"})
_AF: Final = Word(ACCESS_FLAG, {0: "  ", ACCESS_FLAG: "AF"})
_BLK: Final = Word(TABLE_OR_PAGE, {0: "BLK", TABLE_OR_PAGE: "   "})

# arch/arm64/kvm/ptdump.c; since 7.3 the last note is flushed.
LINUX_6_12: Final = Style((_F, _R, _W, _X, _AF, _BLK), last_run=False)
LINUX_7_3: Final = Style((_F, _R, _W, _XNX, _AF, _BLK), last_run=True)


@dataclass(frozen=True, slots=True)
class Run:
    """A line of the dump: IPAs of one level and with the same attributes.

    attributes: its words without the spaces between them; empty where nothing is mapped.
    """

    start: int
    end: int
    level: int
    attributes: tuple[str, ...] = ()

    @property
    def mapped(self) -> bool:
        """Whether it maps anything."""
        return bool(self.attributes)


def runs(spans: Iterable[tuple[int, int, int, int]], mask: int) -> Iterator[tuple[int, int, int, int]]:
    """Tables.spans() with neighbours joined that have the same level and the same bits of a mask."""
    start, end, level, bits = 0, 0, -1, 0
    for first, last, its_level, descriptor in spans:
        if (its_level, descriptor & mask) != (level, bits):
            if start < end:
                yield start, end, level, bits
            start, level, bits = first, its_level, descriptor & mask
        end = last
    if start < end:
        yield start, end, level, bits


def lines(spans: Iterable[tuple[int, int, int, int]], ipa_size: int, style: Style) -> Iterator[str]:
    """The lines of a dump of Tables.spans(), without line ends."""
    yield HEADER
    for start, end, level, bits in runs(spans, style.mask):
        if end == ipa_size and not style.last_run:
            return
        yield f"0x{start:016x}-0x{end:016x}   {_size(end - start)} {level}{style.attributes(bits)}"


def text(spans: Iterable[tuple[int, int, int, int]], ipa_size: int, style: Style) -> str:
    """The text of stage2_page_tables.

    >>> print(text([(0, 1 << 32, 2, 0)], 1 << 32, LINUX_7_3), end="")
    ---[ Guest IPA ]---
    0x0000000000000000-0x0000000100000000           4G 2
    """
    return "".join(f"{line}\n" for line in lines(spans, ipa_size, style))


def _size(size: int) -> str:
    """A size as the dump has it: in the largest unit that divides it, KiB at least, 9 characters wide."""
    size >>= 10
    unit = 0
    while not size & 1023 and unit + 1 < len(UNITS):
        size >>= 10
        unit += 1
    return f"{size:9}{UNITS[unit]}"


def parse(text: str) -> list[Run]:
    r"""The runs of a dump; ValueError, with the line, where it is none.

    >>> parse("---[ Guest IPA ]---\n0x0000000000000000-0x0000000000200000           2M 2   R W X AF BLK\n")
    [Run(start=0, end=2097152, level=2, attributes=('R', 'W', 'X', 'AF', 'BLK'))]
    """
    return [_run(line) for line in text.splitlines() if line.strip() and line.strip() != HEADER]


def _run(line: str) -> Run:
    try:
        ipas, size, level, *words = line.split()
        start, end = (int(ipa, 16) for ipa in ipas.split("-"))
        expected = int(size[:-1]) << 10 * (UNITS.index(size[-1]) + 1)
        found = Run(start, end, int(level), tuple(words))
    except ValueError:
        raise ValueError(f"not a line of stage2_page_tables: {line!r}") from None
    if end - start != expected:
        raise ValueError(f"the size is not that of the range: {line!r}")
    return found
