# SPDX-License-Identifier: Apache-2.0
"""Saboteurs of claims about KVM_CREATE_VM, and about what the size does."""

from __future__ import annotations

import ctypes
from errno import E2BIG, EEXIST, EINVAL
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from kvmipa import abi
from kvmipa.id_registers import PARANGE_BITS, kvm_register_id, with_field
from kvmipa.machine_type import PROTECTED_BIT, SIZE_MASK
from kvmipa.packing import PackedStruct
from tests.conformance.sabotage import Sabotage, Saboteur

if TYPE_CHECKING:
    from collections.abc import Callable

    from kvmipa.backend import Backend
    from tests.conformance.sabotage import Change

    Send = Callable[[Any], int]

_36_BITS: Final = "qemu-cortex-a53-p36-6.12-4k"
_PKVM: Final = "qemu-max-6.12-4k-pkvm"
_PKVM_73: Final = "qemu-max-6.12-4k-pkvm@7.3"
_73: Final = "qemu-max-7.3-4k"


def _creating(change: Change) -> Callable[[Backend], Backend]:
    return partial(Saboteur, requests={abi.KVM_CREATE_VM: change})


def _made_as(other: dict[int, int]) -> Callable[[Backend], Backend]:
    """A machine type is taken for another one."""
    return _creating(lambda _kernel, _fd, machine_type, send: send(other.get(machine_type, machine_type)))


def _refused(*types: int, code: int = EINVAL) -> Callable[[Backend], Backend]:
    def change(_kernel: Saboteur, _fd: int, machine_type: int, send: Send) -> int:
        return -code if machine_type in types else send(machine_type)

    return _creating(change)


def _ignoring(bits: int) -> Callable[[Backend], Backend]:
    """Bits of the machine type are not looked at."""
    return _creating(lambda _kernel, _fd, machine_type, send: send(machine_type & ~bits))


# ------------------------------------------------------------------------------------------------ a new VM

_REGION: Final = PackedStruct("userspace_memory_region")


def _with_a_slot(kernel: Saboteur, _fd: int, machine_type: int, send: Send) -> int:
    vm = send(machine_type)
    if vm >= 0:
        kernel.behind.ioctl_buffer(vm, abi.KVM_SET_USER_MEMORY_REGION, _REGION.pack(7, 0, 0xE000_0000, 0x1000, 0))
    return vm


def _with_a_vcpu(_kernel: Saboteur, _fd: int, number: int, send: Send) -> int:
    return -EEXIST if number == 5 else send(number)


def _as_often_as_one_likes(_kernel: Saboteur, _fd: int, number: int, send: Send) -> int:
    made = send(number)
    return send(number + 100) if made == -EEXIST else made


# ------------------------------------------------------------------------------------------------ errno and registers


def _e2big(_kernel: Saboteur, _fd: int, machine_type: int, send: Send) -> int:
    result = send(machine_type)
    return -E2BIG if result == -EINVAL and machine_type & SIZE_MASK > 52 else result


_MMFR0: Final = kvm_register_id("ID_AA64MMFR0_EL1")
_PARANGES: Final = {bits: parange for parange, bits in PARANGE_BITS.items()}


def _size_in_parange(kernel: Saboteur, fd: int, one_reg: int, send: Send) -> int:
    result = send(one_reg)
    register, address = (ctypes.c_uint64 * 2).from_address(one_reg)
    parange = _PARANGES.get(kernel.bits(fd) or 0)
    if result >= 0 and register == _MMFR0 and parange is not None:
        value = ctypes.c_uint64.from_address(address)
        value.value = with_field("ID_AA64MMFR0_EL1", "PARange", value.value, parange)
    return result


SABOTAGES: Final = (
    Sabotage("C2", "a new VM has a slot", _creating(_with_a_slot)),
    Sabotage("C2", "a new VM has a vCPU", partial(Saboteur, requests={abi.KVM_CREATE_VCPU: _with_a_vcpu})),
    Sabotage(
        "C2",
        "there are several vCPUs of a number",
        partial(Saboteur, requests={abi.KVM_CREATE_VCPU: _as_often_as_one_likes}),
    ),
    Sabotage("C3", "type 0 is 36 bits", _made_as({0: 36})),
    Sabotage("C3", "type 0 is the limit", _made_as({0: 52})),
    Sabotage("C3", "type 0 is 39 bits on a pKVM host of Linux 6.1", _made_as({0: 39}), "qemu-max-6.1-4k-pkvm"),
    Sabotage("C4", "44 bits are 45", _made_as({44: 45})),
    Sabotage("C4", "44 bits are 43", _made_as({44: 43})),
    Sabotage("C4", "42 bits are the default", _made_as({42: 0})),
    Sabotage("C5", "31 bits are taken for 32", _made_as({31: 32})),
    Sabotage("C5", "1 bit is taken for 32", _made_as({1: 32})),
    Sabotage("C5", "two bits above the limit are the limit", _made_as({54: 52})),
    Sabotage("C5", "255 bits are the limit", _made_as({255: 52})),
    Sabotage("C5", "a size between is refused", _refused(46)),
    Sabotage("C5", "the default is refused", _refused(0)),
    Sabotage("C5", "a pKVM host looks at the size", _refused(31), _PKVM),
    Sabotage("C6", "the limit itself is refused", _refused(52)),
    Sabotage("C6", "a bit above the limit is the limit", _made_as({53: 52})),
    Sabotage("C7", "the implicit size is what there is", _made_as({0: 36}), _36_BITS),
    Sabotage("C8", "PARange is the VM's size", partial(Saboteur, requests={abi.KVM_GET_ONE_REG: _size_in_parange})),
    Sabotage("C10", "bit 8 is not looked at", _ignoring(1 << 8)),
    Sabotage("C10", "bit 63 is not looked at", _ignoring(1 << 63)),
    Sabotage("C10", "the type has 32 bits", _ignoring(0xFFFF_FFFF << 32)),
    Sabotage("C10", "bit 31 is not looked at without pKVM", _ignoring(PROTECTED_BIT), _73),
    Sabotage("C10", "bit 30 is not looked at with pKVM", _ignoring(1 << 30), _PKVM_73),
    Sabotage("C10p", "bit 31 is refused", _refused(PROTECTED_BIT | 32), _PKVM_73),
    Sabotage("I5", "a size above the limit is E2BIG", _creating(_e2big)),
    Sabotage("I6", "45 bits are rounded up", _made_as({45: 46})),
    Sabotage("I6", "51 bits are rounded up", _made_as({51: 52})),
    Sabotage("I6", "33 bits are rounded down", _made_as({33: 32})),
)
