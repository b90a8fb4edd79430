# SPDX-License-Identifier: Apache-2.0
"""Exceptions that Unicorn stops for: calls to KVM, user space's breakpoints, or the guest's own (handle_exit.c)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from kvmipa.backend.emulated.cpu import calls, debug, exceptions, instructions, sys_regs

if TYPE_CHECKING:
    from collections.abc import Callable

    from kvmipa.backend.emulated.cpu.processor import Processor

# Unicorn's numbers of exceptions (target/arm/cpu.h: EXCP_*). The others are undefined instructions, HVC among them.
UNDEFINED: Final = 1
_SVC, _DATA_ABORT, _BRK, _SMC = 2, 4, 7, 13


def handle(cpu: Processor, number: int) -> int | None:
    """The exit reason, -errno, or None where the guest goes on."""
    return _HANDLERS.get(number, _undefined)(cpu, cpu.engine.pc)


def _immediate(cpu: Processor, at: int) -> int:
    """What an instruction that generates an exception says, 16 bits."""
    return cpu.translation.word(at) >> 5 & 0xFFFF


def _svc(cpu: Processor, pc: int) -> int | None:
    cpu.take(exceptions.SVC | _immediate(cpu, pc - instructions.SIZE), pc)
    return None


def _smc(cpu: Processor, pc: int) -> int | None:
    cpu.save()
    _trapped(cpu)
    cpu.vcpu.counters.count("hvc_exit_stat")
    return calls.smc(cpu, _immediate(cpu, pc - instructions.SIZE))


def _trapped(cpu: Processor) -> None:
    """KVM has seen an instruction of 32 bits, and does what it is for."""
    cpu.is_emulated = True
    cpu.vcpu.has_trapped = True


def _brk(cpu: Processor, pc: int) -> int | None:
    immediate = _immediate(cpu, pc)
    exit = debug.breakpoint(cpu, immediate)
    if exit is None:
        cpu.take(exceptions.BRK | immediate, pc)
    return exit


def _misaligned(cpu: Processor, pc: int) -> int | None:
    engine = cpu.engine
    transfer = instructions.decode(cpu.translation.word(pc))
    far, write = 0, False
    if transfer is not None:
        far = transfer.address(engine, pc)
        write = transfer.store
    cpu.take(exceptions.alignment_fault(engine.el, write=write), pc, far)
    return None


def _undefined(cpu: Processor, pc: int) -> int | None:
    """What Unicorn does not know, or traps; HVC is among it."""
    word = cpu.translation.word(pc)
    el = cpu.engine.el
    if pc % instructions.SIZE:
        cpu.take(exceptions.PC_ALIGNMENT, pc, pc)
        return None
    name, immediate = instructions.call(word) or ("", 0)
    cpu.save()
    if name in {"hvc", "smc"} and el:
        cpu.engine.pc = pc + instructions.SIZE
        _trapped(cpu)
        if name == "smc":
            return calls.smc(cpu, immediate)
        cpu.vcpu.counters.count("hvc_exit_stat")
        return calls.hvc(cpu)
    if sys_regs.emulate(cpu, word):
        cpu.skip()
    else:
        cpu.take(sys_regs.syndrome_of_undefined(word, el), pc)
    return None


_HANDLERS: Final[dict[int, Callable[[Processor, int], int | None]]] = {
    _SVC: _svc,
    _SMC: _smc,
    _BRK: _brk,
    _DATA_ABORT: _misaligned,
}
