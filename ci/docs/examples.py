# SPDX-License-Identifier: Apache-2.0
"""The shell sessions of the pages: run one after the other in an empty directory, they print what is shown.

``python -m ci.docs.examples PAGE...`` puts what they print now into pages where that differs; read the diff.
"""

from __future__ import annotations

import doctest
import os
import re
import shlex
import subprocess
import sys
import tempfile
import textwrap
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

SOURCE: Final = Path(__file__).parent

#: What a session may run, as arguments of this interpreter.
_PROGRAMS: Final = {"kvmipa": ("-m", "kvmipa"), "python": ()}

_BLOCK: Final = re.compile(r"^( *)\.\. code-block:: console\n\n((?:\1   .*\n|\n)+)", re.MULTILINE)
_COMMAND: Final = re.compile(r"^\$ (.+)\n((?:(?!\$ ).*\n)*)", re.MULTILINE)
_FILE: Final = re.compile(r"^( *)\.\. code-block:: \w+\n\1   :caption: (\S+)\n\n((?:\1   .*\n|\n)+)", re.MULTILINE)


@dataclass(frozen=True)
class Step:
    """A command line, and the output that is shown for it. "..." in that stands for anything."""

    command: str
    shown: str

    def agrees(self, printed: str) -> bool:
        """Whether it is what was printed."""
        return doctest.OutputChecker().check_output(self.shown, printed, doctest.ELLIPSIS)


def pages() -> list[Path]:
    """Every page that somebody wrote."""
    return sorted(SOURCE.rglob("*.rst"))


def steps(text: str) -> Iterator[Step]:
    """The commands of a page's console blocks, in order."""
    for block in _BLOCK.finditer(text):
        for command, shown in _COMMAND.findall(_session(block)):
            yield Step(command, shown)


def files(text: str) -> dict[str, str]:
    """The files that a page shows, by their name: code blocks with a caption."""
    return {block[2]: textwrap.dedent(block[3]).strip("\n") + "\n" for block in _FILE.finditer(text)}


def run(command: str, directory: Path, last_status: int = 0) -> tuple[str, int]:
    """What a command prints there, output and errors, and its exit status: kvmipa, python FILE, or echo $?."""
    if command == "echo $?":
        return f"{last_status}\n", 0
    words = shlex.split(command)
    variables = {}
    while "=" in words[0]:
        name, _, variables[name] = words.pop(0).partition("=")
    if words[0] not in _PROGRAMS:
        raise ValueError(f"{command!r}: not run here; another command belongs into a block of the language sh")
    done = subprocess.run(
        [sys.executable, *_PROGRAMS[words[0]], *words[1:]],
        check=False,
        cwd=directory,
        env=_environment() | variables,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=120,
    )
    return done.stdout, done.returncode


def _environment() -> dict[str, str]:
    """The environment of this process, without the width of its terminal and the choices of whoever runs it."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("KVMIPA_", "PYTEST_"))}
    path = os.pathsep.join((str(Path(sys.executable).parent), os.environ.get("PATH", "")))
    ours = {"PATH": path, "PYTHONPATH": str(SOURCE.parents[1]), "PYTHONUNBUFFERED": "1", "COLUMNS": "100"}
    return inherited | ours | {"NO_COLOR": "1"}


def outcomes(text: str, directory: Path) -> Iterator[tuple[Step, str]]:
    """Run a page in a directory: each step, and what it printed."""
    for name, content in files(text).items():
        (directory / name).parent.mkdir(parents=True, exist_ok=True)
        (directory / name).write_text(content, encoding="utf-8")
    status = 0
    for step in steps(text):
        printed, status = run(step.command, directory, status)
        yield step, printed


def updated(text: str, directory: Path) -> str:
    """The page with the output of now, where that is another."""
    printed = iter(list(outcomes(text, directory)))

    def of_block(block: re.Match[str]) -> str:
        lines = []
        for _ in _COMMAND.findall(_session(block)):
            step, now = next(printed)
            lines += [f"$ {step.command}\n", step.shown if step.agrees(now) else now]
        return f"{block[1]}.. code-block:: console\n\n{textwrap.indent(''.join(lines), block[1] + '   ')}\n"

    return _BLOCK.sub(of_block, text)


def _session(block: re.Match[str]) -> str:
    return textwrap.dedent(block[2]).strip("\n") + "\n"


def main(arguments: Sequence[str]) -> int:
    """Update pages."""
    for page in [Path(name).resolve() for name in arguments] or pages():
        before = page.read_text(encoding="utf-8")
        with tempfile.TemporaryDirectory() as directory:
            after = updated(before, Path(directory))
        if after != before:
            page.write_text(after, encoding="utf-8")
            print(f"changed: {page.relative_to(SOURCE)}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
