# SPDX-License-Identifier: Apache-2.0
"""The shape of stage-2 tables as a picture: text for a terminal, and SVG."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from kvmipa.machine_type import size_text
from kvmipa.stage2.geometry import LAST_LEVEL

if TYPE_CHECKING:
    from collections.abc import Iterator

    from kvmipa.stage2.geometry import Geometry
    from kvmipa.stage2.vtcr import Vtcr

TEXT_WIDTH: Final = 80


@dataclass(frozen=True, slots=True)
class Field:
    """A part of the IPA, bits high to low: the index of a level, or the offset in a page (level None)."""

    high: int
    low: int
    level: int | None

    @property
    def bits(self) -> int:
        """How many bits it has."""
        return self.high - self.low + 1

    @property
    def range(self) -> str:
        """Its bits, as the Arm ARM writes them."""
        return f"{self.high}:{self.low}" if self.bits > 1 else str(self.high)


def fields(shape: Geometry) -> list[Field]:
    """The parts of an IPA from the top: an index for each level, then the offset.

    >>> from kvmipa.stage2.geometry import Geometry
    >>> [(part.level, part.range) for part in fields(Geometry(4096, 40))]
    [(1, '39:30'), (2, '29:21'), (3, '20:12'), (None, '11:0')]
    """
    parts = []
    top = shape.ipa_bits
    for level in range(shape.start_level, LAST_LEVEL + 1):
        bottom = shape.shift(level)
        parts.append(Field(top - 1, bottom, level))
        top = bottom
    return [*parts, Field(top - 1, 0, None)]


def start_text(shape: Geometry) -> str:
    """The start level in words."""
    tables = shape.concatenated_tables
    what = f"{tables} tables side by side" if tables > 1 else "one table"
    return f"{what} ({size_text(shape.pgd_size)}), {shape.entries} entries in use"


# What the values of VTCR_EL2's fields mean (Arm ARM, VTCR_EL2).
_GRANULE: Final = {0: "4K pages", 1: "64K pages", 2: "16K pages"}
_OUTPUT: Final = {0: 32, 1: 36, 2: 40, 3: 42, 4: 44, 5: 48, 6: 52, 7: 52}
_CACHEABLE: Final = {0: "non-cacheable", 1: "write-back", 2: "write-through", 3: "write-back, no write-allocate"}
_SHAREABLE: Final = {0: "non-shareable", 1: "reserved", 2: "outer shareable", 3: "inner shareable"}
_YES_NO: Final = {0: "no", 1: "yes"}


def meanings(vtcr: Vtcr, shape: Geometry) -> Iterator[tuple[str, int, str]]:
    """VTCR_EL2's fields that KVM sets, with value and meaning."""
    said = {
        "T0SZ": f"{vtcr.ipa_bits} bits of IPA",
        "SL0": f"the walk starts at level {shape.start_level}",
        "IRGN0": f"table walks, inner: {_CACHEABLE[vtcr['IRGN0']]}",
        "ORGN0": f"table walks, outer: {_CACHEABLE[vtcr['ORGN0']]}",
        "SH0": f"table walks: {_SHAREABLE[vtcr['SH0']]}",
        "TG0": _GRANULE.get(vtcr["TG0"], "reserved"),
        "PS": f"output addresses of {_OUTPUT[vtcr['PS']]} bits",
        "VS": f"VMIDs of {16 if vtcr['VS'] else 8} bits",
        "HA": f"hardware sets access flags: {_YES_NO[vtcr['HA']]}",
        "DS": f"52-bit descriptors (LPA2): {_YES_NO[vtcr['DS']]}",
    }
    for name, text in said.items():
        yield name, vtcr[name], text


def picture(shape: Geometry, vtcr: Vtcr | None = None) -> str:
    """The shape as text of at most 80 columns, 7-bit ASCII.

    >>> from kvmipa.stage2.geometry import Geometry
    >>> print(picture(Geometry(16384, 40)))
    IPA          40 bits (1 TiB), 16K pages, 2 levels from level 2
    start level  16 tables side by side (256 KiB), 32768 entries in use
    <BLANKLINE>
      level 2         level 3         offset
    +---------------+---------------+---------------+
    | IPA[39:25]    | IPA[24:14]    | IPA[13:0]     |
    | 15 bits       | 11 bits       | 14 bits       |
    | 32768 entries | 2048 entries  | 16384 bytes   |
    | of 32 MiB     | of 16 KiB     |               |
    +---------------+---------------+---------------+
    """
    cells = [_cell(part, shape) for part in fields(shape)]
    width = max(len(text) for cell in cells for text in cell)
    border = "+" + "+".join("-" * (width + 2) for _ in cells) + "+"
    body = ["|" + "|".join(f" {cell[row]:<{width}} " for cell in cells) + "|" for row in range(1, len(cells[0]))]
    head = "".join(f"  {cell[0]:<{width + 1}}" for cell in cells).rstrip()
    found = [
        f"IPA          {shape.ipa_bits} bits ({size_text(1 << shape.ipa_bits)}), {shape.page_size >> 10}K pages, "
        f"{shape.levels} levels from level {shape.start_level}",
        f"start level  {start_text(shape)}",
        "",
        head,
        border,
        *body,
        border,
    ]
    if vtcr is not None:
        found += ["", f"VTCR_EL2     0x{vtcr.value:016x}"]
        found += [f"  {name:<9}  {value:>2}  {text}" for name, value, text in meanings(vtcr, shape)]
    return "\n".join(found)


def _cell(part: Field, shape: Geometry) -> tuple[str, str, str, str, str]:
    bits = f"{part.bits} bits" if part.bits > 1 else "1 bit"
    if part.level is None:
        return "offset", f"IPA[{part.range}]", bits, f"{1 << part.bits} bytes", ""
    entry = size_text(shape.entry_size(part.level))
    return f"level {part.level}", f"IPA[{part.range}]", bits, f"{1 << part.bits} entries", f"of {entry}"


# Colours with a contrast of 4.5:1 at least, light and dark; no CSS that simple viewers do not know.
_STYLE: Final = """\
  text { fill: #1f2328; font-family: sans-serif; font-size: 14px }
  .head, .title { font-weight: bold } .title { font-size: 18px } .quiet { fill: #59636e }
  .mono { font-family: monospace }
  rect { stroke: #818b98; fill: #ddf4ff } .page { fill: #dafbe1 } .paper { fill: #ffffff; stroke: none }
  path { stroke: #818b98; fill: none }
  @media (prefers-color-scheme: dark) {
    text { fill: #f0f6fc } .quiet { fill: #b7bdc8 }
    rect { stroke: #656c76; fill: #0c2d6b } .page { fill: #033a16 } .paper { fill: #0d1117; stroke: none }
    path { stroke: #656c76 }
  }
"""

_LEFT: Final = 24
_PER_BIT: Final = 15
_COLUMN: Final = 186
_ROW: Final = 20


def svg(shape: Geometry, vtcr: Vtcr | None = None) -> str:
    """The shape as an SVG that needs nothing else: the IPA's bits to scale, a table for each level, VTCR_EL2's fields.

    It has a title and a description for those who do not see it, and colours for light and dark.
    """
    parts = fields(shape)
    width = 2 * _LEFT + max(shape.ipa_bits * _PER_BIT, len(parts) * _COLUMN - 26)
    drawn = [
        _text(_LEFT, 36, _title(shape), "title"),
        _text(_LEFT, 60, f"Start level: {start_text(shape)}", "quiet"),
        *_bits(shape, parts, 92),
        *_tables(shape, parts, 190),
    ]
    bottom = 330
    if vtcr is not None:
        drawn += _register(shape, vtcr, bottom)
        bottom += 30 + 10 * _ROW
    described = "; ".join(" ".join(filter(None, _cell(part, shape))) for part in parts)
    description = f"Start level: {start_text(shape)}. From the top bit down: {described}."
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {bottom}" width="{width}" '
            f'height="{bottom}" role="img" aria-labelledby="title desc">',
            f'<title id="title">{escape(_title(shape))}</title>',
            f'<desc id="desc">{escape(description)}</desc>',
            f"<style>\n{_STYLE}</style>",
            _rectangle(0, 0, width, bottom, "paper"),
            *drawn,
            "</svg>\n",
        ]
    )


def escape(text: str) -> str:
    """Text as XML has it, between tags.

    >>> escape("IPA < 2^40 & aligned")
    'IPA &lt; 2^40 &amp; aligned'
    """
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _title(shape: Geometry) -> str:
    return (
        f"Stage 2 of a VM of {shape.ipa_bits} IPA bits ({size_text(1 << shape.ipa_bits)}), "
        f"{shape.page_size >> 10}K pages: {shape.levels} levels"
    )


def _text(x: float, y: float, text: str, kind: str = "") -> str:
    of_kind = f' class="{kind}"' if kind else ""
    return f'<text x="{x:g}" y="{y:g}"{of_kind}>{escape(text)}</text>'


def _rectangle(x: float, y: float, width: float, height: float, kind: str = "") -> str:
    of_kind = f' class="{kind}"' if kind else ""
    return f'<rect x="{x:g}" y="{y:g}" width="{width:g}" height="{height:g}"{of_kind}/>'


def _bits(shape: Geometry, parts: list[Field], y: int) -> Iterator[str]:
    """The IPA, its bits to scale."""
    for part in parts:
        x = _LEFT + (shape.ipa_bits - 1 - part.high) * _PER_BIT
        yield _rectangle(x, y, part.bits * _PER_BIT, 34, "page" if part.level is None else "")
        if part.bits >= 4:
            yield _text(x + 5, y + 22, part.range, "mono")


def _tables(shape: Geometry, parts: list[Field], y: int) -> Iterator[str]:
    """A column for each level, from the bits of its index down; concatenated tables lie behind each other."""
    for number, part in enumerate(parts):
        x = _LEFT + number * _COLUMN
        above = _LEFT + (shape.ipa_bits - 1 - part.high + part.bits / 2) * _PER_BIT
        yield f'<path d="M{above:g} {y - 64} L{x + 70:g} {y - 20}"/>'
        behind = min(shape.concatenated_tables, 4) - 1 if number == 0 else 0
        for depth in range(behind, -1, -1):
            yield _rectangle(
                x + 4 * depth, y - 20 - 4 * depth + 4 * behind, 140, 104, "page" if part.level is None else ""
            )
        for row, text in enumerate(_cell(part, shape)):
            if text:
                yield _text(x + 10, y + 4 * behind + row * (_ROW - 2), text, "head" if row == 0 else "")


def _register(shape: Geometry, vtcr: Vtcr, y: int) -> Iterator[str]:
    yield _text(_LEFT, y, f"VTCR_EL2 0x{vtcr.value:016x}", "head mono")
    for row, (name, value, text) in enumerate(meanings(vtcr, shape), 1):
        yield _text(_LEFT, y + row * _ROW, name, "mono")
        yield _text(_LEFT + 60, y + row * _ROW, str(value), "mono")
        yield _text(_LEFT + 100, y + row * _ROW, text)
