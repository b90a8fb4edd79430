# SPDX-License-Identifier: Apache-2.0
"""A whole VMM: its guest says hello, from the upper half of a guest physical address space of 48 bits.

Run it with ``python hello.py``: on arm64 Linux by the machine's KVM, elsewhere by the emulated one. ``python hello.py
emulated`` (or ``native``) chooses.
"""

from __future__ import annotations

import struct
import sys

import kvmipa
from kvmipa.exits import Mmio, SystemEvent, SystemEventType

IPA_BITS = 48
CODE = 1 << 47
CONSOLE = 0x0900_0000  # no memory is there: a store to it ends vcpu.run()

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
MESSAGE = b"hello\n\0"


def main(backend: str = "auto") -> None:
    """Make the guest, and serve its console until it switches itself off."""
    with kvmipa.open(backend) as kvm:
        limit = kvm.host_ipa_limit
        if limit is None or limit < IPA_BITS:
            sys.exit(f"hello: a guest at {CODE:#x} takes {IPA_BITS} bits of IPA, this host's limit is {limit}")
        memory = kvmipa.GuestMemory(0x10000)
        code = struct.pack(f"<{len(PROGRAM)}I", *PROGRAM) + MESSAGE
        memory.buffer[: len(code)] = code
        with kvm.create_vm(IPA_BITS) as vm, vm.create_vcpu() as vcpu:
            vm.add_memory(CODE, memory)
            vcpu.init()
            vcpu.regs.pc = CODE
            vcpu.regs.x[2] = CONSOLE
            while True:
                match vcpu.run():
                    case Mmio(phys_addr=address, is_write=True, value=value) if address == CONSOLE:
                        print(chr(value), end="", flush=True)
                    case SystemEvent(type=SystemEventType.SHUTDOWN):
                        return
                    case other:
                        sys.exit(f"hello: the guest did something else: {other}")


if __name__ == "__main__":
    main(*sys.argv[1:])
