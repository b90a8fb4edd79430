# SPDX-License-Identifier: Apache-2.0
"""Guests for tests: a VM with one vCPU, and a few words of code in a slot."""

from __future__ import annotations

from contextlib import contextmanager
from threading import Thread
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import kvmipa
from kvmipa import errors, exits

if TYPE_CHECKING:
    from collections.abc import Iterator

# Why a test that runs a guest is skipped.
NO_ENGINE: Final = "guests run on the Unicorn engine, which kvmipa[cpu] installs"

CODE = 0x4000_0000
SIZE = 1 << 16
# Where nothing is.
NOWHERE = 0x900_0000
# Vectors are on a boundary of 2 KiB.
VECTORS = CODE + 0x800

RELEASES = ("5.10", "6.1", "6.12", "7.3")

CPSR_MASKED = 0x3C0
EL0, EL1T, EL1H = CPSR_MASKED, CPSR_MASKED | 4, CPSR_MASKED | 5


def msr(op0: int, op1: int, crn: int, crm: int, op2: int, register: int) -> int:
    """MSR of a register by its encoding, and SYS where Op0 is 1.

    >>> hex(msr(3, 0, 1, 0, 0, 5))                                                   # msr sctlr_el1, x5
    '0xd5181005'
    """
    return 0xD500_0000 | op0 << 19 | op1 << 16 | crn << 12 | crm << 8 | op2 << 5 | register


def mrs(op0: int, op1: int, crn: int, crm: int, op2: int, register: int) -> int:
    """MRS of a register by its encoding."""
    return msr(op0, op1, crn, crm, op2, register) | 1 << 21


class Guest(NamedTuple):
    """The parts of it."""

    kvm: kvmipa.Kvm
    vm: kvmipa.Vm
    vcpu: kvmipa.Vcpu
    memory: kvmipa.GuestMemory

    def put(self, words: tuple[int, ...], at: int = CODE) -> None:
        """Write words to its memory."""
        start = at - CODE
        self.memory.buffer[start : start + 4 * len(words)] = b"".join(word.to_bytes(4, "little") for word in words)


def host(release: str = "6.12", **fields: object) -> kvmipa.HostProfile:
    """A host with 48 bits of addresses."""
    chosen: dict[str, object] = {"id_aa64mmfr0_el1": 0x1125, **fields}
    return kvmipa.HostProfile(release=release, **chosen)  # type: ignore[arg-type]


@contextmanager
def guest(
    code: tuple[int, ...],
    *,
    release: str = "6.12",
    features: int = kvmipa.VcpuFeature.PSCI_0_2,
    profile: kvmipa.HostProfile | None = None,
    ipa_bits: int = 40,
) -> Iterator[Guest]:
    """A guest that begins with this code, and has zeros behind it."""
    with (
        kvmipa.open("emulated", host=profile or host(release)) as kvm,
        kvm.create_vm(ipa_bits) as vm,
        vm.create_vcpu(0) as vcpu,
    ):
        memory = kvmipa.GuestMemory(SIZE)
        vm.add_memory(CODE, memory)
        vcpu.init(features)
        vcpu.regs.pc = CODE
        vcpu.regs.vbar_el1 = VECTORS
        made = Guest(kvm, vm, vcpu, memory)
        made.put(code)
        yield made


def mmio(exit: exits.Exit) -> exits.Mmio:
    """The exit, which is MMIO."""
    assert isinstance(exit, exits.Mmio), exit
    return exit


def run_to_mmio(it: Guest) -> exits.Mmio:
    """Run it up to its store to nowhere."""
    return mmio(it.vcpu.run(timeout=10))


def run_in_thread(it: Guest) -> tuple[Thread, list[Any]]:
    """A thread that runs it, and where the exit or the error will be."""
    found: list[Any] = []

    def run() -> None:
        try:
            found.append(it.vcpu.run(timeout=10))
        except errors.KvmError as error:
            found.append(error)

    thread = Thread(target=run)
    thread.start()
    return thread, found
