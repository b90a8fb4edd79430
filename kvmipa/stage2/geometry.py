# SPDX-License-Identifier: Apache-2.0
"""The shape of a VM's stage-2 tables: levels, start level, concatenated tables (kernel-ipa-spec 3.2)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from kvmipa.machine_type import MAX_IPA_BITS, MIN_IPA_BITS

PAGE_SIZES: Final = (4096, 16384, 65536)
LAST_LEVEL: Final = 3

# VTCR_EL2.SL0 counts down from this at start level 0 (Arm ARM, VTCR_EL2.SL0).
_SL0_OF_LEVEL_0: Final = {4096: 2, 16384: 3, 65536: 3}

# Up to 16 tables may be concatenated at the start level: 4 more bits of index (Arm ARM D8.2.7).
_CONCATENATION_BITS: Final = 4


@dataclass(frozen=True)
class Geometry:
    """The stage-2 tables of a VM of ``ipa_bits`` on a host with pages of ``page_size`` bytes.

    KVM takes the highest-numbered start level that the architecture allows, concatenating up to 16 tables there, but
    never fewer than two levels: blocks must exist. Source: stage2_pgtable_levels in asm/stage2_pgtable.h and
    kvm_pgd_pages in hyp/pgtable.c.

    Raises ValueError for a page size or an IPA size that no arm64 kernel has.

    >>> shape = Geometry(page_size=4096, ipa_bits=40)
    >>> shape.levels, shape.start_level, shape.concatenated_tables
    (3, 1, 2)
    >>> shape.entry_size(shape.start_level) == 1 << 30
    True
    """

    page_size: int
    ipa_bits: int

    def __post_init__(self) -> None:
        """Refuse what no kernel has."""
        if self.page_size not in PAGE_SIZES:
            raise ValueError(f"page size {self.page_size!r} bytes: arm64 has {', '.join(map(str, PAGE_SIZES))}")
        if not MIN_IPA_BITS <= self.ipa_bits <= MAX_IPA_BITS:
            raise ValueError(f"{self.ipa_bits} IPA bits: KVM has {MIN_IPA_BITS} to {MAX_IPA_BITS}")

    @property
    def page_shift(self) -> int:
        """log2 of the page size."""
        return self.page_size.bit_length() - 1

    @property
    def table_bits(self) -> int:
        """Bits of address that index one table: 9, 11 or 13."""
        return self.page_shift - 3

    @property
    def levels(self) -> int:
        """Levels of lookup, 2 to 4."""
        return max(2, (self.ipa_bits - _CONCATENATION_BITS - 4) // self.table_bits)

    @property
    def start_level(self) -> int:
        """Level of the first lookup: 0, 1 or 2; the last is 3."""
        return LAST_LEVEL + 1 - self.levels

    @property
    def sl0(self) -> int:
        """VTCR_EL2.SL0, the start level as the register encodes it."""
        return _SL0_OF_LEVEL_0[self.page_size] - self.start_level

    def shift(self, level: int) -> int:
        """log2 of the bytes that one entry at a level covers."""
        return self.table_bits * (LAST_LEVEL + 1 - level) + 3

    def entry_size(self, level: int) -> int:
        """Bytes of IPA space that one entry at a level covers."""
        return 1 << self.shift(level)

    @property
    def entries(self) -> int:
        """Entries in use at the start level."""
        return 1 << (self.ipa_bits - self.shift(self.start_level))

    @property
    def concatenated_tables(self) -> int:
        """Tables side by side at the start level, 1 to 16 and a power of two: pages of the PGD."""
        return max(1, self.entries >> self.table_bits)

    @property
    def pgd_size(self) -> int:
        """Bytes of the start level: whole pages, physically contiguous and aligned to their size."""
        return self.concatenated_tables * self.page_size

    def index_bits(self, level: int) -> int:
        """Bits of IPA that a level resolves; the start level has fewer, or up to 4 more, than a table."""
        if level == self.start_level:
            return self.ipa_bits - self.shift(level)
        return self.table_bits
