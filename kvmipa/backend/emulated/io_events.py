# SPDX-License-Identifier: Apache-2.0
"""Accesses that KVM turns into eventfd signals, or collects: KVM_IOEVENTFD and coalesced MMIO of the emulated kernel.

kernel-device-spec 4.8; virt/kvm/eventfd.c and coalesced_mmio.c. No address is compared with the VM's IPA size.
IoEvents.write() is what a vCPU asks before a write becomes an exit.
"""

from __future__ import annotations

from dataclasses import dataclass
from errno import EEXIST, EINVAL, ENOENT, ENOSPC
from functools import cached_property
from struct import Struct
from typing import TYPE_CHECKING, Final

from kvmipa import abi
from kvmipa.backend.emulated import user_memory
from kvmipa.backend.emulated.eventfds import eventfd
from kvmipa.backend.emulated.io_bus import CoalescedRing, IoBus
from kvmipa.backend.emulated.requests import Request

if TYPE_CHECKING:
    from kvmipa.backend.emulated.eventfds import HeldEventFd
    from kvmipa.backend.emulated.user_memory import Argument
    from kvmipa.backend.emulated.vm import VirtualMachine

_IOEVENTFD: Final = Struct(abi.STRUCTS["ioeventfd"][0])
_ZONE: Final = Struct(abi.STRUCTS["coalesced_mmio_zone"][0])

# include/uapi/linux/kvm.h: KVM_IOEVENTFD_FLAG_*; the names of bits 3 and 4 are those of other architectures' buses.
DATAMATCH: Final = 1 << 0
PIO: Final = 1 << 1
DEASSIGN: Final = 1 << 2
VIRTIO_CCW_NOTIFY: Final = 1 << 3
_KNOWN_FLAGS: Final = 0x1F

# include/linux/kvm_host.h: NR_IOBUS_DEVS, of which ioeventfds are not counted (kvm_io_bus_register_dev).
BUS_DEVICES: Final = 1000

# 0: the length does not matter.
LENGTHS: Final = (0, 1, 2, 4, 8)

_ADDRESSES: Final = 1 << 64
_INT_MAX: Final = (1 << 31) - 1


@dataclass(frozen=True)
class IoEventFd:
    """A write that signals an eventfd. length: bytes, 0 for any; match: None for any value."""

    bus: str
    addr: int
    length: int
    match: int | None

    def collides(self, other: IoEventFd) -> bool:
        """Whether one write could be for both (ioeventfd_check_collision)."""
        if (self.bus, self.addr) != (other.bus, other.addr):
            return False
        if not self.length or not other.length:
            return True
        return self.length == other.length and (None in (self.match, other.match) or self.match == other.match)

    def takes(self, addr: int, size: int, value: int) -> bool:
        """Whether a write signals it (ioeventfd_in_range)."""
        if addr != self.addr:
            return False
        return not self.length or (size == self.length and self.match in {None, value})


@dataclass(frozen=True)
class Zone:
    """Where writes are collected instead of ending KVM_RUN."""

    addr: int
    size: int
    pio: int

    @property
    def length(self) -> int:
        """As the bus has it."""
        return self.size

    def holds(self, addr: int, size: int) -> bool:
        """Whether it has this range in it; the kernel's size is an int here (coalesced_mmio_in_range)."""
        end = addr + size
        return (
            size <= _INT_MAX and end < _ADDRESSES and self.addr <= addr and end <= (self.addr + self.size) % _ADDRESSES
        )


class IoEvents:
    """What is registered in a VM."""

    def __init__(self, vm: VirtualMachine) -> None:
        self._vm = vm
        self.ioeventfds: list[tuple[IoEventFd, HeldEventFd]] = []
        self.zones: list[Zone] = []
        # Of what a guest on arm64 can write to: it has no ports and no channels.
        self.mmio = IoBus()

    @cached_property
    def ring(self) -> CoalescedRing:
        """What writes are collected in."""
        old = not self._vm.behaviour.coalesced_ring_fills_up
        return CoalescedRing(self._vm.profile.page_size, counts_modulo_2_32=old)

    def write(self, addr: int, size: int, data: bytes) -> bool:
        """A guest's write to no memory: whether an eventfd or a zone took it; otherwise it is an exit.

        The VM's lock is held. data: ``size`` bytes, as they are in memory.
        """
        return any(self._take(one, addr, data[:size]) for one in self.mmio.matches(addr, size))

    def _take(self, one: object, addr: int, data: bytes) -> bool:
        if isinstance(one, Zone):
            return one.holds(addr, len(data)) and self.ring.append(addr, data)
        assert isinstance(one, IoEventFd)
        if not one.takes(addr, len(data), int.from_bytes(data, "little")):
            return False
        with self._vm.descriptors.eventfd_lock:
            for registered, held in self.ioeventfds:
                if registered is one:
                    self._vm.eventfds.signal(held)
        return True


def ioeventfd(vm: VirtualMachine, argument: Argument) -> int:
    """KVM_IOEVENTFD; DEASSIGN looks at no flag that it does not know (kvm_ioeventfd)."""
    datamatch, addr, length, fd, flags, *_ = _IOEVENTFD.unpack(user_memory.read(argument, _IOEVENTFD.size))
    bus = "pio" if flags & PIO else "ccw" if flags & VIRTIO_CCW_NOTIFY else "mmio"
    match = datamatch if flags & DATAMATCH else None
    if not flags & DEASSIGN and not _is_assignable(addr, length, flags):
        return -EINVAL
    asked = IoEventFd(bus, addr, length, match)
    return _deassign(vm, asked, fd) if flags & DEASSIGN else _assign(vm, asked, fd)


def _is_assignable(addr: int, length: int, flags: int) -> bool:
    if length not in LENGTHS or addr + length >= _ADDRESSES or flags & ~_KNOWN_FLAGS:
        return False
    return bool(length) or not flags & DATAMATCH


def _assign(vm: VirtualMachine, asked: IoEventFd, fd: int) -> int:
    eventfd(fd)
    if any(asked.collides(other) for other, _ in vm.io_events.ioeventfds):
        return -EEXIST
    if asked.bus != "ccw" and _bus_is_full(vm, pio=asked.bus == "pio"):
        return -ENOSPC
    with vm.descriptors.eventfd_lock:
        vm.io_events.ioeventfds.append((asked, vm.eventfds.hold(fd)))
    if asked.bus == "mmio":
        vm.io_events.mmio.add(asked)
    return 0


def _deassign(vm: VirtualMachine, asked: IoEventFd, fd: int) -> int:
    """An ioeventfd stays when its eventfd is closed: nobody can name it then."""
    identity = eventfd(fd)
    with vm.descriptors.eventfd_lock:
        vm.eventfds.refresh()
        for entry in vm.io_events.ioeventfds:
            if entry[0] == asked and vm.eventfds.is_to(entry[1], fd, identity):
                vm.io_events.ioeventfds.remove(entry)
                vm.io_events.mmio.remove(entry[0])
                return 0
    return -ENOENT


def register_coalesced_mmio(vm: VirtualMachine, argument: Argument) -> int:
    """KVM_REGISTER_COALESCED_MMIO: zones may overlap, wrap or be empty."""
    zone = Zone(*_ZONE.unpack(user_memory.read(argument, _ZONE.size)))
    if zone.pio > 1:
        return -EINVAL
    if _bus_is_full(vm, pio=bool(zone.pio)):
        return -ENOSPC
    vm.io_events.zones.append(zone)
    if not zone.pio:
        vm.io_events.mmio.add(zone)
    return 0


def unregister_coalesced_mmio(vm: VirtualMachine, argument: Argument) -> int:
    """KVM_UNREGISTER_COALESCED_MMIO: every zone that has the range in it goes; none is no error."""
    asked = Zone(*_ZONE.unpack(user_memory.read(argument, _ZONE.size)))
    if asked.pio > 1:
        return -EINVAL
    events = vm.io_events
    for zone in list(events.zones):
        if zone.pio == asked.pio and zone.holds(asked.addr, asked.size):
            events.zones.remove(zone)
            events.mmio.remove(zone)
    return 0


def mmio_bus_is_full(vm: VirtualMachine) -> bool:
    """Whether the MMIO bus has no room for one more device (kvm_io_bus_register_dev).

    On it are zones, redistributors and ITSes; a distributor comes with a run.
    """
    zones = sum(not zone.pio for zone in vm.io_events.zones)
    redistributors = sum(vcpu.frame is not None for vcpu in vm.vcpus)
    return zones + redistributors + sum(its.is_on_bus for its in vm.itses) >= BUS_DEVICES


def _bus_is_full(vm: VirtualMachine, *, pio: bool) -> bool:
    return sum(zone.pio for zone in vm.io_events.zones) >= BUS_DEVICES if pio else mmio_bus_is_full(vm)


# On a VM's descriptor.
VM_REQUESTS: Final[tuple[Request, ...]] = (
    Request(abi.KVM_IOEVENTFD, ioeventfd),
    Request(abi.KVM_REGISTER_COALESCED_MMIO, register_coalesced_mmio),
    Request(abi.KVM_UNREGISTER_COALESCED_MMIO, unregister_coalesced_mmio),
)
