# SPDX-License-Identifier: Apache-2.0
"""Which bits of the ID registers user space may change: KVM_ARM_GET_REG_WRITABLE_MASKS (Linux 6.7).

Such a field can be lowered before the first run, PARange for one.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Final

from kvmipa import abi
from kvmipa.buffers import address_of
from kvmipa.causes import handle_error, no_request_error
from kvmipa.packing import PackedStruct

if TYPE_CHECKING:
    from kvmipa.interrupt_lines import Ask

_RANGE: Final = PackedStruct("reg_mask_range")

# KVM_ARM_FEATURE_ID_RANGE: op0 3, op1 0, 1 and 3, CRn 0, all of CRm 0 to 7 and op2; in this order.
_OP1: Final = (0, 1, 3)
_MASKS: Final = struct.Struct(f"={64 * len(_OP1)}Q")


def masks(ask: Ask) -> dict[int, int]:
    """Register id -> the bits that may be changed; registers without any are left out."""
    answer = bytearray(_MASKS.size)
    result = ask(abi.KVM_ARM_GET_REG_WRITABLE_MASKS, _RANGE.pack(address_of(answer)))
    if result < 0:
        ioctl = "KVM_ARM_GET_REG_WRITABLE_MASKS"
        raise handle_error(-result, "Vm", ioctl) or no_request_error(
            -result, ioctl, "KVM_SET_ONE_REG, which refuses what cannot be changed", "6.7"
        )
    return {_register_id(at): mask for at, mask in enumerate(_MASKS.unpack(answer)) if mask}


def _register_id(index: int) -> int:
    """The id of KVM_GET_ONE_REG: op0[15:14] op1[13:11] CRn[10:7] CRm[6:3] op2[2:0] (KVM_ARM_FEATURE_ID_RANGE_INDEX)."""
    register = 3 << 14 | _OP1[index >> 6] << 11 | index & 0x3F
    return abi.KVM_REG_ARM64 | abi.KVM_REG_SIZE_U64 | abi.KVM_REG_ARM64_SYSREG | register
