# SPDX-License-Identifier: Apache-2.0
"""A program with a guest that does what a trace has to have: ``python program.py [auto|native|emulated]``.

Loads that are answered, memory that is written between two runs, a run that is ended by time, registers, a vGIC,
eventfds, a dirty log, a sweep. It is recorded on real kernels: tests/data/traces/guests.
"""

from __future__ import annotations

import os
import struct
import sys

import kvmipa
from kvmipa.exits import Mmio

CODE = 0x4000_0000
SIZE = 0x20_0000
DEVICE = 0x1000_0000
SECOND = 0x1000
STORED = 0x10_0000

# Assembled with aarch64-linux-gnu-as.
ECHO = (0xB9400022, 0xB9000022, 0x17FFFFFE)  # loop: ldr w2, [x1]; str w2, [x1]; b loop
STORE = (0xB9000083, 0xB9000023, 0x14000000)  # str w3, [x4]; str w3, [x1]; b .


def main(backend: str = "auto") -> None:
    """Run it; AssertionError where the guest does something else."""
    with kvmipa.open(backend) as kvm, kvm.create_vm(36) as vm:
        memory = kvmipa.GuestMemory(SIZE)
        slot = vm.add_memory(CODE, memory, log_dirty=True)
        event = os.eventfd(0)
        with vm.create_device("vgic-v3") as vgic, vm.create_vcpu(0) as vcpu:
            assert isinstance(vgic, kvmipa.Vgic)
            vgic.set_distributor(0x800_0000)
            vgic.add_redistributor_region(0x80A_0000, 1)
            vgic.init()
            vcpu.init()
            with vm.add_irqfd(event, 3), vm.add_ioeventfd(event, 0x900_0000, 4):
                echo(vcpu, memory)
            store(vcpu, memory)
            assert len(vcpu.reg_list()) > 200
            assert STORED // vm.page_size in slot.dirty_log()
        os.close(event)
        kvm.probe_machine_types(range(64))


def load(memory: kvmipa.GuestMemory, at: int, words: tuple[int, ...]) -> None:
    """Write a program."""
    memory.buffer[at : at + 4 * len(words)] = struct.pack(f"<{len(words)}I", *words)


def echo(vcpu: kvmipa.Vcpu, memory: kvmipa.GuestMemory) -> None:
    """The guest stores what it loaded."""
    load(memory, 0, ECHO)
    vcpu.regs.pc = CODE
    vcpu.regs.x[1] = DEVICE
    for value in (0, 0x1111, 0, 0xFFFF_FFFF):
        asked = vcpu.run()
        assert isinstance(asked, Mmio)
        asked.reply(value)
        assert vcpu.run() == Mmio(DEVICE, 4, is_write=True, value=value)
    vcpu.complete()


def store(vcpu: kvmipa.Vcpu, memory: kvmipa.GuestMemory) -> None:
    """Another program, which does not come back after its exit."""
    load(memory, SECOND, STORE)
    vcpu.regs.pc = CODE + SECOND
    vcpu.regs.x[3] = 0xABC
    vcpu.regs.x[4] = CODE + STORED
    assert vcpu.run() == Mmio(DEVICE, 4, is_write=True, value=0xABC)
    assert memory.buffer[STORED : STORED + 4] == (0xABC).to_bytes(4, "little")
    vcpu.run(timeout=0.02)
    assert vcpu.regs.pc == CODE + SECOND + 8


if __name__ == "__main__":
    main(*sys.argv[1:])
