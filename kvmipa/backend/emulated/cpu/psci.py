# SPDX-License-Identifier: Apache-2.0
"""PSCI: CPUs are switched on and off, and the VM ends (kernel-device-spec 5.2; psci.c)."""

from __future__ import annotations

from struct import Struct
from typing import TYPE_CHECKING, Final

from kvmipa import abi
from kvmipa.backend.emulated.cpu.smccc import INVALID_PARAMETERS, NOT_SUPPORTED, SUCCESS, WORD
from kvmipa.backend.emulated.firmware_registers import PSCI_0_1, psci_version

if TYPE_CHECKING:
    from collections.abc import Callable

    from kvmipa.backend.emulated.cpu.processor import Processor
    from kvmipa.backend.emulated.cpu.smccc import Answer

ALREADY_ON: Final = -4
INTERNAL_FAILURE: Final = -6

_PSCI_1_0, _PSCI_1_1, _PSCI_1_3 = 0x10000, 0x10001, 0x10003
# What PSCI 0.1 calls its functions (uapi/asm/kvm.h).
_OLD_CPU_OFF: Final = 0x95C1_BA5F
_OLD_CPU_ON: Final = 0x95C1_BA60

# Function ids of PSCI since 0.2, as SMC32.
_SMC32: Final = range(0x8400_0000, 0x8400_0020)

# MPIDR_EL1's affinity: Aff3, Aff2 to Aff0 (MPIDR_HWID_BITMASK).
_AFFINITY: Final = 0xFF_00FF_FFFF
_LEVEL_MASKS: Final = (0xFF_00FF_FFFF, 0xFF_00FF_FF00, 0xFF_00FF_0000, 0xFF_0000_0000)

# struct kvm_run's union from 5.18 on, and before.
_EVENT: Final = Struct(abi.STRUCTS["exit_system_event"][0])
_OLD_EVENT: Final = Struct("=IIQ")


def call(cpu: Processor, function: int) -> Answer:
    """A function of the version that the vCPU has; NOT_SUPPORTED where it has none of this number."""
    version = psci_version(cpu.vcpu)
    if version == PSCI_0_1:
        if function == _OLD_CPU_OFF:
            return _cpu_off(cpu)
        return _cpu_on(cpu, already=INVALID_PARAMETERS) if function == _OLD_CPU_ON else NOT_SUPPORTED
    handler, since = _FUNCTIONS.get(function, (None, 0))
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
    """A parameter, of 32 bits where the call is an SMC32 (kvm_psci_narrow_to_32bit); PSCI 0.1's are none."""
    value = cpu.engine.x(register)
    return value & WORD if cpu.engine.x(0) & WORD in _SMC32 else value


def _cpu_on(cpu: Processor, already: int = ALREADY_ON) -> Answer:
    vm = cpu.vm
    wanted = _argument(cpu, 1)
    if wanted & ~_AFFINITY and vm.behaviour.psci_checks_affinity:
        return INVALID_PARAMETERS
    with vm.lock:
        target = next((vcpu for vcpu in vm.vcpus if vcpu.initialised and vcpu.affinity == wanted & _AFFINITY), None)
        if target is None:
            return INVALID_PARAMETERS
        if target.mp_state != abi.KVM_MP_STATE_STOPPED:
            return already
        target.boot = (_argument(cpu, 2), _argument(cpu, 3), cpu.translation.is_big_endian)
        target.mp_state = abi.KVM_MP_STATE_RUNNABLE
        if target.processor is not None:
            target.processor.kicks.wake()
    return SUCCESS


def _affinity_info(cpu: Processor) -> Answer:
    wanted, level = _argument(cpu, 1), _argument(cpu, 2)
    if wanted & ~_AFFINITY and cpu.vm.behaviour.psci_checks_affinity:
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
    asked, version = cpu.engine.x(1) & WORD, psci_version(cpu.vcpu)
    if asked in {0x8000_0000, 0x8400_000A}:
        return SUCCESS
    if asked in _SUSPEND:
        return SUCCESS if cpu.vm.system_suspend else NOT_SUPPORTED
    handler, since = _FUNCTIONS.get(asked, (None, 0))
    if handler is None or version < since:
        return NOT_SUPPORTED
    return 1 if asked in _OFF2 else SUCCESS


def _event(cpu: Processor, kind: int, *data: int) -> Answer:
    """KVM_EXIT_SYSTEM_EVENT; the guest does not go on by itself."""
    if cpu.vm.behaviour.system_events_have_data:
        values = data + (0,) * (16 - len(data))
        cpu.result = cpu.area.exit(abi.KVM_EXIT_SYSTEM_EVENT, _EVENT, kind, len(data), *values)
    else:
        cpu.result = cpu.area.exit(abi.KVM_EXIT_SYSTEM_EVENT, _OLD_EVENT, kind, 0, 0)
    return None


def _end(cpu: Processor, kind: int, flags: int) -> Answer:
    """All vCPUs stop (kvm_prepare_system_event)."""
    for vcpu in cpu.vm.vcpus:
        vcpu.mp_state = abi.KVM_MP_STATE_STOPPED
        if vcpu is not cpu.vcpu and vcpu.processor is not None:
            vcpu.processor.kicks.interrupt_guest()
    _event(cpu, kind, flags)
    return INTERNAL_FAILURE


def _system_off(cpu: Processor) -> Answer:
    return _end(cpu, abi.KVM_SYSTEM_EVENT_SHUTDOWN, 0)


def _system_reset(cpu: Processor) -> Answer:
    return _end(cpu, abi.KVM_SYSTEM_EVENT_RESET, 0)


def _system_reset2(cpu: Processor) -> Answer:
    kind = cpu.engine.x(1) & WORD
    if kind and kind < 0x8000_0000:
        return INVALID_PARAMETERS
    return _end(cpu, abi.KVM_SYSTEM_EVENT_RESET, 1)


def _system_off2(cpu: Processor) -> Answer:
    if _argument(cpu, 1) not in {0, 1} or _argument(cpu, 2):
        return INVALID_PARAMETERS
    return _end(cpu, abi.KVM_SYSTEM_EVENT_SHUTDOWN, 1)


def _system_suspend(cpu: Processor) -> Answer:
    """The guest's registers stay; user space decides."""
    return _event(cpu, abi.KVM_SYSTEM_EVENT_SUSPEND) if cpu.vm.system_suspend else NOT_SUPPORTED


_SUSPEND: Final = (0x8400_000E, 0xC400_000E)
_OFF2: Final = (0x8400_0015, 0xC400_0015)

# Function id -> handler, and the first version of PSCI that has it.
_FUNCTIONS: Final[dict[int, tuple[Callable[[Processor], Answer], int]]] = {
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
