# SPDX-License-Identifier: Apache-2.0
"""The requests of a VM's descriptor that a pKVM host does not know (kvm_pkvm_ioctl_allowed; kernel-device-spec 3.5).

Since 7.3 the architecture's own requests need a capability that pKVM allows (vm_ioctl_caps in arch/arm64/kvm/arm.c).
What virt/kvm answers itself is never filtered.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from kvmipa import abi

if TYPE_CHECKING:
    from kvmipa.backend.emulated.requests import Request

# Needs KVM_CAP_ARM_MTE, which no VM of a pKVM host has.
OF_NO_VM: Final = frozenset((abi.KVM_ARM_MTE_COPY_TAGS,))

# Need KVM_CAP_ARM_SET_DEVICE_ADDR, KVM_CAP_DEVICE_CTRL, KVM_CAP_COUNTER_OFFSET, KVM_CAP_ARM_SUPPORTED_REG_MASK_RANGES.
NOT_OF_PROTECTED_VMS: Final = OF_NO_VM | {
    abi.KVM_ARM_SET_DEVICE_ADDR,
    abi.KVM_SET_DEVICE_ATTR,
    abi.KVM_HAS_DEVICE_ATTR,
    abi.KVM_ARM_SET_COUNTER_OFFSET,
    abi.KVM_ARM_GET_REG_WRITABLE_MASKS,
}


def allowed(rows: tuple[Request, ...], refused: frozenset[int]) -> tuple[Request, ...]:
    """The requests that are left."""
    return tuple(row for row in rows if row.number not in refused)
