# SPDX-License-Identifier: Apache-2.0
"""guest_memfd of the emulated kernel (virt/kvm/guest_memfd.c; kernel-device-spec 4.9): Linux 7.3 on arm64."""

from __future__ import annotations

import errno
import os
from contextlib import suppress
from errno import EBADF, EEXIST, EINVAL
from itertools import count
from pathlib import Path
from struct import Struct
from typing import TYPE_CHECKING, Final

from kvmipa._abi_table import (
    GUEST_MEMFD_FLAG_INIT_SHARED,
    GUEST_MEMFD_FLAG_MMAP,
    KVM_CAP_GUEST_MEMFD,
    KVM_CAP_GUEST_MEMFD_FLAGS,
    KVM_CREATE_GUEST_MEMFD,
    STRUCTS,
)
from kvmipa.backend.emulated import address_space, user_memory
from kvmipa.backend.emulated.descriptors import is_open
from kvmipa.backend.emulated.requests import RefusedError, Request

if TYPE_CHECKING:
    from kvmipa.backend.emulated.descriptors import Descriptors
    from kvmipa.backend.emulated.memslots import Slot
    from kvmipa.backend.emulated.user_memory import Argument
    from kvmipa.backend.emulated.vm import VirtualMachine

_CREATE: Final = Struct(STRUCTS["create_guest_memfd"][0])

# Sizes and offsets are loff_t.
_LARGEST: Final = (1 << 63) - 1
_ADDRESSES: Final = 1 << 64

_NUMBERS: Final = count(1)
# As Linux lists the process's files of memory.
_NAME: Final = "kvm-gmem"
_LISTED: Final = f"/memfd:{_NAME}"
_DESCRIPTORS: Final = Path("/proc/self/fd")


class GuestMemfd:
    """An open guest_memfd: memory of one VM, whose ranges slots are bound to. size: bytes.

    number: its own among all that there were. inode: of the process's file that is behind its descriptor; None where
    that is the null device.
    """

    def __init__(self, vm: VirtualMachine, size: int, flags: int, inode: int | None) -> None:
        self.vm = vm
        self.size = size
        self.flags = flags
        self.number = next(_NUMBERS)
        self._inode = inode
        self._is_open = True
        self._is_alive = True
        # First byte and the byte behind the last one, of each slot that is bound.
        self._bindings: dict[Slot, tuple[int, int]] = {}

    def ioctl(self, _request: int, _argument: Argument, /) -> int:
        """It knows none: ENOTTY, as a file without an ioctl handler."""
        return -errno.ENOTTY

    @property
    def can_be_mapped(self) -> bool:
        """Whether user space may mmap it, and so a slot of an arm64 VM may have its memory from it."""
        return bool(self.flags & GUEST_MEMFD_FLAG_MMAP)

    def is_bound(self, start: int, size: int) -> bool:
        """Whether a range of bytes is already some slot's."""
        return any(first < start + size and start < end for first, end in self._bindings.values())

    def bind(self, slot: Slot, start: int) -> None:
        """Give a range to a slot."""
        self._bindings[slot] = (start, start + slot.memory_size)

    def offset_of(self, slot: Slot) -> int:
        """Where the memory of a slot starts in it, in bytes."""
        return self._bindings[slot][0]

    def unbind(self, slot: Slot) -> None:
        """Take it back."""
        self._bindings.pop(slot, None)

    def close(self) -> None:
        """The descriptor is closed."""
        with self.vm.lock:
            self._is_open = False
            self.is_alive()

    def is_alive(self) -> bool:
        """Whether slots still have their memory from it: the last reference to the file is not gone.

        Mappings of the process's are references as well; nobody tells when the last of them goes, so that it is seen
        at the next access.
        """
        if self._is_alive and not self._is_open and not _is_held(self._inode):
            self._release()
        return self._is_alive

    def _release(self) -> None:
        """Slots lose their memory, and what they had mapped (kvm_gmem_release)."""
        self._is_alive = False
        listener = self.vm.memslots.listener
        for slot in self._bindings:
            slot.guest_memfd = None
            if listener is not None:
                listener.slot_gone(slot)
        self._bindings.clear()


def create_guest_memfd(vm: VirtualMachine, argument: Argument) -> int:
    """KVM_CREATE_GUEST_MEMFD: a descriptor."""
    size, flags, *_ = _CREATE.unpack(user_memory.read(argument, _CREATE.size))
    if flags & ~vm.answers.get(KVM_CAP_GUEST_MEMFD_FLAGS, 0):
        return -EINVAL
    if not 0 < size <= _LARGEST or size % vm.profile.page_size:
        return -EINVAL
    fd = _open(vm.descriptors, size, flags)
    if fd < 0:
        return fd
    file = GuestMemfd(vm, size, flags, os.fstat(fd).st_ino if _is_of_memory(flags) else None)
    return vm.descriptors.install(fd, file, on_close=file.close)


def _is_of_memory(flags: int) -> bool:
    """Whether a descriptor's file can be mapped, and so is one of memory in this process too."""
    return bool(flags & GUEST_MEMFD_FLAG_MMAP) and hasattr(os, "memfd_create")


def _open(descriptors: Descriptors, size: int, flags: int) -> int:
    """A descriptor that behaves in mmap as the kernel's: ENODEV without MMAP, SIGBUS where memory is not shared."""
    if not _is_of_memory(flags):
        return descriptors.reserve()
    try:
        fd = os.memfd_create(_NAME, os.MFD_CLOEXEC)
    except OSError as failure:
        return -(failure.errno or errno.ENOMEM)
    if flags & GUEST_MEMFD_FLAG_INIT_SHARED:
        try:
            os.ftruncate(fd, size)
        except OSError as failure:
            os.close(fd)
            return -(failure.errno or errno.ENOMEM)
    return fd


def look_up(vm: VirtualMachine, fd: int, offset: int, size: int) -> GuestMemfd:
    """The guest_memfd of a slot, or why it cannot be (kvm_gmem_bind; step 18 of kernel-ipa-spec 4.2)."""
    file = vm.descriptors.get(fd)
    if file is None and not is_open(fd):
        raise RefusedError(EBADF)
    if not isinstance(file, GuestMemfd) or file.vm is not vm or offset + size > file.size:
        raise RefusedError(EINVAL)
    return file


def check_free(file: GuestMemfd, offset: int, size: int) -> None:
    """Step 23 of kernel-ipa-spec 4.2."""
    if file.is_bound(offset, size):
        raise RefusedError(EEXIST)


def _is_held(inode: int | None) -> bool:
    """Whether the process still has the file of a descriptor that it closed: mapped, or by another descriptor."""
    if inode is None:
        return False
    if any(found.inode == inode and found.path.startswith(_LISTED) for found in address_space.mappings(0, _ADDRESSES)):
        return True
    with suppress(OSError):
        return any(_is_descriptor_of(path, inode) for path in _DESCRIPTORS.iterdir())
    return False


def _is_descriptor_of(path: Path, inode: int) -> bool:
    # The descriptor that lists the others is closed by now.
    with suppress(OSError):
        return path.stat().st_ino == inode and str(path.readlink()).startswith(_LISTED)
    return False


# On a VM's descriptor.
VM_REQUESTS: Final[tuple[Request, ...]] = (
    Request(KVM_CREATE_GUEST_MEMFD, create_guest_memfd, needs=KVM_CAP_GUEST_MEMFD),
)
