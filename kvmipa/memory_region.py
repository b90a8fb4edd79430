# SPDX-License-Identifier: Apache-2.0
"""What a memory slot is to be."""

from __future__ import annotations

from typing import NamedTuple


class MemoryRegion(NamedTuple):
    """The fields of kvm_userspace_memory_region2, in the order of Vm's methods; addresses and sizes in bytes."""

    slot: int
    guest_phys_addr: int
    memory_size: int
    userspace_addr: int
    flags: int = 0
    guest_memfd: int = 0
    guest_memfd_offset: int = 0

    @property
    def end(self) -> int:
        """The first guest address behind it."""
        return self.guest_phys_addr + self.memory_size
