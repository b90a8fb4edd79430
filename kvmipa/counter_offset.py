# SPDX-License-Identifier: Apache-2.0
"""What guests' counters lag behind the host's: KVM_ARM_SET_COUNTER_OFFSET (kernel-device-spec 4.9, Linux 6.4)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from kvmipa import abi
from kvmipa.causes.counter_offset import offset_error
from kvmipa.packing import PackedStruct

if TYPE_CHECKING:
    from kvmipa.asking import Ask

_OFFSET: Final = PackedStruct("arm_counter_offset")


def set_offset(ask: Ask, ticks: int) -> None:
    """KVM_ARM_SET_COUNTER_OFFSET."""
    result = ask(abi.KVM_ARM_SET_COUNTER_OFFSET, _OFFSET.pack(ticks))
    if result < 0:
        raise offset_error(-result, ticks)
