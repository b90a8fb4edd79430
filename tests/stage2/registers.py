# SPDX-License-Identifier: Apache-2.0
"""ID_AA64MMFR0_EL1 and ID_AA64MMFR1_EL1 from their fields, by the bit positions of kernel-ipa-spec 1.4 and 3.1."""

from __future__ import annotations

PAGE_SIZES = (4096, 16384, 65536)

GRANULE_LSB = {4096: 28, 16384: 20, 65536: 24}
GRANULE_2_LSB = {4096: 40, 16384: 32, 65536: 36}

# TGRANx of a CPU that has the page size, without and with LPA2.
GRANULE = {4096: 0, 16384: 1, 65536: 0}
GRANULE_LPA2 = {4096: 1, 16384: 2}
GRANULE_2_LPA2 = 3


def mmfr0(parange: int, page_size: int = 4096, *, granule: int | None = None, granule_2: int = 0) -> int:
    """The register with PARange and the two fields of one page size; the others are 0."""
    stage1 = GRANULE[page_size] if granule is None else granule
    return parange | stage1 << GRANULE_LSB[page_size] | granule_2 << GRANULE_2_LSB[page_size]


def mmfr0_lpa2(parange: int, page_size: int) -> int:
    """The register of a CPU with LPA2 at both stages."""
    return mmfr0(parange, page_size, granule=GRANULE_LPA2[page_size], granule_2=GRANULE_2_LPA2)


def mmfr1(*, vmid_16bit: bool) -> int:
    """The register with VMIDBits."""
    return 2 << 4 if vmid_16bit else 0
