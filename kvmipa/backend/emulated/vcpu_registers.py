# SPDX-License-Identifier: Apache-2.0
"""KVM_GET_ONE_REG, KVM_SET_ONE_REG and KVM_GET_REG_LIST (kernel-device-spec 4.5; arch/arm64/kvm/guest.c)."""

from __future__ import annotations

from errno import E2BIG, EINVAL, ENOENT, ENOEXEC, EPERM
from struct import pack
from typing import TYPE_CHECKING, Final

from kvmipa import abi
from kvmipa.backend.emulated import (
    feature_registers,
    firmware_registers,
    pending_abort,
    sve_registers,
    system_access,
    user_memory,
)
from kvmipa.backend.emulated.register_file import SPSRS, VECTORS
from kvmipa.backend.emulated.requests import RefusedError, Request
from kvmipa.backend.emulated.system_registers import NUMBERS

if TYPE_CHECKING:
    from collections.abc import Callable

    from kvmipa.backend.emulated.register_file import Core
    from kvmipa.backend.emulated.system_registers import Register
    from kvmipa.backend.emulated.user_memory import Argument
    from kvmipa.backend.emulated.vcpu import Vcpu

_ARCH_AND_UPPER: Final = ((1 << 64) - 1) & ~abi.KVM_REG_SIZE_MASK & ~0xFFFF_FFFF
_LOW: Final = 0xFFFF
_LOW_WORD: Final = 0xFFFF_FFFF
_SIZE_SHIFT: Final = 52


def _size(register: int) -> int:
    """KVM_REG_SIZE: bytes of the value."""
    return 1 << (register >> _SIZE_SHIFT & 0xF)


# ------------------------------------------------------------------------------------------------ core registers

# struct kvm_regs in words of 32 bits: the word where a register begins -> the register and its bytes.
_CORE_WORDS: Final[dict[int, tuple[Core, int]]] = {
    **{2 * index: (index, 8) for index in range(31)},
    62: ("sp_el0", 8),
    64: ("pc", 8),
    66: ("pstate", 8),
    68: ("sp_el1", 8),
    70: ("elr_el1", 8),
    **{72 + 2 * index: (name, 8) for name, index in SPSRS.items()},
    **{84 + 4 * index: (name, 16) for name, index in VECTORS.items()},
    212: ("fpsr", 4),
    213: ("fpcr", 4),
}
_CORE_END: Final = 216
_SIZES: Final = {4: abi.KVM_REG_SIZE_U32, 8: abi.KVM_REG_SIZE_U64, 16: abi.KVM_REG_SIZE_U128}

# PSTATE.M of states that a vCPU can be in: AArch32's User; its other modes; EL0t, EL1t and EL1h; EL2t and EL2h.
_USER_32: Final = 0x10
_MODES_32: Final = frozenset({0x11, 0x12, 0x13, 0x17, 0x1B, 0x1F})
_MODES_64: Final = frozenset({0x0, 0x4, 0x5})
_MODES_EL2: Final = frozenset({0x8, 0x9})
_MODE: Final = 0x1F
_AARCH32: Final = 0x10


def _find_core(vcpu: Vcpu, register: int) -> tuple[Core, int]:
    """A core register and its size."""
    word = register & ~abi.KVM_REG_SIZE_MASK & ~abi.KVM_REG_ARM64 & ~abi.KVM_REG_ARM_CORE
    size = _size(register)
    if word >= _CORE_END or word + size // 4 >= _CORE_END:
        raise RefusedError(ENOENT)
    name, own_size = _CORE_WORDS.get(word, ("", 0))
    # With SVE, its registers stand for V0 to V31.
    if size != own_size or (own_size == 16 and vcpu.has_feature(abi.KVM_ARM_VCPU_SVE)):
        raise RefusedError(EINVAL)
    return name, size


def _get_core(vcpu: Vcpu, register: int, address: int) -> None:
    name, size = _find_core(vcpu, register)
    user_memory.write_number(address, vcpu.registers.read_core(name), size)


def _set_core(vcpu: Vcpu, register: int, address: int) -> None:
    name, size = _find_core(vcpu, register)
    value = user_memory.read_number(address, size)
    if name == "pstate" and not _has_mode(vcpu, value & _MODE):
        raise RefusedError(EINVAL)
    vcpu.registers.write_core(name, value)
    if vcpu.registers.read_core("pstate") & _AARCH32:
        _truncate(vcpu)


def _has_mode(vcpu: Vcpu, mode: int) -> bool:
    is_32bit = vcpu.has_feature(abi.KVM_ARM_VCPU_EL1_32BIT)
    if mode == _USER_32:
        return feature_registers.has_aarch32(vcpu.vm)
    if mode in _MODES_EL2:
        return vcpu.has_feature(abi.KVM_ARM_VCPU_HAS_EL2)
    return mode in _MODES_32 if is_32bit else mode in _MODES_64


# Where AArch32's R13 and R14 are, by mode, if not in X13 and X14 (Arm ARM, D1.20.1).
_BANKED: Final = {0x11: (29, 30), 0x12: (17, 16), 0x13: (19, 18), 0x17: (21, 20), 0x1B: (23, 22)}
_FIQ: Final = 0x11


def _truncate(vcpu: Vcpu) -> None:
    """In AArch32 state, registers have 32 bits; which ones KVM sees to, depends on the release and the mode."""
    file = vcpu.registers
    mode = file.read_core("pstate") & _MODE
    if vcpu.vm.behaviour.aarch32_truncates_all:
        seen = list(range(15 if mode in {_USER_32, 0x1F} else 31))
    else:
        low = [*range(8), *range(24, 29)] if mode == _FIQ else list(range(13))
        seen = [*low, *_BANKED.get(mode, (13, 14))]
    for index in seen:
        file.write_core(index, file.read_core(index) & _LOW_WORD)
    file.write_core("pc", file.read_core("pc") & _LOW_WORD)


def _core_ids(vcpu: Vcpu) -> list[int]:
    sve = vcpu.has_feature(abi.KVM_ARM_VCPU_SVE)
    return [
        abi.KVM_REG_ARM64 | abi.KVM_REG_ARM_CORE | _SIZES[size] | word
        for word, (_, size) in _CORE_WORDS.items()
        if not (sve and size == 16)
    ]


# ------------------------------------------------------------------------------------------------ caches

_DEMUX: Final = abi.KVM_REG_ARM64 | abi.KVM_REG_SIZE_U32 | abi.KVM_REG_ARM_DEMUX
# CSSELR_EL1: seven levels, with an instruction cache or without.
_CACHES: Final = 14


def _caches(vcpu: Vcpu) -> list[int]:
    """CSSELR_EL1 of the caches that are shown: where they are not made up, those that the host has (CLIDR_EL1)."""
    if vcpu.vm.behaviour.caches_are_made_up:
        return list(range(_CACHES))
    clidr = vcpu.vm.host_registers[feature_registers.CLIDR]
    types = {selected: clidr >> 3 * (selected >> 1) & 7 for selected in range(_CACHES)}
    # Type 1 is an instruction cache, 3 separate ones, 2 and 4 a data or a unified one (is_valid_cache).
    return [selected for selected, kind in types.items() if kind in ({1, 3} if selected & 1 else {2, 3, 4})]


def _line_size(vcpu: Vcpu, selected: int) -> int:
    """CCSIDR_EL1.LineSize of the smallest line: the binary logarithm of its words, less 2."""
    ctr = vcpu.vm.host_registers[feature_registers.CTR]
    return (ctr >> (0 if selected & 1 else 16) & 0xF) - 2


def _ccsidr(vcpu: Vcpu, selected: int) -> int:
    if not vcpu.vm.behaviour.caches_are_made_up:
        return vcpu.vm.profile.registers.get(_DEMUX | selected, 0)
    return vcpu.caches.get(selected, _line_size(vcpu, selected))


def _find_cache(vcpu: Vcpu, register: int) -> int:
    if register & ~0xFF != _DEMUX or register & 0xFF not in _caches(vcpu):
        raise RefusedError(ENOENT)
    return register & 0xFF


def _get_cache(vcpu: Vcpu, register: int, address: int) -> None:
    user_memory.write_number(address, _ccsidr(vcpu, _find_cache(vcpu, register)), 4)


def _set_cache(vcpu: Vcpu, register: int, address: int) -> None:
    selected = _find_cache(vcpu, register)
    value = user_memory.read_number(address, 4)
    if vcpu.vm.behaviour.caches_are_made_up:
        if value & 7 < _line_size(vcpu, selected):
            raise RefusedError(EINVAL)
        vcpu.caches = {**vcpu.caches, selected: value}
    elif value != _ccsidr(vcpu, selected):
        raise RefusedError(EINVAL)


# ------------------------------------------------------------------------------------------------ firmware


def _get_firmware(vcpu: Vcpu, register: int, address: int) -> None:
    user_memory.write_number(address, firmware_registers.get(vcpu, register), 8)


def _set_firmware(vcpu: Vcpu, register: int, address: int) -> None:
    if _size(register) != 8:
        raise RefusedError(ENOENT)
    firmware_registers.set(vcpu, register, user_memory.read_number(address, 8))


def _get_bitmap(vcpu: Vcpu, register: int, address: int) -> None:
    (_get_firmware if vcpu.vm.behaviour.hypercall_bitmaps else _get_system)(vcpu, register, address)


def _set_bitmap(vcpu: Vcpu, register: int, address: int) -> None:
    (_set_firmware if vcpu.vm.behaviour.hypercall_bitmaps else _set_system)(vcpu, register, address)


# ------------------------------------------------------------------------------------------------ system registers


def _find_system(vcpu: Vcpu, register: int) -> Register:
    found = None
    if register & ~_LOW == feature_registers.SYSREG and register & _LOW in NUMBERS:
        found = system_access.table(vcpu).registers.get(register & _LOW)
    if found is None:
        raise RefusedError(ENOENT)
    return found


def _get_system(vcpu: Vcpu, register: int, address: int) -> None:
    user_memory.write_number(address, system_access.get(vcpu, _find_system(vcpu, register)), 8)


def _set_system(vcpu: Vcpu, register: int, address: int) -> None:
    if vcpu.vm.behaviour.reads_register_value_first:
        user_memory.read(address, 8)
    found = _find_system(vcpu, register)
    system_access.set(vcpu, found, user_memory.read_number(address, 8))


# ------------------------------------------------------------------------------------------------ requests

# KVM_REG_ARM_COPROC_MASK -> how it is read and written; another class is taken for a system register.
_CLASSES: Final[dict[int, tuple[Callable[[Vcpu, int, int], None], Callable[[Vcpu, int, int], None]]]] = {
    abi.KVM_REG_ARM_CORE: (_get_core, _set_core),
    abi.KVM_REG_ARM_DEMUX: (_get_cache, _set_cache),
    abi.KVM_REG_ARM_FW: (_get_firmware, _set_firmware),
    abi.KVM_REG_ARM_FW_FEAT_BMAP: (_get_bitmap, _set_bitmap),
    abi.KVM_REG_ARM64_SVE: (sve_registers.get, sve_registers.set),
}
_OTHERS: Final = (_get_system, _set_system)


def _one_register(vcpu: Vcpu, argument: Argument, direction: int) -> int:
    if not vcpu.initialised:
        return -ENOEXEC
    register, address = abi.ONE_REG.unpack(user_memory.read(argument, abi.ONE_REG.size))
    if register & _ARCH_AND_UPPER != abi.KVM_REG_ARM64:
        return -EINVAL
    _CLASSES.get(register & abi.KVM_REG_ARM_COPROC_MASK, _OTHERS)[direction](vcpu, register, address)
    return 0


def get_one_reg(vcpu: Vcpu, argument: Argument) -> int:
    """KVM_GET_ONE_REG."""
    return _one_register(vcpu, argument, 0)


def set_one_reg(vcpu: Vcpu, argument: Argument) -> int:
    """KVM_SET_ONE_REG."""
    return _one_register(vcpu, argument, 1)


def register_ids(vcpu: Vcpu) -> list[int]:
    """The ids of a vCPU's registers, in the order of KVM_GET_REG_LIST."""
    registers = system_access.table(vcpu)
    return [
        *_core_ids(vcpu),
        *(sve_registers.ids(vcpu) if vcpu.has_feature(abi.KVM_ARM_VCPU_SVE) else ()),
        *firmware_registers.ids(vcpu),
        *(feature_registers.SYSREG | it.number for it in registers.timers),
        *(feature_registers.SYSREG | it.number for it in registers.others),
        *(_DEMUX | selected for selected in _caches(vcpu)),
    ]


def get_reg_list(vcpu: Vcpu, argument: Argument) -> int:
    """KVM_GET_REG_LIST: how many there are, and if there is room for them, which ones."""
    if not vcpu.initialised:
        return -ENOEXEC
    if vcpu.has_feature(abi.KVM_ARM_VCPU_SVE) and not vcpu.sve_finalised:
        return -EPERM
    # The kernel has an unsigned int for it.
    room = user_memory.read_number(argument, 8) & _LOW_WORD
    found = register_ids(vcpu)
    user_memory.write_number(argument, len(found), 8)
    if room < len(found):
        return -E2BIG
    user_memory.write(argument, pack(f"={len(found) + 1}Q", len(found), *found))
    return 0


def reset(vcpu: Vcpu, *, again: bool) -> None:
    """What KVM_ARM_VCPU_INIT makes of a vCPU's registers; where ID registers are the VM's, the vCPU's own ones stay."""
    stay = again and vcpu.vm.behaviour.id_registers_of_vm
    vcpu.registers.reset(vcpu.features, None if stay else vcpu.affinity)
    system_access.reset(vcpu, stay=(feature_registers.CLIDR,) if stay else ())
    if vcpu.has_feature(abi.KVM_ARM_VCPU_SVE):
        sve_registers.reset(vcpu)


# Modes in which the kernel itself is in EL1.
_WITHOUT_VHE: Final = frozenset({"nvhe", "protected"})


def loaded(vcpu: Vcpu) -> None:
    """Have KVM_RUN take the vCPU up (vcpu_load, kvm_vcpu_first_run_init): before anything of the guest runs.

    For KVM_RUN to call where needs_loading says so, also where it comes back at once.
    """
    vcpu.needs_loading = False
    pending_abort.enter_pending(vcpu)
    known = vcpu.vm.behaviour
    if vcpu.vm.profile.effective_mode in _WITHOUT_VHE or not known.loads_registers_early:
        return
    file = vcpu.registers
    for register, bits in system_access.NOT_OF_THE_CPU.items():
        if bits == 0 or not known.caches_are_made_up:
            file.write_system(register, (file.read_system(register) or 0) & bits)


# On a vCPU's descriptor.
REQUESTS: Final[tuple[Request, ...]] = (
    Request(abi.KVM_GET_ONE_REG, get_one_reg),
    Request(abi.KVM_SET_ONE_REG, set_one_reg),
    Request(abi.KVM_GET_REG_LIST, get_reg_list),
)
