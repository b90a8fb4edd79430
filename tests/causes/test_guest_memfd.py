# SPDX-License-Identifier: Apache-2.0
"""Which error the errno of KVM_CREATE_GUEST_MEMFD becomes."""

from __future__ import annotations

import errno

import pytest

from kvmipa import errors
from kvmipa.causes.guest_memfd import guest_memfd_error
from tests.causes.facts import known


@pytest.mark.parametrize(
    ("code", "size", "flags", "words"),
    [
        (errno.EINVAL, 5, 0, "multiple of 0x1000"),
        (errno.EINVAL, 0x1000, 8, "flags 0x8"),
        (errno.ENOMEM, 0x1000, 0, "memory"),
    ],
)
def test_guest_memfd_that_was_refused(code: int, size: int, flags: int, words: str) -> None:
    error = guest_memfd_error(code, size, flags, known())
    assert (type(error), error.errno) == (errors.GuestMemfdError, code)
    assert words in error.cause


def test_kernel_without_guest_memfd_is_told_so() -> None:
    assert type(guest_memfd_error(errno.EINVAL, 5, 0, known(old=1))) is errors.NotSupportedError


@pytest.mark.parametrize("code", [errno.EMFILE, errno.ENFILE])
def test_guest_memfd_without_a_descriptor(code: int) -> None:
    error = guest_memfd_error(code, 0x1000, 0, known())
    assert (type(error), error.errno) == (errors.DescriptorLimitError, code)
    assert "no file descriptor left" in error.cause


def test_guest_memfd_of_another_process() -> None:
    assert type(guest_memfd_error(errno.EIO, 0x1000, 0, known())) is errors.OtherProcessError
