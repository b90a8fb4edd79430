# SPDX-License-Identifier: Apache-2.0
"""What all commands share: exit status, global options, help, JSON, and leaving early."""

from __future__ import annotations

import errno
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import kvmipa as library
from kvmipa import choice, errors
from kvmipa.backend import native
from kvmipa.cli import COMMANDS, create, main, probe

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.cli.conftest import Command

NAMES = [
    *("probe", "create", "sweep", "type", "stage2", "hosts", "doctor"),
    *("plan", "conform", "report", "record", "replay", "completion"),
]
COMMAND_LINES = [
    ["probe"],
    ["create"],
    ["sweep"],
    ["type", "encode", "40"],
    ["type", "decode", "40"],
    ["type", "explain", "40"],
    ["hosts"],
    ["doctor"],
]
HELP_LINES = [[], *([name] for name in NAMES), ["type", "encode"], ["type", "decode"], ["type", "explain"]]
KERNEL_LINES = [["probe"], ["create"], ["sweep"]]


def as_text(words: list[str]) -> str:
    return " ".join(words) or "kvmipa"


@pytest.mark.parametrize("words", COMMAND_LINES, ids=as_text)
def test_json_is_one_object_and_all_of_standard_output(kvmipa: Command, words: list[str]) -> None:
    shown = kvmipa("--json", "--host", "wide", *words)
    assert shown.json["command"] == " ".join(word for word in words if word != "40")
    assert not shown.err


@pytest.mark.parametrize("words", COMMAND_LINES, ids=as_text)
def test_text_has_no_loose_ends(kvmipa: Command, words: list[str]) -> None:
    shown = kvmipa("--host", "wide", *words)
    lines = shown.out.split("\n")
    assert lines[-1] == ""
    assert all(line and line == line.rstrip() for line in lines[:-1])


@pytest.mark.parametrize("words", KERNEL_LINES, ids=as_text)
@pytest.mark.parametrize(
    "order",
    [
        lambda options, words: [*options, *words],
        lambda options, words: [*words, *options],
        lambda options, words: [*options[:2], *words, *options[2:]],
        lambda options, words: [*options[2:], *words, *options[:2]],
    ],
    ids=["before", "after", "around", "around, turned"],
)
def test_global_options_stand_before_or_after_the_command(
    kvmipa: Command, words: list[str], order: Callable[[list[str], list[str]], list[str]]
) -> None:
    options = ["--host", "middle", "--backend", "emulated", "--json"]
    found = kvmipa(*order(options, words)).json
    assert (found["backend"], found["host"]) == ("emulated", "middle: Linux 6.12, 4K pages, mode vhe")


def test_option_after_the_command_wins(kvmipa: Command) -> None:
    assert kvmipa("--host", "narrow", "probe", "--host", "wide", "--json").json["host_ipa_limit"] == 52


@pytest.mark.parametrize("words", KERNEL_LINES, ids=as_text)
def test_environment_names_host_and_backend(kvmipa: Command, monkeypatch: pytest.MonkeyPatch, words: list[str]) -> None:
    monkeypatch.setenv("KVMIPA_BACKEND", "emulated")
    monkeypatch.setenv("KVMIPA_HOST", "middle")
    assert kvmipa("--json", *words).json["host"].startswith("middle: ")
    assert kvmipa("--json", "--host", "wide", *words).json["host"].startswith("wide: ")


@pytest.mark.parametrize(
    ("variable", "words"),
    [("KVMIPA_BACKEND", "expected auto, native, emulated"), ("KVMIPA_HOST", "no host preset 'bogus'; near:")],
)
def test_environment_that_names_nothing_known_is_wrong_usage(
    kvmipa: Command, monkeypatch: pytest.MonkeyPatch, variable: str, words: str
) -> None:
    monkeypatch.setenv("KVMIPA_BACKEND", "emulated")
    monkeypatch.setenv(variable, "bogus")
    shown = kvmipa("probe")
    assert (shown.status, shown.out) == (2, "")
    assert variable in shown.err
    assert words in shown.err


WRONG_USAGE = [
    pytest.param([], "COMMAND", id="no command"),
    pytest.param(["frobnicate"], "frobnicate", id="unknown command"),
    pytest.param(["type"], "PART", id="no part"),
    pytest.param(["--backend", "mock", "probe"], "mock", id="unknown backend"),
    pytest.param(["probe", "--ipa-bits", "40"], "--ipa-bits", id="option of another command"),
    pytest.param(["probe", "more"], "more", id="word too many"),
    pytest.param(["--host", "bogus", "probe"], "no host preset 'bogus'", id="unknown host"),
    pytest.param(["--host", "", "probe"], "no host preset ''", id="empty host"),
    pytest.param(["--host", "wide", "--backend", "native", "probe"], "a machine to emulate", id="host of native"),
    pytest.param(["--host", "wide", "create", "--ipa-bits", "300"], "300 bits", id="no size"),
]


@pytest.mark.parametrize(("words", "message"), WRONG_USAGE)
def test_wrong_usage_is_status_2(kvmipa: Command, words: list[str], message: str) -> None:
    shown = kvmipa(*words)
    assert (shown.status, shown.out) == (2, "")
    assert message in shown.err


@pytest.mark.parametrize(("words", "message"), WRONG_USAGE)
def test_wrong_usage_is_json_too(kvmipa: Command, words: list[str], message: str) -> None:
    shown = kvmipa("--json", *words)
    assert shown.status == 2
    assert message in shown.json["error"]["message"] + shown.json["error"].get("asked", "")
    assert message in shown.err


@pytest.mark.parametrize(
    ("words", "kind", "code"),
    [
        (["--device", "/nowhere", "probe"], "DeviceNotFoundError", "ENOENT"),
        (["--device", "/dev/null", "probe"], "NotKvmError", "ENOTTY"),
        (["--backend", "native", "--device", "/", "create"], "NotKvmError", "EISDIR"),
        (["--host", "off", "sweep"], "DeviceNotFoundError", "ENOENT"),
        (["--host", "wide", "--device", "/nowhere", "probe"], "DeviceNotFoundError", "ENOENT"),
    ],
)
@pytest.mark.skipif(native.why_missing() is not None, reason="needs the compiled extension")
def test_backend_that_is_not_there_is_status_3(kvmipa: Command, words: list[str], kind: str, code: str) -> None:
    shown = kvmipa("--json", *words)
    assert shown.status == 3
    assert (shown.json["error"]["class"], shown.json["error"]["errno"]) == (kind, code)
    assert shown.err.startswith("kvmipa: ")


def test_missing_extension_is_status_3(kvmipa: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(native, "why_missing", lambda: "no compiler")
    shown = kvmipa("--backend", "native", "probe")
    assert (shown.status, shown.out) == (3, "")
    assert "fix:" in shown.err


@pytest.mark.parametrize("words", KERNEL_LINES, ids=as_text)
def test_foreign_kvm_is_status_3_and_closed(kvmipa: Command, monkeypatch: pytest.MonkeyPatch, words: list[str]) -> None:
    with library.open("emulated") as stand_in:
        stand_in.is_arm64 = False
        monkeypatch.setattr(choice, "open_native", lambda _: stand_in)
        shown = kvmipa("--json", "--backend", "native", *words)
        assert (shown.status, shown.json["error"]["class"]) == (3, "NotArm64KvmError")
        assert stand_in.closed


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (errors.IpaSizeTooLargeError(errno.EINVAL, cause="too large"), 1),
        (errors.OutOfMemoryError(errno.ENOMEM, cause="no memory"), 1),
        (OSError(errno.EIO, "broken"), 1),
        (errors.InvalidIpaSizeError(errno.EINVAL, cause="no size"), 2),
        (ValueError("no such thing"), 2),
        (ValueError(), 2),
        (errors.NotKvmError(errno.ENOTTY, cause="no KVM"), 3),
        (errors.DevicePermissionError(errno.EACCES, cause="not allowed"), 3),
        (errors.NotArm64KvmError(errno.ENODEV, cause="x86"), 3),
    ],
    ids=repr,
)
def test_status_is_the_kind_of_error(
    kvmipa: Command, monkeypatch: pytest.MonkeyPatch, error: Exception, status: int
) -> None:
    def fail(*_: object) -> int:
        raise error

    monkeypatch.setattr(probe, "run", fail)
    shown = kvmipa("probe")
    assert (shown.status, shown.out) == (status, "")
    assert shown.err.startswith("kvmipa: ")
    shown = kvmipa("--json", "probe")
    assert (shown.status, shown.json["error"]["class"]) == (status, type(error).__name__)


def test_programming_error_is_not_hidden(kvmipa: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> int:
        raise TypeError("a bug")

    monkeypatch.setattr(probe, "run", fail)
    with pytest.raises(TypeError, match="a bug"):
        kvmipa("probe")


@pytest.mark.parametrize("options", [[], ["--json"]])
def test_interrupt_is_status_130(kvmipa: Command, monkeypatch: pytest.MonkeyPatch, options: list[str]) -> None:
    def interrupted(*_: object) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr(create, "run", interrupted)
    assert kvmipa(*options, "create") == (130, "", "kvmipa: interrupted\n")


@pytest.mark.parametrize("words", HELP_LINES, ids=as_text)
@pytest.mark.parametrize("flag", ["-h", "--help"])
def test_help_says_what_the_command_does(kvmipa: Command, words: list[str], flag: str) -> None:
    shown = kvmipa(*words, flag)
    assert (shown.status, shown.err) == (0, "")
    usage, description, *_ = shown.out.split("\n\n")
    assert usage.startswith("usage: kvmipa")
    assert len(description.split()) >= 8
    assert not re.match(r"[\w ]+:\n", description), "no description"
    assert "--json" in shown.out


def test_help_teaches_status_environment_and_examples(kvmipa: Command) -> None:
    text = kvmipa("--help").out
    for status in ("0  yes", "1  no", "2  wrong usage", "3  the backend"):
        assert f"\n  {status}" in text
    assert "KVMIPA_BACKEND" in text
    assert "KVMIPA_HOST" in text
    assert [name for name in NAMES if not re.search(rf"^ +{name} +\w", text, re.MULTILINE)] == []
    assert len(COMMANDS) == len(NAMES)


def test_examples_of_the_help_can_be_run(kvmipa: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KVMIPA_BACKEND", "emulated")
    examples = kvmipa("--help").out.partition("examples:\n")[2].splitlines()
    lines = [line.split("   ")[0].split() for line in examples if line.strip().startswith("kvmipa")]
    assert len(lines) >= 4
    for _, *words in lines:
        hosts = [words[words.index("--host") + 1]] if "--host" in words else []
        assert kvmipa(*["middle" if word in hosts else word for word in words]).status == 0


@pytest.mark.parametrize("words", [["--version"], ["--json", "--version"]])
def test_version_is_the_packages(kvmipa: Command, words: list[str]) -> None:
    assert kvmipa(*words) == (0, f"kvmipa {library.__version__}\n", "")


def test_words_are_the_processes_own_where_none_are_given(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["kvmipa", "type", "encode", "33"])
    assert main() == 0
    assert capsys.readouterr().out == "0x21\n"


def spawn(*words: str, stdout: int = subprocess.PIPE) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "kvmipa", "--backend", "emulated", *words]
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    return subprocess.Popen(command, stdout=stdout, stderr=subprocess.PIPE, text=True, env=environment)


def test_module_is_the_command() -> None:
    process = spawn("create", "--ipa-bits", "33")
    out, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (0, "")
    assert "33 bits (8 GiB), type 0x21" in out


def test_module_returns_the_status() -> None:
    process = spawn("create", "--ipa-bits", "31")
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out) == (1, "")
    assert "below the minimum of 32 bits" in err


@pytest.mark.parametrize(
    ("words", "status"), [("--help", 0), ("sweep", 0), ("type explain 40", 0), ("--json type decode 0x100", 1)]
)
def test_reader_that_left_is_no_error(words: str, status: int) -> None:
    read, write = os.pipe()
    os.close(read)
    process = spawn(*words.split(), stdout=write)
    os.close(write)
    _, err = process.communicate(timeout=60)
    assert process.returncode == status
    assert "BrokenPipe" not in err
    assert bool(err) == bool(status)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs Linux's /dev/full")
@pytest.mark.parametrize("words", ["--help", "sweep", "--json type decode 0x100"])
def test_output_that_cannot_be_written_is_a_no(words: str) -> None:
    full = os.open("/dev/full", os.O_WRONLY)
    process = spawn(*words.split(), stdout=full)
    os.close(full)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 1
    assert err.endswith("kvmipa: standard output: No space left on device\n")
