# SPDX-License-Identifier: Apache-2.0
"""The registers and the state of vCPUs; runs in the guest: ``python3 -m ci.lab.register_recorder FILE HEADER``.

FILE takes JSON lines: a header, then sections, one for each set of features of KVM_ARM_VCPU_INIT. The same questions
are asked of any backend; what answers differently, the two lists of lines say. HEADER is a JSON object of what only the
outside knows.
"""

from __future__ import annotations

import gzip
import json
import mmap
import platform
import sys
from ctypes import addressof, create_string_buffer
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import kvmipa
from kvmipa import abi, json_lines
from kvmipa.backend import DEVICE
from kvmipa.backend.native import NativeBackend
from kvmipa.errno_names import errno_name
from kvmipa.recording import profile_as_json

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from kvmipa.backend import Backend

FORMAT: Final = 1

# Bit numbers of the features that are asked for; "all" is what the host has of those with registers of their own.
PSCI: Final = 1 << abi.KVM_ARM_VCPU_PSCI_0_2
PMU: Final = 1 << abi.KVM_ARM_VCPU_PMU_V3
SVE: Final = 1 << abi.KVM_ARM_VCPU_SVE
POINTER_AUTHENTICATION: Final = 1 << abi.KVM_ARM_VCPU_PTRAUTH_ADDRESS | 1 << abi.KVM_ARM_VCPU_PTRAUTH_GENERIC
FEATURES: Final = {
    "psci": PSCI,
    "none": 0,
    "off": PSCI | 1 << abi.KVM_ARM_VCPU_POWER_OFF,
    "32bit": PSCI | 1 << abi.KVM_ARM_VCPU_EL1_32BIT,
    "pmu": PSCI | PMU,
    "sve": PSCI | SVE,
    "ptrauth": PSCI | POINTER_AUTHENTICATION,
}
OF_CAPABILITIES: Final = {
    abi.KVM_CAP_ARM_PMU_V3: PMU,
    abi.KVM_CAP_ARM_SVE: SVE,
    abi.KVM_CAP_ARM_PTRAUTH_ADDRESS: POINTER_AUTHENTICATION,
}

# Its affinity levels are 5 and 3.
VCPU_ID: Final = 0x35

SIZES: Final = {size << 52: 1 << size for size in range(9)}
U64: Final = (1 << 64) - 1
CORE: Final = abi.KVM_REG_ARM64 | abi.KVM_REG_ARM_CORE
SYSTEM: Final = abi.KVM_REG_ARM64 | abi.KVM_REG_SIZE_U64 | abi.KVM_REG_ARM64_SYSREG
FIRMWARE: Final = abi.KVM_REG_ARM64 | abi.KVM_REG_SIZE_U64 | abi.KVM_REG_ARM_FW
BITMAPS: Final = abi.KVM_REG_ARM64 | abi.KVM_REG_SIZE_U64 | abi.KVM_REG_ARM_FW_FEAT_BMAP
DEMUX: Final = abi.KVM_REG_ARM64 | abi.KVM_REG_SIZE_U32 | abi.KVM_REG_ARM_DEMUX
SVE_STATE: Final = abi.KVM_REG_ARM64 | abi.KVM_REG_ARM64_SVE
PSTATE: Final = CORE | abi.KVM_REG_SIZE_U64 | 66
VECTOR_LENGTHS: Final = SVE_STATE | abi.KVM_REG_SIZE_U512 | 0xFFFF

# Counters, by their id: CNTVCT and CNTPCT as KVM has them. Their values are another each time.
COUNTERS: Final = {SYSTEM | 0xDF1A: "KVM_REG_ARM_TIMER_CNT", SYSTEM | 0xDF01: "KVM_REG_ARM_PTIMER_CNT"}

# Registers that QEMU does not read: after a run there is what another register had.
NOT_OF_QEMU: Final = {SYSTEM | 0xA038: "DBGVCR32_EL2"}

# Where nothing is ever mapped.
UNMAPPED: Final = 8


def is_identification(register: int) -> bool:
    """Whether it says what the CPU is: an ID register, or CTR_EL0, CLIDR_EL1 and the like."""
    return register & ~0x3FFF == SYSTEM | 0xC000 and not register >> 7 & 0xF and register & 0x3FFF != 0x1000


def size_of(register: int) -> int:
    """Bytes of a register's value."""
    return SIZES[register & abi.KVM_REG_SIZE_MASK]


def outcome(result: int) -> int | str:
    """The result, or the errno's name."""
    return result if result >= 0 else errno_name(-result)


class Vcpu:
    """A VM, of 32 bits as a rule, and a vCPU of it; a second one on demand."""

    def __init__(self, backend: Backend, cap: int | None = None, machine_type: int = 32) -> None:
        self.backend = backend
        self._opened = [backend.open(DEVICE)]
        self.system = self._opened[0]
        self.vm = self._new(self.system, abi.KVM_CREATE_VM, machine_type)
        #: What came of enabling cap.
        self.enabled: int | str = 0
        if cap is not None:
            fields = cap.to_bytes(4, "little").ljust(104, bytes(1))
            self.enabled = outcome(backend.ioctl_buffer(self.vm, abi.KVM_ENABLE_CAP, bytearray(fields)))
        self.fd = self._new(self.vm, abi.KVM_CREATE_VCPU, VCPU_ID)

    def _new(self, fd: int, request: int, argument: int) -> int:
        made = self.backend.ioctl(fd, request, argument)
        if made < 0:
            raise OSError(-made, f"{abi.request_name(request)} with {argument}")
        self._opened.append(made)
        return made

    def close(self) -> None:
        """Let go of everything."""
        for fd in reversed(self._opened):
            self.backend.close(fd)

    def add_device(self, kind: int) -> int | str:
        """KVM_CREATE_DEVICE: 0, or an errno."""
        fields = bytearray(kind.to_bytes(4, "little") + bytes(8))
        result = outcome(self.backend.ioctl_buffer(self.vm, abi.KVM_CREATE_DEVICE, fields))
        if result == 0:
            self._opened.append(int.from_bytes(fields[4:8], "little"))
        return result

    def another(self, number: int = 1) -> Vcpu:
        """Another vCPU of the VM."""
        other = object.__new__(Vcpu)
        other.backend, other.system, other.vm, other._opened = self.backend, self.system, self.vm, []
        other.fd = self._new(self.vm, abi.KVM_CREATE_VCPU, number)
        return other

    def ask(self, request: int, data: bytes | int) -> tuple[int | str, bytes]:
        """What came of a request with these bytes, or this address, and the bytes as they are then."""
        if isinstance(data, int):
            return outcome(self.backend.ioctl(self.fd, request, data)), b""
        buffer = create_string_buffer(data, len(data))
        return outcome(self.backend.ioctl(self.fd, request, addressof(buffer))), buffer.raw

    def init(self, features: int) -> int | str:
        """KVM_ARM_VCPU_INIT, with the target that the host prefers."""
        target = bytearray(abi.VCPU_INIT.size)
        self.backend.ioctl_buffer(self.vm, abi.KVM_ARM_PREFERRED_TARGET, target)
        number = abi.VCPU_INIT.unpack(target)[0]
        return self.ask(abi.KVM_ARM_VCPU_INIT, abi.VCPU_INIT.pack(number, features, *[0] * 6))[0]

    def get(self, register: int) -> int | str:
        """KVM_GET_ONE_REG: the value, or an errno."""
        content = create_string_buffer(size_of(register))
        request = bytearray(abi.ONE_REG.pack(register, addressof(content)))
        result = self.backend.ioctl_buffer(self.fd, abi.KVM_GET_ONE_REG, request)
        return errno_name(-result) if result < 0 else int.from_bytes(content.raw, "little")

    def set(self, register: int, value: int) -> int | str:
        """KVM_SET_ONE_REG: 0, or an errno."""
        size = size_of(register)
        content = create_string_buffer((value & (1 << 8 * size) - 1).to_bytes(size, "little"), size)
        request = bytearray(abi.ONE_REG.pack(register, addressof(content)))
        return outcome(self.backend.ioctl_buffer(self.fd, abi.KVM_SET_ONE_REG, request))

    def registers(self) -> list[int]:
        """KVM_GET_REG_LIST."""
        found = self.ask(abi.KVM_GET_REG_LIST, bytes(8))[1]
        count = int.from_bytes(found, "little")
        data = self.ask(abi.KVM_GET_REG_LIST, found + bytes(8 * count))[1]
        return [int.from_bytes(data[at : at + 8], "little") for at in range(8, len(data), 8)]

    def run(self) -> int | str:
        """KVM_RUN that comes back before the guest does anything."""
        size = self.backend.ioctl(self.system, abi.KVM_GET_VCPU_MMAP_SIZE, 0)
        area: Any = mmap.mmap(self.fd, size) if self.backend.name == "native" else self.backend.mmap(self.fd, size)
        area[1] = 1
        result = self.ask(abi.KVM_RUN, 0)[0]
        area[1] = 0
        return result


# ---------------------------------------------------------------------------------------------- values that are set


def values(register: int, current: int) -> Iterator[int]:
    """What a register is set to."""
    ones = (1 << 8 * size_of(register)) - 1
    yield from dict.fromkeys((current, 0, ones, ones // 3, ones // 3 << 1, current ^ 2))
    if register == PSTATE:
        for mode in range(32):
            yield mode
            yield 0x3C0 | mode
        yield from (1 << bit | 0x3C5 for bit in range(10, 64))
    elif register & ~0xFFFF in {FIRMWARE, BITMAPS}:
        yield from (*range(1, 17), *range(0x10000, 0x10006), 0x20000, 1 << 32, 1 << 32 | 2)
    elif register == VECTOR_LENGTHS:
        yield from (current >> 1, current & current - 1, current | 1 << 511, 1)
    elif is_identification(register):
        yield from (current ^ 1 << bit for bit in range(0, 64, 4))


def named(register: int) -> str:
    """The id as it stands in the file."""
    return hex(register)


def hexadecimal(value: int | str) -> int | str:
    """A value as it stands in the file."""
    return value if isinstance(value, str) else hex(value)


def try_values(vcpu: Vcpu, register: int, current: int) -> dict[str, Any]:
    """Set a register to one value after the other, and back."""
    sets = []
    for value in values(register, current):
        result = vcpu.set(register, value)
        after = 0 if register in COUNTERS else vcpu.get(register)
        sets.append((value, result, after))
    found = [[hexadecimal(value), result, hexadecimal(after)] for value, result, after in sets]
    # What it is set to is there, and what is refused changes nothing.
    plain, last = [], current
    for value, result, after in sets:
        last = value if result == 0 else last
        plain.append(after == last)
    line: dict[str, Any] = {"sets": [row[:2] for row in found] if all(plain) else found}
    if all(plain) and all(result == 0 for _, result, _ in sets):
        line = {"sets": "all"}
    if (back := vcpu.set(register, current)) != 0:
        line["back"] = back
    return line


def try_fields(vcpu: Vcpu, register: int, current: int) -> dict[str, Any]:
    """Set each field of an ID register to each of its values: 16 numbers, in which the bits of those it takes are 1."""
    accepted, odd = [], []
    for lsb in range(0, 64, 4):
        mask = 0
        for content in range(16):
            value = current & ~(0xF << lsb) | content << lsb
            result = vcpu.set(register, value)
            mask |= (result == 0) << content
            if result == 0 and (after := vcpu.get(register)) != value:
                odd.append([hex(value), hexadecimal(after)])
            if result not in (0, "EINVAL"):
                odd.append([hex(value), result])
            if result == 0:
                vcpu.set(register, current)
        accepted.append(f"{mask:04x}")
    return {"fields": " ".join(accepted)} | ({"odd": odd} if odd else {})


# ---------------------------------------------------------------------------------------------- sections


def section(backend: Backend, name: str, features: int) -> Iterator[dict[str, Any]]:
    """What is recorded of vCPUs with these features."""
    vcpu = Vcpu(backend)
    yield {"section": name, "features": hex(features), "init": (result := vcpu.init(features))}
    if result == 0:
        if features & SVE:
            yield from before_finalisation(vcpu)
        registers = vcpu.registers()
        yield {"list": list(map(named, registers))}
        reset = {register: 0 if register in COUNTERS else vcpu.get(register) for register in registers}
        for register, value in reset.items():
            yield {"id": named(register), "value": hexadecimal(value)} | one_register(vcpu, register, value, name)
        yield {"shared": shared(vcpu, features, reset)}
        yield from initialised_again(vcpu, features, reset)
        yield from after_run(vcpu, reset)
    vcpu.close()


def one_register(vcpu: Vcpu, register: int, value: int | str, section_name: str) -> dict[str, Any]:
    """What becomes of it when it is set."""
    if isinstance(value, str):
        return {"set": vcpu.set(register, 0)}
    line = try_values(vcpu, register, value)
    if is_identification(register) and section_name == "all":
        line |= try_fields(vcpu, register, value)
    return line


def implementation(backend: Backend) -> Iterator[dict[str, Any]]:
    """What a VM says of who made its CPU, where user space may choose that."""
    vcpu = Vcpu(backend, abi.KVM_CAP_ARM_WRITABLE_IMP_ID_REGS)
    yield {"section": "implementation", "enabled": vcpu.enabled, "init": vcpu.init(PSCI)}
    other = vcpu.another()
    other.init(PSCI)
    registers = [SYSTEM | number for number in (0xC000, 0xC006, 0xC807)]
    for register in registers:
        current = vcpu.get(register)
        assert isinstance(current, int)
        yield {"id": named(register), "value": hex(current)} | try_values(vcpu, register, current)
        yield {"id": named(register), "set": vcpu.set(register, current ^ 4), "other": hexadecimal(other.get(register))}
    yield {"init again": vcpu.init(PSCI), "found": [hexadecimal(vcpu.get(register)) for register in registers]}
    yield {"run": vcpu.run(), "found": [hexadecimal(vcpu.get(register)) for register in registers]}
    for register in registers:
        yield {"id": named(register), "set": vcpu.set(register, 0), "get": hexadecimal(vcpu.get(register))}
    other.close()
    vcpu.close()


def with_vgic(backend: Backend) -> Iterator[dict[str, Any]]:
    """What a vGIC changes, made before the vCPU is initialised or after."""
    for kind in (abi.KVM_DEV_TYPE_ARM_VGIC_V2, abi.KVM_DEV_TYPE_ARM_VGIC_V3):
        for first in (False, True):
            vcpu = Vcpu(backend)
            yield {"section": f"vGIC {kind}", "before": first}
            made: int | str = vcpu.add_device(kind) if first else 0
            vcpu.init(PSCI)
            reset = {register: vcpu.get(register) for register in vcpu.registers() if is_identification(register)}
            if not first:
                made = vcpu.add_device(kind)
            yield {"made": made, "value": [hexadecimal(reset[SYSTEM | it]) for it in (0xC009, 0xC020)]}
            yield differing(vcpu, reset)
            for register in (SYSTEM | 0xC009, SYSTEM | 0xC020):
                value = reset[register]
                assert isinstance(value, int)
                yield {"id": named(register), "set": vcpu.set(register, value)}
            vcpu.close()


def before_finalisation(vcpu: Vcpu) -> Iterator[dict[str, Any]]:
    """A vCPU with SVE whose vector lengths can still be chosen; in the end they are the host's."""
    yield {"unfinalised list": vcpu.ask(abi.KVM_GET_REG_LIST, bytes(8))[0], "run": vcpu.run()}
    for register in (SVE_STATE | abi.KVM_REG_SIZE_U2048, SVE_STATE | abi.KVM_REG_SIZE_U256 | 0x400):
        yield {"id": named(register), "get": vcpu.get(register), "set": vcpu.set(register, 0)}
    lengths = vcpu.get(VECTOR_LENGTHS)
    assert isinstance(lengths, int)
    yield {"id": named(VECTOR_LENGTHS), "value": hex(lengths)} | try_values(vcpu, VECTOR_LENGTHS, lengths)
    yield {
        f"finalize {value}": vcpu.ask(abi.KVM_ARM_VCPU_FINALIZE, value.to_bytes(4, "little"))[0]
        for value in (0, 3, 5, 4)
    }
    yield {"finalize again": vcpu.ask(abi.KVM_ARM_VCPU_FINALIZE, (4).to_bytes(4, "little"))[0]}


def changed(vcpu: Vcpu, register: int, value: int | str) -> int | None:
    """Another value that a register takes, if there is one; it is left at its own."""
    if isinstance(value, str) or register in COUNTERS:
        return None
    for lsb in range(0, 8 * min(size_of(register), 8), 4):
        for other in (value ^ 1 << lsb, value & ~(0xF << lsb)):
            if other != value and vcpu.set(register, other) == 0 and vcpu.get(register) == other:
                vcpu.set(register, value)
                return other
    return None


def shared(vcpu: Vcpu, features: int, reset: dict[int, int | str]) -> list[str]:
    """Registers that are the VM's: another vCPU sees what they are set to."""
    other = vcpu.another()
    other.init(features)
    if features & SVE:
        other.ask(abi.KVM_ARM_VCPU_FINALIZE, (4).to_bytes(4, "little"))
    found = []
    for register, value in reset.items():
        if (new := changed(vcpu, register, value)) is not None:
            assert isinstance(value, int)
            before = other.get(register)
            vcpu.set(register, new)
            if other.get(register) != before:
                found.append(named(register))
            vcpu.set(register, value)
    return found


def initialised_again(vcpu: Vcpu, features: int, reset: dict[int, int | str]) -> Iterator[dict[str, Any]]:
    """A second KVM_ARM_VCPU_INIT: what is not as after the first."""
    for register, value in reset.items():
        if (new := changed(vcpu, register, value)) is not None:
            vcpu.set(register, new)
    before = {register: vcpu.get(register) for register in reset if register not in COUNTERS}
    yield {"changed": sum(before[register] != reset[register] for register in before)}
    yield {"init again": vcpu.init(features)} | differing(vcpu, reset)
    for register, value in reset.items():
        if isinstance(value, int) and register not in COUNTERS:
            vcpu.set(register, value)
    yield {"restored": True} | differing(vcpu, reset)


def differing(vcpu: Vcpu, reset: dict[int, int | str]) -> dict[str, Any]:
    """Registers whose values are not these."""
    found = {register: vcpu.get(register) for register in reset if register not in {*COUNTERS, *NOT_OF_QEMU}}
    return {"differing": {named(it): hexadecimal(value) for it, value in found.items() if value != reset[it]}}


def after_run(vcpu: Vcpu, reset: dict[int, int | str]) -> Iterator[dict[str, Any]]:
    """Once the vCPU has run: identification and firmware registers are what they are."""
    yield {"run": vcpu.run()} | differing(vcpu, reset)
    for register in reset:
        value = vcpu.get(register)
        if isinstance(value, int) and (is_identification(register) or register & ~0xFFFF in {FIRMWARE, BITMAPS}):
            other = value ^ 1
            yield {
                "id": named(register),
                "run same": vcpu.set(register, value),
                "run other": vcpu.set(register, other),
                "run then": hexadecimal(vcpu.get(register)),
            }


# ---------------------------------------------------------------------------------------------- bad input


def runs(results: Iterable[tuple[int, int | str]]) -> list[list[Any]]:
    """Consecutive ids with one result: the first, how many, the result."""
    found = []
    for result, group in groupby(results, key=lambda pair: pair[1]):
        members = [number for number, _ in group]
        found.append([hex(members[0]), len(members), result])
    return found


def scans(backend: Backend) -> Iterator[dict[str, Any]]:
    """Every id of a class, whether or not it is in the list."""
    vcpu = Vcpu(backend)
    vcpu.init(PSCI)
    for size in SIZES:
        base = CORE | size
        yield {"scan": hex(base), "get": runs((n, known(vcpu.get(base | n))) for n in range(220))}
        yield {"scan": hex(base), "set": runs((n, vcpu.set(base | n, 0x3C5)) for n in range(220))}
    # Op0 2 and 3.
    yield {"scan": hex(SYSTEM), "get": runs((n, known(vcpu.get(SYSTEM | n))) for n in range(1 << 15, 1 << 16))}
    for base in (FIRMWARE, BITMAPS, DEMUX):
        for first in (0, 0xFFF0):
            here = base | first
            yield {"scan": hex(here), "get": runs((n, known(vcpu.get(here | n))) for n in range(16))}
            yield {"scan": hex(here), "set": runs((n, vcpu.set(here | n, 2)) for n in range(16))}
    vcpu.close()


def known(value: int | str) -> int | str:
    """0 for a value."""
    return value if isinstance(value, str) else 0


# Registers with one bit or the size wrong, and of classes that there are not.
ODD_IDS: Final = (
    *(SYSTEM & ~abi.KVM_REG_SIZE_MASK | size | 0xC080 for size in SIZES),
    *(FIRMWARE & ~abi.KVM_REG_SIZE_MASK | size for size in SIZES),
    *(BITMAPS & ~abi.KVM_REG_SIZE_MASK | size for size in SIZES),
    *(DEMUX & ~abi.KVM_REG_SIZE_MASK | size for size in SIZES),
    *(SVE_STATE | size for size in SIZES),
    *(SVE_STATE | size | 0x400 for size in SIZES),
    *(SVE_STATE | size | 0xFFFF for size in SIZES),
    *(SVE_STATE | abi.KVM_REG_SIZE_U2048 | n for n in (1, 31, 32, 0x3E0, 0x3FF, 0x400, 0x600, 0x700)),
    *(SVE_STATE | abi.KVM_REG_SIZE_U256 | n for n in (0, 0x401, 0x41F, 0x5E0, 0x600, 0x601, 0x620, 0x700)),
    *(abi.KVM_REG_ARM64 | abi.KVM_REG_SIZE_U64 | n << 16 for n in range(0x20)),
    *(SYSTEM | 0xC080 | 1 << bit for bit in range(16, 64) if not 52 <= bit < 56),
    *(CORE | abi.KVM_REG_SIZE_U64 | 1 << bit for bit in range(16, 64) if not 52 <= bit < 56),
    *(FIRMWARE | 1 << bit for bit in range(4, 52)),
    *(DEMUX | n for n in (0x100, 0x10D, 0x8000, 0x1, 0xE, 0xFF)),
    *(CORE & (1 << 60) - 1 | arch << 60 | abi.KVM_REG_SIZE_U64 for arch in range(16)),
    0,
    U64,
)


def odd_ids(vcpu: Vcpu) -> Iterator[dict[str, Any]]:
    """Ids of nothing; with a value to read from and to, without one, and size bits that are no size."""
    for register in ODD_IDS:
        yield {"id": hex(register), **one_reg(vcpu, register)}
    for size in range(9, 16):
        register = SYSTEM & ~abi.KVM_REG_SIZE_MASK | size << 52 | 0xC080
        yield {"id": hex(register), **one_reg(vcpu, register)}
    for register in (CORE | abi.KVM_REG_SIZE_U64, PSTATE, SYSTEM | 0xC080, FIRMWARE, BITMAPS, DEMUX, SYSTEM | 0xDF19):
        for request in ("KVM_GET_ONE_REG", "KVM_SET_ONE_REG"):
            fields = abi.ONE_REG.pack(register, UNMAPPED)
            yield {"id": hex(register), "unmapped": request, "result": vcpu.ask(abi.REQUESTS[request], fields)[0]}


def one_reg(vcpu: Vcpu, register: int) -> dict[str, Any]:
    """Both requests with an id that may be odd, and zeros, which have to be zeros still where getting fails."""
    content = create_string_buffer(1 << 16)
    fields = abi.ONE_REG.pack(register, addressof(content))
    got = vcpu.ask(abi.KVM_GET_ONE_REG, fields)[0]
    content.raw = bytes(1 << 16)
    return {"get": got, "set": vcpu.ask(abi.KVM_SET_ONE_REG, fields)[0]}


def packed(name: str, **fields: int | tuple[int, ...]) -> bytes:
    """A struct's bytes; fields that are not named are 0, and so is the rest of an array."""
    size, offset = OFFSETS[name]
    data = bytearray(size)
    for field, content in fields.items():
        at, width = offset[field]
        for number in content if isinstance(content, tuple) else (content,):
            data[at : at + width] = number.to_bytes(width, "little")
            at += width
    return bytes(data)


# linux/kvm.h and asm/kvm.h: size, and offset and width of a field, or of the first number of an array.
OFFSETS: Final = {
    "vcpu_events": (
        64,
        {
            "serror_pending": (0, 1),
            "serror_has_esr": (1, 1),
            "ext_dabt_pending": (2, 1),
            "pad": (3, 1),
            "serror_esr": (8, 8),
            "reserved": (16, 4),
        },
    ),
    "guest_debug": (520, {"control": (0, 4), "pad": (4, 4)}),
}


def calls() -> Iterator[tuple[str, bytes | int]]:
    """Requests for state, with good and bad arguments."""
    for name in STATE_REQUESTS:
        for address in (0, UNMAPPED, U64):
            yield name, address
    u32 = [number.to_bytes(4, "little") for number in (*range(13), 1 << 31, 0xFFFF_FFFF)]
    for value in u32:
        yield "KVM_SET_MP_STATE", value
        yield "KVM_GET_MP_STATE", bytes(4)
    yield "KVM_SET_MP_STATE", u32[5]
    yield "KVM_GET_MP_STATE", b"\xff" * 4
    yield "KVM_SET_MP_STATE", u32[0]
    yield from event_calls()
    yield from debug_calls()
    # length, and what follows it.
    for length, mask in ((8, 8), (8, 0), (0, 8), (4, 8), (16, 16), (7, 8), (128, 128)):
        yield "KVM_SET_SIGNAL_MASK", length.to_bytes(4, "little") + b"\xff" * mask
    for count in (0, 1, 10, 1000, 1 << 32, 1 << 32 | 1000, U64):
        yield "KVM_GET_REG_LIST", count.to_bytes(8, "little") + bytes(8000)
    for value in u32[:8]:
        yield "KVM_ARM_VCPU_FINALIZE", value
    for name, number in NO_REQUESTS.items():
        for argument in (0, UNMAPPED, bytes(4096)):
            yield f"{name} {number:#x}", argument


STATE_REQUESTS: Final = (
    *("KVM_GET_MP_STATE", "KVM_SET_MP_STATE", "KVM_GET_VCPU_EVENTS", "KVM_SET_VCPU_EVENTS", "KVM_SET_GUEST_DEBUG"),
    *("KVM_SET_SIGNAL_MASK", "KVM_GET_REG_LIST", "KVM_GET_ONE_REG", "KVM_SET_ONE_REG", "KVM_ARM_VCPU_FINALIZE"),
    "KVM_ARM_VCPU_INIT",
)

# Other architectures' (include/uapi/linux/kvm.h), some of which arm64 knows enough of to read the argument.
NO_REQUESTS: Final = {
    "KVM_GET_REGS": 0x8360_AE81,
    "KVM_SET_REGS": 0x4360_AE82,
    "KVM_GET_SREGS": 0x8000_AE83,
    "KVM_SET_SREGS": 0x4000_AE84,
    "KVM_TRANSLATE": 0xC018_AE85,
    "KVM_INTERRUPT": 0x4004_AE86,
    "KVM_GET_FPU": 0x8000_AE8C,
    "KVM_SET_FPU": 0x4000_AE8D,
    "KVM_DIRTY_TLB": 0x4010_AEAA,
    "KVM_ENABLE_CAP": 0x4068_AEA3,
}


def event_calls() -> Iterator[tuple[str, bytes | int]]:
    """KVM_SET_VCPU_EVENTS: each field good and bad, and what KVM_GET_VCPU_EVENTS says then."""
    nothing: dict[str, Any] = {}
    for fields in (
        nothing,
        {"pad": (1,)},
        {"pad": (0, 0, 0, 0, 1)},
        {"reserved": (1,)},
        {"reserved": (0,) * 11 + (1,)},
        {"serror_esr": 5},
        {"serror_has_esr": 1},
        {"serror_has_esr": 1, "serror_esr": U64},
        {"serror_pending": 1, "serror_has_esr": 1, "serror_esr": 1 << 25},
        {"serror_pending": 1, "serror_has_esr": 1, "serror_esr": 1 << 24},
        {"serror_pending": 1, "serror_has_esr": 1, "serror_esr": 0x1FF_FFFF},
        {"serror_pending": 1, "serror_has_esr": 7, "serror_esr": 3},
        {"serror_pending": 1},
        nothing,
        {"serror_pending": 255},
        {"serror_pending": 2, "ext_dabt_pending": 0},
        nothing,
    ):
        yield "KVM_SET_VCPU_EVENTS", packed("vcpu_events", **fields)
        yield "KVM_GET_VCPU_EVENTS", b"\xff" * 64


def debug_calls() -> Iterator[tuple[str, bytes | int]]:
    """KVM_SET_GUEST_DEBUG: each bit of control."""
    for control in (0, 1, 2, 3, 1 << 16, 1 << 17, 0x30003, *(1 << bit | 1 for bit in range(32)), 0xFFFF_FFFF, 0):
        yield "KVM_SET_GUEST_DEBUG", packed("guest_debug", control=control)
    yield "KVM_SET_GUEST_DEBUG", packed("guest_debug", control=1, pad=U64 >> 32)
    yield "KVM_SET_GUEST_DEBUG", packed("guest_debug")


def state(vcpu: Vcpu) -> Iterator[dict[str, Any]]:
    """Every call with its result, and the bytes that it changed."""
    for name, argument in calls():
        number = int(name.split()[1], 16) if " " in name else abi.REQUESTS[name]
        result, after = vcpu.ask(number, argument)
        line: dict[str, Any] = {"call": name}
        if isinstance(argument, int):
            line["address"] = hex(argument)
        else:
            line["data"] = short(argument)
        line["result"] = result
        if not isinstance(argument, int) and after != argument:
            line["after"] = short(after)
        yield line


def short(data: bytes) -> str:
    """Bytes without the zeros at their end, of which there may be thousands."""
    return f"{data.rstrip(bytes(1)).hex()}+{len(data) - len(data.rstrip(bytes(1)))}"


def pending_abort(vcpu: Vcpu) -> Iterator[dict[str, Any]]:
    """An external abort for the guest: which registers say so, right away and after a run."""
    for registers in ({PSTATE: 0x3C5}, {PSTATE: 0x3C0}):
        vcpu.init(PSCI)
        names = vcpu.registers()
        for register, value in {**registers, CORE | abi.KVM_REG_SIZE_U64 | 64: 0x1000, SYSTEM | 0xC600: 0x8000}.items():
            vcpu.set(register, value)
        before: dict[int, int | str] = {it: 0 if it in COUNTERS else vcpu.get(it) for it in names}
        for fields in ({"ext_dabt_pending": 1}, {"serror_pending": 1, "ext_dabt_pending": 1}):
            result = vcpu.ask(abi.KVM_SET_VCPU_EVENTS, packed("vcpu_events", **fields))[0]
            events = vcpu.ask(abi.KVM_GET_VCPU_EVENTS, bytes(64))[1]
            yield {"abort": fields, "result": result, "events": short(events)} | differing(vcpu, before)
        yield {"run": vcpu.run()} | differing(vcpu, before)


def bad_input(backend: Backend) -> Iterator[dict[str, Any]]:
    """Of a vCPU before and after KVM_ARM_VCPU_INIT."""
    vcpu = Vcpu(backend)
    yield {"section": "not initialised"}
    yield from state(vcpu)
    for register in (CORE | abi.KVM_REG_SIZE_U64, 0, U64):
        yield {"id": hex(register), **one_reg(vcpu, register)}
    yield {"section": "initialised", "init": vcpu.init(PSCI)}
    yield from state(vcpu)
    yield from odd_ids(vcpu)
    yield from pending_abort(vcpu)
    vcpu.close()
    yield {"section": "scans"}
    yield from scans(backend)


# ---------------------------------------------------------------------------------------------- the recording


def record(backend: Backend) -> Iterator[dict[str, Any]]:
    """Every line but the header."""
    for name, features in (*FEATURES.items(), ("all", everything(backend))):
        yield from section(backend, name, features)
    yield from implementation(backend)
    yield from with_vgic(backend)
    yield from bad_input(backend)


def everything(backend: Backend) -> int:
    """All features that have registers, as far as the host has them."""
    vcpu = Vcpu(backend)
    found = PSCI
    for cap, features in OF_CAPABILITIES.items():
        if backend.ioctl(vcpu.system, abi.KVM_CHECK_EXTENSION, cap) > 0:
            found |= features
    vcpu.close()
    return found


def host_registers(lines: Sequence[dict[str, Any]]) -> dict[str, str]:
    """What a vCPU with every feature has by way of identification: the host's own values, as far as KVM shows them."""
    found, section_name = {}, ""
    for line in lines:
        section_name = line.get("section", section_name)
        is_register = section_name == "all" and "id" in line and line.get("value", "0x0") != "0x0"
        if is_register and is_of_host(int(line["id"], 16)):
            found[line["id"]] = line["value"]
    return found


def is_of_host(register: int) -> bool:
    """Whether a register's reset value is the host's."""
    classes = (FIRMWARE, DEMUX)
    kinds = register & ~0xFFFF in classes and register != FIRMWARE
    return kinds or is_identification(register) or register in {VECTOR_LENGTHS, *OTHERS_OF_HOST}


# ACTLR_EL1, AMAIR_EL1, PMCR_EL0, PMCEID0_EL0, PMCEID1_EL0, CNTFRQ_EL0.
OTHERS_OF_HOST: Final = tuple(SYSTEM | number for number in (0xC081, 0xC518, 0xDCE0, 0xDCE6, 0xDCE7, 0xDF00))


def main(path: str, header_text: str) -> None:
    """Ask, and write the recording."""
    with kvmipa.open("native") as kvm:
        profile = kvmipa.HostProfile.of(kvm)
    lines = list(record(NativeBackend()))
    header = {
        "kvmipa_registers": FORMAT,
        "release": platform.release(),
        "kernel": platform.version(),
        **json.loads(header_text),
        "profile": profile_as_json(profile),
        "registers": host_registers(lines),
    }
    text = json_lines.text((header, *lines), separators=(",", ":"))
    Path(path).write_bytes(gzip.compress(text.encode(), mtime=0))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
