# SPDX-License-Identifier: Apache-2.0
"""A system call as a fault sees it: its name, the kind of descriptor, the argument."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from kvmipa import abi
from kvmipa.errno_names import errno_name
from kvmipa.packing import fields_of

if TYPE_CHECKING:
    from collections.abc import Mapping

#: The kinds of descriptor.
KINDS: Final = ("kvm", "vm", "vcpu", "device", "statistics", "guest_memfd")

#: The system calls that are no ioctls.
SYSTEM_CALLS: Final = ("open", "mmap")

#: All that a fault may be about.
NAMES: Final = (*SYSTEM_CALLS, *abi.REQUESTS)

# The descriptors that requests return. KVM_CREATE_DEVICE puts its into the struct.
MAKERS: Final = {
    "KVM_CREATE_VM": "vm",
    "KVM_CREATE_VCPU": "vcpu",
    "KVM_CREATE_DEVICE": "device",
    "KVM_GET_STATS_FD": "statistics",
    "KVM_CREATE_GUEST_MEMFD": "guest_memfd",
}

# Requests whose struct has a name that does not follow from theirs.
_STRUCTS: Final = {
    "KVM_SET_USER_MEMORY_REGION": "userspace_memory_region",
    "KVM_SET_USER_MEMORY_REGION2": "userspace_memory_region2",
    "KVM_ARM_VCPU_INIT": "vcpu_init",
    "KVM_ARM_PREFERRED_TARGET": "vcpu_init",
    "KVM_ARM_SET_DEVICE_ADDR": "arm_device_addr",
    "KVM_ARM_SET_COUNTER_OFFSET": "arm_counter_offset",
    "KVM_ARM_MTE_COPY_TAGS": "arm_copy_mte_tags",
    "KVM_REGISTER_COALESCED_MMIO": "coalesced_mmio_zone",
    "KVM_UNREGISTER_COALESCED_MMIO": "coalesced_mmio_zone",
    "KVM_HAS_DEVICE_ATTR": "device_attr",
    "KVM_IRQ_LINE": "irq_level",
    "KVM_SIGNAL_MSI": "msi",
    "KVM_SET_GSI_ROUTING": "irq_routing",
}

# Two requests have one number: which it is depends on the descriptor.
_OF_A_VM: Final = {abi.KVM_ARM_SET_DEVICE_ADDR: "KVM_ARM_SET_DEVICE_ADDR"}
_BY_NUMBER: Final = {number: name for name, number in reversed(abi.REQUESTS.items())}


def name_of(request: int, kind: str) -> str:
    """The name of a request on a kind of descriptor; its number where kvmipa knows none.

    >>> name_of(0x4010aeab, "vcpu"), name_of(0x4010aeab, "vm"), name_of(0xaeff, "vm")
    ('KVM_GET_ONE_REG', 'KVM_ARM_SET_DEVICE_ADDR', '0xaeff')
    """
    request &= 0xFFFF_FFFF
    of_vm = _OF_A_VM.get(request) if kind == "vm" else None
    return of_vm or _BY_NUMBER.get(request) or hex(request)


def struct_name(request: str) -> str | None:
    """The struct of kvmipa.abi that a request points to; None where it has none, or one of its own.

    >>> struct_name("KVM_CREATE_DEVICE"), struct_name("KVM_CREATE_VM")
    ('create_device', None)
    """
    name = request.removeprefix("KVM_").removeprefix("GET_").removeprefix("SET_").lower()
    name = _STRUCTS.get(request, name)
    return name if name in abi.STRUCTS and abi.REQUESTS[request] >> 30 else None


@dataclass(frozen=True)
class Call:
    """One system call.

    request: "KVM_CREATE_VM" and so on, "open" or "mmap". on: the kind of descriptor, one of KINDS; empty for "open".
    argument: the value; of a request with a struct the address, or 0 where kvmipa has the struct in a buffer of its
    own. data: the struct's bytes. path: what is opened. own: kvmipa's own question whether the host ignores sizes,
    which is a KVM_CREATE_VM of one bit.

    >>> call = Call("KVM_SET_USER_MEMORY_REGION", "vm", data=bytes(8) + (1 << 30).to_bytes(8, "little") + bytes(16))
    >>> call.fields["slot"], hex(call.fields["guest_phys_addr"])
    (0, '0x40000000')
    """

    request: str
    on: str = ""
    argument: int = 0
    data: bytes = b""
    path: str = ""
    own: bool = False

    @property
    def fields(self) -> Mapping[str, int]:
        """The fields of the struct by name, an array's elements as name[0], name[1]; empty where it is not known."""
        name = struct_name(self.request) if self.request in abi.REQUESTS else None
        return {} if name is None else _fields(name, self.data)

    def __str__(self) -> str:
        """As in kvmipa's errors."""
        if self.request == "open":
            return f"open({self.path})"
        return f"{self.request}({self.argument:#x})" if self.argument and not self.data else self.request


def _fields(name: str, data: bytes) -> Mapping[str, int]:
    found = {}
    for field in fields_of(name):
        size = field.bits // 8
        for number in range(field.numbers):
            at = field.offset + number * size
            label = field.name if field.numbers == 1 else f"{field.name}[{number}]"
            found[label] = int.from_bytes(data[at : at + size], "little")
    return found


@dataclass(frozen=True)
class Injection:
    """A call that a fault answered, changed or delayed.

    number: the how manieth of the calls that the fault is about, from 1. what: what was done to it, in a few words.
    error: the errno that it failed with; 0 where it did not fail.

    >>> print(Injection(Call("KVM_CREATE_VM", "kvm", 40), number=2, what="failed", error=12))
    KVM_CREATE_VM(0x28), call 2: failed with ENOMEM
    """

    call: Call
    number: int
    what: str
    error: int = 0

    def __str__(self) -> str:
        """A line for people."""
        how = f" with {errno_name(self.error)}" if self.error else ""
        return f"{self.call}, call {self.number}: {self.what}{how}"
