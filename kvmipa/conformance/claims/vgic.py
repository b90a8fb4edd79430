# SPDX-License-Identifier: Apache-2.0
"""Claims about where the vGIC's frames are in the guest's physical address space, and about its attributes."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Final

from kvmipa import abi
from kvmipa.conformance.claim import IMPLEMENTATION, Claim
from kvmipa.conformance.target import OK, number
from kvmipa.device import DeviceType

if TYPE_CHECKING:
    from collections.abc import Iterator

    from kvmipa.conformance.target import Target
    from kvmipa.device import Device
    from kvmipa.vm import Vm

_ADDR: Final = abi.KVM_DEV_ARM_VGIC_GRP_ADDR
_NR_IRQS: Final = abi.KVM_DEV_ARM_VGIC_GRP_NR_IRQS
_REGION: Final = abi.KVM_VGIC_V3_ADDR_TYPE_REDIST_REGION
_REDIST: Final = abi.KVM_VGIC_V3_ADDR_TYPE_REDIST
_DIST: Final = abi.KVM_VGIC_V3_ADDR_TYPE_DIST

_FRAME: Final = 0x2_0000
_HERE: Final = 0x800_0000
_UNKNOWN_GROUP: Final = 200
_UNKNOWN_ATTRIBUTE: Final = 9
_NO_ADDRESS: Final = 0
# PowerPC's MPIC, and beyond KVM_DEV_TYPE_MAX of every release.
_NO_DEVICES: Final = (1, 999)


@dataclass(frozen=True)
class _Frame:
    """A frame: its name, the device's type and the GIC that the host needs, attribute, size and alignment in bytes."""

    name: str
    device: DeviceType
    gic: str
    attribute: int
    size: int
    alignment: int


_FRAMES: Final = {
    "v3": (_Frame("the distributor", DeviceType.VGIC_V3, "v3", _DIST, 0x1_0000, 0x1_0000),),
    "its": (_Frame("the ITS", DeviceType.VGIC_ITS, "v3", abi.KVM_VGIC_ITS_ADDR_TYPE, 0x2_0000, 0x1_0000),),
    "v2": (
        _Frame("the distributor", DeviceType.VGIC_V2, "v2", abi.KVM_VGIC_V2_ADDR_TYPE_DIST, 0x1000, 0x1000),
        _Frame("the CPU interface", DeviceType.VGIC_V2, "v2", abi.KVM_VGIC_V2_ADDR_TYPE_CPU, 0x2000, 0x1000),
    ),
}


@contextmanager
def _device(on: Target, kind: DeviceType, gic: str) -> Iterator[tuple[Vm, Device]]:
    """A device of a new VM; skips the check where the host's GIC has no such."""
    if on.facts.profile.gic != gic:
        on.skip(f"the host has no GIC{gic}" if on.facts.profile.gic else "the host has no GIC that KVM can use")
    with on.small_vm() as vm, vm.create_device(kind) as device:
        yield vm, device


_v3 = partial(_device, kind=DeviceType.VGIC_V3, gic="v3")


# ------------------------------------------------------------------------------------------------ one frame


def _space(on: Target, kind: str) -> None:
    for frame in _FRAMES[kind]:
        with _device(on, frame.device, frame.gic) as (vm, device):
            end = 1 << on.space_bits(vm)
            for address, what in ((end, "at the end of the space"), (end << 4, "far beyond it")):
                on.expect_answer(
                    f"{frame.name} {what}", "E2BIG", partial(device.set_attr, _ADDR, frame.attribute, address)
                )
            last = end - frame.alignment
            if last + frame.size > end and on.facts.has("device_range_includes_size"):
                what = f"{frame.name} at {last:#x}, partly beyond"
                on.expect_answer(what, "E2BIG", partial(device.set_attr, _ADDR, frame.attribute, last))
            top = end - frame.size
            what = f"{frame.name} at {top:#x}, the top of the space"
            on.expect_answer(what, OK, partial(device.set_attr, _ADDR, frame.attribute, top))
            came = number(partial(device.get_attr, _ADDR, frame.attribute))
            on.expect(f"the address of {frame.name}", top, came)


def _alignment(on: Target, kind: str) -> None:
    for frame in _FRAMES[kind]:
        with _device(on, frame.device, frame.gic) as (_, device):
            for off in (1, 8, frame.alignment // 2):
                what = f"{frame.name} at {_HERE + off:#x}"
                on.expect_answer(what, "EINVAL", partial(device.set_attr, _ADDR, frame.attribute, _HERE + off))
            what = f"{frame.name} at {_HERE:#x}"
            on.expect_answer(what, OK, partial(device.set_attr, _ADDR, frame.attribute, _HERE))


def _once(on: Target, kind: str) -> None:
    for frame in _FRAMES[kind]:
        with _device(on, frame.device, frame.gic) as (_, device):
            place = partial(device.set_attr, _ADDR, frame.attribute)
            on.expect_answer(f"{frame.name} at {_HERE:#x}", OK, partial(place, _HERE))
            on.expect_answer(f"{frame.name} at the same address again", "EEXIST", partial(place, _HERE))
            other = _HERE + 0x10_0000
            on.expect_answer(f"{frame.name} at another address", "EEXIST", partial(place, other))
            came = number(partial(device.get_attr, _ADDR, frame.attribute))
            on.expect(f"the address of {frame.name}", _HERE, came)


# ------------------------------------------------------------------------------------------------ redistributors


def _region(base: int, count: int, index: int = 0, flags: int = 0) -> int:
    return index | flags << 12 | base | count << abi.KVM_VGIC_V3_RDIST_COUNT_SHIFT


def _region_space(on: Target) -> None:
    whole = on.facts.has("device_range_includes_size")
    with _v3(on) as (vm, device):
        end = 1 << on.space_bits(vm)
        # Its field has no room for an address of 2^52 or more.
        if not end & ~abi.KVM_VGIC_V3_RDIST_BASE_MASK:
            place = partial(device.set_attr, _ADDR, _REGION, _region(end, 2))
            on.expect_answer("a region at the end of the space", "E2BIG", place)
        if whole:
            across = _region(end - _FRAME, 2)
            what = "a region of two frames, one of them beyond"
            on.expect_answer(what, "E2BIG", partial(device.set_attr, _ADDR, _REGION, across))
        top = _region(end - 2 * _FRAME, 2)
        what = "a region of two frames at the top of the space"
        on.expect_answer(what, OK, partial(device.set_attr, _ADDR, _REGION, top))


def _region_arguments(on: Target) -> None:
    with _v3(on) as (_, device):
        for expected, what, value in (
            ("EINVAL", "no frames", _region(_HERE, 0)),
            ("EINVAL", "flags", _region(_HERE, 2, flags=1)),
            ("EINVAL", "index 1, and no region of index 0", _region(_HERE, 2, 1)),
            (OK, "index 0", _region(_HERE, 2)),
            ("EINVAL", "index 0 again", _region(_HERE + 8 * _FRAME, 2)),
            ("EINVAL", "index 2, and none of index 1", _region(_HERE + 8 * _FRAME, 2, 2)),
            ("EINVAL", "frames of the first region", _region(_HERE + _FRAME, 2, 1)),
            (OK, "index 1, behind the first one", _region(_HERE + 2 * _FRAME, 1, 1)),
        ):
            place = partial(device.set_attr, _ADDR, _REGION, value)
            on.expect_answer(f"a region of redistributors with {what}", expected, place)


def _region_reading(on: Target) -> None:
    with _v3(on) as (_, device):
        regions = [_region(_HERE, 2), _region(_HERE + 8 * _FRAME, 3, 1)]
        for index, value in enumerate(regions):
            what = f"setting region {index} of redistributors"
            on.expect_answer(what, OK, partial(device.set_attr, _ADDR, _REGION, value))
        for index, value in enumerate(regions):
            came = number(partial(device.get_attr, _ADDR, _REGION, given=index))
            on.expect(f"reading region {index}", f"{value:#x}", came if isinstance(came, str) else f"{came:#x}")
        on.expect_answer("reading region 2", "ENOENT", partial(device.get_attr, _ADDR, _REGION, given=2))


def _mixed_regions(on: Target) -> None:
    region, one = _region(_HERE, 2), _HERE + 0x100_0000
    with _v3(on) as (_, device):
        on.expect_answer("a region of redistributors", OK, partial(device.set_attr, _ADDR, _REGION, region))
        on.expect_answer("one place for all of them", "EINVAL", partial(device.set_attr, _ADDR, _REDIST, one))
    with _v3(on) as (_, device):
        on.expect_answer("one place for all redistributors", OK, partial(device.set_attr, _ADDR, _REDIST, one))
        on.expect_answer("a region", "EINVAL", partial(device.set_attr, _ADDR, _REGION, region))


# ------------------------------------------------------------------------------------------------ attributes


def _unknown(on: Target, kind: DeviceType, gic: str) -> None:
    its = kind == DeviceType.VGIC_ITS
    # The ITS's own answer for another device's address (Documentation/virt/kvm/devices/arm-vgic-its.rst).
    of_address = "ENODEV" if its else "ENXIO"
    others = _DIST if kind != DeviceType.VGIC_V3 else abi.KVM_VGIC_ITS_ADDR_TYPE
    with _device(on, kind, gic) as (_, device):
        for group, attribute, what, expected in (
            (_UNKNOWN_GROUP, 0, "a group that is none", "ENXIO"),
            (_ADDR, _UNKNOWN_ATTRIBUTE, "an address that is none", of_address),
            (_ADDR, others, "an address of another device", of_address),
        ):
            on.expect_answer(f"setting {what}", expected, partial(device.set_attr, group, attribute, _HERE))
            on.expect_answer(f"reading {what}", expected, partial(device.get_attr, group, attribute))
            on.expect(f"whether there is {what}", False, device.has_attr(group, attribute))
        own = _FRAMES["its" if its else gic][0].attribute
        on.expect("whether there is its own address", True, device.has_attr(_ADDR, own))


def _bad_pointer(on: Target) -> None:
    gic = on.facts.profile.gic or "v3"
    frame = _FRAMES[gic][0]
    with _device(on, frame.device, frame.gic) as (_, device):
        on.expect_answer(
            f"setting {frame.name}'s address from memory that is not there",
            "EFAULT",
            partial(device.set_attr_raw, _ADDR, frame.attribute, _NO_ADDRESS),
        )
        on.expect_answer(
            f"reading {frame.name}'s address to memory that is not there",
            "EFAULT",
            partial(device.get_attr_raw, _ADDR, frame.attribute, _NO_ADDRESS),
        )
        # With an address that is good it goes on.
        on.expect_answer(f"{frame.name} at {_HERE:#x}", OK, partial(device.set_attr, _ADDR, frame.attribute, _HERE))


def _nr_irqs(on: Target) -> None:
    gic = on.facts.profile.gic or "v3"
    with _device(on, _FRAMES[gic][0].device, gic) as (_, device):
        for count in (0, 32, 63, 1020, 1056):
            what = f"KVM_DEV_ARM_VGIC_GRP_NR_IRQS of {count}"
            on.expect_answer(what, "EINVAL", partial(device.set_attr, _NR_IRQS, 0, count, size=4))
        on.expect_answer("one of 128", OK, partial(device.set_attr, _NR_IRQS, 0, 128, size=4))
        on.expect("it, read", 128, number(partial(device.get_attr, _NR_IRQS, 0, 4)))
        on.expect_answer("another one", "EBUSY", partial(device.set_attr, _NR_IRQS, 0, 256, size=4))


def _devices(on: Target) -> None:
    with on.small_vm() as vm:
        for kind in _NO_DEVICES:
            on.expect_answer(f"KVM_CREATE_DEVICE of type {kind}", "ENODEV", partial(vm.create_device, kind))
    gic = on.facts.profile.gic
    if gic is None:
        return
    kind = _FRAMES[gic][0].device
    with on.small_vm() as vm, vm.create_device(kind):
        on.expect_answer(f"a second {kind.label} in a VM", "EEXIST", partial(vm.create_device, kind))


# ------------------------------------------------------------------------------------------------ found late


def _late(on: Target) -> None:
    if not on.facts.has("device_range_includes_size"):
        on.skip("before Linux 6.1 only the address is looked at, and the vCPU runs (kernel-device-spec 2.5)")
    with _v3(on) as (vm, device):
        end = 1 << on.space_bits(vm)
        place = end - _FRAME // 2
        # No vCPU, no redistributor: nothing is beyond.
        on.expect_answer(f"redistributors at {place:#x}", OK, partial(device.set_attr, _ADDR, _REDIST, place))
        on.expect_answer(f"the distributor at {_HERE:#x}", OK, partial(device.set_attr, _ADDR, _DIST, _HERE))
        with vm.create_vcpu() as vcpu:
            vcpu.init()
            what = "KVM_CREATE_VCPU 1, the first one being beyond the space"
            on.expect_answer(what, "EINVAL", partial(vm.create_vcpu, 1))


def _of_frames(kind: str, ids: tuple[str, str, str], gic: str, document: str) -> tuple[Claim, ...]:
    """The three claims about the frames of one kind of device."""
    its = kind == "its"
    what, name = ("an ITS" if its else f"a vGIC{kind}"), ("its" if its else f"vgic_{kind}")
    frames = "address" if its else "distributor's address" if kind == "v3" else "addresses"
    on = f"on hosts with a GIC{gic}"
    return (
        Claim(
            id=ids[0],
            name=f"{name}.address_space",
            text=f"The {frames} of {what} cannot be set to what is beyond the VM's IPA space: E2BIG.",
            source=f"{document}; kernel-device-spec 2.3",
            how=f"It is set to the end of the space, beyond, and (since Linux 6.1 as a whole) to its top, {on}.",
            since="4.19",
            rests_on=("C4",),
            check=partial(_space, kind=kind),
        ),
        Claim(
            id=ids[1],
            name=f"{name}.address_alignment",
            text=f"The {frames} of {what} cannot be set to what is not aligned: EINVAL.",
            source=f"{document}; kernel-device-spec 2.2, 2.3",
            how=f"It is set to an aligned address and bytes beside it, {on}.",
            since="4.19",
            check=partial(_alignment, kind=kind),
        ),
        Claim(
            id=ids[2],
            name=f"{name}.address_once",
            text=f"The {frames} of {what} can be set once: EEXIST after that.",
            source=f"{document}; kernel-device-spec 2.3",
            how=f"It is set twice, to the same address and to another, and read, {on}.",
            since="4.19",
            check=partial(_once, kind=kind),
        ),
    )


_V3_RST: Final = "devices/arm-vgic-v3.rst"

CLAIMS: Final = (
    *_of_frames("v3", ("V1", "V2", "V3"), "v3", _V3_RST),
    Claim(
        id="V4",
        name="vgic_v3.region_space",
        text="A region of redistributors is within the VM's IPA space, or E2BIG.",
        source=f"{_V3_RST}; kernel-device-spec 2.5",
        how="Regions are set at the end of the space, across it (since Linux 6.1) and at its top.",
        since="4.19",
        rests_on=("C4",),
        check=_region_space,
    ),
    Claim(
        id="V5",
        name="vgic_v3.region_arguments",
        text="Regions of redistributors have frames, no flags, indices in order and no frame in common, or EINVAL.",
        source=f"{_V3_RST}; kernel-device-spec 2.4, 2.5",
        how="Regions are set with each of that wrong, and two that are right.",
        since="4.19",
        check=_region_arguments,
    ),
    Claim(
        id="V6",
        name="vgic_v3.region_reading",
        text="A region of redistributors is read by its index; one that is not there is ENOENT.",
        source=f"{_V3_RST}; kernel-device-spec 2.6",
        how="Two regions are set and three read.",
        since="4.19",
        check=_region_reading,
    ),
    Claim(
        id="V7",
        name="vgic_v3.mixed_regions",
        text="Redistributors are in regions or in one place; having both is EINVAL.",
        source=f"{_V3_RST}; kernel-device-spec 2.5",
        how="Each is set after the other.",
        since="4.19",
        check=_mixed_regions,
    ),
    Claim(
        id="V8",
        name="vgic_v3.unknown_attribute",
        text="Groups and attributes that a vGICv3 has not are ENXIO.",
        source=f"{_V3_RST}; kernel-device-spec 2.1, 2.4, 2.6",
        how="An unknown group, an unknown address and an ITS's are set, read and asked for.",
        since="4.19",
        check=partial(_unknown, kind=DeviceType.VGIC_V3, gic="v3"),
    ),
    *_of_frames("its", ("V9", "V10", "V11"), "v3", "devices/arm-vgic-its.rst"),
    Claim(
        id="V12",
        name="its.unknown_attribute",
        text="Groups that an ITS has not are ENXIO, and addresses that it has not ENODEV.",
        source="devices/arm-vgic-its.rst; kernel-device-spec 2.1, 2.7",
        how="An unknown group, an unknown address and a vGIC's are set, read and asked for.",
        since="4.19",
        check=partial(_unknown, kind=DeviceType.VGIC_ITS, gic="v3"),
    ),
    *_of_frames("v2", ("V13", "V14", "V15"), "v2", "devices/arm-vgic.rst"),
    Claim(
        id="V16",
        name="vgic_v2.unknown_attribute",
        text="Groups and attributes that a vGICv2 has not are ENXIO.",
        source="devices/arm-vgic.rst; kernel-device-spec 2.1, 2.4, 2.6",
        how="An unknown group, an unknown address and a vGICv3's are set, read and asked for.",
        since="4.19",
        check=partial(_unknown, kind=DeviceType.VGIC_V2, gic="v2"),
    ),
    Claim(
        id="V17",
        name="vgic.bad_pointer",
        text="An attribute's value in memory that is not there is EFAULT.",
        source="devices/arm-vgic.rst, arm-vgic-v3.rst; kernel-device-spec 2.4, 2.6",
        how="The distributor's address is set from, and read to, address 0.",
        since="4.19",
        check=_bad_pointer,
    ),
    Claim(
        id="V18",
        name="vgic.interrupts",
        text="The number of interrupts is a multiple of 32 from 64 on, or EINVAL, and is set once: EBUSY after that.",
        source="devices/arm-vgic.rst, arm-vgic-v3.rst; kernel-device-spec 2.8",
        how="Numbers that are too small, too large and no multiple are set, then two good ones.",
        since="4.19",
        check=_nr_irqs,
    ),
    Claim(
        id="V19",
        name="vgic.devices",
        text="A VM has one vGIC at most; a device of a type that KVM has not is ENODEV.",
        source="api.rst 4.79; devices/arm-vgic.rst, arm-vgic-v3.rst; kernel-device-spec 1.1, 1.2",
        how="Devices of other architectures' types and a second vGIC, which is EEXIST, are created.",
        since="4.19",
        check=_devices,
    ),
    Claim(
        id="I14",
        name="vgic_v3.late_range_check",
        text="Redistributors in one place are found to be beyond the IPA space when there are vCPUs for them: EINVAL.",
        source="vgic_v3_check_base; kernel-device-spec 2.5, 2.10",
        how="They are put half a frame before the end of the space, and vCPUs are made.",
        kind=IMPLEMENTATION,
        since="4.19",
        rests_on=("C4",),
        check=_late,
    ),
)
