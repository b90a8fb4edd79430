# SPDX-License-Identifier: Apache-2.0
"""Dirty rings of the emulated kernel: what vCPUs wrote, in memory that user space has too (virt/kvm/dirty_ring.c).

Whoever calls it holds the VM's lock.
"""

from __future__ import annotations

import mmap
from itertools import groupby
from struct import Struct
from typing import TYPE_CHECKING, Final

from kvmipa import abi

if TYPE_CHECKING:
    from collections.abc import Iterator

    from kvmipa.backend.emulated.memslots import Slot
    from kvmipa.backend.emulated.vcpu import Vcpu
    from kvmipa.backend.emulated.vm import VirtualMachine

_GFN: Final = Struct(abi.STRUCTS["dirty_gfn"][0])
_FLAGS: Final = Struct("=I")

# KVM_DIRTY_RING_RSVD_ENTRIES: room for what is written between the request to leave and the exit.
RESERVED: Final = 64


class DirtyRing:
    """The ring of one vCPU. area: its bytes, shared with whoever maps them; the indices are the kernel's alone."""

    def __init__(self, size: int) -> None:
        self.area = memoryview(mmap.mmap(-1, size))
        self._entries = size // _GFN.size
        self._dirty_index = 0
        self._reset_index = 0

    @property
    def is_soft_full(self) -> bool:
        """Whether a vCPU has to leave the guest until user space has reset some (kvm_dirty_ring_soft_full)."""
        return self._dirty_index - self._reset_index >= self._entries - RESERVED

    def push(self, slot_id: int, offset: int) -> None:
        """A page was written (kvm_dirty_ring_push)."""
        at = self._dirty_index % self._entries * _GFN.size
        _GFN.pack_into(self.area, at, 0, slot_id, offset)
        _FLAGS.pack_into(self.area, at, abi.KVM_DIRTY_GFN_F_DIRTY)
        self._dirty_index += 1

    def take_harvested(self) -> Iterator[tuple[int, int]]:
        """Slot and page of each entry that user space is done with, which are free again (kvm_dirty_ring_reset)."""
        while True:
            at = self._reset_index % self._entries * _GFN.size
            flags, slot_id, offset = _GFN.unpack_from(self.area, at)
            if not flags & abi.KVM_DIRTY_GFN_F_RESET:
                return
            _FLAGS.pack_into(self.area, at, 0)
            self._reset_index += 1
            yield slot_id, offset


def ring_of(vcpu: Vcpu) -> DirtyRing | None:
    """A vCPU's ring; None where the VM has none."""
    vm = vcpu.vm
    if not vm.dirty_ring_size:
        return None
    found = vm.dirty_rings.get(vcpu)
    if found is None:
        found = vm.dirty_rings[vcpu] = DirtyRing(vm.dirty_ring_size)
    return found


def is_full(vcpu: Vcpu) -> bool:
    """Whether KVM_RUN ends with KVM_EXIT_DIRTY_RING_FULL before the guest goes on (kvm_dirty_ring_check_request)."""
    ring = ring_of(vcpu)
    return ring is not None and ring.is_soft_full


def mark_written(vm: VirtualMachine, slot: Slot, gfn: int) -> None:
    """A page frame was written: note it in the running vCPU's ring, or in the bitmap (mark_page_dirty_in_slot)."""
    if not slot.flags & abi.KVM_MEM_LOG_DIRTY_PAGES:
        return
    ring = ring_of(vm.running) if vm.running is not None else None
    if ring is None:
        slot.mark_dirty(gfn)
    else:
        ring.push(slot.slot_id, gfn - slot.base_gfn)


def reset(vm: VirtualMachine) -> int:
    """Free all entries that were harvested, and watch their pages again: how many (kvm_vm_ioctl_reset_dirty_pages)."""
    count = 0
    for ring in vm.dirty_rings.values():
        harvested = list(ring.take_harvested())
        count += len(harvested)
        for slot_id, entries in groupby(sorted(harvested), lambda entry: entry[0]):
            slot = vm.memslots.get(slot_id)
            if slot is not None and vm.memslots.listener is not None:
                pages = (offset for _, offset in entries if offset < slot.npages)
                vm.memslots.listener.dirty_pages_taken(slot, pages)
    return count
