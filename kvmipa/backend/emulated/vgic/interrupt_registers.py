# SPDX-License-Identifier: Apache-2.0
"""Registers with a field for each interrupt: what distributors and redistributors share (vgic-mmio.c).

Their names, and where they are, are the same in a distributor and, for private interrupts, in a redistributor's second
frame (Arm IHI 0069, 12.8 and 12.10; IHI 0048, 4.3 for the GICv2).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

from kvmipa.backend.emulated.vgic.register_table import RegisterAccess, Registers, ignore, zero
from kvmipa.backend.emulated.vgic.state import VgicState

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from kvmipa.backend.emulated.vcpu import Vcpu
    from kvmipa.backend.emulated.vgic.register_table import Read, Write


class Field(NamedTuple):
    """Registers in a row from an offset on, with so many bits of each interrupt."""

    offset: int
    bits: int
    read: Read
    write: Write


def read_by(method: Callable[[VgicState, Vcpu, int], int]) -> Read:
    """What the vGIC's state says of the interrupts from the register's first on."""
    return lambda it: method(it.vgic.state, it.vcpu, it.irq)


def write_by(method: Callable[[VgicState, Vcpu, int, int], None]) -> Write:
    """Tell the vGIC's state a value for the interrupts from the register's first on."""
    return lambda it, value: method(it.vgic.state, it.vcpu, it.irq, value)


def _reads(what: str) -> Read:
    return lambda it: it.vgic.state.read_bits(it.vcpu, what, it.irq)


def _sets(what: str) -> Write:
    return lambda it, value: it.vgic.state.set_bits(it.vcpu, what, it.irq, value)


def _clears(what: str) -> Write:
    return lambda it, value: it.vgic.state.clear_bits(it.vcpu, what, it.irq, value)


def _writes(what: str) -> Write:
    return lambda it, value: it.vgic.state.write_bits(it.vcpu, what, it.irq, value)


def _write_group_v2(it: RegisterAccess, value: int) -> None:
    if it.vgic.state.groups_are_writable:
        it.vgic.state.write_bits(it.vcpu, "group", it.irq, value)


# ISENABLER and ICENABLER, ISACTIVER and ICACTIVER, IPRIORITYR, ICFGR: of every version.
ENABLED: Final = (
    Field(0x100, 1, _reads("enabled"), _sets("enabled")),
    Field(0x180, 1, _reads("enabled"), _clears("enabled")),
)
ACTIVE: Final = (
    Field(0x300, 1, _reads("active"), _sets("active")),
    Field(0x380, 1, _reads("active"), _clears("active")),
)
PRIORITY: Final = Field(0x400, 8, read_by(VgicState.read_priorities), write_by(VgicState.write_priorities))
TRIGGER: Final = Field(0xC00, 2, read_by(VgicState.read_triggers), write_by(VgicState.write_triggers))

# IGROUPR, ISPENDR and ICPENDR of version 3: pending bits are latches, which are written as they are to be.
_GROUP: Final = Field(0x80, 1, _reads("group"), _writes("group"))
_PENDING: Final = (
    Field(0x200, 1, _reads("pending"), _writes("pending")),
    Field(0x280, 1, zero, ignore),
)
# Up to ITARGETSR, which redistributors do not have, and ICFGR and IGRPMODR after it.
V3_STATE: Final = (_GROUP, *ENABLED, *_PENDING, *ACTIVE, PRIORITY)
V3_KIND: Final = (TRIGGER, Field(0xD00, 1, zero, ignore))

# And of version 2, with ITARGETSR.
_PENDING_V2: Final = (
    Field(0x200, 1, read_by(VgicState.read_pending_v2), write_by(VgicState.set_pending_v2)),
    Field(0x280, 1, read_by(VgicState.read_pending_v2), write_by(VgicState.clear_pending_v2)),
)
V2: Final = (
    Field(0x80, 1, _reads("group"), _write_group_v2),
    *ENABLED,
    *_PENDING_V2,
    *ACTIVE,
    PRIORITY,
    Field(0x800, 8, read_by(VgicState.read_targets), write_by(VgicState.write_targets)),
    TRIGGER,
)


def of_all(fields: Iterable[Field]) -> Iterable[Registers]:
    """In a vGICv2's distributor, private interrupts are each vCPU's own."""
    for offset, bits, read, write in fields:
        yield Registers(offset, bits * 128, read, write, bits)


def of_shared(fields: Iterable[Field]) -> Iterable[Registers]:
    """In a vGICv3's distributor, what would be of private interrupts is there, and 0."""
    for offset, bits, read, write in fields:
        private = bits * 4
        yield Registers(offset, private, zero, ignore, bits)
        yield Registers(offset + private, bits * 128 - private, read, write, bits)


def of_private(fields: Iterable[Field], frame: int) -> Iterable[Registers]:
    """In a redistributor's frame at an offset, only private interrupts are."""
    for offset, bits, read, write in fields:
        yield Registers(frame + offset, bits * 4, read, write, bits)
