# SPDX-License-Identifier: Apache-2.0
"""Attributes of a VM: the filter of the calls that guests make (kernel-device-spec 3.5)."""

from __future__ import annotations

from errno import EBUSY, EEXIST, EINVAL, ENXIO
from struct import Struct
from typing import TYPE_CHECKING, Final

from kvmipa import abi
from kvmipa.backend.emulated import user_memory
from kvmipa.backend.emulated.device_attributes import asked
from kvmipa.backend.emulated.requests import Request

if TYPE_CHECKING:
    from kvmipa.backend.emulated.user_memory import Argument
    from kvmipa.backend.emulated.vm import VirtualMachine

_FILTER: Final = Struct(abi.STRUCTS["smccc_filter"][0])

_LAST_FUNCTION: Final = (1 << 32) - 1

# Calls of the Arm Architecture range, 32 and 64 bits: KVM's alone (kvm_smccc_filter_insert_reserved).
RESERVED: Final = ((0x8000_0000, 0x8000_FFFF), (0xC000_0000, 0xC000_FFFF))


def _filter_at(argument: Argument) -> int | None:
    """The address of the filter, or None where another attribute is meant."""
    group, attr, address = asked(argument)
    is_filter = group == abi.KVM_ARM_VM_SMCCC_CTRL and attr == abi.KVM_ARM_VM_SMCCC_FILTER
    return address if is_filter else None


def has_attr(_vm: VirtualMachine, argument: Argument) -> int:
    """KVM_HAS_DEVICE_ATTR on a VM."""
    return -ENXIO if _filter_at(argument) is None else 0


def set_attr(vm: VirtualMachine, argument: Argument) -> int:
    """KVM_SET_DEVICE_ATTR on a VM: what becomes of a range of function ids, of which each can be in one range only."""
    address = _filter_at(argument)
    if address is None:
        return -ENXIO
    base, count, action, *padding = _FILTER.unpack(user_memory.read(address, _FILTER.size))
    last = base + count - 1
    if any(padding) or not count or last > _LAST_FUNCTION or action > abi.KVM_SMCCC_FILTER_FWD_TO_USER:
        return -EINVAL
    if vm.has_run:
        return -EBUSY
    ranges = vm.smccc_filter
    if any(first <= last and base <= end for first, end in (*RESERVED, *ranges)):
        return -EEXIST
    ranges[base, last] = action
    return 0


# On a VM's descriptor.
VM_REQUESTS: Final[tuple[Request, ...]] = (
    Request(abi.KVM_SET_DEVICE_ATTR, set_attr, needs=abi.KVM_CAP_DEVICE_CTRL, brought_by="filters_calls", of_arm=True),
    Request(abi.KVM_HAS_DEVICE_ATTR, has_attr, needs=abi.KVM_CAP_DEVICE_CTRL, brought_by="filters_calls", of_arm=True),
)
