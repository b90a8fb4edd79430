# SPDX-License-Identifier: Apache-2.0
"""What is made of the run area: one class for each kind of exit."""

from __future__ import annotations

from struct import pack
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvmipa import (
    ArmSea,
    Debug,
    DirtyRingFull,
    FailEntry,
    Hypercall,
    InternalError,
    LdSt64b,
    MemoryFault,
    Mmio,
    Nisv,
    SystemEvent,
    SystemEventType,
    Unknown,
    abi,
    exit_decoding,
    run_area,
)

if TYPE_CHECKING:
    from kvmipa import Exit

# Where the kernel puts the union and the flags (kernel-device-spec 7), and what an earlier exit left there.
UNION, FLAGS = 32, 14
STALE = 0xA5


def area(content: bytes, flags: int = 0) -> memoryview:
    """A run area whose union begins with this."""
    memory = bytearray([STALE]) * 0x2000
    memory[FLAGS : FLAGS + 2] = flags.to_bytes(2, "little")
    memory[UNION : UNION + len(content)] = content
    return memoryview(memory)


CASES = [
    (3, pack("<Q6QQQ", 0xC400_0000, *[0] * 6, 0, 1), 0, Hypercall(0xC400_0000, 1)),
    (4, pack("<IIQ", 0xF200_0003, 9, 8), 0, Debug(0xF200_0003, None)),
    (4, pack("<IIQ", 0xF200_0003, 9, 8), 1, Debug(0x9_F200_0003, None)),
    (4, pack("<IIQ", 0x34 << 26, 0, 0x1234), 1, Debug(0x34 << 26, 0x1234)),
    (6, pack("<Q8sIB", 0x900_0000, b"\x41", 1, 1), 0, Mmio(0x900_0000, 1, is_write=True, value=0x41)),
    (6, pack("<Q8sIB", 1 << 51, b"", 8, 0), 0, Mmio(1 << 51, 8)),
    (9, pack("<QI", 1, 3), 0, FailEntry(1, 3)),
    (17, pack("<II2Q", 4, 2, 7, 8), 0, InternalError(4, (7, 8))),
    (24, pack("<IIQ", 2, 1, 1), 0, SystemEvent(SystemEventType.RESET, (1,))),
    # Before Linux 5.19: u32 type, u64 flags.
    (24, pack("<IIQ", 1, 0, 0), 0, SystemEvent(SystemEventType.SHUTDOWN)),
    (24, pack("<II", 99, 0), 0, SystemEvent(99)),
    (28, pack("<QQ", 0x1F, 0x1000), 0, Nisv(0x1F, 0x1000)),
    (31, b"", 0, DirtyRingFull()),
    (39, pack("<QQQ", 8, 0x1000, 0x2000), 0, MemoryFault(8, 0x1000, 0x2000)),
    (41, pack("<QQQQ", 1, 2, 3, 4), 0, ArmSea(2, 3, 4)),
    (41, pack("<QQQQ", 0, 2, 3, 4), 0, ArmSea(2, 3, None)),
    (42, pack("<QQ", 0x1F, 0x1000), 0, LdSt64b(0x1F, 0x1000)),
    (12, b"", 0, Unknown(12)),
]


@pytest.mark.parametrize(("reason", "content", "flags", "expected"), CASES, ids=[str(case[3]) for case in CASES])
def test_exit_of_a_run_area(reason: int, content: bytes, flags: int, expected: Exit) -> None:
    found = exit_decoding.decode(reason, area(content, flags))
    assert found == expected
    assert type(found) is type(expected)
    assert hash(found) == hash(expected)


def test_every_reason_that_has_a_name_has_a_class() -> None:
    # KVM_RUN fails with EINTR where it says INTR, and what it says by UNKNOWN is no exit of arm64's.
    no_exits = {abi.KVM_EXIT_UNKNOWN, abi.KVM_EXIT_INTR}
    named = {value for name, value in vars(abi).items() if name.startswith("KVM_EXIT_") and "_FLAG_" not in name}
    assert named - no_exits == set(exit_decoding.DECODERS)


def test_offsets_are_the_kernels() -> None:
    assert (run_area.IMMEDIATE_EXIT, run_area.EXIT_REASON, run_area.FLAGS, run_area.EXIT) == (1, 8, 14, 32)
    assert (run_area.MMIO_DATA, run_area.MMIO_LEN) == (40, 48)


def test_counts_of_more_data_than_there_is() -> None:
    found = exit_decoding.decode(24, area(pack("<II16Q", 1, 999, *range(16))))
    assert found == SystemEvent(1, tuple(range(16)))


@given(st.sampled_from([1, 2, 4, 8]), st.binary(min_size=8, max_size=8), st.integers(0, 2**64 - 1))
def test_stored_value_is_of_the_bytes_that_were_stored(size: int, data: bytes, address: int) -> None:
    # What makes KVM_RUN has cleared the other bytes.
    exit = exit_decoding.decode(6, area(pack("<Q8sIB", address, data[:size], size, 1)))
    assert isinstance(exit, Mmio)
    assert (exit.phys_addr, exit.size, exit.data) == (address, size, data[:size])
    assert exit.value == int.from_bytes(data[:size], "little")
