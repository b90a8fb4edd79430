# SPDX-License-Identifier: Apache-2.0
"""Planning: from a memory map and a host's limit to the IPA size, what does not fit, and what it costs. Pure functions.

>>> from kvmipa.layout import MemoryMap, Region, plan
>>> guest = MemoryMap([Region("ram", 1 << 30, 64 << 30), Region("pcie-window", 512 << 30, 512 << 30, "device")])
>>> plan(guest, limit=44).ipa_bits
40
>>> [(misfit.region.name, misfit.excess >> 30) for misfit in plan(guest, limit=36).misfits]
[('ram', 1), ('pcie-window', 960)]
"""

from __future__ import annotations

from kvmipa.layout.cost import Stage2Cost, stage2_cost, table_pages
from kvmipa.layout.document import device_of, memory_map_of
from kvmipa.layout.errors import LayoutError
from kvmipa.layout.planning import LargestRam, Misfit, Plan, bits_for, check_limit, largest_map, plan
from kvmipa.layout.regions import DEVICE, KINDS, RAM, ROM, MemoryMap, Region, overlaps
from kvmipa.layout.rules import Choice, Question, qemu_virt
from kvmipa.layout.sizes import amount_text, parse_size, short_text
from kvmipa.layout.strategies import STRATEGIES, Strategy

__all__ = [
    "DEVICE",
    "KINDS",
    "RAM",
    "ROM",
    "STRATEGIES",
    "Choice",
    "LargestRam",
    "LayoutError",
    "MemoryMap",
    "Misfit",
    "Plan",
    "Question",
    "Region",
    "Stage2Cost",
    "Strategy",
    "amount_text",
    "bits_for",
    "check_limit",
    "device_of",
    "largest_map",
    "memory_map_of",
    "overlaps",
    "parse_size",
    "plan",
    "qemu_virt",
    "short_text",
    "stage2_cost",
    "table_pages",
]
