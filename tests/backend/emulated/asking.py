# SPDX-License-Identifier: Apache-2.0
"""Asking the emulated kernel through its seam, and the hosts that the tests ask about."""

from __future__ import annotations

import csv
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from kvmipa import HostProfile
from kvmipa.backend.emulated import EmulatedBackend

if TYPE_CHECKING:
    from collections.abc import Iterator

# The emulated kernel runs everywhere, but RLIMIT_NOFILE is Unix's.
needs_rlimit = pytest.mark.skipif(find_spec("resource") is None, reason="needs RLIMIT_NOFILE")

# kernel-ipa-spec 1.2: numbers as the kernel's headers have them, not as kvmipa does.
KVM_GET_API_VERSION = 0xAE00
KVM_CREATE_VM = 0xAE01
KVM_CHECK_EXTENSION = 0xAE03
KVM_GET_VCPU_MMAP_SIZE = 0xAE04
KVM_TRACES = (0x4008AE06, 0xAE07, 0xAE08)
# KVM_GET_ONE_REG on a vCPU, KVM_ARM_SET_DEVICE_ADDR on a VM: one number.
KVM_GET_ONE_REG = 0x4010AEAB

PROTECTED = 1 << 31

RELEASES = ("4.19", "4.20", "5.4", "5.10", "6.1", "6.12", "7.3")
SPECIFIED = ("5.10", "6.1", "6.12", "7.3")

# The rows of kernel-ipa-spec 9 that the host has no say in (a GICv3 and scheduler statistics provided).
CAPABILITIES = Path(__file__).parents[2] / "data" / "capabilities.csv"

# Those that it has: kernel-ipa-spec 9. 40 (INTERNAL_ERROR_DATA) is 1, of the generic part, and not in that table.
OF_THE_HOST = {9, 40, 93, 119, 120, 126, 131, 158, 165, 170, 171, 172, 205, 229, 240, 241, 243, 251}


def capability_rows() -> list[tuple[int, str, int]]:
    """Number, release, value."""
    with CAPABILITIES.open(newline="") as file:
        rows = list(csv.DictReader(file))
    return [(int(row["number"]), release, int(row[release])) for row in rows for release in SPECIFIED]


def host(release: str = "6.12", parange: int = 5, **more: Any) -> HostProfile:
    """A host of 4K pages without LPA2."""
    return HostProfile(release=release, **{"id_aa64mmfr0_el1": 0x1120 | parange, "id_aa64mmfr1_el1": 0x20} | more)


class Kernel:
    """An emulated kernel with its device open; closes what it opened."""

    def __init__(self, profile: HostProfile) -> None:
        self.backend = EmulatedBackend(profile)
        self.system = self.backend.open("/dev/kvm")
        assert self.system >= 0
        self._vms: list[int] = []

    def ask(self, request: int, argument: int = 0) -> int:
        """An ioctl on the system descriptor."""
        return self.backend.ioctl(self.system, request, argument)

    def create(self, machine_type: int = 32) -> int:
        """KVM_CREATE_VM: a descriptor that is closed at the end, or -errno."""
        vm = self.ask(KVM_CREATE_VM, machine_type)
        if vm >= 0:
            self._vms.append(vm)
        return vm

    def result(self, machine_type: int) -> int:
        """KVM_CREATE_VM with the VM closed at once: 0 or -errno."""
        vm = self.ask(KVM_CREATE_VM, machine_type)
        if vm >= 0:
            self.backend.close(vm)
        return min(vm, 0)

    def on_vm(self, request: int, argument: int = 0, machine_type: int = 32) -> int:
        """An ioctl on a new VM."""
        return self.backend.ioctl(self.create(machine_type), request, argument)

    def capability(self, number: int) -> tuple[int, int]:
        """KVM_CHECK_EXTENSION on the system descriptor and on a VM."""
        return self.ask(KVM_CHECK_EXTENSION, number), self.on_vm(KVM_CHECK_EXTENSION, number)

    def close(self) -> None:
        """Close the VMs and the device."""
        for fd in (*self._vms, self.system):
            self.backend.close(fd)


@contextmanager
def kernel(release: str = "6.12", parange: int = 5, **more: Any) -> Iterator[Kernel]:
    """The emulated kernel of host(...)."""
    opened = Kernel(host(release, parange, **more))
    try:
        yield opened
    finally:
        opened.close()
