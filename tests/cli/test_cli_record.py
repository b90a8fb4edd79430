# SPDX-License-Identifier: Apache-2.0
"""``kvmipa record``: commands whose ioctls are written down, and commands that leave nothing."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import kvmipa as package
from kvmipa.trace.reading import load

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tests.cli.conftest import Command

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="traces are taken on Linux")

SWEEP = "import kvmipa; kvm = kvmipa.open('emulated', host='raspberry-pi-4'); kvm.create_vm(40).close()"


@pytest.fixture(autouse=True)
def own_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a trace goes without -o; programs there find kvmipa as this one did."""
    monkeypatch.chdir(tmp_path)
    root = str(Path(package.__file__).parents[1])
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, (root, os.environ.get("PYTHONPATH", "")))))
    for name in ("KVMIPA_TRACE", "KVMIPA_HOST", "KVMIPA_BACKEND"):
        monkeypatch.delenv(name, raising=False)


def python(code: str) -> Sequence[str]:
    return ("--", sys.executable, "-c", code)


def test_trace_is_written_and_runs_again(kvmipa: Command) -> None:
    shown = kvmipa("record", "-o", "t.jsonl", *python(SWEEP))
    assert (shown.status, shown.out) == (0, "")
    assert "t.jsonl: 8 operations, 0 notes" in shown.err
    found = load(Path("t.jsonl"))
    assert found.trace.header["profile"]["name"] == "raspberry-pi-4"
    assert found.trace.header["backend"] == "emulated"
    assert "no difference in 8 operations" in kvmipa("replay", "t.jsonl").out


def test_name_of_the_file_has_a_default(kvmipa: Command) -> None:
    assert kvmipa("record", *python(SWEEP)).status == 0
    assert load(Path("kvmipa-trace.jsonl")).trace.steps


def test_each_kvm_has_a_file_of_its_own_also_in_another_directory_and_process(kvmipa: Command) -> None:
    code = (
        "import kvmipa, os, subprocess, sys; os.chdir('/')\n"
        "with kvmipa.open('emulated') as one, kvmipa.open('emulated') as two: pass\n"
        "subprocess.run([sys.executable, '-c', 'import kvmipa; kvmipa.open(\"emulated\").close()'], check=True)"
    )
    found = kvmipa("record", "-o", "t", "--json", *python(code)).json
    names = [Path(trace["file"]).name for trace in found["traces"]]
    assert (found["status"], names) == (0, ["t", "t.2", "t.3"])
    assert [trace["operations"] for trace in found["traces"]] == [6, 6, 6]


def test_options_choose_the_kvm_of_a_command_that_does_not_say(kvmipa: Command) -> None:
    code = "import kvmipa; print(kvmipa.open().host_ipa_limit)"
    shown = kvmipa("--host", "raspberry-pi-4", "record", "-o", "t", *python(code))
    assert shown.status == 0
    assert load(Path("t")).trace.header["profile"]["name"] == "raspberry-pi-4"


def test_traces_of_before_are_replaced(kvmipa: Command) -> None:
    two = SWEEP + "; kvmipa.open('emulated')"
    assert kvmipa("record", "-o", "t", *python(two)).status == 0
    assert Path("t.2").exists()
    assert kvmipa("record", "-o", "t", *python(SWEEP)).status == 0
    assert not Path("t.2").exists()


@pytest.mark.parametrize("status", [1, 7])
def test_exit_status_is_the_commands(kvmipa: Command, status: int) -> None:
    assert kvmipa("record", "-o", "t", *python(f"{SWEEP}; import sys; sys.exit({status})")).status == status
    assert load(Path("t")).trace.steps


def test_crash_and_kill_leave_a_trace(kvmipa: Command) -> None:
    assert kvmipa("record", "-o", "t", *python(f"{SWEEP}; raise MemoryError")).status == 1
    assert len(load(Path("t")).trace.steps) == 8
    killed = f"{SWEEP}; import os, signal; os.kill(os.getpid(), signal.SIGKILL)"
    assert kvmipa("record", "-o", "t", *python(killed)).status == 128 + signal.SIGKILL
    assert len(load(Path("t")).trace.steps) == 7


def test_interrupt_is_the_commands() -> None:
    code = (
        f"{SWEEP}; import time; print('here', flush=True)\n"
        "try: time.sleep(60)\nexcept KeyboardInterrupt: raise SystemExit(5)"
    )
    words = [sys.executable, "-m", "kvmipa", "record", "-o", "t", *python(code)]
    with subprocess.Popen(words, stdout=subprocess.PIPE, start_new_session=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"here\n"
        time.sleep(0.1)
        os.killpg(process.pid, signal.SIGINT)
        assert process.wait(30) == 5


def test_file_that_is_no_trace_is_left_and_not_counted(kvmipa: Command) -> None:
    Path("t.2").write_text("mine\n")
    both = "import kvmipa; kvmipa.open('emulated').close(); kvmipa.open('emulated').close()"
    found = kvmipa("record", "-o", "t", "--json", *python(both)).json
    assert [Path(trace["file"]).name for trace in found["traces"]] == ["t", "t.3"]
    assert Path("t.2").read_text() == "mine\n"


def test_command_without_kvmipa_leaves_no_trace_and_that_is_said(kvmipa: Command) -> None:
    shown = kvmipa("record", "-o", "t", "--", "true")
    assert shown.status == 1
    assert "no trace: true did not open a KVM with kvmipa" in shown.err
    assert not Path("t").exists()
    assert kvmipa("record", "-o", "t", "--", "sh", "-c", "exit 9").status == 9


def test_command_that_is_not_there(kvmipa: Command) -> None:
    shown = kvmipa("record", "-o", "t", "--", "no-such-command-of-ours")
    assert shown.status == 127
    assert "there is no such command" in shown.err
    Path("text").write_text("no program")
    assert kvmipa("record", "-o", "t", "--", "./text").status == 126


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ([], "-- is missing before the command"),
        (["python", "x.py"], "-- is missing before the command: kvmipa record -- python x.py"),
        (["--"], "no COMMAND behind --"),
        (["-o", "/nowhere/t", "--", "true"], "cannot write /nowhere/t: No such file or directory"),
        (["-o", ".", "--", "true"], "is there, and is no trace"),
        (["-o", "/dev/null", "--", "true"], "/dev/null is there, and is no trace"),
        (["-o", "t.gz", "--", "true"], "compress it afterwards"),
        (["-o", "text", "--", "true"], "text is there, and is no trace"),
    ],
)
def test_wrong_usage_runs_nothing(kvmipa: Command, words: list[str], expected: str) -> None:
    Path("text").write_text("precious")
    shown = kvmipa("record", *words)
    assert shown.status == 2
    assert expected in shown.err
    assert Path("text").read_text() == "precious"


def test_environment_alone_is_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KVMIPA_TRACE", "alone")
    package.open("emulated").close()
    assert len(load(Path("alone")).trace.steps) == 6


def test_trace_that_cannot_be_written_is_an_error_of_open(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KVMIPA_TRACE", "/nowhere/trace")
    with pytest.raises(OSError, match="the environment's KVMIPA_TRACE"):
        package.open("emulated")


def test_disk_that_is_full_ends_the_trace_and_not_the_program(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(_fd: int, _data: bytes) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setenv("KVMIPA_TRACE", "t")
    monkeypatch.setattr("kvmipa.trace.to_file.os.write", full)
    with package.open("emulated") as kvm:
        assert kvm.api_version == 12
    assert capsys.readouterr().err.count("No space left on device: the trace ends here") == 1


def test_json_is_one_object_behind_the_commands_output(kvmipa: Command) -> None:
    found = kvmipa("record", "-o", "t", "--json", *python(SWEEP)).json
    assert found["command"] == "record"
    assert found["program"][0] == sys.executable
    assert json.dumps(found["traces"]).count("file") == 1
