# SPDX-License-Identifier: Apache-2.0
"""From errno, machine type and limit to the class that names the cause, and a message that helps."""

from __future__ import annotations

import errno
import os

import pytest

from kvmipa import errors
from kvmipa.causes.system import create_vm_error, not_kvm_error, open_error
from kvmipa.machine_type import PROTECTED_BIT


@pytest.mark.parametrize(
    ("machine_type", "limit", "expected", "words"),
    [
        (1, 52, errors.IpaSizeTooSmallError, "below the minimum of 32 bits"),
        (31, 36, errors.IpaSizeTooSmallError, "below the minimum of 32 bits"),
        (37, 36, errors.IpaSizeTooLargeError, "above the host's limit of 36 bits"),
        (40, 36, errors.IpaSizeTooLargeError, "above the host's limit of 36 bits"),
        (53, 52, errors.IpaSizeTooLargeError, "above the host's limit of 52 bits"),
        (255, 44, errors.IpaSizeTooLargeError, "above the host's limit of 44 bits"),
        (0, 36, errors.DefaultIpaSizeUnsupportedError, "default of 40 bits is above"),
        (0, 39, errors.DefaultIpaSizeUnsupportedError, "default of 40 bits is above"),
        (40, None, errors.IpaSizeNotConfigurableError, "no choice of IPA size"),
        (1 << 63, None, errors.IpaSizeNotConfigurableError, "no choice of IPA size"),
        (0x100, 52, errors.ReservedTypeBitsError, "bit 8 has no meaning"),
        (0x128, 52, errors.ReservedTypeBitsError, "bit 8 has no meaning"),
        (1 << 63 | 1 << 9 | 40, 52, errors.ReservedTypeBitsError, "bits 9, 63 have no meaning"),
        (0x100 | PROTECTED_BIT, 52, errors.ReservedTypeBitsError, "bit 8 has no meaning"),
        (40 | PROTECTED_BIT, 44, errors.ProtectedUnsupportedError, "pKVM"),
        (PROTECTED_BIT, 44, errors.ProtectedUnsupportedError, "pKVM"),
        (45 | PROTECTED_BIT, 44, errors.IpaSizeTooLargeError, "above the host's limit"),
        (12 | PROTECTED_BIT, 44, errors.IpaSizeTooSmallError, "below the minimum"),
        (PROTECTED_BIT, 36, errors.DefaultIpaSizeUnsupportedError, "default of 40 bits"),
        (40, 44, errors.CreateVmError, "a machine type that its limit allows"),
        (0, 44, errors.CreateVmError, "a machine type that its limit allows"),
        (0, None, errors.CreateVmError, "a machine type that its limit allows"),
    ],
)
def test_einval_of_create_vm_is_told_apart(
    machine_type: int, limit: int | None, expected: type[errors.CreateVmError], words: str
) -> None:
    error = create_vm_error(errno.EINVAL, machine_type, limit)
    assert type(error) is expected
    assert words in error.cause
    assert error.errno == errno.EINVAL
    assert (error.ioctl, error.argument) == ("KVM_CREATE_VM", machine_type)
    assert all((error.asked, error.available, error.fix))


@pytest.mark.parametrize(
    ("code", "expected", "words", "fix"),
    [
        (errno.EMFILE, errors.DescriptorLimitError, "this process has no file descriptor left", "RLIMIT_NOFILE"),
        (errno.ENFILE, errors.DescriptorLimitError, "the system has no file descriptor left", "fs.file-max"),
        (errno.ENOMEM, errors.OutOfMemoryError, "could not allocate", "free memory"),
        (errno.EINTR, errors.CreateVmInterruptedError, "interrupted again and again", "fewer signals"),
    ],
)
@pytest.mark.parametrize("machine_type", [0, 40, 12, 1 << 32])
def test_other_errno_of_create_vm_does_not_blame_the_type(
    code: int, expected: type[errors.CreateVmError], words: str, fix: str, machine_type: int
) -> None:
    error = create_vm_error(code, machine_type, 44)
    assert type(error) is expected
    assert words in error.cause
    assert fix in error.fix
    assert error.errno == code


@pytest.mark.parametrize("code", [errno.EIO, errno.EFAULT, errno.ENOTTY])
def test_unknown_errno_of_create_vm_keeps_the_systems_words(code: int) -> None:
    error = create_vm_error(code, 40, 44)
    assert (type(error), error.errno, error.cause) == (errors.CreateVmError, code, os.strerror(code))


@pytest.mark.parametrize(
    ("machine_type", "asked"),
    [
        (0, "a VM of the default size (40 bits)"),
        (48, "a VM of 48 bits"),
        (0x128, "a VM of 40 bits, machine type 0x128"),
        (PROTECTED_BIT, "a VM of the default size (40 bits), machine type 0x80000000"),
    ],
)
def test_message_repeats_what_was_asked(machine_type: int, asked: str) -> None:
    assert create_vm_error(errno.EINVAL, machine_type, 44).asked == asked


@pytest.mark.parametrize(
    ("limit", "available"),
    [
        (None, "40 bits only (no KVM_CAP_ARM_VM_IPA_SIZE)"),
        (36, "32 to 36 bits, no default (KVM_CAP_ARM_VM_IPA_SIZE is 36)"),
        (39, "32 to 39 bits, no default (KVM_CAP_ARM_VM_IPA_SIZE is 39)"),
        (40, "32 to 40 bits (KVM_CAP_ARM_VM_IPA_SIZE is 40)"),
        (52, "32 to 52 bits (KVM_CAP_ARM_VM_IPA_SIZE is 52)"),
    ],
)
def test_message_says_what_the_host_has(limit: int | None, available: str) -> None:
    assert create_vm_error(errno.EINVAL, 255, limit).available == available


def test_advice_has_the_hosts_own_numbers() -> None:
    assert create_vm_error(errno.EINVAL, 40, 36).fix == (
        "ask for at most 36 bits and place guest memory below 0x1000000000"
    )
    assert "create_vm(36)" in create_vm_error(errno.EINVAL, 0, 36).fix


def test_message_in_full() -> None:
    assert str(create_vm_error(errno.EINVAL, 40, 36)) == (
        "the IPA size is above the host's limit of 36 bits (KVM_CREATE_VM(0x28): EINVAL)\n"
        "  asked:     a VM of 40 bits\n"
        "  available: 32 to 36 bits, no default (KVM_CAP_ARM_VM_IPA_SIZE is 36)\n"
        "  fix:       ask for at most 36 bits and place guest memory below 0x1000000000"
    )


@pytest.mark.parametrize(
    ("code", "expected", "cause", "fix"),
    [
        (errno.ENOENT, errors.DeviceNotFoundError, "there is no /dev/x", "kvmipa doctor"),
        (errno.ENODEV, errors.DeviceNotFoundError, "no KVM behind it", "32-bit process"),
        (errno.ENXIO, errors.DeviceNotFoundError, "no KVM behind it", "kvmipa doctor"),
        (errno.EACCES, errors.DevicePermissionError, "may not open /dev/x", "usermod -aG kvm"),
        (errno.EPERM, errors.DevicePermissionError, "may not open /dev/x", "usermod -aG kvm"),
        (errno.EISDIR, errors.NotKvmError, "/dev/x is a directory", "device node"),
        (errno.EMFILE, errors.DescriptorLimitError, "this process has no file", "RLIMIT_NOFILE"),
        (errno.ENFILE, errors.DescriptorLimitError, "the system has no file", "fs.file-max"),
        (errno.EBUSY, errors.BackendUnavailableError, os.strerror(errno.EBUSY), "kvmipa doctor"),
    ],
)
def test_errno_of_open_is_told_apart(code: int, expected: type[errors.KvmError], cause: str, fix: str) -> None:
    error = open_error(code, "/dev/x")
    assert type(error) is expected
    assert error.errno == code
    assert error.asked == "open /dev/x"
    assert cause in error.cause
    assert fix in error.fix


@pytest.mark.parametrize(
    ("code", "device", "expected", "cause"),
    [
        (errno.ENOSYS, "/dev/kvm", errors.QemuUserError, "qemu-aarch64"),
        (errno.ENOTTY, "/dev/kvm", errors.QemuUserError, "qemu-aarch64"),
        (errno.EINVAL, "/dev/kvm", errors.NotKvmError, "/dev/kvm is not a KVM device"),
        (errno.ENOTTY, "/dev/null", errors.NotKvmError, "/dev/null is not a KVM device"),
        (errno.ENOSYS, "/dev/null", errors.NotKvmError, "/dev/null is not a KVM device"),
    ],
)
def test_silent_device_is_told_apart(code: int, device: str, expected: type[errors.KvmError], cause: str) -> None:
    error = not_kvm_error(code, device)
    assert type(error) is expected
    assert (error.errno, error.ioctl) == (code, "KVM_GET_API_VERSION")
    assert cause in error.cause
    assert error.fix


def test_pkvm_host_is_not_told_to_run_pkvm_for_its_size() -> None:
    # Linux 6.12 in protected mode takes 60 bits; what it does not take is bit 31.
    error = create_vm_error(errno.EINVAL, 1 << 31 | 60, 52, size_ignored=True)
    assert isinstance(error, errors.ProtectedUnsupportedError)
    assert "Linux 7.x" in error.cause


@pytest.mark.parametrize(
    "error",
    [
        *(create_vm_error(code, 99, 44) for code in (errno.EINVAL, errno.EMFILE, errno.ENOMEM, errno.EPERM)),
        create_vm_error(errno.EINVAL, 1 << 31, 52, size_ignored=True),
        *(open_error(code, "/dev/kvm") for code in (errno.ENOENT, errno.ENODEV, errno.EACCES, errno.EIO)),
        not_kvm_error(errno.ENOTTY, "/dev/null"),
    ],
    ids=lambda error: error.cause,
)
def test_every_error_has_all_four_parts(error: errors.KvmError) -> None:
    assert all((error.asked, error.available, error.cause, error.fix))
