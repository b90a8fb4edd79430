# SPDX-License-Identifier: Apache-2.0
"""Calls of a guest to KVM, by HVC and SMC: filtered, allowed, handed on and returned from (kernel-device-spec 5.1)."""

from __future__ import annotations

from struct import Struct
from typing import TYPE_CHECKING, Final

from kvmipa import abi
from kvmipa.backend.emulated.cpu import psci, smccc
from kvmipa.backend.emulated.cpu.registers import U64
from kvmipa.backend.emulated.firmware_registers import hypercalls

if TYPE_CHECKING:
    from kvmipa.backend.emulated.cpu.processor import Processor
    from kvmipa.backend.emulated.cpu.smccc import Answer
    from kvmipa.backend.emulated.vcpu import Vcpu

# Actions of a filter: what is refused, and what user space answers.
_FILTERED: Final = {1: -1, 2: abi.KVM_EXIT_HYPERCALL}

# Calls that a bit of a firmware bitmap switches off: the function ids, the bitmap's number and the bit (6.1).
_BITS: Final = (
    (range(0x8400_0050, 0x8400_0060), smccc.STANDARD, 0),
    (range(0xC400_0050, 0xC400_0060), smccc.STANDARD, 0),
    (range(0xC500_0020, 0xC500_0022), smccc.STANDARD_HYPERVISOR, 0),
    ((0x8600_FF01, 0x8600_0000), smccc.VENDOR, 0),
    ((0x8600_0001,), smccc.VENDOR, 1),
)

_HYPERCALL: Final = Struct(abi.STRUCTS["exit_hypercall"][0])


def hvc(cpu: Processor) -> int | None:
    """HVC, whatever its immediate: PC is behind it. The exit reason, or None where the guest goes on."""
    return _call(cpu, is_smc=False)


def smc(cpu: Processor, immediate: int) -> int | None:
    """SMC: since 6.12 the same with immediate 0."""
    if not cpu.vm.behaviour.smc_is_a_call or immediate:
        cpu.engine.set_x(0, U64)
        return None
    return _call(cpu, is_smc=True)


def _call(cpu: Processor, *, is_smc: bool) -> int | None:
    function = cpu.engine.x(0) & smccc.WORD
    action = _filtered(cpu, function)
    if action == abi.KVM_EXIT_HYPERCALL:
        flags = 1 if is_smc else 0
        return cpu.area.exit(action, _HYPERCALL, function, *(0,) * 7, flags)
    if action is not None or not _is_allowed(cpu.vcpu, function):
        answer: Answer = smccc.NOT_SUPPORTED
    else:
        handler = smccc.handler(function)
        answer = psci.call(cpu, function) if handler is None else handler(cpu)
    if answer is None:
        return cpu.result
    _return(cpu, answer if isinstance(answer, tuple) else (answer, 0, 0, 0))
    reason, cpu.result = cpu.result, None
    return reason


def _return(cpu: Processor, values: tuple[int, ...]) -> None:
    for register, value in enumerate(values):
        cpu.engine.set_x(register, value & U64)


def _filtered(cpu: Processor, function: int) -> int | None:
    """What the VM's filter says: None handles it, an exit reason hands it to user space."""
    for (first, last), action in cpu.vm.smccc_filter.items():
        if first <= function <= last:
            return _FILTERED.get(action)
    return None


def _is_allowed(vcpu: Vcpu, function: int) -> bool:
    bitmaps = hypercalls(vcpu)
    for functions, bitmap, bit in _BITS:
        if bitmaps and function in functions:
            return bool(bitmaps[bitmap] >> bit & 1)
    return True
