# SPDX-License-Identifier: Apache-2.0
"""What the causes of all subjects share."""

from __future__ import annotations

import errno
import os

import pytest

from kvmipa import causes, errors


def test_misused_handles_are_told_what_to_do() -> None:
    closed = causes.closed_error("Vm", "KVM_CHECK_EXTENSION")
    assert (type(closed), closed.errno, closed.cause) == (errors.ClosedError, errno.EBADF, "this Vm is closed")
    foreign = causes.other_process_error("Vm", "KVM_CHECK_EXTENSION", 165)
    assert (type(foreign), foreign.errno, foreign.argument) == (errors.OtherProcessError, errno.EIO, 165)
    assert "after fork" in foreign.fix
    x86 = causes.not_arm64_error("create a VM")
    assert (type(x86), x86.errno, x86.asked) == (errors.NotArm64KvmError, errno.ENODEV, "create a VM")
    assert "emulated" in x86.fix


@pytest.mark.parametrize(
    "error",
    [
        causes.closed_error("Kvm"),
        causes.other_process_error("Vm", "KVM_CHECK_EXTENSION", 165),
        causes.no_request_error(errno.EINVAL, "KVM_NEW", "KVM_OLD", "9.9"),
        causes.not_arm64_error("create a VM"),
    ],
    ids=lambda error: error.cause,
)
def test_every_error_has_all_four_parts(error: errors.KvmError) -> None:
    assert all((error.asked, error.available, error.cause, error.fix))


def test_cause_becomes_an_error_with_the_facts_in_it() -> None:
    cause = causes.Cause(errors.VcpuIdError, "id {number}", "ids to {last}", "take {last:#x}")
    error = cause.filled(number=9, last=7).error(errno.EINVAL, asked="a vCPU", ioctl="KVM_CREATE_VCPU", argument=9)
    assert (type(error), error.errno) == (errors.VcpuIdError, errno.EINVAL)
    assert (error.cause, error.available, error.fix) == ("id 9", "ids to 7", "take 0x7")
    assert (error.asked, error.ioctl, error.argument) == ("a vCPU", "KVM_CREATE_VCPU", 9)


def test_unknown_errno_keeps_the_systems_words() -> None:
    found = causes.unnamed(errno.ENOSPC, errors.VcpuError)
    assert (found.kind, found.cause, found.fix) == (
        errors.VcpuError,
        os.strerror(errno.ENOSPC),
        "look at the kernel log",
    )


@pytest.mark.parametrize(
    ("code", "kind"), [(errno.EBADF, errors.ClosedError), (errno.EIO, errors.OtherProcessError), (errno.EINVAL, None)]
)
def test_what_every_descriptor_of_a_vm_answers(code: int, kind: type[errors.KvmError] | None) -> None:
    error = causes.handle_error(code, "Vcpu", "KVM_RUN")
    assert error is None if kind is None else type(error) is kind and "Vcpu" in error.cause
