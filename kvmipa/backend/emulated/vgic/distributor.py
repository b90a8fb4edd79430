# SPDX-License-Identifier: Apache-2.0
"""Registers of distributors (vgic-mmio-v2.c, vgic-mmio-v3.c; Arm IHI 0048, 4.3 and IHI 0069, 12.9)."""

from __future__ import annotations

from errno import EBUSY, EINVAL
from typing import TYPE_CHECKING, Final

from kvmipa.backend.emulated.requests import RefusedError
from kvmipa.backend.emulated.vgic import interrupt_registers as per_interrupt
from kvmipa.backend.emulated.vgic.interrupt_registers import Field, of_all, of_shared
from kvmipa.backend.emulated.vgic.register_table import (
    IDENTITY,
    IIDR,
    IIDR_REVISION_SHIFT,
    RegisterAccess,
    Registers,
    ignore,
    ones,
    zero,
)

if TYPE_CHECKING:
    from kvmipa.backend.emulated.vgic.controller import Vgic

# GICD_CTLR: enabling the group that there is; of version 3, affinity routing and one security state as well.
_ENABLE_V2: Final = 1 << 0
_ENABLE_V3: Final = 1 << 1
_FIXED_V3: Final = 1 << 4 | 1 << 6
# GICD_TYPER.
_TYPER_LPIS: Final = 1 << 17
_TYPER_ID_BITS_SHIFT: Final = 19


def _iidr(vgic: Vgic) -> int:
    return IIDR | vgic.state.revision << IIDR_REVISION_SHIFT


def _write_iidr(vgic: Vgic, value: int) -> None:
    """Since 6.1 user space chooses between revisions 2 and 3."""
    revision = value >> IIDR_REVISION_SHIFT & 0xF
    choices = (2, 3) if vgic.vm.behaviour.vgic_revision_3 else (2,)
    if (value ^ _iidr(vgic)) & ~(0xF << IIDR_REVISION_SHIFT) or revision not in choices:
        raise RefusedError(EINVAL)
    vgic.state.revision = revision
    vgic.state.groups_are_writable = True


def _interrupt_lines(vgic: Vgic) -> int:
    """GICD_TYPER.ITLinesNumber."""
    return (vgic.nr_irqs >> 5) - 1


# ------------------------------------------------------------------------------------------------ version 3


def _read_misc_v3(it: RegisterAccess) -> int:
    vgic = it.vgic
    if it.offset == 0:
        return _FIXED_V3 | (_ENABLE_V3 if vgic.state.enabled else 0)
    if it.offset == 4:
        lpis, id_bits = (_TYPER_LPIS, 16) if vgic.vm.itses else (0, 10)
        return _interrupt_lines(vgic) | lpis | id_bits - 1 << _TYPER_ID_BITS_SHIFT
    return _iidr(vgic) if it.offset == 8 else 0


def _write_misc_v3(it: RegisterAccess, value: int) -> None:
    vgic = it.vgic
    if it.offset == 0:
        vgic.state.enabled = bool(value & _ENABLE_V3)
    elif it.offset == 8:
        _write_iidr(vgic, value)
    elif it.offset == 12 and value:
        # GICD_TYPER2 is 0 without a GICv4.1; it can be written only before initialisation, since 7.3 that can be.
        raise RefusedError(EBUSY if vgic.vm.behaviour.vgic_registers_before_init and vgic.initialised else EINVAL)


def _read_route(it: RegisterAccess) -> int:
    """The upper half is affinity level 3, which vGICs do not have."""
    return 0 if it.offset & 4 else it.vgic.state.read_route(it.vcpu, it.irq)


def _write_route(it: RegisterAccess, value: int) -> None:
    if not it.offset & 4:
        it.vgic.state.write_route(it.vcpu, it.irq, value)


V3_DISTRIBUTOR: Final = (
    Registers(0x0, 16, _read_misc_v3, _write_misc_v3),
    Registers(0x10, 4, ones, ignore),
    *of_shared(
        (
            *per_interrupt.V3_STATE,
            # ITARGETSR, which affinity routing replaces.
            Field(0x800, 8, zero, ignore),
            *per_interrupt.V3_KIND,
            Field(0x6000, 64, _read_route, _write_route),
        )
    ),
    IDENTITY,
)


# ------------------------------------------------------------------------------------------------ version 2


def _read_misc_v2(it: RegisterAccess) -> int:
    vgic = it.vgic
    if it.offset == 0:
        return _ENABLE_V2 if vgic.state.enabled else 0
    if it.offset == 4:
        return _interrupt_lines(vgic) | len(vgic.vm.vcpus) - 1 << 5
    return _iidr(vgic)


def _write_misc_v2(it: RegisterAccess, value: int) -> None:
    if it.offset == 0:
        it.vgic.state.enabled = bool(value & _ENABLE_V2)
    elif it.offset == 8:
        _write_iidr(it.vgic, value)


def _send_sgi(it: RegisterAccess, value: int) -> None:
    it.vgic.state.send_sgi(it.vcpu, value)


def _read_sources(it: RegisterAccess) -> int:
    return it.vgic.state.read_sources(it.vcpu, it.offset & 0xF)


def _add_sources(it: RegisterAccess, value: int) -> None:
    it.vgic.state.add_sources(it.vcpu, it.offset & 0xF, value)


def _remove_sources(it: RegisterAccess, value: int) -> None:
    it.vgic.state.remove_sources(it.vcpu, it.offset & 0xF, value)


V2_DISTRIBUTOR: Final = (
    Registers(0x0, 12, _read_misc_v2, _write_misc_v2),
    *of_all(per_interrupt.V2),
    Registers(0xF00, 4, zero, _send_sgi),
    # CPENDSGIR and SPENDSGIR: a byte for each of the 16 SGIs.
    Registers(0xF10, 16, _read_sources, _remove_sources),
    Registers(0xF20, 16, _read_sources, _add_sources),
)
