# SPDX-License-Identifier: Apache-2.0
"""KVM_ENABLE_CAP of the emulated kernel (kernel-device-spec 4.7).

kvm_vm_ioctl_enable_cap_generic in virt/kvm/kvm_main.c, kvm_vm_ioctl_enable_cap in arch/arm64/kvm/arm.c.

A capability can be enabled where KVM_CHECK_EXTENSION on the VM knows it: what a release does not have, and what a
protected VM may not have, is an unknown capability for both.
"""

from __future__ import annotations

from errno import E2BIG, EINVAL
from struct import Struct
from typing import TYPE_CHECKING, Final

from kvmipa import abi
from kvmipa.backend.emulated import user_memory
from kvmipa.backend.emulated.requests import RefusedError, Request

if TYPE_CHECKING:
    from collections.abc import Callable

    from kvmipa.backend.emulated.user_memory import Argument
    from kvmipa.backend.emulated.vm import VirtualMachine

    # Enables a capability with its first argument; no rule looks at the others.
    Rule = Callable[[VirtualMachine, int], None]

_STRUCT: Final = Struct(abi.STRUCTS["enable_cap"][0])


def enable_cap(vm: VirtualMachine, argument: Argument) -> int:
    """KVM_ENABLE_CAP."""
    cap, flags, value, *_ = _STRUCT.unpack(user_memory.read(argument, _STRUCT.size))
    rule = _RULES.get(cap)
    if rule is None or cap not in vm.answers:
        return -EINVAL
    # The ring alone has no look at the flags.
    if flags and cap != abi.KVM_CAP_DIRTY_LOG_RING_ACQ_REL:
        return -EINVAL
    rule(vm, value)
    return 0


def _manual_dirty_log_protect(vm: VirtualMachine, value: int) -> None:
    """Bit 0 enables it, the capability's other bits (1, since 5.8) only together with it."""
    if value & ~vm.answers[abi.KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2] or (value & ~1 and not value & 1):
        raise RefusedError(EINVAL)
    vm.manual_dirty_log_protect = value


def _halt_poll(vm: VirtualMachine, value: int) -> None:
    if value >> 32:
        raise RefusedError(EINVAL)
    vm.halt_poll_ns = value


def _mte(vm: VirtualMachine, _value: int) -> None:
    """The host's CPUs have MTE, no vCPU exists, and no slot is of guest_memfd (since 7.3, which has guest_memfd)."""
    of_memfd = any(slot.is_guest_memfd for slot in vm.memslots)
    if not vm.answers[abi.KVM_CAP_ARM_MTE] or vm.vcpus or of_memfd:
        raise RefusedError(EINVAL)
    vm.mte = True


def _dirty_log_ring(vm: VirtualMachine, value: int) -> None:
    """The size is 32 bits: what is above them is lost (kvm_vm_ioctl_enable_dirty_log_ring).

    A page is more than the reserved entries take: 64 of 16 bytes.
    """
    size = value & 0xFFFF_FFFF
    if size & (size - 1) or size < vm.profile.page_size:
        raise RefusedError(EINVAL)
    if size > vm.answers[abi.KVM_CAP_DIRTY_LOG_RING_ACQ_REL]:
        raise RefusedError(E2BIG)
    if vm.dirty_ring_size or vm.vcpus:
        raise RefusedError(EINVAL)
    vm.dirty_ring_size = size


def _dirty_log_ring_with_bitmap(vm: VirtualMachine, _value: int) -> None:
    if not vm.dirty_ring_size or len(vm.memslots):
        raise RefusedError(EINVAL)
    vm.dirty_ring_with_bitmap = True


def _eager_split_chunk_size(vm: VirtualMachine, value: int) -> None:
    """0 or one supported block size, while there is no slot; pKVM since 7.3 supports none and refuses 0 too."""
    sizes = vm.answers[abi.KVM_CAP_ARM_SUPPORTED_BLOCK_SIZES]
    if len(vm.memslots) or not sizes or value & (value - 1) or value & ~sizes:
        raise RefusedError(EINVAL)
    vm.eager_split_chunk = value


def _writable_imp_id_regs(vm: VirtualMachine, _value: int) -> None:
    if vm.vcpus:
        raise RefusedError(EINVAL)
    vm.writable_imp_id_regs = True


def _always(name: str) -> Rule:
    """A switch that can be thrown at any time, whatever the arguments."""

    def enable(vm: VirtualMachine, _value: int) -> None:
        setattr(vm, name, True)

    return enable


_RULES: Final[dict[int, Rule]] = {
    abi.KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2: _manual_dirty_log_protect,
    abi.KVM_CAP_ARM_NISV_TO_USER: _always("nisv_to_user"),
    abi.KVM_CAP_HALT_POLL: _halt_poll,
    abi.KVM_CAP_ARM_MTE: _mte,
    abi.KVM_CAP_ARM_SYSTEM_SUSPEND: _always("system_suspend"),
    abi.KVM_CAP_DIRTY_LOG_RING_ACQ_REL: _dirty_log_ring,
    abi.KVM_CAP_DIRTY_LOG_RING_WITH_BITMAP: _dirty_log_ring_with_bitmap,
    abi.KVM_CAP_ARM_EAGER_SPLIT_CHUNK_SIZE: _eager_split_chunk_size,
    abi.KVM_CAP_ARM_WRITABLE_IMP_ID_REGS: _writable_imp_id_regs,
    abi.KVM_CAP_ARM_SEA_TO_USER: _always("sea_to_user"),
}

# On a VM's descriptor.
VM_REQUESTS: Final[tuple[Request, ...]] = (Request(abi.KVM_ENABLE_CAP, enable_cap),)
