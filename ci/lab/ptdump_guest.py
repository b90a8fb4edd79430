# SPDX-License-Identifier: Apache-2.0
"""A VM whose vCPU accesses what it is told, and what debugfs shows of its stage 2 meanwhile."""

from __future__ import annotations

import ctypes
import mmap
import os
import struct
from pathlib import Path
from typing import Any, Final

from ci.lab.guest_memory import Libc, populate, smaps
from ci.lab.raw_vcpu import PC, Kernel, Mmio, RawVcpu, RawVm, core
from kvmipa import abi

PAGE: Final = mmap.PAGESIZE
BLOCK: Final = PAGE * (PAGE // 8)
MIB: Final = 1 << 20
# What memory is aligned to: a block of 4K pages.
ALIGN: Final = 2 * MIB

CODE: Final = 0x1_0000
CODE_SIZE: Final = 64 << 10
#: No slot has it: the program loads from there what to do next, first an address, then one of OPERATIONS.
MAILBOX: Final = 0x0900_0000
OPERATIONS: Final = {"load": 0, "store": 1, "exec": 2}

# A64 (Arm ARM C6): x2 is MAILBOX.
_PROGRAM: Final = (
    0xF9400040,  # next:  ldr x0, [x2]
    0xF9400443,  #        ldr x3, [x2, #8]
    0xB40000E3,  #        cbz x3, load
    0xD1000463,  #        sub x3, x3, #1
    0xB4000063,  #        cbz x3, store
    0xD63F0000,  #        blr x0
    0x17FFFFFA,  #        b next
    0xF9000001,  # store: str x1, [x0]
    0x17FFFFF8,  #        b next
    0xF9400001,  # load:  ldr x1, [x0]
    0x17FFFFF6,  #        b next
)
_RETURN: Final = 0xD65F03C0

_FILES: Final = ("ipa_range", "stage2_levels", "stage2_page_tables")
_SMAPS: Final = ("KernelPageSize", "Rss", "AnonHugePages", "Private_Hugetlb", "THPeligible")


class Guest:
    """A VM whose vCPU makes one access after the other, as it is told."""

    def __init__(self, ipa_bits: int) -> None:
        self.libc = Libc()
        self.ipa_bits = ipa_bits
        self.vm = RawVm(Kernel(), ipa_bits)
        self.slots: list[dict[str, Any]] = []
        self.log: list[dict[str, Any]] = []
        self._addresses: dict[int, int] = {}
        # virt/kvm/kvm_main.c, kvm_create_vm_debugfs.
        self._directory = Path(f"/sys/kernel/debug/kvm/{os.getpid()}-{self.vm.fd}")

    def files(self) -> dict[str, str]:
        """What debugfs says of the VM."""
        return {name: (self._directory / name).read_text() for name in _FILES}

    def dump(self) -> str:
        """Its tables."""
        return (self._directory / _FILES[-1]).read_text()

    def add(self, gpa: int, size: int, hva: int, flags: int = 0, **more: Any) -> int:
        """A slot over this memory; its number."""
        number = len(self.slots)
        self.vm.set_region(number, gpa, size, hva, flags)
        self._addresses[number] = hva
        self.slots.append(
            {
                "slot": number,
                "gpa": hex(gpa),
                "size": hex(size),
                "hva": hex(hva),
                "hva_offset_in_block": hex(hva % BLOCK),
                "gpa_offset_in_block": hex(gpa % BLOCK),
                "flags": flags,
                **more,
            }
        )
        return number

    def add_code(self) -> None:
        """Slot 0: the program."""
        hva = self.libc.area(CODE_SIZE, CODE_SIZE)
        populate(hva, CODE_SIZE)
        ctypes.memmove(hva, struct.pack(f"={len(_PROGRAM)}I", *_PROGRAM), 4 * len(_PROGRAM))
        self.add(CODE, CODE_SIZE, hva, what="code", populated=True)

    def add_memory(
        self, gpa: int, size: int, what: str, *, phase: int = 0, flags: int = 0, populated: bool = True
    ) -> int:
        """A slot of anonymous memory that begins at the block's phase; its number."""
        hva = self.libc.area(size, ALIGN, phase)
        if populated:
            populate(hva, size)
        return self.add(gpa, size, hva, flags, what=what, populated=populated)

    def add_hugetlb(self, gpa: int, size: int, what: str) -> bool:
        """A slot of hugetlb's memory; whether this host has any."""
        try:
            hva = self.libc.huge_area(size, 2 * MIB)
        except OSError as error:
            self.slots.append({"slot": len(self.slots), "what": what, "absent": str(error)})
            return False
        populate(hva, size)
        self.add(gpa, size, hva, what=what, populated=True)
        return True

    def write_return(self, slot: int, offset: int) -> None:
        """Have the slot's memory hold an instruction that the program can call."""
        ctypes.memmove(self._addresses[slot] + offset, _RETURN.to_bytes(4, "little"), 4)

    def discard(self, slot: int) -> None:
        """Give the slot's memory back to the host."""
        self.libc.discard(self._addresses[slot], int(self.slots[slot]["size"], 16))

    def set_flags(self, slot: int, flags: int) -> None:
        """Change a slot's flags."""
        gpa, size = (int(self.slots[slot][name], 16) for name in ("gpa", "size"))
        self.vm.set_region(slot, gpa, size, self._addresses[slot], flags)

    def delete(self, slot: int) -> None:
        """Delete a slot."""
        self.vm.set_region(slot, int(self.slots[slot]["gpa"], 16), 0, self._addresses[slot])

    def dirty_pages(self, slot: int) -> list[int]:
        """KVM_GET_DIRTY_LOG."""
        pages = int(self.slots[slot]["size"], 16) // PAGE
        bitmap = ctypes.create_string_buffer(-(-pages // 64) * 8)
        self.vm.ask(abi.KVM_GET_DIRTY_LOG, bytearray(struct.pack("=IIQ", slot, 0, ctypes.addressof(bitmap))))
        bits = int.from_bytes(bitmap.raw, "little")
        return [page for page in range(pages) if bits >> page & 1]

    def smaps(self) -> dict[int, dict[str, int]]:
        """How the host maps the memory of each slot."""
        found = {slot: smaps(address) for slot, address in self._addresses.items()}
        return {slot: {name: it[name] for name in it if name in _SMAPS} for slot, it in found.items()}

    def create_vcpu(self) -> None:
        """The vCPU, which has not run yet."""
        self.vcpu = RawVcpu(self.vm)

    def start(self) -> None:
        """Run the program up to its first question."""
        for register, value in ((core(2), MAILBOX), (core(1), 0x1122_3344_5566_7788), (PC, CODE)):
            self.vcpu.set_register(register, value)
        self._expect(self.vcpu.run_to_mmio(), MAILBOX)

    @staticmethod
    def _expect(exit_: Mmio, address: int) -> None:
        if (exit_.address, exit_.is_write) != (address, False):
            raise RuntimeError(f"the program was to load from {address:#x}, and it came to {exit_}")

    def access(self, operation: str, address: int) -> dict[str, Any]:
        """Have the program do it; what it was, and the exit if it led to one."""
        entry: dict[str, Any] = {"op": operation, "gpa": hex(address)}
        self.log.append(entry)
        exit_ = self._answer(address)
        self._expect(exit_, MAILBOX + 8)
        exit_ = self._answer(OPERATIONS[operation])
        if (exit_.address, exit_.is_write) != (MAILBOX, False):
            entry["mmio_exit"] = {"phys_addr": hex(exit_.address), "is_write": int(exit_.is_write), "len": exit_.size}
            self._expect(self._answer(0), MAILBOX)
        return entry

    def _answer(self, value: int) -> Mmio:
        self.vcpu.answer(value)
        return self.vcpu.run_to_mmio()


class Steps:
    """What was done one after the other, each with the dump that followed."""

    def __init__(self, guest: Guest) -> None:
        self._guest = guest
        self.taken: list[dict[str, Any]] = []

    def after(self, **action: Any) -> None:
        """Note what was done."""
        self.taken.append({"action": action, "dump": self._guest.dump()})

    def access(self, operation: str, address: int) -> None:
        """An access."""
        self.after(access=self._guest.access(operation, address))

    def set_flags(self, slot: int, flags: int) -> None:
        """Another value of a slot's flags."""
        self._guest.set_flags(slot, flags)
        self.after(set_slot_flags=[slot, flags])

    def get_dirty_log(self, slot: int) -> None:
        """KVM_GET_DIRTY_LOG."""
        pages = self._guest.dirty_pages(slot)
        self.after(get_dirty_log=slot, dirty_pages=pages)
