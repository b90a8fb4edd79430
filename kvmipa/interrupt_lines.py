# SPDX-License-Identifier: Apache-2.0
"""Interrupt lines that user space raises and lowers: KVM_IRQ_LINE (kernel-device-spec 4.8)."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import TYPE_CHECKING, Final

from kvmipa import abi
from kvmipa.causes.interrupts import bad_line_number, irq_line_error
from kvmipa.packing import PackedStruct, unsigned

if TYPE_CHECKING:
    from collections.abc import Collection

    from kvmipa.asking import Ask

_LINE: Final = PackedStruct("irq_level")

# The vCPU's number has 12 bits: vcpu2[31:28] and vcpu[23:16].
_VCPU_BITS: Final = 12

# A vCPU that no VM has (KVM_MAX_VCPUS is 512).
_NO_VCPU: Final = (1 << _VCPU_BITS) - 1


class IrqKind(IntEnum):
    """Whose line it is: KVM_ARM_IRQ_TYPE_*.

    >>> IrqKind.SPI.numbers
    range(32, 1020)
    """

    CPU = abi.KVM_ARM_IRQ_TYPE_CPU
    SPI = abi.KVM_ARM_IRQ_TYPE_SPI
    PPI = abi.KVM_ARM_IRQ_TYPE_PPI

    @property
    def numbers(self) -> range:
        """The numbers that there are of it: 0 and 1 are a CPU's IRQ and FIQ, the others INTIDs of the GIC."""
        return _NUMBERS[self]


_NUMBERS: Final = {IrqKind.CPU: range(2), IrqKind.SPI: range(32, 1020), IrqKind.PPI: range(16, 32)}


@dataclass(frozen=True)
class IrqLine:
    """A line of Vm.irq_line(); made by spi(), ppi(), cpu_irq() or cpu_fiq().

    number: the GIC's INTID, or a CPU's line. vcpu: the id of the vCPU whose PPI or CPU line it is; before Linux 6.12
    KVM counts the vCPUs in the order in which they were made instead.

    >>> IrqLine.spi(40), hex(IrqLine.spi(40).encode())
    (IrqLine(kind=<IrqKind.SPI: 1>, number=40, vcpu=0), '0x1000028')
    >>> IrqLine.decode(0x1200_0011 | 2 << 24) == IrqLine.ppi(17, vcpu=256)
    True
    >>> IrqLine.ppi(40).encode()
    Traceback (most recent call last):
    ...
    kvmipa.errors.InterruptNumberError: 40 is not the number of a PPI (KVM_IRQ_LINE(): EINVAL)
      asked:     PPI 40
      available: 16 to 31
      fix:       name the interrupt by its INTID: spi(32) is a GIC's first shared one
    """

    kind: IrqKind
    number: int
    vcpu: int = 0

    @classmethod
    def spi(cls, number: int) -> IrqLine:
        """A shared interrupt, by its INTID: 32 to 1019, of which the vGIC has the first Vgic.nr_irqs."""
        return cls(IrqKind.SPI, number)

    @classmethod
    def ppi(cls, number: int, vcpu: int = 0) -> IrqLine:
        """A vCPU's own interrupt, by its INTID: 16 to 31."""
        return cls(IrqKind.PPI, number, vcpu)

    @classmethod
    def cpu_irq(cls, vcpu: int = 0) -> IrqLine:
        """A CPU's IRQ input, for VMs whose interrupt controller is not the kernel's."""
        return cls(IrqKind.CPU, 0, vcpu)

    @classmethod
    def cpu_fiq(cls, vcpu: int = 0) -> IrqLine:
        """A CPU's FIQ input, for VMs whose interrupt controller is not the kernel's."""
        return cls(IrqKind.CPU, 1, vcpu)

    def encode(self) -> int:
        """The irq field of struct kvm_irq_level: vcpu2[31:28], type[27:24], vcpu[23:16], number[15:0].

        Raises InterruptNumberError for a number that the kind does not have; TypeError, OverflowError for a vCPU that
        does not fit 12 bits.
        """
        kind, number = IrqKind(self.kind), unsigned("number", self.number, 16)
        vcpu = unsigned("vcpu", self.vcpu, _VCPU_BITS)
        if number not in kind.numbers:
            raise bad_line_number(self, kind.numbers)
        return _packed(kind, number, vcpu)

    @classmethod
    def decode(cls, irq: int) -> IrqLine:
        """The line of an irq field; ValueError for a kind that there is not."""
        return cls(IrqKind(irq >> 24 & 0xF), irq & 0xFFFF, irq >> 28 << 8 | irq >> 16 & 0xFF)

    def __str__(self) -> str:
        """As errors name it."""
        if self.kind == IrqKind.CPU:
            return f"{('IRQ', 'FIQ')[self.number] if self.number in {0, 1} else self.number} of vCPU {self.vcpu}"
        of_vcpu = f" of vCPU {self.vcpu}" if self.kind == IrqKind.PPI and self.vcpu else ""
        return f"{IrqKind(self.kind).name} {self.number}{of_vcpu}"


def _packed(kind: int, number: int, vcpu: int) -> int:
    return vcpu >> 8 << 28 | kind << 24 | (vcpu & 0xFF) << 16 | number


def set_line(ask: Ask, line: IrqLine, level: bool, vcpu_ids: Collection[int]) -> None:
    """KVM_IRQ_LINE. vcpu_ids: of the vCPUs that the VM is known to have."""
    result = ask(abi.KVM_IRQ_LINE, _LINE.pack(line.encode(), int(bool(level))))
    if result < 0:
        raise irq_line_error(-result, line, vcpu_ids, has_vgic=has_vgic(ask))


def has_vgic(ask: Ask) -> bool:
    """Whether the VM has a vGIC: no request says so, but lines of a CPU are then no longer user space's.

    That is looked at before the vCPU, and this one does not exist: nothing happens (kvm_vm_ioctl_irq_line).
    """
    import errno

    return ask(abi.KVM_IRQ_LINE, _LINE.pack(_packed(IrqKind.CPU, 0, _NO_VCPU), 0)) == -errno.ENXIO
