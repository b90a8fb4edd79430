# SPDX-License-Identifier: Apache-2.0
"""Kvm: the system descriptor, /dev/kvm."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING, Final

from kvmipa import errors
from kvmipa._abi_table import (
    KVM_API_VERSION,
    KVM_CAP_ARM_PSCI,
    KVM_CAP_ARM_VM_IPA_SIZE,
    KVM_CHECK_EXTENSION,
    KVM_CREATE_VM,
    KVM_GET_API_VERSION,
    KVM_GET_VCPU_MMAP_SIZE,
)
from kvmipa.backend import DEVICE
from kvmipa.causes import not_arm64_error
from kvmipa.causes.system import create_vm_error, not_kvm_error, open_error
from kvmipa.extension import ExtensionHandle
from kvmipa.machine_type import DEFAULT_IPA_BITS, MIN_IPA_BITS, SIZE_MASK, MachineType, unsigned_long, unsigned_longs
from kvmipa.vm import Vm

if TYPE_CHECKING:
    from collections.abc import Iterable

    from kvmipa.backend import Backend
    from kvmipa.errors import KvmError

# KVM_CREATE_VM takes all mm locks and gives up for signals, sometimes with none pending; Firecracker tries 5 times.
EINTR_ATTEMPTS: Final = 8


class Kvm(ExtensionHandle):
    """The KVM of this machine, or an emulated one: what it can do, and the VMs that it makes.

    Made by kvmipa.open(). Raises, when made: DeviceNotFoundError, DevicePermissionError, NotKvmError, QemuUserError,
    ApiVersionError. On a machine of another architecture it answers check_extension() and refuses the rest.

    >>> import kvmipa
    >>> with kvmipa.open("emulated", host="qemu-cortex-a57-6.12-4k") as kvm:
    ...     kvm.api_version, kvm.host_ipa_limit
    (12, 44)
    """

    kind = "Kvm"

    def __init__(self, backend: Backend, device: str = DEVICE) -> None:
        fd = backend.open(device)
        if fd < 0:
            raise open_error(-fd, device, backend.name)
        super().__init__(backend, fd)
        try:
            self.device = device
            self.api_version = self._get_api_version()
            self.is_arm64 = self._ioctl(fd, KVM_CHECK_EXTENSION, KVM_CAP_ARM_PSCI) == 1
            self._ask_limit()
            self.page_size = self._get_page_size() if self.is_arm64 else None
        except BaseException:
            self.close()
            raise

    def _ask_limit(self) -> None:
        """Learn which sizes there are; again only where fault injection has changed that."""
        limit = self._ioctl(self._fd, KVM_CHECK_EXTENSION, KVM_CAP_ARM_VM_IPA_SIZE)
        self._host_ipa_limit = limit if limit > 0 else None
        self._ignores_size: bool | None = None

    def _get_page_size(self) -> int:
        """kvm_run and the coalesced-MMIO ring take a page each (kernel-ipa-spec 1.3)."""
        size = self._ioctl(self._fd, KVM_GET_VCPU_MMAP_SIZE, 0)
        if size < 0:
            raise not_kvm_error(-size, self.device, "KVM_GET_VCPU_MMAP_SIZE")
        return size // 2

    def _get_api_version(self) -> int:
        version = self._ioctl(self._fd, KVM_GET_API_VERSION, 0)
        if version < 0:
            raise not_kvm_error(-version, self.device)
        if version != KVM_API_VERSION:
            raise errors.ApiVersionError(
                errno.ENOTSUP,
                cause=f"the KVM API version is {version}, not {KVM_API_VERSION}",
                asked=f"a KVM at {self.device}",
                available=f"one of API version {version}",
                ioctl="KVM_GET_API_VERSION",
                argument=0,
                fix="no kernel since 2.6.22 has another; look at what answers on this device",
            )
        return version

    @property
    def host_ipa_limit(self) -> int | None:
        """The largest IPA size of a VM here, in bits: KVM_CAP_ARM_VM_IPA_SIZE; None where there is no such capability.

        None means an arm64 kernel before 4.20, or another architecture.
        """
        return self._host_ipa_limit

    @property
    def ignores_size(self) -> bool:
        """Whether every VM gets host_ipa_limit bits, whatever size it asks for (pKVM since Linux 6.2).

        KVM has no capability for that: a VM of one bit is asked for, which all other hosts refuse. Asked once, when it
        is first wanted, also of a Kvm that is closed. Raises what create_vm() raises where it cannot be asked.
        """
        if self._ignores_size is None:
            if self.closed:
                with Kvm(self._backend, self.device) as again:
                    self._ignores_size = again.ignores_size
                return self._ignores_size
            self._require_arm64("create a VM")
            fd = self._create_fd(1)
            if fd >= 0:
                self._backend.close(fd)
            elif fd != -errno.EINVAL:
                raise create_vm_error(-fd, 1, self._host_ipa_limit)
            self._ignores_size = fd >= 0
        return self._ignores_size

    def _extension_error(self, code: int, cap: int) -> KvmError:
        if code != errno.EINVAL or self.closed:
            return super()._extension_error(code, cap)
        from kvmipa.abi import capability_name

        # A negative answer of kvm_vm_ioctl_check_extension: it would look into the VM (kernel-ipa-spec 9).
        return errors.CapabilityNeedsVmError(
            code,
            cause=f"{capability_name(cap)} depends on the VM",
            asked="what KVM can do, of the system descriptor",
            available="the answer of each VM",
            ioctl="KVM_CHECK_EXTENSION",
            argument=cap,
            fix="ask the VM: Vm.check_extension()",
        )

    def create_vm(self, ipa_bits: int | None = None, *, protected: bool = False) -> Vm:
        """A VM whose guest physical addresses have ``ipa_bits`` bits (None: the kernel's default, 40).

        protected asks for a VM whose memory the host cannot read (pKVM, Linux 7.x).

        Raises a CreateVmError whose class is the cause: InvalidIpaSizeError before the call for what does not fit the
        low byte; IpaSizeTooSmallError, IpaSizeTooLargeError, DefaultIpaSizeUnsupportedError,
        IpaSizeNotConfigurableError, ProtectedUnsupportedError, DescriptorLimitError, OutOfMemoryError; TypeError for
        what is not an int; ClosedError; NotArm64KvmError.

        >>> import kvmipa
        >>> with kvmipa.open("emulated", host="qemu-max-6.12-4k") as kvm, kvm.create_vm(48) as vm:
        ...     vm.ipa_bits, vm.geometry.levels
        (48, 4)
        """
        return self._create(MachineType(ipa_bits, protected).encode())

    def create_vm_raw(self, machine_type: int) -> Vm:
        """A VM of a 64-bit machine type, sent to the kernel as it is.

        Raises as create_vm() does, and ReservedTypeBitsError; OverflowError for what does not fit 64 bits.

        >>> import kvmipa
        >>> with kvmipa.open("emulated") as kvm:
        ...     kvm.create_vm_raw(1 << 32)
        Traceback (most recent call last):
        ...
        kvmipa.errors.ReservedTypeBitsError: machine type bit 32 has no meaning (KVM_CREATE_VM(0x100000000): EINVAL)
          asked:     a VM of the default size (40 bits), machine type 0x100000000
          available: 32 to 52 bits (KVM_CAP_ARM_VM_IPA_SIZE is 52)
          fix:       set bits 7:0 (IPA size) and bit 31 (protected VM) only
        """
        return self._create(unsigned_long(machine_type))

    def _create(self, machine_type: int) -> Vm:
        self._require_arm64("create a VM")
        fd = self._create_fd(machine_type)
        if fd < 0:
            self.fileno()
            ignored = fd == -errno.EINVAL and self.ignores_size
            raise create_vm_error(-fd, machine_type, self._host_ipa_limit, size_ignored=ignored)
        asked = machine_type & SIZE_MASK or DEFAULT_IPA_BITS
        return Vm(self._backend, fd, asked, given_bits=lambda: self._given_bits(asked), page_size=self.page_size or 0)

    def _create_fd(self, machine_type: int) -> int:
        """KVM_CREATE_VM's descriptor or -errno; EINTR is tried again, a bounded number of times."""
        fd = -errno.EINTR
        for _ in range(EINTR_ATTEMPTS):
            fd = self._ioctl(self._fd, KVM_CREATE_VM, machine_type)
            if fd != -errno.EINTR:
                break
        return fd

    def _given_bits(self, asked: int) -> int:
        """The IPA size of a VM that asked for this one and was made."""
        limit = self._host_ipa_limit
        if limit is None or asked == limit:
            return asked
        if not MIN_IPA_BITS <= asked <= limit and asked != DEFAULT_IPA_BITS:
            return limit
        return limit if self.ignores_size else asked

    def probe_machine_types(self, types: Iterable[int]) -> list[int]:
        """For each machine type whether a VM of it can be made: 0, or the errno of KVM_CREATE_VM.

        Each VM is closed at once. The types are sent as they are, 64 bits each. Raises TypeError or OverflowError for
        what is no 64-bit integer (before the first is tried), CreateVmInterruptedError, ClosedError, NotArm64KvmError.

        >>> import kvmipa
        >>> with kvmipa.open("emulated", host="qemu-cortex-a57-6.12-4k") as kvm:
        ...     kvm.probe_machine_types([0, 31, 32, 44, 45])
        [0, 22, 0, 0, 22]
        """
        wanted = unsigned_longs(types)
        self._require_arm64("create VMs")
        fd = self.fileno()
        results: list[int] = []
        fruitless = 0
        while len(results) < len(wanted):
            done = self._backend.sweep_machine_types(fd, wanted[len(results) :])
            results += done
            fruitless = 0 if done else fruitless + 1
            if fruitless == EINTR_ATTEMPTS:
                raise create_vm_error(errno.EINTR, wanted[len(results)], self._host_ipa_limit)
        return results

    def _require_arm64(self, action: str) -> None:
        if not self.is_arm64:
            raise not_arm64_error(action)

    def __repr__(self) -> str:
        """Backend, device and state."""
        if self.closed:
            return f"<kvmipa.Kvm {self.backend} {self.device} closed>"
        limit = f"host_ipa_limit={self._host_ipa_limit}" if self.is_arm64 else "not an arm64 KVM"
        return f"<kvmipa.Kvm {self.backend} {self.device} fd={self._fd} {limit}>"
