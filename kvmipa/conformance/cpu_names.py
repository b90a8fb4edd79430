# SPDX-License-Identifier: Apache-2.0
"""Names of CPUs by MIDR_EL1.

Source: the kernel's arch/arm64/include/asm/cputype.h, Linux 7.3.
"""

from __future__ import annotations

from typing import Final

#: MIDR_EL1.Implementer.
IMPLEMENTERS: Final = {
    0x41: "Arm",
    0x50: "APM",
    0x43: "Cavium",
    0x42: "Broadcom",
    0x51: "Qualcomm",
    0x4E: "NVIDIA",
    0x46: "Fujitsu",
    0x48: "HiSilicon",
    0x61: "Apple",
    0xC0: "Ampere",
    0x6D: "Microsoft",
}

#: MIDR_EL1.PartNum, by implementer.
PARTS: Final = {
    0x41: {
        0xD00: "Foundation",
        0xD03: "Cortex-A53",
        0xD04: "Cortex-A35",
        0xD05: "Cortex-A55",
        0xD07: "Cortex-A57",
        0xD08: "Cortex-A72",
        0xD09: "Cortex-A73",
        0xD0A: "Cortex-A75",
        0xD0B: "Cortex-A76",
        0xD0C: "Neoverse-N1",
        0xD0D: "Cortex-A77",
        0xD0E: "Cortex-A76AE",
        0xD0F: "AEM V8",
        0xD40: "Neoverse-V1",
        0xD41: "Cortex-A78",
        0xD42: "Cortex-A78AE",
        0xD44: "Cortex-X1",
        0xD46: "Cortex-A510",
        0xD47: "Cortex-A710",
        0xD48: "Cortex-X2",
        0xD49: "Neoverse-N2",
        0xD4B: "Cortex-A78C",
        0xD4C: "Cortex-X1C",
        0xD4D: "Cortex-A715",
        0xD4E: "Cortex-X3",
        0xD4F: "Neoverse-V2",
        0xD80: "Cortex-A520",
        0xD81: "Cortex-A720",
        0xD82: "Cortex-X4",
        0xD83: "Neoverse-V3AE",
        0xD84: "Neoverse-V3",
        0xD85: "Cortex-X925",
        0xD87: "Cortex-A725",
        0xD88: "Cortex-A520AE",
        0xD89: "Cortex-A720AE",
        0xD8A: "C1-Nano",
        0xD8B: "C1-Pro",
        0xD8C: "C1-Ultra",
        0xD8E: "Neoverse-N3",
        0xD90: "C1-Premium",
    },
    0x50: {
        0x000: "X-Gene",
    },
    0x43: {
        0x0A1: "ThunderX",
        0x0A2: "ThunderX 81xx",
        0x0A3: "ThunderX 83xx",
        0x0AF: "ThunderX2",
        0x0B1: "OcteonTX2 98xx",
        0x0B2: "OcteonTX2 96xx",
        0x0B3: "OcteonTX2 95xx",
        0x0B4: "OcteonTX2 95xxn",
        0x0B5: "OcteonTX2 95xxmm",
        0x0B6: "OcteonTX2 95xxo",
    },
    0x42: {
        0x100: "Brahma-B53",
        0x516: "Vulcan",
    },
    0x51: {
        0x001: "Oryon X1",
        0x200: "Kryo",
        0x800: "Kryo 2xx Gold",
        0x801: "Kryo 2xx Silver",
        0x802: "Kryo 3xx Gold",
        0x803: "Kryo 3xx Silver",
        0x804: "Kryo 4xx Gold",
        0x805: "Kryo 4xx Silver",
        0xC00: "Falkor",
    },
    0x4E: {
        0x003: "Denver",
        0x004: "Carmel",
        0x010: "Olympus",
    },
    0x46: {
        0x001: "A64FX",
    },
    0x48: {
        0xD01: "TSV110",
        0xD02: "HIP09",
        0xD06: "HIP12",
    },
    0x61: {
        0x022: "M1 Icestorm",
        0x023: "M1 Firestorm",
        0x024: "M1 Icestorm Pro",
        0x025: "M1 Firestorm Pro",
        0x028: "M1 Icestorm Max",
        0x029: "M1 Firestorm Max",
        0x032: "M2 Blizzard",
        0x033: "M2 Avalanche",
        0x034: "M2 Blizzard Pro",
        0x035: "M2 Avalanche Pro",
        0x038: "M2 Blizzard Max",
        0x039: "M2 Avalanche Max",
    },
    0xC0: {
        0xAC3: "Ampere1",
        0xAC4: "Ampere1A",
    },
    0x6D: {
        0xD49: "Azure Cobalt 100",
    },
}


def cpu_name(midr: int) -> str:
    """A CPU's name and revision, as far as they are known.

    >>> cpu_name(0x410FD034), cpu_name(0x61130221), cpu_name(0x990F1234)
    ('Arm Cortex-A53 r0p4', 'Apple M1 Icestorm r1p1', 'MIDR_EL1 0x990f1234')
    """
    implementer, part = midr >> 24 & 0xFF, midr >> 4 & 0xFFF
    revision = f"r{midr >> 20 & 0xF}p{midr & 0xF}"
    vendor = IMPLEMENTERS.get(implementer)
    if vendor is None:
        return f"MIDR_EL1 {midr:#x}"
    name = PARTS[implementer].get(part, f"part {part:#x}")
    return f"{vendor} {name} {revision}"
