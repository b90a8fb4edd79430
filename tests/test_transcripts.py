# SPDX-License-Identifier: Apache-2.0
"""The guest conformance program on real kernels (recorded by ci.lab.transcript_recorder) and on the emulation."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import kvmipa
from kvmipa.payload import run_payload, transcript
from kvmipa.recording import profile_from_json
from tests.guests import require_engine

RECORDINGS = sorted((Path(__file__).parent / "data" / "transcripts").glob("*.jsonl.gz"))


def test_there_are_transcripts_of_every_release() -> None:
    assert {path.name.split("__")[0] for path in RECORDINGS} >= {"5.10", "6.1", "6.12", "6.12-16k", "7.3", "7.3-16k"}


@pytest.mark.parametrize("path", RECORDINGS, ids=lambda path: path.name.partition(".jsonl")[0])
def test_a_transcript_goes_on_to_system_off(path: Path) -> None:
    _, recorded = transcript.read(path)
    assert {32, 40} <= set(recorded)
    for lines in recorded.values():
        assert lines[-1]["end"][:2] == ["system_event", "0x1"]
        assert len(lines) > 400


@pytest.mark.parametrize("path", RECORDINGS, ids=lambda path: path.name.partition(".jsonl")[0])
def test_the_emulation_does_what_the_real_kernel_did(path: Path) -> None:
    """To the last bit. Of cache maintenance that is no evidence: it has no effect in QEMU, and none in Unicorn."""
    require_engine()
    header, recorded = transcript.read(path)
    found: list[tuple[Any, Any]] = []
    with kvmipa.open("emulated", host=profile_from_json(header["profile"])) as kvm:
        for ipa_bits, lines in recorded.items():
            found += transcript.differences(lines, run_payload(kvm, ipa_bits).lines())
    assert not found, f"{len(found)} differences, the first: {found[0]}"
