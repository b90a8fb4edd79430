# SPDX-License-Identifier: Apache-2.0
"""What breaks the emulated kernel in one point, so that the claim about it is seen to fail."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from struct import Struct
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from kvmipa import abi
from kvmipa.backend.interposed import InterposedBackend
from kvmipa.machine_type import DEFAULT_IPA_BITS, SIZE_MASK

if TYPE_CHECKING:
    from array import array
    from collections.abc import Sequence

    from kvmipa.backend import Backend

#: A host with which most claims can be tested: 4K pages, a limit of 52 bits, a GICv3, Linux 6.12.
USUAL: Final = "qemu-max-6.12-4k"


@dataclass(frozen=True)
class Sabotage:
    """One point that is broken.

    claim: the id of the claim that says otherwise. what: is broken, in words. backend: puts the saboteur in front of
    the emulated kernel. host: the preset on which it is done.
    """

    claim: str
    what: str
    backend: Callable[[Backend], Backend]
    host: str = USUAL

    def __str__(self) -> str:
        """For the test's name."""
        return f"{self.claim}: {self.what}"


class Region(NamedTuple):
    """KVM_SET_USER_MEMORY_REGION, in bytes."""

    slot: int
    flags: int
    address: int
    size: int
    hva: int


class Attribute(NamedTuple):
    """KVM_{SET,GET,HAS}_DEVICE_ATTR of a device of this type; address: of the value, in this process."""

    device: int
    request: int
    group: int
    attribute: int
    address: int


class Capability(NamedTuple):
    """KVM_ENABLE_CAP with its first argument."""

    number: int
    value: int


_REGION: Final = Struct(abi.STRUCTS["userspace_memory_region"][0])
_ATTRIBUTE: Final = Struct(abi.STRUCTS["device_attr"][0])
_DEVICE: Final = Struct(abi.STRUCTS["create_device"][0])
_CAPABILITY: Final = Struct("=IIQ")
_ATTRIBUTES: Final = (abi.KVM_SET_DEVICE_ATTR, abi.KVM_GET_DEVICE_ATTR, abi.KVM_HAS_DEVICE_ATTR)

#: What a request comes to: the saboteur, the descriptor, what is asked, and what asks the kernel for it (or for
#: something else).
Change = Callable[["Saboteur", int, Any, Callable[[Any], int]], int]


class Saboteur(InterposedBackend):
    """Passes requests on, and changes those that it has a change for.

    Changes by what they are about: requests (whose argument is a number or an address; by the request's number),
    region, attribute, device (its type), capability (enabled). types: of VMs, by descriptor; slots: that
    the kernel took, by VM and number; devices: their types; vms: of vCPUs.
    """

    def __init__(
        self,
        behind: Backend,
        *,
        requests: dict[int, Change] | None = None,
        region: Change | None = None,
        attribute: Change | None = None,
        device: Change | None = None,
        capability: Change | None = None,
    ) -> None:
        super().__init__(behind)
        self._requests = requests or {}
        self._region, self._attribute, self._device = region, attribute, device
        self._capability = capability
        self.types: dict[int, int] = {}
        self.slots: dict[tuple[int, int], Region] = {}
        self.devices: dict[int, int] = {}
        self.vms: dict[int, int] = {}
        self.asked: dict[tuple[int, int], int] = {}

    # ------------------------------------------------------------------------------------------ numbers

    def ioctl(self, fd: int, request: int, argument: int, /) -> int:
        """See Backend."""

        def send(value: int) -> int:
            return self.behind.ioctl(fd, request, value)

        change = self._requests.get(request)
        result = change(self, fd, argument, send) if change else send(argument)
        self.asked[fd, request] = self.asked.get((fd, request), 0) + 1
        if result >= 0 and request == abi.KVM_CREATE_VM:
            self.types[result] = argument
        elif result >= 0 and request == abi.KVM_CREATE_VCPU:
            self.vms[result] = fd
        return result

    def close(self, fd: int, /) -> None:
        """See Backend."""
        if self.types.pop(fd, None) is not None:
            self.slots = {key: region for key, region in self.slots.items() if key[0] != fd}
        self.devices.pop(fd, None)
        self.vms.pop(fd, None)
        self.asked = {key: count for key, count in self.asked.items() if key[0] != fd}
        super().close(fd)

    def sweep_machine_types(self, fd: int, types: array[int], /) -> Sequence[int]:
        """See Backend. Through ioctl(), so that a sweep finds what a single KVM_CREATE_VM does."""
        results = []
        for machine_type in types:
            vm = self.ioctl(fd, abi.KVM_CREATE_VM, machine_type)
            if vm >= 0:
                self.close(vm)
            results.append(max(-vm, 0))
        return results

    def bits(self, fd: int) -> int | None:
        """The IPA size that a VM's descriptor, or a vCPU's, was asked for; None: it is neither."""
        machine_type = self.types.get(self.vms.get(fd, fd))
        return None if machine_type is None else machine_type & SIZE_MASK or DEFAULT_IPA_BITS

    # ------------------------------------------------------------------------------------------ structs

    def ioctl_buffer(self, fd: int, request: int, buffer: bytearray, /) -> int:
        """See Backend."""
        if request in {abi.KVM_SET_USER_MEMORY_REGION, abi.KVM_SET_USER_MEMORY_REGION2}:
            return self._set_region(fd, request, buffer)
        if request in _ATTRIBUTES and fd in self.devices:
            _, group, attribute, address = _ATTRIBUTE.unpack_from(buffer)
            asked = Attribute(self.devices[fd], request, group, attribute, address)
            return self._ask(self._attribute, fd, asked, _pack_attribute, request, buffer)
        if request == abi.KVM_CREATE_DEVICE:
            kind, _, _ = _DEVICE.unpack_from(buffer)
            result = self._ask(self._device, fd, kind, _pack_device, request, buffer)
            _, made, flags = _DEVICE.unpack_from(buffer)
            if result >= 0 and not flags & abi.KVM_CREATE_DEVICE_TEST:
                self.devices[made] = kind
            return result
        if request == abi.KVM_ENABLE_CAP:
            number, _, value = _CAPABILITY.unpack_from(buffer)
            return self._ask(self._capability, fd, Capability(number, value), _pack_capability, request, buffer)
        return super().ioctl_buffer(fd, request, buffer)

    def _ask(
        self,
        change: Change | None,
        fd: int,
        asked: Any,
        pack_into: Callable[[bytearray, Any], None],
        request: int,
        buffer: bytearray,
    ) -> int:
        def send(value: Any) -> int:
            pack_into(buffer, value)
            return self.behind.ioctl_buffer(fd, request, buffer)

        return change(self, fd, asked, send) if change else send(asked)

    def _set_region(self, fd: int, request: int, buffer: bytearray) -> int:
        asked = Region(*_REGION.unpack_from(buffer))
        result = self._ask(self._region, fd, asked, _pack_region, request, buffer)
        if result >= 0:
            if asked.size:
                self.slots[fd, asked.slot] = asked
            else:
                self.slots.pop((fd, asked.slot), None)
        return result


def _pack_region(buffer: bytearray, region: Region) -> None:
    _REGION.pack_into(buffer, 0, *region)


def _pack_attribute(buffer: bytearray, asked: Attribute) -> None:
    _ATTRIBUTE.pack_into(buffer, 0, 0, asked.group, asked.attribute, asked.address)


def _pack_device(buffer: bytearray, kind: int) -> None:
    _DEVICE.pack_into(buffer, 0, kind, *_DEVICE.unpack_from(buffer)[1:])


def _pack_capability(buffer: bytearray, asked: Capability) -> None:
    _CAPABILITY.pack_into(buffer, 0, asked.number, _CAPABILITY.unpack_from(buffer)[1], asked.value)
