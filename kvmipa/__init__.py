# SPDX-License-Identifier: Apache-2.0
"""KVM on arm64 from Python, on the real kernel or an emulated one.

>>> import kvmipa
>>> with kvmipa.open("emulated", host="qemu-max-6.12-4k") as kvm, kvm.create_vm(48) as vm:
...     print(kvm.host_ipa_limit, vm.ipa_bits)
52 48
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from kvmipa.choice import open
from kvmipa.errors import KvmError
from kvmipa.machine_type import MachineType
from kvmipa.system import Kvm
from kvmipa.vm import Vm

if TYPE_CHECKING:
    from kvmipa.backend.emulated.host import HostProfile
    from kvmipa.device import Device, DeviceType, Its, Vgic
    from kvmipa.guest_memfd import GuestMemfd
    from kvmipa.memory import GuestMemory
    from kvmipa.memslot import Memslot
    from kvmipa.vcpu import Vcpu, VcpuFeature

__version__ = "0.1.0"

__all__ = [
    "Device",
    "DeviceType",
    "GuestMemfd",
    "GuestMemory",
    "HostProfile",
    "Its",
    "Kvm",
    "KvmError",
    "MachineType",
    "Memslot",
    "Vcpu",
    "VcpuFeature",
    "Vgic",
    "Vm",
    "__version__",
    "open",
]

# Not every program needs them, and they are most of the import's cost.
_LATER = {
    "Device": "device",
    "DeviceType": "device",
    "GuestMemfd": "guest_memfd",
    "GuestMemory": "memory",
    "HostProfile": "backend.emulated.host",
    "Its": "device",
    "Memslot": "memslot",
    "Vcpu": "vcpu",
    "VcpuFeature": "vcpu",
    "Vgic": "device",
}


def __getattr__(name: str) -> Any:
    if name not in _LATER:
        raise AttributeError(f"module 'kvmipa' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"kvmipa.{_LATER[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
