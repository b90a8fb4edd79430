# SPDX-License-Identifier: Apache-2.0
"""vCPUs and the attributes of vCPUs and VMs (kernel-device-spec 3 and 4.1)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from ci.lab.trace_list.devices import CTRL, NR_IRQS, V3
from ci.lab.trace_list.making import (
    BAD_POINTERS,
    FILL,
    U32_FILL,
    U64,
    Host,
    begin,
    check,
    device,
    get_attr,
    has_attr,
    in_turn,
    region,
    set_attr,
    vcpu,
)
from kvmipa import abi
from kvmipa.trace import Bytes, Close, Ioctl, Struct, struct, u32, u64

if TYPE_CHECKING:
    from ci.lab.trace_list.making import Operations

PMU: Final = abi.KVM_ARM_VCPU_PMU_V3_CTRL
TIMER: Final = abi.KVM_ARM_VCPU_TIMER_CTRL
PVTIME: Final = abi.KVM_ARM_VCPU_PVTIME_CTRL
SMCCC: Final = abi.KVM_ARM_VM_SMCCC_CTRL


def operations(host: Host) -> Operations:
    """All of them."""
    return in_turn(
        host,
        _identifiers,
        _many,
        _lifetimes,
        _unknown_attributes,
        _pmu,
        _initialisation,
        _features,
        _pmu_of_initialised,
        _timers,
        _stolen_time,
        _vm_attributes,
        _smccc_filter,
    )


def _identifiers(host: Host) -> Operations:
    yield from begin("vcpus: identifiers")
    for number in (0, 0, 1, 7, 8, 255, 256, 510, 511, 512, 513, 1023, 1 << 16, 1 << 31, 0xFFFF_FFFF):
        yield vcpu(number)
    for number in (1 << 32, 1 << 32 | 2, 1 << 32 | 512, 1 << 63, 1 << 63 | 3, U64):
        yield vcpu(number, f"vcpu_{number:x}")
    yield vcpu(2)
    yield vcpu(3)
    for cap in (abi.KVM_CAP_NR_VCPUS, abi.KVM_CAP_MAX_VCPUS, abi.KVM_CAP_MAX_VCPU_ID):
        yield check(cap)


def _many(host: Host) -> Operations:
    yield from begin("vcpus: no descriptor left")
    yield Ioctl("vm0", "KVM_CREATE_VCPU", 0, no_descriptor=True)
    yield vcpu(0)
    yield Ioctl("vm0", "KVM_CREATE_VCPU", 0, no_descriptor=True)
    yield Ioctl("vm0", "KVM_CREATE_VCPU", 512, no_descriptor=True)
    yield from begin("vcpus: with a vGIC")
    yield device(V3, "gic0")
    for number in (511, 512, 0, 0):
        yield vcpu(number)
    yield set_attr("gic0", CTRL, 0)
    for number in (0, 1, 511, 512, 513, 1 << 32):
        yield vcpu(number)


def _lifetimes(host: Host) -> Operations:
    yield from begin("vcpus: after the VM's descriptor is closed")
    yield vcpu(0)
    yield device(V3, "gic0")
    yield Close("vm0")
    yield get_attr("vcpu0", TIMER, 0, u32(U32_FILL))
    yield get_attr("gic0", NR_IRQS)
    yield vcpu(1)
    yield Close("vcpu0")
    yield get_attr("vcpu0", TIMER, 0, u32(U32_FILL))
    yield get_attr("gic0", NR_IRQS)
    yield from begin("vcpus: an identifier stays in use after its descriptor is closed")
    yield vcpu(0)
    yield Close("vcpu0")
    yield vcpu(0)
    yield vcpu(1)
    yield Close("kvm")
    yield vcpu(2)


def _unknown_attributes(host: Host) -> Operations:
    yield from begin("vcpus: attributes that there are")
    yield check(abi.KVM_CAP_VCPU_ATTRIBUTES)
    yield vcpu(0)
    for group in (*range(5), 99, 0xFFFF_FFFF):
        for attr in (*range(6), 1 << 32, 1 << 63):
            yield has_attr("vcpu0", group, attr)
            yield get_attr("vcpu0", group, attr)
    for request in ("KVM_SET_DEVICE_ATTR", "KVM_GET_DEVICE_ATTR", "KVM_HAS_DEVICE_ATTR"):
        for where in BAD_POINTERS:
            yield Ioctl("vcpu0", request, where)
    for group in (3, 99):
        yield set_attr("vcpu0", group, 0, u64(0))


def _pmu(host: Host) -> Operations:
    """On a vCPU without the feature, which is also one that was not initialised."""
    for with_gic in (False, True):
        yield from begin(f"vcpus: PMU attributes, vGIC: {with_gic}")
        if with_gic:
            yield device(V3, "gic0")
        yield vcpu(0)
        for attr in range(6):
            yield has_attr("vcpu0", PMU, attr)
            yield get_attr("vcpu0", PMU, attr, u32(U32_FILL))
            yield set_attr("vcpu0", PMU, attr, u32(23))
            yield set_attr("vcpu0", PMU, attr, "unmapped")


# By its number where csrc/kvm_abi.h does not declare it.
KVM_ARM_VCPU_FINALIZE: Final = abi.REQUESTS.get("KVM_ARM_VCPU_FINALIZE", 0x4004_AEC2)
# arch/arm64/include/uapi/asm/kvm.h: KVM_ARM_TARGET_GENERIC_V8.
GENERIC: Final = 5


def init(on: str, *features: int, target: int = GENERIC) -> Ioctl:
    """KVM_ARM_VCPU_INIT."""
    return Ioctl(on, "KVM_ARM_VCPU_INIT", struct("vcpu_init", target=target, features=list(features)))


def _initialisation(host: Host) -> Operations:
    yield from begin("vcpus: initialisation")
    yield Ioctl("vm0", "KVM_ARM_PREFERRED_TARGET", struct("vcpu_init", target=99, features=[1] * 7))
    yield vcpu(0)
    for where in BAD_POINTERS:
        yield Ioctl("vcpu0", "KVM_ARM_VCPU_INIT", where)
        yield Ioctl("vcpu0", KVM_ARM_VCPU_FINALIZE, where)
    for target in (*range(8), 0xFFFF_FFFF):
        yield init("vcpu0", target=target)
    for value in (0, 4, 5):
        yield Ioctl("vcpu0", KVM_ARM_VCPU_FINALIZE, u32(value))
    yield Ioctl("vcpu0", KVM_ARM_VCPU_FINALIZE, "unmapped")
    for features in ((4,), (0,), (1,), (4,), (1 << 10,), (0, 1), (0, 0, 0, 0, 0, 0, 1), (0xFFFF_FFFF,)):
        yield init("vcpu0", *features)
    yield vcpu(1)
    yield init("vcpu1", 4)
    yield init("vcpu1", 5)


def _features(host: Host) -> Operations:
    for bit in range(12):
        yield from begin(f"vcpus: feature {bit}")
        yield vcpu(0)
        yield vcpu(1)
        yield init("vcpu0", 1 << bit)
        yield Ioctl("vcpu0", KVM_ARM_VCPU_FINALIZE, u32(4))
        yield Ioctl("vcpu0", KVM_ARM_VCPU_FINALIZE, u32(4))
        yield init("vcpu0", 1 << bit)
        yield init("vcpu0", 1 << bit | 4)
        yield init("vcpu0", 4)
        yield init("vcpu1", 4)
        yield init("vcpu1", 1 << bit)
    for features in (0x60, 0x64, 0x208, 0x10C, 0x18, 0x1A, 0x7F, 0x3FF):
        yield from begin(f"vcpus: features {features:#x}")
        yield vcpu(0)
        yield init("vcpu0", features)
        yield init("vcpu0", 4)


def _pmu_of_initialised(host: Host) -> Operations:
    for with_gic in (False, True):
        yield from begin(f"vcpus: PMU of an initialised vCPU, vGIC: {with_gic}")
        if with_gic:
            yield device(V3, "gic0")
        for number in range(2):
            yield vcpu(number)
            yield init(f"vcpu{number}", 0xC)
        for attr in range(6):
            yield has_attr("vcpu0", PMU, attr)
            yield get_attr("vcpu0", PMU, attr, u32(U32_FILL))
        for number in (0, 15, 32, 1019, 1020, 0xFFFF_FFFF):
            yield set_attr("vcpu0", PMU, 0, u32(number))
        yield set_attr("vcpu0", PMU, 0, "unmapped")
        yield set_attr("vcpu0", PMU, 1)
        yield set_attr("vcpu0", PMU, 0, u32(23))
        yield set_attr("vcpu0", PMU, 0, u32(24))
        yield get_attr("vcpu0", PMU, 0, u32(U32_FILL))
        yield set_attr("vcpu1", PMU, 0, u32(24))
        yield set_attr("vcpu1", PMU, 0, u32(27))
        for attr, value in (
            (2, u64(0)),
            (2, u64(0xFFFF_0000_0001)),
            (2, u64(1 << 16 | 2 << 32)),
            (3, u32(99)),
            (4, u32(99)),
        ):
            yield set_attr("vcpu0", PMU, attr, value)
            yield set_attr("vcpu0", PMU, attr, "unmapped")
        yield set_attr("vcpu0", PMU, 1)
        if with_gic:
            yield set_attr("gic0", CTRL, 0)
        for name in ("vcpu0", "vcpu0", "vcpu1"):
            yield set_attr(name, PMU, 1)
        for attr in range(5):
            yield set_attr("vcpu0", PMU, attr, u32(23))


def _timers(host: Host) -> Operations:
    yield from begin("vcpus: timers without a vGIC")
    yield vcpu(0)
    for attr in range(5):
        yield get_attr("vcpu0", TIMER, attr, u32(U32_FILL))
        yield get_attr("vcpu0", TIMER, attr, "unmapped")
        yield set_attr("vcpu0", TIMER, attr, u32(20))
        yield set_attr("vcpu0", TIMER, attr, "unmapped")
    yield from begin("vcpus: timers")
    yield device(V3, "gic0")
    yield vcpu(0)
    yield vcpu(1)
    for attr in range(5):
        for number in (0, 15, 16, 31, 32, 1020, 0x8000_0000, 0xFFFF_FFFF):
            yield set_attr("vcpu0", TIMER, attr, u32(number))
        yield set_attr("vcpu0", TIMER, attr, "unmapped")
        yield get_attr("vcpu0", TIMER, attr, u32(U32_FILL))
        yield get_attr("vcpu1", TIMER, attr, u32(U32_FILL))
    yield set_attr("vcpu0", TIMER, 0, u32(20))
    yield set_attr("vcpu1", TIMER, 1, u32(20))
    yield vcpu(2)
    for attr in range(4):
        for name in ("vcpu0", "vcpu1", "vcpu2"):
            yield get_attr(name, TIMER, attr, u32(U32_FILL))
    yield set_attr("gic0", CTRL, 0)
    yield set_attr("vcpu1", TIMER, 0, u32(21))
    yield get_attr("vcpu0", TIMER, 0, u32(U32_FILL))


def _stolen_time(host: Host) -> Operations:
    page, top = host.page_size, 1 << 36
    yield from begin("vcpus: stolen time")
    yield check(abi.KVM_CAP_STEAL_TIME)
    yield vcpu(0)
    yield vcpu(1)
    yield get_attr("vcpu0", PVTIME)
    yield get_attr("vcpu0", PVTIME, 0, "unmapped")
    yield set_attr("vcpu0", PVTIME, 0, "unmapped")
    yield set_attr("vcpu0", PVTIME, 1, "unmapped")
    for ipa in (0, 1, 63, 64, page, top - 64, top, U64 & -64, U64):
        yield set_attr("vcpu0", PVTIME, 0, u64(ipa))
    yield region(0, 0, page)
    yield region(1, top - page, page)
    yield region(2, 0x1_0000_0000, page, flags=abi.KVM_MEM_READONLY)
    yield region(3, 0x2_0000_0000, page, "unmapped")
    for ipa in (page, 0x1_0000_0000, top, 1, 32, top - 32):
        yield set_attr("vcpu0", PVTIME, 0, u64(ipa))
    yield set_attr("vcpu0", PVTIME, 0, u64(top - 64))
    yield get_attr("vcpu0", PVTIME)
    for ipa in (0, 1, top, top - 64):
        yield set_attr("vcpu0", PVTIME, 0, u64(ipa))
    yield set_attr("vcpu0", PVTIME, 0, "unmapped")
    yield set_attr("vcpu1", PVTIME, 0, u64(0x2_0000_0000))
    yield get_attr("vcpu1", PVTIME)
    yield region(1, 0, 0)
    yield get_attr("vcpu0", PVTIME)


def smccc_filter(base: int, count: int, action: int, pad: tuple[int, ...] = ()) -> Struct:
    """The struct of an SMCCC filter."""
    return struct("smccc_filter", base=base, nr_functions=count, action=action, pad=list(pad))


def _vm_attributes(host: Host) -> Operations:
    yield from begin("vcpus: attributes of the VM")
    for group in (0, 1, 99, 0xFFFF_FFFF):
        for attr in (0, 1, 2, 1 << 32):
            yield has_attr("vm0", group, attr)
            yield get_attr("vm0", group, attr)
            yield set_attr("vm0", group, attr, "unmapped")
    for request in ("KVM_SET_DEVICE_ATTR", "KVM_GET_DEVICE_ATTR", "KVM_HAS_DEVICE_ATTR"):
        for where in BAD_POINTERS:
            yield Ioctl("vm0", request, where)


def _smccc_filter(host: Host) -> Operations:
    yield from begin("vcpus: the SMCCC filter")
    for base, count, action, pad in (
        (0x8400_0000, 0, 0, ()),
        (0x8400_0000, 1, 3, ()),
        (0x8400_0000, 1, 255, ()),
        (0x8400_0000, 1, 1, (0, 1)),
        (0x8400_0000, 1, 1, ()),
        (0x8400_0000, 1, 1, ()),
        (0x83FF_FFFF, 2, 0, ()),
        (0x8400_0001, 16, 2, ()),
        (0x8400_0010, 1, 0, ()),
        (0x8400_0011, 1, 0, ()),
        (0x8000_0000, 1, 1, ()),
        (0x7FFF_FFFF, 1, 1, ()),
        (0x7FFF_FFFF, 2, 1, ()),
        (0x8000_FFFF, 1, 1, ()),
        (0x8001_0000, 1, 1, ()),
        (0xC000_0000, 0x1_0000, 1, ()),
        (0xC001_0000, 1, 1, ()),
        (0xBFFF_FFFF, 1, 1, ()),
        (0xFFFF_FFFF, 1, 1, ()),
        (0xFFFF_FFFF, 2, 1, ()),
        (0xFFFF_FFF0, 0x11, 1, ()),
        (0, 0xFFFF_FFFF, 1, ()),
        (0, 0x7000_0000, 1, ()),
        (1, 1, 1, ()),
    ):
        yield set_attr("vm0", SMCCC, 0, smccc_filter(base, count, action, pad))
    yield vcpu(0)
    yield set_attr("vm0", SMCCC, 0, smccc_filter(0x8500_0000, 1, 1))
    yield set_attr("vm0", SMCCC, 0, Bytes(b"\xff" * 24))
    yield get_attr("vm0", SMCCC, 0, u64(FILL))
