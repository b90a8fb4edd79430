# SPDX-License-Identifier: Apache-2.0
"""The memory slots of a Vm: what the kernel has been told and has accepted, and what keeps the memory mapped."""

from __future__ import annotations

import errno
import struct
from operator import index
from threading import RLock
from typing import TYPE_CHECKING, Final

from kvmipa import errors, memory_causes
from kvmipa._abi_table import (
    KVM_CHECK_EXTENSION,
    KVM_CLEAR_DIRTY_LOG,
    KVM_CREATE_GUEST_MEMFD,
    KVM_GET_DIRTY_LOG,
    KVM_MEM_GUEST_MEMFD,
    KVM_MEM_LOG_DIRTY_PAGES,
    KVM_MEM_READONLY,
    KVM_SET_USER_MEMORY_REGION,
    KVM_SET_USER_MEMORY_REGION2,
    STRUCTS,
)
from kvmipa.handle import Handle
from kvmipa.memory import GuestMemory, Memslot
from kvmipa.memory_causes import Known, Region

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from kvmipa.backend import Backend

_REGION: Final = struct.Struct(STRUCTS["userspace_memory_region"][0])
_REGION2: Final = struct.Struct(STRUCTS["userspace_memory_region2"][0])
_DIRTY_LOG: Final = struct.Struct(STRUCTS["dirty_log"][0])
_CLEAR_DIRTY_LOG: Final = struct.Struct(STRUCTS["clear_dirty_log"][0])
_CREATE_GUEST_MEMFD: Final = struct.Struct(STRUCTS["create_guest_memfd"][0])

_U32: Final = 1 << 32
_U64: Final = 1 << 64
_FIELDS: Final = {
    "slot": _U32,
    "guest_phys_addr": _U64,
    "memory_size": _U64,
    "userspace_addr": _U64,
    "flags": _U32,
    "guest_memfd": _U32,
    "guest_memfd_offset": _U64,
}
_PAD2: Final = (0,) * 14
_WORD_BITS: Final = 64


class GuestMemfd(Handle):
    """Memory of one VM as a file that KVM made (Vm.create_guest_memfd()); map it with GuestMemory(file=...)."""

    kind = "GuestMemfd"

    def __init__(self, backend: Backend, fd: int, size: int, flags: int) -> None:
        super().__init__(backend, fd)
        self.size = size
        self.flags = flags

    def __repr__(self) -> str:
        """Size and state."""
        return f"<kvmipa.GuestMemfd {self.size:#x} bytes {'closed' if self.closed else f'fd={self._fd}'}>"


class SlotTable:
    """The slots of one VM. Whoever keeps the VM alive in the kernel holds it: the Vm, and its vCPUs and devices.

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
        self.fd = fd
        self._backend = backend
        self._ioctl_buffer = backend.ioctl_buffer
        self._page_size = page_size
        self._ipa_bits = ipa_bits
        # The kernel sets slots one after the other as well; this keeps its order and that of the table the same.
        self._lock = RLock()
        self._slots: dict[int, Memslot] = {}
        self._lowest_free = 0
        self._holders = 1

    # ------------------------------------------------------------------------------------------ lifetime

    def hold(self) -> None:
        """Keep the memory mapped: a descriptor was made that keeps the VM alive in the kernel."""
        with self._lock:
            self._holders += 1

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

    def set_region(self, region: Sequence[int], memory: GuestMemory | None = None) -> None:
        """KVM_SET_USER_MEMORY_REGION: the first five fields of a Region."""
        slot, gpa, size, hva, flags = region
        try:
            argument = _REGION.pack(slot, flags, gpa, size, hva)
        except struct.error:
            raise _wrong_number(region) from None
        self._send(KVM_SET_USER_MEMORY_REGION, bytearray(argument), region, memory)

    def set_region2(self, region: Region) -> None:
        """KVM_SET_USER_MEMORY_REGION2."""
        slot, gpa, size, hva, flags, memfd, offset = region
        try:
            argument = _REGION2.pack(slot, flags, gpa, size, hva, offset, memfd, 0, *_PAD2)
        except struct.error:
            raise _wrong_number(region) from None
        self._send(KVM_SET_USER_MEMORY_REGION2, bytearray(argument), region, None)

    def _send(self, request: int, argument: bytearray, region: Sequence[int], memory: GuestMemory | None) -> None:
        with self._lock:
            result = self._ioctl_buffer(self.fd, request, argument)
            if result >= 0:
                self._note(region, memory)
                return
        name = "KVM_SET_USER_MEMORY_REGION" + ("2" if request == KVM_SET_USER_MEMORY_REGION2 else "")
        if self.fd < 0:
            raise memory_causes.closed_vm(name)
        raise memory_causes.region_error(-result, name, Region(*map(index, region)), self._facts())

    def _note(self, region: Sequence[int], memory: GuestMemory | None) -> None:
        """The kernel has accepted it."""
        known = self._slots.get(region[0])
        if not region[2]:
            if known is not None:
                del self._slots[known.slot_id]
                self._lowest_free = min(self._lowest_free, known.slot_id)
                known.forget()
        elif known is None:
            made = Memslot(self, Region(*map(index, region)), memory)
            self._slots[made.slot_id] = made
        else:
            known.guest_phys_addr, known.flags = index(region[1]), index(region[4])

    def _check_extension(self, cap: int) -> int:
        return max(self._backend.ioctl(self.fd, KVM_CHECK_EXTENSION, cap), 0)

    def _facts(self) -> Known:
        profile = self._backend.profile
        return Known(
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
                self.set_region((number, guest_phys_addr, size, memory.address + offset, flags), memory)
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
        region = Region(slot.slot_id, guest_phys_addr, slot.memory_size, slot.userspace_addr, flags)
        if flags & KVM_MEM_GUEST_MEMFD:
            self.set_region2(region)
        else:
            self.set_region(region[:5])

    def delete(self, slot: Memslot) -> None:
        """Delete a slot, if it is still this one that has its number."""
        with self._lock:
            if self._slots.get(slot.slot_id) is slot:
                self.set_region((slot.slot_id, 0, 0, 0, 0))

    # ------------------------------------------------------------------------------------------ dirty log

    def dirty_bitmap(self, slot: Memslot) -> bytes:
        """KVM_GET_DIRTY_LOG."""
        bitmap = bytearray(-(-self._pages(slot) // _WORD_BITS) * 8)
        argument = _DIRTY_LOG.pack(slot.slot_id, 0, _address_of(bitmap))
        self._ask(KVM_GET_DIRTY_LOG, "KVM_GET_DIRTY_LOG", argument, slot, f"the dirty log of {slot!r}")
        return bytes(bitmap)

    def clear_dirty_log(self, slot: Memslot, first_page: int, num_pages: int | None, bitmap: bytes | None) -> None:
        """KVM_CLEAR_DIRTY_LOG."""
        first_page = index(first_page)
        num_pages = max(self._pages(slot) - first_page, 0) if num_pages is None else index(num_pages)
        if not 0 <= first_page < _U64 or not 0 <= num_pages < _U32:
            raise OverflowError(f"first_page={first_page} and num_pages={num_pages} have 64 and 32 bits")
        length = -(-num_pages // _WORD_BITS) * 8
        if bitmap is not None and len(bitmap) < length:
            raise ValueError(f"the bitmap of {num_pages} pages has {length} bytes, not {len(bitmap)}")
        # More pages than the slot has are refused before the bitmap is looked at.
        words = bytearray(b"\xff" * min(length, self._pages(slot) // 8 + 8) if bitmap is None else bitmap)
        argument = _CLEAR_DIRTY_LOG.pack(slot.slot_id, num_pages, first_page, _address_of(words) if words else 0)
        asked = f"clearing {num_pages} pages from {first_page} on in the dirty log of {slot!r}"
        self._ask(KVM_CLEAR_DIRTY_LOG, "KVM_CLEAR_DIRTY_LOG", argument, slot, asked)

    def _pages(self, slot: Memslot) -> int:
        return slot.memory_size // self._page_size

    def _ask(self, request: int, name: str, argument: bytes, slot: Memslot, asked: str) -> None:
        result = self._ioctl_buffer(self.fd, request, bytearray(argument))
        if result >= 0:
            return
        if self.fd < 0:
            raise memory_causes.closed_vm(name)
        raise memory_causes.dirty_log_error(-result, name, slot, self._facts(), asked)

    # ------------------------------------------------------------------------------------------ guest_memfd

    def create_guest_memfd(self, size: int, flags: int) -> GuestMemfd:
        """KVM_CREATE_GUEST_MEMFD."""
        size, flags = index(size), index(flags)
        if not 0 <= size < _U64 or not 0 <= flags < _U64:
            raise OverflowError(f"size={size} and flags={flags} have 64 bits")
        argument = bytearray(_CREATE_GUEST_MEMFD.pack(size, flags, *(0,) * 6))
        fd = self._ioctl_buffer(self.fd, KVM_CREATE_GUEST_MEMFD, argument)
        if fd >= 0:
            return GuestMemfd(self._backend, fd, size, flags)
        if self.fd < 0:
            raise memory_causes.closed_vm("KVM_CREATE_GUEST_MEMFD")
        raise memory_causes.guest_memfd_error(-fd, size, flags, self._facts())


def region_flags(*, readonly: bool, log_dirty: bool) -> int:
    """KVM_MEM_*."""
    return (KVM_MEM_READONLY if readonly else 0) | (KVM_MEM_LOG_DIRTY_PAGES if log_dirty else 0)


def _wrong_number(values: Sequence[object]) -> Exception:
    """Which value struct.pack() did not take: TypeError for what is no int, OverflowError for what does not fit."""
    for (name, end), value in zip(_FIELDS.items(), values, strict=False):
        try:
            number = index(value)  # type: ignore[arg-type]
        except TypeError:
            return TypeError(f"{name} is an int, not {type(value).__name__}")
        if not 0 <= number < end:
            return OverflowError(f"{name}={number} does not fit {end.bit_length() - 1} bits")
    return TypeError(f"not integers: {values!r}")


def _address_of(buffer: bytearray) -> int:
    import ctypes

    return ctypes.addressof((ctypes.c_char * len(buffer)).from_buffer(buffer))
