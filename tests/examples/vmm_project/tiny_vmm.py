# SPDX-License-Identifier: Apache-2.0
"""A VMM: it makes a VM that is large enough for its memory map, and runs a guest until that switches itself off."""

from __future__ import annotations

import struct
from contextlib import ExitStack

import kvmipa
from kvmipa import errors
from kvmipa.exits import Interrupted, Mmio, SystemEvent

RAM_BASE = 1 << 30
SLOT_SIZE = 1 << 16
CONSOLE = 0x0900_0000

# What the second half of the guest's memory is at, as far up as the host lets it be.
PREFERRED_BITS = 40

PROGRAM = (
    0x10000101,  #        adr  x1, message
    0x38401420,  # next:  ldrb w0, [x1], #1
    0x34000060,  #        cbz  w0, off
    0x39000040,  #        strb w0, [x2]         x2 is the console
    0x17FFFFFD,  #        b    next
    0x52B08000,  # off:   mov  w0, #0x84000000
    0x11002000,  #        add  w0, w0, #8       PSCI SYSTEM_OFF
    0xD4000002,  #        hvc  #0
)


class TooSmallError(Exception):
    """The host has no VM that is large enough; the message is for the user."""


def size_for(limit: int | None, needed: int) -> int | None:
    """The IPA size to ask for: 40 bits, or the limit where that is less; None where there is no choice."""
    if limit is None:
        if needed > PREFERRED_BITS:
            raise TooSmallError(f"this kernel's VMs have {PREFERRED_BITS} bits, the guest needs {needed}")
        return None
    if needed > limit:
        raise TooSmallError(f"this host's VMs have up to {limit} bits, the guest needs {needed}")
    return max(needed, min(limit, PREFERRED_BITS))


def create_vm(kvm: kvmipa.Kvm, needed: int) -> kvmipa.Vm:
    """A VM of ``needed`` bits or more; where there is no memory for a large one, a small one."""
    size = size_for(kvm.host_ipa_limit, needed)
    try:
        return kvm.create_vm(size)
    except errors.OutOfMemoryError:
        if size is None or size == needed:
            raise
        return kvm.create_vm(needed)


class Machine:
    """A guest with two slots of memory, the second one at the end of its address space."""

    def __init__(self, kvm: kvmipa.Kvm, message: str, needed: int = 32) -> None:
        self.output = ""
        with ExitStack() as opened:
            self.vm = opened.enter_context(create_vm(kvm, needed))
            self.low, self.high = kvmipa.GuestMemory(SLOT_SIZE), kvmipa.GuestMemory(SLOT_SIZE)
            self.vm.add_memory(RAM_BASE, self.low)
            self.vm.add_memory((1 << needed) - SLOT_SIZE, self.high)
            code = struct.pack(f"<{len(PROGRAM)}I", *PROGRAM) + message.encode() + b"\0"
            self.low.buffer[: len(code)] = code
            self.vcpu = opened.enter_context(self.vm.create_vcpu())
            self.vcpu.init()
            self.vcpu.regs.pc = RAM_BASE
            self.vcpu.regs.x[2] = CONSOLE
            # From here on close() has them.
            self._opened = opened.pop_all()

    def run(self) -> str:
        """Run until the guest switches itself off; what it wrote."""
        while True:
            match self.vcpu.run():
                case Mmio(phys_addr=address, is_write=True, value=value) if address == CONSOLE:
                    self.output += chr(value)
                case Interrupted():
                    # A signal: its handler has run, the guest goes on.
                    continue
                case SystemEvent():
                    return self.output
                case other:
                    raise RuntimeError(f"the guest did something else: {other}")

    def close(self) -> None:
        """Close the VM and all that is of it."""
        self._opened.close()


def main(message: str = "hello\n", needed: int = 32) -> str:
    """The program: what it tells its user."""
    try:
        with kvmipa.open() as kvm:
            machine = Machine(kvm, message, needed)
            try:
                return machine.run()
            finally:
                machine.close()
    except PermissionError:
        return "tiny-vmm: you may not use KVM here; are you in the group kvm?\n"
    except TooSmallError as error:
        return f"tiny-vmm: {error}\n"
    except errors.OutOfMemoryError:
        return "tiny-vmm: this machine has no memory left for a VM\n"
