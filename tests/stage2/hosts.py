# SPDX-License-Identifier: Apache-2.0
"""Hosts and VMs on them for the tests of tables and walks: every granule, with and without FWB, LPA2 and 52 bits."""

from __future__ import annotations

from dataclasses import dataclass, field

from hypothesis import strategies as st

from kvmipa.stage2.descriptors import Format
from kvmipa.stage2.geometry import Geometry
from kvmipa.stage2.memory import PhysicalMemory
from kvmipa.stage2.tables import Tables
from kvmipa.stage2.vtcr import Vtcr, vtcr_el2
from kvmipa.stage2.walk import Fault, Translation, walk

from .registers import PAGE_SIZES

# VTCR_EL2.PS of a number of PA bits.
PS = {36: 1, 40: 2, 44: 4, 48: 5, 52: 6}


@dataclass
class Vm:
    """A VM with empty tables."""

    page_size: int
    ipa_bits: int
    pa_bits: int = 48
    lpa2: bool = False
    fwb: bool = False
    base: int = 1 << 30
    form: Format = field(init=False)
    memory: PhysicalMemory = field(init=False, repr=False)
    tables: Tables = field(init=False, repr=False)
    vtcr: Vtcr = field(init=False)

    def __post_init__(self) -> None:
        shape = Geometry(self.page_size, self.ipa_bits)
        self.form = Format(self.page_size, lpa2=self.lpa2, fwb=self.fwb)
        self.memory = PhysicalMemory(self.page_size, self.pa_bits, base=self.base)
        self.tables = Tables(shape, self.form, self.memory)
        self.vtcr = vtcr_el2(shape, ps=PS[self.pa_bits], vmid_16bit=True, ha=True, ds=self.lpa2)

    def walk(self, ipa: int, kind: str = "load", *, hafdbs: bool = True) -> Translation | Fault:
        """Translate as the hardware does."""
        vttbr = self.tables.vttbr_el2 | 0x1234 << 48 | 1  # a VMID, and CnP: the walk ignores both
        return walk(self.memory.read64, vttbr, self.vtcr, ipa, fwb=self.fwb, kind=kind, hafdbs=hafdbs)

    @property
    def block(self) -> int:
        """Bytes of a level 2 block."""
        return self.page_size * self.page_size // 8


@st.composite
def vms(draw: st.DrawFn) -> Vm:
    """A VM on any host."""
    page_size = draw(st.sampled_from(PAGE_SIZES))
    lpa2 = page_size != 65536 and draw(st.booleans())
    wide = lpa2 or page_size == 65536
    pa_bits = draw(st.sampled_from((36, 40, 44, 48, 52) if wide else (36, 40, 44, 48)))
    ipa_bits = draw(st.integers(32, 52 if wide else 48))
    # Frames from the bottom, tables from the top: with a high base both need the bits above 47 and 49.
    base = draw(st.sampled_from((1 << 30, (1 << pa_bits) - (1 << 35))))
    return Vm(page_size, ipa_bits, pa_bits, lpa2, draw(st.booleans()), base)
