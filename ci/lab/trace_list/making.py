# SPDX-License-Identifier: Apache-2.0
"""What the lists of operations are written with."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from kvmipa.backend.emulated.release import parse
from kvmipa.trace import Begin, Ioctl, Map, Open, Operation, Struct, struct, u32, u64

if TYPE_CHECKING:
    from kvmipa import HostProfile
    from kvmipa.trace.values import Value

Operations = Iterator[Operation]

# What a buffer holds before the kernel writes to it.
FILL: Final = 0xA5A5_A5A5_A5A5_A5A5
U64: Final = (1 << 64) - 1
U32_FILL: Final = 0xA5A5_A5A5
# Pointers that no kernel can follow.
BAD_POINTERS: Final = ("null", "unmapped", "kernel")


@dataclass(frozen=True)
class Host:
    """What the operations depend on: page size in bytes, IPA limit in bits, release, CONFIG_ARM64_VA_BITS, and vGIC."""

    page_size: int
    limit: int
    release: tuple[int, int]
    va_bits: int
    gic: str | None = "v3"

    @classmethod
    def of(cls, profile: HostProfile) -> Host:
        """A profile's."""
        limit = profile.ipa_limit
        if limit is None:
            raise ValueError("this host has no IPA limit, or no KVM")
        return cls(profile.page_size, limit, parse(profile.release)[:2], profile.config_va_bits, profile.gic)

    @property
    def sizes(self) -> tuple[int, ...]:
        """IPA sizes of the VMs, in bits.

        Since 7.3 the close of a VM takes time that doubles with each bit, and with 16K pages every release takes it
        for deleting a slot (lab.md 6).
        """
        most = 44 if self.page_size == 4096 else 42
        return tuple(dict.fromkeys(bits for bits in (32, 36, 40, min(self.limit, most)) if bits <= self.limit))

    @property
    def top_size(self) -> int:
        """The limit, where a VM of that size is closed soon; else a size below it."""
        return self.limit if self.release < (7, 0) else min(self.limit, 44 if self.page_size == 4096 else 42)


def in_turn(host: Host, *lists: Callable[[Host], Operations]) -> Operations:
    """The operations of these lists, one after the other."""
    for operations in lists:
        yield from operations(host)


def begin(name: str, bits: int = 36) -> Operations:
    """A new part with a VM "vm0" and 256 KiB of memory "mem0"."""
    yield Begin(name)
    yield Map("mem0", 0x4_0000)
    yield Open("kvm")
    yield Ioctl("kvm", "KVM_CREATE_VM", bits, new="vm0")


def region(slot: int, gpa: Value, size: int, hva: Value = "mem0", flags: int = 0, *, on: str = "vm0") -> Ioctl:
    """KVM_SET_USER_MEMORY_REGION."""
    return Ioctl(on, "KVM_SET_USER_MEMORY_REGION", region_struct(slot, gpa, size, hva, flags))


def region_struct(slot: int, gpa: Value, size: int, hva: Value = "mem0", flags: int = 0) -> Struct:
    """Its struct."""
    return struct(
        "userspace_memory_region", slot=slot, flags=flags, guest_phys_addr=gpa, memory_size=size, userspace_addr=hva
    )


def check(cap: int, on: str = "vm0") -> Ioctl:
    """KVM_CHECK_EXTENSION."""
    return Ioctl(on, "KVM_CHECK_EXTENSION", cap)


def vcpu(number: int, new: str | None = None, on: str = "vm0") -> Ioctl:
    """KVM_CREATE_VCPU."""
    return Ioctl(on, "KVM_CREATE_VCPU", number, new=new or f"vcpu{number}")


def device(kind: int, new: str | None = None, flags: int = 0, on: str = "vm0") -> Ioctl:
    """KVM_CREATE_DEVICE."""
    return Ioctl(on, "KVM_CREATE_DEVICE", struct("create_device", type=kind, fd=0xA5, flags=flags), new=new)


def set_attr(on: str, group: int, attr: int = 0, addr: Value = 0, flags: int = 0) -> Ioctl:
    """KVM_SET_DEVICE_ATTR."""
    return Ioctl(on, "KVM_SET_DEVICE_ATTR", struct("device_attr", flags=flags, group=group, attr=attr, addr=addr))


def get_attr(on: str, group: int, attr: int = 0, addr: Value | None = None) -> Ioctl:
    """KVM_GET_DEVICE_ATTR, into a buffer of 8 bytes unless told otherwise."""
    where = u64(FILL) if addr is None else addr
    return Ioctl(on, "KVM_GET_DEVICE_ATTR", struct("device_attr", group=group, attr=attr, addr=where))


def has_attr(on: str, group: int, attr: int = 0, addr: Value = 0) -> Ioctl:
    """KVM_HAS_DEVICE_ATTR."""
    return Ioctl(on, "KVM_HAS_DEVICE_ATTR", struct("device_attr", group=group, attr=attr, addr=addr))


def enable(cap: int, *args: int, flags: int = 0, on: str = "vm0") -> Ioctl:
    """KVM_ENABLE_CAP."""
    return Ioctl(on, "KVM_ENABLE_CAP", struct("enable_cap", cap=cap, flags=flags, args=list(args)))


__all__ = [
    "BAD_POINTERS",
    "FILL",
    "U32_FILL",
    "U64",
    "Host",
    "Operations",
    "begin",
    "check",
    "device",
    "enable",
    "get_attr",
    "has_attr",
    "in_turn",
    "region",
    "region_struct",
    "set_attr",
    "struct",
    "u32",
    "u64",
    "vcpu",
]
