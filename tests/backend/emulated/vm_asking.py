# SPDX-License-Identifier: Apache-2.0
"""Raw requests on a VM's descriptor, for either kernel: structs as kernel-device-spec 7 has them."""

from __future__ import annotations

import ctypes
import mmap
import os
import struct
from contextlib import contextmanager
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from tests.backend.emulated.asking import Kernel, host

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from kvmipa import Kvm, Vm

needs_eventfd = pytest.mark.skipif(not hasattr(os, "eventfd"), reason="needs eventfd(2)")

# kernel-device-spec 6: numbers as the kernel's headers have them, not as kvmipa does.
KVM_CREATE_VCPU = 0xAE41
KVM_SET_USER_MEMORY_REGION = 0x4020AE46
KVM_IRQ_LINE = 0x4008AE61
KVM_IRQ_LINE_STATUS = 0xC008AE67
KVM_REGISTER_COALESCED_MMIO = 0x4010AE67
KVM_UNREGISTER_COALESCED_MMIO = 0x4010AE68
KVM_SET_GSI_ROUTING = 0x4008AE6A
KVM_IRQFD = 0x4020AE76
KVM_IOEVENTFD = 0x4040AE79
KVM_ENABLE_CAP = 0x4068AEA3
KVM_SIGNAL_MSI = 0x4020AEA5
KVM_ARM_MTE_COPY_TAGS = 0x8030AEB4
KVM_ARM_SET_COUNTER_OFFSET = 0x4010AEB5
KVM_ARM_GET_REG_WRITABLE_MASKS = 0x8040AEB6
KVM_RESET_DIRTY_RINGS = 0xAEC7
KVM_GET_STATS_FD = 0xAECE
KVM_CREATE_DEVICE = 0xC00CAEE0
KVM_SET_DEVICE_ATTR = 0x4018AEE1

CPU, SPI, PPI = 0, 1, 2
V3, ITS = 7, 8


class Asked:
    """A VM's descriptor on some backend: each method is one request, with its result or -errno."""

    def __init__(self, backend: Any, fd: int) -> None:
        self.backend = backend
        self.fd = fd

    def value(self, request: int, argument: int = 0) -> int:
        """A request with a value, or an address."""
        return int(self.backend.ioctl(self.fd, request, argument))

    def struct(self, request: int, layout: str, *values: int) -> int:
        """A request with a struct."""
        return int(self.backend.ioctl_buffer(self.fd, request, bytearray(struct.pack(layout, *values))))

    def enable(self, cap: int, *args: int, flags: int = 0) -> int:
        """KVM_ENABLE_CAP."""
        return self.struct(KVM_ENABLE_CAP, "=II4Q64x", cap, flags, *(*args, 0, 0, 0, 0)[:4])

    def slot(self, at: int, gpa: int = 0, size: int = 0x10000, flags: int = 0, number: int = 0) -> int:
        """KVM_SET_USER_MEMORY_REGION."""
        return self.struct(KVM_SET_USER_MEMORY_REGION, "=IIQQQ", number, flags, gpa, size, at)

    def line(self, kind: int, number: int, vcpu: int = 0, level: int = 1, request: int = KVM_IRQ_LINE) -> int:
        """KVM_IRQ_LINE."""
        return self.struct(request, "=II", vcpu >> 8 << 28 | kind << 24 | (vcpu & 0xFF) << 16 | number, level)

    def irqfd(self, fd: int, gsi: int = 0, flags: int = 0, resample_fd: int = 0) -> int:
        """KVM_IRQFD."""
        return self.struct(KVM_IRQFD, "=IIII16x", fd & 0xFFFFFFFF, gsi, flags, resample_fd & 0xFFFFFFFF)

    def ioeventfd(self, fd: int, addr: int = 0, length: int = 4, flags: int = 0, match: int = 0) -> int:
        """KVM_IOEVENTFD."""
        return self.struct(KVM_IOEVENTFD, "=QQIiI36x", match, addr, length, fd, flags)

    def zone(self, addr: int, size: int, pio: int = 0, request: int = KVM_REGISTER_COALESCED_MMIO) -> int:
        """KVM_REGISTER_COALESCED_MMIO."""
        return self.struct(request, "=QII", addr, size, pio)

    def route(self, *entries: Sequence[int], flags: int = 0, nr: int | None = None) -> int:
        """KVM_SET_GSI_ROUTING; an entry is gsi, type, flags, pad, and the union's words, all 0 where left out."""
        words = [word for entry in entries for word in (*entry, *[0] * 12)[:12]]
        count = len(entries) if nr is None else nr
        return self.struct(KVM_SET_GSI_ROUTING, f"=II{len(words)}I", count, flags, *words)

    def msi(self, address: int = 0, flags: int = 0, data: int = 0, devid: int = 0) -> int:
        """KVM_SIGNAL_MSI."""
        return self.struct(KVM_SIGNAL_MSI, "=IIIII12x", address & 0xFFFFFFFF, address >> 32, data, flags, devid)

    def tags(
        self, at: int, ipa: int = 0, length: int = 4096, flags: int = 0, reserved: tuple[int, int] = (0, 0)
    ) -> int:
        """KVM_ARM_MTE_COPY_TAGS."""
        return self.struct(KVM_ARM_MTE_COPY_TAGS, "=QQQQ2Q", ipa, length, at, flags, *reserved)

    def device(self, kind: int) -> int:
        """KVM_CREATE_DEVICE: the descriptor."""
        asked = bytearray(struct.pack("=III", kind, 0, 0))
        result = int(self.backend.ioctl_buffer(self.fd, KVM_CREATE_DEVICE, asked))
        return int(struct.unpack("=III", asked)[1]) if result == 0 else result

    def attribute(self, device: int, group: int, attribute: int, value: int = 0) -> int:
        """KVM_SET_DEVICE_ATTR with a u64."""
        kept = ctypes.c_uint64(value)
        asked = bytearray(struct.pack("=IIQQ", 0, group, attribute, ctypes.addressof(kept)))
        return int(self.backend.ioctl_buffer(device, KVM_SET_DEVICE_ATTR, asked))


def of(vm: Vm) -> Asked:
    """A VM of the front, asked directly."""
    return Asked(vm._backend, vm.fileno())


def page_size(kvm: Kvm) -> int:
    """The host's."""
    size = kvm.page_size
    assert size is not None
    return size


@contextmanager
def emulated(release: str = "6.12", machine_type: int = 32, **more: Any) -> Iterator[Asked]:
    """A VM of the emulated kernel."""
    kernel = Kernel(host(release, **more))
    try:
        fd = kernel.create(machine_type)
        assert fd >= 0
        yield Asked(kernel.backend, fd)
    finally:
        kernel.close()


def state(asked: Asked) -> Any:
    """The VM behind a descriptor of the emulated kernel."""
    return asked.backend._descriptors.get(asked.fd).vm


def vgic(model: str = "v3", *, initialised: bool = True, nr_irqs: int = 256) -> SimpleNamespace:
    """As much of a vGIC as interrupts need; it counts how often it was initialised by need."""
    found = SimpleNamespace(model=model, initialised=initialised, nr_irqs=nr_irqs)

    def lazy_init() -> None:
        found.initialised = True

    found.lazy_init = lazy_init
    found.line_changed = lambda _vcpu, _irq, *, level: None
    return found


def give_vcpus(asked: Asked, *ids: int) -> None:
    """VCPUs of these ids, created in this order, in a VM of the emulated kernel."""
    vm = state(asked)
    vm.vcpus = [SimpleNamespace(vcpu_id=vcpu_id) for vcpu_id in ids]
    vm.created_vcpus = len(ids)


@contextmanager
def memory(size: int = 0x20000) -> Iterator[int]:
    """The address of memory of this process, on a boundary of 64K; private, as VMs with MTE want it."""
    with mmap.mmap(-1, size + 0x10000, flags=mmap.MAP_PRIVATE) as mapped:
        first = ctypes.c_char.from_buffer(mapped)
        try:
            yield (ctypes.addressof(first) + 0xFFFF) & ~0xFFFF
        finally:
            del first
