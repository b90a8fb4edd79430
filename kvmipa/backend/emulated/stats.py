# SPDX-License-Identifier: Apache-2.0
"""KVM_GET_STATS_FD of the emulated kernel: statistics of VMs and vCPUs (kvm_stats_read in virt/kvm/binary_stats.c)."""

from __future__ import annotations

import os
from contextlib import suppress
from errno import ENOTTY
from struct import Struct
from typing import TYPE_CHECKING, Final, NamedTuple

from kvmipa import abi
from kvmipa.backend.emulated.requests import Request
from kvmipa.backend.emulated.shared_mapping import map_shared

if TYPE_CHECKING:
    from kvmipa.backend.emulated.user_memory import Argument
    from kvmipa.backend.emulated.vcpu import Vcpu
    from kvmipa.backend.emulated.vm import VirtualMachine

# include/uapi/linux/kvm.h: struct kvm_stats_header, struct kvm_stats_desc; KVM_STATS_NAME_SIZE of include/linux.
_HEADER: Final = Struct(abi.STRUCTS["stats_header"][0])
_DESCRIPTOR: Final = Struct(abi.STRUCTS["stats_desc"][0] + "48s")
_NAME_SIZE: Final = 48
_VALUE: Final = Struct("=Q")

_CUMULATIVE: Final = abi.KVM_STATS_TYPE_CUMULATIVE
_INSTANT: Final = abi.KVM_STATS_TYPE_INSTANT
_LOG_HISTOGRAM: Final = abi.KVM_STATS_TYPE_LOG_HIST
_SECONDS: Final = abi.KVM_STATS_UNIT_SECONDS
_BOOLEAN: Final = abi.KVM_STATS_UNIT_BOOLEAN

_NANO: Final = -9
_BUCKETS: Final = 32


class Row(NamedTuple):
    """A statistic: its descriptor. size: how many values it has; exponent: of 10, what its unit is multiplied with."""

    name: str
    flags: int = _CUMULATIVE
    exponent: int = 0
    size: int = 1


# KVM_GENERIC_VM_STATS, all that arm64 counts of a VM.
OF_A_VM: Final = (Row("remote_tlb_flush"), Row("remote_tlb_flush_requests"))

# KVM_GENERIC_VCPU_STATS, and kvm_vcpu_stats_desc in arch/arm64/kvm/guest.c: the same in 6.1, 6.12 and 7.3.
OF_A_VCPU: Final = (
    Row("halt_successful_poll"),
    Row("halt_attempted_poll"),
    Row("halt_poll_invalid"),
    Row("halt_wakeup"),
    Row("halt_poll_success_ns", _CUMULATIVE | _SECONDS, _NANO),
    Row("halt_poll_fail_ns", _CUMULATIVE | _SECONDS, _NANO),
    Row("halt_wait_ns", _CUMULATIVE | _SECONDS, _NANO),
    Row("halt_poll_success_hist", _LOG_HISTOGRAM | _SECONDS, _NANO, _BUCKETS),
    Row("halt_poll_fail_hist", _LOG_HISTOGRAM | _SECONDS, _NANO, _BUCKETS),
    Row("halt_wait_hist", _LOG_HISTOGRAM | _SECONDS, _NANO, _BUCKETS),
    Row("blocking", _INSTANT | _BOOLEAN),
    Row("hvc_exit_stat"),
    Row("wfe_exit_stat"),
    Row("wfi_exit_stat"),
    Row("mmio_exit_user"),
    Row("mmio_exit_kernel"),
    Row("signal_exits"),
    Row("exits"),
)


# For each of them the guest was left.
_OF_AN_EXIT: Final = frozenset(row.name for row in OF_A_VCPU[11:17])


class Counters:
    """What is counted of one VM or vCPU. Only what has one value is; histograms stay empty, and nothing polls."""

    def __init__(self) -> None:
        self._counts: dict[str, int] = {}
        # Descriptors from which they are read.
        self._files: list[StatsFile] = []

    def count(self, name: str, by: int = 1) -> None:
        """Add to a statistic, and to those of which it is a part; the descriptors that there are show it at once."""
        for one in (name, "exits") if name in _OF_AN_EXIT else (name,):
            self._counts[one] = self._counts.get(one, 0) + by
            for file in self._files:
                file.show(one, self._counts[one])

    def __getitem__(self, name: str) -> int:
        """How often."""
        return self._counts.get(name, 0)

    def attach(self, file: StatsFile) -> None:
        """A descriptor was opened."""
        self._files.append(file)

    def detach(self, file: StatsFile) -> None:
        """It was closed."""
        self._files.remove(file)


class StatsFile:
    """Statistics of a VM or a vCPU; it knows no request (the files of kvm_vm_ioctl_get_stats_fd have no ioctl).

    content: the file's, None where there is none. The descriptor's number may be another file's in the meantime.
    """

    def __init__(self, vm: VirtualMachine, rows: tuple[Row, ...], content: memoryview | None) -> None:
        self.vm = vm
        self._content = content
        # Where each one's first value is in the file.
        self._places: dict[str, int] = {}
        place = _values_at(rows)
        for row in rows:
            self._places[row.name] = place
            place += row.size * _VALUE.size

    def ioctl(self, _request: int, _argument: Argument, /) -> int:
        """Refuse every request."""
        return -ENOTTY

    def show(self, name: str, value: int) -> None:
        """Have a value read from then on."""
        if self._content is not None:
            _VALUE.pack_into(self._content, self._places[name], value)


def stats_fd_of_vm(vm: VirtualMachine, _argument: Argument) -> int:
    """KVM_GET_STATS_FD: a descriptor to read; nothing is counted of a VM."""
    return _open(vm, f"kvm-{os.getpid()}", OF_A_VM, Counters())


def stats_fd_of_vcpu(vcpu: Vcpu, _argument: Argument) -> int:
    """KVM_GET_STATS_FD: a descriptor to read."""
    return _open(vcpu.vm, f"kvm-{os.getpid()}/vcpu-{vcpu.vcpu_id}", OF_A_VCPU, vcpu.counters)


def _values_at(rows: tuple[Row, ...]) -> int:
    return _HEADER.size + _NAME_SIZE + len(rows) * _DESCRIPTOR.size


def statistics(source: str, rows: tuple[Row, ...], counters: Counters) -> bytes:
    """What is read from a descriptor: header, name, descriptors, values (kvm_stats_read)."""
    header = _HEADER.pack(0, _NAME_SIZE, len(rows), _HEADER.size, _HEADER.size + _NAME_SIZE, _values_at(rows))
    descriptors, values = b"", b""
    for row in rows:
        descriptors += _DESCRIPTOR.pack(row.flags, row.exponent, row.size, len(values), 0, row.name.encode())
        values += _VALUE.pack(counters[row.name]) + bytes(_VALUE.size * (row.size - 1))
    return header + source.encode().ljust(_NAME_SIZE, b"\0") + descriptors + values


def _open(vm: VirtualMachine, source: str, rows: tuple[Row, ...], counters: Counters) -> int:
    fd = vm.descriptors.reserve()
    if fd < 0:
        return fd
    file = StatsFile(vm, rows, _make_readable(fd, source, statistics(source, rows, counters)))
    counters.attach(file)
    return vm.descriptors.install(fd, file, on_close=lambda: counters.detach(file))


def _make_readable(fd: int, source: str, content: bytes) -> memoryview | None:
    """Put a file with this content behind a reserved number: it, to be changed.

    None: on systems other than Linux, and where there are no descriptors for it, it stays empty.
    """
    if not hasattr(os, "memfd_create"):
        return None
    # Modules that have to be read need a descriptor as well.
    with suppress(OSError, ImportError):
        writer = os.memfd_create(f"{source}-stats")
        try:
            os.write(writer, content)
            reader = os.open(f"/proc/self/fd/{writer}", os.O_RDONLY | os.O_CLOEXEC)
            try:
                mapped = map_shared(writer, len(content))
                os.dup2(reader, fd, inheritable=False)
                return mapped
            finally:
                os.close(reader)
        finally:
            os.close(writer)
    return None


# On a VM's descriptor.
VM_REQUESTS: Final[tuple[Request, ...]] = (
    Request(abi.KVM_GET_STATS_FD, stats_fd_of_vm, needs=abi.KVM_CAP_BINARY_STATS_FD),
)

# On a vCPU's descriptor.
VCPU_REQUESTS: Final[tuple[Request, ...]] = (
    Request(abi.KVM_GET_STATS_FD, stats_fd_of_vcpu, needs=abi.KVM_CAP_BINARY_STATS_FD),
)
