# SPDX-License-Identifier: Apache-2.0
"""Interrupts, irqfd and ioeventfd, routing and MSI, coalesced MMIO (kernel-device-spec 4.8)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from ci.lab.trace_list.devices import ADDR, CTRL, DIST, ITS, ITS_ADDR, NR_IRQS, REDIST, V3, address
from ci.lab.trace_list.making import (
    BAD_POINTERS,
    U64,
    Host,
    begin,
    check,
    device,
    set_attr,
    vcpu,
)
from kvmipa import abi
from kvmipa.trace import Bytes, Close, EventFd, Ioctl, struct, u32

if TYPE_CHECKING:
    from ci.lab.trace_list.making import Operations
    from kvmipa.trace.values import Value

LIM: Final = 1 << 36
# States of the VM's interrupt controller.
_STATES: Final = ("none", "created", "initialised")


def operations(host: Host) -> Operations:
    """All of them."""
    for state in _STATES:
        yield from _line(state)
        yield from _irqfd(state)
        yield from _msi(state)
        yield from _routing(state)
    yield from _ioeventfd(host)
    yield from _coalesced(host)


def _controller(name: str, state: str) -> Operations:
    yield from begin(f"interrupts: {name}, vGIC: {state}")
    yield vcpu(0)
    yield vcpu(2)
    if state == "none":
        return
    yield device(V3, "gic0")
    yield set_attr("gic0", NR_IRQS, 0, u32(96))
    yield address(DIST, 0x800_0000)
    yield address(REDIST, 0x80A_0000)
    if state == "initialised":
        yield set_attr("gic0", CTRL, 0)


def irq_line(irq: int, level: int, request: str = "KVM_IRQ_LINE") -> Ioctl:
    """KVM_IRQ_LINE or KVM_IRQ_LINE_STATUS."""
    return Ioctl("vm0", request, struct("irq_level", irq=irq, level=level))


def irq(kind: int, number: int, index: int = 0, high: int = 0) -> int:
    """The number that names an interrupt."""
    return high << 28 | kind << 24 | index << 16 | number


def _line(state: str) -> Operations:
    yield from _controller("lines", state)
    for cap in (abi.KVM_CAP_IRQCHIP, abi.KVM_CAP_ARM_IRQ_LINE_LAYOUT_2):
        yield check(cap)
    for kind in (0, 1, 2, 3, 15):
        for number in (0, 1, 2, 15, 16, 27, 30, 31, 32, 33, 95, 96, 127, 1019, 1020, 8192, 0xFFFF):
            yield irq_line(irq(kind, number), 1)
        for index, high in ((1, 0), (2, 0), (3, 0), (255, 0), (0, 1), (2, 15)):
            for number in (0, 20, 40):
                yield irq_line(irq(kind, number, index, high), 1)
    for level in (0, 2, 0xFFFF_FFFF):
        yield irq_line(irq(1, 40), level)
        yield irq_line(irq(1, 40), level, "KVM_IRQ_LINE_STATUS")
    yield irq_line(irq(2, 20), 1, "KVM_IRQ_LINE_STATUS")
    yield irq_line(irq(1, 31), 1, "KVM_IRQ_LINE_STATUS")
    for where in BAD_POINTERS:
        for request in ("KVM_IRQ_LINE", "KVM_IRQ_LINE_STATUS"):
            yield Ioctl("vm0", request, where)


def irqfd(fd: Value, gsi: int, flags: int = 0, resample: Value = 0, pad: tuple[int, ...] = ()) -> Ioctl:
    """KVM_IRQFD."""
    fields = struct("irqfd", fd=fd, gsi=gsi, flags=flags, resamplefd=resample, pad=list(pad))
    return Ioctl("vm0", "KVM_IRQFD", fields)


def _irqfd(state: str) -> Operations:
    yield from _controller("irqfd", state)
    for number in range(4):
        yield EventFd(f"eventfd{number}")
    for cap in (abi.KVM_CAP_IRQFD, abi.KVM_CAP_IRQFD_RESAMPLE):
        yield check(cap)
    for where in BAD_POINTERS:
        yield Ioctl("vm0", "KVM_IRQFD", where)
    for flags in (4, 8, 1 << 31, 0xFFFF_FFFC):
        yield irqfd("eventfd0", 8, flags)
    for fd in ("closed", "vm0", "kvm", "vcpu0", 0xFFFF_FFFF):
        yield irqfd(fd, 8)
        yield irqfd(fd, 8, 1)
        yield irqfd("eventfd0", 8, 2, fd)
    yield irqfd("eventfd0", 8, 1)
    yield irqfd("eventfd0", 8)
    yield irqfd("eventfd0", 8)
    yield irqfd("eventfd0", 9)
    yield irqfd("eventfd1", 8)
    yield irqfd("eventfd0", 9, 1)
    yield irqfd("eventfd0", 8, 1)
    yield irqfd("eventfd0", 8, 1)
    yield irqfd("eventfd0", 5000)
    yield irqfd("eventfd2", 0xFFFF_FFFF)
    yield irqfd("eventfd3", 10, 2, "eventfd2")
    yield irqfd("eventfd3", 10, 3, "eventfd2")
    yield irqfd("eventfd3", 10, 3)
    yield irqfd("eventfd3", 10, pad=(1, 2, 3))
    yield Close("eventfd3")
    yield irqfd("eventfd3", 10)


def msi(low: int, high: int = 0, data: int = 0, flags: int = 0, devid: int = 0, *, pad: tuple[int, ...] = ()) -> Ioctl:
    """KVM_SIGNAL_MSI."""
    fields = struct(
        "msi", address_lo=low & 0xFFFF_FFFF, address_hi=high, data=data, flags=flags, devid=devid, pad=list(pad)
    )
    return Ioctl("vm0", "KVM_SIGNAL_MSI", fields)


def _msi(state: str) -> Operations:
    yield from _controller("MSI", state)
    yield check(abi.KVM_CAP_SIGNAL_MSI)
    yield check(abi.KVM_CAP_MSI_DEVID)
    for its in (False, True):
        if its:
            yield device(ITS, "its0")
            yield check(abi.KVM_CAP_MSI_DEVID)
            yield msi(0x810_0040, flags=1)
            yield address(ITS_ADDR, 0x810_0000, "its0")
        for flags in (0, 1, 2, 3, 1 << 31):
            yield msi(0x811_0040, flags=flags)
        yield msi(0x811_0000, flags=1)
        yield msi(0x810_0040, flags=1)
        yield msi(0x811_0040, 1, flags=1)
        yield msi(0x811_0040, 0xFFFF_FFFF, 7, flags=1, devid=3)
        yield msi(0x811_0040, flags=1, pad=(1,))
        for where in BAD_POINTERS:
            yield Ioctl("vm0", "KVM_SIGNAL_MSI", where)


def routing(*entries: tuple[int, int, int, list[Value]], count: int | None = None, flags: int = 0) -> Ioctl:
    """KVM_SET_GSI_ROUTING: entries of gsi, type, flags and the union's words."""
    header = struct("irq_routing", nr=len(entries) if count is None else count, flags=flags)
    rows = (struct("irq_routing_entry", gsi=gsi, type=kind, flags=bits, u=u) for gsi, kind, bits, u in entries)
    return Ioctl("vm0", "KVM_SET_GSI_ROUTING", (header, *rows))


def _routing(state: str) -> Operations:
    yield from _controller("routing", state)
    yield check(abi.KVM_CAP_IRQ_ROUTING)
    yield routing()
    yield routing(flags=1)
    yield routing((0, 1, 0, [0, 0]))
    yield routing((0, 1, 0, [0, 0]), flags=1)
    yield routing((0, 1, 0, [0, 0]), (0, 1, 0, [0, 1]))
    yield routing((0, 1, 0, [0, 0]), (0, 2, 0, [0, 0, 0]))
    yield routing((0, 2, 0, [0, 0]), (0, 2, 0, [0, 0, 0]))
    yield routing((0, 1, 0, [0, 5]), (1, 1, 0, [0, 5]))
    for gsi in (4094, 4095, 4096, 1 << 31, 0xFFFF_FFFF):
        yield routing((gsi, 1, 0, [0, 0]))
    for kind in (0, 1, 2, 3, 4, 5, 6, 0xFFFF_FFFF):
        yield routing((1, kind, 0, [0, 0]))
        yield routing((1, kind, 1, [0, 0]))
        yield routing((1, kind, 2, [0, 0]))
    for irqchip in (1, 2, 0xFFFF_FFFF):
        yield routing((1, 1, 0, [irqchip, 0]))
    for pin in (63, 64, 223, 224, 987, 988, 989, 1020, 0xFFFF_FFFF):
        yield routing((1, 1, 0, [0, pin]))
    yield routing((1, 2, 0, [0xFFFF_FFFF, 0xFFFF_FFFF, 0xFFFF_FFFF, 0]))
    yield routing((1, 2, 1, [0x811_0040, 0, 1, 0xFFFF_FFFF]))
    for count in (4096, 4097, 0x8000_0000, 0xFFFF_FFFF):
        yield routing((1, 1, 0, [0, 0]), count=count)
        yield routing((1, 1, 0, [0, 0]), count=count, flags=1)
    for where in (*BAD_POINTERS, "mem0+0x3fff8"):
        yield Ioctl("vm0", "KVM_SET_GSI_ROUTING", where)


def ioeventfd(
    where: int, length: int, fd: Value = "eventfd0", flags: int = 0, match: int = 0, *, pad: tuple[int, ...] = ()
) -> Ioctl:
    """KVM_IOEVENTFD."""
    fields = struct("ioeventfd", datamatch=match, addr=where, len=length, fd=fd, flags=flags, pad=list(pad))
    return Ioctl("vm0", "KVM_IOEVENTFD", fields)


def _ioeventfd(host: Host) -> Operations:
    yield from begin("interrupts: ioeventfd")
    for number in range(3):
        yield EventFd(f"eventfd{number}")
    for cap in (abi.KVM_CAP_IOEVENTFD, abi.KVM_CAP_IOEVENTFD_ANY_LENGTH):
        yield check(cap)
    for length in (0, 1, 2, 3, 4, 5, 8, 9, 16, 1 << 31):
        yield ioeventfd(0x1000 * (length % 97), length)
        yield ioeventfd(0x10_0000 + 0x1000 * (length % 97), length, flags=1, match=0xFFFF)
    for where in (LIM - 4, LIM, 1 << 52, 1 << 63, U64 - 3, U64 - 4, U64 - 7, U64):
        yield ioeventfd(where, 4)
    for flags in (2, 3, 8, 16, 24, 0x1F, 0x20, 1 << 31):
        yield ioeventfd(0x20_0000, 4, flags=flags)
    for fd in ("closed", "vm0", "kvm", 0xFFFF_FFFF):
        yield ioeventfd(0x30_0000, 4, fd)
        yield ioeventfd(0x30_0000, 4, fd, flags=4)
        yield ioeventfd(0x30_0000, 3, fd)
    at = 0x40_0000
    yield ioeventfd(at, 4)
    yield ioeventfd(at, 4, "eventfd1")
    yield ioeventfd(at, 8)
    yield ioeventfd(at, 0)
    yield ioeventfd(at, 4, flags=1, match=5)
    yield ioeventfd(at + 8, 4, flags=1, match=5)
    yield ioeventfd(at + 8, 4, "eventfd1", flags=1, match=6)
    yield ioeventfd(at + 8, 4, flags=1, match=5)
    yield ioeventfd(at + 8, 4, flags=2)
    yield ioeventfd(at + 8, 8, flags=1, match=5)
    yield ioeventfd(at + 16, 0)
    yield ioeventfd(at + 16, 4)
    yield ioeventfd(at + 16, 8, "eventfd1")
    yield ioeventfd(at, 4, "eventfd1", flags=4)
    yield ioeventfd(at, 8, flags=4)
    yield ioeventfd(at, 4, flags=5, match=0)
    yield ioeventfd(at, 4, flags=4)
    yield ioeventfd(at, 4, flags=4)
    yield ioeventfd(at + 8, 4, flags=5, match=6)
    yield ioeventfd(at + 8, 4, flags=5, match=5)
    yield ioeventfd(at + 16, 3, flags=4)
    yield ioeventfd(at + 16, 0, flags=4, match=9)
    yield ioeventfd(at + 24, 4, pad=(1, 2, 3))
    for pointer in BAD_POINTERS:
        yield Ioctl("vm0", "KVM_IOEVENTFD", pointer)


def zone(where: int, size: int, pio: int = 0, *, register: bool = True) -> Ioctl:
    """KVM_REGISTER_COALESCED_MMIO or its opposite."""
    request = "KVM_REGISTER_COALESCED_MMIO" if register else "KVM_UNREGISTER_COALESCED_MMIO"
    return Ioctl("vm0", request, struct("coalesced_mmio_zone", addr=where, size=size, pio=pio))


def _coalesced(host: Host) -> Operations:
    yield from begin("interrupts: coalesced MMIO")
    for cap in (abi.KVM_CAP_COALESCED_MMIO, abi.KVM_CAP_COALESCED_PIO):
        yield check(cap)
    for register in (True, False):
        for where, size in ((0, 0), (0x1000, 0x1000), (0x1000, 0x1000), (LIM, 8), (U64, 2), (U64 - 7, 0xFFFF_FFFF)):
            yield zone(where, size, register=register)
        for pio in (1, 2, 1 << 31, 0xFFFF_FFFF):
            yield zone(0x1000, 16, pio, register=register)
        request = zone(0, 0, register=register).request
        for pointer in BAD_POINTERS:
            yield Ioctl("vm0", request, pointer)
    yield Ioctl("vm0", "KVM_REGISTER_COALESCED_MMIO", Bytes(b"\xff" * 16))


__all__ = ["ADDR", "ioeventfd", "irq", "irq_line", "irqfd", "msi", "operations", "routing", "zone"]
