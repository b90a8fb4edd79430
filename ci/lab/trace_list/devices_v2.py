# SPDX-License-Identifier: Apache-2.0
"""The GICv2, on hosts that can emulate one (kernel-device-spec 1 and 2)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from ci.lab.trace_list.devices import ADDR, CTRL, ITS, LIM, NR_IRQS, V2, V3, address, device_address
from ci.lab.trace_list.interrupts import irq, irq_line, irqfd, routing
from ci.lab.trace_list.making import (
    BAD_POINTERS,
    U32_FILL,
    Host,
    begin,
    check,
    device,
    get_attr,
    has_attr,
    set_attr,
    vcpu,
)
from kvmipa import abi
from kvmipa.trace import EventFd, Ioctl, u32, u64

if TYPE_CHECKING:
    from ci.lab.trace_list.making import Operations

DIST: Final = abi.KVM_VGIC_V2_ADDR_TYPE_DIST
CPU: Final = abi.KVM_VGIC_V2_ADDR_TYPE_CPU
DIST_REGS: Final = abi.KVM_DEV_ARM_VGIC_GRP_DIST_REGS
CPU_REGS: Final = abi.KVM_DEV_ARM_VGIC_GRP_CPU_REGS


def operations(host: Host) -> Operations:
    """All of them; nothing on other hosts."""
    if host.gic != "v2":
        return
    yield from _creation()
    yield from _irqchip()
    yield from _addresses(host)
    yield from _legacy_addresses()
    yield from _attributes()
    yield from _vcpus()
    yield from _implicit_initialisation()


def _vgic(name: str, bits: int = 36) -> Operations:
    yield from begin(f"devices: GICv2, {name}", bits)
    yield device(V2, "gic0")


def _creation() -> Operations:
    yield from begin("devices: GICv2, creation")
    for cap in (abi.KVM_CAP_MAX_VCPUS, abi.KVM_CAP_MAX_VCPU_ID):
        yield check(cap)
        yield check(cap, "kvm")
    yield device(V3, "gic1")
    yield device(V2, "gic0", flags=1)
    yield device(V2, "gic0")
    yield device(V2, "gic1")
    yield device(V3, "gic1")
    yield device(ITS, "its0")
    yield Ioctl("vm0", "KVM_CREATE_IRQCHIP")
    yield check(abi.KVM_CAP_MAX_VCPUS)
    yield from begin("devices: GICv2, no descriptor left")
    yield Ioctl("vm0", "KVM_CREATE_DEVICE", device(V2).argument, no_descriptor=True)
    yield device(V2, "gic0")
    yield device_address(DIST, 0x800_0000)
    yield device_address(DIST, 0x800_0000)


def _irqchip() -> Operations:
    yield from begin("devices: GICv2, KVM_CREATE_IRQCHIP")
    yield vcpu(0)
    yield Ioctl("vm0", "KVM_CREATE_IRQCHIP", 99)
    yield Ioctl("vm0", "KVM_CREATE_IRQCHIP")
    yield device(V2, "gic0")
    for kind in range(7):
        yield device_address(kind, 0x800_0000 + kind * 0x1_0000)
    yield irq_line(irq(1, 40), 1)
    yield vcpu(1)


def _addresses(host: Host) -> Operations:
    for bits in host.sizes:
        top = 1 << bits
        for kind, size in ((DIST, 0x1000), (CPU, 0x2000)):
            yield from _vgic(f"address {kind} at the end of {bits} bits", bits)
            yield get_attr("gic0", ADDR, kind)
            for value in (0x800, top, top + 0x800, top - size + 0x800, top - 0x1000 + 0x1000, top - size + 0x1000):
                yield address(kind, value)
                yield get_attr("gic0", ADDR, kind)
            yield address(kind, top - size)
            for value in (top - size, top, 0x800, 0):
                yield address(kind, value)
            yield get_attr("gic0", ADDR, kind)
    yield from _vgic("overlap is no matter before a run")
    yield address(DIST, 0x800_0000)
    yield address(CPU, 0x800_0000)
    for kind in (*range(2, 8), 1 << 32):
        yield address(kind, 0x900_0000)
        yield get_attr("gic0", ADDR, kind)
        for where in BAD_POINTERS:
            yield set_attr("gic0", ADDR, kind, where)
            yield get_attr("gic0", ADDR, kind, where)
    for where in BAD_POINTERS:
        yield set_attr("gic0", ADDR, DIST, where)
        yield get_attr("gic0", ADDR, DIST, where)


def _legacy_addresses() -> Operations:
    yield from _vgic("KVM_ARM_SET_DEVICE_ADDR")
    for kind, size in ((DIST, 0x1000), (CPU, 0x2000)):
        for value in (0x800, LIM, LIM - 0x1000, LIM - size, LIM - size, 0):
            yield device_address(kind, value)
    for identifier in (2, 3, 5, 0x1_0000, 1 << 32, 1 << 32 | DIST, 1 << 63):
        yield device_address(identifier, 0x800_0000)


def _attributes() -> Operations:
    yield from _vgic("attributes that there are")
    yield vcpu(0)
    for group in range(11):
        for attr in (*range(6), 0x100, 1 << 32, 1 << 40):
            yield has_attr("gic0", group, attr)
    for number in (32, 63, 64, 1023, 992):
        yield set_attr("gic0", NR_IRQS, 0, u32(number))
        yield get_attr("gic0", NR_IRQS, 0, u32(U32_FILL))
    for attr in (3, 1, 0, 0):
        yield set_attr("gic0", CTRL, attr)
        yield get_attr("gic0", CTRL, attr)
    for group in (5, 6, 7, 8, 9, 99):
        yield set_attr("gic0", group, 0, u64(0))
        yield get_attr("gic0", group)


def _vcpus() -> Operations:
    yield from begin("devices: GICv2, eight vCPUs")
    for number in (*range(9), 511):
        yield vcpu(number)
    yield device(V2, "gic0")
    yield check(abi.KVM_CAP_MAX_VCPUS)
    yield from _vgic("vCPUs after it")
    for number in (7, 8, 9, *range(8), 8):
        yield vcpu(number)
    yield set_attr("gic0", CTRL, 0)
    yield vcpu(7)
    yield vcpu(8)


def _implicit_initialisation() -> Operations:
    for group in (DIST_REGS, CPU_REGS):
        yield from _vgic(f"initialised by group {group}")
        for attr in (0x8, 0x8 | 1 << 32):
            yield get_attr("gic0", group, attr, u32(U32_FILL))
            yield set_attr("gic0", group, attr, "unmapped")
        yield vcpu(0)
        yield get_attr("gic0", NR_IRQS, 0, u32(U32_FILL))
        yield get_attr("gic0", group, 0x8, "unmapped")
        yield get_attr("gic0", NR_IRQS, 0, u32(U32_FILL))
        yield vcpu(1)
        for offset in (0x0, 0x4, 0x8, 0xC, 0xFC, 0x2, 0x2000):
            yield has_attr("gic0", group, offset)
            yield get_attr("gic0", group, offset, u32(U32_FILL))
    for name, request in (("a line", irq_line(irq(1, 40), 1)), ("an irqfd", irqfd("eventfd0", 8))):
        yield from _vgic(f"initialised by {name}")
        yield EventFd("eventfd0")
        yield vcpu(0)
        yield request
        yield get_attr("gic0", NR_IRQS, 0, u32(U32_FILL))
        yield vcpu(1)
        yield routing((1, 1, 0, [0, 0]))
