# SPDX-License-Identifier: Apache-2.0
"""Which error the errno of a vCPU's attribute becomes, where the kernels at hand cannot be brought to show it."""

from __future__ import annotations

import errno

import pytest

from kvmipa import abi, errors
from kvmipa.causes.vcpu_attributes import VcpuAttempt
from tests.causes.naming import assert_names

PMU, TIMER, PVTIME = abi.KVM_ARM_VCPU_PMU_V3_CTRL, abi.KVM_ARM_VCPU_TIMER_CTRL, abi.KVM_ARM_VCPU_PVTIME_CTRL


@pytest.mark.parametrize(
    ("group", "value", "code", "kind", "words"),
    [
        (PVTIME, 32, errno.EINVAL, errors.MisalignedDeviceAddressError, "multiple of 64"),
        (PVTIME, 64, errno.EINVAL, errors.NoMemoryThereError, "no memory"),
        (PVTIME, 64, errno.EEXIST, errors.AddressAlreadySetError, "stays"),
        (TIMER, 15, errno.EINVAL, errors.InterruptNumberError, "PPI"),
        (TIMER, 32, errno.EINVAL, errors.InterruptNumberError, "PPI"),
        (TIMER, 16, errno.EINVAL, errors.NoVgicError, "no vGIC"),
        (TIMER, 16, errno.EBUSY, errors.VcpuError, "has run"),
        (PMU, 16, errno.EINVAL, errors.InterruptNumberError, "PMU"),
        (PMU, 16, errno.EBUSY, errors.VcpuError, "PMU is initialised"),
        (PMU, 16, errno.ENODEV, errors.NoSuchAttributeError, "no such attribute"),
        (9, None, errno.ENXIO, errors.NoSuchAttributeError, "no such attribute"),
        (9, None, errno.EFAULT, errors.AttributePointerError, "memory of the attribute"),
        (9, None, errno.EBADF, errors.VcpuError, "descriptor"),
        (9, None, errno.EIO, errors.OtherProcessError, "this Vcpu belongs"),
        (9, None, errno.EPERM, errors.VcpuError, "not permitted"),
    ],
)
def test_attribute_that_was_refused(
    group: int, value: int | None, code: int, kind: type[errors.KvmError], words: str
) -> None:
    error = VcpuAttempt(abi.KVM_SET_DEVICE_ATTR, group, 0, value, closed=False).error(code)
    assert_names(error, kind, code, "KVM_SET_DEVICE_ATTR", words)


def test_vcpu_that_is_closed_says_so() -> None:
    error = VcpuAttempt(abi.KVM_GET_DEVICE_ATTR, PMU, 0, None, closed=True).error(errno.EBADF)
    assert (type(error), error.cause) == (errors.ClosedError, "this Vcpu is closed")
