# SPDX-License-Identifier: Apache-2.0
"""A VMM for the guest conformance program: it tells it what to do, and notes what comes of it."""

from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING, Final

from kvmipa import abi, exits, id_registers
from kvmipa.errno_names import errno_name
from kvmipa.errors import KvmError
from kvmipa.memory import GuestMemory
from kvmipa.payload import program
from kvmipa.payload.steps import DATA, Sizes, steps
from kvmipa.payload.transcript import Outcome, TakenException, Transcript

if TYPE_CHECKING:
    from collections.abc import Sequence

    from kvmipa.payload.steps import Step
    from kvmipa.system import Kvm
    from kvmipa.vcpu import Vcpu
    from kvmipa.vm import Vm

# What the guest finds in its slots, and what the VMM answers its loads with; by the bytes one sees which.
_RETURN: Final = 0xD65F03C0
_IN_MEMORY: Final = 0x8182_8384_8586_8788
_ANSWER: Final = 0xA1A2_A3A4_A5A6_A7A8

# More than the longest step has, by far: an emulation that goes wrong does not go on for ever.
_MAX_EXITS: Final = 32
# Seconds in which a guest has an exit, even where its CPU is emulated twice; those for a step that may never be over.
_PATIENCE: Final = 120.0
_PATIENCE_WITH_ONE: Final = 0.5
_INSTRUCTION_SIZE: Final = 4


class PayloadError(Exception):
    """The guest did something that it was not told."""


def run_payload(kvm: Kvm, ipa_bits: int, *, stage1: bool = True) -> Transcript:
    """Run the guest conformance program in a VM of this size; what came of each step.

    stage1: also with the guest's MMU on. Raises PayloadError where the guest does something else, KvmError where the VM
    cannot be made.
    """
    with ExitStack() as stack:
        vm = stack.enter_context(kvm.create_vm(ipa_bits))
        vcpu = stack.enter_context(vm.create_vcpu())
        vcpu.init()
        parange = id_registers.field("ID_AA64MMFR0_EL1", "PARange", vcpu.regs.id_aa64mmfr0_el1)
        sizes = Sizes(ipa_bits, kvm.host_ipa_limit or 40, id_registers.PARANGE_BITS[parange])
        asked = tuple(steps(sizes, stage1=stage1))
        _add_memory(vm, sizes, asked)
        return _Session(vm, vcpu, asked).transcript()


def _add_memory(vm: Vm, sizes: Sizes, asked: Sequence[Step]) -> None:
    image, commands = GuestMemory(program.SLOT_SIZE), GuestMemory(program.SLOT_SIZE)
    code = program.image()
    image.buffer[: len(code)] = code
    packed = b"".join(step.command.packed() for step in asked)
    commands.buffer[: len(packed)] = packed
    vm.add_memory(program.IMAGE, image)
    vm.add_memory(program.COMMANDS, commands)
    content = _RETURN.to_bytes(4, "little") * (DATA // 4)
    content += _IN_MEMORY.to_bytes(8, "little") * ((program.SLOT_SIZE - DATA) // 8)
    for address in (program.RAM, program.READONLY, sizes.top):
        memory = GuestMemory(program.SLOT_SIZE)
        memory.buffer[:] = content
        vm.add_memory(address, memory, readonly=address == program.READONLY)
    vm.set_user_memory_region(len(vm.memslots), program.NO_MAPPING, program.SLOT_SIZE, 0)


class _Session:
    """One guest, step by step."""

    def __init__(self, vm: Vm, vcpu: Vcpu, asked: Sequence[Step]) -> None:
        self._vm = vm
        self._vcpu = vcpu
        self._asked = asked
        self._nisv = False

    def transcript(self) -> Transcript:
        """From the guest's first instruction to its last."""
        regs = self._vcpu.regs
        regs.pc = program.IMAGE
        regs.x[0] = program.COMMANDS
        regs.x[1] = program.COMMANDS + len(b"".join(step.command.packed() for step in self._asked))
        regs.x[2] = program.REPORT
        outcomes = tuple(self._step(number, step) for number, step in enumerate(self._asked))
        match self._vcpu.run(timeout=_PATIENCE):
            case exits.SystemEvent(type=kind, data=data):
                return Transcript(self._vm.ipa_bits, outcomes, ("system_event", int(kind), *data))
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
                    raise PayloadError(f"step {number}, {step}: the guest is at another: {reports}")
                return _outcome(step, seen, reports)
        raise PayloadError(f"step {number}, {step}: more than {_MAX_EXITS} exits: {seen}, {reports}")

    def _exit(self, step: Step, seen: list[tuple[str | int, ...]], reports: dict[str, int]) -> None:
        """Run to the next exit."""
        try:
            found = self._vcpu.run(timeout=_PATIENCE_WITH_ONE if step.may_hang else _PATIENCE)
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
                found.reply(_ANSWER & (1 << 8 * size) - 1)
            case exits.Nisv(esr_iss=esr_iss, fault_ipa=fault_ipa):
                seen.append(("nisv", esr_iss, fault_ipa))
                self._skip()
            case exits.Interrupted(timed_out=True) if step.may_hang:
                seen.append(("hangs",))
                self._skip()
            case exits.Interrupted(kicked=False, timed_out=False):
                pass  # a signal for this thread, whose handler has run
            case _:
                raise PayloadError(f"{step} ends in {found}")

    def _skip(self) -> None:
        """What KVM leaves to the VMM: to go on behind the instruction."""
        self._vcpu.regs.pc += _INSTRUCTION_SIZE


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
