# SPDX-License-Identifier: Apache-2.0
"""Shells complete what the parser takes (tests/ci/test_docs.py: the scripts are of this parser)."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from kvmipa.cli.completion import DIRECTORY, FILES
from tests.requirements import skip_or_fail

if TYPE_CHECKING:
    from tests.cli.conftest import Command

# What bash does when TAB is pressed; $1: the words so far.
BASH = """
source {script}
COMP_WORDS=({words})
COMP_CWORD=$(( ${{#COMP_WORDS[@]}} - 1 ))
COMP_LINE="{line}"
COMP_POINT=${{#COMP_LINE}}
$(complete -p kvmipa | sed 's/.*-F \\([^ ]*\\).*/\\1/') kvmipa "{word}" ""
printf '%s\\n' "${{COMPREPLY[@]}}"
"""

# A pseudo-terminal in which TAB is typed; what the line has become is between the brackets.
ZSH = r"""
zmodload zsh/zpty
zpty shell 'PS1= zsh -f -i'
zpty -w shell 'fpath=({directory} $fpath); autoload -U compinit; compinit -D -u; unsetopt zle_bracketed_paste'
zpty -w shell 'show() {{ print "[$BUFFER]"; zle send-break }}; zle -N show; bindkey "^X" show; echo LOA""DED'
zpty -r shell text '*LOADED*'
zpty -n -w shell $'{line}\t\x18'
zpty -r shell text '*\[*\]*'
print -r -- "$text"
"""

COMPLETED = [
    ("kvmipa con", ["conform"]),
    ("kvmipa --host ap", ["apple-m1"]),
    ("kvmipa conform --host rasp", ["raspberry-pi-4", "raspberry-pi-5"]),
    ("kvmipa --backend e", ["emulated"]),
    ("kvmipa type e", ["encode", "explain"]),
    ("kvmipa conform --claim system.api", ["system.api_version"]),
    ("kvmipa report compare --ht", ["--html"]),
    ("kvmipa completion z", ["zsh"]),
]


def run(shell: str, *arguments: str, cwd: Path | None = None) -> str:
    """What a shell printed; the test is skipped where it is not installed."""
    found = shutil.which(shell)
    if found is None:
        skip_or_fail(f"{shell} is not installed")
    done = subprocess.run([found, *arguments], check=True, cwd=cwd, capture_output=True, text=True, timeout=60)
    assert done.stderr == ""
    return done.stdout


@pytest.mark.parametrize("shell", FILES)
def test_the_script_is_printed(kvmipa: Command, shell: str) -> None:
    outcome = kvmipa("completion", shell)
    assert outcome.status == 0
    assert outcome.out == (DIRECTORY / FILES[shell]).read_text()
    assert kvmipa("--json", "completion", shell).json["script"] == outcome.out


def test_an_unknown_shell_is_wrong_usage(kvmipa: Command) -> None:
    outcome = kvmipa("completion", "cmd.exe")
    assert outcome.status == 2
    assert "bash" in outcome.err


@pytest.mark.parametrize(("line", "expected"), COMPLETED)
def test_bash_completes(line: str, expected: list[str], tmp_path: Path) -> None:
    words = line.split()
    script = BASH.format(script=DIRECTORY / FILES["bash"], words=" ".join(words), line=line, word=words[-1])
    assert sorted(run("bash", "--norc", "-c", script, cwd=tmp_path).split()) == expected


def test_bash_completes_files_where_a_file_is_wanted(tmp_path: Path) -> None:
    (tmp_path / "saved.json").touch()
    words = "kvmipa report show sav"
    script = BASH.format(script=DIRECTORY / FILES["bash"], words=words, line=words, word="sav")
    assert run("bash", "--norc", "-c", script, cwd=tmp_path).split() == ["saved.json"]


def test_bash_completes_no_files_for_a_preset(tmp_path: Path) -> None:
    (tmp_path / "zebra").touch()
    words = "kvmipa --host z"
    script = BASH.format(script=DIRECTORY / FILES["bash"], words=words, line=words, word="z")
    assert run("bash", "--norc", "-c", script, cwd=tmp_path).split() == []


@pytest.mark.parametrize(("line", "expected"), COMPLETED)
def test_fish_completes(line: str, expected: list[str], tmp_path: Path) -> None:
    source = f"source {DIRECTORY / FILES['fish']}; complete -C '{line}'"
    printed = run("fish", "--no-config", "-c", source, cwd=tmp_path)
    assert sorted(answer.split("\t")[0] for answer in printed.splitlines()) == expected


@pytest.mark.parametrize(("line", "expected"), [pair for pair in COMPLETED if len(pair[1]) == 1])
def test_zsh_completes(line: str, expected: list[str], tmp_path: Path) -> None:
    script = ZSH.format(directory=DIRECTORY, line=line)
    assert f"[{line.rpartition(' ')[0]} {expected[0]} ]" in run("zsh", "-f", "-c", script, cwd=tmp_path)


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_script_has_no_syntax_error(shell: str) -> None:
    assert run(shell, "-n", str(DIRECTORY / FILES[shell])) == ""


def test_tcsh_reads_the_script() -> None:
    script = f"source {DIRECTORY / FILES['tcsh']}; complete kvmipa"
    assert "apple-m1" in run("tcsh", "-f", "-c", script)


def test_the_man_page_is_good_roff() -> None:
    page = Path(DIRECTORY.parent, "kvmipa.1")
    linter = shutil.which("mandoc")
    if linter is None:
        skip_or_fail("mandoc is not installed")
    done = subprocess.run(
        [linter, "-T", "lint", "-W", "warning", str(page)], check=False, capture_output=True, text=True, timeout=60
    )
    assert (done.stdout, done.returncode) == ("", 0)
