# SPDX-License-Identifier: Apache-2.0
"""Registers of a vGICv3's redistributors (vgic-mmio-v3.c; Arm IHI 0069, 12.11): two frames of 64K for each vCPU."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from kvmipa.backend.emulated.vgic import interrupt_registers as per_interrupt
from kvmipa.backend.emulated.vgic.interrupt_registers import of_private
from kvmipa.backend.emulated.vgic.register_table import (
    IDENTITY,
    IIDR,
    RegisterAccess,
    Registers,
    half,
    ignore,
    shift_of_half,
    zero,
)

if TYPE_CHECKING:
    from kvmipa.backend.emulated.release import Behaviour

_CTLR_LPIS: Final = 1 << 0
# Revision 3: LPIs can be disabled again, and invalidated by register.
_CTLR_FIXED: Final = 1 << 1 | 1 << 2
_TYPER_LAST: Final = 1 << 4
_TYPER_LPIS: Final = 1 << 0


def _read_gicr_ctlr(it: RegisterAccess) -> int:
    return (_CTLR_LPIS if it.vcpu.lpis_enabled else 0) | (_CTLR_FIXED if it.vgic.state.revision > 2 else 0)


def _write_gicr_ctlr(it: RegisterAccess, value: int) -> None:
    if it.vgic.vm.itses:
        it.vcpu.lpis_enabled = bool(value & _CTLR_LPIS)


def _read_gicr_iidr(_it: RegisterAccess) -> int:
    return IIDR


def _read_gicr_typer(it: RegisterAccess) -> int:
    vm, vcpu = it.vgic.vm, it.vcpu
    value = vcpu.affinity << 32 | vcpu.vcpu_id << 8 | (_TYPER_LPIS if vm.itses else 0)
    if vm.behaviour.gicr_typer_tells_last and it.vgic.redistributors.is_last(vcpu):
        value |= _TYPER_LAST
    return half(it, value)


def _read_propbaser(it: RegisterAccess) -> int:
    return half(it, it.vgic.state.propbaser)


def _write_propbaser(it: RegisterAccess, value: int) -> None:
    it.vgic.state.write_propbaser(it.vcpu, shift_of_half(it), value)


def _read_pendbaser(it: RegisterAccess) -> int:
    return half(it, it.vgic.state.read_pendbaser(it.vcpu))


def _write_pendbaser(it: RegisterAccess, value: int) -> None:
    it.vgic.state.write_pendbaser(it.vcpu, shift_of_half(it), value)


# In the kernel's order, which is not that of the offsets: its search finds less than there is (GICR_STATUSR).
_RD_FRAME: Final = (
    Registers(0x0, 4, _read_gicr_ctlr, _write_gicr_ctlr),
    Registers(0x10, 4, zero, ignore),
    Registers(0x4, 4, _read_gicr_iidr, ignore),
    Registers(0x8, 8, _read_gicr_typer, ignore),
    Registers(0x14, 4, zero, ignore),
    Registers(0x70, 8, _read_propbaser, _write_propbaser),
    Registers(0x78, 8, _read_pendbaser, _write_pendbaser),
)
# GICR_INVLPIR, GICR_INVALLR, GICR_SYNCR: of revision 3.
_INVALIDATION: Final = (
    Registers(0xA0, 8, zero, ignore),
    Registers(0xB0, 8, zero, ignore),
    Registers(0xC0, 4, zero, ignore),
)
_SGI_FRAME: Final = 0x1_0000
_REST: Final = (
    IDENTITY,
    *of_private((*per_interrupt.V3_STATE, *per_interrupt.V3_KIND), _SGI_FRAME),
    # GICR_NSACR.
    Registers(_SGI_FRAME + 0xE00, 4, zero, ignore),
)
V3_REDISTRIBUTOR: Final = (*_RD_FRAME, *_REST)
V3_REDISTRIBUTOR_3: Final = (*_RD_FRAME, *_INVALIDATION, *_REST)


def registers(known: Behaviour) -> tuple[Registers, ...]:
    """Those of a release."""
    return V3_REDISTRIBUTOR_3 if known.vgic_revision_3 else V3_REDISTRIBUTOR
