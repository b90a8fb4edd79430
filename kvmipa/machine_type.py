# SPDX-License-Identifier: Apache-2.0
"""The argument of KVM_CREATE_VM: IPA size in bits 7:0, protected VM in bit 31 (kernel-ipa-spec 2)."""

from __future__ import annotations

from array import array
from dataclasses import dataclass
from enum import Enum
from errno import EINVAL
from typing import TYPE_CHECKING, Final

from kvmipa._abi_table import KVM_VM_TYPE_ARM_IPA_SIZE_MASK, KVM_VM_TYPE_ARM_PROTECTED
from kvmipa.errors import InvalidIpaSizeError, ReservedTypeBitsError

SIZE_MASK: Final = KVM_VM_TYPE_ARM_IPA_SIZE_MASK
PROTECTED_BIT: Final = KVM_VM_TYPE_ARM_PROTECTED
if TYPE_CHECKING:
    from collections.abc import Iterable

MIN_IPA_BITS: Final = 32
DEFAULT_IPA_BITS: Final = 40
MAX_IPA_BITS: Final = 52


class Verdict(Enum):
    """What a kernel makes of a machine type: accepted, or the cause for which it is refused (always EINVAL)."""

    ACCEPTED = "accepted"
    NOT_CONFIGURABLE = "the kernel knows no type but 0"
    RESERVED_BITS = "bits are set that the kernel gives no meaning"
    TOO_SMALL = "the size is below 32 bits"
    TOO_LARGE = "the size is above the host's IPA limit"
    DEFAULT_UNSUPPORTED = "type 0 means 40 bits, and the host's IPA limit is below that"
    PROTECTED_WITHOUT_PKVM = "a protected VM needs pKVM on Linux 7.x"


@dataclass(frozen=True)
class TypeRules:
    """The rules by which one kernel on one host judges machine types.

    limit: the host's IPA limit in bits; None on kernels before 4.20, which know no type but 0. checks_default: type 0
    is refused where the limit is below 40. protected_bit: the kernel gives bit 31 a meaning. pkvm: it runs in
    protected mode. size_ignored: every VM gets the limit, whatever its type says (pKVM since 6.2).
    """

    limit: int | None
    checks_default: bool = True
    protected_bit: bool = False
    pkvm: bool = False
    size_ignored: bool = False

    def judge(self, machine_type: int) -> Verdict:
        """What the kernel makes of a 64-bit machine type.

        Source: kvm_arm_setup_stage2 [5.10, 6.1], kvm_init_ipa_range [6.12], kvm_arch_init_vm [7.3];
        kernel-ipa-spec 2.2.

        >>> TypeRules(limit=44).judge(45)
        <Verdict.TOO_LARGE: "the size is above the host's IPA limit">
        """
        if self.limit is None:
            return Verdict.NOT_CONFIGURABLE if machine_type else Verdict.ACCEPTED
        known = SIZE_MASK | (PROTECTED_BIT if self.protected_bit else 0)
        if machine_type & ~known:
            return Verdict.RESERVED_BITS
        verdict = Verdict.ACCEPTED if self.size_ignored else self._judge_size(machine_type & SIZE_MASK, self.limit)
        if verdict is Verdict.ACCEPTED and machine_type & PROTECTED_BIT and not self.pkvm:
            return Verdict.PROTECTED_WITHOUT_PKVM
        return verdict

    def _judge_size(self, ipa_bits: int, limit: int) -> Verdict:
        if ipa_bits == 0:
            unsupported = self.checks_default and limit < DEFAULT_IPA_BITS
            return Verdict.DEFAULT_UNSUPPORTED if unsupported else Verdict.ACCEPTED
        if ipa_bits < MIN_IPA_BITS:
            return Verdict.TOO_SMALL
        return Verdict.TOO_LARGE if ipa_bits > limit else Verdict.ACCEPTED

    def ipa_bits(self, machine_type: int) -> int:
        """IPA bits of the VM that an accepted type makes."""
        if self.size_ignored and self.limit is not None:
            return self.limit
        return machine_type & SIZE_MASK or DEFAULT_IPA_BITS


@dataclass(frozen=True)
class MachineType:
    """A machine type: the IPA size asked for (None: the kernel's default, 40 bits), and whether the VM is protected.

    Any size that fits the low byte can be encoded; whether it is accepted is the host's to say. Raises TypeError for a
    size that is not an int, and InvalidIpaSizeError (a ValueError) for one outside 0..255: masking would turn 296
    into 40. A size of 0 is the default.

    >>> hex(MachineType(48).encode())
    '0x30'
    >>> MachineType.decode(0x80000028)
    MachineType(ipa_bits=40, protected=True)
    """

    ipa_bits: int | None = None
    protected: bool = False

    def __post_init__(self) -> None:
        """Refuse what cannot be encoded."""
        if not isinstance(self.protected, bool):
            raise TypeError(f"protected is True or False, not {self.protected!r}")
        if self.ipa_bits is None:
            return
        if not isinstance(self.ipa_bits, int) or isinstance(self.ipa_bits, bool):
            raise TypeError(f"ipa_bits is a number of bits (an int) or None, not {self.ipa_bits!r}")
        if not 0 <= self.ipa_bits <= SIZE_MASK:
            raise InvalidIpaSizeError(
                EINVAL,
                cause="the IPA size does not fit the machine type's low byte",
                asked=f"{self.ipa_bits} bits",
                available="0 (the default) or a size from 32 bits to the host's limit, which is at most 52",
                fix=_hint(self.ipa_bits),
            )
        if self.ipa_bits == 0:
            object.__setattr__(self, "ipa_bits", None)

    def encode(self) -> int:
        """The 64-bit argument of KVM_CREATE_VM."""
        return (self.ipa_bits or 0) | (PROTECTED_BIT if self.protected else 0)

    @classmethod
    def decode(cls, machine_type: int) -> MachineType:
        """The type of a 64-bit argument.

        Raises ReservedTypeBitsError where other bits than 31 and 7:0 are set, TypeError for what is not an int,
        OverflowError for what does not fit 64 bits.
        """
        reserved = reserved_bits(unsigned_long(machine_type))
        if reserved:
            raise ReservedTypeBitsError(
                EINVAL,
                cause=f"machine type {bits_text(reserved)} no meaning",
                asked=f"machine type {machine_type:#x}",
                available="bits 7:0 (IPA size) and bit 31 (protected VM)",
                fix="clear the other bits",
                argument=machine_type,
            )
        return cls(machine_type & SIZE_MASK or None, bool(machine_type & PROTECTED_BIT))

    def explain(self) -> str:
        """The type in words, a line for each part.

        >>> print(MachineType(33).explain())
        0x21
          bits 7:0   0x21: a guest physical address space of 33 bits (8 GiB)
          bit 31     0: not a protected VM
        """
        return explain(self.encode())


def unsigned_long(machine_type: int) -> int:
    """The argument itself; TypeError for what is not an int, OverflowError for what does not fit 64 bits."""
    if not isinstance(machine_type, int) or isinstance(machine_type, bool):
        raise TypeError(f"a machine type is an int of 64 bits, not {machine_type!r}")
    if not 0 <= machine_type < 1 << 64:
        raise OverflowError(f"a machine type is an int of 64 bits; {machine_type:#x} does not fit")
    return machine_type


def unsigned_longs(types: Iterable[int]) -> array[int]:
    """Many arguments, checked as by unsigned_long() and packed as the kernel's ABI has them.

    >>> unsigned_longs([0, 40, 1 << 63])
    array('Q', [0, 40, 9223372036854775808])
    """
    wanted = list(types)
    # array() would take True for 1, and its messages do not say what the numbers are.
    try:
        return array("Q", wanted if set(map(type, wanted)) <= {int} else map(unsigned_long, wanted))
    except OverflowError:
        return array("Q", map(unsigned_long, wanted))


def reserved_bits(machine_type: int) -> list[int]:
    """Numbers of the bits set that no kernel gives a meaning.

    >>> reserved_bits(0x1_8000_0128)
    [8, 32]
    """
    left = machine_type & ~(SIZE_MASK | PROTECTED_BIT)
    return [bit for bit in range(left.bit_length()) if left >> bit & 1]


def bits_text(bits: list[int]) -> str:
    """Bits by number, as the subject of a sentence with its verb.

    >>> bits_text([8]), bits_text([8, 9])
    ('bit 8 has', 'bits 8, 9 have')
    """
    numbers = ", ".join(map(str, bits))
    return f"bit {numbers} has" if len(bits) == 1 else f"bits {numbers} have"


def explain(machine_type: int) -> str:
    """Any 64-bit argument of KVM_CREATE_VM in words, also one that no kernel accepts."""
    size = unsigned_long(machine_type) & SIZE_MASK
    if size == 0:
        meaning = f"the kernel's default, {DEFAULT_IPA_BITS} bits (refused where the host's limit is below that)"
    elif size < MIN_IPA_BITS:
        meaning = f"{size} bits, below the minimum of {MIN_IPA_BITS} (refused, unless the host runs pKVM)"
    else:
        meaning = f"a guest physical address space of {size} bits"
        if size <= MAX_IPA_BITS:
            meaning += f" ({size_text(1 << size)})"
        else:
            meaning += ", above every host's limit (refused, unless the host runs pKVM)"
    protected = "a protected VM (Linux 7.x in kvm-arm.mode=protected)" if machine_type & PROTECTED_BIT else None
    lines = [
        f"{machine_type:#x}",
        f"  bits 7:0   {size:#04x}: {meaning}",
        f"  bit 31     {'1' if protected else '0'}: {protected or 'not a protected VM'}",
    ]
    reserved = reserved_bits(machine_type)
    if reserved:
        lines.append(f"  reserved   {bits_text(reserved)} no meaning: refused by every kernel (EINVAL)")
    return "\n".join(lines)


def size_text(size: int) -> str:
    """A power of two in bytes, in the largest unit that keeps it whole.

    >>> size_text(1 << 40), size_text(1 << 33), size_text(65536)
    ('1 TiB', '8 GiB', '64 KiB')
    """
    for unit, shift in (("EiB", 60), ("PiB", 50), ("TiB", 40), ("GiB", 30), ("MiB", 20), ("KiB", 10)):
        if size >= 1 << shift and size % (1 << shift) == 0:
            return f"{size >> shift} {unit}"
    return f"{size} bytes"


def _hint(ipa_bits: int) -> str:
    low = ipa_bits & SIZE_MASK
    if ipa_bits > SIZE_MASK and low >= MIN_IPA_BITS:
        return f"ask for the number of bits itself; masked to its low byte this would have been {low} bits"
    return "ask for the number of bits itself, for example 40"
