# SPDX-License-Identifier: Apache-2.0
"""The interrupt translation service of the emulated kernel (kernel-device-spec 2.7; vgic-its.c).

Only a guest that runs gives an ITS commands; here are its address, its registers, and saving tables that are not there.
"""

from __future__ import annotations

from errno import EBUSY, EINVAL, ENODEV, ENOSPC, ENXIO
from typing import TYPE_CHECKING, Final, NamedTuple

from kvmipa import abi
from kvmipa.backend.emulated import user_memory
from kvmipa.backend.emulated.io_events import mmio_bus_is_full
from kvmipa.backend.emulated.vgic.frames import UNDEFINED, check_range
from kvmipa.backend.emulated.vgic.memory_attributes import sanitised

if TYPE_CHECKING:
    from collections.abc import Callable

    from kvmipa.backend.emulated.vm import VirtualMachine

# include/kvm/arm_vgic.h: KVM_VGIC_V3_ITS_SIZE; bytes.
SIZE: Final = 0x2_0000
ALIGNMENT: Final = 0x1_0000

_OF_CONTROL: Final = (
    abi.KVM_DEV_ARM_VGIC_CTRL_INIT,
    abi.KVM_DEV_ARM_ITS_SAVE_TABLES,
    abi.KVM_DEV_ARM_ITS_RESTORE_TABLES,
    abi.KVM_DEV_ARM_ITS_CTRL_RESET,
)

# GICv3 and GICv4 Software Overview and Arm IHI 0069, 12.19: offsets of the ITS's registers.
CTLR, IIDR, TYPER, CBASER, CWRITER, CREADR, BASER = 0x0, 0x4, 0x8, 0x80, 0x88, 0x90, 0x100
PIDR4: Final = 0xFFD0

# GITS_CTLR.Quiescent.
_QUIESCENT: Final = 1 << 31
_ENABLED: Final = 1 << 0

# PTA 0, 16 bits of device id and of event id, entries of 8 bytes in an ITT, physical LPIs (vgic_mmio_read_its_typer).
_TYPER: Final = 15 << 13 | 15 << 8 | 7 << 4 | 1
# Product KVM, revision (of the tables' layout) 0, implementer Arm.
_IIDR: Final = 0x4B00_043B
_LAYOUT: Final = 0xF000
_IDENTITY: Final = {
    0xFFD0: 0x40, 0xFFE0: 0x92, 0xFFE4: 0xB4, 0xFFE8: 0x3B, 0xFFF0: 0x0D, 0xFFF4: 0xF0, 0xFFF8: 0x05, 0xFFFC: 0xB1,
}  # fmt: skip

# GITS_BASER<n>: inner write-back, inner shareable, 64K pages, entries of 8 bytes; type 1 devices, 4 collections.
_INITIAL_BASER: Final = 3 << 59 | 1 << 10 | 2 << 8 | 7 << 48
_DEVICES: Final = _INITIAL_BASER | 1 << 56
_COLLECTIONS: Final = _INITIAL_BASER | 4 << 56
_BASER_READ_ONLY: Final = 0x1F << 48 | 7 << 56
_PAGE_SIZE: Final = 3 << 8
_INDIRECT: Final = 1 << 62
_VALID: Final = 1 << 63
# Where a register has shareability, inner and outer cacheability.
_ATTRIBUTES: Final = (10, 59, 53)
# The queue is aligned to 64K.
_CBASER_RES0: Final = 0xF000
_QUEUE_OFFSET: Final = 0xF_FFE0


class Register(NamedTuple):
    """Registers in a row."""

    offset: int
    length: int


REGISTERS: Final = (
    Register(CTLR, 4),
    Register(IIDR, 4),
    Register(TYPER, 8),
    Register(CBASER, 8),
    Register(CWRITER, 8),
    Register(CREADR, 8),
    Register(BASER, 0x40),
    Register(PIDR4, 0x30),
)


class Its:
    """An ITS.

    base: its address, None while it has none; is_on_bus: whether the guest finds it there; enabled: GITS_CTLR.Enabled.
    """

    gettable = True
    was_opened = False

    def __init__(self, vm: VirtualMachine) -> None:
        self.vm = vm
        self.base: int | None = None
        self.is_on_bus = False
        self._reset()

    def _reset(self) -> None:
        """As made; the tables' attributes of KVM_DEV_ARM_ITS_CTRL_RESET stay (vgic_its_reset)."""
        self.enabled = False
        self._values = {CBASER: 0, CWRITER: 0, CREADR: 0, BASER: _DEVICES, BASER + 8: _COLLECTIONS}

    def is_at(self, address: int) -> bool:
        """Whether an address is in its frames, GITS_TRANSLATER's or the other one (__vgic_doorbell_to_its)."""
        return self.base is not None and self.is_on_bus and self.base <= address < self.base + SIZE

    def set_attr(self, group: int, attr: int, address: int, /) -> int:
        """KVM_SET_DEVICE_ATTR."""
        if group == abi.KVM_DEV_ARM_VGIC_GRP_ADDR:
            return self._set_address(attr, address)
        if group == abi.KVM_DEV_ARM_VGIC_GRP_CTRL:
            return self._control(attr)
        if group != abi.KVM_DEV_ARM_VGIC_GRP_ITS_REGS:
            return -ENXIO
        value = user_memory.read_number(address, 8)
        refusal = self._refusal(attr)
        return refusal or self._write(attr & 0xFFFF_FFFF, value)

    def get_attr(self, group: int, attr: int, address: int, /) -> int:
        """KVM_GET_DEVICE_ATTR."""
        if group == abi.KVM_DEV_ARM_VGIC_GRP_ADDR:
            if attr != abi.KVM_VGIC_ITS_ADDR_TYPE:
                return -ENODEV
            value = UNDEFINED if self.base is None else self.base
        elif group == abi.KVM_DEV_ARM_VGIC_GRP_ITS_REGS:
            refusal = self._refusal(attr)
            if refusal:
                return refusal
            value = self._read(attr & 0xFFFF_FFFF)
        else:
            return -ENXIO
        user_memory.write_number(address, value, 8)
        return 0

    def has_attr(self, group: int, attr: int, _address: int, /) -> int:
        """KVM_HAS_DEVICE_ATTR."""
        if group == abi.KVM_DEV_ARM_VGIC_GRP_ITS_REGS:
            return -EINVAL if _is_misaligned(attr) else 0 if _register(attr) else -ENXIO
        known: dict[int, tuple[int, ...]] = {
            abi.KVM_DEV_ARM_VGIC_GRP_ADDR: (abi.KVM_VGIC_ITS_ADDR_TYPE,),
            abi.KVM_DEV_ARM_VGIC_GRP_CTRL: _OF_CONTROL,
        }
        return 0 if attr in known.get(group, ()) else -ENXIO

    def _set_address(self, kind: int, address: int) -> int:
        """The address stays set where the bus is full (vgic_register_its_iodev)."""
        if kind != abi.KVM_VGIC_ITS_ADDR_TYPE:
            return -ENODEV
        value = user_memory.read_number(address, 8)
        check_range(self.vm, UNDEFINED if self.base is None else self.base, value, ALIGNMENT, SIZE)
        self.base = value
        self.is_on_bus = not mmio_bus_is_full(self.vm)
        return 0 if self.is_on_bus else -ENOSPC

    def _control(self, attr: int) -> int:
        """Without valid tables in memory, which the guest gives it, there is nothing to save or restore."""
        if attr == abi.KVM_DEV_ARM_ITS_CTRL_RESET:
            tables = {register: self._values[register] & ~_VALID for register in (BASER, BASER + 8)}
            self._reset()
            self._values.update(tables)
        elif attr not in _OF_CONTROL and self.vm.behaviour.its_knows_its_controls:
            return -ENXIO
        return 0

    # ---------------------------------------------------------------------------------------- registers

    def _refusal(self, attr: int) -> int:
        """-errno where a register cannot be accessed; 5.10 finds no address first, as the others (2.7)."""
        if _is_misaligned(attr):
            return -EINVAL
        return -ENXIO if self.base is None or _register(attr) is None else 0

    def _read(self, offset: int) -> int:
        if offset == CTLR:
            return _QUIESCENT | self.enabled
        fixed = {IIDR: _IIDR, TYPER: _TYPER, **_IDENTITY}
        return fixed.get(offset, self._values.get(offset, 0))

    def _write(self, offset: int, value: int) -> int:
        writer = _WRITERS.get(offset)
        return writer(self, offset, value) if writer else 0

    def _write_ctlr(self, _offset: int, value: int) -> int:
        """It is enabled only with its command queue and both tables."""
        if self.enabled or all(self._values[register] & _VALID for register in (CBASER, BASER, BASER + 8)):
            self.enabled = bool(value & _ENABLED)
        return 0

    def _write_iidr(self, _offset: int, value: int) -> int:
        """One layout of the tables is known: 0."""
        return -EINVAL if value & _LAYOUT else 0

    def _write_cbaser(self, _offset: int, value: int) -> int:
        if not self.enabled:
            queue = sanitised(value, *_ATTRIBUTES) & ~_CBASER_RES0
            self._values.update({CBASER: queue, CWRITER: 0, CREADR: 0})
        return 0

    def _write_cwriter(self, _offset: int, value: int) -> int:
        if value & _QUEUE_OFFSET < self._queue_size:
            self._values[CWRITER] = value & _QUEUE_OFFSET
        return 0

    def _write_creadr(self, _offset: int, value: int) -> int:
        if self.enabled:
            return -EBUSY
        if value & _QUEUE_OFFSET >= self._queue_size:
            return -EINVAL
        self._values[CREADR] = value & _QUEUE_OFFSET
        return 0

    @property
    def _queue_size(self) -> int:
        """Bytes: the command queue has one page of 4K more than CBASER says."""
        return ((self._values[CBASER] & 0xFF) + 1) << 12

    def _write_baser(self, offset: int, value: int) -> int:
        """The table of collections has one level; pages are of 64K."""
        if not self.enabled:
            kept = _BASER_READ_ONLY | _PAGE_SIZE | (_INDIRECT if offset != BASER else 0)
            initial = _DEVICES if offset == BASER else _COLLECTIONS
            self._values[offset] = sanitised(value & ~kept | initial & kept, *_ATTRIBUTES)
        return 0


_WRITERS: Final[dict[int, Callable[[Its, int, int], int]]] = {
    CTLR: Its._write_ctlr,
    IIDR: Its._write_iidr,
    CBASER: Its._write_cbaser,
    CWRITER: Its._write_cwriter,
    CREADR: Its._write_creadr,
    BASER: Its._write_baser,
    BASER + 8: Its._write_baser,
}


def create_its(vm: VirtualMachine) -> Its:
    """An ITS; there can be many, with whatever vGIC or none."""
    its = Its(vm)
    vm.itses = (*vm.itses, its)
    return its


def _is_misaligned(offset: int) -> bool:
    """Registers of 64 bits are accessed whole."""
    return bool(offset & (0x3 if offset < TYPER or offset >= PIDR4 else 0x7))


def _register(offset: int) -> Register | None:
    """The kernel looks it up by the lower half of the number (vgic_find_mmio_region)."""
    offset &= 0xFFFF_FFFF
    return next((it for it in REGISTERS if it.offset <= offset < it.offset + it.length), None)
