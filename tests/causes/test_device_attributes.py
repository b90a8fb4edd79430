# SPDX-License-Identifier: Apache-2.0
"""Which error the errno of a device's attribute becomes, where the kernels at hand cannot be brought to show it."""

from __future__ import annotations

import errno

import pytest

from kvmipa import abi, errors
from kvmipa.causes.device_addresses import Known
from kvmipa.causes.device_attributes import DeviceAttempt

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
        (errno.EBADF, CTRL, errors.ClosedError, "this Device is closed"),
        (errno.EIO, CTRL, errors.OtherProcessError, "this Device belongs"),
        (errno.ENOMEM, CTRL, errors.DeviceError, "memory"),
    ],
)
def test_attribute_that_was_refused(code: int, group: int, kind: type[errors.KvmError], words: str) -> None:
    attempt = DeviceAttempt(abi.KVM_SET_DEVICE_ATTR, group, 7, 5, Known(lambda: 40, ()), lambda *_: None)
    error = attempt.error(code)
    assert (type(error), error.errno, error.ioctl) == (kind, code, "KVM_SET_DEVICE_ATTR")
    assert words in error.cause


def test_register_of_a_vcpu_that_there_is_has_another_cause() -> None:
    attempt = DeviceAttempt(abi.KVM_SET_DEVICE_ATTR, DIST_REGS, 7, 5, Known(lambda: 40, (0,)), lambda *_: 1)
    assert type(attempt.error(errno.EINVAL)) is errors.DeviceError
