# SPDX-License-Identifier: Apache-2.0
"""Stage-2 descriptors, as KVM writes them on one host: encoded and decoded (kernel-ipa-spec 5.6)."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import Final

from kvmipa.stage2.geometry import LAST_LEVEL, PAGE_SIZES

# Bits of a descriptor (Arm ARM D8.3, VMSAv8-64 block, page and table descriptors).
VALID: Final = 1 << 0
TABLE_OR_PAGE: Final = 1 << 1
MEMATTR_SHIFT: Final = 2
S2AP_READ: Final = 1 << 6
S2AP_WRITE: Final = 1 << 7
SH_SHIFT: Final = 8
ACCESS_FLAG: Final = 1 << 10
XN: Final = 1 << 54
XN_FIELD: Final = 3 << 53

# What KVM may change in a leaf without breaking it first (KVM_PTE_LEAF_ATTR_S2_PERMS in hyp/pgtable.c).
PERMISSIONS: Final = S2AP_READ | S2AP_WRITE | XN_FIELD

INNER_SHAREABLE: Final = 3

# Levels at which KVM makes leaves (kvm_block_mapping_supported in hyp/pgtable.c): 1G blocks with 4K pages only; the
# blocks of 512G, 64G and 4T that the architecture has with 52-bit addresses are never used.
LEAF_LEVELS: Final = {4096: (1, 2, 3), 16384: (2, 3), 65536: (2, 3)}


class MemoryType(Enum):
    """What kind of memory a leaf maps."""

    NORMAL = "Normal write-back"
    NORMAL_NC = "Normal non-cacheable"
    DEVICE = "Device-nGnRE"


# MemAttr by FWB; with FWB the types are three bits, and 6 is "write-back whatever stage 1 says".
_MEMATTR: Final = {
    False: {MemoryType.NORMAL: 0xF, MemoryType.NORMAL_NC: 5, MemoryType.DEVICE: 1},
    True: {MemoryType.NORMAL: 6, MemoryType.NORMAL_NC: 5, MemoryType.DEVICE: 1},
}
_MEMORY_TYPE: Final = {fwb: {bits: kind for kind, bits in table.items()} for fwb, table in _MEMATTR.items()}


@dataclass(frozen=True, slots=True)
class Leaf:
    """A block or page descriptor.

    output_address: PA of its first byte. level: 1 to 3. shareability: the SH field, or None where the format has no
    such bits (LPA2: it is VTCR_EL2.SH0's).
    """

    output_address: int
    level: int
    readable: bool = True
    writable: bool = True
    executable: bool = True
    memory_type: MemoryType = MemoryType.NORMAL
    accessed: bool = True
    shareability: int | None = INNER_SHAREABLE


@dataclass(frozen=True, slots=True)
class Table:
    """A table descriptor: the PA of the next level's table."""

    address: int


@dataclass(frozen=True)
class Format:
    """The descriptor format of one host.

    page_size: bytes; lpa2: VTCR_EL2.DS, for every VM of the host; fwb: FEAT_S2FWB. Raises ValueError for LPA2 with 64K
    pages, which have 52-bit addresses without it.

    >>> form = Format(4096, fwb=True)
    >>> hex(form.encode_leaf(Leaf(0x40000000, level=3)))
    '0x400007db'
    >>> form.decode(0x400007db, 3).output_address == 0x40000000
    True
    """

    page_size: int
    lpa2: bool = False
    fwb: bool = False
    # Bits of an address that stay in place; what is above goes to the bits from _high_to on.
    _low_bits: int = field(init=False, repr=False, compare=False)
    _high_to: int = field(init=False, repr=False, compare=False)
    _high_mask: int = field(init=False, repr=False, compare=False)
    _in_place: int = field(init=False, repr=False, compare=False)
    _constant: int = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        """Work out where addresses go, and the attribute bits that never change."""
        if self.page_size not in PAGE_SIZES:
            raise ValueError(f"page size {self.page_size!r} bytes: arm64 has {', '.join(map(str, PAGE_SIZES))}")
        if self.lpa2 and self.page_size == 65536:
            raise ValueError("LPA2 is a format of 4K and 16K pages")
        low_bits, high_to, high_mask = (50, 8, 3) if self.lpa2 else (48, 12, 0xF if self.page_size == 65536 else 0)
        sh = 0 if self.lpa2 else INNER_SHAREABLE << SH_SHIFT
        for name, value in (
            ("_low_bits", low_bits),
            ("_high_to", high_to),
            ("_high_mask", high_mask),
            ("_in_place", (1 << low_bits) - self.page_size),
            ("_constant", VALID | sh),
        ):
            object.__setattr__(self, name, value)

    @property
    def address_bits(self) -> int:
        """Bits of PA that the format holds: 48 or 52."""
        return self._low_bits + self._high_mask.bit_length()

    @property
    def shareability(self) -> int | None:
        """The SH field of every leaf that KVM makes; None where the format has none."""
        return None if self.lpa2 else INNER_SHAREABLE

    def place(self, address: int) -> int:
        """An output address in the bits where descriptors have it.

        >>> hex(Format(65536).place(0xA_0000_1234_0000)), hex(Format(4096, lpa2=True).place(0x8_0000_0000_1000))
        ('0x1234a000', '0x1200')
        """
        if not address >> self._low_bits:
            return address
        return address & self._in_place | address >> self._low_bits << self._high_to

    def address(self, descriptor: int) -> int:
        """The output address of a descriptor: the inverse of place()."""
        return descriptor & self._in_place | (descriptor >> self._high_to & self._high_mask) << self._low_bits

    def attributes(
        self,
        *,
        readable: bool = True,
        writable: bool = True,
        executable: bool = True,
        memory_type: MemoryType = MemoryType.NORMAL,
        accessed: bool = True,
    ) -> int:
        """All bits of a block descriptor but its address; a page has TABLE_OR_PAGE (bit 1) too.

        A page at a PA below 2^48 is then ``pa | attributes | TABLE_OR_PAGE``, whatever the format.

        >>> hex(Format(4096).attributes()), hex(Format(4096, lpa2=True, fwb=True).attributes())
        ('0x7fd', '0x4d9')
        """
        bits = self._constant | _MEMATTR[self.fwb][memory_type] << MEMATTR_SHIFT
        return (
            bits
            | (S2AP_READ if readable else 0)
            | (S2AP_WRITE if writable else 0)
            | (ACCESS_FLAG if accessed else 0)
            | (0 if executable else XN)
        )

    def encode_leaf(self, leaf: Leaf) -> int:
        """The descriptor of a leaf.

        Raises ValueError where KVM has no leaves at the level, where the address is not aligned to what the level maps
        or does not fit the format, or where the shareability is not the format's.
        """
        page = leaf.level == LAST_LEVEL
        if leaf.level not in LEAF_LEVELS[self.page_size]:
            raise ValueError(f"level {leaf.level}: KVM has no blocks there with pages of {self.page_size} bytes")
        self._check_address(leaf.output_address, 1 << self.shift(leaf.level))
        if leaf.shareability != self.shareability:
            raise ValueError(f"shareability {leaf.shareability}: this format has {self.shareability}")
        return (
            self.place(leaf.output_address)
            | (TABLE_OR_PAGE if page else 0)
            | self.attributes(
                readable=leaf.readable,
                writable=leaf.writable,
                executable=leaf.executable,
                memory_type=leaf.memory_type,
                accessed=leaf.accessed,
            )
        )

    def encode_table(self, address: int) -> int:
        """The descriptor of a next-level table at a PA; ValueError where that is no page of this format."""
        self._check_address(address, self.page_size)
        return self.place(address) | VALID | TABLE_OR_PAGE

    def decode(self, descriptor: int, level: int) -> Table | Leaf | None:
        """What a descriptor at a level is; None where it maps nothing.

        Raises ValueError for a MemAttr that KVM never writes.

        >>> Format(4096).decode(0x80000003, 2)
        Table(address=2147483648)
        >>> Format(4096).decode(0, 2) is None
        True
        """
        if not descriptor & VALID:
            return None
        if descriptor & TABLE_OR_PAGE:
            if level != LAST_LEVEL:
                return Table(self.address(descriptor))
        elif level == LAST_LEVEL:
            return None  # reserved: the hardware takes it for an invalid one
        memattr = descriptor >> MEMATTR_SHIFT & 0xF
        memory_type = _MEMORY_TYPE[self.fwb].get(memattr)
        if memory_type is None:
            raise ValueError(f"descriptor {descriptor:#x}: MemAttr {memattr:#x} is none of KVM's")
        return Leaf(
            self.address(descriptor) & -1 << self.shift(level),
            level,
            bool(descriptor & S2AP_READ),
            bool(descriptor & S2AP_WRITE),
            not descriptor & XN,
            memory_type,
            bool(descriptor & ACCESS_FLAG),
            None if self.lpa2 else descriptor >> SH_SHIFT & 3,
        )

    def shift(self, level: int) -> int:
        """log2 of the bytes that an entry of a level maps."""
        return (self.page_size.bit_length() - 4) * (LAST_LEVEL + 1 - level) + 3

    def _check_address(self, address: int, alignment: int) -> None:
        if address % alignment or not 0 <= address < 1 << self.address_bits:
            raise ValueError(f"address {address:#x}: expected a multiple of {alignment:#x} below 2^{self.address_bits}")
