# SPDX-License-Identifier: Apache-2.0
"""GuestMemfd: the descriptor of memory that KVM made for one VM."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from kvmipa._abi_table import KVM_CREATE_GUEST_MEMFD
from kvmipa.causes import of_vm
from kvmipa.causes.guest_memfd import guest_memfd_error
from kvmipa.handle import Handle
from kvmipa.packing import PackedStruct

if TYPE_CHECKING:
    from kvmipa.backend import Backend
    from kvmipa.slots import SlotTable

_CREATE: Final = PackedStruct("create_guest_memfd")


class GuestMemfd(Handle):
    """Memory of one VM as a file that KVM made (Vm.create_guest_memfd()); map it with GuestMemory(file=...).

    size: bytes. flags: as asked for. Slots whose memory is from it lose it with close(): a guest's accesses fail with
    EFAULT from then on, unless a mapping of the process's keeps the file (virt/kvm/guest_memfd.c).

    >>> import kvmipa
    >>> with kvmipa.open("emulated", host=kvmipa.HostProfile("7.3")) as kvm, kvm.create_vm(40) as vm:
    ...     with vm.create_guest_memfd(1 << 20, flags=3) as memfd:
    ...         vm.set_user_memory_region2(0, 0, memfd.size, 0, 4, guest_memfd=memfd.fileno())
    ...         memfd.flags, memfd.closed
    (3, False)
    """

    kind = "GuestMemfd"

    def __init__(self, backend: Backend, fd: int, size: int, flags: int) -> None:
        super().__init__(backend, fd)
        self.size = size
        self.flags = flags

    def __repr__(self) -> str:
        """Size and state."""
        return f"<kvmipa.GuestMemfd {self.size:#x} bytes {'closed' if self.closed else f'fd={self._fd}'}>"


def create(table: SlotTable, size: int, flags: int) -> GuestMemfd:
    """KVM_CREATE_GUEST_MEMFD on the VM of these slots."""
    fd = table.request(KVM_CREATE_GUEST_MEMFD, "KVM_CREATE_GUEST_MEMFD", _CREATE.pack(size, flags))
    if fd < 0:
        raise of_vm(guest_memfd_error(-fd, size, flags, table.facts()), table.died_of)
    made = GuestMemfd(table.backend, fd, size, flags)
    # The file refers to the VM (kvm_get_kvm in __kvm_gmem_create), so that its slots stay.
    made.keep(table)
    return made
