# SPDX-License-Identifier: Apache-2.0
"""Which error the errno of KVM_RUN becomes."""

from __future__ import annotations

import errno

import pytest

from kvmipa import errors
from kvmipa.causes.run import DEADLY, RunAttempt
from tests.causes.naming import assert_names


@pytest.mark.parametrize(
    ("code", "illegal", "kind", "words"),
    [
        (errno.ENOEXEC, False, errors.VcpuNotInitialisedError, "not initialised"),
        (errno.EPERM, False, errors.SveNotFinalisedError, "has SVE"),
        (errno.ENOSYS, False, errors.InstructionNotDescribedError, "does not describe"),
        (errno.EFAULT, False, errors.GuestMemoryGoneError, "cannot access"),
        (errno.ENXIO, False, errors.VgicNotPlacedError, "has no address"),
        (errno.EBUSY, False, errors.VgicNotInitialisedError, "was not initialised"),
        (errno.EINVAL, False, errors.FirstRunError, "the vGIC's frames overlap"),
        (errno.EINVAL, True, errors.IllegalGuestStateError, "32-bit EL0"),
        (errno.ENOMEM, False, errors.OutOfMemoryError, "no memory for the guest's page tables"),
        (errno.EXDEV, False, errors.VcpuError, "Invalid cross-device"),
    ],
)
def test_run_that_failed(code: int, illegal: bool, kind: type[errors.KvmError], words: str) -> None:
    assert_names(RunAttempt(illegal_state=illegal).error(code), kind, code, "KVM_RUN", words)


def test_run_without_memory_is_no_mistake_of_the_first_run_and_may_kill_the_vm() -> None:
    error = RunAttempt(illegal_state=False).error(errno.ENOMEM)
    assert not isinstance(error, errors.FirstRunError)
    assert isinstance(error, DEADLY)
