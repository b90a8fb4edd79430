# SPDX-License-Identifier: Apache-2.0
"""The Arm model of stage-2 translation: pure functions, no system calls."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager

    from kvmipa.stage2.descriptors import Leaf
    from kvmipa.stage2.dump import Style
    from kvmipa.stage2.geometry import Geometry
    from kvmipa.stage2.tables import Tables
    from kvmipa.stage2.vtcr import Vtcr
    from kvmipa.stage2.walk import Fault, Translation

_Seen = TypeVar("_Seen")


class TableShape:
    """What the shape of a VM's stage-2 tables says, for whoever knows it."""

    geometry: Geometry

    @property
    def levels(self) -> int:
        """Levels of lookup, 2 to 4."""
        return self.geometry.levels

    @property
    def concatenated_tables(self) -> int:
        """Tables side by side at the start level, 1 to 16."""
        return self.geometry.concatenated_tables


@dataclass(frozen=True)
class Stage2(TableShape):
    """The stage-2 translation of one VM: its control register, the shape of its tables, and the tables as they stand.

    tables: None where nothing has ever been mapped. style: of dump(), which releases differ in; None: the newest one.
    lock: held while the tables are looked at, where others may change them. A Stage2 is a view: what is mapped later
    shows.

    >>> from kvmipa.stage2.geometry import Geometry
    >>> from kvmipa.stage2.vtcr import Vtcr
    >>> stage2 = Stage2(Vtcr(0x80023559), Geometry(4096, 39))
    >>> stage2.levels, stage2.concatenated_tables, list(stage2.mappings())
    (3, 1, [])
    >>> stage2.translate(0x1000)
    Fault(kind=<FaultKind.TRANSLATION: 'translation'>, level=1)
    """

    vtcr_el2: Vtcr
    geometry: Geometry
    tables: Tables | None = field(default=None, compare=False, repr=False)
    style: Style | None = field(default=None, compare=False, repr=False)
    lock: AbstractContextManager[object] | None = field(default=None, compare=False, repr=False)

    @property
    def table_pages(self) -> int:
        """Pages that the tables take; those of the start level are there from the first."""
        return self.concatenated_tables if self.tables is None else self.tables.table_pages

    def mappings(self, ipa: int = 0, size: int | None = None) -> Iterator[tuple[int, Leaf]]:
        """The blocks and pages that a range (by default everything) touches, in order, each with its first IPA.

        Raises ValueError for a range that is not in the IPA space or not aligned to pages.
        """
        return iter(()) if self.tables is None else self.tables.leaves(ipa, size)

    def translate(self, ipa: int, kind: str = "load") -> Translation | Fault:
        """What the hardware makes of an access to an IPA at EL1: "load", "store" or "fetch" (kvmipa.stage2.walk).

        Raises ValueError for what is no address of 64 bits.
        """
        from kvmipa.stage2.walk import walk

        if not 0 <= ipa < 1 << 64:
            raise ValueError(f"IPA {ipa!r}: an address has 64 bits")
        if self.tables is None:
            return walk(_nothing, 0, self.vtcr_el2, ipa, kind=kind)
        read64, fwb = self.tables.memory.read64, self.tables.format.fwb
        base = self.tables.vttbr_el2
        return self._locked(lambda: walk(read64, base, self.vtcr_el2, ipa, fwb=fwb, kind=kind))

    def dump(self) -> str:
        """The tables as the VM's kernel shows them in the debugfs file stage2_page_tables (6.12 and later)."""
        from kvmipa.stage2 import dump

        style = self.style or dump.LINUX_7_3
        if self.tables is None:
            shape = self.geometry
            return dump.text([(0, 1 << shape.ipa_bits, shape.start_level, 0)], 1 << shape.ipa_bits, style)
        tables = self.tables
        return self._locked(lambda: dump.text(tables.spans(), tables.ipa_size, style))

    def _locked(self, look: Callable[[], _Seen]) -> _Seen:
        if self.lock is None:
            return look()
        with self.lock:
            return look()

    def picture(self) -> str:
        """The shape of the tables, as text for a terminal."""
        from kvmipa.stage2.picture import picture

        return picture(self.geometry, self.vtcr_el2)

    def svg(self) -> str:
        """The shape of the tables, as a picture of its own (SVG)."""
        from kvmipa.stage2.picture import svg

        return svg(self.geometry, self.vtcr_el2)

    def __str__(self) -> str:
        """The shape, and how much is mapped."""
        pages = "page" if self.table_pages == 1 else "pages"
        return f"{self.picture()}\ntables       {self.table_pages} {pages} in use"


def _nothing(address: int) -> int:
    """Memory in which no table was ever written."""
    return 0
