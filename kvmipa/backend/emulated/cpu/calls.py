# SPDX-License-Identifier: Apache-2.0
"""Calls of a guest to KVM: SMCCC and PSCI by HVC and SMC (kernel-device-spec 5.1 to 5.3; hypercalls.c, psci.c)."""

from __future__ import annotations

from struct import Struct
from typing import TYPE_CHECKING, Final

from kvmipa import abi
from kvmipa.backend.emulated.firmware_registers import PSCI_0_1, hypercalls, psci_version

if TYPE_CHECKING:
    from collections.abc import Callable

    from kvmipa.backend.emulated.cpu.processor import Processor
    from kvmipa.backend.emulated.vcpu import Vcpu

# What a call returns: x0, or x0 to x3; or an exit, after which user space has the say.
Answer = int | tuple[int, int, int, int] | None

_U64: Final = (1 << 64) - 1
_WORD: Final = 0xFFFF_FFFF

SUCCESS: Final = 0
NOT_SUPPORTED: Final = -1
INVALID_PARAMETERS: Final = -2
ALREADY_ON: Final = -4
INTERNAL_FAILURE: Final = -6

# What SMCCC 1.1 is, and what PSCI 0.1 calls its functions (uapi/linux/psci.h, uapi/asm/kvm.h).
_SMCCC_1_1: Final = 0x10001
_PSCI_1_0, _PSCI_1_1, _PSCI_1_3 = 0x10000, 0x10001, 0x10003
_OLD_CPU_OFF: Final = 0x95C1_BA5F
_OLD_CPU_ON: Final = 0x95C1_BA60

# MPIDR_EL1's affinity: Aff3, Aff2 to Aff0 (MPIDR_HWID_BITMASK).
_AFFINITY: Final = 0xFF_00FF_FFFF
_LEVEL_MASKS: Final = (0xFF_00FF_FFFF, 0xFF_00FF_FF00, 0xFF_00FF_0000, 0xFF_0000_0000)

_FILTERED: Final = {1: "deny", 2: "user"}

# Calls that a bit of a firmware bitmap switches off: the function ids, the bitmap's number and the bit (6.1).
_STANDARD, _STANDARD_HYPERVISOR, _VENDOR = range(3)
_BITS: Final = (
    (range(0x8400_0050, 0x8400_0060), _STANDARD, 0),
    (range(0xC400_0050, 0xC400_0060), _STANDARD, 0),
    (range(0xC500_0020, 0xC500_0022), _STANDARD_HYPERVISOR, 0),
    ((0x8600_FF01, 0x8600_0000), _VENDOR, 0),
    ((0x8600_0001,), _VENDOR, 1),
)

# struct kvm_run's union from 5.18 on, and before.
_EVENT: Final = Struct(abi.STRUCTS["exit_system_event"][0])
_OLD_EVENT: Final = Struct("=IIQ")
_HYPERCALL: Final = Struct(abi.STRUCTS["exit_hypercall"][0])

# The vendor hypervisor service's UID: KVM's.
_UID: Final = (0xB66F_B428, 0xE911_C52E, 0x564B_CAA9, 0x743A_004D)
_TRNG_VERSION: Final = 0x10000
_TRNG_UUID: Final = (0x0D21_E000, 0x4384_11EB, 0x8028_0002, 0x5244_4E55)


def hvc(cpu: Processor) -> int | None:
    """HVC, whatever its immediate: PC is behind it. The exit reason, or None where the guest goes on."""
    return _call(cpu, is_smc=False)


def smc(cpu: Processor, immediate: int) -> int | None:
    """SMC: since 6.12 the same with immediate 0."""
    if not cpu.vm.behaviour.smc_is_a_call or immediate:
        cpu.engine.set_x(0, _U64)
        return None
    return _call(cpu, is_smc=True)


def _call(cpu: Processor, *, is_smc: bool) -> int | None:
    function = cpu.engine.x(0) & _WORD
    action = _filtered(cpu, function)
    if action == abi.KVM_EXIT_HYPERCALL:
        flags = 1 if is_smc else 0
        return cpu.exit(action, _HYPERCALL, function, *(0,) * 7, flags)
    if action is not None or not _is_allowed(cpu.vcpu, function):
        answer: Answer = NOT_SUPPORTED
    else:
        answer = _answer(cpu, function)
    if answer is None:
        return cpu.result
    _return(cpu, answer if isinstance(answer, tuple) else (answer, 0, 0, 0))
    reason, cpu.result = cpu.result, None
    return reason


def _return(cpu: Processor, values: tuple[int, ...]) -> None:
    for register, value in enumerate(values):
        cpu.engine.set_x(register, value & _U64)


def _filtered(cpu: Processor, function: int) -> int | None:
    """What the VM's filter says: None handles it, an exit reason hands it to user space."""
    for (first, last), action in cpu.vm.smccc_filter.items():
        if first <= function <= last:
            return {1: -1, 2: abi.KVM_EXIT_HYPERCALL}.get(action)
    return None


def _is_allowed(vcpu: Vcpu, function: int) -> bool:
    bitmaps = hypercalls(vcpu)
    for functions, bitmap, bit in _BITS:
        if function in functions:
            return bool(bitmaps and bitmaps[bitmap] >> bit & 1)
    return True


def _answer(cpu: Processor, function: int) -> Answer:
    handler = _SMCCC.get(function)
    if handler is not None:
        return handler(cpu)
    if 0x8400_0050 <= function & ~0x4000_0000 < 0x8400_0060:
        return _trng(cpu, function)
    return _psci(cpu, function)


# ------------------------------------------------------------------------------------------------ SMCCC


def _version(_cpu: Processor) -> Answer:
    return _SMCCC_1_1


def _features(cpu: Processor) -> Answer:
    """ARCH_FEATURES: the host's mitigations, by the levels that the firmware registers have."""
    asked = cpu.engine.x(1) & _WORD
    workaround = {0x8000_8000: 1, 0x8000_7FFF: 2, 0x8000_3FFF: 3}.get(asked)
    if workaround is not None:
        from kvmipa.backend.emulated.firmware_registers import FIRMWARE
        from kvmipa.backend.emulated.firmware_registers import workaround as level_of

        level = level_of(cpu.vcpu, FIRMWARE | workaround) & 0xF
        return _LEVELS_OF_2.get(level, NOT_SUPPORTED) if workaround == 2 else _LEVELS.get(level, NOT_SUPPORTED)
    if asked == 0xC500_0020:
        return SUCCESS if not hypercalls(cpu.vcpu) or hypercalls(cpu.vcpu)[_STANDARD_HYPERVISOR] & 1 else NOT_SUPPORTED
    return NOT_SUPPORTED


# Levels of the firmware registers to what the guest is told: not there, there, not needed.
_LEVELS: Final = {1: SUCCESS, 2: 1}
_LEVELS_OF_2: Final = {2: SUCCESS, 3: 1}


def _stolen_time_features(cpu: Processor) -> Answer:
    if cpu.engine.x(1) & _WORD not in {0xC500_0020, 0xC500_0021} or cpu.vcpu.stolen_time is None:
        return NOT_SUPPORTED
    return SUCCESS


def _stolen_time(cpu: Processor) -> Answer:
    return NOT_SUPPORTED if cpu.vcpu.stolen_time is None else cpu.vcpu.stolen_time


def _vendor_uid(cpu: Processor) -> Answer:
    return _UID if cpu.vm.behaviour.hypercall_bitmaps else NOT_SUPPORTED


def _vendor_features(cpu: Processor) -> Answer:
    bitmaps = hypercalls(cpu.vcpu)
    if not bitmaps:
        return NOT_SUPPORTED
    return (bitmaps[2], 0, bitmaps[3] if cpu.vm.behaviour.vendor_bitmap_2 else 0, 0)


_SMCCC: Final[dict[int, Callable[[Processor], Answer]]] = {
    0x8000_0000: _version,
    0x8000_0001: _features,
    0xC500_0020: _stolen_time_features,
    0xC500_0021: _stolen_time,
    0x8600_FF01: _vendor_uid,
    0x8600_0000: _vendor_features,
}


def _trng(cpu: Processor, function: int) -> Answer:
    """True random numbers (kvm_trng_call), of the process's own source."""
    if not cpu.vm.behaviour.hypercall_bitmaps:
        return NOT_SUPPORTED
    number, wide = function & 0xF, bool(function & 0x4000_0000)
    if number == 0 and not wide:
        return _TRNG_VERSION
    if number == 1 and not wide:
        asked = cpu.engine.x(1) & _WORD
        return SUCCESS if asked in {0x8400_0050, 0x8400_0051, 0x8400_0052, 0x8400_0053, 0xC400_0053} else NOT_SUPPORTED
    if number == 2 and not wide:
        return _TRNG_UUID
    return _random(cpu, 64 if wide else 32) if number == 3 else NOT_SUPPORTED


def _random(cpu: Processor, width: int) -> Answer:
    import os

    bits = cpu.engine.x(1) & _WORD
    if bits > 3 * width:
        return INVALID_PARAMETERS
    value = int.from_bytes(os.urandom(3 * width // 8), "little") & (1 << bits) - 1
    mask = (1 << width) - 1
    return SUCCESS, value >> 2 * width & mask, value >> width & mask, value & mask


# ------------------------------------------------------------------------------------------------ PSCI


def _psci(cpu: Processor, function: int) -> Answer:
    version = psci_version(cpu.vcpu)
    if version == PSCI_0_1:
        if function == _OLD_CPU_OFF:
            return _cpu_off(cpu)
        return _cpu_on(cpu, already=INVALID_PARAMETERS) if function == _OLD_CPU_ON else NOT_SUPPORTED
    handler, since = _PSCI.get(function, (None, 0))
    return handler(cpu) if handler is not None and version >= since else NOT_SUPPORTED


def _psci_version(cpu: Processor) -> Answer:
    return psci_version(cpu.vcpu)


def _cpu_suspend(cpu: Processor) -> Answer:
    """As WFI, and then 0."""
    cpu.halts = True
    return SUCCESS


def _cpu_off(cpu: Processor) -> Answer:
    cpu.vcpu.mp_state = abi.KVM_MP_STATE_STOPPED
    return SUCCESS


def _argument(cpu: Processor, register: int) -> int:
    """A parameter, of 32 bits where the call is of 32 bits."""
    value = cpu.engine.x(register)
    return value if cpu.engine.x(0) & 0x4000_0000 else value & _WORD


def _cpu_on(cpu: Processor, already: int = ALREADY_ON) -> Answer:
    vm = cpu.vm
    wanted = _argument(cpu, 1)
    if wanted & ~_AFFINITY and vm.behaviour.hypercall_bitmaps:
        return INVALID_PARAMETERS
    with vm.lock:
        target = next((vcpu for vcpu in vm.vcpus if vcpu.initialised and vcpu.affinity == wanted & _AFFINITY), None)
        if target is None:
            return INVALID_PARAMETERS
        if target.mp_state != abi.KVM_MP_STATE_STOPPED:
            return already
        target.boot = (_argument(cpu, 2), _argument(cpu, 3))
        target.mp_state = abi.KVM_MP_STATE_RUNNABLE
        if target.processor is not None:
            target.processor.wake()
    return SUCCESS


def _affinity_info(cpu: Processor) -> Answer:
    wanted, level = _argument(cpu, 1), _argument(cpu, 2)
    if wanted & ~_AFFINITY and cpu.vm.behaviour.hypercall_bitmaps:
        return INVALID_PARAMETERS
    if level >= len(_LEVEL_MASKS):
        return INVALID_PARAMETERS
    mask = _LEVEL_MASKS[level]
    found = [vcpu for vcpu in cpu.vm.vcpus if vcpu.initialised and vcpu.affinity & mask == wanted & mask]
    if not found:
        return INVALID_PARAMETERS
    return int(all(vcpu.mp_state == abi.KVM_MP_STATE_STOPPED for vcpu in found))


def _migrate_info_type(_cpu: Processor) -> Answer:
    return 2


def _psci_features(cpu: Processor) -> Answer:
    asked, version = cpu.engine.x(1) & _WORD, psci_version(cpu.vcpu)
    if asked in {0x8000_0000, 0x8400_000A}:
        return SUCCESS
    if asked in _SUSPEND:
        return SUCCESS if cpu.vm.system_suspend else NOT_SUPPORTED
    handler, since = _PSCI.get(asked, (None, 0))
    if handler is None or version < since:
        return NOT_SUPPORTED
    return 1 if asked in _OFF2 else SUCCESS


def event(cpu: Processor, kind: int, *data: int) -> Answer:
    """KVM_EXIT_SYSTEM_EVENT; the guest does not go on by itself."""
    if cpu.vm.behaviour.system_events_have_data:
        values = data + (0,) * (16 - len(data))
        cpu.result = cpu.exit(abi.KVM_EXIT_SYSTEM_EVENT, _EVENT, kind, len(data), *values)
    else:
        cpu.result = cpu.exit(abi.KVM_EXIT_SYSTEM_EVENT, _OLD_EVENT, kind, 0, 0)
    return None


def _end(cpu: Processor, kind: int, flags: int) -> Answer:
    """All vCPUs stop (kvm_prepare_system_event)."""
    for vcpu in cpu.vm.vcpus:
        vcpu.mp_state = abi.KVM_MP_STATE_STOPPED
        if vcpu is not cpu.vcpu and vcpu.processor is not None:
            vcpu.processor.interrupt_guest()
    event(cpu, kind, flags)
    return INTERNAL_FAILURE


def _system_off(cpu: Processor) -> Answer:
    return _end(cpu, abi.KVM_SYSTEM_EVENT_SHUTDOWN, 0)


def _system_reset(cpu: Processor) -> Answer:
    return _end(cpu, abi.KVM_SYSTEM_EVENT_RESET, 0)


def _system_reset2(cpu: Processor) -> Answer:
    kind = cpu.engine.x(1) & _WORD
    if kind and kind < 0x8000_0000:
        return INVALID_PARAMETERS
    return _end(cpu, abi.KVM_SYSTEM_EVENT_RESET, 1)


def _system_off2(cpu: Processor) -> Answer:
    if _argument(cpu, 1) not in {0, 1} or _argument(cpu, 2):
        return INVALID_PARAMETERS
    return _end(cpu, abi.KVM_SYSTEM_EVENT_SHUTDOWN, 1)


def _system_suspend(cpu: Processor) -> Answer:
    """The guest's registers stay; user space decides."""
    return event(cpu, abi.KVM_SYSTEM_EVENT_SUSPEND) if cpu.vm.system_suspend else NOT_SUPPORTED


_SUSPEND: Final = (0x8400_000E, 0xC400_000E)
_OFF2: Final = (0x8400_0015, 0xC400_0015)

# Function id -> handler, and the first version of PSCI that has it.
_PSCI: Final[dict[int, tuple[Callable[[Processor], Answer], int]]] = {
    0x8400_0000: (_psci_version, 0),
    0x8400_0001: (_cpu_suspend, 0),
    0xC400_0001: (_cpu_suspend, 0),
    0x8400_0002: (_cpu_off, 0),
    0x8400_0003: (_cpu_on, 0),
    0xC400_0003: (_cpu_on, 0),
    0x8400_0004: (_affinity_info, 0),
    0xC400_0004: (_affinity_info, 0),
    0x8400_0006: (_migrate_info_type, 0),
    0x8400_0008: (_system_off, 0),
    0x8400_0009: (_system_reset, 0),
    0x8400_000A: (_psci_features, _PSCI_1_0),
    0x8400_000E: (_system_suspend, _PSCI_1_0),
    0xC400_000E: (_system_suspend, _PSCI_1_0),
    0x8400_0012: (_system_reset2, _PSCI_1_1),
    0xC400_0012: (_system_reset2, _PSCI_1_1),
    0x8400_0015: (_system_off2, _PSCI_1_3),
    0xC400_0015: (_system_off2, _PSCI_1_3),
}
