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
    from kvmipa.memory import GuestMemory, Memslot

__version__ = "0.1.0"

__all__ = ["GuestMemory", "HostProfile", "Kvm", "KvmError", "MachineType", "Memslot", "Vm", "__version__", "open"]


def __getattr__(name: str) -> Any:
    # Not every program needs them, and they are most of the import's cost.
    if name == "HostProfile":
        from kvmipa.backend.emulated.host import HostProfile

        return HostProfile
    if name in ("GuestMemory", "Memslot"):
        from kvmipa import memory

        return getattr(memory, name)
    raise AttributeError(f"module 'kvmipa' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
