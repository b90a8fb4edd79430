# SPDX-License-Identifier: Apache-2.0
"""KVM_SET_DEVICE_ATTR and its kind: what devices, vCPUs and VMs are asked with (kernel-device-spec 2.0, 3)."""

from __future__ import annotations

from dataclasses import dataclass
from errno import ENXIO
from struct import Struct
from typing import TYPE_CHECKING, Any, Final, Generic, Protocol, TypeVar

from kvmipa import abi
from kvmipa.backend.emulated import user_memory
from kvmipa.backend.emulated.requests import Request

if TYPE_CHECKING:
    from collections.abc import Callable

    from kvmipa.backend.emulated.user_memory import Argument

_ATTR: Final = Struct(abi.STRUCTS["device_attr"][0])


class HasAttributes(Protocol):
    """What is asked for attributes: each answers with 0 or -errno.

    address: of the attribute's value, in the calling process.
    """

    def set_attr(self, group: int, attr: int, address: int, /) -> int:
        """KVM_SET_DEVICE_ATTR."""
        ...

    def get_attr(self, group: int, attr: int, address: int, /) -> int:
        """KVM_GET_DEVICE_ATTR."""
        ...

    def has_attr(self, group: int, attr: int, address: int, /) -> int:
        """KVM_HAS_DEVICE_ATTR."""
        ...


Owner = TypeVar("Owner")


@dataclass(frozen=True)
class Group(Generic[Owner]):
    """A group of attributes: its operations, of an attribute and the address of its value."""

    set: Callable[[Owner, int, int], int]
    get: Callable[[Owner, int, int], int]
    has: Callable[[Owner, int, int], int]


def no_attribute(_owner: object, _attr: int, _address: int) -> int:
    """The operation of a group that has none of its kind."""
    return -ENXIO


class WithAttributeGroups:
    """Attributes that are answered by groups; ENXIO without one."""

    def attribute_group(self, _number: int) -> Group[Any] | None:
        """The group of a number."""
        raise NotImplementedError

    def set_attr(self, group: int, attr: int, address: int, /) -> int:
        """KVM_SET_DEVICE_ATTR."""
        found = self.attribute_group(group)
        return -ENXIO if found is None else found.set(self, attr, address)

    def get_attr(self, group: int, attr: int, address: int, /) -> int:
        """KVM_GET_DEVICE_ATTR."""
        found = self.attribute_group(group)
        return -ENXIO if found is None else found.get(self, attr, address)

    def has_attr(self, group: int, attr: int, address: int, /) -> int:
        """KVM_HAS_DEVICE_ATTR: neither addresses nor values are looked at."""
        found = self.attribute_group(group)
        return -ENXIO if found is None else found.has(self, attr, address)


def asked(argument: Argument) -> tuple[int, int, int]:
    """Group, attribute and address of the value; the flags are not looked at."""
    _flags, group, attr, address = _ATTR.unpack(user_memory.read(argument, _ATTR.size))
    return group, attr, address


def _set(target: HasAttributes, argument: Argument) -> int:
    return target.set_attr(*asked(argument))


def _get(target: HasAttributes, argument: Argument) -> int:
    return target.get_attr(*asked(argument))


def _has(target: HasAttributes, argument: Argument) -> int:
    return target.has_attr(*asked(argument))


# On the descriptor of what has attributes.
REQUESTS: Final[tuple[Request, ...]] = (
    Request(abi.KVM_SET_DEVICE_ATTR, _set),
    Request(abi.KVM_GET_DEVICE_ATTR, _get),
    Request(abi.KVM_HAS_DEVICE_ATTR, _has),
)
