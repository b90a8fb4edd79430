# SPDX-License-Identifier: Apache-2.0
"""A vCPU's registers: how one is read and written, and the view vcpu.regs."""

from __future__ import annotations

from struct import Struct, error
from typing import TYPE_CHECKING, Final, overload

from kvmipa._abi_table import KVM_GET_ONE_REG, KVM_SET_ONE_REG, STRUCTS
from kvmipa.buffers import address_of
from kvmipa.packing import unsigned
from kvmipa.registers import Reg

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from kvmipa.vcpu import Vcpu

# struct kvm_one_reg, and behind it the value that it points to.
_ONE_REG: Final = Struct(STRUCTS["one_reg"][0])
_VALUE: Final = _ONE_REG.size
_U64: Final = Struct("=Q")

# Bits 55:52 of an id, the logarithm of the size in bytes: of 64 bits; of the largest that there is, a vector of SVE.
_LOG2_U64: Final = 3
_LOG2_LARGEST: Final = 8

_pack_one_reg: Final = _ONE_REG.pack_into
_pack_value: Final = _U64.pack_into
_unpack_value: Final = _U64.unpack_from


class OneRegister:
    """KVM_GET_ONE_REG and KVM_SET_ONE_REG of one vCPU's descriptor.

    Both take an address, of which the struct and the value are at: memory that is used again and again, as finding out
    an address costs more than all else. A call takes it off the list and gives it back, so that each has its own,
    whatever threads and signal handlers there are.
    """

    __slots__ = ("_ioctl", "_spare")

    def __init__(self, ioctl: Callable[[int, int, int], int]) -> None:
        self._ioctl = ioctl
        self._spare: list[tuple[bytearray, int]] = []

    def get(self, fd: int, reg: Reg) -> int:
        """The value, or -errno."""
        log2 = reg >> 52 & 0xF
        buffer, address = taken = self._take(log2)
        _pack_one_reg(buffer, 0, reg, address + _VALUE)
        result = self._ioctl(fd, KVM_GET_ONE_REG, address)
        if result >= 0:
            if log2 == _LOG2_U64:
                result = _unpack_value(buffer, _VALUE)[0]
            else:
                result = int.from_bytes(buffer[_VALUE : _VALUE + (1 << log2)], "little")
        if log2 <= _LOG2_LARGEST:
            self._spare.append(taken)
        return result

    def set(self, fd: int, reg: Reg, value: int) -> int:
        """0 or -errno; TypeError for a value that is no int, OverflowError for one that does not fit the register."""
        log2 = reg >> 52 & 0xF
        if log2 != _LOG2_U64:
            value = unsigned(reg.name, value, 8 << log2)
        buffer, address = taken = self._take(log2)
        try:
            _pack_one_reg(buffer, 0, reg, address + _VALUE)
            if log2 == _LOG2_U64:
                _pack_value(buffer, _VALUE, value)
            else:
                buffer[_VALUE : _VALUE + (1 << log2)] = value.to_bytes(1 << log2, "little")
            return self._ioctl(fd, KVM_SET_ONE_REG, address)
        except error:
            unsigned(reg.name, value, 64)
            raise
        finally:
            if log2 <= _LOG2_LARGEST:
                self._spare.append(taken)

    def _take(self, log2: int) -> tuple[bytearray, int]:
        # An id may speak of up to 32 KiB: whatever the kernel makes of it, it must not write behind the memory.
        if log2 <= _LOG2_LARGEST:
            try:
                return self._spare.pop()
            except IndexError:
                pass
        buffer = bytearray(_VALUE + (1 << max(log2, _LOG2_LARGEST)))
        return buffer, address_of(buffer)


# ------------------------------------------------------------------------------------------------ the view


class RegisterBank:
    """Registers of a vCPU that are numbered: regs.x[0], regs.v[31].

    A slice reads several. Raises IndexError, and what Vcpu.get() and Vcpu.set() do.
    """

    __slots__ = ("_name", "_registers", "_vcpu")

    def __init__(self, vcpu: Vcpu, name: str, registers: tuple[Reg, ...]) -> None:
        self._vcpu = vcpu
        self._name = name
        self._registers = registers

    @overload
    def __getitem__(self, index: int) -> int: ...
    @overload
    def __getitem__(self, index: slice) -> list[int]: ...
    def __getitem__(self, index: int | slice) -> int | list[int]:
        if isinstance(index, slice):
            return [self._vcpu.get(reg) for reg in self._registers[index]]
        return self._vcpu.get(self._at(index))

    def __setitem__(self, index: int, value: int) -> None:
        self._vcpu.set(self._at(index), value)

    def _at(self, index: int) -> Reg:
        try:
            return self._registers[index]
        except IndexError:
            raise IndexError(f"{self._name}[{index}]: they are 0 to {len(self) - 1}") from None

    def __len__(self) -> int:
        return len(self._registers)

    def __iter__(self) -> Iterator[int]:
        return (self._vcpu.get(reg) for reg in self._registers)

    def __repr__(self) -> str:
        """Which they are, and not what they hold: that would be a request for each."""
        return f"<{self._name}[0] to {self._name}[{len(self) - 1}] of {self._vcpu!r}>"


def _bank(name: str, count: int) -> property:
    registers = tuple(Reg.parse(f"{name}{index}") for index in range(count))

    def bank(self: Registers) -> RegisterBank:
        return RegisterBank(self._vcpu, name, registers)

    return property(bank, doc=f"{name.upper()}0 to {name.upper()}{count - 1}.")


# Attributes of the view that were used, and their registers.
_BY_ATTRIBUTE: Final[dict[str, Reg]] = {}


def _named(attribute: str) -> Reg:
    """The register of an attribute's name; AttributeError names the nearest ones."""
    found = _BY_ATTRIBUTE.get(attribute)
    if found is None:
        if attribute.startswith("_"):
            raise AttributeError(attribute)
        try:
            found = Reg.parse(attribute)
        except ValueError as failure:
            raise AttributeError(str(failure)) from None
        _BY_ATTRIBUTE[attribute] = found
    return found


class Registers:
    """A vCPU's registers as attributes: each read and each assignment is a request to the kernel.

    pc, sp (of EL0), sp_el1, pstate; x[0] to x[30], v[0] to v[31], and of a vCPU with SVE z[0] to z[31], p[0] to p[15];
    sctlr_el1 and so on: what Reg has, in lower case. Raises AttributeError for other names, and what Vcpu.get() and
    Vcpu.set() do.

    >>> import kvmipa
    >>> with kvmipa.open("emulated") as kvm, kvm.create_vm(40) as vm, vm.create_vcpu(0) as vcpu:
    ...     vcpu.init()
    ...     regs = vcpu.regs
    ...     regs.pc, regs.x[3] = 0x4000_0000, 7
    ...     hex(regs.pc), regs.x[2:4], hex(regs.pstate), regs.sctlr_el1 & 1
    ('0x40000000', [0, 7], '0x3c5', 0)
    """

    __slots__ = ("_vcpu",)

    _vcpu: Vcpu

    def __init__(self, vcpu: Vcpu) -> None:
        object.__setattr__(self, "_vcpu", vcpu)

    x = _bank("x", 31)
    v = _bank("v", 32)
    z = _bank("z", 32)
    p = _bank("p", 16)

    def __getattr__(self, name: str) -> int:
        return self._vcpu.get(_BY_ATTRIBUTE.get(name) or _named(name))

    def __setattr__(self, name: str, value: int) -> None:
        self._vcpu.set(_BY_ATTRIBUTE.get(name) or _named(name), value)

    def __dir__(self) -> list[str]:
        from kvmipa.registers import IDS

        return sorted({*super().__dir__(), *(name.lower() for name in IDS)})

    def __repr__(self) -> str:
        """Whose they are."""
        return f"<registers of {self._vcpu!r}>"
