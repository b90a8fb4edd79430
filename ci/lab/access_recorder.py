# SPDX-License-Identifier: Apache-2.0
"""What comes of a guest's accesses; runs in the guest: ``python3 -m ci.lab.access_recorder FILE HEADER``.

A vCPU makes each access with one instruction, and what ends its run says what came of it. FILE takes JSON lines: a
header, then the accesses as Vm.access() takes them, each with its result. HEADER is a JSON object of what only the
outside knows.
"""

from __future__ import annotations

import ctypes
import errno
import json
import mmap
import platform
import signal
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from struct import Struct, pack_into
from typing import TYPE_CHECKING, Any, Final

import kvmipa
from ci.lab.raw_vcpu import EXIT_MMIO, PC, PSTATE, SYSREG, Kernel, RawVcpu, RawVm, core
from kvmipa import abi
from kvmipa.buffers import address_of
from kvmipa.id_registers import PARANGE_BITS
from kvmipa.recording import profile_as_json

if TYPE_CHECKING:
    from collections.abc import Iterator

FORMAT: Final = 1

# The guest's memory: slots of this size, a multiple of every page size.
SLOT_SIZE: Final = 0x10000
CODE: Final = 0x10000
RAM: Final = 0x4000_0000
READONLY: Final = 0x5000_0000
NO_MAPPING: Final = 0x6000_0000
NO_PERMISSION: Final = 0x7000_0000
NOWHERE: Final = 0x8000_0000

# Within the code's slot: instructions, exception vectors, and the tables of stage 1 for both halves of the VA space.
VECTORS: Final = 0x800
TABLE: Final = 0x4000

# Stores there, where no memory is, end a run.
DONE: Final = 0x100
ABORTED: Final = 0x200

# A64: the instruction of each access; x0 is the address, x9 and x10 are DONE and ABORTED.
INSTRUCTIONS: Final = {
    ("load", 8, True): 0xF9400001,  # ldr x1, [x0]
    ("load", 4, True): 0xB9400001,  # ldr w1, [x0]
    ("load", 2, True): 0x79400001,  # ldrh w1, [x0]
    ("load", 1, True): 0x39400001,  # ldrb w1, [x0]
    ("store", 8, True): 0xF9000001,  # str x1, [x0]
    ("store", 4, True): 0xB9000001,  # str w1, [x0]
    ("store", 2, True): 0x79000001,  # strh w1, [x0]
    ("store", 1, True): 0x39000001,  # strb w1, [x0]
    ("load", 8, False): 0xA9400801,  # ldp x1, x2, [x0]
    ("store", 8, False): 0xA9000801,  # stp x1, x2, [x0]
    ("fetch", 8, True): 0xD61F0000,  # br x0
}
# What the walker reads a table for.
WALKS: Final = {"walk": "load", "fetch-walk": "fetch"}
STORE_DONE: Final = 0xF900013F  # str xzr, [x9]
STORE_ABORTED: Final = 0xF900015F  # str xzr, [x10]

ESR_EL1, FAR_EL1, VBAR_EL1 = SYSREG | 0xC290, SYSREG | 0xC300, SYSREG | 0xC600
SCTLR_EL1, TTBR0_EL1, TTBR1_EL1, TCR_EL1 = (SYSREG | code for code in (0xC080, 0xC100, 0xC101, 0xC102))
MAIR_EL1: Final = SYSREG | 0xC510

# PSTATE with interrupts masked: EL1 with its own stack pointer, and EL0.
MODES: Final = {1: 0x3C5, 0: 0x3C0}
# Stage 1 with 4K pages and 39 bits in both halves, cacheable; IPS comes from the host's PARange.
TCR: Final = 25 | 0x3500 | 25 << 16 | 0x3500 << 16 | 2 << 30
SCTLR_ON: Final = 0x30D0_1805
# A block of 1 GiB: normal memory, inner shareable, accessed, for EL1.
BLOCK: Final = 0x701
GIB: Final = 1 << 30
# Where stage 1 maps what is beyond the VM's size.
WINDOW: Final = 8 * GIB
UPPER_HALF: Final = 0xFFFF_FF80_0000_0000

# linux/kvm.h, struct kvm_run: esr_iss and fault_ipa of arm_nisv.
NISV: Final = Struct("=32xQQ")
EXIT_NISV: Final = 28

PATIENCE: Final = 3.0


@dataclass(frozen=True)
class Question:
    """An access, as Vm.access() takes it; nisv: with KVM_CAP_ARM_NISV_TO_USER."""

    ipa_bits: int
    ipa: int
    kind: str = "load"
    size: int = 8
    valid_syndrome: bool = True
    va: int | None = None
    from_el: int = 1
    stage1_level: int = 3
    nisv: bool = False


# ---------------------------------------------------------------------------------------------- what is asked


def sizes(limit: int, release: str, page_size: int) -> list[int]:
    """The VM sizes that are asked about."""
    # QEMU 7.2 does not walk tables of 16K pages from level 0; 7.3 takes half a minute to close a VM of 51 bits there.
    largest = limit if page_size == 4096 else min(limit, 48 if release.startswith("7") else 51)
    return sorted({size for size in (32, 36, 40, 44, 48, limit) if size <= largest})


def questions(ipa_bits: int, limit: int, pa_bits: int) -> Iterator[Question]:
    """Every access to a VM of this size."""
    inside = (RAM + 0x808, READONLY + 0x808, NO_MAPPING + 8, NO_PERMISSION + 8, NOWHERE + 0x128)
    ends = {1 << ipa_bits, (1 << ipa_bits) + 0x1238, 1 << limit, (1 << limit) + 0x1238}
    if pa_bits > limit:
        ends |= {(1 << pa_bits) - 0x1000}
    ends |= {1 << pa_bits, (1 << pa_bits) + 0x1238, (1 << ipa_bits) - 0x1000 + 8}
    addresses = (*inside, *sorted(ends))
    for address in addresses:
        for kind, size, valid in INSTRUCTIONS:
            # A fetch goes to the start of the page, where there is an instruction.
            yield Question(ipa_bits, address & ~0xFFF if kind == "fetch" else address, kind, size, valid)
        for kind in ("load", "store", "fetch"):
            yield Question(ipa_bits, address & ~0xFFF if kind == "fetch" else address, kind, from_el=0)
        for kind in ("load", "store"):
            yield Question(ipa_bits, address, kind, 8, valid_syndrome=False, nisv=True)
    if ipa_bits < 48:
        for kind, size, valid in INSTRUCTIONS:
            offset = 0x1000 if kind == "fetch" else 0x1238
            yield Question(ipa_bits, (1 << ipa_bits) + offset, kind, size, valid, va=WINDOW + offset, stage1_level=1)
    # Stage 1 starts at level 1.
    for address in (NOWHERE, *(end for end in sorted(ends) if not end & 0xFFF and end < 1 << min(pa_bits, 48))):
        for kind in ("walk", "fetch-walk"):
            yield Question(ipa_bits, address, kind, va=UPPER_HALF, stage1_level=1)


# ---------------------------------------------------------------------------------------------- how it is asked


class Guest:
    """A VM with one vCPU; it makes one access after the other."""

    def __init__(self, kernel: Kernel, ipa_bits: int, parange: int) -> None:
        self.ipa_bits = ipa_bits
        self._parange = parange
        self._vm = RawVm(kernel, ipa_bits)
        self._memory: list[mmap.mmap] = []
        self._make_slots()
        self._vcpu = RawVcpu(self._vm)
        self._nisv = False

    def _make_slots(self) -> None:
        code = self._add_slot(0, CODE)
        for number, instruction in enumerate(INSTRUCTIONS.values()):
            pack_into("=II", code, 8 * number, instruction, STORE_DONE)
        for vector in range(16):
            pack_into("=I", code, VECTORS + 0x80 * vector, STORE_ABORTED)
        for index in range(4):
            pack_into("=Q", code, TABLE + 8 * index, index * GIB | BLOCK)
        if self.ipa_bits < 48:
            pack_into("=Q", code, TABLE + 8 * (WINDOW // GIB), 1 << self.ipa_bits | BLOCK)
        for slot, gpa, flags in (
            (1, RAM, 0),
            (2, READONLY, abi.KVM_MEM_READONLY),
            (3, (1 << self.ipa_bits) - SLOT_SIZE, 0),
        ):
            memory = self._add_slot(slot, gpa, flags)
            memory[:] = STORE_DONE.to_bytes(4, "little") * (SLOT_SIZE // 4)
        self._vm.set_region(4, NO_MAPPING, SLOT_SIZE, 0)
        nothing = mmap.mmap(-1, 2 * SLOT_SIZE)
        self._memory.append(nothing)
        address = self._aligned(nothing)
        libc = ctypes.CDLL(None)
        libc.mprotect.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
        if libc.mprotect(address, SLOT_SIZE, 0):
            raise OSError("mprotect failed")
        self._vm.set_region(5, NO_PERMISSION, SLOT_SIZE, address)

    def _add_slot(self, slot: int, gpa: int, flags: int = 0) -> memoryview:
        memory = mmap.mmap(-1, 2 * SLOT_SIZE)
        self._memory.append(memory)
        address = self._aligned(memory)
        offset = address - address_of(memory)
        self._vm.set_region(slot, gpa, SLOT_SIZE, address, flags)
        return memoryview(memory)[offset : offset + SLOT_SIZE]

    @staticmethod
    def _aligned(memory: mmap.mmap) -> int:
        return -(-address_of(memory) // SLOT_SIZE) * SLOT_SIZE

    def ask(self, question: Question) -> list[Any]:
        """What comes of it: its name, and the numbers that belong to it."""
        if question.nisv and not self._nisv:
            cap = Struct(abi.STRUCTS["enable_cap"][0]).pack(abi.KVM_CAP_ARM_NISV_TO_USER, 0, *[0] * 4, *[0] * 64)
            self._vm.ask(abi.KVM_ENABLE_CAP, bytearray(cap))
            self._nisv = True
        self._prepare(question)
        found = self._outcome(self._vcpu.run())
        # Before registers are set for the next access.
        self._vcpu.complete()
        return found

    def _prepare(self, question: Question) -> None:
        set_register = self._vcpu.set_register
        key = (WALKS.get(question.kind, question.kind), question.size, question.valid_syndrome)
        mmu = question.va is not None
        set_register(SCTLR_EL1, SCTLR_ON if mmu else 0x30D0_0800)
        if mmu:
            set_register(MAIR_EL1, 0xFF)
            set_register(TCR_EL1, TCR | min(self._parange, 5) << 32)
            set_register(TTBR0_EL1, CODE + TABLE)
            set_register(TTBR1_EL1, question.ipa if question.kind in WALKS else NOWHERE)
        set_register(VBAR_EL1, CODE + VECTORS)
        for number, value in (
            (0, question.ipa if question.va is None else question.va),
            (1, 0),
            (9, DONE),
            (10, ABORTED),
        ):
            set_register(core(number), value)
        set_register(PSTATE, MODES[question.from_el])
        set_register(PC, CODE + 8 * list(INSTRUCTIONS).index(key))

    def _outcome(self, code: int) -> list[Any]:
        if code < 0:
            return ["hangs"] if code == -errno.EINTR else ["failed", errno.errorcode[-code]]
        if self._vcpu.exit_reason == EXIT_NISV:
            iss, ipa = NISV.unpack_from(self._vcpu.run_area)
            return ["nisv", hex(iss), hex(ipa)]
        if self._vcpu.exit_reason != EXIT_MMIO:
            return ["exit", self._vcpu.exit_reason]
        exit_ = self._vcpu.mmio
        if exit_.is_write and exit_.address == DONE:
            return ["mapped"]
        if exit_.is_write and exit_.address == ABORTED:
            return ["aborted", *(hex(self._vcpu.get_register(register)) for register in (ESR_EL1, FAR_EL1))]
        return ["mmio", hex(exit_.address), exit_.size, exit_.is_write]

    def close(self) -> None:
        """Let go of everything."""
        self._vcpu.close()
        self._vm.close()


def record(kernel: Kernel, limit: int, profile: kvmipa.HostProfile) -> Iterator[dict[str, Any]]:
    """Every question with its answer."""
    parange = profile.id_aa64mmfr0_el1 & 0xF
    for ipa_bits in sizes(limit, platform.release(), profile.page_size):
        guest = Guest(kernel, ipa_bits, parange)
        asked = sorted(questions(ipa_bits, limit, PARANGE_BITS[parange]), key=lambda question: question.nisv)
        for question in asked:
            signal.setitimer(signal.ITIMER_REAL, PATIENCE)
            result = guest.ask(question)
            signal.setitimer(signal.ITIMER_REAL, 0)
            yield {
                name: value for name, value in asdict(question).items() if value != getattr(Question, name, None)
            } | {"result": result}
        guest.close()


def main(path: str, header_text: str) -> None:
    """Ask, and write the recording."""
    signal.signal(signal.SIGALRM, lambda _number, _frame: None)
    with kvmipa.open("native") as kvm:
        profile = kvmipa.HostProfile.of(kvm)
        limit = kvm.host_ipa_limit or 40
    header = {
        "kvmipa_accesses": FORMAT,
        "release": platform.release(),
        **json.loads(header_text),
        "profile": profile_as_json(profile),
    }
    with Path(path).open("w") as file:
        for line in (header, *record(Kernel(), limit, profile)):
            file.write(json.dumps(line) + "\n")


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
