# SPDX-License-Identifier: Apache-2.0
"""What becomes of a guest's calls: a VM's filter of SMCCC function ids (kernel-device-spec 3.5, Linux 6.4)."""

from __future__ import annotations

from enum import IntEnum
from typing import TYPE_CHECKING, Final

from kvmipa import abi
from kvmipa.buffers import address_of
from kvmipa.causes.smccc_filter import filter_error
from kvmipa.packing import PackedStruct

if TYPE_CHECKING:
    from kvmipa.asking import Ask

_FILTER: Final = PackedStruct("smccc_filter")
_ATTR: Final = PackedStruct("device_attr")


class SmcccAction(IntEnum):
    """What KVM does with a call: KVM_SMCCC_FILTER_*.

    HANDLE: as without a filter. DENY: x0 = -1 (NOT_SUPPORTED). FORWARD: KVM_RUN ends with KVM_EXIT_HYPERCALL.

    >>> SmcccAction.FORWARD.value
    2
    """

    HANDLE = abi.KVM_SMCCC_FILTER_HANDLE
    DENY = abi.KVM_SMCCC_FILTER_DENY
    FORWARD = abi.KVM_SMCCC_FILTER_FWD_TO_USER


def set_action(ask: Ask, first: int, count: int, action: SmcccAction) -> None:
    """KVM_SET_DEVICE_ATTR of the VM's KVM_ARM_VM_SMCCC_FILTER."""
    wanted = _FILTER.pack(first, count, SmcccAction(action))
    result = ask(abi.KVM_SET_DEVICE_ATTR, _attribute(address_of(wanted)))
    if result < 0:
        raise filter_error(-result, first, count, has_filter=is_there(ask))


def is_there(ask: Ask) -> bool:
    """KVM_HAS_DEVICE_ATTR: whether this kernel filters calls."""
    return ask(abi.KVM_HAS_DEVICE_ATTR, _attribute(0)) == 0


def _attribute(address: int) -> bytearray:
    return _ATTR.pack(0, abi.KVM_ARM_VM_SMCCC_CTRL, abi.KVM_ARM_VM_SMCCC_FILTER, address)
