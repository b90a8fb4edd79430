# SPDX-License-Identifier: Apache-2.0
"""The lab's recordings of registers: what of them counts, and what is taken for the host's."""

from __future__ import annotations

import gzip
import json
from typing import TYPE_CHECKING, Any

import pytest

from ci.lab.kinds import KINDS, REGISTERS, lines
from ci.lab.register_recorder import CORE, DEMUX, FIRMWARE, SYSTEM, host_registers, is_of_host, runs

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


def set_release(recording: list[Any]) -> None:
    recording[0]["release"] = "9"


def set_host(recording: list[Any]) -> None:
    recording[0]["registers"]["0x603000000013c000"] = "0x9"


def set_line(recording: list[Any]) -> None:
    recording[2]["list"].pop()


def drop_line(recording: list[Any]) -> None:
    recording.pop()


@pytest.mark.parametrize(("change", "count"), [(set_release, 0), (set_host, 1), (set_line, 1), (drop_line, 1)])
def test_what_a_kernel_answered_counts(change: Callable[[list[Any]], None], count: int, tmp_path: Path) -> None:
    old = REGISTERS.directory / "6.12__max.jsonl.gz"
    recording = [json.loads(line) for line in lines(old)]
    change(recording)
    new = tmp_path / old.name
    new.write_bytes(gzip.compress("\n".join(map(json.dumps, recording)).encode()))
    assert len(REGISTERS.differences(old, new)) == count
    assert REGISTERS in KINDS


@pytest.mark.parametrize(
    ("register", "of_host"),
    [
        (SYSTEM | 0xC000, True),  # MIDR_EL1
        (SYSTEM | 0xC038, True),  # ID_AA64MMFR0_EL1
        (SYSTEM | 0xD801, True),  # CTR_EL0
        (SYSTEM | 0xDCE0, True),  # PMCR_EL0
        (FIRMWARE | 1, True),
        (DEMUX, True),
        (FIRMWARE, False),  # PSCI's version
        (SYSTEM | 0xC080, False),  # SCTLR_EL1
        (SYSTEM | 0xD000, False),
        (CORE, False),
    ],
)
def test_registers_of_the_host(register: int, of_host: bool) -> None:
    assert is_of_host(register) == of_host


def test_host_is_what_a_vcpu_with_every_feature_sees() -> None:
    midr = hex(SYSTEM | 0xC000)
    found = host_registers(
        [
            {"section": "psci"},
            {"id": midr, "value": "0x1"},
            {"section": "all"},
            {"id": midr, "value": "0x2"},
            {"id": hex(SYSTEM | 0xC006), "value": "0x0"},
            {"section": "implementation"},
            {"id": midr, "value": "0x3"},
        ]
    )
    assert found == {midr: "0x2"}


def test_scan_is_put_together() -> None:
    assert runs([(4, 0), (5, 0), (6, "EINVAL"), (7, 0)]) == [["0x4", 2, 0], ["0x6", 1, "EINVAL"], ["0x7", 1, 0]]
