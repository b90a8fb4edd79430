# SPDX-License-Identifier: Apache-2.0
"""How many vCPUs and interrupts a vGIC has (include/kvm/arm_vgic.h)."""

from __future__ import annotations

from typing import Final

# VGIC_V2_MAX_CPUS, VGIC_V3_MAX_CPUS; arch/arm64/include/asm/kvm_host.h has KVM_MAX_VCPUS from the latter.
MAX_VCPUS: Final = {"v2": 8, "v3": 512}
KVM_MAX_VCPUS: Final = MAX_VCPUS["v3"]

# VGIC_NR_SGIS and VGIC_NR_PRIVATE_IRQS: SGIs, then PPIs, then SPIs.
FIRST_PPI: Final = 16
PRIVATE_IRQS: Final = 32

# VGIC_NR_IRQS_LEGACY, VGIC_MAX_RESERVED; the fewest are 32 SPIs.
DEFAULT_IRQS: Final = 256
MOST_IRQS: Final = 1023
FEWEST_IRQS: Final = 64
