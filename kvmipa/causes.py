# SPDX-License-Identifier: Apache-2.0
"""From an errno and what else is known to the error that names the cause."""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING, Final

from kvmipa import errors
from kvmipa.backend import DEVICE
from kvmipa.machine_type import DEFAULT_IPA_BITS, SIZE_MASK, TypeRules, Verdict, bits_text, reserved_bits

if TYPE_CHECKING:
    from kvmipa.errors import KvmError

# MISC_MAJOR of include/uapi/linux/major.h, KVM_MINOR of include/linux/miscdevice.h.
KVM_DEVICE: Final = (10, 232)


def create_vm_error(code: int, machine_type: int, limit: int | None, *, size_ignored: bool = False) -> KvmError:
    """Why KVM_CREATE_VM refused a machine type with errno ``code`` on a host with this IPA limit (None: no capability).

    size_ignored: the host gives every VM the limit (pKVM). The kernel's release is not known here, so a type with bit
    31 is taken as a request for a protected VM.
    """
    kind, cause, fix = errors.CreateVmError, os.strerror(code), "look at the kernel log; run: kvmipa doctor"
    if code == errno.EINVAL:
        kind, cause, fix = _refused_type(machine_type, TypeRules(limit, protected_bit=True, size_ignored=size_ignored))
    elif code in _RESOURCES:
        kind, cause, fix = _RESOURCES[code]
    return kind(
        code,
        cause=cause,
        asked=_asked(machine_type),
        available=_available(limit, size_ignored=size_ignored),
        fix=fix,
        ioctl="KVM_CREATE_VM",
        argument=machine_type,
    )


_RESOURCES: Final[dict[int, tuple[type[errors.CreateVmError], str, str]]] = {
    errno.EMFILE: (
        errors.DescriptorLimitError,
        "this process has no file descriptor left",
        "close what is no longer used, or raise RLIMIT_NOFILE (ulimit -n)",
    ),
    errno.ENFILE: (errors.DescriptorLimitError, "the system has no file descriptor left", "raise fs.file-max"),
    errno.ENOMEM: (
        errors.OutOfMemoryError,
        "the kernel could not allocate the VM",
        "free memory, or ask for a size whose top-level table is smaller (kvmipa create --ipa-bits N shows it); "
        "under pKVM, close VMs: there is room for 255",
    ),
    errno.EINTR: (
        errors.CreateVmInterruptedError,
        "KVM_CREATE_VM was interrupted again and again",
        "send this thread fewer signals while it creates a VM",
    ),
}


# Cause and fix may name the host's limit, the end of its IPA space, and the bits of the type that have no meaning.
_REFUSALS: Final[dict[Verdict, tuple[type[errors.CreateVmError], str, str]]] = {
    Verdict.ACCEPTED: (
        errors.CreateVmError,
        "the kernel refused a machine type that its limit allows",
        "look at the kernel log; run: kvmipa doctor",
    ),
    Verdict.NOT_CONFIGURABLE: (
        errors.IpaSizeNotConfigurableError,
        "this kernel has no choice of IPA size (older than 4.20)",
        "ask for the default (None), which is 40 bits, or run Linux 4.20 or later",
    ),
    Verdict.RESERVED_BITS: (
        errors.ReservedTypeBitsError,
        "machine type {reserved} no meaning",
        "set bits 7:0 (IPA size) and bit 31 (protected VM) only",
    ),
    Verdict.TOO_SMALL: (
        errors.IpaSizeTooSmallError,
        "the IPA size is below the minimum of 32 bits",
        "ask for 32 bits or more",
    ),
    Verdict.TOO_LARGE: (
        errors.IpaSizeTooLargeError,
        "the IPA size is above the host's limit of {limit} bits",
        "ask for at most {limit} bits and place guest memory below {end:#x}",
    ),
    Verdict.DEFAULT_UNSUPPORTED: (
        errors.DefaultIpaSizeUnsupportedError,
        "the default of 40 bits is above the host's limit",
        "name a size: create_vm({limit}) is the largest here",
    ),
    Verdict.PROTECTED_WITHOUT_PKVM: (
        errors.ProtectedUnsupportedError,
        "bit 31 asks for a protected VM, which needs pKVM on Linux 7.x",
        "boot Linux 7.x with kvm-arm.mode=protected, or create an ordinary VM",
    ),
}


def _refused_type(machine_type: int, rules: TypeRules) -> tuple[type[errors.CreateVmError], str, str]:
    """The cause of an EINVAL. Bit 31 is judged last, as by the kernels that know it: a wrong size is named first."""
    kind, cause, fix = _REFUSALS[rules.judge(machine_type)]
    facts = {"limit": rules.limit, "end": 1 << (rules.limit or 0), "reserved": bits_text(reserved_bits(machine_type))}
    return kind, cause.format(**facts), fix.format(**facts)


def _asked(machine_type: int) -> str:
    size = machine_type & SIZE_MASK
    text = f"a VM of {size} bits" if size else "a VM of the default size (40 bits)"
    if machine_type & ~SIZE_MASK:
        text += f", machine type {machine_type:#x}"
    return text


def _available(limit: int | None, *, size_ignored: bool) -> str:
    if size_ignored:
        return f"VMs of {limit} bits, whatever size they ask for (pKVM)"
    if limit is None:
        return "40 bits only (no KVM_CAP_ARM_VM_IPA_SIZE)"
    if limit < DEFAULT_IPA_BITS:
        return f"32 to {limit} bits, no default (KVM_CAP_ARM_VM_IPA_SIZE is {limit})"
    return f"32 to {limit} bits (KVM_CAP_ARM_VM_IPA_SIZE is {limit})"


def closed_error(what: str, ioctl: str | None = None) -> KvmError:
    """A handle was used after close()."""
    return errors.ClosedError(
        errno.EBADF,
        cause=f"this {what} is closed",
        asked=ioctl or "its descriptor",
        available="nothing: close() was called",
        fix="use it inside its with block, or open a new one",
        ioctl=ioctl,
    )


def other_process_error(what: str, ioctl: str, argument: int) -> KvmError:
    """EIO: the VM belongs to another process (or is dead)."""
    return errors.OtherProcessError(
        errno.EIO,
        cause=f"this {what} belongs to the process that created it",
        asked=f"{ioctl} in another process",
        available="close(), and VMs of this process's own",
        fix="create the VM in the process that uses it (after fork, not before)",
        ioctl=ioctl,
        argument=argument,
    )


_DOCTOR: Final = "run: kvmipa doctor"
_NO_PERMISSION: Final = (
    errors.DevicePermissionError,
    "this user may not open {device}",
    "join the group that owns it (usually: sudo usermod -aG kvm $USER, then log in again)",
)
_NO_DRIVER: Final = (
    errors.DeviceNotFoundError,
    "{device} is there, but no KVM behind it for this process",
    f"{_DOCTOR} (KVM did not start, or this is a 32-bit process)",
)
_UNOPENED: Final[dict[int, tuple[type[errors.BackendUnavailableError], str, str]]] = {
    errno.ENOENT: (
        errors.DeviceNotFoundError,
        "there is no {device}",
        f"{_DOCTOR} (no EL2, kvm-arm.mode=none, or a kernel without KVM)",
    ),
    errno.ENODEV: _NO_DRIVER,
    errno.ENXIO: _NO_DRIVER,
    errno.EACCES: _NO_PERMISSION,
    errno.EPERM: _NO_PERMISSION,
    errno.EISDIR: (errors.NotKvmError, "{device} is a directory", "name the device node"),
}


def open_error(code: int, device: str, backend: str = "native") -> KvmError:
    """Why ``device`` could not be opened."""
    asked = f"open {device}"
    if code == errno.ENOENT and backend == "emulated":
        return errors.DeviceNotFoundError(
            code,
            cause=f"the emulated machine has no {device}",
            asked=asked,
            available=f"{DEVICE}, where the host's KVM starts",
            fix="emulate a host whose KVM starts (not mode 'none', and a page size that its stage 2 has)",
        )
    fix = _RESOURCES[code][2] if code in (errno.EMFILE, errno.ENFILE) else _DOCTOR
    otherwise = (errors.BackendUnavailableError, f"{{device}} cannot be opened: {os.strerror(code)}", fix)
    kind, cause, fix = _UNOPENED.get(code, otherwise)
    return kind(code, cause=cause.format(device=device), asked=asked, available="the emulated backend", fix=fix)


def not_kvm_error(code: int, device: str, ioctl: str = "KVM_GET_API_VERSION") -> KvmError:
    """What opened does not answer as KVM."""
    if code in (errno.ENOSYS, errno.ENOTTY) and device == DEVICE and is_kvm_node(device):
        # linux-user/syscall.c of QEMU forwards no KVM ioctl: ENOSYS up to 8.0, ENOTTY since.
        return errors.QemuUserError(
            code,
            cause=f"{device} opens, but no KVM answers: this program runs under qemu-aarch64 (user mode), which "
            "forwards no KVM ioctl",
            asked=f"a KVM at {device}",
            available="the emulated backend",
            ioctl=ioctl,
            argument=0,
            fix="use the emulated backend, or boot a kernel under qemu-system-aarch64",
        )
    return errors.NotKvmError(
        code,
        cause=f"{device} is not a KVM device",
        asked=f"a KVM at {device}",
        available="the emulated backend",
        ioctl=ioctl,
        argument=0,
        fix="name the device node of KVM",
    )


def is_kvm_node(path: str) -> bool:
    """Whether it is the node that the kernel gives KVM; False where something else was put in its place."""
    try:
        return os.stat(path).st_rdev == os.makedev(*KVM_DEVICE)  # noqa: PTH116  pathlib costs more than all else here
    except OSError:
        return True


def not_arm64_error(action: str) -> KvmError:
    """The KVM behind the descriptor is another architecture's."""
    return errors.NotArm64KvmError(
        errno.ENODEV,
        cause="this is not an arm64 KVM: it does not have KVM_CAP_ARM_PSCI, which every arm64 KVM has",
        asked=action,
        available="check_extension(), and the emulated backend",
        fix="use the emulated backend here (kvmipa --backend emulated), or run on arm64 Linux",
    )
