# SPDX-License-Identifier: Apache-2.0
"""A real VM's stage 2 as its kernel shows it: the debugfs files ipa_range, stage2_levels and stage2_page_tables.

Pure, as all of this package: kvmipa.backend.native reads the files.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from kvmipa.stage2 import TableShape
from kvmipa.stage2.dump import Run, parse

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from kvmipa.stage2.geometry import Geometry


@dataclass(frozen=True)
class ShownStage2(TableShape):
    r"""The stage 2 of one VM of a real kernel.

    No kernel shows the VM's VTCR_EL2 or physical addresses: what there is are its shape and its mappings, in runs of
    equal attributes. read: the text of stage2_page_tables, as it stands.

    >>> from kvmipa.stage2.geometry import Geometry
    >>> text = "---[ Guest IPA ]---\n0x0000000000000000-0x0000000000200000           2M 2   R W X AF BLK\n"
    >>> stage2 = ShownStage2(Geometry(4096, 40), lambda: text)
    >>> stage2.levels, [(run.start, run.level) for run in stage2.mappings()]
    (3, [(0, 2)])
    """

    geometry: Geometry
    read: Callable[[], str] = field(compare=False, repr=False)

    def mappings(self) -> Iterator[Run]:
        """The runs of pages and blocks with equal attributes, in order."""
        return (run for run in parse(self.read()) if run.mapped)

    def dump(self) -> str:
        """The text of stage2_page_tables."""
        return self.read()
