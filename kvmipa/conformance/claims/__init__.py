# SPDX-License-Identifier: Apache-2.0
"""Every claim, with its check: a module for each subject."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from kvmipa.conformance.claims import system

if TYPE_CHECKING:
    from kvmipa.conformance.claim import Claim

#: In the order in which they are checked and reported.
CLAIMS: Final[tuple[Claim, ...]] = (*system.CLAIMS,)
