# SPDX-License-Identifier: Apache-2.0
"""Which bits of the ID registers user space may change: what KVM_ARM_GET_REG_WRITABLE_MASKS answers.

The masks are constants of a release (sys_reg_descs in arch/arm64/kvm/sys_regs.c): QEMU's max, cortex-a57 and a64fx, and
kernels of 4K and 16K pages, were asked on 6.12.117 and 7.3.4 and differ in one thing only: a CPU without AArch32 at EL0
(a64fx) has no masks for the AArch32 registers. Releases before 6.12 and between the two are not verified.
"""

from __future__ import annotations

from functools import lru_cache
from struct import pack
from typing import TYPE_CHECKING, Final

from kvmipa.id_registers import field

if TYPE_CHECKING:
    from kvmipa.backend.emulated.host import HostProfile

# KVM_ARM_FEATURE_ID_RANGE_SIZE: op1 is 0, 1 or 3, CRn 0, CRm and op2 are 0 to 7.
COUNT: Final = 192

# KVM_ARM_FEATURE_ID_RANGE_INDEX: op1 (3 counts as 2) in bits 7:6, CRm in 5:3, op2 in 2:0. ID_PFR0_EL1 to MVFR2_EL1 and
# so on; reserved ones between them are not writable.
_AARCH32: Final = dict.fromkeys((8, 9, 10, *range(12, 27), 28, 30), 0xFFFF_FFFF)

_SINCE_6_12: Final = {
    32: 0xFFFF00F00F00FFFF,
    33: 0xF000000FF,
    34: 0xF00000000,
    36: 0xFF0FF0F0FFF00FF,
    39: 0xF0000003,
    40: 0xF000F00F0F,
    48: 0xFFFFFFFFFFFFFFF0,
    49: 0xFFFFFFFF00FFF00F,
    50: 0xFFFF0FFFFFFF00FF,
    56: 0xFF00F000FFFFFF0F,
    57: 0xFFFFF0F00FFFF00F,
    58: 0xF0FF000FF00FFFFF,
    59: 0xF0F0F,
    65: 0x7FFFFFFFFFFF,
    129: 0x300F000F,
}

_SINCE_7_3: Final = {
    0: 0xFFFFFFFF,
    6: 0xFFFFFFFFFFFFFFFF,
    32: 0xFFFF00F0FF00FFFF,
    33: 0xF00000F0000F0FF,
    34: 0xF0000FFF0,
    36: 0xFFFFF0F0FFFF0FF,
    39: 0xFC0080FF,
    40: 0xF000F00F0F,
    48: 0xFFFFFFFFF0FFFFF0,
    49: 0xFFFFFFFF00FFF00F,
    50: 0xFFFFFFFFFFFF00FF,
    51: 0xFF0F00F0,
    56: 0xFF00FFFFFFFFFF0F,
    57: 0xFFFFFFFF0FFFF00F,
    58: 0xF0FF000FF00FFFFF,
    59: 0xF0FFF,
    60: 0xF00000,
    65: 0x7FFFFFFFFFFF,
    71: 0xFFFFFFFFFFFFFFFF,
    129: 0x300FC00F,
}

# ID_AA64PFR0_EL1.EL0: both states.
_AARCH32_AT_EL0: Final = 2


def register_masks(host: HostProfile) -> bytes:
    """The masks of a host, COUNT of 64 bits."""
    found = masks(host)
    return pack(f"={COUNT}Q", *(found.get(index, 0) for index in range(COUNT)))


@lru_cache(maxsize=64)
def masks(host: HostProfile) -> dict[int, int]:
    """The masks of a host that are not 0, by KVM_ARM_FEATURE_ID_RANGE_INDEX."""
    found = dict(_SINCE_7_3 if host.behaviour.writes_more_id_registers else _SINCE_6_12)
    if field("ID_AA64PFR0_EL1", "EL0", host.id_aa64pfr0_el1) >= _AARCH32_AT_EL0:
        found |= _AARCH32
    return found
