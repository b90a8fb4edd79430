# SPDX-License-Identifier: Apache-2.0
"""System registers and system instructions of a guest: whose they are, and what KVM makes of them (sys_regs.c)."""

from __future__ import annotations

from contextlib import suppress
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from kvmipa import abi
from kvmipa.backend.emulated import system_access, system_registers
from kvmipa.backend.emulated.cpu import accessors, exceptions, instructions, stage1
from kvmipa.backend.emulated.cpu.registers import CNTKCTL_EL1, KEPT, PAR_EL1, STAGE1, UNKNOWN
from kvmipa.backend.emulated.requests import RefusedError
from kvmipa.system_registers import number, number_of

if TYPE_CHECKING:
    from kvmipa.access import Result
    from kvmipa.backend.emulated.cpu.processor import Processor
    from kvmipa.backend.emulated.vcpu import Vcpu

# What the callback returns.
_DONE: Final = 1
_UNICORNS: Final = 0


_MMFR0, _MMFR1, _MMFR2 = map(number_of, ("ID_AA64MMFR0_EL1", "ID_AA64MMFR1_EL1", "ID_AA64MMFR2_EL1"))

# Unicorn has them as a guest expects, and no vCPU's storage does: special-purpose registers (CRn 4), FPCR and FPSR.
_KEPT: Final = frozenset(KEPT)
_SPECIAL_CRN: Final = 4

# OSLSR_EL1 where KVM does not keep it, MDCCSR_EL0 (trap_oslsr_el1, trap_raz_wi).
_CONSTANTS: Final = {number(2, 0, 1, 1, 4): 0x8, number(2, 3, 0, 1, 0): 0}

# CNTKCTL_EL1: EL0PCTEN, EL0VCTEN, EL0VTEN and EL0PTEN, and what they are for; CNTFRQ_EL0 first.
_FOR_EL0: Final = {
    number(3, 3, 14, 0, 0): 3,
    number_of("CNTPCT_EL0"): 1 << 0,
    number_of("CNTVCT_EL0"): 1 << 1,
    **{number(3, 3, 14, 3, op2): 1 << 8 for op2 in range(3)},
    **{number(3, 3, 14, 2, op2): 1 << 9 for op2 in range(3)},
}

# Op0 1: CRn 7 has caches and AT, CRn 8 TLBs; CRm of what is broadcast, and of AT.
_CACHES: Final = 7
_TLBS: Final = 8
_BROADCAST_TLB: Final = (1, 3, 5)
_AT: Final = (8, 9)


class _Translation(NamedTuple):
    """An AT instruction of EL1. uses_pan: it goes by PSTATE.PAN (FEAT_PAN2)."""

    kind: str
    el: int
    uses_pan: bool = False


# CRm and Op2: AT S1E1R, S1E1W, S1E0R, S1E0W, S1E1RP and S1E1WP.
_TRANSLATIONS: Final = {
    (8, 0): _Translation("load", 1),
    (8, 1): _Translation("store", 1),
    (8, 2): _Translation("load", 0),
    (8, 3): _Translation("store", 0),
    (9, 0): _Translation("load", 1, True),
    (9, 1): _Translation("store", 1, True),
}
_PAN2: Final = 2

# Registers that EL0 may be kept from, with a syndrome of their own: counters and timers, CTR_EL0, the PMU's.
_OF_EL0: Final = 3


@lru_cache(maxsize=1)
def _pmu() -> frozenset[int]:
    """The PMU's registers, which the CPU has and a vCPU without the feature has not."""
    with_it, without = (
        system_registers.table("7.3", system_registers.Conditions(pmu=has)).registers for has in (True, False)
    )
    return frozenset(with_it.keys() - without.keys()) | {number_of(f"PMCEID{index}_EL0") for index in range(2)}


def stage1_features(vcpu: Vcpu) -> stage1.Features:
    """What the guest's MMU can do: the CPU's, whatever ID registers the VM was given."""
    host = vcpu.vm.host_registers
    return stage1.Features.of(host.get(_MMFR0, 0), host.get(_MMFR2, 0), host.get(_MMFR1, 0))


def pan_version(vcpu: Vcpu) -> int:
    """0: the CPU has no FEAT_PAN; 2: FEAT_PAN2; 3: FEAT_PAN3."""
    return vcpu.vm.host_registers.get(_MMFR1, 0) >> 20 & 15


def instruction(cpu: Processor, register: int, what: Any) -> int:
    """MRS, MSR or SYS, before Unicorn does it: 1 where it is done. register: Unicorn's name of Rt.

    The VM's lock is held.
    """
    op0, op1, crn, crm, op2 = what.op0, what.op1, what.crn, what.crm, what.op2
    if op0 == 1:
        return _system_instruction(cpu, (op1, crn, crm, op2), what.val)
    asked = number(op0, op1, crn, crm, op2)
    if asked in STAGE1:
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
    with cpu.vm.lock:
        return _access(cpu, asked, value, knows=False) == _DONE


def _is_open(cpu: Processor, asked: int) -> bool:
    """Whether CNTKCTL_EL1 lets EL0 have a counter or a timer; everything else Unicorn knows best."""
    bits = _FOR_EL0.get(asked, 0)
    return bool((cpu.engine.system(CNTKCTL_EL1) or 0) & bits)


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
        return _DONE
    if known is not None and known.kind in _READ_ONLY:
        return _undefine(cpu, knows)
    return _DONE if no_pmu or _write(vcpu, asked.number, known, value) else _UNICORNS


def _undefine(cpu: Processor, knows: bool) -> int:
    """An instruction that is undefined though Unicorn knows it; it says so itself of those that it does not."""
    if not knows:
        return _UNICORNS
    cpu.undefine()
    return _DONE


_READ_ONLY: Final = frozenset(
    {system_registers.INVARIANT, system_registers.FEATURES, system_registers.CLIDR, system_registers.SLOTS}
)


def _read(vcpu: Vcpu, asked: int, register: Any) -> int | None:
    """What the guest reads, None where KVM has nothing to say about it, or it is undefined to Unicorn, too."""
    if asked in _WRITE_ONLY:
        return None
    read = accessors.of(asked).read
    if read is not None:
        return read(vcpu)
    return _CONSTANTS.get(asked) if register is None else system_access.get(vcpu, register)


def _write(vcpu: Vcpu, asked: int, register: Any, value: int) -> bool:
    """Whether KVM has something to say about it, and then it is written."""
    write = accessors.of(asked).write
    if write is not None:
        write(vcpu, value)
        return True
    if register is None or asked in _COUNTS:
        return False
    # What user space could not write, the guest writes to no effect.
    with suppress(RefusedError):
        system_access.set(vcpu, register, value)
    return True


# To the guest, these can only be read, and that one only written.
_COUNTS: Final = frozenset(map(number_of, ("CNTPCT_EL0", "CNTVCT_EL0")))
_WRITE_ONLY: Final = frozenset({number_of("PMSWINC_EL0")})


def _system_instruction(cpu: Processor, encoding: tuple[int, int, int, int], value: int) -> int:
    op1, crn, crm, op2 = encoding
    if crn == _CACHES and crm in _AT:
        # Unicorn's would take addresses of the guest's tables for those of this process.
        asked = _TRANSLATIONS.get((crm, op2)) if op1 == 0 and cpu.engine.el else None
        if asked is None or (asked.uses_pan and pan_version(cpu.vcpu) < _PAN2):
            return _undefine(cpu, knows=True)
        _address_translation(cpu, asked, value)
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


def _address_translation(cpu: Processor, asked: _Translation, va: int) -> None:
    """Stage 1 alone (Arm ARM, PAR_EL1)."""
    found = cpu.translation.translated(va, asked.kind, asked.el, uses_pan=asked.uses_pan)
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
