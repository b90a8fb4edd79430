# SPDX-License-Identifier: Apache-2.0
"""Writes that KVM collects instead of ending KVM_RUN: zones, and the ring that a VM's vCPUs share.

kernel-device-spec 4.8; virt/kvm/coalesced_mmio.c.
"""

from __future__ import annotations

from struct import Struct
from typing import TYPE_CHECKING, Final, NamedTuple

from kvmipa import abi
from kvmipa.causes.coalesced_mmio import not_mapped_error, zone_error
from kvmipa.ordering import fence
from kvmipa.packing import PackedStruct

if TYPE_CHECKING:
    from kvmipa.asking import Ask
    from kvmipa.backend import Backend

_ZONE: Final = PackedStruct("coalesced_mmio_zone")
_INDICES: Final = Struct(abi.STRUCTS["coalesced_mmio_ring"][0])
_FIRST: Final = Struct("=I")
_ENTRY: Final = Struct(abi.STRUCTS["coalesced_mmio"][0])

# Of struct kvm_coalesced_mmio: phys_addr, len and pio come before the data.
_DATA_AT: Final = 16


class CoalescedWrite(NamedTuple):
    """A guest's write that KVM collected: the guest address, and the bytes as they were written.

    >>> CoalescedWrite(0x900_0000, b"k").value
    107
    """

    phys_addr: int
    data: bytes

    @property
    def value(self) -> int:
        """The bytes as a number."""
        return int.from_bytes(self.data, "little")


def capacity(page_size: int) -> int:
    """How many entries a ring of one page has (KVM_COALESCED_MMIO_MAX); one of them always stays free.

    >>> capacity(4096)
    170
    """
    return (page_size - _INDICES.size) // _ENTRY.size


def drain(ring: memoryview) -> list[CoalescedWrite]:
    """Take all writes out of a ring, the page that begins with its indices."""
    most = capacity(len(ring))
    first, last = _INDICES.unpack_from(ring)
    if first >= most or last >= most:
        # Whatever else writes to the page: the kernel itself goes no further then (coalesced_mmio_write).
        return []
    # Entries are there before ``last`` says so (smp_wmb in coalesced_mmio_write), and are read before ``first`` gives
    # them up.
    fence()
    found = [_entry(ring, (first + at) % most) for at in range((last - first) % most)]
    fence()
    _FIRST.pack_into(ring, 0, last)
    return found


def _entry(ring: memoryview, position: int) -> CoalescedWrite:
    at = _INDICES.size + position * _ENTRY.size
    address, length, *_ = _ENTRY.unpack_from(ring, at)
    return CoalescedWrite(address, bytes(ring[at + _DATA_AT : at + _DATA_AT + min(length, 8)]))


def register(ask: Ask, guest_phys_addr: int, size: int) -> None:
    """KVM_REGISTER_COALESCED_MMIO."""
    _request(ask, "KVM_REGISTER_COALESCED_MMIO", abi.KVM_REGISTER_COALESCED_MMIO, guest_phys_addr, size)


def unregister(ask: Ask, guest_phys_addr: int, size: int) -> None:
    """KVM_UNREGISTER_COALESCED_MMIO."""
    _request(ask, "KVM_UNREGISTER_COALESCED_MMIO", abi.KVM_UNREGISTER_COALESCED_MMIO, guest_phys_addr, size)


def _request(ask: Ask, name: str, request: int, guest_phys_addr: int, size: int) -> None:
    result = ask(request, _ZONE.pack(guest_phys_addr, size, 0))
    if result < 0:
        raise zone_error(-result, name, guest_phys_addr, size)


def map_ring(backend: Backend, fd: int, page_size: int) -> memoryview:
    """The ring of a VM, by the descriptor of any of its vCPUs."""
    found = backend.mmap(fd, page_size, abi.KVM_COALESCED_MMIO_PAGE_OFFSET * page_size)
    if isinstance(found, int):
        raise not_mapped_error(-found)
    return found
