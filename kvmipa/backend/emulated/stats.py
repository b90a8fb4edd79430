# SPDX-License-Identifier: Apache-2.0
"""KVM_GET_STATS_FD of the emulated kernel: statistics of VMs and vCPUs (kvm_stats_read in virt/kvm/binary_stats.c)."""

from __future__ import annotations

import os
from contextlib import suppress
from errno import ENOTTY
from struct import Struct, pack
from typing import TYPE_CHECKING, Final

from kvmipa import abi
from kvmipa.backend.emulated.requests import Request

if TYPE_CHECKING:
    from kvmipa.backend.emulated.user_memory import Argument
    from kvmipa.backend.emulated.vcpu import Vcpu
    from kvmipa.backend.emulated.vm import VirtualMachine

# include/uapi/linux/kvm.h: struct kvm_stats_header, struct kvm_stats_desc; KVM_STATS_NAME_SIZE of include/linux.
_HEADER: Final = Struct("=6I")
_DESCRIPTOR: Final = Struct("=IhHII48s")
_NAME_SIZE: Final = 48

# KVM_GENERIC_VM_STATS, all that arm64 counts of a VM; cumulative, no unit, base 10: flags of 0.
_STATISTICS: Final = (b"remote_tlb_flush", b"remote_tlb_flush_requests")


class StatsFile:
    """Statistics of a VM or a vCPU; it knows no request (the files of kvm_vm_ioctl_get_stats_fd have no ioctl)."""

    def __init__(self, vm: VirtualMachine) -> None:
        self.vm = vm

    def ioctl(self, _request: int, _argument: Argument, /) -> int:
        """Refuse every request."""
        return -ENOTTY


def stats_fd_of_vm(vm: VirtualMachine, _argument: Argument) -> int:
    """KVM_GET_STATS_FD: a descriptor to read; nothing is counted here, so the values stay 0."""
    return _open(vm, statistics(os.getpid()))


def stats_fd_of_vcpu(vcpu: Vcpu, _argument: Argument) -> int:
    """KVM_GET_STATS_FD: a descriptor from which nothing is read, for nothing is counted."""
    return _open(vcpu.vm, b"")


def statistics(pid: int) -> bytes:
    """What is read from a VM's descriptor: header, name, descriptors, values (kvm_stats_read)."""
    count = len(_STATISTICS)
    descriptors_at = _HEADER.size + _NAME_SIZE
    values_at = descriptors_at + count * _DESCRIPTOR.size
    header = _HEADER.pack(0, _NAME_SIZE, count, _HEADER.size, descriptors_at, values_at)
    name = b"kvm-%d" % pid
    rows = (_DESCRIPTOR.pack(0, 0, 1, 8 * at, 0, text) for at, text in enumerate(_STATISTICS))
    return header + name.ljust(_NAME_SIZE, b"\0") + b"".join(rows) + pack(f"={count}Q", *[0] * count)


def _open(vm: VirtualMachine, content: bytes) -> int:
    fd = vm.descriptors.reserve()
    if fd < 0:
        return fd
    if content:
        _make_readable(fd, content)
    return vm.descriptors.install(fd, StatsFile(vm))


def _make_readable(fd: int, content: bytes) -> None:
    """Put a file with this content behind a reserved number; on systems other than Linux it stays empty."""
    if not hasattr(os, "memfd_create"):
        return
    with suppress(OSError):
        writer = os.memfd_create("kvm-vm-stats")
        try:
            os.write(writer, content)
            reader = os.open(f"/proc/self/fd/{writer}", os.O_RDONLY | os.O_CLOEXEC)
            try:
                os.dup2(reader, fd, inheritable=False)
            finally:
                os.close(reader)
        finally:
            os.close(writer)


# On a VM's descriptor.
VM_REQUESTS: Final[tuple[Request, ...]] = (
    Request(abi.KVM_GET_STATS_FD, stats_fd_of_vm, needs=abi.KVM_CAP_BINARY_STATS_FD),
)

# On a vCPU's descriptor.
VCPU_REQUESTS: Final[tuple[Request, ...]] = (
    Request(abi.KVM_GET_STATS_FD, stats_fd_of_vcpu, needs=abi.KVM_CAP_BINARY_STATS_FD),
)
