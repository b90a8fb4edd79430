# SPDX-License-Identifier: Apache-2.0
"""Every claim, with its check: a module for each subject."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from kvmipa.conformance.claims import (
    creation,
    guest_blocks,
    guest_devices,
    guest_slots,
    guest_space,
    memory,
    size,
    system,
    vgic,
)

if TYPE_CHECKING:
    from kvmipa.conformance.claim import Claim

#: In the order in which they are checked and reported.
CLAIMS: Final[tuple[Claim, ...]] = (
    *system.CLAIMS,
    *creation.CLAIMS,
    *size.CLAIMS,
    *memory.CLAIMS,
    *vgic.CLAIMS,
    *guest_space.CLAIMS,
    *guest_slots.CLAIMS,
    *guest_devices.CLAIMS,
    *guest_blocks.CLAIMS,
)
