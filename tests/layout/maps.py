# SPDX-License-Identifier: Apache-2.0
"""Memory maps for tests: drawn by hypothesis, or in a word."""

from __future__ import annotations

from hypothesis import strategies as st

from kvmipa.layout import DEVICE, RAM, ROM, MemoryMap, Region

GIB = 1 << 30
PAGE_SIZES = (4096, 16384, 65536)


def ram(gib: int, base: int = GIB) -> MemoryMap:
    """A map of nothing but RAM."""
    return MemoryMap([Region("ram", base, gib * GIB)])


@st.composite
def maps(draw: st.DrawFn, page_size: int, max_bits: int = 56) -> MemoryMap:
    """Regions with gaps or without, of every kind, small and huge; memory is aligned to pages."""
    regions, base = [], 0
    for number in range(draw(st.integers(1, 6))):
        kind = draw(st.sampled_from((RAM, RAM, ROM, DEVICE)))
        unit = 1 if kind == DEVICE else page_size
        largest = 1 << draw(st.integers(0, max_bits))
        gap = draw(st.sampled_from((0, draw(st.integers(0, largest)))))
        base = -(-(base + gap) // unit) * unit
        size = draw(st.integers(1, max(1, largest // unit))) * unit
        regions.append(Region(f"r{number}", base, size, kind))
        base += size
    return MemoryMap(draw(st.permutations(regions)))
