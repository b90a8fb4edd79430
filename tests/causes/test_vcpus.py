# SPDX-License-Identifier: Apache-2.0
"""Which error the errno of a vCPU's creation and initialisation becomes."""

from __future__ import annotations

import errno

import pytest

from kvmipa import abi, errors
from kvmipa.causes.vcpus import InitAttempt, create_vcpu_error, preferred_target_error
from tests.causes.naming import assert_names

SVE = 1 << 4


def answers(cap: int) -> int:
    """A host of 8 vCPUs, without SVE."""
    return {abi.KVM_CAP_MAX_VCPUS: 8, abi.KVM_CAP_MAX_VCPU_ID: 16, abi.KVM_CAP_ARM_PMU_V3: 1}.get(cap, 0)


@pytest.mark.parametrize(
    ("code", "vcpu_id", "count", "kind", "words"),
    [
        (errno.EINVAL, 16, 0, errors.VcpuIdError, "id 16 is beyond"),
        (errno.EINVAL, 15, 8, errors.TooManyVcpusError, "has 8 vCPUs"),
        (errno.EINVAL, 15, 7, errors.DeviceOverlapError, "would be on the distributor"),
        (errno.EEXIST, 0, 1, errors.VcpuExistsError, "a vCPU of this id"),
        (errno.EBUSY, 0, 0, errors.VgicInitialisedError, "is initialised"),
        (errno.EMFILE, 0, 0, errors.DescriptorLimitError, "this process has no file descriptor left"),
        (errno.ENFILE, 0, 0, errors.DescriptorLimitError, "the system has no file descriptor left"),
        (errno.ENOSPC, 0, 0, errors.VcpuError, "1000 devices"),
        (errno.EPERM, 0, 0, errors.VcpuError, "not permitted"),
        (errno.EBADF, 0, 0, errors.ClosedError, "this Vm is closed"),
        (errno.EIO, 0, 0, errors.OtherProcessError, "this Vm belongs"),
    ],
)
def test_vcpu_that_was_refused(code: int, vcpu_id: int, count: int, kind: type[errors.KvmError], words: str) -> None:
    error = create_vcpu_error(code, vcpu_id, range(count), answers)
    assert_names(error, kind, code, "KVM_CREATE_VCPU", words)


@pytest.mark.parametrize(
    ("attempt", "code", "kind", "words"),
    [
        (InitAttempt(0, 9, 3, answers), errno.EINVAL, errors.VcpuTargetError, "target 9"),
        (InitAttempt(SVE, 3, 3, answers), errno.EINVAL, errors.VcpuFeatureError, "does not have feature 4"),
        (InitAttempt(SVE, 5, 3, answers), errno.EINVAL, errors.VcpuFeatureError, "does not have feature 4"),
        (InitAttempt(1 << 7, 3, 3, answers), errno.EINVAL, errors.VcpuFeatureError, "does not have feature 7"),
        (InitAttempt(1 << 7 | 1 << 8, 3, 3, answers), errno.EINVAL, errors.VcpuFeatureError, "feature 7"),
        (InitAttempt(1 << 3 | 1 << 9, 3, 3, answers), errno.EINVAL, errors.VcpuFeatureError, "does not have feature 9"),
        (InitAttempt(1 << 8, 3, 3, answers), errno.EINVAL, errors.VcpuFeatureError, "these features do not go"),
        (InitAttempt(1 << 3, 3, 3, answers), errno.EINVAL, errors.VcpuFeatureError, "these features do not go"),
        (InitAttempt(SVE, 3, 3, None), errno.EINVAL, errors.VcpuFeatureError, "all of the features, or these"),
        (InitAttempt(1, 3, 3, None), errno.EINVAL, errors.VcpuFeatureError, "these features do not go"),
        (InitAttempt(1 << 20, 3, 3, None), errno.ENOENT, errors.VcpuFeatureError, "features 0x100000"),
        (InitAttempt(0, 9, 3, None), errno.EBADF, errors.ClosedError, "this Vcpu is closed"),
        (InitAttempt(0, 9, 3, None), errno.EIO, errors.OtherProcessError, "this Vcpu belongs"),
        (InitAttempt(0, 9, 3, None), errno.ENOMEM, errors.VcpuError, "memory"),
    ],
)
def test_initialisation_that_was_refused(
    attempt: InitAttempt, code: int, kind: type[errors.KvmError], words: str
) -> None:
    error = attempt.error(code)
    assert_names(error, kind, code, "KVM_ARM_VCPU_INIT", words)


@pytest.mark.parametrize(
    ("code", "kind"),
    [(errno.EBADF, errors.ClosedError), (errno.EIO, errors.OtherProcessError), (errno.ENODEV, errors.VcpuError)],
)
def test_target_that_was_not_named(code: int, kind: type[errors.KvmError]) -> None:
    error = preferred_target_error(code)
    assert_names(error, kind, code, "KVM_ARM_PREFERRED_TARGET")
