# SPDX-License-Identifier: Apache-2.0
"""The emulated host's counter, from which its guests' are derived (CNTPCT_EL0)."""

from __future__ import annotations

from time import monotonic_ns
from typing import Final

# CNTFRQ_EL0 of QEMU's machines, in Hz.
FREQUENCY: Final = 62_500_000
_NANOSECONDS: Final = 10**9


def now() -> int:
    """The counter, in ticks of FREQUENCY.

    >>> now() <= now()
    True
    """
    return monotonic_ns() * FREQUENCY // _NANOSECONDS
