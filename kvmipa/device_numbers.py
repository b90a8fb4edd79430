# SPDX-License-Identifier: Apache-2.0
"""Numbers of devices that the ABI table does not have: a vGICv3's regions of redistributors, and kvm-vfio's attributes.

Names as in Linux: arch/arm64/include/uapi/asm/kvm.h, include/uapi/linux/kvm.h.
"""

from __future__ import annotations

from typing import Final

KVM_VGIC_V3_RDIST_INDEX_MASK: Final = 0xFFF
KVM_VGIC_V3_RDIST_FLAGS_MASK: Final = 0xF000
KVM_VGIC_V3_RDIST_BASE_MASK: Final = 0x000F_FFFF_FFFF_0000
KVM_VGIC_V3_RDIST_COUNT_SHIFT: Final = 52
# What KVM_VGIC_V3_RDIST_COUNT_MASK has room for.
KVM_VGIC_V3_RDIST_MAX_COUNT: Final = 0xFFF

# Once KVM_DEV_VFIO_GROUP, with _GROUP_ADD and _GROUP_DEL.
KVM_DEV_VFIO_FILE: Final = 1
KVM_DEV_VFIO_FILE_ADD: Final = 1
KVM_DEV_VFIO_FILE_DEL: Final = 2

# VGIC_ADDR_UNDEF of include/kvm/arm_vgic.h: an address that is not set.
VGIC_ADDR_UNDEF: Final = (1 << 64) - 1
