# SPDX-License-Identifier: Apache-2.0
"""Raw requests on devices and vCPUs, for either kernel: numbers and structs as kernel-device-spec has them."""

from __future__ import annotations

import ctypes
import errno
import os
import struct
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

from kvmipa import running_kernel
from kvmipa.backend.emulated.release import parse

if TYPE_CHECKING:
    from types import TracebackType

    from kvmipa import Kvm

KVM_CREATE_VCPU = 0xAE41
KVM_CREATE_IRQCHIP = 0xAE60
KVM_RUN = 0xAE80
KVM_ARM_SET_DEVICE_ADDR = 0x4010AEAB
KVM_GET_ONE_REG, KVM_SET_ONE_REG = 0x4010AEAB, 0x4010AEAC
KVM_ARM_VCPU_INIT = 0x4020AEAE
KVM_ARM_PREFERRED_TARGET = 0x8020AEAF
KVM_ARM_VCPU_FINALIZE = 0x4004AEC2
KVM_CREATE_DEVICE = 0xC00CAEE0
SET, GET, HAS = 0x4018AEE1, 0x4018AEE2, 0x4018AEE3

VFIO, V2, V3, ITS = 4, 5, 7, 8
TEST = 1

ADDR, DIST_REGS, CPU_REGS, NR_IRQS, CTRL, REDIST_REGS, CPU_SYSREGS, LEVEL_INFO, ITS_REGS, MAINT_IRQ = range(10)
V2_DIST, V2_CPU, DIST, REDIST, ITS_ADDR, REGION = range(6)
INIT, SAVE_PENDING = 0, 3
PMU, TIMER, PVTIME = range(3)

UNSET = (1 << 64) - 1
# Nothing is mapped there, whatever the program.
BAD = 8
NO_MORE = (0,) * 6
FILL = 0xA5A5_A5A5_A5A5_A5A5


def name(result: int) -> str | int:
    """A result as it is, an error by its name."""
    return result if result >= 0 else errno.errorcode[-result]


def region(index: int, base: int, count: int, flags: int = 0) -> int:
    """The value of a redistributor region."""
    return index | flags << 12 | base | count << 52


def point_release_of(kvm: Kvm) -> tuple[int, ...]:
    """The kernel's, with its point release: of an emulated one that has none, the last of its line."""
    profile = kvm._backend.profile
    running = profile.release if profile else running_kernel.stable_release(os.uname().release, os.uname().version)
    return parse(running)


def release_of(kvm: Kvm) -> tuple[int, ...]:
    """The kernel's line."""
    return point_release_of(kvm)[:2]


class Machine:
    """A VM, asked directly; closes what it made. size: bytes of its IPA space."""

    def __init__(self, kvm: Kvm, bits: int | None = 36) -> None:
        self._stack = ExitStack()
        self.vm = self._stack.enter_context(kvm.create_vm(bits))
        self.backend: Any = kvm._backend
        self.fd = self.vm.fileno()
        self.size = 1 << self.vm.geometry.ipa_bits

    def __enter__(self) -> Machine:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def _kept(self, fd: int) -> int:
        if fd >= 0:
            self._stack.callback(self.backend.close, fd)
        return fd

    def create(self, kind: int, flags: int = 0) -> int:
        """KVM_CREATE_DEVICE: a descriptor, or -errno; with TEST the result."""
        asked = bytearray(struct.pack("=III", kind, 0xA5, flags))
        result = int(self.backend.ioctl_buffer(self.fd, KVM_CREATE_DEVICE, asked))
        if result < 0 or flags & TEST:
            assert struct.unpack("=III", asked)[1] == 0xA5
            return result
        return self._kept(int(struct.unpack("=III", asked)[1]))

    def vcpu(self, vcpu_id: int = 0) -> int:
        """KVM_CREATE_VCPU: a descriptor, or -errno."""
        return self._kept(int(self.backend.ioctl(self.fd, KVM_CREATE_VCPU, vcpu_id)))

    def ask(self, fd: int, request: int, argument: int = 0) -> str | int:
        """A request with a value or an address."""
        return name(int(self.backend.ioctl(fd, request, argument)))

    def ask_struct(self, fd: int, request: int, layout: str, *values: int) -> str | int:
        """A request with a struct."""
        return name(int(self.backend.ioctl_buffer(fd, request, bytearray(struct.pack(layout, *values)))))

    def attribute(self, fd: int, request: int, group: int, attr: int, address: int = 0) -> str | int:
        """A request about an attribute, with the address of its value."""
        return self.ask_struct(fd, request, "=IIQQ", 0, group, attr, address)

    def put(self, fd: int, group: int, attr: int, value: int = 0, size: int = 8) -> str | int:
        """KVM_SET_DEVICE_ATTR with a number."""
        buffer = ctypes.create_string_buffer(value.to_bytes(size, "little"), size)
        return self.attribute(fd, SET, group, attr, ctypes.addressof(buffer))

    def get(self, fd: int, group: int, attr: int, size: int = 8, given: int = FILL) -> str | int:
        """KVM_GET_DEVICE_ATTR: the number, or the errno; nothing is written behind it."""
        buffer = ctypes.create_string_buffer(given.to_bytes(8, "little") + b"\xa5" * 8, 16)
        result = self.attribute(fd, GET, group, attr, ctypes.addressof(buffer))
        if result != 0:
            return result
        assert buffer.raw[8:] == b"\xa5" * 8
        return int.from_bytes(buffer.raw[:size], "little")

    def has(self, fd: int, group: int, attr: int) -> str | int:
        """KVM_HAS_DEVICE_ATTR; the value's address is not looked at."""
        return self.attribute(fd, HAS, group, attr, BAD)

    def address(self, fd: int, kind: int, value: int) -> str | int:
        """An address of a device."""
        return self.put(fd, ADDR, kind, value)

    def target(self) -> int:
        """KVM_ARM_PREFERRED_TARGET."""
        asked = bytearray(32)
        assert self.backend.ioctl_buffer(self.fd, KVM_ARM_PREFERRED_TARGET, asked) == 0
        target, *features = struct.unpack("=8I", asked)
        assert features == [0] * 7
        return int(target)

    def init(
        self, fd: int, features: int = 0, target: int | None = None, more: tuple[int, ...] = (0,) * 6
    ) -> str | int:
        """KVM_ARM_VCPU_INIT."""
        chosen = self.target() if target is None else target
        return self.ask_struct(fd, KVM_ARM_VCPU_INIT, "=8I", chosen, features, *more)
