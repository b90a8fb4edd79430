# SPDX-License-Identifier: Apache-2.0
"""A VMM for the guest conformance program: it has it try everything, and notes what comes of it."""

from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING, Final

from kvmipa import id_registers
from kvmipa.memory import GuestMemory
from kvmipa.payload import program
from kvmipa.payload.session import PayloadError, Session, add_program
from kvmipa.payload.steps import DATA, Sizes, steps
from kvmipa.payload.transcript import Transcript

if TYPE_CHECKING:
    from kvmipa.system import Kvm
    from kvmipa.vm import Vm

__all__ = ["PayloadError", "run_payload"]

# What the guest finds in its slots; by the bytes one sees which.
_RETURN: Final = 0xD65F03C0
_IN_MEMORY: Final = 0x8182_8384_8586_8788


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
        add_program(vm, asked)
        _add_memory(vm, sizes)
        session = Session(vm, vcpu, asked)
        outcomes = tuple(session.outcomes())
        return Transcript(ipa_bits, outcomes, session.end())


def _add_memory(vm: Vm, sizes: Sizes) -> None:
    content = _RETURN.to_bytes(4, "little") * (DATA // 4)
    content += _IN_MEMORY.to_bytes(8, "little") * ((program.SLOT_SIZE - DATA) // 8)
    for address in (program.RAM, program.READONLY, sizes.top):
        memory = GuestMemory(program.SLOT_SIZE)
        memory.buffer[:] = content
        vm.add_memory(address, memory, readonly=address == program.READONLY)
    vm.set_user_memory_region(len(vm.memslots), program.NO_MAPPING, program.SLOT_SIZE, 0)
