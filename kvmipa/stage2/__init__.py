# SPDX-License-Identifier: Apache-2.0
"""The Arm model of stage-2 translation: pure functions, no system calls."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from kvmipa.stage2.geometry import Geometry
    from kvmipa.stage2.vtcr import Vtcr


@dataclass(frozen=True)
class Stage2:
    """The stage-2 translation of one VM: its control register and the shape of its tables."""

    vtcr_el2: Vtcr
    geometry: Geometry
