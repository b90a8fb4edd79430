# SPDX-License-Identifier: Apache-2.0
"""Where a device's frames may be in the guest's address space (kernel-device-spec 2.2 and 2.3)."""

from __future__ import annotations

from errno import E2BIG, EEXIST, EINVAL
from typing import TYPE_CHECKING, Final

from kvmipa._abi_table import VGIC_ADDR_UNDEF
from kvmipa.backend.emulated.requests import RefusedError

if TYPE_CHECKING:
    from kvmipa.backend.emulated.vm import VirtualMachine

_ADDRESSES: Final = 1 << 64

# An address that is not set.
UNDEFINED: Final = VGIC_ADDR_UNDEF


def wraps(base: int, size: int) -> bool:
    """Whether a range goes around the end of 64 bits, or up to it."""
    return bool(size) and base + size >= _ADDRESSES


def overlap(base: int, size: int, other: int, other_size: int) -> bool:
    """Whether two ranges overlap, as the kernel has it: an empty one does so inside of another (vgic_dist_overlap)."""
    return (base + size) % _ADDRESSES > other and base < (other + other_size) % _ADDRESSES


def check_range(vm: VirtualMachine, current: int, address: int, alignment: int, size: int) -> None:
    """Refuse an address that frames of ``size`` bytes cannot have, or no longer: ``current`` is the one that is set."""
    if vm.behaviour.device_range_includes_size:
        # vgic_check_iorange.
        if current != UNDEFINED:
            raise RefusedError(EEXIST)
        if address % alignment or wraps(address, size):
            raise RefusedError(EINVAL)
        if address >= vm.ipa_size or address + size > vm.ipa_size:
            raise RefusedError(E2BIG)
        return
    # vgic_check_ioaddr: only where the frames begin.
    if address >= vm.ipa_size:
        raise RefusedError(E2BIG)
    if address % alignment:
        raise RefusedError(EINVAL)
    if current != UNDEFINED:
        raise RefusedError(EEXIST)


def is_in_range(vm: VirtualMachine, address: int, alignment: int, size: int) -> bool:
    """Whether check_range() lets an address that is set for the first time pass."""
    try:
        check_range(vm, UNDEFINED, address, alignment, size)
    except RefusedError:
        return False
    return True
