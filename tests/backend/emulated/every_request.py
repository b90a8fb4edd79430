# SPDX-License-Identifier: Apache-2.0
"""Every request of the emulated kernel once, in a process of its own: ``python -m ... RELEASE free|none`` prints JSON.

``none``: no descriptor is free while they are asked, and the process has not asked anything like it before. Nothing
here imports ctypes, so that nothing that requests need is there by accident.
"""

from __future__ import annotations

import json
import os
import resource
import struct
import sys
from array import array
from typing import Any

import kvmipa
from kvmipa import abi
from kvmipa.backend.emulated import EmulatedBackend
from kvmipa.backend.emulated.system import _REQUESTS as OF_SYSTEM
from kvmipa.backend.emulated.vcpu import REQUESTS as OF_VCPUS
from kvmipa.backend.emulated.vm import _REQUESTS as OF_VMS

VFIO, V3, ITS = 4, 7, 8
VM, VCPU, VGIC, ITS_FILE, VFIO_FILE = "vm", "vcpu", "vgic", "its", "vfio"
SPARE = 512
SLOT_SIZE = 1 << 16


class Process:
    """The emulated kernel with everything open that can be asked, and values to point at."""

    def __init__(self, release: str) -> None:
        self.backend = EmulatedBackend(kvmipa.HostProfile(release=release, id_aa64mmfr0_el1=0x1125))
        self.system = self.backend.open("/dev/kvm")
        vm = self.backend.ioctl(self.system, abi.KVM_CREATE_VM, 36)
        self.fds = {VM: vm}
        # Two eventfds and a duplicate, and one file that is none.
        self.eventfd, self.other = (os.eventfd(0, os.EFD_CLOEXEC) for _ in range(2))
        self.file = os.open(os.devnull, os.O_RDONLY)
        for name, kind in ((VGIC, V3), (ITS_FILE, ITS), (VFIO_FILE, VFIO)):
            self.fds[name] = self.device(kind)
        self.fds[VCPU] = self.backend.ioctl(vm, abi.KVM_CREATE_VCPU, 0)
        self.memory = array("Q", [0] * 1024)
        self._guest = array("B", bytes(2 * SLOT_SIZE))
        self.slot_at = (self._guest.buffer_info()[0] + SLOT_SIZE - 1) & -SLOT_SIZE

    def device(self, kind: int) -> int:
        """KVM_CREATE_DEVICE."""
        asked = bytearray(struct.pack("=III", kind, 0, 0))
        result = self.backend.ioctl_buffer(self.fds[VM], abi.KVM_CREATE_DEVICE, asked)
        return struct.unpack("=III", asked)[1] if result == 0 else result

    def ask(self, name: str, request: int, layout: str = "", *values: int) -> int:
        """A request with a struct, or with a value."""
        fd = self.system if name == "system" else self.fds[name]
        if not layout:
            return self.backend.ioctl(fd, request, *values)
        size = request >> 16 & 0x3FFF
        return self.backend.ioctl_buffer(fd, request, bytearray(struct.pack(layout, *values).ljust(size, b"\0")))

    def attribute(self, name: str, request: int, group: int, attr: int, value: int = 0) -> int:
        """A request about an attribute, with its value."""
        self.memory[0] = value
        return self.ask(name, request, "=IIQQ", 0, group, attr, self.memory.buffer_info()[0])


def requests(it: Process) -> list[tuple[str, str, tuple[int | str, ...]]]:
    """Whom, what, and with what; in an order in which most of them succeed."""
    at = it.memory.buffer_info()[0]
    vm: list[tuple[str, tuple[int | str, ...]]] = [
        ("KVM_CHECK_EXTENSION", ("", 165)),
        ("KVM_CREATE_VCPU", ("", 1)),
        ("KVM_CREATE_IRQCHIP", ("", 0)),
        ("KVM_CREATE_DEVICE", ("=III", ITS, 0, 0)),
        ("KVM_ARM_PREFERRED_TARGET", ("=I", 0)),
        ("KVM_SET_USER_MEMORY_REGION", ("=IIQQQ", 0, 1, 0, SLOT_SIZE, it.slot_at)),
        ("KVM_SET_USER_MEMORY_REGION2", ("=IIQQQ", 1, 0, SLOT_SIZE, SLOT_SIZE, it.slot_at)),
        ("KVM_ENABLE_CAP", ("=II4Q", 168, 0, 1, 0, 0, 0)),
        ("KVM_GET_DIRTY_LOG", ("=IIQ", 0, 0, at)),
        ("KVM_CLEAR_DIRTY_LOG", ("=IIQQ", 0, 16, 0, at)),
        ("KVM_CREATE_GUEST_MEMFD", ("=QQ", 1 << 16, 0)),
        ("KVM_GET_STATS_FD", ("", 0)),
        ("KVM_RESET_DIRTY_RINGS", ("", 0)),
        ("KVM_ARM_SET_DEVICE_ADDR", ("=QQ", 0, 0x900_0000)),
        ("KVM_ARM_SET_COUNTER_OFFSET", ("=QQ", 7, 0)),
        ("KVM_ARM_GET_REG_WRITABLE_MASKS", ("=QI", at, 0)),
        ("KVM_ARM_MTE_COPY_TAGS", ("=QQQQ", 0, 4096, at, 1)),
        ("KVM_SET_DEVICE_ATTR", ("=IIQQ", 0, 0, 0, at)),
        ("KVM_HAS_DEVICE_ATTR", ("=IIQQ", 0, 0, 0, 0)),
        ("KVM_REGISTER_COALESCED_MMIO", ("=QII", 0, 8, 0)),
        ("KVM_UNREGISTER_COALESCED_MMIO", ("=QII", 0, 8, 0)),
        ("KVM_SET_GSI_ROUTING", ("=II", 0, 0)),
        ("KVM_SIGNAL_MSI", ("=IIIII", 0, 0, 0, 1, 0)),
        ("KVM_IRQ_LINE", ("=II", 1 << 24 | 40, 1)),
        ("KVM_IRQ_LINE_STATUS", ("=II", 1 << 24 | 40, 0)),
        ("KVM_IRQFD", ("=IIII", it.eventfd, 40, 0, 0)),
        # The same again, and by another number; then another one, and what is none.
        ("KVM_IRQFD", ("=IIII", it.eventfd, 40, 0, 0)),
        ("KVM_IRQFD", ("=IIII", it.other, 40, 0, 0)),
        ("KVM_IRQFD", ("=IIII", it.file, 40, 0, 0)),
        ("KVM_IRQFD", ("=IIII", it.other, 40, 1, 0)),
        ("KVM_IRQFD", ("=IIII", it.other, 40, 0, 0)),
        ("KVM_IOEVENTFD", ("=QQIiI", 0, 0x1000, 4, it.eventfd, 0)),
        ("KVM_IOEVENTFD", ("=QQIiI", 0, 0x1000, 4, it.other, 4)),
        ("KVM_IOEVENTFD", ("=QQIiI", 0, 0x1000, 4, it.eventfd, 4)),
        ("KVM_IOEVENTFD", ("=QQIiI", 0, 0x1000, 4, it.eventfd, 4)),
    ]
    vcpu: list[tuple[str, tuple[int | str, ...]]] = [
        ("KVM_RUN", ("", 0)),
        ("KVM_GET_ONE_REG", ("=QQ", 0, at)),
        ("KVM_SET_ONE_REG", ("=QQ", 0, at)),
        ("KVM_GET_STATS_FD", ("", 0)),
        ("KVM_ARM_VCPU_FINALIZE", ("=I", 4)),
        ("KVM_GET_REG_LIST", ("=Q", 0)),
        ("KVM_GET_MP_STATE", ("=I", 0)),
        ("KVM_SET_MP_STATE", ("=I", 0)),
        ("KVM_GET_VCPU_EVENTS", ("=I", 0)),
        ("KVM_SET_VCPU_EVENTS", ("=I", 0)),
        ("KVM_SET_GUEST_DEBUG", ("=I", 0)),
        ("KVM_SET_SIGNAL_MASK", ("=I", 8)),
        ("KVM_SET_REGS", ("=I", 0)),
        ("KVM_TRANSLATE", ("=I", 0)),
    ]
    system = [("KVM_GET_API_VERSION", ("", 0)), ("KVM_CREATE_VM", ("", 36)), ("KVM_CHECK_EXTENSION", ("", 165))]
    return [
        *((VM, *row) for row in vm),
        *((VCPU, *row) for row in vcpu),
        *(("system", *row) for row in (*system, ("KVM_GET_VCPU_MMAP_SIZE", ("", 0)))),
    ]


# Two that only other architectures have take a struct here, too, before they are refused (kernel-device-spec 6).
NUMBERS = {**abi.REQUESTS, "KVM_SET_REGS": 0x4360_AE82, "KVM_TRANSLATE": 0xC018_AE85}


def ask_everything(it: Process) -> dict[str, Any]:
    """Results by what was asked; a descriptor is 0."""
    found: dict[str, Any] = {}
    set_, get, has = abi.KVM_SET_DEVICE_ATTR, abi.KVM_GET_DEVICE_ATTR, abi.KVM_HAS_DEVICE_ATTR
    target = bytearray(32)
    it.backend.ioctl_buffer(it.fds[VM], abi.KVM_ARM_PREFERRED_TARGET, target)
    found["init"] = it.backend.ioctl_buffer(it.fds[VCPU], abi.KVM_ARM_VCPU_INIT, target)
    # Addresses, registers, levels, system registers; timers, PMU and stolen time of the vCPU; the ITS's registers.
    of_vgic = [(3, 0, 64), (0, 2, 0x800_0000), (0, 3, 0x900_0000), (4, 0, 0), (1, 0x84, 1), (5, 0x80, 1), (7, 0, 0)]
    asked = [
        *((VGIC, *row) for row in (*of_vgic, (6, 0xC230, 0xF0), (9, 0, 25))),
        *((VCPU, *row) for row in ((1, 0, 27), (0, 0, 23), (2, 0, 0))),
        *((ITS_FILE, *row) for row in ((0, 4, 0xA00_0000), (8, 0x80, 0), (4, 1, 0))),
        *((VFIO_FILE, *row) for row in ((1, 1, it.file), (1, 2, it.file))),
    ]
    for name, group, attr, value in asked:
        for verb, request in (("set", set_), ("get", get), ("has", has)):
            result = it.attribute(name, request, group, attr, value)
            found[f"{verb} {name} {group} {attr:#x}"] = [result, it.memory[0]]
    # A guest without code never comes back.
    area = it.backend.mmap(it.fds[VCPU], 4096)
    assert not isinstance(area, int)
    area[1] = 1
    for place, (name, request_name, (layout, *values)) in enumerate(requests(it)):
        numbers = [value for value in values if isinstance(value, int)]
        result = it.ask(name, NUMBERS[request_name], str(layout), *numbers)
        made = request_name.startswith("KVM_CREATE_") or request_name.endswith("_FD")
        found[f"{place} {name} {request_name}"] = min(result, 0) if made else result
    return found


def unasked(it: Process) -> list[int]:
    """Numbers of requests that the emulated kernel knows and that are not asked here."""
    known = {row.number for row in (*OF_VMS, *OF_VCPUS)} | set(OF_SYSTEM)
    asked = {NUMBERS[name] for _, name, _ in requests(it)} | {abi.KVM_ARM_VCPU_INIT, abi.KVM_GET_DEVICE_ATTR}
    return sorted(known - asked)


def main() -> None:
    """See the module."""
    release, descriptors = sys.argv[1:]
    it = Process(release)
    taken: list[int] = []
    if descriptors == "none":
        resource.setrlimit(resource.RLIMIT_NOFILE, (SPARE, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
        try:
            while True:
                taken.append(os.dup(it.file))
        except OSError:
            pass
    found: dict[str, Any] = {}
    failure = ""
    try:
        found = ask_everything(it)
    except Exception as error:
        failure = f"{type(error).__name__}: {error}"
    for fd in taken:
        os.close(fd)
    if failure:
        raise SystemExit(f"a request raised {failure}")
    print(json.dumps({"results": found, "unasked": unasked(it)}))


if __name__ == "__main__":
    main()
