# SPDX-License-Identifier: Apache-2.0
"""Why /dev/kvm did not open, does not answer as KVM, or refused a VM (KVM_CREATE_VM)."""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING, Final

from kvmipa import errors
from kvmipa.backend import DEVICE
from kvmipa.causes import DESCRIPTOR_LIMITS, KERNEL_LOG, Cause, unnamed
from kvmipa.machine_type import DEFAULT_IPA_BITS, SIZE_MASK, TypeRules, Verdict, bits_text, reserved_bits

if TYPE_CHECKING:
    from kvmipa.errors import KvmError

# MISC_MAJOR of include/uapi/linux/major.h, KVM_MINOR of include/linux/miscdevice.h.
KVM_DEVICE: Final = (10, 232)

_DOCTOR: Final = "run: kvmipa doctor"
_LOG_AND_DOCTOR: Final = f"{KERNEL_LOG}; {_DOCTOR}"
_EMULATED: Final = "the emulated backend"


# ------------------------------------------------------------------------------------------------ KVM_CREATE_VM


def create_vm_error(code: int, machine_type: int, limit: int | None, *, size_ignored: bool = False) -> KvmError:
    """Why KVM_CREATE_VM refused a machine type with errno ``code`` on a host with this IPA limit (None: no capability).

    size_ignored: the host gives every VM the limit (pKVM). The kernel's release is not known here, so a type with bit
    31 is taken as a request for a protected VM; it is judged last, as by the kernels that know it: a wrong size is
    named first.
    """
    if code == errno.EINVAL:
        found = _REFUSALS[TypeRules(limit, protected_bit=True, size_ignored=size_ignored).judge(machine_type)]
    else:
        found = _RESOURCES.get(code) or unnamed(code, errors.CreateVmError, "{sizes}", _LOG_AND_DOCTOR)
    filled = found.filled(
        sizes=_available(limit, size_ignored=size_ignored),
        limit=limit,
        end=1 << (limit or 0),
        reserved=bits_text(reserved_bits(machine_type)),
    )
    return filled.error(code, asked=_asked(machine_type), ioctl="KVM_CREATE_VM", argument=machine_type)


_RESOURCES: Final[dict[int, Cause]] = {
    **DESCRIPTOR_LIMITS,
    errno.ENOMEM: Cause(
        errors.OutOfMemoryError,
        "the kernel could not allocate the VM",
        "{sizes}",
        "free memory, or ask for a size whose top-level table is smaller (kvmipa create --ipa-bits N shows it); "
        "under pKVM, close VMs: there is room for 255",
    ),
    errno.EINTR: Cause(
        errors.CreateVmInterruptedError,
        "KVM_CREATE_VM was interrupted again and again",
        "{sizes}",
        "send this thread fewer signals while it creates a VM",
    ),
}


# They may name the sizes that there are, the host's limit, the end of its IPA space, and the bits of the type that have
# no meaning.
_REFUSALS: Final[dict[Verdict, Cause]] = {
    Verdict.ACCEPTED: Cause(
        errors.CreateVmError, "the kernel refused a machine type that its limit allows", "{sizes}", _LOG_AND_DOCTOR
    ),
    Verdict.NOT_CONFIGURABLE: Cause(
        errors.IpaSizeNotConfigurableError,
        "this kernel has no choice of IPA size (older than 4.20)",
        "{sizes}",
        "ask for the default (None), which is 40 bits, or run Linux 4.20 or later",
    ),
    Verdict.RESERVED_BITS: Cause(
        errors.ReservedTypeBitsError,
        "machine type {reserved} no meaning",
        "{sizes}",
        "set bits 7:0 (IPA size) and bit 31 (protected VM) only",
    ),
    Verdict.TOO_SMALL: Cause(
        errors.IpaSizeTooSmallError,
        "the IPA size is below the minimum of 32 bits",
        "{sizes}",
        "ask for 32 bits or more",
    ),
    Verdict.TOO_LARGE: Cause(
        errors.IpaSizeTooLargeError,
        "the IPA size is above the host's limit of {limit} bits",
        "{sizes}",
        "ask for at most {limit} bits and place guest memory below {end:#x}",
    ),
    Verdict.DEFAULT_UNSUPPORTED: Cause(
        errors.DefaultIpaSizeUnsupportedError,
        "the default of 40 bits is above the host's limit",
        "{sizes}",
        "name a size: create_vm({limit}) is the largest here",
    ),
    Verdict.PROTECTED_WITHOUT_PKVM: Cause(
        errors.ProtectedUnsupportedError,
        "bit 31 asks for a protected VM, which needs pKVM on Linux 7.x",
        "{sizes}",
        "boot Linux 7.x with kvm-arm.mode=protected, or create an ordinary VM",
    ),
}


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


# ------------------------------------------------------------------------------------------------ opening


_NO_PERMISSION: Final = Cause(
    errors.DevicePermissionError,
    "this user may not open {device}",
    _EMULATED,
    "join the group that owns it (usually: sudo usermod -aG kvm $USER, then log in again)",
)
_NO_DRIVER: Final = Cause(
    errors.DeviceNotFoundError,
    "{device} is there, but no KVM behind it for this process",
    _EMULATED,
    f"{_DOCTOR} (KVM did not start, or this is a 32-bit process)",
)
_UNOPENED: Final[dict[int, Cause]] = {
    errno.ENOENT: Cause(
        errors.DeviceNotFoundError,
        "there is no {device}",
        _EMULATED,
        f"{_DOCTOR} (no EL2, kvm-arm.mode=none, or a kernel without KVM)",
    ),
    errno.ENODEV: _NO_DRIVER,
    errno.ENXIO: _NO_DRIVER,
    errno.EACCES: _NO_PERMISSION,
    errno.EPERM: _NO_PERMISSION,
    errno.EISDIR: Cause(errors.NotKvmError, "{device} is a directory", _EMULATED, "name the device node"),
}
_NOT_EMULATED: Final = Cause(
    errors.DeviceNotFoundError,
    "the emulated machine has no {device}",
    f"{DEVICE}, where the host's KVM starts",
    "emulate a host whose KVM starts (not mode 'none', and a page size that its stage 2 has)",
)


def open_error(code: int, device: str, backend: str = "native") -> KvmError:
    """Why ``device`` could not be opened."""
    if code == errno.ENOENT and backend == "emulated":
        found = _NOT_EMULATED
    elif code in _UNOPENED:
        found = _UNOPENED[code]
    else:
        words = f"{{device}} cannot be opened: {os.strerror(code)}"
        found = DESCRIPTOR_LIMITS.get(code) or Cause(errors.BackendUnavailableError, words, _EMULATED, _DOCTOR)
    return found.filled(device=device).error(code, asked=f"open {device}")


# linux-user/syscall.c of QEMU forwards no KVM ioctl: ENOSYS up to 8.0, ENOTTY since.
_QEMU_USER: Final = Cause(
    errors.QemuUserError,
    "{device} opens, but no KVM answers: this program runs under qemu-aarch64 (user mode), which forwards no KVM ioctl",
    _EMULATED,
    "use the emulated backend, or boot a kernel under qemu-system-aarch64",
)
_NOT_KVM: Final = Cause(errors.NotKvmError, "{device} is not a KVM device", _EMULATED, "name the device node of KVM")


def not_kvm_error(code: int, device: str, ioctl: str = "KVM_GET_API_VERSION") -> KvmError:
    """What opened does not answer as KVM."""
    is_user_mode = code in (errno.ENOSYS, errno.ENOTTY) and device == DEVICE and is_kvm_node(device)
    found = _QEMU_USER if is_user_mode else _NOT_KVM
    return found.filled(device=device).error(code, asked=f"a KVM at {device}", ioctl=ioctl, argument=0)


def is_kvm_node(path: str) -> bool:
    """Whether it is the node that the kernel gives KVM; False where something else was put in its place."""
    try:
        return os.stat(path).st_rdev == os.makedev(*KVM_DEVICE)  # noqa: PTH116  pathlib costs more than all else here
    except OSError:
        return True
