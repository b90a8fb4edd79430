# SPDX-License-Identifier: Apache-2.0
"""Which error the errno of a device's address becomes, by what is known of the device."""

from __future__ import annotations

import errno

import pytest

from kvmipa import abi, errors
from kvmipa.causes.device_addresses import AddressAttempt, DeviceFacts, device_addr_error
from tests.causes.naming import assert_names

V2_DIST, DIST, REDIST, REGION = (
    abi.KVM_VGIC_V2_ADDR_TYPE_DIST,
    abi.KVM_VGIC_V3_ADDR_TYPE_DIST,
    abi.KVM_VGIC_V3_ADDR_TYPE_REDIST,
    abi.KVM_VGIC_V3_ADDR_TYPE_REDIST_REGION,
)

FIRST = 1 << 52 | 0x900_0000


def asking(*regions: int, distributor: int | None = None) -> object:
    """A device with these regions and this distributor."""

    def ask(_group: int, attr: int, _size: int, given: int) -> int | None:
        if attr == REGION:
            return regions[given] if given < len(regions) else None
        return distributor

    return ask


@pytest.mark.parametrize(
    ("code", "attr", "value", "regions", "kind", "words"),
    [
        (errno.ENOENT, REGION, None, (), errors.RedistributorRegionError, "no such region"),
        (errno.E2BIG, DIST, 1 << 40, (), errors.DeviceBeyondIpaSpaceError, "0x10000 bytes beyond"),
        (errno.EINVAL, REDIST, (1 << 64) - 0x1_0000, (), errors.DeviceBeyondIpaSpaceError, "beyond"),
        (errno.EINVAL, DIST, 0x1000, (), errors.MisalignedDeviceAddressError, "multiple of 0x10000"),
        (errno.EEXIST, DIST, 0, (), errors.AddressAlreadySetError, "stays"),
        (errno.EINVAL, REDIST, 0, (FIRST,), errors.RedistributorRegionError, "regions of their own"),
        (errno.EINVAL, REDIST, 0, (0x900_0000,), errors.AddressAlreadySetError, "stays"),
        (errno.EINVAL, REDIST, 0, (), errors.DeviceOverlapError, "overlap"),
        (errno.EINVAL, REGION, 0x900_0000, (), errors.RedistributorRegionError, "without frames"),
        (errno.EINVAL, REGION, FIRST | 1 << 12, (), errors.RedistributorRegionError, "bits 15:12"),
        (errno.EINVAL, REGION, FIRST | 2, (FIRST,), errors.RedistributorRegionError, "region 2 is not the next"),
        (errno.EINVAL, REGION, FIRST | 1, (FIRST,), errors.DeviceOverlapError, "overlap"),
    ],
)
def test_address_that_was_refused(
    code: int, attr: int, value: int | None, regions: tuple[int, ...], kind: type[errors.KvmError], words: str
) -> None:
    ask = asking(*regions)
    found = AddressAttempt(attr, value, DeviceFacts(lambda: 40, ()), ask).cause(code)  # type: ignore[arg-type]
    assert found is not None
    assert found.kind is kind
    assert words in found.cause


@pytest.mark.parametrize(
    ("code", "attr", "value"), [(errno.EPERM, DIST, 0), (errno.EINVAL, DIST, None), (errno.EINVAL, 77, 0)]
)
def test_address_without_a_known_cause(code: int, attr: int, value: int | None) -> None:
    assert AddressAttempt(attr, value, DeviceFacts(lambda: 40, ()), lambda *_: None).cause(code) is None


@pytest.mark.parametrize(
    ("code", "identity", "address", "kind", "available"),
    [
        (errno.ENODEV, 9, 0, errors.NoSuchAttributeError, "0 (distributor)"),
        (errno.ENXIO, 9, 0, errors.NoSuchAttributeError, "0 (distributor)"),
        (errno.E2BIG, V2_DIST, 1 << 40, errors.DeviceBeyondIpaSpaceError, "addresses up to 0xfffffff000"),
        # Nothing says which address it has: not 0.
        (errno.EEXIST, V2_DIST, 0x800_0000, errors.AddressAlreadySetError, "the address that it has"),
        (errno.EBADF, V2_DIST, 0, errors.ClosedError, "close()"),
        (errno.EIO, V2_DIST, 0, errors.OtherProcessError, "of this process"),
        (errno.EPERM, V2_DIST, 0, errors.DeviceError, ""),
    ],
)
def test_old_request_that_was_refused(
    code: int, identity: int, address: int, kind: type[errors.KvmError], available: str
) -> None:
    error = device_addr_error(code, identity, address, lambda: 40)
    assert_names(error, kind, code, "KVM_ARM_SET_DEVICE_ADDR")
    assert available in error.available
    assert error.asked
