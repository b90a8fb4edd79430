# SPDX-License-Identifier: Apache-2.0
"""KVM_SET_DEVICE_ATTR and its kind: what devices, vCPUs and VMs are asked with (kernel-device-spec 2.0, 3)."""

from __future__ import annotations

from struct import Struct
from typing import TYPE_CHECKING, Final, Protocol

from kvmipa import abi
from kvmipa.backend.emulated import user_memory
from kvmipa.backend.emulated.requests import Request

if TYPE_CHECKING:
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
