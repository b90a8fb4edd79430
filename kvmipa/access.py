# SPDX-License-Identifier: Apache-2.0
"""One access of a guest to an IPA, and what comes of it: the results of Vm.access()."""

from __future__ import annotations

from operator import index
from typing import Final, NamedTuple

# A data access by an instruction, an instruction fetch, a read of a stage-1 table by the walker on behalf of one or of
# the other, cache maintenance by virtual address.
KINDS: Final = ("load", "store", "fetch", "walk", "fetch-walk", "cache")
WALKS: Final = ("walk", "fetch-walk")
SIZES: Final = (1, 2, 4, 8)
_LEVELS: Final = range(4)
# The smallest page: the CPU makes two accesses of one that crosses it.
_PAGE: Final = 0xFFF

# Arm ARM, ESR_ELx.EC of aborts taken to EL1, by "fetch" and the exception level that they come from.
_EXCEPTION_CLASSES: Final = {(True, 0): 0x20, (True, 1): 0x21, (False, 0): 0x24, (False, 1): 0x25}
_IL: Final = 1 << 25
WNR: Final = 1 << 6
CM: Final = 1 << 8
_FSC: Final = 0x3F

EXTERNAL_ABORT: Final = 0x10
EXTERNAL_ABORT_ON_WALK: Final = 0x14
ADDRESS_SIZE_FAULT: Final = 0x00


class Access(NamedTuple):
    """What a guest does.

    ipa: the address after stage 1. kind: one of KINDS. size: bytes, of a load or store. valid_syndrome: the CPU
    describes the instruction (ESR_EL2.ISV), as it does for plain loads and stores of one register. va: the virtual
    address; None: the same number, as with the guest's MMU off. from_el: 0 or 1. stage1_level: with the MMU on, the
    level of the guest's own tables: of the leaf, or of a walk the table that is read; None: KVM cannot find it out.
    updates: the walker writes to the table, to set an access flag.

    >>> Access(0x1000, "store").far
    4096
    """

    ipa: int
    kind: str = "load"
    size: int = 8
    valid_syndrome: bool = True
    va: int | None = None
    from_el: int = 1
    stage1_level: int | None = 3
    updates: bool = False

    def check(self) -> None:
        """ValueError for what no guest does, TypeError for what is no number."""
        for what, address in (("IPA", self.ipa), ("VA", self.far)):
            if not 0 <= _number(what, address) < 1 << 64:
                raise ValueError(f"{what} {address!r}: an address has 64 bits")
        if self.kind not in KINDS:
            raise ValueError(f"kind {self.kind!r}: an access is one of {', '.join(KINDS)}")
        if _number("size", self.size) not in SIZES:
            raise ValueError(f"an access of {self.size!r} bytes: a register has 1, 2, 4 or 8")
        if self.kind in ("load", "store") and (self.ipa & _PAGE) + self.size > _PAGE + 1:
            raise ValueError(f"an access of {self.size} bytes at {self.ipa:#x}: two pages are two accesses")
        if _number("from_el", self.from_el) not in (0, 1):
            raise ValueError(f"from EL{self.from_el}: a guest runs at 0 or 1")
        if self.stage1_level is not None and _number("stage1_level", self.stage1_level) not in _LEVELS:
            raise ValueError(f"stage 1 level {self.stage1_level!r}: tables have levels 0 to 3")

    @property
    def far(self) -> int:
        """FAR_ELx: the virtual address."""
        return self.ipa if self.va is None else self.va

    @property
    def walk(self) -> bool:
        """Whether the walker reads a stage-1 table (ESR_EL2.S1PTW)."""
        return self.kind in WALKS

    @property
    def fetch(self) -> bool:
        """Whether it is an instruction's own fetch."""
        return self.kind == "fetch"

    @property
    def write(self) -> bool:
        """ESR_EL2.WnR: stores, and cache maintenance too; or what the walker writes."""
        return self.updates or self.kind in ("store", "cache")


def _number(name: str, value: int) -> int:
    """The value; TypeError where it is no int."""
    try:
        return index(value)
    except TypeError:
        raise TypeError(f"{name} is an int, not {type(value).__name__}") from None


class Mapped(NamedTuple):
    """Stage 2 translates it: the guest reaches memory, and notices nothing.

    pa: on the host; hva: in the VMM; level, descriptor: the leaf; faulted: KVM had to map it, or allow it more, first.
    """

    ipa: int
    pa: int
    hva: int
    level: int
    descriptor: int
    faulted: bool


class MmioExit(NamedTuple):
    """KVM_RUN ends with KVM_EXIT_MMIO: the VMM is to emulate the access. size: bytes."""

    phys_addr: int
    size: int
    is_write: bool


class NisvExit(NamedTuple):
    """KVM_RUN ends with KVM_EXIT_ARM_NISV: there is no memory, and the CPU does not describe the access."""

    esr_iss: int
    fault_ipa: int


class RunFailed(NamedTuple):
    """KVM_RUN fails with this errno."""

    errno: int


class Aborted(NamedTuple):
    """The guest takes an exception at EL1. by_cpu: the CPU raised it, and KVM had no part in it."""

    esr_el1: int
    far_el1: int
    by_cpu: bool = False

    @property
    def fsc(self) -> int:
        """Fault status code: 0x10 external abort, 0x14 to 0x17 the same on a walk, 0x00 address size fault."""
        return self.esr_el1 & _FSC


class Skipped(NamedTuple):
    """KVM goes on behind the instruction, as if it had had an effect."""


class Retried(NamedTuple):
    """KVM changes nothing and lets the guest try again, which comes to the same."""


Result = Mapped | MmioExit | NisvExit | RunFailed | Aborted | Skipped | Retried


def syndrome(access: Access, fsc: int, iss: int = 0) -> int:
    """ESR_EL1 of an abort that a guest in AArch64 takes to EL1; a walk's is of what it was for.

    >>> hex(syndrome(Access(0, "fetch"), EXTERNAL_ABORT)), hex(syndrome(Access(0), ADDRESS_SIZE_FAULT))
    ('0x86000010', '0x96000000')
    """
    return _EXCEPTION_CLASSES[access.kind in ("fetch", "fetch-walk"), access.from_el] << 26 | _IL | iss | fsc
