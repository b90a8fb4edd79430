# SPDX-License-Identifier: Apache-2.0
"""The command line: ``kvmipa COMMAND``; each command is a module of this package."""

from __future__ import annotations

import argparse
import os
import sys
from typing import TYPE_CHECKING, Final, NoReturn

from kvmipa import errors
from kvmipa.backend import DEVICE
from kvmipa.cli import (
    completion,
    conform,
    create,
    doctor,
    hosts,
    machine_type,
    plan,
    probe,
    record,
    replay,
    report,
    stage2,
    sweep,
)
from kvmipa.cli.output import Output

if TYPE_CHECKING:
    from collections.abc import Sequence

YES: Final = 0
NO: Final = 1
USAGE: Final = 2
UNAVAILABLE: Final = 3
INTERRUPTED: Final = 130

COMMANDS: Final = (
    probe,
    create,
    stage2,
    sweep,
    machine_type,
    plan,
    conform,
    report,
    record,
    replay,
    hosts,
    doctor,
    completion,
)

EPILOG: Final = """\
exit status:
  0  yes: done, or the host can
  1  no: the host cannot, or a check failed
  2  wrong usage
  3  the backend that was asked for is not available here (kvmipa doctor says why)
  130  interrupted (Ctrl-C)

environment:
  KVMIPA_BACKEND  auto, native or emulated, where --backend is not given
  KVMIPA_HOST     the machine to emulate where the backend is emulated and --host is not given;
                  it does not choose the backend, as --host does
  KVMIPA_TRACE    a file that gets a trace of each KVM that is opened; see: kvmipa record --help

examples:
  kvmipa probe                                      what can this machine's KVM do? (emulated where there is none)
  kvmipa --host apple-m1 create                     does a VM of the default size work on an Apple M1?
  kvmipa --host raspberry-pi-4 --json probe         the same question of a Raspberry Pi 4, answered in JSON
  kvmipa type explain 0x80000028                    what does this argument of KVM_CREATE_VM mean?
"""


class UsageError(ValueError):
    """The command line itself is wrong."""


class Parser(argparse.ArgumentParser):
    """argparse, whose errors go the way of all others: in JSON too, and as an exit status."""

    def error(self, message: str) -> NoReturn:
        """Show the usage, and give up."""
        self.print_usage(sys.stderr)
        raise UsageError(message)


def parser() -> Parser:
    """The whole command line."""
    top = Parser(
        prog="kvmipa",
        description="Ask an arm64 KVM, real or emulated, for its guest physical address (IPA) sizes.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    _global_options(top, {"backend": "auto", "host": None, "device": DEVICE, "json": False})
    from kvmipa import __version__

    top.add_argument("--version", action="version", version=f"kvmipa {__version__}")
    commands = top.add_subparsers(title="commands", metavar="COMMAND", required=True)
    common = common_options("backend", "host", "device", "json")
    for command in COMMANDS:
        command.add_parser(commands, common)
    return top


def common_options(*names: str) -> argparse.ArgumentParser:
    """The global options for after the command: without a default there, so as not to undo what stands before it."""
    common = argparse.ArgumentParser(add_help=False)
    _global_options(common, dict.fromkeys(names, argparse.SUPPRESS))
    return common


def _global_options(target: argparse.ArgumentParser, defaults: dict[str, object]) -> None:
    """The options that stand before or after the command."""
    group = target.add_argument_group("which KVM")
    group.add_argument(
        "--backend",
        choices=("auto", "native", "emulated"),
        default=defaults["backend"],
        help="the real kernel, the emulated one, or (auto) the real one where it is an arm64 KVM",
    )
    group.add_argument(
        "--host", metavar="PRESET", default=defaults["host"], help="the machine to emulate; see: kvmipa hosts"
    )
    if "device" in defaults:  # "kvmipa plan" has another use for the name
        group.add_argument("--device", metavar="PATH", default=defaults["device"], help="the KVM device (/dev/kvm)")
    group.add_argument(
        "--json", action="store_true", default=defaults["json"], help="one JSON object on standard output"
    )


def _status(error: Exception) -> int:
    """The exit status that an error stands for: what no host could ever do is wrong usage."""
    if isinstance(error, (errors.BackendUnavailableError, errors.NotArm64KvmError)):
        return UNAVAILABLE
    return USAGE if isinstance(error, ValueError) else NO


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit status."""
    status = YES
    try:
        status = _run(sys.argv[1:] if argv is None else argv)
        if sys.stdout is not None:
            sys.stdout.flush()
    except BrokenPipeError:
        _abandon_standard_output()  # a pager or head went away: no error
    except OSError as error:
        print(f"kvmipa: standard output: {error.strerror}", file=sys.stderr)
        _abandon_standard_output()
        return NO
    except KeyboardInterrupt:
        print("kvmipa: interrupted", file=sys.stderr)
        return INTERRUPTED
    return status


def _run(words: Sequence[str]) -> int:
    output = Output(as_json="--json" in words)
    try:
        arguments = parser().parse_args(words)
        output = Output(as_json=arguments.json)
        status: int = arguments.run(arguments, output)
    except SystemExit:
        return YES  # --help and --version
    except BrokenPipeError:
        raise
    except (OSError, ValueError) as error:
        output.fail(error)
        return _status(error)
    return status


def _abandon_standard_output() -> None:
    """Python would complain once more when it flushes at exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
