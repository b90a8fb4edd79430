# SPDX-License-Identifier: Apache-2.0
"""What the emulated CPU does in a second: MMIO exits, with and without the handles, and instructions in a loop.

python -m tests.benchmarks.emulated_cpu
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import kvmipa
from kvmipa import exits, turn

if TYPE_CHECKING:
    from collections.abc import Callable

CODE = 0x4000_0000
MMIO = 0x900_0000

# The best of so many: the machine has others on it.
ROUNDS = 5
EXITS = 20_000
TURNS = 50_000_000

# 1: str x1, [x0]; b 1b
STORES = (0xF9000001, 0x17FFFFFF)
# 1: ldr x1, [x0]; b 1b
LOADS = (0xF9400001, 0x17FFFFFF)
# 1: subs x0, x0, #1; b.ne 1b; str x1, [x2]
COUNTS = (0xF1000400, 0x54FFFFE1, 0xF9000041)
# movz x0, #0x8400, lsl #16; 1: hvc #0; b 1b: PSCI_VERSION, over and over
INSTRUCTIONS_PER_TURN = 2


def _vcpu(vm: kvmipa.Vm, code: tuple[int, ...]) -> kvmipa.Vcpu:
    memory = kvmipa.GuestMemory(1 << 16)
    memory.buffer[: 4 * len(code)] = b"".join(word.to_bytes(4, "little") for word in code)
    vm.add_memory(CODE, memory)
    vcpu = vm.create_vcpu(0)
    vcpu.init()
    vcpu.regs.pc = CODE
    vcpu.regs.x[0] = MMIO
    return vcpu


def _per_second(what: Callable[[], object], count: int) -> float:
    """The best of some rounds."""
    best = float("inf")
    for _ in range(ROUNDS):
        start = time.perf_counter()
        what()
        best = min(best, time.perf_counter() - start)
    return count / best


def stores_of_the_runner(kvm: kvmipa.Kvm) -> float:
    """Exits of EmulatedBackend.runner alone."""
    with kvm.create_vm(40) as vm, _vcpu(vm, STORES) as vcpu:
        backend = vcpu._backend
        area = backend.mmap(vcpu.fileno(), 2 * vm.page_size)
        assert not isinstance(area, int)
        whose = turn.new()
        enter = backend.runner(vcpu.fileno(), area, whose)

        def run() -> None:
            for _ in range(EXITS):
                enter()
                whose[turn.TAKEN] = 0

        return _per_second(run, EXITS)


def stores(kvm: kvmipa.Kvm) -> float:
    """Vcpu.run() with a store each."""
    with kvm.create_vm(40) as vm, _vcpu(vm, STORES) as vcpu:

        def run() -> None:
            for _ in range(EXITS):
                vcpu.run()

        return _per_second(run, EXITS)


def loads(kvm: kvmipa.Kvm) -> float:
    """Vcpu.run() with a load each, and reply()."""
    with kvm.create_vm(40) as vm, _vcpu(vm, LOADS) as vcpu:

        def run() -> None:
            for _ in range(EXITS):
                found = vcpu.run()
                assert isinstance(found, exits.Mmio)
                found.reply(1)

        return _per_second(run, EXITS)


def instructions(kvm: kvmipa.Kvm) -> float:
    """Instructions in a tight loop."""
    with kvm.create_vm(40) as vm, _vcpu(vm, COUNTS) as vcpu:
        vcpu.regs.x[2] = MMIO

        def run() -> None:
            # The store before is completed first, which moves the PC on; there is none the first time.
            vcpu.regs.pc = CODE - 4 if vcpu.regs.pc != CODE else CODE
            vcpu.regs.x[0] = TURNS
            assert isinstance(vcpu.run(), exits.Mmio)

        return _per_second(run, TURNS * INSTRUCTIONS_PER_TURN)


def vms(kvm: kvmipa.Kvm) -> float:
    """VMs that are made, run to their first exit and closed."""
    count = 100

    def run() -> None:
        for _ in range(count):
            with kvm.create_vm(40) as vm, _vcpu(vm, STORES) as vcpu:
                vcpu.run()

    return _per_second(run, count)


def main() -> None:
    """Measure and print."""
    with kvmipa.open("emulated") as kvm:
        for measure in (stores_of_the_runner, stores, loads, instructions, vms):
            print(f"{measure(kvm):16,.0f}/s  {(measure.__doc__ or '').splitlines()[0]}")


if __name__ == "__main__":
    main()
