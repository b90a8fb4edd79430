# SPDX-License-Identifier: Apache-2.0
"""``kvmipa record``: trace the ioctls of a kvmipa program."""

from __future__ import annotations

import argparse
import os
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace
    from collections.abc import Iterator
    from pathlib import Path

    from kvmipa.cli.output import Output

DEFAULT_FILE: Final = "kvmipa-trace.jsonl"

# As a shell has them.
NOT_EXECUTABLE: Final = 126
NOT_FOUND: Final = 127
SIGNALLED: Final = 128

NO_TRACE: Final = 1

_DESCRIPTION: Final = """\
Run a command, and write what its kvmipa asks of KVM to a file, in a form that kvmipa replay does again on any kernel,
real or emulated: each ioctl with what it answered, guest memory as it was when the guest ran, and each exit.
"""

_EPILOG: Final = """\
Every kvmipa.open() of the command and of its child processes has a trace of its own: FILE, FILE.2, FILE.3, and so on.
A line is written with each system call, so that a program that is killed leaves a trace too. What a trace cannot say
(signals, several vCPUs that run at once, what is written to eventfds, more than 16 MiB of guest memory in use) stands
in it as a note. The environment's KVMIPA_TRACE=FILE does the same without this command. Programs without kvmipa:
strace -f -o FILE -e trace=openat,ioctl,close,mmap,eventfd2 COMMAND, which kvmipa replay reads as well.

exit status:
  that of COMMAND; where it is 0 and COMMAND left no trace, 1
  2    wrong usage, or FILE cannot be written (COMMAND is not run then)
  126  COMMAND cannot be executed
  127  there is no such COMMAND

examples:
  kvmipa record -- python vmm.py                     writes kvmipa-trace.jsonl
  kvmipa record -o probe.jsonl -- kvmipa probe       what does kvmipa probe ask?
  KVMIPA_HOST=apple-m1 kvmipa record -o m1.jsonl -- python -m pytest tests
"""


def add_parser(commands: Any, common: ArgumentParser) -> None:
    """Declare the command."""
    parser = commands.add_parser(
        "record",
        parents=[common],
        help="trace the ioctls of a kvmipa program",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("-o", "--output", metavar="FILE", default=DEFAULT_FILE, help=f"the trace ({DEFAULT_FILE})")
    parser.add_argument("command", nargs=argparse.REMAINDER, metavar="-- COMMAND [ARG ...]", help="what is run")
    parser.set_defaults(run=run)


def run(arguments: Namespace, output: Output) -> int:
    """Run the command with a trace."""
    from pathlib import Path

    from kvmipa.cli import UsageError
    from kvmipa.trace.to_file import VARIABLE

    command = arguments.command
    if not command or command[0] != "--":
        raise UsageError(f"-- is missing before the command: kvmipa record -- {' '.join(command) or 'COMMAND'}")
    if not command[1:]:
        raise UsageError("no COMMAND behind --")
    # The command may change its directory.
    path = Path(arguments.output).absolute()
    _make_way(path)
    environment = {**os.environ, **_choice(arguments), VARIABLE: str(path)}
    status = _run_command(command[1:], environment, output)
    return _report(path, command[1:], status, output)


def _choice(arguments: Namespace) -> dict[str, str]:
    """The options before the command say which KVM it gets, where it does not say so itself."""
    found = {"KVMIPA_HOST": arguments.host, "KVMIPA_BACKEND": arguments.backend}
    if arguments.host and arguments.backend == "auto":
        found["KVMIPA_BACKEND"] = "emulated"
    return {name: value for name, value in found.items() if value not in {None, "auto"}}


def _make_way(path: Path) -> None:
    """Remove the traces of before; UsageError where what is there is none, or no file can be made."""
    from kvmipa.cli import UsageError

    if path.suffix == ".gz":
        raise UsageError(
            f"{path.name}: a trace is written line by line; compress it afterwards: kvmipa replay reads that"
        )
    try:
        for file in _traces(path):
            if file != path:
                file.unlink()
        if path.exists() or path.is_symlink():
            if not _is_trace(path):
                raise UsageError(f"{path} is there, and is no trace: name another file, or remove it")
            path.unlink()
        path.touch(exist_ok=False)
        path.unlink()
    except OSError as error:
        raise UsageError(f"cannot write {path}: {error.strerror}") from None


def _traces(path: Path) -> Iterator[Path]:
    """The traces of that name; another file in the row is somebody else's."""
    from itertools import takewhile
    from pathlib import Path

    from kvmipa.trace.to_file import names

    return filter(_is_trace, takewhile(Path.exists, map(Path, names(str(path)))))


def _is_trace(path: Path) -> bool:
    """Whether a file is a trace that may be overwritten, or empty."""
    if not path.is_file():
        return False
    with path.open("rb") as file:
        begin = file.read(20)
    return not begin or begin.startswith(b'{"kvmipa_trace":')


def _run_command(command: list[str], environment: dict[str, str], output: Output) -> int:
    """The exit status as a shell has it."""
    import subprocess
    from contextlib import suppress

    try:
        process = subprocess.Popen(command, env=environment)
    except (FileNotFoundError, ValueError):
        # ValueError: a zero byte in a name.
        output.fail(FileNotFoundError(f"{command[0]!r}: there is no such command"))
        return NOT_FOUND
    except OSError as error:
        output.fail(OSError(f"{command[0]!r} cannot be executed: {error.strerror}"))
        return NOT_EXECUTABLE
    status = None
    while status is None:
        # Ctrl-C is for the command, which has it from the terminal as well.
        with suppress(KeyboardInterrupt):
            status = process.wait()
    return status if status >= 0 else SIGNALLED - status


def _counts(file: Path) -> dict[str, int]:
    """Of a trace, whose first line is the header, if a disk was not full before it."""
    lines = notes = 0
    with file.open("rb") as found:
        for line in found:
            lines += 1
            notes += line.startswith(b'{"note"')
    return {"operations": max(lines - 1, 0), "notes": notes}


def _report(path: Path, command: list[str], status: int, output: Output) -> int:
    """Say what was written, on standard error: standard output is the command's."""
    import sys

    from kvmipa.cli.output import SCHEMA

    traces: list[dict[str, Any]] = [{"file": str(file), **_counts(file)} for file in _traces(path)]
    if status in {NOT_FOUND, NOT_EXECUTABLE} and not traces:
        return status
    if output.as_json:
        import json

        found = {"schema": SCHEMA, "command": "record", "program": command, "status": status, "traces": traces}
        print(json.dumps(found, indent=2))
    for trace in traces:
        print(f"kvmipa: {trace['file']}: {trace['operations']} operations, {trace['notes']} notes", file=sys.stderr)
    if not traces:
        print(f"kvmipa: no trace: {command[0]} did not open a KVM with kvmipa", file=sys.stderr)
    return status or (0 if traces else NO_TRACE)
