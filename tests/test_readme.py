# SPDX-License-Identifier: Apache-2.0
"""The README's sessions and examples are real: each is run here and must print what the README shows."""

from __future__ import annotations

import doctest
import re
from pathlib import Path

import pytest

from kvmipa.cli import main

README = Path(__file__).parents[1] / "README.md"

pytestmark = pytest.mark.skipif(not README.exists(), reason="the README is not part of this installation")


def sessions() -> list[tuple[str, str]]:
    """Each command of the console blocks with the output that is shown for it."""
    text = README.read_text() if README.exists() else ""
    blocks = re.findall(r"```console\n(.*?)```", text, re.DOTALL)
    return [
        (command, shown) for block in blocks for command, shown in re.findall(r"\$ (.+)\n((?:(?!\$ ).*\n)*)", block)
    ]


@pytest.mark.parametrize(("command", "shown"), sessions(), ids=[command for command, _ in sessions()])
def test_session_prints_what_the_readme_shows(command: str, shown: str, capsys: pytest.CaptureFixture[str]) -> None:
    program, *arguments = command.split()
    assert program == "kvmipa"
    main(arguments)
    printed = capsys.readouterr()
    assert without_times(printed.out + printed.err) == without_times(shown)


def without_times(text: str) -> str:
    return re.sub(r"\bin \d+\.\d s\b", "in ... s", text)


def test_examples_give_what_the_readme_shows() -> None:
    text = re.sub(r"fd=\d+", "fd=...", README.read_text())
    parsed = doctest.DocTestParser().get_doctest(text, {}, "README.md", str(README), 0)
    runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS)
    result = runner.run(parsed)
    assert result.failed == 0
    assert result.attempted >= 4
