# SPDX-License-Identifier: Apache-2.0
"""The dirty ring: the pages that a vCPU wrote, in the order in which it did (KVM_CAP_DIRTY_LOG_RING_ACQ_REL).

Linux 6.2 on arm64; virt/kvm/dirty_ring.c, Documentation/virt/kvm/api.rst 8.29. Only slots that are logged
(KVM_MEM_LOG_DIRTY_PAGES) have their pages in it.
"""

from __future__ import annotations

import errno
from struct import Struct
from threading import Lock
from typing import TYPE_CHECKING, Final, NamedTuple

from kvmipa import abi
from kvmipa.causes.dirty_ring import ring_off_error
from kvmipa.ordering import fence

if TYPE_CHECKING:
    from collections.abc import Iterator

    from kvmipa.backend import Backend
    from kvmipa.vm import Vm

_GFN: Final = Struct(abi.STRUCTS["dirty_gfn"][0])

# In words of 32 bits: flags come first.
_GFN_WORDS: Final = _GFN.size // 4


class DirtyPage(NamedTuple):
    """A page that a guest wrote: slot is a Memslot's number, offset counts pages from the slot's start.

    >>> DirtyPage(slot=0, offset=16).offset
    16
    """

    slot: int
    offset: int


class DirtyRing:
    """The ring of one vCPU (Vcpu.dirty_ring), which KVM fills; its pages are what harvest() returns.

    A page is in it once: until Vm.reset_dirty_rings() KVM does not look at it again. A ring that is nearly full ends
    KVM_RUN (KVM_EXIT_DIRTY_RING_FULL), and keeps ending it until it is harvested and reset. When the vCPU is closed,
    the pages that are in it can still be harvested.

    >>> import kvmipa
    >>> with kvmipa.open("emulated") as kvm, kvm.create_vm(40) as vm:
    ...     vm.enable_dirty_ring(1 << 16)
    ...     with vm.create_vcpu(0) as vcpu:
    ...         vcpu.dirty_ring.capacity, vcpu.dirty_ring.harvest(), vm.reset_dirty_rings()
    (4096, [], 0)
    """

    def __init__(self, area: memoryview) -> None:
        self._area = area
        self._words = area.cast("I")
        self._next = 0
        self._lock = Lock()

    @property
    def capacity(self) -> int:
        """How many pages it has room for."""
        return len(self._area) // _GFN.size

    def harvest(self) -> list[DirtyPage]:
        """The pages that were written since the last time, oldest first; they are then ready to be reset.

        It may be called while the vCPU runs.
        """
        with self._lock:
            positions = list(self._dirty())
            # Slot and offset are there before the flag is (smp_store_release in kvm_dirty_gfn_set_dirtied).
            fence()
            found = [self._take(position) for position in positions]
            self._next = (self._next + len(found)) % self.capacity
        return found

    def let_go(self) -> None:
        """Keep what is in the ring, and not the ring: the kernel keeps the VM as long as it is mapped."""
        with self._lock:
            self._area = memoryview(bytearray(self._area))
            self._words = self._area.cast("I")

    def _dirty(self) -> Iterator[int]:
        for ahead in range(self.capacity):
            position = (self._next + ahead) % self.capacity
            if self._words[position * _GFN_WORDS] != abi.KVM_DIRTY_GFN_F_DIRTY:
                return
            yield position

    def _take(self, position: int) -> DirtyPage:
        _flags, slot, offset = _GFN.unpack_from(self._area, position * _GFN.size)
        self._words[position * _GFN_WORDS] = abi.KVM_DIRTY_GFN_F_RESET
        return DirtyPage(slot, offset)

    def __repr__(self) -> str:
        """Its size."""
        return f"<kvmipa.DirtyRing {self.capacity} pages>"


def map_ring(backend: Backend, fd: int, vm: Vm) -> DirtyRing:
    """The ring of a vCPU; DirtyRingOffError where its VM has none."""
    if not vm.dirty_ring_size:
        raise ring_off_error(errno.EINVAL)
    found = backend.mmap(fd, vm.dirty_ring_size, abi.KVM_DIRTY_LOG_PAGE_OFFSET * vm.page_size)
    if isinstance(found, int):
        raise ring_off_error(-found)
    return DirtyRing(found)
