# SPDX-License-Identifier: Apache-2.0
"""Saboteurs of claims about the vGIC's and the ITS's attributes."""

from __future__ import annotations

import ctypes
from errno import E2BIG, EBUSY, EEXIST, EFAULT, EINVAL, ENODEV, ENOENT, ENXIO
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from kvmipa import abi
from kvmipa.device import DeviceType
from tests.conformance.sabotage import USUAL, Attribute, Sabotage, Saboteur

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.conformance.sabotage import Change

    Send = Callable[[Any], int]

_SET: Final = abi.KVM_SET_DEVICE_ATTR
_GET: Final = abi.KVM_GET_DEVICE_ATTR
_HAS: Final = abi.KVM_HAS_DEVICE_ATTR
_GICV2: Final = "raspberry-pi-4"
_REDIST: Final = abi.KVM_VGIC_V3_ADDR_TYPE_REDIST
_REGION: Final = abi.KVM_VGIC_V3_ADDR_TYPE_REDIST_REGION
_V2: Final = DeviceType.VGIC_V2
_V3: Final = DeviceType.VGIC_V3
_ITS: Final = DeviceType.VGIC_ITS


def _attribute(claim: str, what: str, change: Change, host: str = USUAL) -> Sabotage:
    return Sabotage(claim, what, partial(Saboteur, attribute=change), host)


def _answering(device: int, attribute: int, came: int, instead: int, *, request: int = _SET, group: int = 0) -> Change:
    """An answer of a device's attribute is another."""

    def change(_kernel: Saboteur, _fd: int, asked: Attribute, send: Send) -> int:
        result = send(asked)
        is_it = asked[:4] == (device, request, group, attribute)
        return -instead if is_it and result == -came else result

    return change


def _value(asked: Attribute) -> int:
    return ctypes.c_uint64.from_address(asked.address).value if asked.address else 0


def _setting(device: int, attribute: int, when: Callable[[int], bool], instead: int) -> Change:
    """Some values of an attribute have another answer."""

    def change(_kernel: Saboteur, _fd: int, asked: Attribute, send: Send) -> int:
        is_it = asked[:4] == (device, _SET, 0, attribute)
        return -instead if is_it and when(_value(asked)) else send(asked)

    return change


def _reading(device: int, attribute: int, other: Callable[[int], int], group: int = 0) -> Change:
    """An attribute's value is read as another."""

    def change(_kernel: Saboteur, _fd: int, asked: Attribute, send: Send) -> int:
        result = send(asked)
        if result >= 0 and asked[:4] == (device, _GET, group, attribute):
            value = ctypes.c_uint64.from_address(asked.address)
            value.value = other(value.value)
        return result

    return change


def _regions_beside_one_place(kernel: Saboteur, fd: int, asked: Attribute, send: Send) -> int:
    result = send(asked)
    if asked[:4] == (_V3, _SET, 0, _REDIST):
        kernel.asked[fd, _REDIST] = 1
    beside = asked[:4] == (_V3, _SET, 0, _REGION) and (fd, _REDIST) in kernel.asked
    return 0 if beside and result == -EINVAL else result


# What a frame's top is, in a space of 32 bits.
def _near_the_end(value: int) -> bool:
    return 1 << 32 > value & (1 << 52) - 1 >= (1 << 32) - 0x4_0000


def _of_frame(ids: tuple[str, str, str], device: DeviceType, attribute: int, host: str = USUAL) -> tuple[Sabotage, ...]:
    """The three claims about a frame, each in its halves."""
    space, alignment, once = ids
    name = f"{device.label}'s {attribute}"
    answering = partial(_answering, device, attribute)
    return (
        _attribute(space, f"beyond is taken, {name}", answering(E2BIG, 0), host),
        _attribute(space, f"beyond is EINVAL, {name}", answering(E2BIG, EINVAL), host),
        _attribute(space, f"the top is E2BIG, {name}", _setting(device, attribute, _near_the_end, E2BIG), host),
        _attribute(alignment, f"misaligned is taken, {name}", answering(EINVAL, 0), host),
        _attribute(alignment, f"misaligned is E2BIG, {name}", answering(EINVAL, E2BIG), host),
        _attribute(once, f"it can be set twice, {name}", answering(EEXIST, 0), host),
        _attribute(once, f"twice is EBUSY, {name}", answering(EEXIST, EBUSY), host),
        _attribute(once, f"the second address counts, {name}", _changes(device, attribute), host),
    )


def _changes(device: int, attribute: int) -> Change:
    """The second address is read afterwards."""

    def change(kernel: Saboteur, fd: int, asked: Attribute, send: Send) -> int:
        result = send(asked)
        if asked[:4] == (device, _GET, 0, attribute) and result >= 0 and kernel.asked.get((fd, _SET), 0):
            ctypes.c_uint64.from_address(asked.address).value += 0x10_0000
        if asked.request == _SET and result == -EEXIST:
            kernel.asked[fd, _SET] = 1
        return result

    return change


# ------------------------------------------------------------------------------------------------ devices


def _any_number(_kernel: Saboteur, _fd: int, kind: int, send: Send) -> int:
    result = send(kind)
    return -EBUSY if result == -EEXIST else result


def _unknown_is_einval(_kernel: Saboteur, _fd: int, kind: int, send: Send) -> int:
    result = send(kind)
    return -EINVAL if result == -ENODEV and kind > 100 else result


def _never_found(_kernel: Saboteur, _fd: int, number: int, send: Send) -> int:
    result = send(number)
    return -EBUSY if result == -EINVAL and number == 1 else result


def _not_late(value: int) -> bool:
    return value == (1 << 32) - 0x1_0000


def _of_unknown(claim: str, device: DeviceType, own: int, others: int, host: str = USUAL) -> tuple[Sabotage, ...]:
    """The claim about unknown groups and attributes, in its parts."""
    of_address = ENODEV if device is _ITS else ENXIO
    return tuple(
        _attribute(claim, what, _answering(device, attribute, came, instead, request=request, group=group), host)
        for what, group, attribute, request, came, instead in (
            ("an unknown group is EINVAL", 200, 0, _SET, ENXIO, EINVAL),
            ("an unknown group is read", 200, 0, _GET, ENXIO, 0),
            ("an unknown group is there", 200, 0, _HAS, ENXIO, 0),
            ("an unknown address is taken", 0, 9, _SET, of_address, 0),
            ("an unknown address is EINVAL", 0, 9, _GET, of_address, EINVAL),
            ("an unknown address is there", 0, 9, _HAS, ENXIO, 0),
            ("another device's address is taken", 0, others, _SET, of_address, 0),
            ("another device's address is read", 0, others, _GET, of_address, 0),
            ("another device's address is there", 0, others, _HAS, ENXIO, 0),
            ("its own address is not there", 0, own, _HAS, 0, ENXIO),
        )
    )


_region: Final = partial(_answering, _V3, _REGION)

SABOTAGES: Final = (
    *_of_frame(("V1", "V2", "V3"), _V3, abi.KVM_VGIC_V3_ADDR_TYPE_DIST),
    _attribute("V4", "a region beyond is taken", _region(E2BIG, 0)),
    _attribute("V4", "a region beyond is EINVAL", _region(E2BIG, EINVAL)),
    _attribute("V4", "a region at the top is E2BIG", _setting(_V3, _REGION, _near_the_end, E2BIG)),
    _attribute("V5", "whatever is wrong is taken", _setting(_V3, _REGION, lambda value: not value >> 52, 0)),
    _attribute("V5", "flags are taken", _setting(_V3, _REGION, lambda value: bool(value & 0xF000), 0)),
    _attribute("V5", "indices are in any order", _setting(_V3, _REGION, lambda value: value & 0xFFF == 2, 0)),
    _attribute("V5", "the first index is any", _setting(_V3, _REGION, lambda value: value == 0x20_0000_0800_0001, 0)),
    _attribute("V5", "an index is taken twice", _setting(_V3, _REGION, lambda value: value == 0x20_0000_0810_0000, 0)),
    _attribute("V5", "regions may overlap", _setting(_V3, _REGION, lambda value: value == 0x20_0000_0802_0001, 0)),
    _attribute("V5", "there is one region", _setting(_V3, _REGION, lambda value: value == 0x10_0000_0804_0001, EINVAL)),
    _attribute("V6", "a region that is not there is EINVAL", _region(ENOENT, EINVAL, request=_GET)),
    _attribute("V6", "a region that is not there is read", _region(ENOENT, 0, request=_GET)),
    _attribute("V6", "the number of frames is not read", _reading(_V3, _REGION, lambda value: value & (1 << 52) - 1)),
    _attribute("V7", "one place is taken beside regions", _answering(_V3, _REDIST, EINVAL, 0)),
    _attribute("V7", "regions are taken beside one place", _regions_beside_one_place),
    *_of_unknown("V8", _V3, abi.KVM_VGIC_V3_ADDR_TYPE_DIST, abi.KVM_VGIC_ITS_ADDR_TYPE),
    *_of_frame(("V9", "V10", "V11"), _ITS, abi.KVM_VGIC_ITS_ADDR_TYPE),
    *_of_unknown("V12", _ITS, abi.KVM_VGIC_ITS_ADDR_TYPE, abi.KVM_VGIC_V3_ADDR_TYPE_DIST),
    *_of_frame(("V13", "V14", "V15"), _V2, abi.KVM_VGIC_V2_ADDR_TYPE_DIST, _GICV2),
    *_of_frame(("V13", "V14", "V15"), _V2, abi.KVM_VGIC_V2_ADDR_TYPE_CPU, _GICV2),
    *_of_unknown("V16", _V2, abi.KVM_VGIC_V2_ADDR_TYPE_DIST, abi.KVM_VGIC_V3_ADDR_TYPE_DIST, _GICV2),
    _attribute("V17", "no memory is EINVAL", _answering(_V3, 2, EFAULT, EINVAL)),
    _attribute("V17", "nobody minds where it is written to", _answering(_V3, 2, EFAULT, 0, request=_GET)),
    _attribute("V18", "every number is taken", _answering(_V3, 0, EINVAL, 0, group=3)),
    _attribute("V18", "it can be set twice", _answering(_V3, 0, EBUSY, 0, group=3)),
    _attribute("V18", "no number is taken", _answering(_V3, 0, 0, EINVAL, group=3)),
    _attribute("V18", "another number is read", _reading(_V3, 0, lambda value: value + 32, group=3)),
    Sabotage("V19", "a second vGIC is EBUSY", partial(Saboteur, device=_any_number)),
    Sabotage("V19", "an unknown device is EINVAL", partial(Saboteur, device=_unknown_is_einval)),
    Sabotage("I14", "it is another error", partial(Saboteur, requests={abi.KVM_CREATE_VCPU: _never_found})),
    _attribute("I14", "it is found at once", _setting(_V3, _REDIST, _not_late, E2BIG)),
)
