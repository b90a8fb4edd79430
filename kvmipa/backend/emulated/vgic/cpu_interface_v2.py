# SPDX-License-Identifier: Apache-2.0
"""The CPU interface of a vGICv2: registers of GICC (vgic-mmio-v2.c; Arm IHI 0048, 4.4)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from kvmipa.backend.emulated.vgic.register_table import RegisterAccess, Registers, ignore, zero

if TYPE_CHECKING:
    from kvmipa.backend.emulated.release import Behaviour
    from kvmipa.backend.emulated.vgic.register_table import Read, Write

# It names its architecture where the distributor has its revision.
_IIDR: Final = 0x04B2_043B
_APR: Final = 0xD0


def _gicc(name: str, mask: int) -> tuple[Read, Write]:
    def read(it: RegisterAccess) -> int:
        return it.vcpu.gicc.get(name, 0)

    def write(it: RegisterAccess, value: int) -> None:
        it.vcpu.gicc[name] = value & mask

    return read, write


def _read_gicc_iidr(_it: RegisterAccess) -> int:
    return _IIDR


def _read_apr(it: RegisterAccess) -> int:
    """Hardware with up to 32 groups has one."""
    return it.vcpu.gicc.get("apr", 0) if it.offset == _APR else 0


def _write_apr(it: RegisterAccess, value: int) -> None:
    if it.offset == _APR:
        it.vcpu.gicc["apr"] = value


# GICC_CTLR has two groups, AckCtl, FIQEn, CBPR and EOImode; masks and binary points as GICH_VMCR keeps them.
V2_CPU_INTERFACE: Final = (
    Registers(0x0, 4, *_gicc("ctlr", 0x21F)),
    Registers(0x4, 4, *_gicc("pmr", 0x1F)),
    Registers(0x8, 4, *_gicc("bpr", 0x7)),
    Registers(0x1C, 4, *_gicc("abpr", 0x7)),
    Registers(_APR, 16, _read_apr, _write_apr),
    Registers(0xFC, 4, _read_gicc_iidr, ignore),
)
_DEACTIVATE: Final = Registers(0x1000, 4, zero, ignore)


def registers(known: Behaviour) -> tuple[Registers, ...]:
    """Those of a release."""
    return (*V2_CPU_INTERFACE, _DEACTIVATE) if known.vgic_v2_deactivate else V2_CPU_INTERFACE
