# SPDX-License-Identifier: Apache-2.0
"""Machines and kernels by name."""

from __future__ import annotations

from functools import lru_cache
from types import MappingProxyType
from typing import TYPE_CHECKING

from kvmipa.backend.emulated.host import HostProfile

if TYPE_CHECKING:
    from collections.abc import Mapping


@lru_cache(maxsize=1)
def presets() -> Mapping[str, HostProfile]:
    """Every preset by its name."""
    return MappingProxyType({
        "qemu-max-6.12-4k": HostProfile(),
        "qemu-cortex-a57-6.12-4k": HostProfile(id_aa64mmfr0_el1=0x1124, id_aa64mmfr1_el1=0),
        "raspberry-pi-4": HostProfile(id_aa64mmfr0_el1=0x1124, id_aa64mmfr1_el1=0),
    })
