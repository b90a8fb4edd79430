# SPDX-License-Identifier: Apache-2.0
"""Guests of a few instructions, for the tests of what runs them."""

from __future__ import annotations

import importlib.util
from typing import TYPE_CHECKING

from kvmipa import GuestMemory, VcpuFeature
from tests.requirements import skip_or_fail

if TYPE_CHECKING:
    from collections.abc import Sequence

    from kvmipa import Kvm, Vcpu, Vm

CODE = 0x4000_0000
VECTORS = CODE + 0x1000
SIZE = 0x1_0000
#: No memory is there.
DEVICE = 0x1000_0000
OTHER_DEVICE = 0x1001_0000

# Assembled with aarch64-linux-gnu-as.
SPIN = 0x14000000  # b .
WFI = 0xD503207F
NOP = 0xD503201F
HVC = 0xD4000002  # hvc #0
BRK = 0xD4200060  # brk #3
LDP = 0xA9400C22  # ldp x2, x3, [x1]
#: Bytes -> str x0, [x1], and of those of w0.
STORES = {1: 0x39000020, 2: 0x79000020, 4: 0xB9000020, 8: 0xF9000020}
#: Bytes -> ldr x2, [x1], and of those to w2.
LOADS = {1: 0x39400022, 2: 0x79400022, 4: 0xB9400022, 8: 0xF9400022}
STORE_X2 = 0xF9000082  # str x2, [x4]
BACK = {words: 0x17FFFFFF & (0x18000000 - words) for words in range(1, 5)}  # b . - 4 * words

#: loop: str w0, [x1]; ldr w2, [x1]; b loop
STORE_AND_LOAD = (STORES[4], LOADS[4], BACK[2])
#: loop: ldr w2, [x1]; b loop
LOAD_FOR_EVER = (LOADS[4], BACK[1])


def require_engine() -> None:
    """Skip the test without the Unicorn engine; fail it in CI, which has to have everything."""
    if importlib.util.find_spec("unicorn") is None:
        skip_or_fail("the emulated kernel has no CPU: kvmipa[cpu], the Unicorn engine, is not installed")


def require_cpu(kvm: Kvm) -> None:
    """Skip the test, or fail it, where the emulated kernel has no CPU."""
    if kvm.backend == "emulated":
        require_engine()


class GuestMachine:
    """A VM with memory at CODE and its vCPUs, closed together."""

    def __init__(self, kvm: Kvm) -> None:
        require_cpu(kvm)
        self.vm: Vm = kvm.create_vm(min(kvm.host_ipa_limit or 40, 36))
        self.memory = GuestMemory(SIZE)
        self.vm.add_memory(CODE, self.memory)
        self.vcpus: list[Vcpu] = []

    def vcpu(self, words: Sequence[int], at: int = CODE, features: int = VcpuFeature.PSCI_0_2) -> Vcpu:
        """One more vCPU, which starts at these instructions with x1 = DEVICE."""
        self.write(words, at)
        vcpu = self.vm.create_vcpu(len(self.vcpus))
        self.vcpus.append(vcpu)
        vcpu.init(features)
        vcpu.regs.pc = at
        vcpu.regs.x[1] = DEVICE
        return vcpu

    def write(self, words: Sequence[int], at: int) -> None:
        """Put instructions, or data, into the guest's memory."""
        # A word at a time: QEMU 7.2, which the lab's hosts run on, goes on with the old instructions where a store of
        # 12 bytes changes them.
        memory = self.memory.buffer.cast("I")
        for number, word in enumerate(words, (at - CODE) // 4):
            memory[number] = word

    def __enter__(self) -> GuestMachine:
        return self

    def __exit__(self, *_raised: object) -> None:
        for vcpu in self.vcpus:
            vcpu.close()
        self.vm.close()
