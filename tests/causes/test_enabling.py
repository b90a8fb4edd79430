# SPDX-License-Identifier: Apache-2.0
"""Which error an errno of KVM_ENABLE_CAP becomes, where the kernels at hand cannot be brought to show it."""

from __future__ import annotations

import errno

import pytest

from kvmipa import errors
from kvmipa.abi import KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2
from kvmipa.causes.enabling import EnableAttempt
from tests.causes.naming import assert_names


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        (errno.ENOMEM, errors.EnableCapError),
        # All is in order, and yet it is refused.
        (errno.EINVAL, errors.EnableCapError),
        (errno.EBADF, errors.ClosedError),
        (errno.EIO, errors.OtherProcessError),
    ],
)
def test_refusal_without_a_known_cause_is_the_family(code: int, kind: type[errors.KvmError]) -> None:
    attempt = EnableAttempt(KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2, (1,), 0, 4096, ())
    error = attempt.error(code, lambda _cap: 3)
    assert_names(error, kind, code, "KVM_ENABLE_CAP")
    assert error.cause
