# SPDX-License-Identifier: Apache-2.0
"""Which error the errno of a device's creation becomes."""

from __future__ import annotations

import errno

import pytest

from kvmipa import errors
from kvmipa.abi import KVM_DEV_TYPE_ARM_VGIC_V2, KVM_DEV_TYPE_ARM_VGIC_V3, KVM_DEV_TYPE_VFIO
from kvmipa.causes.devices import create_device_error
from tests.causes.naming import assert_names

CREATE = "KVM_CREATE_DEVICE"


@pytest.mark.parametrize(
    ("code", "device_type", "kind", "words"),
    [
        (errno.ENODEV, 10, errors.DeviceTypeUnsupportedError, "no device LABEL"),
        (errno.ENXIO, KVM_DEV_TYPE_ARM_VGIC_V2, errors.DeviceTypeUnsupportedError, "no device LABEL"),
        (errno.EBUSY, KVM_DEV_TYPE_VFIO, errors.DeviceExistsError, "has a device LABEL already"),
        (errno.EBUSY, KVM_DEV_TYPE_ARM_VGIC_V3, errors.VcpuHasRunError, "has run"),
        (errno.EEXIST, KVM_DEV_TYPE_ARM_VGIC_V3, errors.VgicExistsError, "a vGIC already"),
        (errno.E2BIG, KVM_DEV_TYPE_ARM_VGIC_V2, errors.TooManyVcpusError, "has 9 vCPUs"),
        (errno.EMFILE, KVM_DEV_TYPE_ARM_VGIC_V3, errors.DescriptorLimitError, "this process has no file"),
        (errno.ENFILE, KVM_DEV_TYPE_VFIO, errors.DescriptorLimitError, "the system has no file"),
        (errno.EFAULT, KVM_DEV_TYPE_VFIO, errors.DeviceError, "could not be written"),
        (errno.EBADF, KVM_DEV_TYPE_VFIO, errors.ClosedError, "Vm is closed"),
        (errno.EIO, KVM_DEV_TYPE_VFIO, errors.OtherProcessError, "belongs to the process"),
        (errno.EPERM, KVM_DEV_TYPE_VFIO, errors.DeviceError, "not permitted"),
    ],
)
def test_device_that_was_refused(code: int, device_type: int, kind: type[errors.KvmError], words: str) -> None:
    error = create_device_error(code, CREATE, device_type, "LABEL", 9)
    assert_names(error, kind, code, CREATE, words)
    assert error.fix


def test_old_request_names_itself_and_no_type() -> None:
    error = create_device_error(errno.EEXIST, "KVM_CREATE_IRQCHIP", KVM_DEV_TYPE_ARM_VGIC_V2, "vgic-v2", 0)
    assert (type(error), error.ioctl, error.argument) == (errors.VgicExistsError, "KVM_CREATE_IRQCHIP", None)
