# SPDX-License-Identifier: Apache-2.0
"""Guests of checks: the guest conformance program in a VM of its own, and words for what comes of a command."""

from __future__ import annotations

from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from kvmipa.memory import GuestMemory
from kvmipa.payload.program import SLOT_SIZE
from kvmipa.payload.session import Session, add_program
from kvmipa.payload.steps import DATA, Step

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from kvmipa.conformance.target import Target
    from kvmipa.memslot import Memslot
    from kvmipa.payload.program import Command
    from kvmipa.payload.transcript import Outcome
    from kvmipa.vcpu import Vcpu
    from kvmipa.vm import Vm

# Seconds in which a guest has its next exit; with its CPU emulated twice it takes a hundredth of one.
_PATIENCE: Final = 10.0

_RETURN: Final = 0xD65F_03C0
_WORD: Final = 8

# Arm ARM, ESR_ELx.EC and the fault status code.
_CLASSES: Final = {
    0x20: "instruction abort",
    0x21: "instruction abort",
    0x24: "data abort",
    0x25: "data abort",
}

#: What an access comes to that reached memory, and one that did not.
MEMORY: Final = "memory"
NO_MEMORY: Final = "no memory"
DONE: Final = "done"


@dataclass(frozen=True)
class GuestMachine:
    """A VM with one vCPU. ipa_bits: of the space that KVM takes memory in."""

    vm: Vm
    vcpu: Vcpu
    ipa_bits: int

    def memory(
        self,
        address: int,
        *,
        size: int = SLOT_SIZE,
        words: Mapping[int, int] | None = None,
        readonly: bool = False,
        log_dirty: bool = False,
    ) -> Memslot:
        """Give it memory: instructions to return, and from DATA on what ``words`` has by offset, of 64 bits each."""
        memory = GuestMemory(size)
        memory.buffer[:DATA] = _RETURN.to_bytes(4, "little") * (DATA // 4)
        content = memory.buffer.cast("Q")
        for offset, word in (words or {}).items():
            content[offset // _WORD] = word
        return self.vm.add_memory(address, memory, readonly=readonly, log_dirty=log_dirty)

    def told(self, steps: Sequence[Command | Step]) -> Iterator[Outcome]:
        """Have the guest do this; between two steps it waits. Only once: it starts with the first."""
        asked = [step if isinstance(step, Step) else Step(step) for step in steps]
        add_program(self.vm, asked)
        return Session(self.vm, self.vcpu, asked, patience=_PATIENCE).outcomes()


@contextmanager
def machine(on: Target, ipa_bits: int | None = None) -> Iterator[GuestMachine]:
    """A VM of this size, or of a small one; skips the check where no guest can run."""
    _require_cpu(on)
    _require_memory(on)
    with ExitStack() as stack:
        vm = stack.enter_context(on.small_vm() if ipa_bits is None else on.kvm.create_vm(ipa_bits))
        vcpu = stack.enter_context(vm.create_vcpu())
        vcpu.init()
        yield GuestMachine(vm, vcpu, on.space_bits(vm))


def _require_cpu(on: Target) -> None:
    """Skip the check where the emulated kernel has no CPU."""
    if on.facts.real:
        return
    from kvmipa.backend.emulated.cpu.library import library
    from kvmipa.errors import NotSupportedError

    try:
        library()
    except NotSupportedError as missing:
        on.skip(f"{missing.cause} ({missing.fix})")


def _require_memory(on: Target) -> None:
    """Skip the check where an emulated host's user space has no room for this process's memory."""
    if on.facts.real:
        return
    bits = on.facts.profile.config_va_bits
    with GuestMemory(SLOT_SIZE) as memory:
        if memory.address >> bits:
            on.skip(f"this process has its memory beyond the emulated host's user space of {bits} bits")


def came(outcome: Outcome) -> str:
    """What came of a step, all of it.

    >>> from kvmipa.payload.program import Command
    >>> from kvmipa.payload.transcript import Outcome
    >>> came(Outcome(Step(Command("ldr")), (("mmio-load", 0x900_0000, 8),), values=(0x12,)))
    'MMIO load of 8 bytes at 0x9000000, x0 = 0x12'
    """
    found = [_exit(*one) for one in outcome.exits]
    taken = outcome.exception
    if taken is not None:
        found.append(f"{exception(outcome)}, ESR_EL1 {taken.esr:#x}, FAR_EL1 {taken.far:#x}")
    else:
        found += [f"x{number} = {value:#x}" for number, value in enumerate(outcome.values)]
    return ", ".join(found) or DONE


def _exit(kind: str | int, *rest: str | int) -> str:
    match kind, *rest:
        case "mmio-load", int(address), size:
            return f"MMIO load of {size} bytes at {address:#x}"
        case "mmio-store", int(address), size, int(value):
            return f"MMIO store of {size} bytes at {address:#x}: {value:#x}"
        case "nisv", int(iss), int(address):
            return f"KVM_EXIT_ARM_NISV at {address:#x}, ISS {iss:#x}"
        case "failed", name:
            return f"KVM_RUN fails with {name}"
    return str(kind)


def exception(outcome: Outcome) -> str:
    """The kind of exception that the guest took, in words; DONE where it took none."""
    taken = outcome.exception
    if taken is None:
        return DONE
    number = taken.esr >> 26 & 0x3F
    return _CLASSES.get(number, f"exception of class {number:#x}")


def fault_status(outcome: Outcome) -> str:
    """Where an access went: MMIO, an abort with its fault status code, or memory.

    >>> from kvmipa.payload.program import Command
    >>> from kvmipa.payload.transcript import Outcome, TakenException
    >>> fault_status(Outcome(Step(Command("ldr")), exception=TakenException(4, 0x9600_0010, 0, 0, 0)))
    'data abort, FSC 0x10'
    """
    if outcome.exits:
        return ", ".join(_exit(*one) for one in outcome.exits)
    if outcome.exception is not None:
        return f"{exception(outcome)}, FSC {outcome.exception.esr & 0x3F:#04x}"
    return reached(outcome)


def reached(outcome: Outcome) -> str:
    """MEMORY or NO_MEMORY."""
    return NO_MEMORY if outcome.exits or outcome.exception is not None else MEMORY


def name(outcome: Outcome) -> str:
    """The step, in words."""
    command = outcome.step.command
    where = f" at {command.x[1]:#x}" if len(command.x) > 1 else ""
    return f"{command.operation}{where}"
