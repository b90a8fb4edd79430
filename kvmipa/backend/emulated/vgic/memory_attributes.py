# SPDX-License-Identifier: Apache-2.0
"""How the vGIC and the ITS let the guest describe the memory of their tables (vgic_sanitise_* of vgic-mmio-v3.c)."""

from __future__ import annotations

from typing import Final

# Arm IHI 0069, 12.19.4: values of the fields of GITS_BASER<n>, and of GICR_PROPBASER and GICR_PENDBASER.
_INNER_SHAREABLE: Final = 1
_OUTER_SHAREABLE: Final = 2
_DEVICE: Final = 0
_NON_CACHEABLE: Final = 1
_WRITE_BACK: Final = 3
_AS_INNER: Final = 0


def sanitised(value: int, shareability: int, inner: int, outer: int) -> int:
    """A register's value with attributes that KVM has; the shifts of its three fields.

    >>> hex(sanitised(0, 10, 7, 56)), hex(sanitised(2 << 10 | 5 << 7 | 3 << 56, 10, 7, 56))
    ('0x180', '0x680')
    """
    if value >> shareability & 3 == _OUTER_SHAREABLE:
        value = value & ~(3 << shareability) | _INNER_SHAREABLE << shareability
    if value >> inner & 7 in {_DEVICE, _NON_CACHEABLE}:
        value = value & ~(7 << inner) | _WRITE_BACK << inner
    if value >> outer & 7 not in {_AS_INNER, _NON_CACHEABLE}:
        value = value & ~(7 << outer) | _AS_INNER << outer
    return value
