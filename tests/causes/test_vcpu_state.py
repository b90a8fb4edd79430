# SPDX-License-Identifier: Apache-2.0
"""Which error the errno of a vCPU's state, events or debugging becomes."""

from __future__ import annotations

import errno

import pytest

from kvmipa import VcpuEvents, abi, errors
from kvmipa.causes.vcpu_state import events_error, state_error
from tests.causes.naming import assert_names

LARGE = VcpuEvents(True, True, 1 << 25)
SMALL = VcpuEvents(True, True, 1)


@pytest.mark.parametrize(
    ("request_", "code", "kind", "words"),
    [
        ("KVM_SET_MP_STATE", errno.EINVAL, errors.MpStateError, "no such state"),
        ("KVM_SET_GUEST_DEBUG", errno.EINVAL, errors.GuestDebugError, "a flag"),
        ("KVM_GET_VCPU_EVENTS", errno.ENOEXEC, errors.VcpuNotInitialisedError, "not initialised"),
        ("KVM_SET_SIGNAL_MASK", errno.EINVAL, errors.VcpuError, "Invalid argument"),
        ("KVM_GET_MP_STATE", errno.EBADF, errors.ClosedError, "this Vcpu is closed"),
        ("KVM_GET_MP_STATE", errno.EIO, errors.OtherProcessError, "this Vcpu belongs"),
    ],
)
def test_request_that_was_refused(request_: str, code: int, kind: type[errors.KvmError], words: str) -> None:
    error = state_error(code, abi.REQUESTS[request_], "it", 3)
    assert_names(error, kind, code, request_, words)
    if kind in (errors.MpStateError, errors.GuestDebugError):
        assert (error.asked, error.argument) == ("it", 3)
        assert error.available
        assert error.fix


@pytest.mark.parametrize(
    ("events", "code", "kind", "words"),
    [
        (LARGE, errno.EINVAL, errors.VcpuEventsError, "has 25 bits"),
        (SMALL, errno.EINVAL, errors.VcpuEventsError, "no RAS"),
        (SMALL, errno.ENOEXEC, errors.VcpuNotInitialisedError, "not initialised"),
        (SMALL, errno.EBADF, errors.ClosedError, "this Vcpu is closed"),
        (SMALL, errno.ENOMEM, errors.VcpuError, "memory"),
    ],
)
def test_events_that_were_refused(events: VcpuEvents, code: int, kind: type[errors.KvmError], words: str) -> None:
    error = events_error(code, events)
    assert_names(error, kind, code, "KVM_SET_VCPU_EVENTS", words)
