# SPDX-License-Identifier: Apache-2.0
"""How a host's IPA limit follows from its ID registers and its kernel's configuration (kernel-ipa-spec 1.4, 3.3)."""

from __future__ import annotations

from typing import Final

from kvmipa.id_registers import PARANGE_BITS, field

MMFR0: Final = "ID_AA64MMFR0_EL1"

PARANGE_48: Final = 5
PARANGE_52: Final = 6

# id_aa64mmfr0_parange_to_phys_shift in asm/cpufeature.h: everything else is CONFIG_ARM64_PA_BITS, 7 (56 bits) too.
KERNEL_PARANGE_BITS: Final = {parange: bits for parange, bits in PARANGE_BITS.items() if parange <= PARANGE_52}

_STAGE2_GRANULE: Final = {4096: "TGran4_2", 16384: "TGran16_2", 65536: "TGran64_2"}
_STAGE1_LPA2: Final = {4096: ("TGran4", 1), 16384: ("TGran16", 2)}
_STAGE2_LPA2: Final = 3

# The values of TGran*_2 with which KVM starts, by whether the kernel takes those that were reserved when it was first
# read (kernel-ipa-spec 0.2).
USABLE_GRANULES: Final = {False: frozenset((0, 2)), True: frozenset((0, *range(2, 8)))}


def parange_bits(parange: int, pa_bits: int) -> int:
    """Physical address bits that a PARange stands for; pa_bits is CONFIG_ARM64_PA_BITS.

    >>> parange_bits(4, 48), parange_bits(9, 48), parange_bits(7, 52)
    (44, 48, 52)
    """
    return KERNEL_PARANGE_BITS.get(parange, pa_bits)


def lpa2(mmfr0: int, page_size: int) -> bool:
    """Whether CPU and page size have LPA2 (52-bit addresses with 4K and 16K pages) at both stages.

    Exact values are asked for at both stages, and nothing else: not PARange, not the kernel's own address sizes.
    "Stage 2 as stage 1" (0) does not do. Source: has_lpa2 in arch/arm64/kernel/cpufeature.c.
    """
    if page_size not in _STAGE1_LPA2:
        return False
    stage1, value = _STAGE1_LPA2[page_size]
    return field(MMFR0, stage1, mmfr0) == value and field(MMFR0, _STAGE2_GRANULE[page_size], mmfr0) == _STAGE2_LPA2


def stage2_granule_value(mmfr0: int, page_size: int) -> int:
    """ID_AA64MMFR0_EL1.TGran*_2 of the page size: 0 is "as stage 1", which the running kernel proves; 1 is "none"."""
    return field(MMFR0, _STAGE2_GRANULE[page_size], mmfr0)


def ipa_limit(mmfr0: int, page_size: int, *, pa_bits: int, has_lpa2: bool, cap_48: bool = True) -> int:
    """The limit since 5.10, in bits: what KVM_CAP_ARM_VM_IPA_SIZE answers.

    cap_48: 4K and 16K without LPA2 stop at 48 bits, whatever the CPU (a fix; not in 5.10.0). The cap comes before the
    conversion, so a reserved PARange gives 48 there and pa_bits elsewhere. Source: kvm_set_ipa_limit in
    arch/arm64/kvm/reset.c.

    >>> ipa_limit(0x32310201126, 4096, pa_bits=48, has_lpa2=False)
    48
    """
    parange = field(MMFR0, "PARange", mmfr0)
    if cap_48 and page_size != 65536 and not has_lpa2:
        parange = min(parange, PARANGE_48)
    return parange_bits(parange, pa_bits)


def legacy_ipa_limit(mmfr0: int, page_size: int, *, pa_bits: int, va_bits: int) -> int:
    """The limit from 4.20 to 5.9, in bits: also bounded by the host's own address sizes.

    The old stage 2 reused the host's page-table macros, so it could have no more levels than the host's stage 1 (16
    concatenated tables apart). PARange was read through three bits. Source: kvm_set_ipa_limit of that time.

    >>> legacy_ipa_limit(0x1125, 4096, pa_bits=48, va_bits=39)
    43
    """
    page_shift = page_size.bit_length() - 1
    table_bits = page_shift - 3
    host_levels = -(-(va_bits - page_shift) // table_bits)
    pgdir_shift = table_bits * host_levels + 3
    pa_max = parange_bits(field(MMFR0, "PARange", mmfr0) & 7, pa_bits)
    return min(pa_max, pa_bits, pgdir_shift + table_bits + 4)


def clamped_parange(mmfr0: int, page_size: int, *, pa_bits: int, has_lpa2: bool) -> int:
    """VTCR_EL2.PS: the PARange that stage-2 output addresses are limited to (kernel-ipa-spec 3.3).

    It depends on the host alone, and can be below the VM's IPA size (64K pages, 48-bit kernel, 52-bit CPU).
    """
    wide = has_lpa2 or (page_size == 65536 and pa_bits == 52)
    return min(field(MMFR0, "PARange", mmfr0), PARANGE_52 if wide else PARANGE_48)
