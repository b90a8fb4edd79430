# SPDX-License-Identifier: Apache-2.0
"""A CPU that has nothing to run: in WFI, suspended or stopped, until PSCI boots it (kvm_vcpu_halt, kvm_reset_vcpu)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kvmipa.backend.emulated import vcpu_registers
from kvmipa.backend.emulated.cpu import instructions
from kvmipa.backend.emulated.cpu.registers import SCTLR_EE, SCTLR_EL1

if TYPE_CHECKING:
    from kvmipa.backend.emulated.cpu.processor import Processor


def wait(cpu: Processor) -> int | None:
    """Sleep while the vCPU is stopped, suspended or in WFI, of which only a kick ends the latter."""
    vcpu, kicks = cpu.vcpu, cpu.kicks
    while True:
        kicks.wakes.clear()
        if kicks.kicked:
            cpu.halts = False
            return cpu.interrupted()
        if vcpu.boot is not None and not vcpu.mp_state:
            _boot(cpu, *vcpu.boot)
        if not vcpu.mp_state and not (cpu.halts and not vcpu.exception_pending):
            cpu.halts = False
            return None
        try:
            kicks.wakes.wait()
        except BaseException:
            # A signal handler's: WFI is over.
            cpu.halts = False
            raise


def _boot(cpu: Processor, pc: int, context: int, big_endian: bool) -> None:
    """PSCI CPU_ON has found this vCPU: reset, with the entry point and the caller's endianness (kvm_reset_vcpu)."""
    vcpu = cpu.vcpu
    with cpu.vm.lock:
        cpu.engine.give_back(vcpu.registers)
        vcpu.boot = None
        vcpu_registers.reset(vcpu, again=True)
        vcpu.registers.pc, vcpu.registers.x[0] = pc, context
        if big_endian:
            vcpu.registers.system[SCTLR_EL1] = vcpu.registers.system.get(SCTLR_EL1, 0) | SCTLR_EE
    cpu.engine.take(vcpu.registers)
    cpu.halts = False
    cpu.translation.stage1_changes()
    cpu.kicks.stale = True


def halt_behind(cpu: Processor, pc: int) -> None:
    """Unicorn has stopped by itself: where the instruction at pc is WFI, it is for KVM to wait (kvm_handle_wfx)."""
    if cpu.translation.word(pc) == instructions.WFI:
        cpu.halts = cpu.is_emulated = True
        cpu.vcpu.counters.count("wfi_exit_stat")
