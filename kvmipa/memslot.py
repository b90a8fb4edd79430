# SPDX-License-Identifier: Apache-2.0
"""Memslot: a piece of memory that a VM has, at a guest address."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

from kvmipa import dirty_log, errors
from kvmipa._abi_table import KVM_MEM_LOG_DIRTY_PAGES, KVM_MEM_READONLY
from kvmipa.causes import closed_error

if TYPE_CHECKING:
    from kvmipa.memory import GuestMemory
    from kvmipa.memory_region import MemoryRegion
    from kvmipa.slots import SlotTable


class Memslot:
    """A memory slot of a VM; made by Vm.add_memory() and Vm.set_user_memory_region(), listed by Vm.memslots.

    slot_id: its number. guest_phys_addr, memory_size, userspace_addr: bytes. flags: KVM_MEM_*. memory: the GuestMemory
    that it is of, None where the address was given as a number. It belongs to its Vm: with that closed, only looking
    at it works, and everything else is a ClosedError. The kernel has it as long as a vCPU, a device or a guest_memfd of
    the VM is open, and so long its memory is in use.

    >>> import kvmipa
    >>> with kvmipa.open("emulated") as kvm, kvm.create_vm(40) as vm:
    ...     slot = vm.add_memory(0x4000_0000, kvmipa.GuestMemory(2 << 20))
    ...     slot.move(0x8000_0000)
    ...     slot
    <kvmipa.Memslot 0: 0x80000000..0x801fffff>
    """

    __slots__ = ("_deleted", "_table", "flags", "guest_phys_addr", "memory", "memory_size", "slot_id", "userspace_addr")

    def __init__(self, table: SlotTable, region: MemoryRegion, memory: GuestMemory | None = None) -> None:
        self._table = table
        self._deleted = False
        self.slot_id = region.slot
        self.guest_phys_addr = region.guest_phys_addr
        self.memory_size = region.memory_size
        self.userspace_addr = region.userspace_addr
        self.flags = region.flags
        self.memory = memory

    @property
    def end(self) -> int:
        """The first guest address behind it."""
        return self.guest_phys_addr + self.memory_size

    @property
    def readonly(self) -> bool:
        """Whether the guest's stores are not carried out, but exit as MMIO (KVM_MEM_READONLY)."""
        return bool(self.flags & KVM_MEM_READONLY)

    @property
    def log_dirty(self) -> bool:
        """Whether KVM notes which pages are written (KVM_MEM_LOG_DIRTY_PAGES)."""
        return bool(self.flags & KVM_MEM_LOG_DIRTY_PAGES)

    @property
    def deleted(self) -> bool:
        """Whether the VM no longer has it: it was deleted, or the VM is gone with the last of its descriptors."""
        return self._deleted

    def move(self, guest_phys_addr: int) -> None:
        """Give it another guest address; what the guest has written stays in it.

        Raises what Vm.set_user_memory_region() raises, NoSuchSlotError once deleted; the slot is then where it was.
        """
        self._alive("move it").change(self, guest_phys_addr, self.flags)

    def set_logging(self, on: bool) -> None:
        """Switch dirty logging on or off; a log that was on before is kept.

        Raises SlotMappingError for memory that KVM cannot log, ProtectedSlotError, NoSuchSlotError once deleted.
        """
        flags = self.flags | KVM_MEM_LOG_DIRTY_PAGES if on else self.flags & ~KVM_MEM_LOG_DIRTY_PAGES
        self._alive("switch its dirty logging").change(self, self.guest_phys_addr, flags)

    def delete(self) -> None:
        """Take it from the VM; deleting what is deleted does nothing. Its GuestMemory can be closed then.

        Raises ClosedError where the Vm is closed, and a vCPU, a device or a guest_memfd keeps the slot in the kernel.
        """
        if not self._deleted:
            self._table.delete(self)

    def dirty_bitmap(self) -> bytes:
        """The dirty bitmap as the kernel gives it: a bit for each page, in unsigned longs (KVM_GET_DIRTY_LOG).

        The bits are cleared by this, unless KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2 was enabled: clear_dirty_log() does it
        then. Raises DirtyLogOffError, NoSuchSlotError once deleted.
        """
        return dirty_log.read(self._alive("read its dirty log"), self)

    def dirty_log(self) -> list[int]:
        """The pages that the guest has written, counted from the slot's start; as dirty_bitmap() otherwise."""
        return list(dirty_log.pages_of(self.dirty_bitmap()))

    def clear_dirty_log(self, first_page: int = 0, num_pages: int | None = None, bitmap: bytes | None = None) -> None:
        """Clear dirty bits and start to watch those pages again (KVM_CLEAR_DIRTY_LOG).

        first_page: a multiple of 64. num_pages: a multiple of 64 too, or all that are left (None). bitmap: which of
        these pages, in the form of dirty_bitmap(); None: each of them. Raises DirtyLogRangeError, DirtyLogOffError,
        NoSuchSlotError once deleted, NotSupportedError before Linux 5.0 (for pages that it would take).
        """
        dirty_log.clear(self._alive("clear its dirty log"), self, first_page, num_pages, bitmap)

    def forget(self) -> None:
        """The VM has it no longer; kvmipa's own."""
        self._deleted = True
        if self.memory is not None:
            self.memory.detach(self)
            self.memory = None

    def _alive(self, action: str) -> SlotTable:
        """The table to ask; ClosedError, or NoSuchSlotError where there is nothing to ask about."""
        if self._table.closed:
            raise closed_error("Vm", f"slot {self.slot_id}, to {action}")
        if self._deleted:
            raise errors.NoSuchSlotError(
                errno.ENOENT,
                cause=f"slot {self.slot_id} was deleted",
                asked=action,
                available="the slots in Vm.memslots",
                fix="set the slot again",
            )
        return self._table

    def __repr__(self) -> str:
        """Number, guest addresses, flags and state."""
        words = [
            word
            for word, given in (
                ("readonly", self.readonly),
                ("log_dirty", self.log_dirty),
                ("deleted", self.deleted),
            )
            if given
        ]
        addresses = f"{self.guest_phys_addr:#x}..{self.end - 1:#x}"
        return f"<kvmipa.Memslot {self.slot_id}: {' '.join([addresses, *words])}>"
