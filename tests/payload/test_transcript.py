# SPDX-License-Identifier: Apache-2.0
"""Transcripts as JSON lines: nothing of the run is lost, nothing of the process gets in."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from kvmipa.payload import Transcript, transcript
from kvmipa.payload.program import UPPER_HALF, Command
from kvmipa.payload.steps import Step
from kvmipa.payload.transcript import Outcome, TakenException

if TYPE_CHECKING:
    from pathlib import Path

LDR = Command("ldr", (0, 0x8000_0000))


def test_a_file_is_read_as_it_was_written(tmp_path: Path) -> None:
    outcomes = (
        Outcome(Step(LDR), (("mmio-load", 0x8000_0000, 8),), values=(0x12,)),
        Outcome(Step(Command("str"), nisv=True), (("nisv", 0x45, 0x1000), ("failed", "ENOSYS"))),
    )
    told = [Transcript(32, outcomes, ("system_event", 1, 0)), Transcript(40, outcomes[:1], ("system_event", 1))]
    path = tmp_path / "one.jsonl.gz"
    transcript.write(path, {"release": "6.12"}, told)
    header, found = transcript.read(path)
    assert header == {"kvmipa_transcript": 1, "release": "6.12"}
    assert found == {one.ipa_bits: list(one.lines()) for one in told}
    assert found[32][1]["exits"] == [["nisv", "0x45", "0x1000"], ["failed", "ENOSYS"]]
    assert found[40][-1] == {"ipa_bits": 40, "end": ["system_event", "0x1"]}


def test_the_same_transcript_is_the_same_file(tmp_path: Path) -> None:
    paths = [tmp_path / "one.jsonl.gz", tmp_path / "other.jsonl.gz"]
    for path in paths:
        transcript.write(path, {}, [Transcript(32, (Outcome(Step(LDR)),), ("system_event", 1))])
    assert paths[0].read_bytes() == paths[1].read_bytes()
    assert paths[0].read_bytes()[4:8] == bytes(4), "RFC 1952: the time"


def test_another_format_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "one.jsonl.gz"
    transcript.write(path, {"kvmipa_transcript": 2}, [])
    with pytest.raises(ValueError, match="not a kvmipa transcript of format 1"):
        transcript.read(path)


@pytest.mark.parametrize(("half", "base"), [("off", 0), ("lower", 0), ("upper", UPPER_HALF)])
def test_where_an_exception_was_taken_is_told_from_the_instruction_on(half: str, base: int) -> None:
    taken = TakenException(4, 0x9600_0010, 0x1234, base + LDR.address, 0x3C5)
    line = Outcome(Step(LDR, half), exception=taken).as_json()
    assert line["exception"] == {
        "vector": 4,
        "esr": "0x96000010",
        "spsr": "0x3c5",
        "far": "0x1234",
        "elr": "instruction+0",
    }


def test_a_fetch_is_taken_where_it_was_from() -> None:
    taken = TakenException(4, 0x8600_0010, 0x8000_0000, 0x8000_0000, 0x3C5)
    assert Outcome(Step(LDR), exception=taken).as_json()["exception"]["elr"] == "0x80000000"


@pytest.mark.parametrize(("esr", "known"), [(0x5600_0009, False), (0xF200_0007, False), (0xFFFF_FFFF_9600_0010, True)])
def test_far_is_told_where_it_means_something(esr: int, known: bool) -> None:
    line = Outcome(Step(LDR), exception=TakenException(4, esr, 0x1234, 0, 0)).as_json()
    assert ("far" in line["exception"]) == known


def test_differences_are_pairs_of_lines_also_where_one_ends_first() -> None:
    one, other = [{"step": 0}, {"step": 1}, {"step": 2}], [{"step": 0}, {"step": 9}]
    assert list(transcript.differences(one, other)) == [({"step": 1}, {"step": 9}), ({"step": 2}, None)]
