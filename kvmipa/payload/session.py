# SPDX-License-Identifier: Apache-2.0
"""The VMM's side of the guest conformance program: a guest that is told commands, and what comes of each."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from kvmipa import abi, exits
from kvmipa.errno_names import errno_name
from kvmipa.errors import KvmError
from kvmipa.memory import GuestMemory
from kvmipa.payload import program
from kvmipa.payload.transcript import Outcome, TakenException

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from kvmipa.payload.steps import Step
    from kvmipa.vcpu import Vcpu
    from kvmipa.vm import Vm

# What the VMM answers the guest's loads with; by the bytes one sees which.
ANSWER: Final = 0xA1A2_A3A4_A5A6_A7A8

# More than the longest step has, by far: an emulation that goes wrong does not go on for ever.
_MAX_EXITS: Final = 32
# Seconds in which a guest has an exit, even where its CPU is emulated twice; those for a step that may never be over.
_PATIENCE: Final = 120.0
_PATIENCE_WITH_ONE: Final = 0.5
_INSTRUCTION_SIZE: Final = 4


class PayloadError(Exception):
    """The guest did something that it was not told."""


def add_program(vm: Vm, asked: Sequence[Step]) -> None:
    """Give a VM the two slots that the program needs: itself, and its commands, all of them.

    They are in memory before the guest runs: with its MMU off its loads go past the caches, where a later store of the
    VMM's might still be.
    """
    image, commands = GuestMemory(program.SLOT_SIZE), GuestMemory(program.SLOT_SIZE)
    code = program.image()
    image.buffer[: len(code)] = code
    packed = _packed(asked)
    commands.buffer[: len(packed)] = packed
    vm.add_memory(program.IMAGE, image)
    vm.add_memory(program.COMMANDS, commands)


def _packed(asked: Sequence[Step]) -> bytes:
    return b"".join(step.command.packed() for step in asked)


class Session:
    """One guest, step by step, in a VM that has the program. patience: seconds in which it has its next exit.

    Raises PayloadError where the guest does something else, or nothing; what Vcpu.run() raises is an outcome.
    """

    def __init__(self, vm: Vm, vcpu: Vcpu, asked: Sequence[Step], *, patience: float = _PATIENCE) -> None:
        self._vm = vm
        self._vcpu = vcpu
        self._asked = asked
        self._patience = patience
        self._nisv = False

    def outcomes(self) -> Iterator[Outcome]:
        """From the guest's first instruction to its last step; between two of them the guest waits."""
        regs = self._vcpu.regs
        regs.pc = program.IMAGE
        regs.x[0] = program.COMMANDS
        regs.x[1] = program.COMMANDS + len(_packed(self._asked))
        regs.x[2] = program.REPORT
        for number, step in enumerate(self._asked):
            yield self._step(number, step)

    def end(self) -> tuple[str | int, ...]:
        """What the VMM sees behind the last step."""
        match self._vcpu.run(timeout=self._patience):
            case exits.SystemEvent(type=kind, data=data):
                return ("system_event", int(kind), *data)
            case other:
                raise PayloadError(f"behind the last step the guest calls SYSTEM_OFF, but the exit is {other}")

    def _step(self, number: int, step: Step) -> Outcome:
        if step.nisv and not self._nisv:
            self._vm.enable_cap(abi.KVM_CAP_ARM_NISV_TO_USER)
            self._nisv = True
        seen: list[tuple[str | int, ...]] = []
        reports: dict[str, int] = {}
        for _ in range(_MAX_EXITS):
            self._exit(step, seen, reports)
            if "end" in reports:
                if reports.pop("end") != number:
                    raise PayloadError(f"step {number}, {_text(step)}: the guest is at another: {reports}")
                return _outcome(step, seen, reports)
        raise PayloadError(f"step {number}, {_text(step)}: more than {_MAX_EXITS} exits: {seen}, {reports}")

    def _exit(self, step: Step, seen: list[tuple[str | int, ...]], reports: dict[str, int]) -> None:
        """Run to the next exit."""
        try:
            found = self._vcpu.run(timeout=_PATIENCE_WITH_ONE if step.may_hang else self._patience)
        except KvmError as error:
            seen.append(("failed", errno_name(error.errno or 0)))
            self._skip()
            return
        match found:
            case exits.Mmio(phys_addr=address, is_write=True, value=value) if _in_reports(address):
                reports[program.FIELDS[(address - program.REPORT) // 8]] = value
            case exits.Mmio(phys_addr=address, size=size, is_write=True, value=value):
                seen.append(("mmio-store", address, size, value))
            case exits.Mmio(phys_addr=address, size=size):
                seen.append(("mmio-load", address, size))
                found.reply(ANSWER & (1 << 8 * size) - 1)
            case exits.Nisv(esr_iss=esr_iss, fault_ipa=fault_ipa):
                seen.append(("nisv", esr_iss, fault_ipa))
                self._skip()
            case exits.Interrupted(timed_out=True) if step.may_hang:
                seen.append(("hangs",))
                self._skip()
            case exits.Interrupted(kicked=False, timed_out=False):
                pass  # a signal for this thread, whose handler has run
            case exits.Interrupted(timed_out=True):
                raise PayloadError(f"{_text(step)}: in {self._patience:g} seconds no exit followed {seen}, {reports}")
            case _:
                raise PayloadError(f"{_text(step)} ends in {found}")

    def _skip(self) -> None:
        """What KVM leaves to the VMM: to go on behind the instruction."""
        self._vcpu.regs.pc += _INSTRUCTION_SIZE


def _text(step: Step) -> str:
    return f"{step.command.operation}({', '.join(map(hex, step.command.x))})"


def _in_reports(address: int) -> bool:
    return 0 <= address - program.REPORT < 8 * len(program.FIELDS)


def _outcome(step: Step, seen: list[tuple[str | int, ...]], reports: dict[str, int]) -> Outcome:
    taken = {name: reports[name] for name in ("vector", "esr", "far", "elr", "spsr") if name in reports}
    return Outcome(
        step,
        tuple(seen),
        TakenException(**taken) if taken else None,
        tuple(reports[f"x{number}"] for number in range(step.command.values)),
    )
