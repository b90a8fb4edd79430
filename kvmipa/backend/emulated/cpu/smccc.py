# SPDX-License-Identifier: Apache-2.0
"""Services of the SMC Calling Convention but PSCI: Arm's, stolen time, KVM's own, TRNG (kernel-device-spec 5.3)."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Final

from kvmipa.backend.emulated.firmware_registers import FIRMWARE, hypercalls
from kvmipa.backend.emulated.firmware_registers import workaround as level_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from kvmipa.backend.emulated.cpu.processor import Processor

# What a call returns: x0, or x0 to x3; or an exit, after which user space has the say.
Answer = int | tuple[int, int, int, int] | None

# Of a register, what is a parameter of 32 bits.
WORD: Final = 0xFFFF_FFFF

# What SMCCC and PSCI have in common.
SUCCESS: Final = 0
NOT_SUPPORTED: Final = -1
INVALID_PARAMETERS: Final = -2

_SMCCC_1_1: Final = 0x10001

# The vendor hypervisor service's UID: KVM's.
_UID: Final = (0xB66F_B428, 0xE911_C52E, 0x564B_CAA9, 0x743A_004D)
_TRNG_VERSION: Final = 0x10000
# Its UUID's bytes (trng.c: arm_smc_trng_uuid), as words of little endian.
_TRNG_UUID: Final = (0x00E0_210D, 0xEB11_8443, 0x4452_7080, 0x4C5A_4E55)

# Features of the vendor's service where no bitmap has them: itself, and PTP time.
_OLD_VENDOR_FEATURES: Final = 0x3

# Numbers of the firmware bitmaps (6.1).
STANDARD, STANDARD_HYPERVISOR, VENDOR, VENDOR_2 = range(4)


def _version(_cpu: Processor) -> Answer:
    return _SMCCC_1_1


def _features(cpu: Processor) -> Answer:
    """ARCH_FEATURES: the host's mitigations, by the levels that the firmware registers have."""
    asked = cpu.engine.x(1) & WORD
    workaround = {0x8000_8000: 1, 0x8000_7FFF: 2, 0x8000_3FFF: 3}.get(asked)
    if workaround is not None:
        level = level_of(cpu.vcpu, FIRMWARE | workaround) & 0xF
        return _LEVELS_OF_2.get(level, NOT_SUPPORTED) if workaround == 2 else _LEVELS.get(level, NOT_SUPPORTED)
    if asked == 0xC500_0020:
        return SUCCESS if not hypercalls(cpu.vcpu) or hypercalls(cpu.vcpu)[STANDARD_HYPERVISOR] & 1 else NOT_SUPPORTED
    return NOT_SUPPORTED


# Levels of the firmware registers to what the guest is told: not there, there, not needed.
_LEVELS: Final = {1: SUCCESS, 2: 1}
_LEVELS_OF_2: Final = {2: SUCCESS, 3: 1}


def _stolen_time_features(cpu: Processor) -> Answer:
    if cpu.engine.x(1) & WORD not in {0xC500_0020, 0xC500_0021} or cpu.vcpu.stolen_time is None:
        return NOT_SUPPORTED
    return SUCCESS


def _stolen_time(cpu: Processor) -> Answer:
    return NOT_SUPPORTED if cpu.vcpu.stolen_time is None else cpu.vcpu.stolen_time


def _vendor_uid(cpu: Processor) -> Answer:
    return _UID if cpu.vm.behaviour.vendor_service else NOT_SUPPORTED


def _vendor_features(cpu: Processor) -> Answer:
    known, bitmaps = cpu.vm.behaviour, hypercalls(cpu.vcpu)
    if not bitmaps:
        return (_OLD_VENDOR_FEATURES, 0, 0, 0) if known.vendor_service else NOT_SUPPORTED
    return (bitmaps[VENDOR], 0, bitmaps[VENDOR_2] if known.vendor_bitmap_2 else 0, 0)


_SERVICES: Final[dict[int, Callable[[Processor], Answer]]] = {
    0x8000_0000: _version,
    0x8000_0001: _features,
    0xC500_0020: _stolen_time_features,
    0xC500_0021: _stolen_time,
    0x8600_FF01: _vendor_uid,
    0x8600_0000: _vendor_features,
}


def _trng(cpu: Processor, function: int) -> Answer:
    """True random numbers (kvm_trng_call), of the process's own source."""
    if not cpu.vm.behaviour.trng_service:
        return NOT_SUPPORTED
    number, wide = function & 0xF, bool(function & 0x4000_0000)
    if number == 0 and not wide:
        return _TRNG_VERSION
    if number == 1 and not wide:
        asked = cpu.engine.x(1) & WORD
        return SUCCESS if asked in {0x8400_0050, 0x8400_0051, 0x8400_0052, 0x8400_0053, 0xC400_0053} else NOT_SUPPORTED
    if number == 2 and not wide:
        return _TRNG_UUID
    return _random(cpu, 64 if wide else 32) if number == 3 else NOT_SUPPORTED


def _random(cpu: Processor, width: int) -> Answer:
    bits = cpu.engine.x(1) & WORD
    if bits > 3 * width:
        return INVALID_PARAMETERS
    value = int.from_bytes(os.urandom(3 * width // 8), "little") & (1 << bits) - 1
    mask = (1 << width) - 1
    return SUCCESS, value >> 2 * width & mask, value >> width & mask, value & mask


def handler(function: int) -> Callable[[Processor], Answer] | None:
    """Who answers a function that is no PSCI; None where nobody does."""
    if 0x8400_0050 <= function & ~0x4000_0000 < 0x8400_0060:
        return lambda cpu: _trng(cpu, function)
    return _SERVICES.get(function)
