# SPDX-License-Identifier: Apache-2.0
"""What real kernels did with a guest's accesses (tests/data/accesses, by ci.lab.access_recorder), and the emulation."""

from __future__ import annotations

import ctypes
import errno
import json
import mmap
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

import kvmipa
from kvmipa.abi import KVM_CAP_ARM_NISV_TO_USER, KVM_MEM_READONLY
from kvmipa.access import Aborted, Mapped, MmioExit, NisvExit, Retried, RunFailed
from kvmipa.recording import profile_from_json

if TYPE_CHECKING:
    from collections.abc import Iterator

    from kvmipa import Vm
    from kvmipa.access import Result

RECORDINGS = sorted((Path(__file__).parent / "data" / "accesses").glob("*.jsonl"))

# The memory of the recorder's guests.
SLOT_SIZE = 0x10000
CODE, RAM, READONLY, NO_MAPPING, NO_PERMISSION = 0x10000, 0x4000_0000, 0x5000_0000, 0x6000_0000, 0x7000_0000


@dataclass
class HostMemory:
    """What the slots of a VM are backed with; the process has nothing at address 0."""

    maps: list[mmap.mmap]

    def slot(self, *, accessible: bool = True) -> int:
        """The address of as much memory as a slot has."""
        area = mmap.mmap(-1, 2 * SLOT_SIZE)
        self.maps.append(area)
        start = ctypes.addressof(ctypes.c_char.from_buffer(area))
        address = -(-start // SLOT_SIZE) * SLOT_SIZE
        if not accessible:
            libc = ctypes.CDLL(None)
            libc.mprotect.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
            assert libc.mprotect(address, SLOT_SIZE, 0) == 0
        return address


@lru_cache(maxsize=1)
def host_addresses() -> tuple[list[int], HostMemory]:
    memory = HostMemory([])
    return [memory.slot() for _ in range(4)] + [memory.slot(accessible=False)], memory


def add_slots(vm: Vm) -> None:
    addresses, _ = host_addresses()
    top = (1 << vm.ipa_bits) - SLOT_SIZE
    for slot, (gpa, address, flags) in enumerate(
        (
            (CODE, addresses[0], 0),
            (RAM, addresses[1], 0),
            (READONLY, addresses[2], KVM_MEM_READONLY),
            (top, addresses[3], 0),
            (NO_MAPPING, 0, 0),
            (NO_PERMISSION, addresses[4], 0),
        )
    ):
        vm.set_user_memory_region(slot, gpa, SLOT_SIZE, address, flags)


def as_recorded(result: Result) -> list[Any]:
    """A result in the recorder's words."""
    if isinstance(result, Mapped):
        return ["mapped"]
    if isinstance(result, MmioExit):
        return ["mmio", hex(result.phys_addr), result.size, result.is_write]
    if isinstance(result, NisvExit):
        return ["nisv", hex(result.esr_iss), hex(result.fault_ipa)]
    if isinstance(result, RunFailed):
        return ["failed", errno.errorcode[result.errno]]
    if isinstance(result, Aborted):
        return ["aborted", hex(result.esr_el1), hex(result.far_el1)]
    assert isinstance(result, Retried)
    return ["hangs"]


def replayed(lines: list[dict[str, Any]], profile: kvmipa.HostProfile) -> Iterator[tuple[dict[str, Any], list[Any]]]:
    """Each recorded access, with what the emulation makes of it."""
    with kvmipa.open("emulated", host=profile) as kvm:
        for ipa_bits in sorted({line["ipa_bits"] for line in lines}):
            with kvm.create_vm_raw(ipa_bits) as vm:
                add_slots(vm)
                asked = [line for line in lines if line["ipa_bits"] == ipa_bits]
                for line in sorted(asked, key=lambda line: line.get("nisv", False)):
                    if line.get("nisv"):
                        vm.enable_cap(KVM_CAP_ARM_NISV_TO_USER)
                    access = {name: line[name] for name in line.keys() - {"ipa_bits", "nisv", "result"}}
                    yield line, as_recorded(vm.access(**access))


def test_there_are_recordings_of_every_release() -> None:
    assert {path.name.split("__")[0] for path in RECORDINGS} >= {"5.10", "6.1", "6.12", "6.12-16k", "7.3", "7.3-16k"}


@pytest.mark.parametrize("path", RECORDINGS, ids=lambda path: path.stem)
def test_the_emulation_does_what_the_real_kernel_did(path: Path) -> None:
    header, *lines = map(json.loads, path.read_text().splitlines())
    assert len(lines) > 100
    different = [
        (line, found)
        for line, found in replayed(lines, profile_from_json(header["profile"]))
        if found != line["result"]
    ]
    assert not different, f"{len(different)} of {len(lines)}, the first: {different[0]}"
