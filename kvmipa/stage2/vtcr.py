# SPDX-License-Identifier: Apache-2.0
"""VTCR_EL2, the register that holds a VM's stage-2 configuration (kernel-ipa-spec 3.1)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator

    from kvmipa.stage2.geometry import Geometry

# Arm ARM, VTCR_EL2: field -> (least significant bit, width).
FIELDS: Final[dict[str, tuple[int, int]]] = {
    "T0SZ": (0, 6),
    "SL0": (6, 2),
    "IRGN0": (8, 2),
    "ORGN0": (10, 2),
    "SH0": (12, 2),
    "TG0": (14, 2),
    "PS": (16, 3),
    "VS": (19, 1),
    "HA": (21, 1),
    "HD": (22, 1),
    "NSW": (29, 1),
    "NSA": (30, 1),
    "RES1": (31, 1),
    "DS": (32, 1),
    "SL2": (33, 1),
}

_TG0: Final = {4096: 0, 65536: 1, 16384: 2}
_WRITE_BACK: Final = 1
_INNER_SHAREABLE: Final = 3


@dataclass(frozen=True)
class Vtcr:
    """A value of VTCR_EL2; fields by name.

    >>> Vtcr(0x80023558)["T0SZ"]
    24
    >>> print(Vtcr(0x80223558))
    0x0000000080223558 T0SZ=24 SL0=1 IRGN0=1 ORGN0=1 SH0=3 TG0=0 PS=2 VS=0 HA=1 HD=0 NSW=0 NSA=0 RES1=1 DS=0 SL2=0
    """

    value: int

    @classmethod
    def encode(cls, **fields: int) -> Vtcr:
        """The register with these fields and zeros elsewhere.

        Raises KeyError for a field that the register does not have, ValueError for a value that does not fit.
        """
        value = 0
        for name, content in fields.items():
            lsb, width = FIELDS[name]
            if content >> width:
                raise ValueError(f"VTCR_EL2.{name} is {width} bits wide; {content} does not fit")
            value |= content << lsb
        return cls(value)

    def __getitem__(self, name: str) -> int:
        """One field's value; KeyError for a name that the register does not have."""
        lsb, width = FIELDS[name]
        return self.value >> lsb & (1 << width) - 1

    def fields(self) -> Iterator[tuple[str, int]]:
        """Every field with its value, least significant first."""
        for name in FIELDS:
            yield name, self[name]

    @property
    def ipa_bits(self) -> int:
        """The VM's IPA size: KVM itself defines it as 64 - T0SZ (kvm_phys_shift)."""
        return 64 - self["T0SZ"]

    def __int__(self) -> int:
        """The 64-bit value."""
        return self.value

    def __str__(self) -> str:
        """Value and fields on one line."""
        return " ".join([f"0x{self.value:016x}", *(f"{name}={value}" for name, value in self.fields())])


def vtcr_el2(geometry: Geometry, *, ps: int, vmid_16bit: bool, ha: bool, ds: bool) -> Vtcr:
    """The register that KVM runs a VM of this shape with.

    ps: the clamped PARange (kvmipa.stage2.ipa_limit.clamped_parange); vmid_16bit: ID_AA64MMFR1_EL1.VMIDBits is 2;
    ha: the kernel lets hardware set access flags; ds: LPA2 is on, whatever the VM's size. Source: kvm_get_vtcr in
    arch/arm64/kvm/hyp/pgtable.c.
    """
    return Vtcr.encode(
        T0SZ=64 - geometry.ipa_bits,
        SL0=geometry.sl0,
        IRGN0=_WRITE_BACK,
        ORGN0=_WRITE_BACK,
        SH0=_INNER_SHAREABLE,
        TG0=_TG0[geometry.page_size],
        PS=ps,
        VS=int(vmid_16bit),
        HA=int(ha),
        RES1=1,
        DS=int(ds),
    )
