# SPDX-License-Identifier: Apache-2.0
"""What all vCPUs of a VM have in common, as user space sets it through one of them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from kvmipa.backend.emulated.counters import now

# PPIs of the timers by the number of their attribute: virtual, physical, and those of a guest's EL2
# (include/kvm/arm_arch_timer.h; kernel-device-spec 3.2).
TIMER_PPIS: Final = (27, 30, 28, 26)


@dataclass
class VcpuSettings:
    """Settings of a VM's vCPUs.

    features: those of the first vCPU that was initialised, None before (6.12). is_32bit: the width of its EL1, as
    older kernels have it. timer_ppis: since 6.4; before, each vCPU has its own.
    """

    features: int | None = None
    is_32bit: bool | None = None
    has_pmu: bool = False
    timer_ppis: list[int] = field(default_factory=lambda: list(TIMER_PPIS))
    # Since 6.12, from the first initialisation on: by system_registers.number(); and PMCR_EL0.N.
    id_registers: dict[int, int] = field(default_factory=dict)
    pmu_counters: int | None = None
    # Before: ID_AA64PFR0_EL1.CSV2 and CSV3 in their place, once somebody chose them.
    mitigations: int | None = None
    # Registers of the firmware's interface by the low 16 bits of their id: None: as they are at first.
    psci_version: int | None = None
    hypercalls: dict[int, int] = field(default_factory=dict)
    # What the guest's counters are behind the host's, in ticks: the virtual one's, the physical one's.
    virtual_offset: int = field(default_factory=now)
    physical_offset: int = 0
