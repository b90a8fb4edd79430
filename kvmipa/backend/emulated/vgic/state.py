# SPDX-License-Identifier: Apache-2.0
"""What is in a vGIC's registers, as KVM_SET_DEVICE_ATTR and KVM_GET_DEVICE_ATTR see it (vgic-mmio*.c).

No guest runs against it: what is here is what initialisation and user space put there.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from kvmipa.backend.emulated.interrupts import PPI, SPI
from kvmipa.backend.emulated.vgic.limits import FIRST_PPI, PRIVATE_IRQS
from kvmipa.backend.emulated.vgic.memory_attributes import sanitised

if TYPE_CHECKING:
    from kvmipa.backend.emulated.vcpu import Vcpu
    from kvmipa.backend.emulated.vgic.controller import Vgic

_WORD: Final = 0xFFFF_FFFF

# VGIC_PRI_BITS: priorities have five bits.
_PRIORITY: Final = 0xF8
# Affinity levels 0 to 2; vGICs have no level 3.
_AFFINITY: Final = 0xFF_FFFF

# Shifts of shareability, inner and outer cacheability in GICR_PROPBASER and GICR_PENDBASER, and reserved bits.
_ATTRIBUTES: Final = (10, 7, 56)
# INITIAL_PROPBASER_VALUE, INITIAL_PENDBASER_VALUE: inner shareable, write-back.
INITIAL_BASER: Final = 0x580
_PROPBASER_RES0: Final = 0x1F << 59 | 0xF << 52 | 0x3 << 5
_PENDBASER_RES0: Final = 1 << 63 | 0x7 << 59 | 0xF << 52 | 0xF << 12 | 0x7F
_PENDBASER_PTZ: Final = 1 << 62


class Bank:
    """Interrupts in a row: the 32 private ones of a vCPU, or the SPIs. Bit i of a number is that of first + i."""

    def __init__(self, first: int, count: int, *, group: bool) -> None:
        self.first = first
        every = (1 << count) - 1
        # SGIs are enabled. They and SPIs are edge-triggered at first, PPIs are not (vgic_setup_private_irq).
        sgis = 0 if first else (1 << FIRST_PPI) - 1
        edge = every if first else sgis
        self.bits = {"group": every if group else 0, "enabled": sgis, "pending": 0, "active": 0, "edge": edge}
        self.priorities: dict[int, int] = {}
        # Affinity of a vGICv3's SPIs, CPU masks of a vGICv2's.
        self.targets: dict[int, int] = {}
        # vCPUs that sent a vGICv2's SGI, a bit for each.
        self.sources: dict[int, int] = {}

    def word(self, what: str, irq: int) -> int:
        """32 bits from an interrupt on."""
        return self.bits[what] >> (irq - self.first) & _WORD

    def write(self, what: str, irq: int, value: int, mask: int = _WORD) -> None:
        """Replace the bits of a mask."""
        shift = irq - self.first
        self.bits[what] = self.bits[what] & ~(mask << shift) | (value & mask) << shift


class VgicState:
    """The registers' contents. enabled: GICD_CTLR's; revision: of GICD_IIDR."""

    def __init__(self, vgic: Vgic) -> None:
        self.vgic = vgic
        self.enabled = False
        self.revision = 3 if vgic.vm.behaviour.vgic_revision_3 else 2
        # Set by a write to GICD_IIDR: such a user space knows that groups can be written (vGICv2).
        self.groups_are_writable = False
        self._propbaser: int | None = None
        self._spis: Bank | None = None

    def bank(self, vcpu: Vcpu, irq: int) -> Bank:
        """Where an interrupt is."""
        group = self.vgic.model == "v3"
        if irq >= PRIVATE_IRQS:
            if self._spis is None:
                self._spis = Bank(PRIVATE_IRQS, self.vgic.nr_spis, group=group)
            return self._spis
        if vcpu.private_irqs is None:
            vcpu.private_irqs = Bank(0, PRIVATE_IRQS, group=group)
        return vcpu.private_irqs

    # ---------------------------------------------------------------------------------------- one bit an interrupt

    def read_bits(self, vcpu: Vcpu, what: str, irq: int) -> int:
        """32 interrupts."""
        return self.bank(vcpu, irq).word(what, irq)

    def write_bits(self, vcpu: Vcpu, what: str, irq: int, value: int) -> None:
        """As they are in the value."""
        self.bank(vcpu, irq).write(what, irq, value)

    def set_bits(self, vcpu: Vcpu, what: str, irq: int, value: int) -> None:
        """Those that are 1."""
        self.bank(vcpu, irq).write(what, irq, _WORD, value)

    def clear_bits(self, vcpu: Vcpu, what: str, irq: int, value: int) -> None:
        """Those that are 1."""
        self.bank(vcpu, irq).write(what, irq, 0, value)

    # ---------------------------------------------------------------------------------------- SGIs of a vGICv2

    def read_sources(self, vcpu: Vcpu, sgi: int) -> int:
        """Who sent four SGIs that are pending, a byte each."""
        known = self.bank(vcpu, sgi).sources
        return sum(known.get(sgi + i, 0) << 8 * i for i in range(4))

    def add_sources(self, vcpu: Vcpu, sgi: int, value: int) -> None:
        """More senders of four SGIs, which are pending then."""
        bank = self.bank(vcpu, sgi)
        for i in range(4):
            sources = bank.sources.get(sgi + i, 0) | value >> 8 * i & 0xFF
            bank.sources[sgi + i] = sources
            if sources:
                bank.write("pending", sgi + i, 1, 1)

    def remove_sources(self, vcpu: Vcpu, sgi: int, value: int) -> None:
        """Fewer senders of four SGIs, which are pending no more without one."""
        bank = self.bank(vcpu, sgi)
        for i in range(4):
            sources = bank.sources.get(sgi + i, 0) & ~(value >> 8 * i)
            bank.sources[sgi + i] = sources
            if not sources:
                bank.write("pending", sgi + i, 0, 1)

    def read_pending_v2(self, vcpu: Vcpu, irq: int) -> int:
        """GICD_ISPENDR and GICD_ICPENDR: latches and lines (vgic_mmio_read_pending)."""
        return self.read_bits(vcpu, "pending", irq) | self.read_levels(vcpu, irq)

    def set_pending_v2(self, vcpu: Vcpu, irq: int, value: int) -> None:
        """GICD_ISPENDR: an SGI was sent by the vCPU itself (vgic_uaccess_write_spending)."""
        self.set_bits(vcpu, "pending", irq, value)
        if not irq:
            sources = self.bank(vcpu, 0).sources
            sources.update({i: sources.get(i, 0) | 1 << vcpu.vcpu_id for i in range(FIRST_PPI) if value >> i & 1})

    def clear_pending_v2(self, vcpu: Vcpu, irq: int, value: int) -> None:
        """GICD_ICPENDR: an SGI was sent by nobody (vgic_uaccess_write_cpending)."""
        self.clear_bits(vcpu, "pending", irq, value)
        if not irq:
            self.bank(vcpu, 0).sources.update({i: 0 for i in range(FIRST_PPI) if value >> i & 1})

    def send_sgi(self, vcpu: Vcpu, value: int) -> None:
        """GICD_SGIR: to the vCPUs of a list (0), to all others (1), to the sender (2)."""
        sgi, listed, mode = value & 0xF, value >> 16 & 0xFF, value >> 24 & 3
        for position, target in enumerate(self.vgic.vm.vcpus):
            if (bool(listed >> position & 1), target is not vcpu, target is vcpu, False)[mode]:
                self.add_sources(target, sgi & ~3, 1 << vcpu.vcpu_id + 8 * (sgi & 3))

    # ---------------------------------------------------------------------------------------- priority, trigger, target

    def read_priorities(self, vcpu: Vcpu, irq: int) -> int:
        """Of four interrupts, a byte each."""
        known = self.bank(vcpu, irq).priorities
        return sum(known.get(irq + i, 0) << 8 * i for i in range(4))

    def write_priorities(self, vcpu: Vcpu, irq: int, value: int) -> None:
        """The upper five bits of each byte."""
        known = self.bank(vcpu, irq).priorities
        known.update({irq + i: value >> 8 * i & _PRIORITY for i in range(4)})

    def read_triggers(self, vcpu: Vcpu, irq: int) -> int:
        """Of 16 interrupts, two bits each: 2 for edges."""
        edges = self.bank(vcpu, irq).word("edge", irq)
        return sum((edges >> i & 1) << 2 * i + 1 for i in range(16))

    def write_triggers(self, vcpu: Vcpu, irq: int, value: int) -> None:
        """Private interrupts keep theirs (vgic_mmio_write_config)."""
        if irq >= PRIVATE_IRQS:
            edges = sum((value >> 2 * i + 1 & 1) << i for i in range(16))
            self.bank(vcpu, irq).write("edge", irq, edges, 0xFFFF)

    def read_route(self, vcpu: Vcpu, irq: int) -> int:
        """GICD_IROUTER's lower half."""
        return self.bank(vcpu, irq).targets.get(irq, 0)

    def write_route(self, vcpu: Vcpu, irq: int, value: int) -> None:
        """Affinity levels 0 to 2."""
        self.bank(vcpu, irq).targets[irq] = value & _AFFINITY

    def read_targets(self, vcpu: Vcpu, irq: int) -> int:
        """GICD_ITARGETSR: a private interrupt is its vCPU's, by its id, before 7.3 by its place (vgic_init)."""
        if irq < PRIVATE_IRQS:
            by_id = self.vgic.vm.behaviour.vgic_v2_targets_by_id
            place = vcpu.vcpu_id if by_id else self.vgic.vm.vcpus.index(vcpu)
            return (1 << place & 0xFF) * 0x0101_0101
        known = self.bank(vcpu, irq).targets
        return sum(known.get(irq + i, 0) << 8 * i for i in range(4))

    def write_targets(self, vcpu: Vcpu, irq: int, value: int) -> None:
        """Only SPIs, and only to vCPUs that there are (vgic_mmio_write_target)."""
        if irq >= PRIVATE_IRQS:
            vcpus = (1 << len(self.vgic.vm.vcpus)) - 1
            self.bank(vcpu, irq).targets.update({irq + i: value >> 8 * i & 0xFF & vcpus for i in range(4)})

    # ---------------------------------------------------------------------------------------- lines

    def read_levels(self, vcpu: Vcpu, irq: int) -> int:
        """The lines of 32 interrupts that react to levels, as KVM_IRQ_LINE left them (vgic_read_irq_line_level_info).

        Bit i is interrupt irq + i.
        """
        levels = self.vgic.vm.interrupts.levels
        return sum(
            1 << i
            for i in range(32)
            if levels.get(self._line(vcpu, irq + i)) and not self.bank(vcpu, irq).word("edge", irq) >> i & 1
        )

    def write_levels(self, vcpu: Vcpu, irq: int, value: int) -> None:
        """SGIs have no line."""
        levels = self.vgic.vm.interrupts.levels
        for i in range(32):
            if FIRST_PPI <= irq + i < self.vgic.nr_irqs:
                levels[self._line(vcpu, irq + i)] = bool(value >> i & 1)

    def _line(self, vcpu: Vcpu, irq: int) -> tuple[int, int | None, int]:
        return (SPI, None, irq) if irq >= PRIVATE_IRQS else (PPI, vcpu.vcpu_id, irq)

    # ---------------------------------------------------------------------------------------- tables of LPIs

    @property
    def propbaser(self) -> int:
        """GICR_PROPBASER, which all redistributors share; an ITS gives it a value."""
        if self._propbaser is None:
            return INITIAL_BASER if self.vgic.vm.itses else 0
        return self._propbaser

    def write_propbaser(self, vcpu: Vcpu, shift: int, value: int) -> None:
        """One half of it; nothing while LPIs are on."""
        if not vcpu.lpis_enabled:
            self._propbaser = _with_half(self.propbaser, shift, value) & ~_PROPBASER_RES0

    def read_pendbaser(self, vcpu: Vcpu) -> int:
        """GICR_PENDBASER; PTZ reads as 0."""
        return _pendbaser(vcpu) & ~_PENDBASER_PTZ

    def write_pendbaser(self, vcpu: Vcpu, shift: int, value: int) -> None:
        """One half of it; nothing while LPIs are on."""
        if not vcpu.lpis_enabled:
            vcpu.pendbaser = _with_half(_pendbaser(vcpu), shift, value) & ~_PENDBASER_RES0


def _pendbaser(vcpu: Vcpu) -> int:
    return INITIAL_BASER if vcpu.pendbaser is None else vcpu.pendbaser


def _with_half(whole: int, shift: int, value: int) -> int:
    """One half replaced, and attributes that KVM has."""
    return sanitised(whole & ~(_WORD << shift) | value << shift, *_ATTRIBUTES)
