# SPDX-License-Identifier: Apache-2.0
"""Many machine types, for somebody who waits."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from kvmipa.cli.output import Progress

if TYPE_CHECKING:
    from collections.abc import Sequence

    from kvmipa.system import Kvm

PART: Final = 16


def probe_types(kvm: Kvm, types: Sequence[int]) -> list[int]:
    """Kvm.probe_machine_types() in parts, with a line that counts."""
    progress = Progress(len(types), "machine types")
    results: list[int] = []
    try:
        while len(results) < len(types):
            results += kvm.probe_machine_types(types[len(results) : len(results) + PART])
            progress.show(len(results))
    finally:
        progress.clear()
    return results
