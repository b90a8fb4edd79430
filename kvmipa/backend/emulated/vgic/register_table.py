# SPDX-License-Identifier: Apache-2.0
"""Registers of a vGIC's frames as rows of tables, and how the kernel finds one (vgic-mmio.c)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from kvmipa.backend.emulated.vcpu import Vcpu
    from kvmipa.backend.emulated.vgic.controller import Vgic

    Read = Callable[["RegisterAccess"], int]
    Write = Callable[["RegisterAccess", int], None]

WORD: Final = 0xFFFF_FFFF


class RegisterAccess(NamedTuple):
    """A register that is accessed. irq: the first interrupt that it is about, if it is about any."""

    vgic: Vgic
    vcpu: Vcpu
    offset: int
    irq: int


class Registers(NamedTuple):
    """Registers in a row. bits: of each interrupt, 0 where they are not about interrupts."""

    offset: int
    length: int
    read: Read
    write: Write
    bits: int = 0

    def access(self, vgic: Vgic, vcpu: Vcpu, offset: int) -> RegisterAccess:
        """An access to one of them (VGIC_ADDR_TO_INTID)."""
        irq = (offset & self.bits * 128 - 1) * 8 // self.bits if self.bits else 0
        return RegisterAccess(vgic, vcpu, offset, irq)


def search(table: Sequence[Registers], offset: int) -> Registers | None:
    """Linux's bsearch (include/linux/bsearch.h), for what it finds in a table that is not sorted."""
    base, count = 0, len(table)
    while count:
        pivot = base + (count >> 1)
        it = table[pivot]
        if it.offset <= offset < it.offset + it.length:
            return it
        if offset >= it.offset:
            base = pivot + 1
            count -= 1
        count >>= 1
    return None


def half(it: RegisterAccess, value: int) -> int:
    """The half of a register of 64 bits that is accessed."""
    return value >> shift_of_half(it) & WORD


def shift_of_half(it: RegisterAccess) -> int:
    """Where that half begins in the whole."""
    return 32 if it.offset & 4 else 0


def zero(_it: RegisterAccess) -> int:
    """Reads as 0 (vgic_mmio_read_raz)."""
    return 0


def ones(_it: RegisterAccess) -> int:
    """Reads as all bits set (vgic_mmio_read_rao)."""
    return WORD


def ignore(_it: RegisterAccess, _value: int) -> None:
    """Writes change nothing (vgic_mmio_write_wi)."""


# Arm IHI 0069, GICD_IIDR and GICR_IIDR: product KVM, implementer Arm; the revision is between them.
IIDR: Final = 0x4B00_043B
IIDR_REVISION_SHIFT: Final = 12

_PIDR2: Final = 0xFFE8
_GICV3: Final = 0x3B


def _read_identity(it: RegisterAccess) -> int:
    return _GICV3 if it.offset & 0xFFFF == _PIDR2 else 0


# At the end of the frames of a vGICv3's distributor and redistributors.
IDENTITY: Final = Registers(0xFFD0, 48, _read_identity, ignore)
