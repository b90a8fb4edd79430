# SPDX-License-Identifier: Apache-2.0
"""KVM_SET_GUEST_DEBUG: single steps and software breakpoints are exits to user space (debug.c, kvm_handle_guest_debug).

What KVM did for the guest is a step of its own since 6.1.
"""

from __future__ import annotations

from struct import Struct
from typing import TYPE_CHECKING, Final

from kvmipa import abi
from kvmipa.backend.emulated.cpu import halt

if TYPE_CHECKING:
    from kvmipa.backend.emulated.cpu.processor import Processor

# struct kvm_debug_exit_arch as far as a step and BRK fill it: the syndrome's halves.
_LAYOUT: Final = Struct("=II")

# ESR_EL2 of a software step, and of BRK.
_STEP: Final = 0xCA00_0022
_ISV: Final = 1 << 24
_BREAKPOINT: Final = 0x3C << 26 | 1 << 25


def stepped(cpu: Processor) -> int | None:
    """One instruction is done, or has led to an exception."""
    if cpu.halts:
        result = halt.wait(cpu)
        if result is not None:
            return result
    if cpu.is_emulated and not cpu.vm.behaviour.emulated_instructions_step:
        return None
    executed = not cpu.is_emulated and cpu.exception_number is None and cpu.refused is None
    return _exit(cpu, _STEP | _ISV if executed else _STEP)


def completion(cpu: Processor) -> int | None:
    """The exit that the completion of an MMIO exit is, where user space goes step by step."""
    if cpu.vcpu.debug_control.single_step and cpu.vm.behaviour.emulated_instructions_step:
        return _exit(cpu, _STEP)
    return None


def breakpoint(cpu: Processor, immediate: int) -> int | None:
    """BRK: user space's if it wants it."""
    if not cpu.vcpu.debug_control.software_breakpoints:
        return None
    return _exit(cpu, _BREAKPOINT | immediate)


def _exit(cpu: Processor, syndrome: int) -> int:
    """KVM_EXIT_DEBUG, with flags since 6.1: the syndrome's upper half counts."""
    if cpu.vm.behaviour.run_flags:
        cpu.area.flags = abi.KVM_DEBUG_ARCH_HSR_HIGH_VALID
    return cpu.area.exit(abi.KVM_EXIT_DEBUG, _LAYOUT, syndrome, 0)
