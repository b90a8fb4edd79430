# SPDX-License-Identifier: Apache-2.0
"""The CPU interface of a vGICv3: ICC system registers as device attributes (vgic-sys-reg-v3.c; Arm IHI 0069, 12.2)."""

from __future__ import annotations

from dataclasses import dataclass, field
from errno import EINVAL
from typing import TYPE_CHECKING, Final

from kvmipa.backend.emulated.requests import RefusedError

if TYPE_CHECKING:
    from kvmipa.backend.emulated.vcpu import Vcpu


def _encoding(op1: int, crn: int, crm: int, op2: int) -> int:
    """KVM_REG_ARM_VGIC_SYSREG_*: as in KVM's register ids, of op0 3."""
    return 3 << 14 | op1 << 11 | crn << 7 | crm << 3 | op2


PMR: Final = _encoding(0, 4, 6, 0)
BPR0: Final = _encoding(0, 12, 8, 3)
BPR1: Final = _encoding(0, 12, 12, 3)
CTLR: Final = _encoding(0, 12, 12, 4)
SRE: Final = _encoding(0, 12, 12, 5)
IGRPEN0: Final = _encoding(0, 12, 12, 6)
IGRPEN1: Final = _encoding(0, 12, 12, 7)
AP0R: Final = tuple(_encoding(0, 12, 8, 4 + number) for number in range(4))
AP1R: Final = tuple(_encoding(0, 12, 9, number) for number in range(4))

# What the registers hold: masks. Those that depend on the host are below.
_MASKS: Final = {PMR: 0xFF, BPR0: 0x7, BPR1: 0x7, IGRPEN0: 0x1, IGRPEN1: 0x1}
ICC: Final = frozenset((*_MASKS, CTLR, SRE, *AP0R, *AP1R))

# ICH_VTR_EL2 of the host, as QEMU's GICv3 has it: five bits of priority, 24 of interrupt id, no SEIs, affinity level 3.
# One active-priority register is enough for that.
PRIORITY_BITS: Final = 5
ID_BITS: Final = 1
_ACTIVE_PRIORITIES: Final = 1


@dataclass
class CpuInterface:
    """A vCPU's. registers: number -> value, of those that were written; the bits that ICC_CTLR_EL1 says there are."""

    priority_bits: int = PRIORITY_BITS
    id_bits: int = ID_BITS
    registers: dict[int, int] = field(default_factory=dict)


_CBPR: Final = 1 << 0
_EOI_MODE: Final = 1 << 1
_PRI_BITS_SHIFT: Final = 8
_ID_BITS_SHIFT: Final = 11
_SEIS: Final = 1 << 14
_A3V: Final = 1 << 15
# System registers are on, and neither FIQs nor IRQs bypass them.
_SRE: Final = 0x7


def read_icc(number: int, vcpu: Vcpu) -> int:
    """A register's value; EINVAL for active priorities that this host has not."""
    icc = vcpu.icc
    values = icc.registers
    if number == CTLR:
        return values.get(CTLR, _A3V) | icc.priority_bits - 1 << _PRI_BITS_SHIFT | icc.id_bits << _ID_BITS_SHIFT
    if number == SRE:
        return _SRE
    if number == BPR1 and values.get(CTLR, 0) & _CBPR:
        return min(values.get(BPR0, 0) + 1, 7)
    _check_active_priority(number, vcpu)
    return values.get(number, 0)


def write_icc(number: int, vcpu: Vcpu, value: int) -> None:
    """Write a register; EINVAL for what the host's GIC cannot do."""
    values = vcpu.icc.registers
    if number == CTLR:
        _write_ctlr(vcpu.icc, value)
    elif number == SRE:
        if not value & 1:
            raise RefusedError(EINVAL)
    elif number in _MASKS:
        if number != BPR1 or not values.get(CTLR, 0) & _CBPR:
            values[number] = value & _MASKS[number]
    else:
        _check_active_priority(number, vcpu)
        values[number] = value & 0xFFFF_FFFF


def _write_ctlr(icc: CpuInterface, value: int) -> None:
    """What a VM is restored with may not be more than the host has; it can be less from then on (set_gic_ctlr)."""
    priority_bits = (value >> _PRI_BITS_SHIFT & 7) + 1
    if priority_bits > icc.priority_bits:
        raise RefusedError(EINVAL)
    icc.priority_bits = priority_bits
    id_bits = value >> _ID_BITS_SHIFT & 7
    if id_bits > icc.id_bits:
        raise RefusedError(EINVAL)
    icc.id_bits = id_bits
    if value & (_SEIS | _A3V) != _A3V:
        raise RefusedError(EINVAL)
    icc.registers[CTLR] = value & (_A3V | _CBPR | _EOI_MODE)


def _check_active_priority(number: int, vcpu: Vcpu) -> None:
    """vgic_v3_max_apr_idx: 7 bits of priority have four registers, 6 have two."""
    most = {7: 4, 6: 2}.get(vcpu.icc.priority_bits, _ACTIVE_PRIORITIES)
    if number in (*AP0R[most:], *AP1R[most:]):
        raise RefusedError(EINVAL)
