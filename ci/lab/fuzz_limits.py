# SPDX-License-Identifier: Apache-2.0
"""What random traces do not do: no machine bears it, or the fuzzer knowingly does not compare it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final

from ci.lab.fuzz_state import State
from ci.lab.trace_list.descriptors import OF_A_VCPU
from ci.lab.trace_list.making import check
from ci.lab.trace_list.memory import LOG
from kvmipa import abi
from kvmipa.trace import Ioctl, Struct

if TYPE_CHECKING:
    from collections.abc import Mapping
    from random import Random

    from ci.lab.trace_list.making import Host

# A dirty bitmap is two bits a page, which the guest has to have.
_PAGES_LOGGED: Final = 256

# Beyond this an area's neighbours, or the end of the address space, are the process's own business: access_ok() refuses
# on one machine what it takes on another.
_NEAR_AN_AREA: Final = 16 << 20


@dataclass(frozen=True)
class LeftOut:
    """Operations that are not generated, and why."""

    requests: frozenset[int]
    why: str
    on_vcpu: bool = False
    no_descriptor: bool = False

    def applies(self, operation: Ioctl) -> bool:
        """Whether an operation is one of them."""
        on_vcpu = str(operation.on).startswith("vcpu")
        return (
            operation.number in self.requests
            and on_vcpu >= self.on_vcpu
            and operation.no_descriptor >= self.no_descriptor
        )


# Everything that the fuzzer knowingly does not compare.
LEFT_OUT: Final = (
    LeftOut(
        OF_A_VCPU, "what a vCPU answers comes from its registers or from a run, which traces do not have", on_vcpu=True
    ),
    LeftOut(
        frozenset((abi.KVM_IRQFD, abi.KVM_IOEVENTFD)),
        "which eventfd is meant the emulation learns through /proc, which takes a descriptor; a kernel needs none",
        no_descriptor=True,
    ),
)


class Limits(State):
    """Replaces what is not to be done."""

    def __init__(self, random: Random, host: Host) -> None:
        super().__init__(random, host)
        self._tried: set[tuple[str | int, int]] = set()

    def _bearable(self, made: Ioctl) -> Ioctl:
        """The operation without what would take minutes or gigabytes, or lead out of the trace."""
        number, argument = made.number, made.argument
        if number == abi.KVM_CREATE_VCPU and self._corrupts_memory(made):
            return check(abi.KVM_CAP_NR_MEMSLOTS, self._vm.name)
        if any(rule.applies(made) for rule in LEFT_OUT):
            return check(abi.KVM_CAP_NR_MEMSLOTS, self._vm.name)
        if number == abi.KVM_CREATE_VM and isinstance(argument, int) and argument & 0xFF > self._most:
            # Larger ones than the limit fail at once.
            low = argument & 0xFF
            return replace(made, argument=argument & ~0xFF | (self._most if low <= self._host.limit else low))
        if number >> 30 and isinstance(argument, int):
            return replace(made, argument="unmapped")
        if isinstance(argument, Struct) and argument.name.startswith("userspace_memory_region"):
            return replace(made, argument=self._bearable_region(argument.name, argument.fields))
        return made

    def _corrupts_memory(self, made: Ioctl) -> bool:
        """Whether a real kernel may free a vCPU whose redistributor stays on the MMIO bus, and oops when the VM ends.

        Until "KVM: arm64: Unregister redistributor for failed vCPU creation" that is so where an identifier is in use
        or no descriptor is left, which both show late (kernel-device-spec 4.1, steps 6 and 7).
        """
        if self._host.release >= (6, 12):
            return False
        identifier = (made.on, made.argument & 0xFFFF_FFFF if isinstance(made.argument, int) else -1)
        tried = identifier in self._tried
        self._tried.add(identifier)
        return tried or made.no_descriptor

    def _bearable_region(self, name: str, fields: Mapping[str, Any]) -> Struct:
        size = fields.get("memory_size", 0)
        if fields.get("flags", 0) & LOG and size > _PAGES_LOGGED * self._page and size < self._page << 31:
            size = self._page * (1 + size % _PAGES_LOGGED) + size % self._page
        if self._page > 4096 and 1 << 42 < size < self._page << 31:
            size = 1 << 42
        hva = fields.get("userspace_addr", 0)
        if isinstance(hva, str) and hva.startswith("mem") and size > _NEAR_AN_AREA:
            hva = "unmapped"
        return Struct(name, {**fields, "memory_size": size, "userspace_addr": hva})
