# SPDX-License-Identifier: Apache-2.0
"""The registers of one emulated vCPU: plain storage, which a CPU engine may hold in the meantime."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Protocol

from kvmipa._abi_table import KVM_ARM_VCPU_EL1_32BIT, KVM_ARM_VCPU_HAS_EL2
from kvmipa.system_registers import number_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    # A register of struct kvm_regs: 0 to 30 is Xn, else one of NAMES, "spsr0" to "spsr4", "v0" to "v31".
    Core = int | str

# Exceptions masked, in EL1 with its own stack pointer; the same of AArch32: SVC mode; of a guest's EL2
# (arch/arm64/kvm/reset.c: VCPU_RESET_PSTATE_*).
RESET_PSTATE: Final = 0x3C5
RESET_PSTATE_32: Final = 0x1D3
RESET_PSTATE_EL2: Final = 0x3C9
_PSTATES: Final = {KVM_ARM_VCPU_EL1_32BIT: RESET_PSTATE_32, KVM_ARM_VCPU_HAS_EL2: RESET_PSTATE_EL2}

NAMES: Final = ("sp_el0", "pc", "pstate", "sp_el1", "elr_el1", "fpsr", "fpcr")
SPSRS: Final = {f"spsr{index}": index for index in range(5)}
VECTORS: Final = {f"v{index}": index for index in range(32)}

MPIDR_EL1: Final = number_of("MPIDR_EL1")
# MPIDR_EL1, bit 31: reserved, and 1.
_MPIDR_RES1: Final = 1 << 31


class LiveRegisters(Protocol):
    """A CPU engine that holds the registers: those of the file are old while RegisterFile.live is this."""

    def read_core(self, register: Core, /) -> int:
        """The value of a core register."""
        ...

    def write_core(self, register: Core, value: int, /) -> None:
        """Change a core register."""
        ...

    def read_system(self, number: int, /) -> int | None:
        """The value of a system register; None: the engine has none of this number, the file's counts."""
        ...

    def write_system(self, number: int, value: int, /) -> bool:
        """Change a system register; False: the engine has none of this number, it is left to the file."""
        ...


class RegisterFile:
    """What a vCPU's registers hold (struct kvm_cpu_context), as values without a sign.

    x: X0 to X30. spsr: SPSR_EL1, _abt, _und, _irq and _fiq. v: 128 bits each. z_high: what Z0 to Z31 have beyond them.
    p: P0 to P15, and FFR. sve_lengths: bit n - 1 for vectors of n * 128 bits. system: by number. shared: those that
    all vCPUs of the VM have, which come before the others. Without an engine (live is None) the attributes are the
    state; read and write through the methods where there may be one. An engine takes the attributes when it begins,
    sets live, and before it lets go puts them back and sets live to None.

    >>> file = RegisterFile()
    >>> file.reset(features=0, mpidr=1)
    >>> hex(file.read_core("pstate")), hex(file.read_system(MPIDR_EL1))
    ('0x3c5', '0x80000001')
    """

    live: LiveRegisters | None = None

    def __init__(self) -> None:
        self._clear()
        self.sp_el1 = 0
        self.elr_el1 = 0
        self.spsr = [0] * 5
        self.system: dict[int, int] = {}
        self.shared: Mapping[int, int] = {}
        self.sve_lengths = 0

    def _clear(self) -> None:
        self.x = [0] * 31
        self.sp_el0 = 0
        self.pc = 0
        self.pstate = 0
        self.v = [0] * 32
        self.z_high = [0] * 32
        self.p = [0] * 17
        self.fpsr = 0
        self.fpcr = 0

    def reset(self, features: int, mpidr: int | None) -> None:
        """Set the core's registers as KVM_ARM_VCPU_INIT does; an engine that holds registers has to begin anew.

        features: of KVM_ARM_VCPU_INIT. mpidr: the affinity levels; None: as they were. SP_EL1, ELR_EL1 and SPSR_EL1
        stay.
        """
        self.live = None
        self._clear()
        self.pstate = next((pstate for bit, pstate in _PSTATES.items() if features >> bit & 1), RESET_PSTATE)
        self.spsr[1:] = [0] * 4
        if mpidr is not None:
            self.system[MPIDR_EL1] = _MPIDR_RES1 | mpidr

    def read_core(self, register: Core) -> int:
        """The value of a core register: 0 to 30, or its name."""
        if self.live is not None:
            return self.live.read_core(register)
        if isinstance(register, int):
            return self.x[register]
        if register in VECTORS:
            return self.v[VECTORS[register]]
        if register in SPSRS:
            return self.spsr[SPSRS[register]]
        value: int = getattr(self, register)
        return value

    def write_core(self, register: Core, value: int) -> None:
        """Change a core register: 0 to 30, or its name."""
        if self.live is not None:
            self.live.write_core(register, value)
        elif isinstance(register, int):
            self.x[register] = value
        elif register in VECTORS:
            self.v[VECTORS[register]] = value
        elif register in SPSRS:
            self.spsr[SPSRS[register]] = value
        else:
            setattr(self, register, value)

    def read_system(self, register: int) -> int | None:
        """The value of a system register by its number; None where nobody has set it."""
        if register in self.shared:
            return self.shared[register]
        value = self.live.read_system(register) if self.live is not None else None
        return self.system.get(register) if value is None else value

    def write_system(self, register: int, value: int) -> None:
        """Change a system register."""
        if self.live is None or not self.live.write_system(register, value):
            self.system[register] = value
