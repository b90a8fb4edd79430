# SPDX-License-Identifier: Apache-2.0
"""A VM with one vCPU by requests of its own, for what runs in the lab's guests: kvmipa itself runs no vCPU."""

from __future__ import annotations

import ctypes
import mmap
import os
from struct import Struct
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from kvmipa import abi
from kvmipa.backend import DEVICE
from kvmipa.backend.native import NativeBackend

if TYPE_CHECKING:
    from kvmipa.backend import Backend

# asm/kvm.h: KVM_REG_ARM64 | KVM_REG_SIZE_U64 | KVM_REG_ARM_CORE, counted in words of 32 bits of struct kvm_regs.
CORE: Final = 0x6030_0000_0010_0000
PC: Final = CORE + 64
PSTATE: Final = CORE + 66
# KVM_REG_ARM64 | KVM_REG_SIZE_U64 | KVM_REG_ARM64_SYSREG, by the register's encoding.
SYSREG: Final = 0x6030_0000_0013_0000

# linux/kvm.h, struct kvm_run: immediate_exit; exit_reason; of an MMIO exit phys_addr, data, len, is_write.
_IMMEDIATE_EXIT: Final = 1
_EXIT_REASON: Final = Struct("=8xI")
_MMIO: Final = Struct("=32xQ8xIB")
_MMIO_DATA: Final = 40
EXIT_MMIO: Final = 6

_REGION: Final = Struct(abi.STRUCTS["userspace_memory_region"][0])


class Mmio(NamedTuple):
    """An exit with KVM_EXIT_MMIO: the address, bytes, and whether the guest stored."""

    address: int
    size: int
    is_write: bool


def core(number: int) -> int:
    """The identifier of a general register.

    >>> hex(core(1))
    '0x6030000000100002'
    """
    return CORE + 2 * number


class Kernel:
    """The system calls, with a failure as an exception that names the request."""

    def __init__(self, backend: Backend | None = None) -> None:
        self.backend = backend or NativeBackend()
        self.system = self.backend.open(DEVICE)
        if self.system < 0:
            raise OSError(-self.system, os.strerror(-self.system), DEVICE)

    def ask(self, fd: int, request: int, argument: int | bytearray = 0) -> int:
        """The result of an ioctl; raises OSError."""
        send: Any = self.backend.ioctl if isinstance(argument, int) else self.backend.ioctl_buffer
        result: int = send(fd, request, argument)
        if result < 0:
            raise OSError(-result, os.strerror(-result), abi.request_name(request))
        return result


class RawVm:
    """A VM of this machine type."""

    def __init__(self, kernel: Kernel, machine_type: int) -> None:
        self.kernel = kernel
        self.fd = kernel.ask(kernel.system, abi.KVM_CREATE_VM, machine_type)

    def ask(self, request: int, argument: int | bytearray = 0) -> int:
        """The result of an ioctl on the VM; raises OSError."""
        return self.kernel.ask(self.fd, request, argument)

    def set_region(self, slot: int, gpa: int, size: int, hva: int, flags: int = 0) -> None:
        """KVM_SET_USER_MEMORY_REGION."""
        self.ask(abi.KVM_SET_USER_MEMORY_REGION, bytearray(_REGION.pack(slot, flags, gpa, size, hva)))

    def close(self) -> None:
        """Let go of the VM; it lives on while its vCPU's descriptor is open."""
        self.kernel.backend.close(self.fd)


class RawVcpu:
    """A VM's vCPU 0, initialised as the host prefers it.

    Once: a second KVM_ARM_VCPU_INIT of one that has run unmaps the whole stage 2 on CPUs without S2FWB.
    """

    def __init__(self, vm: RawVm) -> None:
        self._kernel = vm.kernel
        self.fd = vm.ask(abi.KVM_CREATE_VCPU, 0)
        target = bytearray(abi.VCPU_INIT.size)
        vm.ask(abi.KVM_ARM_PREFERRED_TARGET, target)
        self._kernel.ask(self.fd, abi.KVM_ARM_VCPU_INIT, target)
        size = self._kernel.ask(self._kernel.system, abi.KVM_GET_VCPU_MMAP_SIZE)
        #: struct kvm_run.
        self.run_area = mmap.mmap(self.fd, size)

    def set_register(self, register: int, value: int) -> None:
        """KVM_SET_ONE_REG of 64 bits."""
        self._one_register(abi.KVM_SET_ONE_REG, register, ctypes.c_uint64(value))

    def get_register(self, register: int) -> int:
        """KVM_GET_ONE_REG of 64 bits."""
        return self._one_register(abi.KVM_GET_ONE_REG, register, ctypes.c_uint64())

    def _one_register(self, request: int, register: int, content: ctypes.c_uint64) -> int:
        self._kernel.ask(self.fd, request, bytearray(abi.ONE_REG.pack(register, ctypes.addressof(content))))
        return content.value

    def run(self) -> int:
        """KVM_RUN: 0 at an exit, or -errno."""
        return self._kernel.backend.ioctl(self.fd, abi.KVM_RUN, 0)

    def complete(self) -> None:
        """Have KVM finish what the exit left open, without running on."""
        self.run_area[_IMMEDIATE_EXIT] = 1
        self.run()
        self.run_area[_IMMEDIATE_EXIT] = 0

    @property
    def exit_reason(self) -> int:
        """Why the last run ended."""
        reason: int = _EXIT_REASON.unpack_from(self.run_area)[0]
        return reason

    @property
    def mmio(self) -> Mmio:
        """The access that ended it, where the reason is EXIT_MMIO."""
        address, size, is_write = _MMIO.unpack_from(self.run_area)
        return Mmio(address, size, bool(is_write))

    def run_to_mmio(self) -> Mmio:
        """Run until an access ends it; OSError where KVM_RUN fails, RuntimeError where something else ends it."""
        if (result := self.run()) < 0:
            raise OSError(-result, os.strerror(-result), "KVM_RUN")
        if self.exit_reason != EXIT_MMIO:
            raise RuntimeError(f"KVM_RUN came back with exit reason {self.exit_reason}")
        return self.mmio

    def answer(self, value: int) -> None:
        """What the guest's load gets when the vCPU runs on."""
        self.run_area[_MMIO_DATA : _MMIO_DATA + 8] = value.to_bytes(8, "little")

    def close(self) -> None:
        """Let go of it."""
        self.run_area.close()
        self._kernel.backend.close(self.fd)
