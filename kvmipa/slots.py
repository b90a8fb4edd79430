# SPDX-License-Identifier: Apache-2.0
"""The memory slots of a Vm: what the kernel has been told and has accepted, and what keeps the memory mapped."""

from __future__ import annotations

import errno
from operator import index
from threading import RLock
from typing import TYPE_CHECKING, Final

from kvmipa import errors
from kvmipa._abi_table import (
    KVM_CHECK_EXTENSION,
    KVM_MEM_GUEST_MEMFD,
    KVM_MEM_LOG_DIRTY_PAGES,
    KVM_MEM_READONLY,
    KVM_SET_USER_MEMORY_REGION,
    KVM_SET_USER_MEMORY_REGION2,
)
from kvmipa.causes import closed_error, of_vm
from kvmipa.causes.memory import VmFacts
from kvmipa.causes.slots import region_error
from kvmipa.memory import GuestMemory
from kvmipa.memory_region import MemoryRegion
from kvmipa.memslot import Memslot
from kvmipa.packing import PackedStruct

if TYPE_CHECKING:
    from collections.abc import Callable

    from kvmipa.backend import Backend

_REGION: Final = PackedStruct("userspace_memory_region")
_REGION2: Final = PackedStruct("userspace_memory_region2")

# The descriptor of a VM that is closed.
_CLOSED: Final = -1


class SlotTable:
    """The slots of one VM. Whoever keeps the VM alive in the kernel holds it: the Vm, its vCPUs, devices, guest_memfds.

    What is in it is what the kernel has accepted; a request that the kernel refuses changes nothing here.
    """

    def __init__(
        self,
        backend: Backend,
        fd: int,
        *,
        page_size: int,
        ipa_bits: Callable[[], int],
    ) -> None:
        self.backend = backend
        self._fd = fd
        self._ioctl_buffer = backend.ioctl_buffer
        self._page_size = page_size
        self._ipa_bits = ipa_bits
        # The kernel sets slots one after the other as well; this keeps its order and that of the table the same.
        self._lock = RLock()
        self._slots: dict[int, Memslot] = {}
        self._lowest_free = 0
        self._holders = 1
        # For all who hold it.
        self.died_of: str | None = None

    # ------------------------------------------------------------------------------------------ lifetime

    def hold(self) -> None:
        """Keep the memory mapped: a descriptor was made that keeps the VM alive in the kernel."""
        with self._lock:
            self._holders += 1

    @property
    def closed(self) -> bool:
        """Whether the Vm is closed: nothing can be asked of the slots, which a vCPU may still keep."""
        return self._fd == _CLOSED

    def disconnect(self) -> None:
        """The Vm is about to close its descriptor: whoever gets the number next is sent no request for this VM."""
        with self._lock:
            self._fd = _CLOSED

    def release(self) -> None:
        """That descriptor is closed; with the last one the VM is gone, and the memory is no longer used."""
        with self._lock:
            self._holders -= 1
            if self._holders:
                return
            for slot in self._slots.values():
                slot.forget()
            self._slots.clear()

    def known(self) -> dict[int, Memslot]:
        """Number -> slot, in the order of guest addresses."""
        with self._lock:
            return {slot.slot_id: slot for slot in sorted(self._slots.values(), key=lambda slot: slot.guest_phys_addr)}

    # ------------------------------------------------------------------------------------------ setting slots

    def request(self, request: int, name: str, argument: bytearray) -> int:
        """Ask the kernel: its result or -errno. ClosedError once the Vm is closed."""
        with self._lock:
            if self._fd == _CLOSED:
                raise closed_error("Vm", name)
            return self._ioctl_buffer(self._fd, request, argument)

    def set_region(self, region: MemoryRegion, memory: GuestMemory | None = None) -> None:
        """KVM_SET_USER_MEMORY_REGION, which has no guest_memfd."""
        slot, gpa, size, hva, flags, _, _ = region
        argument = _REGION.pack(slot, flags, gpa, size, hva)
        self._send(KVM_SET_USER_MEMORY_REGION, "KVM_SET_USER_MEMORY_REGION", argument, region, memory)

    def set_region2(self, region: MemoryRegion) -> None:
        """KVM_SET_USER_MEMORY_REGION2."""
        slot, gpa, size, hva, flags, memfd, offset = region
        argument = _REGION2.pack(slot, flags, gpa, size, hva, offset, memfd)
        self._send(KVM_SET_USER_MEMORY_REGION2, "KVM_SET_USER_MEMORY_REGION2", argument, region, None)

    def _send(
        self, request: int, name: str, argument: bytearray, region: MemoryRegion, memory: GuestMemory | None
    ) -> None:
        with self._lock:
            result = self.request(request, name, argument)
            if result >= 0:
                self._note(region, memory)
                return
        raise of_vm(region_error(-result, name, MemoryRegion(*map(index, region)), self.facts()), self.died_of)

    def _note(self, region: MemoryRegion, memory: GuestMemory | None) -> None:
        """The kernel has accepted it."""
        known = self._slots.get(region.slot)
        if not region.memory_size:
            if known is not None:
                del self._slots[known.slot_id]
                self._lowest_free = min(self._lowest_free, known.slot_id)
                known.forget()
        elif known is None:
            made = Memslot(self, MemoryRegion(*map(index, region)), memory)
            self._slots[made.slot_id] = made
        else:
            known.guest_phys_addr, known.flags = index(region.guest_phys_addr), index(region.flags)

    def _check_extension(self, cap: int) -> int:
        with self._lock:
            return max(self.backend.ioctl(self._fd, KVM_CHECK_EXTENSION, cap), 0)

    def facts(self) -> VmFacts:
        """What is known when a request failed."""
        profile = self.backend.profile
        return VmFacts(
            tuple(self.known().values()),
            self._page_size,
            profile.config_va_bits if profile is not None else None,
            self._ipa_bits,
            self._check_extension,
        )

    # ------------------------------------------------------------------------------------------ GuestMemory

    def add(
        self,
        guest_phys_addr: int,
        memory: GuestMemory,
        *,
        slot: int | None,
        flags: int,
        offset: int,
        size: int | None,
    ) -> Memslot:
        """Vm.add_memory()."""
        if not isinstance(memory, GuestMemory):
            raise TypeError(
                f"memory is a GuestMemory, not {type(memory).__name__}; Vm.set_user_memory_region() takes addresses"
            )
        offset = index(offset)
        size = memory.size - offset if size is None else index(size)
        if offset < 0 or size <= 0 or offset + size > memory.size:
            raise errors.GuestMemorySizeError(
                errno.EINVAL,
                cause="the piece is not within the memory",
                asked=f"{size:#x} bytes from {offset:#x} on",
                available=f"{memory.size:#x} bytes",
                fix="name a piece of it",
            )
        user = object()
        # Before the kernel is asked: nobody closes it in between.
        memory.attach(user)
        try:
            with self._lock:
                number = self._free_number() if slot is None else index(slot)
                if number in self._slots:
                    raise self._number_in_use(number)
                self.set_region(MemoryRegion(number, guest_phys_addr, size, memory.address + offset, flags), memory)
                made = self._slots[number]
                memory.attach(made)
        finally:
            memory.detach(user)
        return made

    def _free_number(self) -> int:
        number = self._lowest_free
        while number in self._slots:
            number += 1
        self._lowest_free = number
        return number

    def _number_in_use(self, number: int) -> errors.SlotIdError:
        return errors.SlotIdError(
            errno.EEXIST,
            cause=f"slot {number} is in use: {self._slots[number]!r}",
            asked=f"new memory as slot {number}",
            available=f"slot {self._free_number()}, the lowest that is free",
            fix="leave slot out, or delete that slot first",
        )

    def change(self, slot: Memslot, guest_phys_addr: int, flags: int) -> None:
        """Move a slot, or switch its dirty logging."""
        region = MemoryRegion(slot.slot_id, guest_phys_addr, slot.memory_size, slot.userspace_addr, flags)
        if flags & KVM_MEM_GUEST_MEMFD:
            self.set_region2(region)
        else:
            self.set_region(region)

    def pages(self, slot: Memslot) -> int:
        """How many pages of the host a slot has."""
        return slot.memory_size // self._page_size

    def delete(self, slot: Memslot) -> None:
        """Delete a slot, if it is still this one that has its number."""
        with self._lock:
            if self._slots.get(slot.slot_id) is slot:
                self.set_region(MemoryRegion(slot.slot_id, 0, 0, 0))


def region_flags(*, readonly: bool, log_dirty: bool) -> int:
    """KVM_MEM_*."""
    return (KVM_MEM_READONLY if readonly else 0) | (KVM_MEM_LOG_DIRTY_PAGES if log_dirty else 0)
