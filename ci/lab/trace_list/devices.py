# SPDX-License-Identifier: Apache-2.0
"""Devices, the vGICs and the ITS (kernel-device-spec 1 and 2)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from ci.lab.trace_list.making import (
    BAD_POINTERS,
    U32_FILL,
    Host,
    begin,
    check,
    device,
    get_attr,
    has_attr,
    in_turn,
    set_attr,
    vcpu,
)
from kvmipa import abi
from kvmipa.trace import Close, Ioctl, Protect, Write, struct, u32, u64

if TYPE_CHECKING:
    from ci.lab.trace_list.making import Operations
    from kvmipa.trace.values import Value

BITS: Final = 36
LIM: Final = 1 << BITS
VFIO: Final = abi.KVM_DEV_TYPE_VFIO
V2: Final = abi.KVM_DEV_TYPE_ARM_VGIC_V2
V3: Final = abi.KVM_DEV_TYPE_ARM_VGIC_V3
ITS: Final = abi.KVM_DEV_TYPE_ARM_VGIC_ITS

ADDR: Final = abi.KVM_DEV_ARM_VGIC_GRP_ADDR
NR_IRQS: Final = abi.KVM_DEV_ARM_VGIC_GRP_NR_IRQS
CTRL: Final = abi.KVM_DEV_ARM_VGIC_GRP_CTRL
DIST: Final = abi.KVM_VGIC_V3_ADDR_TYPE_DIST
REDIST: Final = abi.KVM_VGIC_V3_ADDR_TYPE_REDIST
REGION: Final = abi.KVM_VGIC_V3_ADDR_TYPE_REDIST_REGION
ITS_ADDR: Final = abi.KVM_VGIC_ITS_ADDR_TYPE


def operations(host: Host) -> Operations:
    """All of them."""
    return in_turn(
        host,
        _types,
        _creation,
        _attributes_that_are_there,
        _distributor,
        _ends,
        _redistributors,
        _regions,
        _regions_and_vcpus,
        _number_of_interrupts,
        _initialisation,
        _registers,
        _its,
        _legacy_address,
        _irqchip,
    )


def vgic(name: str, bits: int = BITS) -> Operations:
    """A new part with a VM and a GICv3 in it."""
    yield from begin(name, bits)
    yield device(V3, "gic0")


def address(kind: int, value: int, on: str = "gic0") -> Ioctl:
    """An address of the vGIC."""
    return set_attr(on, ADDR, kind, u64(value))


def redist(index: int, base: int, count: int, flags: int = 0) -> int:
    """The value of a redistributor region."""
    return index | flags << 12 | base | count << 52


def _types(host: Host) -> Operations:
    for flags in (0, 1, 2, 3, 0xFFFF_FFFE, 0xFFFF_FFFF):
        yield from begin(f"devices: types with flags {flags:#x}")
        for kind in (*range(20), 0x7FFF_FFFF, 0x8000_0000, 0xFFFF_FFFF):
            yield device(kind, flags=flags)
    yield from begin("devices: creation with bad pointers")
    for where in BAD_POINTERS:
        yield Ioctl("vm0", "KVM_CREATE_DEVICE", where)
    yield Write("mem0+0x0", struct("create_device", type=V3))
    yield Write("mem0+0x100", struct("create_device", type=ITS))
    yield Write("mem0+0x200", struct("create_device", type=VFIO))
    yield Write("mem0+0x300", struct("create_device", type=99))
    yield Write("mem0+0x400", struct("create_device", type=V3, flags=1))
    yield Protect("mem0", "ro")
    for offset in (0x400, 0x300, 0x0, 0x0, 0x100, 0x200, 0x200):
        yield Ioctl("vm0", "KVM_CREATE_DEVICE", f"mem0+{offset:#x}")
    yield device(V3, "gic0")


def _creation(host: Host) -> Operations:
    yield from begin("devices: how many of each")
    for cap in (abi.KVM_CAP_DEVICE_CTRL, abi.KVM_CAP_IRQCHIP, abi.KVM_CAP_MAX_VCPUS, abi.KVM_CAP_MAX_VCPU_ID):
        yield check(cap)
    yield device(V3, "gic0")
    yield device(V3, "gic1")
    yield device(V2, "gic1")
    yield device(V3, "gic1", flags=1)
    yield device(ITS, "its0")
    yield device(ITS, "its1")
    yield device(VFIO, "vfio0")
    yield device(VFIO, "vfio1")
    for cap in (abi.KVM_CAP_MAX_VCPUS, abi.KVM_CAP_MAX_VCPU_ID, abi.KVM_CAP_NR_VCPUS):
        yield check(cap)
    yield Close("gic0")
    yield device(V3, "gic0")
    yield Close("vfio0")
    yield device(VFIO, "vfio0")
    yield Ioctl("vm0", "KVM_CREATE_IRQCHIP")
    yield from begin("devices: an ITS alone")
    yield device(ITS, "its0")
    yield address(ITS_ADDR, 0x800_0000, "its0")
    yield set_attr("its0", CTRL, 0)
    yield from begin("devices: after vCPUs")
    yield vcpu(0)
    yield vcpu(5)
    yield device(V3, "gic0")
    yield vcpu(6)
    yield from begin("devices: no descriptor left")
    for kind in (V3, V3, ITS, VFIO, VFIO):
        yield Ioctl("vm0", "KVM_CREATE_DEVICE", struct("create_device", type=kind), no_descriptor=True)
    yield device(V3, "gic0")
    yield device(VFIO, "vfio0")
    yield from begin("devices: requests on their descriptors")
    yield device(V3, "gic0")
    yield device(ITS, "its0")
    yield device(VFIO, "vfio0")
    for on in ("gic0", "its0", "vfio0"):
        for request in ("KVM_SET_DEVICE_ATTR", "KVM_GET_DEVICE_ATTR", "KVM_HAS_DEVICE_ATTR"):
            for where in BAD_POINTERS:
                yield Ioctl(on, request, where)
        for group in (0, 1, 2, 99):
            yield has_attr(on, group)
            yield get_attr(on, group)
            yield set_attr(on, group, addr=u64(0))


def _attributes_that_are_there(host: Host) -> Operations:
    yield from vgic("devices: attributes that there are")
    yield device(ITS, "its0")
    yield vcpu(0)
    for on in ("gic0", "its0"):
        for group in range(12):
            for attr in (*range(8), 0x100, 1 << 32, 1 << 63):
                yield has_attr(on, group, attr)
        for group in (99, 0x8000_0000, 0xFFFF_FFFF):
            yield has_attr(on, group)
            yield set_attr(on, group)
            yield get_attr(on, group)
    yield set_attr("gic0", ADDR, DIST, u64(0x800_0000), flags=0xFFFF_FFFF)


def _distributor(host: Host) -> Operations:
    yield from vgic("devices: addresses that are not set")
    for kind in (*range(8), 0x100, 1 << 32, 1 << 32 | DIST):
        yield get_attr("gic0", ADDR, kind)
        for where in BAD_POINTERS:
            yield get_attr("gic0", ADDR, kind, where)
            yield set_attr("gic0", ADDR, kind, where)
    for kind in (0, 1, 4, 6, 7, 1 << 32 | DIST):
        yield address(kind, 0x800_0000)
    yield from vgic("devices: the distributor's address")
    for value in (0x1000, 0xFFFF, LIM, LIM + 0x1000, LIM - 0x8000, -0x1_0000, -0x1000, 1 << 63, 1 << 44):
        yield address(DIST, value % (1 << 64))
    yield address(DIST, LIM - 0x1_0000)
    for value in (LIM - 0x1_0000, LIM, 1, 0, 1 << 63):
        yield address(DIST, value)
    yield get_attr("gic0", ADDR, DIST)


def _ends(host: Host) -> Operations:
    for bits in host.sizes:
        yield from _ends_of(bits)


def _ends_of(bits: int) -> Operations:
    top = 1 << bits
    for kind in (DIST, REDIST):
        yield from vgic(f"devices: address {kind} at the end of {bits} bits", bits)
        for value in (top, top + 0x1_0000, top - 0x8000, top - 0x1_0000):
            yield address(kind, value)
        yield get_attr("gic0", ADDR, kind)
    yield from vgic(f"devices: redistributors at the end of {bits} bits", bits)
    for base, count in ((top, 1), (top - 0x2_0000, 2), (top - 0x1_0000, 1), (top - 0x4_0000, 3)):
        yield address(REGION, redist(0, base, count))
        yield get_attr("gic0", ADDR, REGION, u64(0))
    yield from vgic(f"devices: the last region of {bits} bits", bits)
    yield address(REGION, redist(0, top - 0x4_0000, 2))
    yield get_attr("gic0", ADDR, REGION, u64(0))
    yield from begin(f"devices: an ITS at the end of {bits} bits", bits)
    yield device(ITS, "its0")
    for value in (top, top - 0x1_0000, top - 0x2_0000, top - 0x2_0000):
        yield address(ITS_ADDR, value, "its0")
    yield get_attr("its0", ADDR, ITS_ADDR)


def _redistributors(host: Host) -> Operations:
    for vcpus in (0, 1, 2):
        yield from vgic(f"devices: one region for {vcpus} vCPUs")
        for number in range(vcpus):
            yield vcpu(number)
        for value in (LIM, 0x1000, LIM + 0x1000, (1 << 64) - 0x1_0000, 1 << 63):
            yield address(REDIST, value)
            yield get_attr("gic0", ADDR, REDIST)
        yield address(REDIST, LIM - 0x1_0000)
        yield get_attr("gic0", ADDR, REDIST)
        yield address(REDIST, LIM - 0x1_0000)
        yield address(REDIST, LIM - 0x4_0000)
        yield address(REDIST, 0x100_0000)
        yield get_attr("gic0", ADDR, REDIST)
        yield address(REGION, redist(0, 0x200_0000, 2))
        yield address(REGION, redist(1, 0x200_0000, 2))
        yield address(REGION, redist(2, 0x300_0000, 2))
        for index in (0, 1, 2, 3):
            yield get_attr("gic0", ADDR, REGION, u64(index))
        for number in range(vcpus, vcpus + 3):
            yield vcpu(number)
    for vcpus in (0, 1):
        yield from vgic(f"devices: one region on the distributor, {vcpus} vCPUs")
        for number in range(vcpus):
            yield vcpu(number)
        yield address(DIST, 0x800_0000)
        for value in (0x800_0000, 0x7FF_0000, 0x7FE_0000, 0x801_0000):
            yield address(REDIST, value)
            yield get_attr("gic0", ADDR, REDIST)
        yield vcpu(1)
        yield vcpu(2)


def _regions(host: Host) -> Operations:
    yield from vgic("devices: regions")
    for value in (
        redist(0, 0x800_0000, 0), redist(0, 0x800_0000, 1, flags=1), redist(0, 0x800_0000, 1, flags=8),
        redist(1, 0x800_0000, 1), redist(0xFFF, 0x800_0000, 1), redist(0, LIM, 1), redist(0, 1 << 51, 1),
    ):  # fmt: skip
        yield address(REGION, value)
    for index in (0, 1, 255, 256, 257, 0xFFF, 0x1000, 1 << 63):
        yield get_attr("gic0", ADDR, REGION, u64(index))
    yield address(REGION, redist(0, 0x800_0000, 2))
    for value in (
        redist(0, 0x900_0000, 2), redist(2, 0x900_0000, 2), redist(1, 0x800_0000, 2), redist(1, 0x803_0000, 2),
        redist(1, 0x7FE_0000, 2), redist(1, 0x7FC_0000, 2), redist(2, 0x804_0000, 4095), redist(257, 0x804_0000, 1),
        redist(2, 0x804_0000, 1), redist(256 + 3, 0x9000_0000, 1),
    ):  # fmt: skip
        yield address(REGION, value)
    for index in (0, 1, 2, 3, 4, 256, 257, 258):
        yield get_attr("gic0", ADDR, REGION, u64(index))
        yield get_attr("gic0", ADDR, REGION, u64(index | 0xF000))
    yield get_attr("gic0", ADDR, REDIST)
    yield address(REDIST, 0xA00_0000)
    yield from vgic("devices: the largest region")
    yield address(REGION, redist(0, 0, 4095))
    yield address(REGION, redist(0, 1 << 32, 4095))
    yield address(REGION, redist(1, 1 << 33, 4095))
    for index in range(1, 12):
        yield address(REGION, redist(index, (1 << 34) + index * 0x10_0000, 1))
    yield get_attr("gic0", ADDR, REGION, u64(11))


def _regions_and_vcpus(host: Host) -> Operations:
    yield from vgic("devices: the distributor on a region")
    yield address(REGION, redist(0, 0x800_0000, 2))
    yield address(DIST, 0x800_0000)
    yield vcpu(0)
    yield address(REGION, redist(1, 0x900_0000, 2))
    yield vcpu(0)
    yield from vgic("devices: a region on the distributor")
    yield address(DIST, 0x800_0000)
    yield address(REGION, redist(0, 0x7FF_0000, 2))
    yield get_attr("gic0", ADDR, REGION, u64(0))
    yield vcpu(0)
    yield vcpu(1)
    yield from vgic("devices: a region on the distributor, with a vCPU")
    yield vcpu(0)
    yield address(DIST, 0x800_0000)
    yield address(REGION, redist(0, 0x7FF_0000, 2))
    yield get_attr("gic0", ADDR, REGION, u64(0))
    yield address(REGION, redist(0, 0x900_0000, 2))
    yield get_attr("gic0", ADDR, REGION, u64(0))
    yield from vgic("devices: more vCPUs than frames")
    yield address(DIST, 0x800_0000)
    yield address(REGION, redist(0, 0x900_0000, 1))
    for number in range(3):
        yield vcpu(number)
    yield address(REGION, redist(1, 0xA00_0000, 1))
    yield address(REGION, redist(2, 0xB00_0000, 1))
    yield vcpu(3)
    yield vcpu(1)


def _number_of_interrupts(host: Host) -> Operations:
    yield from vgic("devices: the number of interrupts")
    yield get_attr("gic0", NR_IRQS)
    for number in (0, 31, 32, 63, 65, 1020, 1023, 1024, 1056, 0x8000_0000, 0xFFFF_FFFF):
        yield set_attr("gic0", NR_IRQS, 0, u32(number))
    for where in BAD_POINTERS:
        yield set_attr("gic0", NR_IRQS, 0, where)
        yield get_attr("gic0", NR_IRQS, 0, where)
    yield set_attr("gic0", NR_IRQS, 5, u32(992))
    yield get_attr("gic0", NR_IRQS, 7, u32(0))
    yield set_attr("gic0", NR_IRQS, 0, u32(64))
    yield set_attr("gic0", NR_IRQS, 0, u32(63))
    yield set_attr("gic0", CTRL, 0)
    yield get_attr("gic0", NR_IRQS)
    yield from vgic("devices: 64 interrupts")
    yield set_attr("gic0", NR_IRQS, 0, u32(64))
    yield get_attr("gic0", NR_IRQS)
    yield set_attr("gic0", CTRL, 0)
    yield set_attr("gic0", NR_IRQS, 0, u32(64))
    yield from vgic("devices: the default number of interrupts")
    yield set_attr("gic0", CTRL, 0)
    yield get_attr("gic0", NR_IRQS)
    yield set_attr("gic0", NR_IRQS, 0, u32(256))


def _initialisation(host: Host) -> Operations:
    yield from vgic("devices: initialisation without vCPUs")
    for attr in (1, 2, 4, 5, 1 << 32):
        yield set_attr("gic0", CTRL, attr)
    yield get_attr("gic0", CTRL, 0)
    yield set_attr("gic0", CTRL, 3)
    yield set_attr("gic0", CTRL, 0)
    yield set_attr("gic0", CTRL, 0, "kernel")
    for number in (0, 511, 512, 9999):
        yield vcpu(number)
    yield address(DIST, 0x800_0000)
    yield address(REDIST, 0x900_0000)
    yield set_attr("gic0", CTRL, 3)
    yield from vgic("devices: initialisation with vCPUs")
    for number in range(2):
        yield vcpu(number)
    yield address(DIST, 0x800_0000)
    yield address(REDIST, 0x900_0000)
    yield set_attr("gic0", CTRL, 0)
    yield vcpu(2)
    yield vcpu(1)
    yield address(REDIST, 0xA00_0000)
    yield address(REGION, redist(0, 0xA00_0000, 1))


def _registers(host: Host) -> Operations:
    for initialised in (False, True):
        yield from vgic(f"devices: registers, initialised: {initialised}")
        if initialised:
            yield vcpu(0)
            yield set_attr("gic0", CTRL, 0)
        for group in (1, 5):
            for offset in (0x0, 0x4, 0x8, 0xC, 0x80, 0x2, 0x1_0000, 0x1_0080):
                yield has_attr("gic0", group, offset)
                yield get_attr("gic0", group, offset, u32(U32_FILL))
                yield get_attr("gic0", group, offset, "unmapped")
                yield set_attr("gic0", group, offset, "unmapped")
            yield get_attr("gic0", group, 1 << 32 | 0x8, u32(U32_FILL))
        for value in (0x4B00_243B, 0x4B00_343B, 0x4B00_143B, 0, 0x4B00_353B):
            yield set_attr("gic0", 1, 0x8, u32(value))
        yield get_attr("gic0", 1, 0x8, u32(0))
        for attr in (0, 0x20, 0x21, 0x400, 1 << 10, 1 << 32):
            yield has_attr("gic0", 7, attr)
            yield get_attr("gic0", 7, attr, u32(U32_FILL))
        for attr in (0, 0xFFFF):
            yield has_attr("gic0", 6, attr)
            yield get_attr("gic0", 6, attr)
            yield set_attr("gic0", 6, attr, u64(0))
            yield set_attr("gic0", 6, attr, "unmapped")
        for value in (0, 15, 16, 25, 31, 32):
            yield set_attr("gic0", 9, 0, u32(value))
            yield get_attr("gic0", 9, 0, u32(U32_FILL))
        yield get_attr("gic0", 9, 0, "unmapped")
        yield set_attr("gic0", 9, 0, "unmapped")


def _its(host: Host) -> Operations:
    yield from begin("devices: the ITS")
    yield device(ITS, "its0")
    for kind in (*range(7), 1 << 32 | ITS_ADDR):
        yield get_attr("its0", ADDR, kind)
        yield address(kind, 0x1000, "its0")
        for where in BAD_POINTERS:
            yield get_attr("its0", ADDR, kind, where)
            yield set_attr("its0", ADDR, kind, where)
    for value in (0x1000, LIM, LIM + 0x1000, LIM - 0x1_0000, (1 << 64) - 0x1_0000):
        yield address(ITS_ADDR, value, "its0")
    yield address(ITS_ADDR, LIM - 0x2_0000, "its0")
    for value in (LIM - 0x2_0000, 0, 1, LIM):
        yield address(ITS_ADDR, value, "its0")
    for attr in (0, 0, 3, 5, 9, 1 << 32):
        yield set_attr("its0", CTRL, attr)
        yield get_attr("its0", CTRL, attr)
    for offset in (0x0, 0x4, 0x8, 0xC, 0x10, 0x80, 0x84, 0x88, 0x90, 0x100, 0x108, 0x140, 0xFFE8, 0xFFD0, 0x1_0000):
        yield has_attr("its0", 8, offset)
        yield get_attr("its0", 8, offset)
        yield set_attr("its0", 8, offset, u64(0))
        yield set_attr("its0", 8, offset, "unmapped")
        yield get_attr("its0", 8, offset, "unmapped")
    yield device(ITS, "its1")
    yield address(ITS_ADDR, LIM - 0x2_0000, "its1")
    yield get_attr("its1", 8, 0x8)
    yield device(ITS, "its2")
    yield address(ITS_ADDR, 0x800_0000, "its2")
    yield device(V3, "gic0")
    yield address(DIST, 0x800_0000)
    yield address(REDIST, 0x800_0000)


def device_address(identifier: int, value: Value, on: str = "vm0") -> Ioctl:
    """KVM_ARM_SET_DEVICE_ADDR."""
    return Ioctl(on, "KVM_ARM_SET_DEVICE_ADDR", struct("arm_device_addr", id=identifier, addr=value))


def _legacy_address(host: Host) -> Operations:
    yield from begin("devices: KVM_ARM_SET_DEVICE_ADDR without a vGIC")
    for kind in range(8):
        yield device_address(kind, 0x800_0000)
    for identifier in (0x1_0000, 0x2_0002, 0xFFFF_0000, 1 << 32, 1 << 63):
        yield device_address(identifier, 0x800_0000)
    for where in BAD_POINTERS:
        yield Ioctl("vm0", "KVM_ARM_SET_DEVICE_ADDR", where)
    yield from vgic("devices: KVM_ARM_SET_DEVICE_ADDR with a GICv3")
    for kind in (0, 1, 4, 6, 7):
        yield device_address(kind, 0x800_0000)
    for value in (0x1000, LIM, LIM - 0x1_0000, LIM - 0x1_0000):
        yield device_address(DIST, value)
    for value in (0x1000, LIM, LIM - 0x8_0000, LIM - 0x8_0000):
        yield device_address(REDIST, value)
    yield device_address(REGION, redist(0, 0x900_0000, 1))
    for kind in (DIST, REDIST):
        yield get_attr("gic0", ADDR, kind)


def _irqchip(host: Host) -> Operations:
    yield from begin("devices: KVM_CREATE_IRQCHIP")
    yield Ioctl("vm0", "KVM_CREATE_IRQCHIP")
    yield Ioctl("vm0", "KVM_CREATE_IRQCHIP", "kernel")
    yield vcpu(0)
    yield device(V3, "gic0")
    yield Ioctl("vm0", "KVM_CREATE_IRQCHIP")
