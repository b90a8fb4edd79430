# SPDX-License-Identifier: Apache-2.0
"""SVE's registers of a vCPU: vector lengths, Z0 to Z31, P0 to P15 and FFR (arch/arm64/kvm/guest.c)."""

from __future__ import annotations

from errno import EINVAL, ENOENT, EPERM
from typing import TYPE_CHECKING, Final

from kvmipa import abi
from kvmipa.backend.emulated import user_memory
from kvmipa.backend.emulated.requests import RefusedError

if TYPE_CHECKING:
    from kvmipa.backend.emulated.vcpu import Vcpu

SVE: Final = abi.KVM_REG_ARM64 | abi.KVM_REG_ARM64_SVE
LENGTHS: Final = SVE | abi.KVM_REG_SIZE_U512 | 0xFFFF
_Z: Final = SVE | abi.KVM_REG_SIZE_U2048
_P: Final = SVE | abi.KVM_REG_SIZE_U256 | 0x400
# The lower bits of an id: the slice, which is always 0, then the register.
_SLICE: Final = 0x1F
_REGISTER: Final = 5
_COUNT_Z: Final = 32
# With FFR, which comes after P15.
_COUNT_P: Final = 17

# Bits of Z0 to Z31 that V0 to V31 have.
_V_BITS: Final = 128
_MAX_QUADWORDS: Final = 512


def host_lengths(vcpu: Vcpu) -> int:
    """Bit n - 1: the host has vectors of n * 128 bits."""
    return vcpu.vm.profile.registers.get(LENGTHS, 1)


def reset(vcpu: Vcpu) -> None:
    """The host's vector lengths, unless they were chosen."""
    if not vcpu.registers.sve_lengths:
        vcpu.registers.sve_lengths = host_lengths(vcpu)


def ids(vcpu: Vcpu) -> list[int]:
    """Those of a vCPU with SVE, in the order of KVM_GET_REG_LIST."""
    return [
        LENGTHS,
        *(_Z | index << _REGISTER for index in range(_COUNT_Z)),
        *(_P | index << _REGISTER for index in range(_COUNT_P)),
    ]


def get(vcpu: Vcpu, register: int, address: int) -> None:
    """Write a register's value to where it is asked for."""
    if register == LENGTHS:
        _needs_sve(vcpu)
        user_memory.write(address, vcpu.registers.sve_lengths.to_bytes(64, "little"))
        return
    index, is_z = _find(vcpu, register)
    file = vcpu.registers
    if is_z:
        value = file.z_high[index] << _V_BITS | file.read_core(f"v{index}")
        user_memory.write(address, value.to_bytes(256, "little"))
    else:
        user_memory.write(address, file.p[index].to_bytes(32, "little"))


def set(vcpu: Vcpu, register: int, address: int) -> None:
    """Change a register."""
    if register == LENGTHS:
        _set_lengths(vcpu, address)
        return
    index, is_z = _find(vcpu, register)
    size = _vector_bytes(vcpu)
    file = vcpu.registers
    if is_z:
        value = int.from_bytes(user_memory.read(address, size), "little")
        file.write_core(f"v{index}", value & (1 << _V_BITS) - 1)
        file.z_high[index] = value >> _V_BITS
    else:
        file.p[index] = int.from_bytes(user_memory.read(address, size // 8), "little")


def _needs_sve(vcpu: Vcpu) -> None:
    if not vcpu.has_feature(abi.KVM_ARM_VCPU_SVE):
        raise RefusedError(ENOENT)


def _vector_bytes(vcpu: Vcpu) -> int:
    return 16 * vcpu.registers.sve_lengths.bit_length()


def _find(vcpu: Vcpu, register: int) -> tuple[int, bool]:
    """The index of a Z or P register (sve_reg_to_region)."""
    for base, count in ((_Z, _COUNT_Z), (_P, _COUNT_P)):
        offset = register - base
        if 0 <= offset < count << _REGISTER:
            _needs_sve(vcpu)
            if offset & _SLICE:
                raise RefusedError(ENOENT)
            if not vcpu.sve_finalised:
                raise RefusedError(EPERM)
            return offset >> _REGISTER, base == _Z
    raise RefusedError(EINVAL)


def _set_lengths(vcpu: Vcpu, address: int) -> None:
    """The host's up to some length, none left out (set_sve_vls)."""
    _needs_sve(vcpu)
    if vcpu.sve_finalised:
        raise RefusedError(EPERM)
    asked = int.from_bytes(user_memory.read(address, _MAX_QUADWORDS // 8), "little")
    longest = asked.bit_length()
    if not asked or asked != host_lengths(vcpu) & (1 << longest) - 1:
        raise RefusedError(EINVAL)
    vcpu.registers.sve_lengths = asked
