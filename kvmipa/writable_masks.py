# SPDX-License-Identifier: Apache-2.0
"""Which bits of the ID registers user space may change: KVM_ARM_GET_REG_WRITABLE_MASKS (Linux 6.7).

Such a field can be lowered before the first run, PARange for one.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Final

from kvmipa import abi
from kvmipa.buffers import address_of
from kvmipa.causes.writable_masks import masks_error
from kvmipa.packing import PackedStruct
from kvmipa.registers import Reg, system_register

if TYPE_CHECKING:
    from kvmipa.asking import Ask

_RANGE: Final = PackedStruct("reg_mask_range")

# KVM_ARM_FEATURE_ID_RANGE: op0 3, op1 0, 1 and 3, CRn 0, all of CRm 0 to 7 and op2; in this order.
_REGISTERS: Final = tuple(
    system_register(3, op1, 0, crm, op2) for op1 in (0, 1, 3) for crm in range(8) for op2 in range(8)
)
_MASKS: Final = struct.Struct(f"={len(_REGISTERS)}Q")


def masks(ask: Ask) -> dict[Reg, int]:
    """Register -> the bits that may be changed; registers without any are left out."""
    answer = bytearray(_MASKS.size)
    result = ask(abi.KVM_ARM_GET_REG_WRITABLE_MASKS, _RANGE.pack(address_of(answer)))
    if result < 0:
        raise masks_error(-result)
    return {register: mask for register, mask in zip(_REGISTERS, _MASKS.unpack(answer), strict=True) if mask}
