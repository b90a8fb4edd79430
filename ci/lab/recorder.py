# SPDX-License-Identifier: Apache-2.0
"""What is asked of every real kernel; runs in the guest: ``python3 -m ci.lab.recorder FILE HEADER``.

HEADER is a JSON object of what only the outside knows: the CPU model, the kernel's package, the emulator.
"""

from __future__ import annotations

import json
import platform
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import kvmipa
from kvmipa.backend.native import NativeBackend
from kvmipa.recording import FORMAT, Observation, Recording, profile_as_json, record

if TYPE_CHECKING:
    from collections.abc import Iterator

CAPABILITIES = range(301)
LOW_TYPES = range(0x200)
U64_MAX = (1 << 64) - 1
PROTECTED = 1 << 31

# Neither the generic nor the arm64 part of KVM knows these on the descriptor that they are sent to.
UNKNOWN_ON_SYSTEM = ("0xae05", "0xae09", "0xae40", "0xae41", "0xae80", "0xaeff", "0x4020ae46", "0x0", "0xffffffff")
UNKNOWN_ON_VM = ("KVM_GET_API_VERSION", "KVM_CREATE_VM", "KVM_GET_VCPU_MMAP_SIZE", "0xae80", "0xaeff", "0x0")
TRACE = ("KVM_TRACE_ENABLE", "KVM_TRACE_PAUSE", "KVM_TRACE_DISABLE")


def questions(limit: int) -> Iterator[Observation]:
    """Everything that is asked of a host with this IPA limit."""
    yield from system_questions()
    for cap in (*CAPABILITIES, 1 << 31, 165 | 1 << 32, 1 << 63, U64_MAX):
        yield Observation("KVM_CHECK_EXTENSION", cap)
    for machine_type in machine_types(limit):
        yield Observation("KVM_CREATE_VM", machine_type)
    for machine_type in (0, 1, 40, min(limit, 44), limit + 1, 1 << 32):
        yield Observation("KVM_CREATE_VM", machine_type, no_descriptor=True)
    yield from vm_questions(limit)


def system_questions() -> Iterator[Observation]:
    """Requests without a VM, known and unknown."""
    for ioctl in ("KVM_GET_API_VERSION", "KVM_GET_VCPU_MMAP_SIZE"):
        for argument in (0, 1, 1 << 32, U64_MAX):
            yield Observation(ioctl, argument)
    for ioctl in (*UNKNOWN_ON_SYSTEM, *TRACE):
        yield Observation(ioctl)


def machine_types(limit: int) -> Iterator[int]:
    """Every low type, each higher bit alone and with a good size, and the ones that mistakes make.

    Good sizes are small: on 7.3 the close of a VM takes time that doubles with each bit.
    """
    good = min(limit, 40)
    yield from LOW_TYPES
    for bit in range(8, 64):
        yield 1 << bit
        yield 1 << bit | good
    yield from (PROTECTED | 31, PROTECTED | limit, PROTECTED | limit + 1, PROTECTED | 0xFF)
    yield from (0xFFFF_FFFF, U64_MAX, U64_MAX ^ 0xFF, 0xFFFF_FFFF_8000_0028, 1 << 32 | limit, 0x8000_0100 | good)


def vm_questions(limit: int) -> Iterator[Observation]:
    """Requests on the smallest VM and, all capabilities, on one of 40 bits or the limit."""
    for cap in CAPABILITIES:
        yield Observation("KVM_CHECK_EXTENSION", cap, machine_type=min(limit, 40))
    yield Observation("KVM_CHECK_EXTENSION", 165, machine_type=32)
    for ioctl in UNKNOWN_ON_VM:
        yield Observation(ioctl, machine_type=32)


def main(path: str, header_text: str) -> None:
    """Ask, and write the recording."""
    with kvmipa.open("native") as kvm:
        profile = kvmipa.HostProfile.of(kvm)
        limit = kvm.host_ipa_limit or 40
    header = {
        "kvmipa_recording": FORMAT,
        "release": platform.release(),
        "kernel": platform.version(),
        **json.loads(header_text),
        "profile": profile_as_json(profile),
    }
    with Path(path).open("w") as file:
        Recording(header, tuple(record(NativeBackend(), questions(limit)))).write(file)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
