# SPDX-License-Identifier: Apache-2.0
"""kvmipa conform: which claims are checked, where the reports go, and what the exit status says."""

from __future__ import annotations

import errno
import io
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from kvmipa.backend import native
from kvmipa.cli import files
from kvmipa.conformance import claims as all_claims
from kvmipa.conformance.claim import IMPLEMENTATION, Claim
from kvmipa.conformance.results import Report
from tests.requirements import need

if TYPE_CHECKING:
    from collections.abc import Callable

    from kvmipa.conformance.target import Target
    from tests.cli.conftest import Command

BOARD = ("--host", "middle", "conform")


def passes(on: Target) -> None:
    on.expect("the limit", 44, on.kvm.host_ipa_limit)


def fails(on: Target) -> None:
    on.kvm.probe_machine_types([33])
    on.expect("KVM_CREATE_VM(33)", "EPERM", "ok")


def skips(on: Target) -> None:
    on.skip("there is no reason")


def interrupts(on: Target) -> None:
    raise KeyboardInterrupt


def claim(number: int, name: str, check: Callable[[Target], None], **options: Any) -> Claim:
    text = "Something holds, " * 9 + "always."
    return Claim(f"C{number}", name, text, "api.rst 4.2", "It is asked.", check, since="4.19", **options)


PASSES = claim(1, "system.limit", passes)
FAILS = claim(5, "machine_type.valid_sizes", fails, rests_on=("C1",))
SKIPS = claim(6, "machine_type.default", skips, kind=IMPLEMENTATION)
GUEST = claim(9, "guest.reach", passes, guest=True)
INTERRUPTS = claim(10, "guest.interrupted", interrupts, guest=True)


@pytest.fixture
def have(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Let these be the claims that there are."""
    return lambda *claims: monkeypatch.setattr(all_claims, "CLAIMS", claims)


@pytest.fixture(autouse=True)
def several(have: Callable[..., None]) -> None:
    have(PASSES, FAILS, SKIPS, GUEST)


def names(shown: Any) -> list[str]:
    return [result["name"] for result in shown.json["results"]]


# ------------------------------------------------------------------------------------------------ which claims


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ((), ["system.limit", "machine_type.valid_sizes", "machine_type.default", "guest.reach"]),
        (("--claim", "C5"), ["machine_type.valid_sizes"]),
        (("--claim", "c5"), ["machine_type.valid_sizes"]),
        (("--claim", "machine_type."), ["machine_type.valid_sizes", "machine_type.default"]),
        (("--claim", "machine_type"), ["machine_type.valid_sizes", "machine_type.default"]),
        (("--claim", "guest.reach", "C1"), ["system.limit", "guest.reach"]),
        (("--claim", "C9", "--claim", "C1"), ["system.limit", "guest.reach"]),
        (("--no-guest",), ["system.limit", "machine_type.valid_sizes", "machine_type.default"]),
        (("--kind", "contract"), ["system.limit", "machine_type.valid_sizes", "guest.reach"]),
        (("--kind", "implementation"), ["machine_type.default"]),
        (("--kind", "contract", "--claim", "machine_type.", "--no-guest"), ["machine_type.valid_sizes"]),
    ],
)
def test_claims_are_chosen(kvmipa: Command, words: tuple[str, ...], expected: list[str]) -> None:
    assert names(kvmipa(*BOARD, *words, "--json")) == expected


@pytest.mark.parametrize(
    ("word", "near"),
    [
        ("machine_type.valid_size", "machine_type.valid_sizes"),
        ("valid_sizes", "valid_sizes"),
        ("C11", "C1"),
        ("guest.rech", "guest.reach"),
        ("machine_typ.", "machine_type"),
    ],
)
def test_claim_that_is_not_there_brings_near_names(kvmipa: Command, word: str, near: str) -> None:
    shown = kvmipa(*BOARD, "--claim", word)
    assert shown.status == 2
    assert f"no claim is called {word!r}; did you mean " in shown.err
    assert near in shown.err
    assert "kvmipa conform --list" in shown.err


@pytest.mark.parametrize("word", ["", "machine", "machine_type.valid", "§"])
def test_claim_is_never_guessed(kvmipa: Command, word: str) -> None:
    assert kvmipa(*BOARD, "--claim", word).status == 2


def test_choice_that_leaves_nothing_is_wrong_usage(kvmipa: Command) -> None:
    shown = kvmipa(*BOARD, "--claim", "C9", "--no-guest")
    assert shown.status == 2
    assert "together leave none" in shown.err


def test_list_shows_the_claims_and_asks_no_kernel(kvmipa: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kvmipa.open", lambda *_, **__: pytest.fail("it was opened"))
    shown = kvmipa("conform", "--list")
    assert shown.status == 0
    assert "C5  machine_type.valid_sizes  (contract)\n  Something holds" in shown.out
    assert "C9  guest.reach  (contract, runs a guest)" in shown.out
    assert "C6  machine_type.default  (implementation)" in shown.out
    assert "  tested  It is asked.\n  source  api.rst 4.2\n  since   Linux 4.19" in shown.out
    assert max(map(len, shown.out.splitlines())) <= 100


def test_list_of_the_claims_that_there_are_fits_a_terminal(kvmipa: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    assert max(map(len, kvmipa("conform", "--list").out.splitlines())) <= 100


def test_jobs_are_of_several_hosts(kvmipa: Command) -> None:
    shown = kvmipa(*BOARD, "--jobs", "2")
    assert shown.status == 2
    assert "--jobs: of several hosts" in shown.err


def test_list_in_json_can_be_narrowed(kvmipa: Command) -> None:
    (found,) = kvmipa("conform", "--list", "--json", "--claim", "C5").json["claims"]
    assert found == {
        "id": "C5",
        "name": "machine_type.valid_sizes",
        "kind": "contract",
        "guest": False,
        "text": FAILS.text,
        "how": "It is asked.",
        "source": "api.rst 4.2",
        "since": "4.19",
        "rests_on": ["C1"],
    }


def test_host_that_is_not_there_brings_near_names(kvmipa: Command) -> None:
    shown = kvmipa("--host", "midle", "conform")
    assert shown.status == 2
    assert "middle" in shown.err


# ------------------------------------------------------------------------------------------------ exit status


@pytest.mark.parametrize(
    ("claims", "status"),
    [
        ((PASSES,), 0),
        ((PASSES, SKIPS), 0),
        ((PASSES, FAILS, SKIPS), 1),
        ((SKIPS,), 4),
        ((PASSES, INTERRUPTS, GUEST), 130),
        ((FAILS, INTERRUPTS), 130),
    ],
)
@pytest.mark.parametrize("form", [(), ("--json",), ("--ktap",), ("--junit",)])
def test_exit_status(
    kvmipa: Command, have: Callable[..., None], claims: tuple[Claim, ...], status: int, form: tuple[str, ...]
) -> None:
    have(*claims)
    assert kvmipa(*BOARD, *form).status == status


def test_backend_that_is_not_there_is_3(kvmipa: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(*_: object) -> None:
        raise ImportError("it was not built")

    monkeypatch.setattr(native, "extension", missing, raising=False)
    shown = kvmipa("--backend", "native", "--device", "/nowhere/kvm", "conform")
    assert shown.status == 3
    assert shown.out == ""


def test_machine_that_cannot_be_looked_at_is_a_failure_with_its_cause(
    kvmipa: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "kvmipa.conformance.runner.look_at", lambda *_: (_ for _ in ()).throw(OSError(errno.ENOMEM, "no memory"))
    )
    shown = kvmipa(*BOARD)
    assert shown.status == 1
    assert "no memory" in shown.err


def test_help_documents_every_exit_status(kvmipa: Command) -> None:
    said = kvmipa("conform", "--help").out
    for status in (0, 1, 2, 3, 4, 5, 130):
        assert re.search(rf"^  {status}  \S", said, re.MULTILINE)
    assert "examples:" in said


# ------------------------------------------------------------------------------------------------ where reports go


def test_text_begins_with_real_or_emulated_and_is_plain_where_it_is_piped(kvmipa: Command) -> None:
    shown = kvmipa(*BOARD)
    assert shown.out.startswith("EMULATED  middle: Linux 6.12, 4K pages, mode vhe\n")
    assert "\x1b" not in shown.out
    assert shown.err == ""
    assert "ioctl(kvm, KVM_CREATE_VM, 33) = ok" in shown.out


def test_json_is_a_report_that_can_be_read_again(kvmipa: Command) -> None:
    shown = kvmipa(*BOARD, "--json")
    assert shown.json["command"] == "conform"
    report = Report.of_json(shown.json)
    assert [result.status for result in report.results] == ["pass", "fail", "skip", "pass"]
    assert json.loads(json.dumps(report.as_json()))["machine"] == shown.json["machine"]


@pytest.mark.parametrize(
    ("option", "beginning"),
    [
        ("--ktap", "KTAP version 1\n"),
        ("--junit", "<?xml"),
        ("--html", "<!doctype html>"),
        ("--kcidb", "{"),
        ("--report", "{"),
    ],
)
@pytest.mark.parametrize("separator", ["=", " "])
def test_forms_go_to_files_and_the_text_is_still_shown(
    kvmipa: Command, tmp_path: Path, option: str, beginning: str, separator: str
) -> None:
    file = tmp_path / "made" / "file"
    shown = kvmipa(*BOARD, *f"{option}{separator}{file}".split(" "))
    assert shown.out.startswith("EMULATED")
    assert shown.err == ""
    content = file.read_text(encoding="utf-8")
    assert content.lower().startswith(beginning.lower())
    assert content.endswith("\n")


@pytest.mark.parametrize("word", ["--ktap", "--ktap=-", "--ktap=/dev/stdout"])
def test_form_without_a_file_is_all_of_standard_output(kvmipa: Command, word: str) -> None:
    shown = kvmipa(*BOARD, word)
    assert shown.out.startswith("KTAP version 1\n# EMULATED")
    assert shown.out.endswith("# Totals: pass:2 fail:1 xfail:0 xpass:0 skip:1 error:0\n")


@pytest.mark.parametrize(
    "words", [("--ktap", "--json"), ("--ktap", "--junit"), ("--html", "--report", "-"), ("--json", "--report", "-")]
)
def test_two_forms_on_standard_output_are_wrong_usage(kvmipa: Command, words: tuple[str, ...]) -> None:
    shown = kvmipa(*BOARD, *words)
    assert shown.status == 2
    assert "standard output" in shown.err


def test_two_forms_in_one_file_are_wrong_usage(kvmipa: Command, tmp_path: Path) -> None:
    shown = kvmipa(*BOARD, "--ktap", str(tmp_path / "x"), "--html", f"{tmp_path}/./x")
    assert shown.status == 2
    assert "--ktap and --html go to the same file" in shown.err


@pytest.mark.parametrize("name", ["", "a\0b"])
def test_name_that_no_file_has_is_wrong_usage(kvmipa: Command, name: str) -> None:
    assert kvmipa(*BOARD, "--ktap", name).status == 2


def test_ids_that_kcidb_does_not_take_are_wrong_usage(kvmipa: Command) -> None:
    assert kvmipa(*BOARD, "--kcidb", "--kcidb-origin", "My Lab").status == 2
    assert kvmipa(*BOARD, "--kcidb", "--kcidb-build", "12").status == 2


def test_traces_of_what_failed_are_written(kvmipa: Command, tmp_path: Path) -> None:
    from kvmipa.trace import Trace

    kvmipa(*BOARD, "--traces", str(tmp_path / "traces"))
    assert [file.name for file in (tmp_path / "traces").iterdir()] == ["C5.trace"]
    trace = Trace.read(tmp_path / "traces/C5.trace")
    assert trace.profile.release == "6.12"
    assert '"argument":33' in trace.text()
    assert kvmipa("replay", str(tmp_path / "traces/C5.trace")).status == 0
    assert kvmipa("replay", str(tmp_path / "traces/C5.trace"), "--host", "narrow").status == 1


# ------------------------------------------------------------------------------------------- what cannot be written


def not_written(shown: Any, of: str) -> None:
    """The exit status says so, standard error which file and why, and the text is there."""
    assert shown.status == 5
    assert f"cannot write {of}: " in shown.err
    assert "EMULATED  middle" in shown.out + shown.err
    assert "1 claim: 1 passed" in shown.out + shown.err


@pytest.fixture
def one(have: Callable[..., None]) -> None:
    have(PASSES)


@pytest.mark.usefixtures("one")
def test_directory_in_the_place_of_a_file(kvmipa: Command, tmp_path: Path) -> None:
    shown = kvmipa(*BOARD, "--report", str(tmp_path))
    not_written(shown, str(tmp_path))
    assert f"warning: --report {tmp_path}: it is a directory; the checks are run, and shown here" in shown.err


@pytest.mark.usefixtures("one")
def test_file_in_the_place_of_a_directory(kvmipa: Command, tmp_path: Path) -> None:
    tmp_path.joinpath("file").write_text("mine")
    place = f"{tmp_path}/file/report.json"
    shown = kvmipa(*BOARD, "--ktap", "--report", place)
    not_written(shown, place)
    assert "warning" in shown.err
    assert shown.out.startswith("KTAP")
    assert tmp_path.joinpath("file").read_text() == "mine"


@pytest.mark.usefixtures("one")
@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full")
@pytest.mark.parametrize("option", ["--report", "--ktap", "--junit", "--html", "--kcidb"])
def test_full_disk(kvmipa: Command, option: str) -> None:
    shown = kvmipa(*BOARD, option, "/dev/full")
    not_written(shown, "/dev/full")
    assert "No space left on device" in shown.err


@pytest.mark.usefixtures("one")
def test_one_file_that_cannot_be_written_keeps_no_other_from_it(kvmipa: Command, tmp_path: Path) -> None:
    shown = kvmipa(*BOARD, "--report", str(tmp_path), "--ktap", f"{tmp_path}/k", "--html", f"{tmp_path}/h")
    assert shown.status == 5
    assert tmp_path.joinpath("k").is_file()
    assert tmp_path.joinpath("h").is_file()


@pytest.mark.usefixtures("one")
def test_form_that_cannot_be_made_takes_no_other_with_it(
    kvmipa: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object, **__: object) -> str:
        raise ZeroDivisionError("a mistake of ours")

    monkeypatch.setattr("kvmipa.conformance.reports.junit.junit", broken)
    shown = kvmipa(*BOARD, "--junit", "--ktap", f"{tmp_path}/k")
    assert shown.status == 5
    assert "ZeroDivisionError: a mistake of ours" in shown.err
    assert "1 claim: 1 passed" in shown.err
    assert tmp_path.joinpath("k").is_file()


def test_failure_counts_more_than_a_file(kvmipa: Command, tmp_path: Path) -> None:
    assert kvmipa(*BOARD, "--report", str(tmp_path)).status == 1


def test_file_is_whole_or_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "report"
    file.write_text("before")

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match=r"cannot write .*report: No space left on device"):
        files.write_text(str(file), "after")
    assert file.read_text() == "before"
    assert list(tmp_path.iterdir()) == [file]


def test_file_is_written_in_place_where_its_directory_takes_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "report"
    file.write_text("before")

    def busy(*_: object) -> None:
        raise OSError(errno.EBUSY, "Device or resource busy")

    monkeypatch.setattr(Path, "replace", busy)
    files.write_text(str(file), "after")
    assert file.read_text() == "after"
    assert list(tmp_path.iterdir()) == [file]


def test_link_and_permissions_of_a_file_stay(tmp_path: Path) -> None:
    file, link = tmp_path / "report", tmp_path / "link"
    file.write_text("before")
    file.chmod(0o640)
    link.symlink_to(file)
    files.write_text(str(link), "after")
    assert link.is_symlink()
    assert file.read_text() == "after"
    assert file.stat().st_mode & 0o777 == 0o640


def run(*words: str, stdout: Any = subprocess.PIPE, **options: Any) -> subprocess.CompletedProcess[str]:
    """The command in a process of its own, on a claim that there is."""
    command = [sys.executable, "-m", "kvmipa", "--host", "apple-m1", "conform", "--claim", "C1", *words]
    return subprocess.run(command, stdout=stdout, stderr=subprocess.PIPE, text=True, check=False, **options)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full")
@pytest.mark.parametrize("form", [(), ("--json",), ("--ktap",)])
def test_standard_output_on_a_full_disk(form: tuple[str, ...]) -> None:
    with Path("/dev/full").open("w") as full:
        done = run(*form, stdout=full)
    assert done.returncode == 5
    assert done.stderr.startswith("kvmipa: standard output: No space left on device\nEMULATED  apple-m1")
    assert "1 claim: 1 passed" in done.stderr


def test_reader_that_went_away_is_no_error() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    done = run(stdout=writing)
    os.close(writing)
    assert (done.returncode, done.stderr) == (0, "")


def test_board_with_letters_that_the_terminal_has_not() -> None:
    from kvmipa.cli.conform_reports import _print

    raw = io.BytesIO()
    stream = io.TextIOWrapper(raw, encoding="ascii")
    _print("Modèle\n", stream)
    assert raw.getvalue() == b"Mod\\xe8le\n"


# ------------------------------------------------------------------------------------------------ while it runs


def test_what_was_found_before_ctrl_c_is_reported_and_marked(
    kvmipa: Command, have: Callable[..., None], tmp_path: Path
) -> None:
    have(PASSES, INTERRUPTS, GUEST)
    shown = kvmipa(*BOARD, "--report", f"{tmp_path}/r", "--ktap", f"{tmp_path}/k")
    assert shown.status == 130
    assert "INCOMPLETE: interrupted; not checked: guest.interrupted, guest.reach" in shown.out
    assert json.loads(tmp_path.joinpath("r").read_text())["missing"] == ["guest.interrupted", "guest.reach"]
    assert "\n1..3\n" in tmp_path.joinpath("k").read_text()


class Terminal(io.StringIO):
    """A stream that somebody watches."""

    def isatty(self) -> bool:
        """It is one."""
        return True


def test_progress_is_shown_and_removed_without_rich(kvmipa: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "rich.progress", None)
    monkeypatch.delitem(sys.modules, "kvmipa.cli.rich_line", raising=False)
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    shown = kvmipa(*BOARD)
    assert "\r\x1b[K0 of 4 claims: C1 system.limit" in terminal.getvalue()
    assert "\r\x1b[K3 of 4 claims, 1 failed: C9 guest.reach" in terminal.getvalue()
    assert terminal.getvalue().endswith("\r\x1b[K")
    assert "of 4 claims" not in shown.out


def test_progress_is_shown_with_rich(kvmipa: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    need("rich")
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    kvmipa(*BOARD)
    assert "1 failed, C9 guest.reach" in re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", terminal.getvalue())


def on_a_terminal(monkeypatch: pytest.MonkeyPatch, command: Command) -> str:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stdout", terminal)
    command(*BOARD)
    return terminal.getvalue()


def test_report_on_a_terminal_has_colours(kvmipa: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    need("rich")
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.delenv("NO_COLOR", raising=False)
    shown = on_a_terminal(monkeypatch, kvmipa)
    assert "\x1b[" in shown
    assert re.sub(r"\x1b\[[0-9;]*m", "", shown).startswith("EMULATED  middle: Linux 6.12")


def test_report_on_a_terminal_is_plain_without_rich(kvmipa: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "rich.console", None)
    monkeypatch.delitem(sys.modules, "kvmipa.conformance.reports.terminal", raising=False)
    shown = on_a_terminal(monkeypatch, kvmipa)
    assert shown.startswith("EMULATED  middle: Linux 6.12")
    assert "\x1b" not in shown


# ------------------------------------------------------------------------------------------------ the real claims


def test_claims_that_there_are_can_be_run(kvmipa: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    shown = kvmipa("--host", "apple-m1", "conform", "--claim", "C1", "--json")
    assert [result["id"] for result in shown.json["results"]] == ["C1"]
    assert shown.status == 0
