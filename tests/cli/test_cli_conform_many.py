# SPDX-License-Identifier: Apache-2.0
"""``kvmipa conform`` with several hosts."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from kvmipa.conformance import many as running
from kvmipa.conformance.many import ManyRuns
from kvmipa.conformance.saved import read_report
from tests.conformance.sample_reports import NAMES, report
from tests.conformance.working import work

if TYPE_CHECKING:
    from tests.cli.conftest import Command

TWO = "wide,middle"


def test_a_list_of_hosts_is_run_and_summarised(kvmipa: Command) -> None:
    shown = kvmipa("--host", f"{TWO},old,off", "conform", "--claim", "C1", "--jobs", "1")
    assert (shown.status, shown.err) == (0, "")
    assert shown.out.startswith("EMULATED  4 hosts")
    assert "NO KVM  off: kvm-arm.mode=none" in shown.out
    assert "0 of 4 hosts fail, 1 without KVM; 3 checks passed, 0 failed, 0 skipped" in shown.out


def test_reports_and_the_matrix_are_written(kvmipa: Command, tmp_path: Path) -> None:
    page = tmp_path / "all.html"
    words = ("--claim", "C1", "--jobs", "1", "--report", str(tmp_path / "dir"), "--html", str(page))
    assert kvmipa("--host", TWO, "conform", *words).status == 0
    assert sorted(file.name for file in (tmp_path / "dir").iterdir()) == ["middle.json", "wide.json"]
    assert read_report(str(tmp_path / "dir" / "wide.json")).machine.host == "wide"
    assert "middle" in page.read_text(encoding="utf-8")
    # They are what the comparison takes.
    assert kvmipa("report", "compare", str(tmp_path / "dir")).status == 1


def test_json_has_every_report(kvmipa: Command) -> None:
    found = kvmipa("--json", "--host", f"{TWO},off", "conform", "--claim", "C1", "--jobs", "1").json
    assert [host["outcome"] for host in found["hosts"]] == ["conforms", "conforms", "no KVM"]
    assert found["hosts"][0]["report"]["results"][0]["id"] == "C1"
    assert found["hosts"][2]["why"] == "KVM does not start: kvm-arm.mode=none"
    assert found["conforms"] is True


@pytest.mark.parametrize("words", [("--report", "{}/file/dir"), ("--html", "{}/file/page.html")])
def test_what_cannot_be_written_is_said_once_and_nothing_is_lost(
    words: tuple[str, str], kvmipa: Command, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("")
    shown = kvmipa("--host", TWO, "conform", "--claim", "C1", "--jobs", "1", words[0], words[1].format(tmp_path))
    assert shown.status == 5
    assert "0 of 2 hosts fail" in shown.out
    assert shown.err.count("cannot write") == 1
    assert shown.err.count("warning") == 1


def test_a_full_standard_output_loses_nothing(tmp_path: Path) -> None:
    words = ("--host", "apple-m1,raspberry-pi-4", "conform", "--claim", "C1", "--jobs", "1", "--report", str(tmp_path))
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "kvmipa", *words], stdout=full, stderr=subprocess.PIPE, text=True, check=False
        )
    assert done.returncode == 5
    assert done.stderr.startswith("kvmipa: standard output: No space left on device\nEMULATED  2 hosts")
    assert sorted(file.name for file in tmp_path.iterdir()) == ["apple-m1.json", "raspberry-pi-4.json"]


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (("--host", "wide,midle", "conform"), "near: middle"),
        (("--host", "wide,middle@9.9", "conform"), "kernel release '9.9'"),
        (("--host", "wide,", "conform"), "no host preset ''"),
        (("--host", TWO, "conform", "--jobs", "0"), "jobs"),
        (("--host", TWO, "conform", "--jobs", "two"), "invalid int"),
        (("--host", TWO, "conform", "--ktap"), "--ktap"),
        (("--host", TWO, "conform", "--html"), "name a FILE"),
    ],
)
def test_wrong_usage(words: tuple[str, ...], why: str, kvmipa: Command) -> None:
    shown = kvmipa(*words)
    assert (shown.status, shown.out) == (2, "")
    assert why in shown.err


def test_a_failure_is_told_once_and_is_the_exit_status(kvmipa: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    made = report(failed=NAMES[1])
    runs = tuple(running.HostRun(name, made) for name in ("wide", "middle"))
    monkeypatch.setattr(running, "run_many", lambda *_, **__: ManyRuns(runs, 0.1, 1))
    shown = kvmipa("--host", TWO, "conform")
    assert shown.status == 1
    assert shown.out.count("FAIL  C2") == 1
    assert "on 2 of 2: wide, middle" in shown.out


def test_ctrl_c_shows_and_saves_what_has_come(kvmipa: Command, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    run = running.HostRun("wide", work("passes", None).report)
    monkeypatch.setattr(running, "run_many", lambda *_, **__: ManyRuns((run,), 0.1, 1, missing=("middle",)))
    shown = kvmipa("--host", TWO, "conform", "--report", str(tmp_path))
    assert shown.status == 130
    assert "INCOMPLETE: interrupted; 1 hosts" in shown.out
    assert [file.name for file in tmp_path.iterdir()] == ["wide.json"]
