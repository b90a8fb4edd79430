# SPDX-License-Identifier: Apache-2.0
"""Why a device cannot be at an address of the guest (kernel-device-spec 2.3 to 2.6).

E2BIG, EEXIST and EINVAL depend on the release; what is asked for and what is there say more.
"""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING, Final, NamedTuple

from kvmipa import abi, errors
from kvmipa.causes import Cause, handle_error, unnamed

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from kvmipa.errors import KvmError

    # An attribute's value by group, number, size in bytes and what is in its memory before; None where there is none.
    Ask = Callable[[int, int, int, int], int | None]

_ADDRESSES: Final = 1 << 64

ADDR: Final = abi.KVM_DEV_ARM_VGIC_GRP_ADDR
REDIST: Final = abi.KVM_VGIC_V3_ADDR_TYPE_REDIST
REGION: Final = abi.KVM_VGIC_V3_ADDR_TYPE_REDIST_REGION

REDISTRIBUTOR_SIZE: Final = 0x2_0000
_MOST_REGIONS: Final = 256


class DeviceFacts(NamedTuple):
    """What is known of the VM that a device is of. ipa_bits: asked for only where it matters; vcpus: their ids."""

    ipa_bits: Callable[[], int]
    vcpus: Collection[int]


class Frames(NamedTuple):
    """What an address is of, its alignment and its size, in bytes."""

    name: str
    alignment: int
    size: int


FRAMES: Final = {
    abi.KVM_VGIC_V2_ADDR_TYPE_DIST: Frames("the distributor", 0x1000, 0x1000),
    abi.KVM_VGIC_V2_ADDR_TYPE_CPU: Frames("the CPU interface", 0x1000, 0x2000),
    abi.KVM_VGIC_V3_ADDR_TYPE_DIST: Frames("the distributor", 0x1_0000, 0x1_0000),
    REDIST: Frames("the redistributors", 0x1_0000, REDISTRIBUTOR_SIZE),
    abi.KVM_VGIC_ITS_ADDR_TYPE: Frames("the ITS", 0x1_0000, 0x2_0000),
    REGION: Frames("the redistributors", 0x1_0000, REDISTRIBUTOR_SIZE),
}


def regions(ask: Ask) -> list[tuple[int, int]]:
    """Base and count of each region of redistributors that a vGICv3 has; count 0 for the one that grows."""
    found = []
    for index in range(_MOST_REGIONS):
        value = ask(ADDR, REGION, 8, index)
        if value is None:
            break
        found.append((value & abi.KVM_VGIC_V3_RDIST_BASE_MASK, value >> abi.KVM_VGIC_V3_RDIST_COUNT_SHIFT))
    return found


class AddressAttempt(NamedTuple):
    """An address that a device was to have, or whose value was asked for (None)."""

    attr: int
    value: int | None
    known: DeviceFacts
    ask: Ask

    def cause(self, code: int) -> Cause | None:
        """Why it failed with errno ``code``."""
        if code == errno.ENOENT:
            return Cause(
                errors.RedistributorRegionError, "there is no such region", self._regions_text, "add the region first"
            )
        if self.value is None or self.attr not in FRAMES:
            return None
        if code == errno.E2BIG:
            return self._beyond()
        if code == errno.EEXIST:
            return self._already_set()
        if code == errno.EINVAL:
            return self._bad_region() if self.attr == REGION else self._bad_address()
        return None

    @property
    def _frames(self) -> Frames:
        name, alignment, size = FRAMES[self.attr]
        if self.attr == REGION:
            size *= (self.value or 0) >> abi.KVM_VGIC_V3_RDIST_COUNT_SHIFT
        elif self.attr == REDIST:
            size *= max(len(self.known.vcpus), 1)
        return Frames(name, alignment, size)

    @property
    def _base(self) -> int:
        value = self.value or 0
        return value & abi.KVM_VGIC_V3_RDIST_BASE_MASK if self.attr == REGION else value

    def _beyond(self) -> Cause:
        name, _, size = self._frames
        end, bits = self._base + size, self.known.ipa_bits()
        enough = (end - 1).bit_length()
        return Cause(
            errors.DeviceBeyondIpaSpaceError,
            f"{name} would end {end - (1 << bits):#x} bytes beyond the VM's IPA space of 2^{bits} bytes",
            f"addresses up to {(1 << bits) - size:#x}",
            f"use a lower address, or a VM of {enough} bits (if the host's limit is not below)",
        )

    def _already_set(self) -> Cause:
        return Cause(
            errors.AddressAlreadySetError,
            f"{self._frames.name} has an address already, which stays",
            self._regions_text if self.attr in {REDIST, REGION} else self._address_text,
            "set each address once",
        )

    def _bad_address(self) -> Cause | None:
        name, alignment, size = self._frames
        if self._base % alignment:
            return Cause(
                errors.MisalignedDeviceAddressError,
                f"{self._base:#x} is not a multiple of {alignment:#x}",
                f"multiples of {alignment >> 10}K for {name}, whatever the host's pages",
                f"use {self._base - self._base % alignment:#x} or {self._base - self._base % alignment + alignment:#x}",
            )
        if self._base + size >= _ADDRESSES:
            return self._beyond()
        if self.attr != REDIST:
            return None
        there = regions(self.ask)
        if there and there[0][1]:
            return Cause(
                errors.RedistributorRegionError,
                "the redistributors have regions of their own",
                self._regions_text,
                "add another region",
            )
        return self._already_set() if there else self._overlap()

    def _bad_region(self) -> Cause | None:
        value = self.value or 0
        count, index, there = (
            value >> abi.KVM_VGIC_V3_RDIST_COUNT_SHIFT,
            value & abi.KVM_VGIC_V3_RDIST_INDEX_MASK,
            regions(self.ask),
        )
        if not count or value & abi.KVM_VGIC_V3_RDIST_FLAGS_MASK:
            return Cause(
                errors.RedistributorRegionError,
                "a region without frames" if not count else "bits 15:12 of a region have to be 0",
                "1 to 4095 redistributors a region",
                "give count the number of vCPUs that the region is for",
            )
        if index != len(there) or (there and not there[-1][1]):
            return Cause(
                errors.RedistributorRegionError,
                f"region {index} is not the next one",
                self._regions_text,
                "number regions from 0, without gaps, and do not mix them with set_redistributors()",
            )
        return self._overlap()

    def _overlap(self) -> Cause:
        distributor = self.ask(ADDR, abi.KVM_VGIC_V3_ADDR_TYPE_DIST, 8, 0)
        where = "not set" if distributor in {None, abi.VGIC_ADDR_UNDEF} else f"at {distributor:#x}"
        return Cause(
            errors.DeviceOverlapError,
            "redistributors and distributor, or two regions, overlap",
            f"the distributor is {where}; {self._regions_text}",
            "keep 64K for the distributor and 128K for each vCPU apart",
        )

    @property
    def _address_text(self) -> str:
        there = self.ask(ADDR, self.attr, 8, 0)
        return "the address that it has" if there is None else f"{there:#x}"

    @property
    def _regions_text(self) -> str:
        there = [f"{base:#x} for {count or 'all'}" for base, count in regions(self.ask)]
        return f"regions at {', '.join(there)}" if there else "no region of redistributors"


def device_addr_error(code: int, identity: int, address: int, ipa_bits: Callable[[], int]) -> KvmError:
    """Why KVM_ARM_SET_DEVICE_ADDR refused an address."""
    ioctl = "KVM_ARM_SET_DEVICE_ADDR"
    common = handle_error(code, "Vm", ioctl, identity)
    if common is not None:
        return common
    found = _NO_SUCH_ADDRESS if code in {errno.ENODEV, errno.ENXIO} else None
    if found is None:
        # KVM_ARM_DEVICE_TYPE_MASK of arch/arm64/include/uapi/asm/kvm.h: what is above it is the device.
        found = AddressAttempt(identity & 0xFFFF, address, DeviceFacts(ipa_bits, ()), lambda *_: None).cause(code)
    asked = f"address {address:#x} for device and address type {identity:#x}"
    return (found or unnamed(code, errors.DeviceError)).error(code, asked=asked, ioctl=ioctl, argument=identity)


_NO_SUCH_ADDRESS: Final = Cause(
    errors.NoSuchAttributeError,
    "the VM has no vGICv2, or this device no such address",
    "0 (distributor) and 1 (CPU interface) of a vGICv2",
    "use Vgic.set_distributor() and its like, which every vGIC has",
)
