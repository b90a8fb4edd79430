# SPDX-License-Identifier: Apache-2.0
"""The device that tells KVM of VFIO's files (virt/kvm/vfio.c). No emulated host has such a file."""

from __future__ import annotations

from errno import EBADF, EBUSY, EINVAL, ENOENT, ENXIO, EPERM
from typing import TYPE_CHECKING, Final

from kvmipa import abi
from kvmipa.backend.emulated import user_memory
from kvmipa.backend.emulated.descriptors import is_open
from kvmipa.backend.emulated.requests import RefusedError

if TYPE_CHECKING:
    from kvmipa.backend.emulated.vm import VirtualMachine

# Before 6.2 KVM_DEV_VFIO_GROUP, KVM_DEV_VFIO_GROUP_ADD and KVM_DEV_VFIO_GROUP_DEL.
FILE: Final = abi.KVM_DEV_VFIO_FILE
ADD: Final = abi.KVM_DEV_VFIO_FILE_ADD
DELETE: Final = abi.KVM_DEV_VFIO_FILE_DEL


class Vfio:
    """A VM's link to VFIO; it has no get operation."""

    gettable = False
    was_opened = False

    def set_attr(self, group: int, attr: int, address: int, /) -> int:
        """Whatever descriptor is added is none of VFIO's, and so none is there to be removed."""
        if group != FILE or attr not in {ADD, DELETE}:
            return -ENXIO
        fd = user_memory.read_number(address, 4, signed=True)
        if not is_open(fd):
            return -EBADF
        return -EINVAL if attr == ADD else -ENOENT

    def get_attr(self, _group: int, _attr: int, _address: int, /) -> int:
        """There is none."""
        return -EPERM

    def has_attr(self, group: int, attr: int, _address: int, /) -> int:
        """Adding and removing files."""
        return 0 if group == FILE and attr in {ADD, DELETE} else -ENXIO


def create_vfio(vm: VirtualMachine) -> Vfio:
    """One for each VM: at a time, and before 6.1 for ever, but for one that no descriptor was left for."""
    if vm.vfio is not None and _is_in_the_way(vm, vm.vfio):
        raise RefusedError(EBUSY)
    vfio = vm.vfio = Vfio()
    return vfio


def _is_in_the_way(vm: VirtualMachine, found: Vfio) -> bool:
    if found.was_opened and not vm.behaviour.vfio_ends_with_descriptor:
        return True
    return any(getattr(file, "device", None) is found for file in vm.descriptors.files())
