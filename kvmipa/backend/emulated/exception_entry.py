# SPDX-License-Identifier: Apache-2.0
"""What an exception to EL1 makes of PSTATE and PC, whether the CPU takes it or KVM has the guest take it.

Arm ARM, AArch64.TakeException; enter_exception64 in arch/arm64/kvm/hyp/exception.c does the same.
"""

from __future__ import annotations

from typing import Final

# PSTATE: NZCV, DIT and PAN stay. Others are 0 (IL, SS, UAO, BTYPE), or set below.
_PAN: Final = 1 << 22
_KEPT: Final = 0xF << 28 | 1 << 24 | _PAN
# Everything masked, at EL1 with its own stack pointer.
_EL1H_MASKED: Final = 0x3C5
_SSBS: Final = 1 << 12

# SCTLR_EL1.SPAN and DSSBS.
_SPAN: Final = 1 << 23
_DSSBS: Final = 1 << 44

# Where the vectors of a synchronous exception are: from EL1 with SP_EL0, with SP_EL1, and from EL0.
_MODE: Final = 0xF
_VECTORS: Final = {0x4: 0x000, 0x5: 0x200}
_FROM_EL0: Final = 0x400


def entered(before: int, sctlr: int, *, has_pan: bool = True) -> int:
    """PSTATE behind an exception. has_pan: SCTLR_EL1.SPAN counts; without FEAT_PAN it is 1.

    >>> hex(entered(0x6000_0000, 1 << 23)), hex(entered(0x0, 1 << 44))
    ('0x600003c5', '0x4013c5')
    """
    pan = _PAN if has_pan and not sctlr & _SPAN else 0
    return before & _KEPT | _EL1H_MASKED | pan | (_SSBS if sctlr & _DSSBS else 0)


def vector(before: int) -> int:
    """Where a synchronous exception's vector is, from VBAR_EL1 on, by PSTATE before it.

    >>> hex(vector(0x3C5)), hex(vector(0x3C0))
    ('0x200', '0x400')
    """
    return _VECTORS.get(before & _MODE, _FROM_EL0)
