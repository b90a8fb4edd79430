# SPDX-License-Identifier: Apache-2.0
"""Every error that kvmipa raises: an OSError with the kernel's errno, one class per cause.

A message has four parts: what was asked, what is available, the cause, and what to do. The kernel has one errno
(EINVAL) for most causes; the class is worked out from what else is known.
"""

from __future__ import annotations

from kvmipa.errno_names import errno_name


class KvmError(OSError):
    """Something that KVM refused, or that kvmipa refused before asking it.

    errno: the kernel's (or the one that it would have given); ioctl: name of the request, or None; argument: what was
    passed to it, or None; asked, available, cause, fix: the parts of the message.

    >>> error = KvmError(22, asked="a VM of 12 bits", available="32 to 44 bits", cause="too small", fix="ask for 32")
    >>> error.errno
    22
    >>> print(error)
    too small (EINVAL)
      asked:     a VM of 12 bits
      available: 32 to 44 bits
      fix:       ask for 32
    """

    def __init__(
        self,
        errno: int,
        *,
        cause: str,
        asked: str = "",
        available: str = "",
        fix: str = "",
        ioctl: str | None = None,
        argument: int | None = None,
    ) -> None:
        super().__init__(errno, cause)
        self.asked = asked
        self.available = available
        self.cause = cause
        self.fix = fix
        self.ioctl = ioctl
        self.argument = argument

    def __str__(self) -> str:
        """Cause, call and errno; then what was asked, what is available, what to do."""
        call = ""
        if self.ioctl is not None:
            call = f"{self.ioctl}({'' if self.argument is None else hex(self.argument)}): "
        lines = [f"{self.cause} ({call}{errno_name(self.errno or 0)})"]
        for label, text in (("asked", self.asked), ("available", self.available), ("fix", self.fix)):
            if text:
                lines.append(f"  {label + ':':<10} {text}")
        return "\n".join(lines)

    def __reduce__(self) -> tuple[object, ...]:
        """Pickle all parts: test runners carry errors between processes."""
        return _restore, (type(self), self.errno, self.__dict__)


def _restore(kind: type[KvmError], errno: int, parts: dict[str, object]) -> KvmError:
    error = kind.__new__(kind)
    OSError.__init__(error, errno, parts["cause"])
    error.__dict__.update(parts)
    return error


class BackendUnavailableError(KvmError):
    """The backend that was asked for cannot be used here."""


class NativeMissingError(BackendUnavailableError):
    """kvmipa was installed without its compiled extension."""


class DeviceNotFoundError(BackendUnavailableError, FileNotFoundError):
    """There is no such device node, or nothing behind it: KVM did not start, or is not in this kernel."""


class DevicePermissionError(BackendUnavailableError, PermissionError):
    """The device node is there, but this user may not open it."""


class NotKvmError(BackendUnavailableError):
    """The path opens, but what is behind it does not answer as KVM."""


class QemuUserError(NotKvmError):
    """An arm64 program under qemu-aarch64 (user mode): the device node is the host's, but no KVM ioctl is forwarded."""


class ApiVersionError(BackendUnavailableError):
    """KVM_GET_API_VERSION is not 12, the only version that there has been since 2007."""


class NotArm64KvmError(KvmError):
    """The KVM that answers is another architecture's: it has no IPA size."""


class ClosedError(KvmError, ValueError):
    """The handle was closed."""


class OtherProcessError(KvmError):
    """A VM can be used only by the process that created it, not by its children (EIO)."""


class NotSupportedError(KvmError):
    """What was asked exists on the other backend only, or on other kernels only."""


class CapabilityNeedsVmError(KvmError):
    """KVM cannot say on the system descriptor: the answer depends on the VM, which has to be asked."""


class CreateVmError(KvmError):
    """KVM_CREATE_VM failed; the classes below name the cause where it is known."""


class InvalidIpaSizeError(CreateVmError, ValueError):
    """The size does not fit the machine type's low byte: refused before the call, for a mask would change it."""


class IpaSizeTooSmallError(CreateVmError):
    """The size is from 1 to 31; the smallest that KVM makes is 32 bits."""


class IpaSizeTooLargeError(CreateVmError):
    """The size is above the host's IPA limit."""


class IpaSizeNotConfigurableError(CreateVmError):
    """The kernel is older than 4.20: every VM has 40 bits, and the machine type must be 0."""


class DefaultIpaSizeUnsupportedError(CreateVmError):
    """Type 0 means 40 bits, and the host's IPA limit is below that."""


class ReservedTypeBitsError(CreateVmError):
    """The machine type has bits set that the kernel gives no meaning."""


class ProtectedUnsupportedError(CreateVmError):
    """A protected VM needs a kernel that runs pKVM."""


class DescriptorLimitError(CreateVmError):
    """The process (EMFILE) or the system (ENFILE) has no file descriptor left."""


class OutOfMemoryError(CreateVmError):
    """The kernel could not allocate: the top-level table is up to 1 MiB of contiguous memory."""


class CreateVmInterruptedError(CreateVmError, InterruptedError):
    """KVM_CREATE_VM kept answering EINTR."""
