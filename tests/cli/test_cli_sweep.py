# SPDX-License-Identifier: Apache-2.0
"""``kvmipa sweep``."""

from __future__ import annotations

import io
import sys
from typing import TYPE_CHECKING

import pytest

from kvmipa import Kvm

if TYPE_CHECKING:
    from tests.cli.conftest import Command


def low_types(kvmipa: Command, host: str) -> list[tuple[int, int, str]]:
    """(first, last, answer) of the types below 0x200."""
    runs = kvmipa("--json", "--host", host, "sweep").json["runs"]
    return [(run["first"], run["last"], run["result"]) for run in runs if run["what"] == "type"]


def test_runs_are_shown_in_a_table(kvmipa: Command) -> None:
    shown = kvmipa("--host", "middle", "sweep")
    assert (shown.status, shown.err) == (0, "")
    assert shown.out.splitlines() == [
        "EMULATED  middle: Linux 6.12, 4K pages, mode vhe",
        "what               from   to     answer  meaning",
        "type               0x0           ok      the default, 40 bits",
        "type               0x1    0x1f   EINVAL  the size is below 32 bits",
        "type               0x20   0x2c   ok      the IPA size, from 32 to 44 bits",
        "type               0x2d   0xff   EINVAL  the size is above the host's IPA limit",
        "type               0x100  0x1ff  EINVAL  bits are set that the kernel gives no meaning",
        "bit                8      30     EINVAL  bits are set that the kernel gives no meaning",
        "bit                31            EINVAL  a protected VM needs pKVM on Linux 7.x",
        "bit                32     63     EINVAL  bits are set that the kernel gives no meaning",
        "bit, with 40 bits  8      30     EINVAL  bits are set that the kernel gives no meaning",
        "bit, with 40 bits  31            EINVAL  a protected VM needs pKVM on Linux 7.x",
        "bit, with 40 bits  32     63     EINVAL  bits are set that the kernel gives no meaning",
    ]


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("wide", [(0, 0, "ok"), (1, 31, "EINVAL"), (32, 52, "ok"), (53, 255, "EINVAL"), (256, 511, "EINVAL")]),
        ("narrow", [(0, 0, "EINVAL"), (1, 31, "EINVAL"), (32, 36, "ok"), (37, 255, "EINVAL"), (256, 511, "EINVAL")]),
        ("old", [(0, 0, "ok"), (1, 511, "EINVAL")]),
    ],
)
def test_every_type_is_tried(kvmipa: Command, host: str, expected: list[tuple[int, int, str]]) -> None:
    assert low_types(kvmipa, host) == expected


def test_pkvm_host_accepts_every_low_byte(kvmipa: Command) -> None:
    runs = low_types(kvmipa, "pkvm")
    assert {answer for first, _, answer in runs if first < 256} == {"ok"}
    assert runs[-1] == (256, 511, "EINVAL")


@pytest.mark.parametrize(("host", "good"), [("wide", 40), ("narrow", 36), ("old", 40)])
def test_high_bits_are_tried_with_a_size_that_would_be_good(kvmipa: Command, host: str, good: int) -> None:
    names = {run["what"] for run in kvmipa("--json", "--host", host, "sweep").json["runs"]}
    assert names == {"type", "bit", f"bit, with {good} bits"}


def test_high_bit_is_refused_for_itself_where_its_size_is_good(kvmipa: Command) -> None:
    runs = kvmipa("--json", "--host", "narrow", "sweep").json["runs"]
    assert {run["what"]: run["meaning"] for run in runs if run["first"] == 31} == {
        "bit": "type 0 means 40 bits, and the host's IPA limit is below that",
        "bit, with 36 bits": "a protected VM needs pKVM on Linux 7.x",
    }


def test_runs_have_no_gap(kvmipa: Command) -> None:
    runs = kvmipa("--json", "--host", "narrow", "sweep").json["runs"]
    for what, first, last in (("type", 0, 511), ("bit", 8, 63), ("bit, with 36 bits", 8, 63)):
        covered = [n for run in runs if run["what"] == what for n in range(run["first"], run["last"] + 1)]
        assert covered == list(range(first, last + 1))


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_progress_is_shown_on_a_terminal_and_removed(kvmipa: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    assert kvmipa("--json", "--host", "middle", "sweep").json["command"] == "sweep"
    assert "machine types: 16 of 512" in terminal.getvalue()
    assert "machine types: 512 of 512" in terminal.getvalue()
    assert terminal.getvalue().endswith("\r\033[K")


def test_progress_is_removed_when_interrupted(kvmipa: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    probe = Kvm.probe_machine_types

    def interrupted(kvm: Kvm, types: list[int]) -> list[int]:
        if 64 in types:
            raise KeyboardInterrupt
        return probe(kvm, types)

    monkeypatch.setattr(Kvm, "probe_machine_types", interrupted)
    assert kvmipa("--host", "middle", "sweep").status == 130
    assert terminal.getvalue().endswith("machine types: 64 of 512\r\033[Kkvmipa: interrupted\n")
