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
    """A VM can be used only by the process that created it, not by its children (EIO); VmDeadError is EIO as well."""


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


class CreateVmInterruptedError(CreateVmError, InterruptedError):
    """KVM_CREATE_VM kept answering EINTR."""


class MemorySlotError(KvmError):
    """KVM refused a memory slot; the classes below name the cause where it is known."""


class SlotBeyondIpaSpaceError(MemorySlotError):
    """The slot ends beyond the VM's IPA space, 2^ipa_bits bytes (EFAULT)."""


class SlotOverlapError(MemorySlotError, FileExistsError):
    """The guest addresses are another slot's (EEXIST)."""


class MisalignedSlotError(MemorySlotError):
    """An address or a size is not a multiple of the host's page size (EINVAL)."""


class SlotIdError(MemorySlotError):
    """The slot number is not one that this kernel has (EINVAL), or is in use already (EEXIST)."""


class SlotFlagsError(MemorySlotError):
    """The flags are not of this kernel, or not to be had together (EINVAL)."""


class SlotAddressError(MemorySlotError):
    """The user address is tagged, or beyond the end of user space (EINVAL)."""


class SlotSizeError(MemorySlotError):
    """The slot wraps around the end of 64 bits, or has 2^31 pages or more (EINVAL)."""


class SlotResizeError(MemorySlotError):
    """Size, user address and KVM_MEM_READONLY of a slot stay as they are until it is deleted (EINVAL)."""


class NoSuchSlotError(MemorySlotError, LookupError):
    """There is no slot of this number: it was never set, or it was deleted (EINVAL; ENOENT of the dirty log)."""


class SlotMappingError(MemorySlotError):
    """What the process has mapped there cannot be a slot's memory, or not so (EINVAL; EPERM before 5.6)."""


class ProtectedSlotError(MemorySlotError, PermissionError):
    """A protected VM's slots are neither logged nor read-only, and stay once it has run (EPERM)."""


class GuestMemfdError(MemorySlotError):
    """The guest_memfd cannot be made, or cannot be the memory of this slot (EINVAL, EBADF, EEXIST)."""


class DirtyLogOffError(MemorySlotError):
    """The slot has no dirty bitmap: KVM_MEM_LOG_DIRTY_PAGES is off (ENOENT), or a ring is used instead (ENXIO)."""


class DirtyLogRangeError(MemorySlotError, ValueError):
    """The pages whose dirty bits are to be cleared are not whole words of the slot's bitmap (EINVAL)."""


class BadPointerError(MemorySlotError):
    """The kernel cannot read or write the process's memory at an address that it was given (EFAULT)."""


class GuestMemoryError(KvmError):
    """Memory for a guest cannot be mapped: the system said no."""


class GuestMemorySizeError(GuestMemoryError, ValueError):
    """A size, offset or alignment of guest memory is not one that can be mapped; nothing is rounded silently."""


class MemoryInUseError(GuestMemoryError):
    """The memory is a VM's, or somebody has a view of its buffer: it cannot be unmapped (EBUSY)."""


class EnableCapError(KvmError):
    """KVM_ENABLE_CAP failed; the classes below name the cause where it is known."""


class CapabilityNotEnableableError(EnableCapError):
    """There is nothing to enable: this kernel or host does not have the capability, or it is always on."""


class InvalidCapabilityArgumentError(EnableCapError):
    """The capability can be enabled, but not with these flags or arguments."""


class TooLateToEnableError(EnableCapError):
    """The VM has a vCPU or memory already, before which the capability has to be enabled."""


class AlreadyEnabledError(EnableCapError):
    """The capability can be enabled once only, and was."""


class NeedsOtherCapabilityError(EnableCapError):
    """Another capability has to be enabled first."""


class DeviceError(KvmError):
    """KVM refused a device or an attribute of one; the classes below name the cause where it is known."""


class VcpuError(KvmError):
    """KVM refused a vCPU or a request to one; the classes below name the cause where it is known."""


class OutOfMemoryError(CreateVmError, VcpuError):
    """The kernel could not allocate: a VM, whose top-level table is up to 1 MiB in one piece, or the guest's tables."""


class InterruptError(KvmError):
    """KVM refused an interrupt: a line, an irqfd, a route or an MSI; the classes below name the cause."""


class DeviceTypeUnsupportedError(DeviceError):
    """There is no device of this type on this host, or with this kernel (ENODEV; ENXIO without any vGIC)."""


class DeviceExistsError(DeviceError):
    """The VM has a device of this kind, and can have one only (EBUSY, EEXIST)."""


class VgicExistsError(DeviceExistsError):
    """The VM has a vGIC, for good: closing its descriptor does not take it away (EEXIST)."""


class NoSuchAttributeError(DeviceError, VcpuError, LookupError):
    """The device or the vCPU has no such attribute on this kernel, or not with the vCPU's features (ENXIO, ENODEV)."""


class AttributePointerError(DeviceError, VcpuError):
    """The kernel cannot read or write the attribute's value at the address that it was given (EFAULT)."""


class DeviceBeyondIpaSpaceError(DeviceError):
    """A device's frames are not within the VM's IPA space, 2^ipa_bits bytes (E2BIG; EINVAL where they wrap)."""


class AttributeNotReadableError(DeviceError, PermissionError):
    """The device's attributes can be set, and not be read (EPERM)."""


class VfioFileError(DeviceError):
    """A file for kvm-vfio is not open (EBADF), not VFIO's (EINVAL), there already (EEXIST), or not there (ENOENT)."""


class AddressAlreadySetError(DeviceError, VcpuError):
    """The address is set, and stays (EEXIST; EINVAL for the redistributors before 6.1)."""


class MisalignedDeviceAddressError(DeviceError, VcpuError):
    """The address is not a multiple of what the device needs, whatever the host's page size (EINVAL)."""


class DeviceOverlapError(DeviceError, VcpuError):
    """Distributor and redistributors, or two regions of these, are in the same place (EINVAL)."""


class RedistributorRegionError(DeviceError):
    """A region of redistributors has no frames, or it is not the next one (EINVAL; ENOENT where it is read)."""


class NrIrqsError(DeviceError, ValueError):
    """The number of interrupts is not a multiple of 32 from 64 to 992 (EINVAL)."""


class NrIrqsAlreadySetError(DeviceError):
    """The number of interrupts is set, or was by the vGIC's initialisation (EBUSY)."""


class VgicInitialisedError(DeviceError, VcpuError):
    """The vGIC is initialised: from then on there are no more vCPUs and no more settings (EBUSY)."""


class VgicNotInitialisedError(DeviceError, VcpuError, InterruptError):
    """The vGIC has to be initialised first (EBUSY, ENODEV, ENXIO; EAGAIN of an irqfd)."""


class NoVgicError(VcpuError, InterruptError):
    """The VM has no vGIC, which is needed (EINVAL of an attribute or an MSI, ENXIO of a line, EAGAIN of an irqfd)."""


class NoSuchVcpuError(DeviceError, InterruptError, LookupError):
    """The attribute is a register, or the line is one, of a vCPU that there is not (EINVAL)."""


class VcpuIdError(VcpuError):
    """The vCPU's id is beyond what this VM can have (EINVAL)."""


class VcpuExistsError(VcpuError):
    """The VM has a vCPU of this id (EEXIST)."""


class TooManyVcpusError(VcpuError, DeviceError):
    """The VM has as many vCPUs as it can (EINVAL), or more than its vGIC could (E2BIG)."""


class VcpuFeatureError(VcpuError):
    """A feature that this kernel does not know (ENOENT), or that this host or this VM cannot have (EINVAL)."""


class VcpuTargetError(VcpuError):
    """The target is not this host's CPU (EINVAL)."""


class InterruptNumberError(VcpuError, DeviceError, InterruptError, ValueError):
    """The number is not one that this interrupt can have: a line's, a timer's, a PMU's or the vGIC's own (EINVAL)."""


class NoMemoryThereError(VcpuError):
    """There is no slot at the guest address, or one that the guest cannot write (EINVAL)."""


class VgicOwnsLinesError(InterruptError):
    """The VM has a vGIC, to which the lines of its CPUs belong: raise an SPI or a PPI (ENXIO)."""


class GsiRouteError(InterruptError, ValueError):
    """A route is not one that KVM takes, or a GSI has two of them (EINVAL)."""


class NoItsError(InterruptError):
    """MSIs need an ITS: the VM has none (ENODEV), or none at this address (EINVAL)."""


class MsiDeviceIdError(InterruptError, ValueError):
    """An ITS tells MSIs apart by the device that sends them: the device's id is missing (EINVAL)."""


class ItsOffError(InterruptError):
    """The guest has not switched the ITS on (EBUSY)."""


class EventFdError(KvmError):
    """KVM refused to connect an eventfd with a VM; the classes below name the cause where it is known."""


class NotAnEventFdError(EventFdError):
    """The number is not an open descriptor (EBADF), or not an eventfd's (EINVAL)."""


class EventFdInUseError(EventFdError):
    """The eventfd has an irqfd: in this VM, or since Linux 7.3 in any (EBUSY)."""


class IoEventFdRangeError(EventFdError, ValueError):
    """A write of this size, address and value cannot signal an eventfd (EINVAL)."""


class IoEventFdExistsError(EventFdError, FileExistsError):
    """A write could be for two: an ioeventfd of this address, size and value is there (EEXIST)."""


class NoSuchIoEventFdError(EventFdError, LookupError):
    """There is no such ioeventfd to remove (ENOENT)."""


class CoalescedMmioError(KvmError):
    """KVM refused to collect writes, or has nothing to collect them in; the classes below name the cause."""


class IoBusFullError(EventFdError, CoalescedMmioError):
    """The VM has as many ranges on its MMIO bus as it can have, 1000 (ENOSPC)."""


class DirtyRingError(KvmError):
    """KVM refused to reset the dirty rings, or has none to map; the classes below name the cause."""


class DirtyRingOffError(DirtyRingError):
    """The VM has no dirty ring (EINVAL): it is enabled before the first vCPU is made."""


class StatisticsError(KvmError):
    """KVM gives no statistics here, or what it says cannot be read."""


class DescriptorLimitError(
    BackendUnavailableError, CreateVmError, VcpuError, DeviceError, GuestMemfdError, StatisticsError
):
    """The process (EMFILE) or the system (ENFILE) has no file descriptor left, whatever was to get one."""


class MemoryTagsError(MemorySlotError):
    """Memory tags cannot be copied; the classes below name the cause where it is known."""


class MemoryTagsOffError(MemoryTagsError):
    """The VM has no memory tags: KVM_CAP_ARM_MTE was not enabled before its first vCPU (EINVAL)."""


class MemoryTagsRangeError(MemoryTagsError, ValueError):
    """Tags are copied for whole pages of the guest's memory (EINVAL; EFAULT where the guest has none there)."""


class MemoryTagsLoggedError(MemoryTagsError):
    """Tags are not written while a slot's pages are logged (EBUSY)."""


class SmcccFilterError(KvmError):
    """KVM refused to filter a guest's calls; the classes below name the cause where it is known."""


class SmcccRangeError(SmcccFilterError, ValueError):
    """The range is empty, or ends beyond the last function id (EINVAL)."""


class SmcccRangeTakenError(SmcccFilterError, FileExistsError):
    """A part of the range is filtered already, or KVM's own (EEXIST)."""


class VcpuHasRunError(DeviceError, SmcccFilterError):
    """It has to be done before the first vCPU runs: a vGIC's creation, a filter of calls (EBUSY)."""


class VcpuNotInitialisedError(VcpuError):
    """The vCPU has no registers and cannot run before init() (ENOEXEC)."""


class SveNotFinalisedError(VcpuError):
    """A vCPU with SVE has to be told that its vector lengths stay, by finalize(), before this (EPERM)."""


class SveFinalisedError(VcpuError):
    """The vector lengths of a vCPU with SVE stay from finalize() on (EPERM)."""


class RegisterError(VcpuError):
    """KVM refused a register of a vCPU; the classes below name the cause where it is known."""


class NoSuchRegisterError(RegisterError, LookupError):
    """The vCPU has no such register: not on this host, not on this kernel, or not with its features (ENOENT)."""


class RegisterIdError(RegisterError, ValueError):
    """The number is no register's id: not arm64's, not the start of a register, or of another size (EINVAL)."""


class RegisterValueError(RegisterError, ValueError):
    """The register cannot have this value (EINVAL)."""


class InvariantRegisterError(RegisterValueError):
    """The register says what the host is, and cannot be made to say this (EINVAL)."""


class RegisterFrozenError(RegisterError):
    """The register stays as it is once a vCPU of the VM has run (EBUSY)."""


class MpStateError(VcpuError, ValueError):
    """A vCPU cannot be put into this state (EINVAL)."""


class VcpuEventsError(VcpuError, ValueError):
    """A vCPU cannot have these events pending (EINVAL)."""


class GuestDebugError(VcpuError, ValueError):
    """A guest cannot be debugged in this way (EINVAL)."""


class VmDeadError(KvmError):
    """KVM has given up the VM after a first run that could not be: all that is asked of it and its parts is EIO."""


class FirstRunError(VcpuError):
    """What the first run checks is not as it has to be: the vGIC, the timers, the PMU (EINVAL)."""


class VgicNotPlacedError(FirstRunError, DeviceError):
    """The vGIC, or the part of it that belongs to a vCPU, has no address (ENXIO)."""


class IllegalGuestStateError(VcpuError):
    """The guest got into a state that the CPU does not have (EINVAL with KVM_EXIT_FAIL_ENTRY)."""


class InstructionNotDescribedError(VcpuError):
    """The guest accessed a device by an instruction that the CPU does not describe (ENOSYS)."""


class GuestMemoryGoneError(VcpuError):
    """The guest accessed memory that the process does not have, or not so (EFAULT)."""


class VcpuBusyError(VcpuError):
    """A thread runs the vCPU, or one of the VM's, and it has to be done while none does (EBUSY)."""


class KickSignalError(VcpuError):
    """The signal that interrupts KVM_RUN is ignored (EBUSY), or cannot be sent (EAGAIN)."""


class MmioNotAnsweredError(VcpuError):
    """The guest waits for what it loads: the exit was not answered (EAGAIN)."""


class MmioAnsweredError(VcpuError):
    """No guest waits for this answer, to a load or a call: it was answered, or is not the last exit (EINVAL)."""


class MmioDeviceError(VcpuError, ValueError):
    """A device on an MmioBus read something that is no number of so many bytes (EINVAL)."""
