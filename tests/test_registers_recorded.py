# SPDX-License-Identifier: Apache-2.0
"""Registers and state of vCPUs of real kernels, asked of the emulation of the same host: no difference is allowed."""

from __future__ import annotations

import gzip
import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from ci.lab import register_recorder
from kvmipa import HostProfile, json_lines
from kvmipa.backend.emulated import EmulatedBackend
from kvmipa.recording import profile_from_json

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="registers are recorded on Linux")

RECORDINGS = sorted((Path(__file__).parent / "data" / "registers").glob("*.jsonl.gz"))

# Each release, the CPUs that differ most, other pages and pKVM.
COVERED = {
    *(f"{kernel}__{cpu}" for kernel in ("5.10", "6.1", "6.12", "7.3") for cpu in ("cortex-a53", "cortex-a57", "max")),
    *("6.12-16k__max", "7.3-16k__max", "6.12__max__protected"),
}
SECTIONS = {*register_recorder.FEATURES, "all", "implementation", "not initialised", "initialised", "scans"}


def name_of(path: object) -> str:
    """A recording's name; pytest asks it of its own placeholder too, where there are no recordings."""
    return path.name.partition(".jsonl")[0] if isinstance(path, Path) else "none"


def read(path: Path) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    lines = gzip.decompress(path.read_bytes()).decode().splitlines()
    header, rest = json_lines.read(lines, "kvmipa_registers", register_recorder.FORMAT)
    return header, list(rest)


def host_of(header: dict[str, Any]) -> HostProfile:
    """The recorded host, with the registers that say what its CPU is."""
    registers = {int(register, 16): int(value, 16) for register, value in header["registers"].items()}
    return replace(profile_from_json(header["profile"]), registers=registers)


def differences(lines: list[dict[str, Any]], backend: EmulatedBackend) -> Iterator[tuple[str, Any, Any]]:
    """Where the emulation says something else: the section, and both lines."""
    section = ""
    answers = register_recorder.record(backend)
    for line, answer in zip(lines, answers, strict=True):
        section = line.get("section", section)
        now = json.loads(json.dumps(answer))
        if now != line:
            yield section, line, now


@pytest.mark.parametrize("path", RECORDINGS, ids=name_of)
def test_emulation_has_the_registers_and_state_of_the_real_kernel(path: Path) -> None:
    header, lines = read(path)
    assert list(differences(lines, EmulatedBackend(host_of(header)))) == []


def test_recordings_cover_each_release_and_kind_of_host() -> None:
    assert {name_of(path) for path in RECORDINGS} >= COVERED


@pytest.mark.parametrize("path", RECORDINGS, ids=name_of)
def test_recording_has_every_section(path: Path) -> None:
    assert {line["section"] for line in read(path)[1] if "section" in line} >= SECTIONS
