# SPDX-License-Identifier: Apache-2.0
"""What KVM counts of a VM and of a vCPU: KVM_GET_STATS_FD (Linux 5.14).

Documentation/virt/kvm/api.rst 4.133; virt/kvm/binary_stats.c. The descriptor tells the names, units and places of its
numbers itself: nothing here knows which there are.
"""

from __future__ import annotations

import os
import struct
from array import array
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Final, NamedTuple

from kvmipa import abi
from kvmipa.causes import of_vm
from kvmipa.causes.statistics import not_readable_error, stats_fd_error
from kvmipa.handle import Handle

if TYPE_CHECKING:
    from collections.abc import Iterator

    from typing_extensions import Self

    from kvmipa.backend import Backend
    from kvmipa.handle import Held

_HEADER: Final = struct.Struct(abi.STRUCTS["stats_header"][0])
_DESCRIPTOR: Final = struct.Struct(abi.STRUCTS["stats_desc"][0])
_VALUE: Final = struct.Struct("=Q")

# A descriptor's flags: the type in 3:0, the unit in 7:4, the base in 11:8.
_BASES: Final = {abi.KVM_STATS_BASE_POW10: 10, abi.KVM_STATS_BASE_POW2: 2}


class _OfTheKernel(Enum):
    """A number that a later kernel may have more of: UNKNOWN stands for these."""

    @classmethod
    def _missing_(cls, value: object) -> Self:
        return cls["UNKNOWN"]


class StatisticKind(_OfTheKernel):
    """How a value comes about: KVM_STATS_TYPE_*."""

    CUMULATIVE = abi.KVM_STATS_TYPE_CUMULATIVE
    INSTANT = abi.KVM_STATS_TYPE_INSTANT
    PEAK = abi.KVM_STATS_TYPE_PEAK
    LINEAR_HISTOGRAM = abi.KVM_STATS_TYPE_LINEAR_HIST
    LOG_HISTOGRAM = abi.KVM_STATS_TYPE_LOG_HIST
    UNKNOWN = None


class StatisticUnit(_OfTheKernel):
    """What a value counts: KVM_STATS_UNIT_*; NONE: things, of which the name says more."""

    NONE = abi.KVM_STATS_UNIT_NONE
    BYTES = abi.KVM_STATS_UNIT_BYTES
    SECONDS = abi.KVM_STATS_UNIT_SECONDS
    CYCLES = abi.KVM_STATS_UNIT_CYCLES
    BOOLEAN = abi.KVM_STATS_UNIT_BOOLEAN
    UNKNOWN = None


class Bucket(NamedTuple):
    """A bucket of a histogram: how many samples were from ``first`` up to (not including) ``end``; None: no end."""

    first: int
    end: int | None
    samples: int


@dataclass(frozen=True)
class StatisticDescriptor:
    """A statistic, without its values.

    base, exponent: its unit is base**exponent of ``unit``: 10**-9 seconds, say. size: how many values of 64 bits it
    has. offset: bytes from the first value of all. bucket_size: of a linear histogram, in its unit.
    """

    name: str
    kind: StatisticKind
    unit: StatisticUnit
    base: int
    exponent: int
    size: int
    offset: int
    bucket_size: int


@dataclass(frozen=True)
class Statistic:
    """A statistic with what was read.

    >>> import kvmipa
    >>> with kvmipa.open("emulated") as kvm, kvm.create_vm(40) as vm, vm.create_vcpu(0) as vcpu:
    ...     waited = vcpu.stats()["halt_wait_ns"]
    >>> waited.value, waited.unit.name, f"{waited.scale:g}"
    (0, 'SECONDS', '1e-09')
    """

    descriptor: StatisticDescriptor
    values: tuple[int, ...]

    @property
    def name(self) -> str:
        """The kernel's name for it."""
        return self.descriptor.name

    @property
    def kind(self) -> StatisticKind:
        """How its value comes about."""
        return self.descriptor.kind

    @property
    def unit(self) -> StatisticUnit:
        """What it counts; value * scale is in this unit."""
        return self.descriptor.unit

    @property
    def scale(self) -> float:
        """What a value is to be multiplied with: 1e-09 for nanoseconds."""
        return float(self.descriptor.base) ** self.descriptor.exponent

    @property
    def is_histogram(self) -> bool:
        """Whether it has buckets."""
        return self.kind in {StatisticKind.LINEAR_HISTOGRAM, StatisticKind.LOG_HISTOGRAM}

    @property
    def value(self) -> int:
        """The value; of a histogram, how many samples there were."""
        return sum(self.values) if self.is_histogram else self.values[0] if self.values else 0

    @property
    def buckets(self) -> tuple[Bucket, ...]:
        """A histogram's buckets, the last one without an end; none of anything else."""
        return tuple(self._buckets()) if self.is_histogram else ()

    def _buckets(self) -> Iterator[Bucket]:
        edges = [self._edge(at) for at in range(len(self.values))]
        ends: list[int | None] = [*edges[1:], None]
        return (Bucket(*row) for row in zip(edges, ends, self.values, strict=True))

    def _edge(self, position: int) -> int:
        """Where a bucket begins: at multiples of its size, or at 0, 1, 2, 4, 8 ... (kvm_stats_log_hist_update)."""
        if self.kind == StatisticKind.LINEAR_HISTOGRAM:
            return position * self.descriptor.bucket_size
        return 1 << position - 1 if position else 0


class StatisticsFile(Handle):
    """The descriptor that statistics are read from; made by Vm.open_stats() and Vcpu.open_stats().

    It keeps the VM in the kernel. source: the kernel's name for what is counted: "kvm-PID" or "kvm-PID/vcpu-ID".

    >>> import kvmipa
    >>> with kvmipa.open("emulated") as kvm, kvm.create_vm(40) as vm, vm.open_stats() as file:
    ...     [one.name for one in file.descriptors], file.read()["remote_tlb_flush"].value
    (['remote_tlb_flush', 'remote_tlb_flush_requests'], 0)
    """

    kind = "StatisticsFile"

    def __init__(self, backend: Backend, fd: int) -> None:
        super().__init__(backend, fd)
        try:
            self._read_layout()
        except BaseException:
            self.close()
            raise

    def _read_layout(self) -> None:
        header = self._bytes(0, _HEADER.size)
        if len(header) < _HEADER.size:
            raise not_readable_error("its header is missing")
        _flags, self._name_size, count, id_at, descriptors_at, self._values_at = _HEADER.unpack(header)
        self.source = _text(self._bytes(id_at, self._name_size))
        each = _DESCRIPTOR.size + self._name_size
        rows = self._bytes(descriptors_at, count * each)
        try:
            self.descriptors = tuple(self._descriptor(rows, at * each) for at in range(count))
        except struct.error:
            raise not_readable_error(f"the {count} descriptors are cut off") from None
        self._value_size = max((one.offset + one.size * _VALUE.size for one in self.descriptors), default=0)

    def _descriptor(self, rows: bytes, at: int) -> StatisticDescriptor:
        flags, exponent, size, offset, bucket_size = _DESCRIPTOR.unpack_from(rows, at)
        name_at = at + _DESCRIPTOR.size
        return StatisticDescriptor(
            _text(rows[name_at : name_at + self._name_size]),
            StatisticKind(flags & abi.KVM_STATS_TYPE_MASK),
            StatisticUnit(flags & abi.KVM_STATS_UNIT_MASK),
            _BASES.get(flags & abi.KVM_STATS_BASE_MASK, 10),
            exponent,
            size,
            offset,
            bucket_size,
        )

    def read(self) -> dict[str, Statistic]:
        """All statistics as they are now, by name; ClosedError once closed."""
        content = self._bytes(self._values_at, self._value_size)
        if len(content) < self._value_size:
            raise not_readable_error("values are missing")
        return {one.name: Statistic(one, _values(content, one)) for one in self.descriptors}

    def _bytes(self, offset: int, size: int) -> bytes:
        try:
            return os.pread(self.fileno(), size, offset)
        except OSError as error:
            if self.closed:
                raise
            raise not_readable_error(error.strerror or "it cannot be read") from None

    def __repr__(self) -> str:
        """What is counted, and the state."""
        state = "closed" if self.closed else f"fd={self._fd}"
        return f"<kvmipa.StatisticsFile {getattr(self, 'source', '?')} {state}>"


def _values(content: bytes, one: StatisticDescriptor) -> tuple[int, ...]:
    return tuple(array("Q", content[one.offset : one.offset + one.size * _VALUE.size]))


def _text(name: bytes) -> str:
    return name.partition(b"\0")[0].decode("ascii", "replace")


def open_statistics(backend: Backend, fd: int, what: str, keeps: Held | None) -> StatisticsFile:
    """KVM_GET_STATS_FD on a VM or a vCPU. what: its kind; keeps: what the descriptor keeps."""
    result = backend.ioctl(fd, abi.KVM_GET_STATS_FD, 0)
    if result < 0:
        raise of_vm(stats_fd_error(-result, what), None if keeps is None else keeps.died_of)
    made = StatisticsFile(backend, result)
    if keeps is not None:
        made.keep(keeps)
    return made
