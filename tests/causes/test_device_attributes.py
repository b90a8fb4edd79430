# SPDX-License-Identifier: Apache-2.0
"""Which error the errno of a device's attribute becomes, where the kernels at hand cannot be brought to show it."""

from __future__ import annotations

import errno

import pytest

from kvmipa import abi, errors
from kvmipa.causes.device_addresses import DeviceFacts
from kvmipa.causes.device_attributes import DeviceAttempt
from tests.causes.naming import assert_names

V2, V3, ITS, VFIO = (
    abi.KVM_DEV_TYPE_ARM_VGIC_V2,
    abi.KVM_DEV_TYPE_ARM_VGIC_V3,
    abi.KVM_DEV_TYPE_ARM_VGIC_ITS,
    abi.KVM_DEV_TYPE_VFIO,
)

SET, GET, HAS = abi.KVM_SET_DEVICE_ATTR, abi.KVM_GET_DEVICE_ATTR, abi.KVM_HAS_DEVICE_ATTR
CTRL, MAINT_IRQ, DIST_REGS, CPU_SYSREGS = (
    abi.KVM_DEV_ARM_VGIC_GRP_CTRL,
    abi.KVM_DEV_ARM_VGIC_GRP_MAINT_IRQ,
    abi.KVM_DEV_ARM_VGIC_GRP_DIST_REGS,
    abi.KVM_DEV_ARM_VGIC_GRP_CPU_SYSREGS,
)


@pytest.mark.parametrize(
    ("code", "group", "kind", "words"),
    [
        (errno.EBUSY, CTRL, errors.DeviceError, "a vCPU is running"),
        (errno.EBUSY, MAINT_IRQ, errors.VgicInitialisedError, "is initialised"),
        (errno.EBUSY, DIST_REGS, errors.VgicNotInitialisedError, "is not initialised"),
        (errno.ENOENT, CPU_SYSREGS, errors.NoSuchAttributeError, "no such system register"),
        (errno.EINVAL, DIST_REGS, errors.NoSuchVcpuError, "a vCPU that there is not"),
        (errno.ENXIO, 99, errors.NoSuchAttributeError, "no attribute 0x7 in group 99"),
        (errno.EFAULT, CTRL, errors.AttributePointerError, "memory of the attribute"),
        (errno.EINVAL, MAINT_IRQ, errors.InterruptNumberError, "is a PPI"),
        (errno.EPERM, CTRL, errors.DeviceError, "not permitted"),
        (errno.EBADF, CTRL, errors.DeviceError, "descriptor"),
        (errno.EIO, CTRL, errors.OtherProcessError, "this Device belongs"),
        (errno.ENOMEM, CTRL, errors.DeviceError, "memory"),
    ],
)
def test_attribute_that_was_refused(code: int, group: int, kind: type[errors.KvmError], words: str) -> None:
    error = an_attempt(V3, group, 7).error(code)
    assert_names(error, kind, code, "KVM_SET_DEVICE_ATTR", words)


def an_attempt(
    device_type: int,
    group: int,
    attr: int,
    *,
    request: int = SET,
    closed: bool = False,
    vcpus: tuple[int, ...] = (),
    answer: int | None = None,
) -> DeviceAttempt:
    """What was asked for; the device gives one answer to everything."""
    known = DeviceFacts(lambda: 40, vcpus)
    return DeviceAttempt(request, group, attr, 5, closed, device_type, known, lambda *_: answer)


@pytest.mark.parametrize("device_type", [V2, V3, ITS, VFIO, 99])
def test_handle_that_is_closed_says_so_whatever_the_device_is(device_type: int) -> None:
    error = an_attempt(device_type, 1, 1, closed=True).error(errno.EBADF)
    assert (type(error), error.cause) == (errors.ClosedError, "this Device is closed")


@pytest.mark.parametrize(
    ("code", "device_type", "group", "attr", "request_number", "kind", "words"),
    [
        (errno.EBADF, VFIO, 1, 1, SET, errors.VfioFileError, "descriptor 5 is not open"),
        (errno.EBADF, VFIO, 1, 2, SET, errors.VfioFileError, "descriptor 5 is not open"),
        (errno.EINVAL, VFIO, 1, 1, SET, errors.VfioFileError, "descriptor 5 is not VFIO's"),
        (errno.EEXIST, VFIO, 1, 1, SET, errors.VfioFileError, "added already"),
        (errno.ENOENT, VFIO, 1, 2, SET, errors.VfioFileError, "was not added"),
        (errno.EFAULT, VFIO, 1, 1, SET, errors.AttributePointerError, "memory of the attribute"),
        (errno.ENXIO, VFIO, 3, 0, SET, errors.NoSuchAttributeError, "no attribute 0x0 in group 3"),
        (errno.EINVAL, VFIO, 3, 0, SET, errors.DeviceError, "nvalid argument"),
        (errno.EPERM, VFIO, 1, 1, GET, errors.AttributeNotReadableError, "not be read"),
        (errno.EBUSY, VFIO, 1, 1, SET, errors.DeviceError, "busy"),
        (errno.EINVAL, ITS, DIST_REGS, 7, SET, errors.DeviceError, "nvalid argument"),
        (errno.ENODEV, ITS, 0, 2, SET, errors.NoSuchAttributeError, "no attribute 0x2 in group 0"),
        (errno.EEXIST, ITS, 0, 4, SET, errors.AddressAlreadySetError, "the ITS has an address"),
        (errno.EBUSY, ITS, CTRL, 1, SET, errors.DeviceError, "a vCPU is running"),
        (errno.EFAULT, ITS, CTRL, 2, SET, errors.DeviceError, "tables in the guest's memory"),
        (errno.ENXIO, ITS, CTRL, 2, SET, errors.DeviceError, "tables in the guest's memory"),
        (errno.ENXIO, ITS, CTRL, 9, SET, errors.NoSuchAttributeError, "no attribute 0x9"),
        (errno.EINVAL, ITS, 8, 0x84, SET, errors.DeviceError, "offset 0x84"),
        (errno.EINVAL, ITS, 8, 0x80, SET, errors.DeviceError, "nvalid argument"),
        (errno.EINVAL, ITS, 8, 4, SET, errors.DeviceError, "nvalid argument"),
        (errno.EBUSY, ITS, 8, 0, SET, errors.DeviceError, "a vCPU is running"),
        (errno.ENXIO, ITS, 8, 0, HAS, errors.NoSuchAttributeError, "no attribute 0x0 in group 8"),
        (errno.EFAULT, V3, CTRL, 3, SET, errors.DeviceError, "tables in the guest's memory"),
        (errno.EBUSY, V2, 2, 0, SET, errors.VgicNotInitialisedError, "is not initialised"),
        (errno.EBUSY, V3, 2, 0, SET, errors.DeviceError, "busy"),
    ],
)
def test_group_means_what_it_does_on_its_device(
    code: int, device_type: int, group: int, attr: int, request_number: int, kind: type[errors.KvmError], words: str
) -> None:
    error = an_attempt(device_type, group, attr, request=request_number).error(code)
    assert (type(error), error.errno) == (kind, code)
    assert words in error.cause


@pytest.mark.parametrize(
    ("device_type", "group", "attr", "answer", "kind"),
    [
        (V3, CTRL, 3, 64, errors.VgicNotInitialisedError),
        (V3, CTRL, 7, 64, errors.NoSuchAttributeError),
        (V2, CTRL, 3, 64, errors.NoSuchAttributeError),
        (ITS, 8, 0, (1 << 64) - 1, errors.DeviceError),
        (ITS, 8, 0, 0x800_0000, errors.NoSuchAttributeError),
    ],
)
def test_enxio_of_a_device_that_is_not_ready_is_no_missing_attribute(
    device_type: int, group: int, attr: int, answer: int, kind: type[errors.KvmError]
) -> None:
    assert type(an_attempt(device_type, group, attr, answer=answer).error(errno.ENXIO)) is kind


def test_register_of_a_vcpu_that_there_is_has_another_cause() -> None:
    attempt = an_attempt(V3, DIST_REGS, 7, vcpus=(0,), answer=1)
    assert type(attempt.error(errno.EINVAL)) is errors.DeviceError
