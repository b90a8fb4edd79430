# SPDX-License-Identifier: Apache-2.0
"""System registers and system instructions of a guest: whose they are, and what KVM makes of them (sys_regs.c)."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final

from kvmipa import abi
from kvmipa.backend.emulated import system_access, system_registers
from kvmipa.backend.emulated.counters import FREQUENCY
from kvmipa.backend.emulated.cpu import exceptions, instructions, stage1
from kvmipa.backend.emulated.cpu.registers import KEPT, PAR_EL1, SCTLR_EL1, TCR_EL1, TTBR0_EL1, TTBR1_EL1, UNKNOWN
from kvmipa.backend.emulated.requests import RefusedError
from kvmipa.system_registers import ENCODINGS, number

if TYPE_CHECKING:
    from collections.abc import Callable

    from kvmipa.access import Result
    from kvmipa.backend.emulated.cpu.processor import Processor
    from kvmipa.backend.emulated.vcpu import Vcpu

# What the callback returns.
_DONE: Final = 1
_UNICORNS: Final = 0


def _number(name: str) -> int:
    return number(*ENCODINGS[name])


_MMFR0: Final = _number("ID_AA64MMFR0_EL1")
_MMFR1: Final = _number("ID_AA64MMFR1_EL1")
_MMFR2: Final = _number("ID_AA64MMFR2_EL1")

_STAGE1: Final = frozenset({SCTLR_EL1, TCR_EL1, TTBR0_EL1, TTBR1_EL1})

# Unicorn has them as a guest expects, and no vCPU's storage does: special-purpose registers (CRn 4), FPCR and FPSR.
_KEPT: Final = frozenset(KEPT)
_SPECIAL_CRN: Final = 4

_VIRTUAL_COUNT: Final = number(3, 3, 14, 0, 2)
_PHYSICAL_COUNT: Final = number(3, 3, 14, 0, 1)
_FREQUENCY: Final = number(3, 3, 14, 0, 0)

# OSLSR_EL1 where KVM does not keep it, MDCCSR_EL0 (trap_oslsr_el1, trap_raz_wi).
_CONSTANTS: Final = {number(2, 0, 1, 1, 4): 0x8, number(2, 3, 0, 1, 0): 0}

# CNTKCTL_EL1: EL0PCTEN, EL0VCTEN, EL0VTEN and EL0PTEN, and what they are for.
_CNTKCTL: Final = _number("CNTKCTL_EL1")
_FOR_EL0: Final = {
    _PHYSICAL_COUNT: 1 << 0,
    _VIRTUAL_COUNT: 1 << 1,
    _FREQUENCY: 3,
    **{number(3, 3, 14, 3, op2): 1 << 8 for op2 in range(3)},
    **{number(3, 3, 14, 2, op2): 1 << 9 for op2 in range(3)},
}

# Op0 1: CRn 7 has caches and AT, CRn 8 TLBs; Op1 and CRm of what is broadcast.
_CACHES: Final = 7
_TLBS: Final = 8
_BROADCAST_TLB: Final = (1, 3, 5)
_AT: Final = 8

# Registers that EL0 may be kept from, with a syndrome of their own: counters and timers, CTR_EL0, the PMU's.
_OF_EL0: Final = 3


@lru_cache(maxsize=1)
def _pmu() -> frozenset[int]:
    """The PMU's registers, which the CPU has and a vCPU without the feature has not."""
    with_it, without = (
        system_registers.table("7.3", system_registers.Conditions(pmu=has)).registers for has in (True, False)
    )
    return frozenset(with_it.keys() - without.keys()) | {_number(f"PMCEID{index}_EL0") for index in range(2)}


def stage1_features(vcpu: Vcpu) -> stage1.Features:
    """What the guest's MMU can do: the CPU's, whatever ID registers the VM was given."""
    host = vcpu.vm.host_registers
    return stage1.Features.of(host.get(_MMFR0, 0), host.get(_MMFR2, 0))


def has_pan(vcpu: Vcpu) -> bool:
    """Whether the CPU has FEAT_PAN."""
    return bool(vcpu.vm.host_registers.get(_MMFR1, 0) >> 20 & 15)


def instruction(cpu: Processor, register: int, what: Any) -> int:
    """MRS, MSR or SYS, before Unicorn does it: 1 where it is done. register: Unicorn's name of Rt."""
    op0, op1, crn, crm, op2 = what.op0, what.op1, what.crn, what.crm, what.op2
    if op0 == 1:
        return _system_instruction(cpu, (op1, crn, crm, op2), what.val)
    asked = number(op0, op1, crn, crm, op2)
    if asked in _STAGE1:
        # Read or written: the next page that is asked for shows it.
        cpu.translation.stage1_changes()
    if asked in _KEPT or (op0 == 3 and crn == _SPECIAL_CRN) or asked in UNKNOWN:
        return _UNICORNS
    found = instructions.system_instruction(cpu.translation.word_now())
    if found is None or found.number != asked:
        return _UNICORNS
    return _access(cpu, found, what.val)


def emulate(cpu: Processor, word: int) -> bool:
    """MRS or MSR of a register that Unicorn does not know, and KVM does: whether it is done."""
    asked = instructions.system_instruction(word)
    if asked is None or not cpu.engine.el or asked.number not in UNKNOWN:
        return False
    value = 0 if asked.reads or asked.register == instructions.XZR else cpu.engine.x(asked.register)
    return _access(cpu, asked, value, knows=False) == _DONE


def _is_open(cpu: Processor, asked: int) -> bool:
    """Whether CNTKCTL_EL1 lets EL0 have a counter or a timer; everything else Unicorn knows best."""
    bits = _FOR_EL0.get(asked, 0)
    return bool((cpu.engine.system(_CNTKCTL) or 0) & bits)


def _access(cpu: Processor, asked: instructions.SystemInstruction, value: int, *, knows: bool = True) -> int:
    """A register that is KVM's. knows: Unicorn has it as well."""
    vcpu = cpu.vcpu
    no_pmu = asked.number in _pmu() and not vcpu.has_feature(abi.KVM_ARM_VCPU_PMU_V3)
    if no_pmu and vcpu.vm.behaviour.hides_absent_pmu:
        return _undefine(cpu, knows)
    if not no_pmu and not cpu.engine.el and not _is_open(cpu, asked.number):
        return _UNICORNS
    known = system_access.table(vcpu).registers.get(asked.number)
    if asked.reads:
        found = 0 if no_pmu else _read(vcpu, asked.number, known)
        if found is None:
            return _UNICORNS
        cpu.engine.set_x(asked.register, found)
    elif no_pmu:
        pass
    elif known is None:
        return _UNICORNS
    elif known.kind in _READ_ONLY:
        return _undefine(cpu, knows)
    else:
        with vcpu.vm.lock:
            _write(vcpu, known, value)
    return _DONE


def _undefine(cpu: Processor, knows: bool) -> int:
    """An instruction that is undefined though Unicorn knows it; it says so itself of those that it does not."""
    if not knows:
        return _UNICORNS
    cpu.undefine()
    return _DONE


_READ_ONLY: Final = frozenset({system_registers.INVARIANT, system_registers.FEATURES, system_registers.CLIDR})
_TIMER_PARTS: Final = frozenset(
    {system_registers.TIMER_COUNT, system_registers.TIMER_COMPARE, system_registers.TIMER_CONTROL}
)


def _read(vcpu: Vcpu, asked: int, register: Any) -> int | None:
    """What the guest reads, None where KVM has nothing to say about it."""
    if asked in _COUNTS:
        return _COUNTS[asked](vcpu)
    if register is None:
        return _CONSTANTS.get(asked)
    stored = vcpu.registers.read_system(asked) or 0
    if register.kind == system_registers.TIMER_CONTROL:
        # ISTATUS counts where the timer is enabled.
        compare = vcpu.registers.read_system(asked + 1) or 0
        is_due = system_access.count(vcpu, virtual=register.name.startswith("CNTV")) >= compare
        return stored & 3 | (4 if stored & 1 and is_due else 0)
    if register.kind in _TIMER_PARTS:
        return stored
    return system_access.get(vcpu, register)


def _write(vcpu: Vcpu, register: Any, value: int) -> None:
    if register.kind in _TIMER_PARTS:
        vcpu.registers.write_system(register.number, value)
        return
    try:
        system_access.set(vcpu, register, value)
    except RefusedError:
        # What user space could not write, the guest writes to no effect.
        return


_COUNTS: Final[dict[int, Callable[[Vcpu], int]]] = {
    _VIRTUAL_COUNT: lambda vcpu: system_access.count(vcpu, virtual=True),
    _PHYSICAL_COUNT: lambda vcpu: system_access.count(vcpu, virtual=False),
    _FREQUENCY: lambda _vcpu: FREQUENCY,
}


def _system_instruction(cpu: Processor, encoding: tuple[int, int, int, int], value: int) -> int:
    op1, crn, crm, op2 = encoding
    if crn == _CACHES and crm == _AT and op1 == 0 and op2 < 4:
        _address_translation(cpu, op2, value)
        return _DONE
    others = [vcpu.processor for vcpu in cpu.vm.vcpus if vcpu.processor not in {None, cpu}]
    if others and crn == _TLBS and crm in _BROADCAST_TLB:
        for other in others:
            other.kicks.translations_stale()
    elif others and crn == _CACHES and crm in {1, 5} and (op1, op2) in {(3, 1), (0, 0)}:
        # IC IVAU, IC IALLU and IALLUIS: what one has written, another may execute.
        for other in others:
            other.kicks.forget_code()
    return _UNICORNS


# PAR_EL1: F, FST and a bit that is 1; attributes as far as they are known: normal memory, write-back, inner shareable.
_PAR_FAILED: Final = 1 | 1 << 11
_PAR_RES1: Final = 1 << 11
_PAR_ADDRESS: Final = (1 << 52) - 1 & ~0xFFF


def _address_translation(cpu: Processor, op2: int, va: int) -> None:
    """AT S1E1R, S1E1W, S1E0R and S1E0W: stage 1 alone (Arm ARM, PAR_EL1)."""
    found = cpu.translation.translated(va, "store" if op2 & 1 else "load", 0 if op2 & 2 else 1)
    if isinstance(found, stage1.Translated):
        par = found.ipa & _PAR_ADDRESS | _PAR_RES1
    elif isinstance(found, int):
        par = _PAR_FAILED | found << 1
    else:
        par = _walk_failed(found)
    cpu.engine.set_system(PAR_EL1, par)


def _walk_failed(_found: Result) -> int:
    """A table is not to be had: an external abort on the walk."""
    return _PAR_FAILED | 0x14 << 1


def syndrome_of_undefined(word: int, el: int) -> int:
    """ESR_EL1 where Unicorn said "undefined": it says so of what EL0 is kept from, too."""
    if not el and word in {instructions.WFI, instructions.WFE}:
        return exceptions.WFX | (word == instructions.WFE)
    found = instructions.system_instruction(word)
    if found is not None and not el and found.number >> 11 & 7 == _OF_EL0:
        return exceptions.trapped_access(found.number, found.register, reads=found.reads)
    return exceptions.UNKNOWN
