# SPDX-License-Identifier: Apache-2.0
"""The emulated kernel: a small arm64 KVM in Python, for any host profile.

It receives the request numbers and structs of the real one and gives back its results and errno. Behaviour that no
real kernel confirmed names the specification as its source.
"""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING, Final

from kvmipa._abi_table import KVM_CREATE_VM
from kvmipa.backend import DEVICE, check_buffer
from kvmipa.backend.emulated.descriptors import Descriptors, is_open
from kvmipa.backend.emulated.system import SystemFile
from kvmipa.backend.emulated.vcpu import VcpuFile
from kvmipa.backend.emulated.vcpu_mapping import map_behind_run_area
from kvmipa.backend.emulated.vm import VmFile
from kvmipa.buffers import address_of
from kvmipa.turn import taking

if TYPE_CHECKING:
    from array import array
    from collections.abc import Callable, Sequence

    from kvmipa.access import Access, Result
    from kvmipa.backend.emulated.host import HostProfile
    from kvmipa.backend.emulated.vm import VirtualMachine
    from kvmipa.stage2 import Stage2
    from kvmipa.turn import Turn

_UNSIGNED_LONG: Final = 1 << 64

# Bits 31:30 of a request: whether it takes a struct, to read, to write or both.
_TAKES_STRUCT: Final = 0xC000_0000


class EmulatedBackend:
    """System calls on the emulated kernel of one host."""

    name = "emulated"

    def __init__(self, profile: HostProfile) -> None:
        self.profile = profile
        self._descriptors = Descriptors()

    def open(self, path: str, /) -> int:
        """See Backend. The emulated machine has one device, and only if its KVM starts."""
        # do_sys_openat2 in fs/open.c reserves the descriptor before it looks for the file.
        fd = self._descriptors.reserve()
        if fd < 0:
            return fd
        if path != DEVICE or not self.profile.starts_kvm:
            self._descriptors.give_back(fd)
            return -errno.ENOENT
        return self._descriptors.install(fd, SystemFile(self.profile, self._descriptors))

    def ioctl(self, fd: int, request: int, argument: int, /) -> int:
        """See Backend."""
        # The errors of the compiled extension, whose parameters are C integers.
        if argument.__class__ is not int:
            argument = _as_c_integer(argument)
        if not 0 <= argument < _UNSIGNED_LONG:
            raise OverflowError(f"integer {argument} does not fit 'unsigned long'")
        file = self._descriptors.get(fd)
        # The system call takes an unsigned int for the request.
        return _not_kvm(fd) if file is None else file.ioctl(request & 0xFFFF_FFFF, argument)

    def ioctl_buffer(self, fd: int, request: int, buffer: bytearray, /) -> int:
        """See Backend."""
        check_buffer(request, buffer)
        file = self._descriptors.get(fd)
        if file is None:
            return _not_kvm(fd)
        request &= 0xFFFF_FFFF
        # The buffer itself needs no copy from an address; a request that takes a value gets the address as one.
        return file.ioctl(request, buffer if request & _TAKES_STRUCT else address_of(buffer))

    def close(self, fd: int, /) -> None:
        """See Backend."""
        self._descriptors.close(fd)

    def mmap(self, fd: int, size: int, offset: int = 0, /) -> memoryview | int:
        """See Backend. The second page of the run area is not the ring of coalesced MMIO, which has its own offset."""
        file = self._descriptors.get(fd)
        if not isinstance(file, VcpuFile):
            # None of the other files has an mmap operation, as far as the emulated kernel goes.
            return -errno.ENODEV if file is not None or is_open(fd) else -errno.EBADF
        if size <= 0 or offset % self.profile.page_size:
            return -errno.EINVAL
        if offset:
            return map_behind_run_area(file.vcpu, size, offset)
        return file.vcpu.area[:size] if size <= len(file.vcpu.area) else -errno.EINVAL

    def runner(self, fd: int, area: memoryview, turn: Turn, /) -> Callable[[], int]:
        """See Backend."""
        file = self._descriptors.get(fd)
        if not isinstance(file, VcpuFile):
            raise TypeError("only a vCPU runs")
        return taking(turn, area, file.run)

    def kick(self, fd: int, _turn: Turn, /) -> int:
        """See Backend. Whatever thread it is that runs the vCPU."""
        file = self._descriptors.get(fd)
        if isinstance(file, VcpuFile):
            file.kick()
        return 0

    def sweep_machine_types(self, fd: int, types: array[int], /) -> Sequence[int]:
        """See Backend."""
        results = []
        for machine_type in types:
            vm = self.ioctl(fd, KVM_CREATE_VM, machine_type)
            if vm >= 0:
                self.close(vm)
            results.append(-vm if vm < 0 else 0)
        return results

    def stage2(self, fd: int, /) -> Stage2:
        """See Backend."""
        return self._vm(fd).stage2

    def access(self, fd: int, what: Access, /) -> Result:
        """See Backend."""
        return self._vm(fd).access(what)

    def _vm(self, fd: int) -> VirtualMachine:
        file = self._descriptors.get(fd)
        if not isinstance(file, VmFile):
            raise TypeError("only a VM has a stage 2")
        return file.vm


def _not_kvm(fd: int) -> int:
    """What a descriptor answers that is not the emulated kernel's: some other file's of the process, or nobody's."""
    return -errno.ENOTTY if is_open(fd) else -errno.EBADF


def _as_c_integer(argument: object) -> int:
    if isinstance(argument, int):
        return int(argument)
    raise TypeError("an integer is required")
