# SPDX-License-Identifier: Apache-2.0
"""Errors as values: their classes, their message, and their way between processes."""

from __future__ import annotations

import copy
import errno
import pickle
from typing import TYPE_CHECKING

import pytest

from kvmipa import MachineType, errors
from kvmipa.errors import KvmError

if TYPE_CHECKING:
    from collections.abc import Iterator


def family(kind: type[KvmError]) -> Iterator[type[KvmError]]:
    yield kind
    for child in kind.__subclasses__():
        yield from family(child)


EVERY_CLASS = sorted({*family(KvmError)}, key=lambda kind: kind.__name__)


def an_error(kind: type[KvmError]) -> KvmError:
    return kind(
        errno.EINVAL, cause="the cause", asked="this", available="that", fix="do", ioctl="KVM_CREATE_VM", argument=0x28
    )


def test_message_has_all_parts_in_order() -> None:
    assert str(an_error(KvmError)) == (
        "the cause (KVM_CREATE_VM(0x28): EINVAL)\n  asked:     this\n  available: that\n  fix:       do"
    )


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (KvmError(errno.EPERM, cause="no"), "no (EPERM)"),
        (KvmError(errno.EPERM, cause="no", fix="ask"), "no (EPERM)\n  fix:       ask"),
        (KvmError(errno.EPERM, cause="no", ioctl="KVM_RUN"), "no (KVM_RUN(): EPERM)"),
        (KvmError(errno.EPERM, cause="no", ioctl="KVM_RUN", argument=0), "no (KVM_RUN(0x0): EPERM)"),
        (KvmError(4095, cause="no"), "no (4095)"),
    ],
)
def test_message_leaves_out_what_is_not_known(error: KvmError, text: str) -> None:
    assert str(error) == text


@pytest.mark.parametrize("kind", EVERY_CLASS)
def test_every_error_is_an_oserror_with_the_kernels_errno(kind: type[KvmError]) -> None:
    error = an_error(kind)
    assert isinstance(error, OSError)
    assert (error.errno, error.strerror, error.args) == (errno.EINVAL, "the cause", (errno.EINVAL, "the cause"))


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("kind", EVERY_CLASS)
def test_every_error_survives_pickling(kind: type[KvmError], protocol: int) -> None:
    error = an_error(kind)
    again = pickle.loads(pickle.dumps(error, protocol))
    assert type(again) is kind
    assert (again.errno, again.args, vars(again), str(again)) == (error.errno, error.args, vars(error), str(error))


def test_error_can_be_copied() -> None:
    error = an_error(errors.IpaSizeTooLargeError)
    assert str(copy.copy(error)) == str(copy.deepcopy(error)) == str(error)


def test_error_that_the_library_raised_survives_pickling() -> None:
    with pytest.raises(errors.InvalidIpaSizeError) as caught:
        MachineType(296)
    again = pickle.loads(pickle.dumps(caught.value))
    assert "would have been 40 bits" in again.fix
    assert again.errno == errno.EINVAL


@pytest.mark.parametrize(
    ("kind", "ancestors"),
    [
        (errors.NativeMissingError, [errors.BackendUnavailableError]),
        (errors.DeviceNotFoundError, [errors.BackendUnavailableError, FileNotFoundError]),
        (errors.DevicePermissionError, [errors.BackendUnavailableError, PermissionError]),
        (errors.NotKvmError, [errors.BackendUnavailableError]),
        (errors.QemuUserError, [errors.NotKvmError]),
        (errors.ApiVersionError, [errors.BackendUnavailableError]),
        (errors.NotArm64KvmError, [KvmError]),
        (errors.ClosedError, [KvmError, ValueError]),
        (errors.OtherProcessError, [KvmError]),
        (errors.NotSupportedError, [KvmError]),
        (errors.CapabilityNeedsVmError, [KvmError]),
        (errors.InvalidIpaSizeError, [errors.CreateVmError, ValueError]),
        (errors.IpaSizeTooSmallError, [errors.CreateVmError]),
        (errors.IpaSizeTooLargeError, [errors.CreateVmError]),
        (errors.IpaSizeNotConfigurableError, [errors.CreateVmError]),
        (errors.DefaultIpaSizeUnsupportedError, [errors.CreateVmError]),
        (errors.ReservedTypeBitsError, [errors.CreateVmError]),
        (errors.ProtectedUnsupportedError, [errors.CreateVmError]),
        (
            errors.DescriptorLimitError,
            [
                errors.BackendUnavailableError,
                errors.CreateVmError,
                errors.VcpuError,
                errors.DeviceError,
                errors.GuestMemfdError,
                errors.StatisticsError,
            ],
        ),
        (errors.OutOfMemoryError, [errors.CreateVmError, errors.VcpuError]),
        (errors.VcpuHasRunError, [errors.DeviceError, errors.SmcccFilterError]),
        (errors.CreateVmInterruptedError, [errors.CreateVmError, InterruptedError]),
    ],
)
def test_error_is_caught_as_what_it_is(kind: type[KvmError], ancestors: list[type[BaseException]]) -> None:
    for ancestor in ancestors:
        with pytest.raises(ancestor):
            raise an_error(kind)


def test_size_that_a_kernel_refuses_is_no_value_error() -> None:
    # A ValueError is wrong on every host; what a host refuses is right on another.
    host_refuses = {errors.IpaSizeTooSmallError, errors.IpaSizeTooLargeError, errors.DefaultIpaSizeUnsupportedError}
    assert not any(issubclass(kind, ValueError) for kind in host_refuses)


def test_every_error_says_what_it_means() -> None:
    assert [kind.__name__ for kind in EVERY_CLASS if not (kind.__dict__.get("__doc__") or "").strip()] == []
