# SPDX-License-Identifier: Apache-2.0
"""KVM on arm64 from Python, on the real kernel or an emulated one.

>>> import kvmipa
>>> with kvmipa.open("emulated", host="qemu-max-6.12-4k") as kvm, kvm.create_vm(48) as vm:
...     print(kvm.host_ipa_limit, vm.ipa_bits)
52 48
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from kvmipa.backend.emulated.host import HostProfile
    from kvmipa.choice import open
    from kvmipa.coalesced_mmio import CoalescedWrite
    from kvmipa.device import Device, DeviceType, Its, Vgic
    from kvmipa.dirty_ring import DirtyPage, DirtyRing
    from kvmipa.errors import KvmError
    from kvmipa.event_fds import IoEventFd, Irqfd
    from kvmipa.exits import (
        ArmSea,
        Debug,
        DirtyRingFull,
        Exit,
        FailEntry,
        Hypercall,
        InternalError,
        Interrupted,
        LdSt64b,
        MemoryFault,
        Mmio,
        Nisv,
        SystemEvent,
        SystemEventType,
        Unknown,
    )
    from kvmipa.gsi_routing import IrqchipRoute, MsiRoute
    from kvmipa.guest_memfd import GuestMemfd
    from kvmipa.interrupt_lines import IrqKind, IrqLine
    from kvmipa.machine_type import MachineType
    from kvmipa.memory import GuestMemory
    from kvmipa.memslot import Memslot
    from kvmipa.mmio_bus import MmioBus, MmioDevice
    from kvmipa.registers import Reg
    from kvmipa.smccc_filter import SmcccAction
    from kvmipa.statistics import Statistic, StatisticsFile
    from kvmipa.system import Kvm
    from kvmipa.vcpu import Vcpu, VcpuFeature
    from kvmipa.vcpu_state import GuestDebug, MpState, VcpuEvents
    from kvmipa.vm import Vm

__version__ = "0.1.0"

__all__ = [
    "ArmSea",
    "CoalescedWrite",
    "Debug",
    "Device",
    "DeviceType",
    "DirtyPage",
    "DirtyRing",
    "DirtyRingFull",
    "Exit",
    "FailEntry",
    "GuestDebug",
    "GuestMemfd",
    "GuestMemory",
    "HostProfile",
    "Hypercall",
    "InternalError",
    "Interrupted",
    "IoEventFd",
    "IrqKind",
    "IrqLine",
    "IrqchipRoute",
    "Irqfd",
    "Its",
    "Kvm",
    "KvmError",
    "LdSt64b",
    "MachineType",
    "MemoryFault",
    "Memslot",
    "Mmio",
    "MmioBus",
    "MmioDevice",
    "MpState",
    "MsiRoute",
    "Nisv",
    "Reg",
    "SmcccAction",
    "Statistic",
    "StatisticsFile",
    "SystemEvent",
    "SystemEventType",
    "Unknown",
    "Vcpu",
    "VcpuEvents",
    "VcpuFeature",
    "Vgic",
    "Vm",
    "__version__",
    "open",
]

# Imported when they are asked for: no program needs all, and every pytest session has this package, for its plugin.
_LATER = {
    "ArmSea": "exits",
    "CoalescedWrite": "coalesced_mmio",
    "Debug": "exits",
    "Device": "device",
    "DeviceType": "device",
    "DirtyPage": "dirty_ring",
    "DirtyRing": "dirty_ring",
    "DirtyRingFull": "exits",
    "Exit": "exits",
    "FailEntry": "exits",
    "GuestDebug": "vcpu_state",
    "GuestMemfd": "guest_memfd",
    "GuestMemory": "memory",
    "HostProfile": "backend.emulated.host",
    "Hypercall": "exits",
    "InternalError": "exits",
    "Interrupted": "exits",
    "IoEventFd": "event_fds",
    "IrqKind": "interrupt_lines",
    "IrqLine": "interrupt_lines",
    "IrqchipRoute": "gsi_routing",
    "Irqfd": "event_fds",
    "Its": "device",
    "Kvm": "system",
    "KvmError": "errors",
    "LdSt64b": "exits",
    "MachineType": "machine_type",
    "MemoryFault": "exits",
    "Memslot": "memslot",
    "Mmio": "exits",
    "MmioBus": "mmio_bus",
    "MmioDevice": "mmio_bus",
    "MpState": "vcpu_state",
    "MsiRoute": "gsi_routing",
    "Nisv": "exits",
    "Reg": "registers",
    "SmcccAction": "smccc_filter",
    "Statistic": "statistics",
    "StatisticsFile": "statistics",
    "SystemEvent": "exits",
    "SystemEventType": "exits",
    "Unknown": "exits",
    "Vcpu": "vcpu",
    "VcpuEvents": "vcpu_state",
    "VcpuFeature": "vcpu",
    "Vgic": "device",
    "Vm": "vm",
    "open": "choice",
}


def __getattr__(name: str) -> Any:
    from importlib import import_module

    if name in _LATER:
        found = globals()[name] = getattr(import_module(f"kvmipa.{_LATER[name]}"), name)
        return found
    if not name.startswith("_"):
        # A module of the package, as kvmipa.errors.
        try:
            return import_module(f"kvmipa.{name}")
        except ModuleNotFoundError as error:
            if error.name != f"kvmipa.{name}":
                raise
    raise AttributeError(f"module 'kvmipa' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
