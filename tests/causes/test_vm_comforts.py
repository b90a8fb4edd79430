# SPDX-License-Identifier: Apache-2.0
"""Which error the errno of an interrupt, an eventfd or a zone becomes."""

from __future__ import annotations

import errno

import pytest

from kvmipa import errors
from kvmipa.causes.coalesced_mmio import not_mapped_error, zone_error
from kvmipa.causes.dirty_ring import reset_error, ring_off_error
from kvmipa.causes.event_fds import IoEventFdAttempt, IrqfdAttempt
from kvmipa.causes.interrupts import gsi_routing_error, irq_line_error, signal_msi_error
from kvmipa.causes.memory_tags import TagsAttempt
from kvmipa.causes.smccc_filter import filter_error
from kvmipa.causes.statistics import stats_fd_error
from kvmipa.gsi_routing import IrqchipRoute
from kvmipa.interrupt_lines import IrqLine

SPI, PPI, CPU = IrqLine.spi(40), IrqLine.ppi(20, vcpu=3), IrqLine.cpu_irq()
IRQFD = IrqfdAttempt(5, 3, None, closed=False)
DOORBELL = IoEventFdAttempt(5, 0x1000, 4, None, closed=False)
TAGS = TagsAttempt(0x1000, 0x1000, 4096, to_guest=True)


def line(code: int, which: IrqLine, *, has_vgic: bool = True) -> errors.KvmError:
    return irq_line_error(code, which, {0, 1}, has_vgic=has_vgic)


def msi(code: int, device_id: int | None = 1, *, has_vgic: bool = True) -> errors.KvmError:
    return signal_msi_error(code, "an MSI", device_id, has_vgic=has_vgic)


EVERY = [
    (line(errno.ENXIO, SPI, has_vgic=False), errors.NoVgicError, "no vGIC"),
    (line(errno.ENXIO, CPU), errors.VgicOwnsLinesError, "has a vGIC"),
    (line(errno.EBUSY, SPI), errors.VgicNotInitialisedError, "not initialised"),
    (line(errno.EINVAL, SPI), errors.InterruptNumberError, "no interrupt 40"),
    (line(errno.EINVAL, PPI), errors.NoSuchVcpuError, "no vCPU 3"),
    (line(errno.EPERM, SPI), errors.InterruptError, "not permitted"),
    (line(errno.EBADF, SPI), errors.ClosedError, "closed"),
    (line(errno.EIO, SPI), errors.OtherProcessError, "process"),
    (msi(errno.EINVAL, has_vgic=False), errors.NoVgicError, "no vGIC"),
    (msi(errno.EINVAL, None), errors.MsiDeviceIdError, "id of the device"),
    (msi(errno.EINVAL), errors.NoItsError, "at this address"),
    (msi(errno.ENODEV), errors.NoItsError, "no ITS"),
    (msi(errno.EBUSY), errors.ItsOffError, "not switched"),
    (msi(errno.EPERM), errors.InterruptError, "not permitted"),
    (msi(errno.EBADF), errors.ClosedError, "closed"),
    (gsi_routing_error(errno.EINVAL, [IrqchipRoute(5000, 0)]), errors.GsiRouteError, "GSI 5000"),
    (gsi_routing_error(errno.EINVAL, [IrqchipRoute(5, 0)]), errors.GsiRouteError, "Invalid argument"),
    (gsi_routing_error(errno.ENOMEM, []), errors.InterruptError, "memory"),
    (gsi_routing_error(errno.EIO, []), errors.OtherProcessError, "process"),
    (IRQFD.error(errno.EAGAIN, has_vgic=True), errors.VgicNotInitialisedError, "not initialised"),
    (IRQFD.error(errno.EAGAIN, has_vgic=False), errors.NoVgicError, "no vGIC"),
    (IRQFD.error(errno.EBADF, has_vgic=True), errors.NotAnEventFdError, "5 is not open"),
    (IrqfdAttempt(5, 3, 6, closed=False).error(errno.EINVAL, has_vgic=True), errors.NotAnEventFdError, "5 or 6"),
    (IRQFD.error(errno.EBUSY, has_vgic=True), errors.EventFdInUseError, "has an irqfd"),
    (IRQFD.error(errno.ENOMEM, has_vgic=True), errors.EventFdError, "memory"),
    (IrqfdAttempt(5, 3, None, closed=True).error(errno.EBADF, has_vgic=False), errors.ClosedError, "closed"),
    (DOORBELL.error(errno.EBADF), errors.NotAnEventFdError, "5 is not open"),
    (DOORBELL.error(errno.EINVAL), errors.NotAnEventFdError, "5 is not an eventfd's"),
    (DOORBELL.error(errno.EEXIST), errors.IoEventFdExistsError, "signals an eventfd"),
    (DOORBELL.error(errno.ENOENT), errors.NoSuchIoEventFdError, "no such ioeventfd"),
    (DOORBELL.error(errno.ENOSPC), errors.IoBusFullError, "full"),
    (DOORBELL.error(errno.EIO), errors.OtherProcessError, "process"),
    (IoEventFdAttempt(5, 0, 4, None, closed=True).error(errno.EBADF), errors.ClosedError, "closed"),
    (zone_error(errno.ENOSPC, "KVM_REGISTER_COALESCED_MMIO", 0, 8), errors.IoBusFullError, "full"),
    (zone_error(errno.ENOMEM, "KVM_REGISTER_COALESCED_MMIO", 0, 8), errors.CoalescedMmioError, "memory"),
    (not_mapped_error(errno.ENOMEM), errors.CoalescedMmioError, "memory"),
    (reset_error(errno.EINVAL), errors.DirtyRingOffError, "no dirty rings"),
    (reset_error(errno.EINTR), errors.DirtyRingError, "Interrupted"),
    (reset_error(errno.EBADF), errors.ClosedError, "closed"),
    (ring_off_error(errno.ENOMEM), errors.DirtyRingError, "memory"),
    (TAGS.error(errno.EINVAL, 0), errors.MemoryTagsOffError, "no memory tags"),
    (TagsAttempt(8, 16, 4096, to_guest=False).error(errno.EINVAL, 0), errors.MemoryTagsRangeError, "whole pages"),
    (TAGS.error(errno.EFAULT, 0x2000), errors.MemoryTagsRangeError, "0x3000"),
    (TAGS.error(errno.EBUSY, 0), errors.MemoryTagsLoggedError, "logged"),
    (TAGS.error(errno.ENOMEM, 0), errors.MemoryTagsError, "memory"),
    (TAGS.error(errno.EIO, 0), errors.OtherProcessError, "process"),
    (filter_error(errno.EINVAL, 0, 0, has_filter=True), errors.SmcccRangeError, "empty"),
    (filter_error(errno.EEXIST, 0, 1, has_filter=True), errors.SmcccRangeTakenError, "KVM's own"),
    (filter_error(errno.EBUSY, 0, 1, has_filter=True), errors.VcpuHasRunError, "has run"),
    (filter_error(errno.EINVAL, 0, 1, has_filter=False), errors.NotSupportedError, "filter"),
    (filter_error(errno.ENOMEM, 0, 1, has_filter=True), errors.SmcccFilterError, "memory"),
    (stats_fd_error(errno.EINVAL, "Vm"), errors.NotSupportedError, "KVM_GET_STATS_FD"),
    (stats_fd_error(errno.EMFILE, "Vcpu"), errors.DescriptorLimitError, "this process has no file"),
    (stats_fd_error(errno.ENFILE, "Vm"), errors.DescriptorLimitError, "the system has no file"),
    (stats_fd_error(errno.ENOMEM, "Vcpu"), errors.StatisticsError, "memory"),
    (stats_fd_error(errno.EBADF, "Vcpu"), errors.ClosedError, "Vcpu is closed"),
]


@pytest.mark.parametrize(
    ("error", "kind", "words"), EVERY, ids=[f"{number}-{row[1].__name__}" for number, row in enumerate(EVERY)]
)
def test_cause(error: errors.KvmError, kind: type[errors.KvmError], words: str) -> None:
    assert type(error) is kind
    assert words in error.cause
    assert error.fix
    assert error.asked
