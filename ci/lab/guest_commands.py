# SPDX-License-Identifier: Apache-2.0
"""The subcommands that boot a kernel for one command in it: any, the test suite, the conformance run, a benchmark."""

from __future__ import annotations

import shlex
import time
import xml.etree.ElementTree as ET
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from ci.lab import bench, boot, wheel
from ci.lab.cache import progress
from ci.lab.errors import LabError
from ci.lab.listener import Terminal
from ci.lab.overlay import parse_copies

if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence

    from ci.lab.cache import Cache
    from ci.lab.config import Configuration, Lab
    from ci.lab.conversation import GuestResult

# As timeout(1) has it: it cannot be mistaken for the status of an ordinary command.
EXIT_TIMEOUT = 124

# What the guest leaves in /out comes back.
CONFORM_REPORTS = (
    "--report=/out/report.json",
    "--ktap=/out/report.ktap",
    "--junit=/out/report.xml",
    "--html=/out/report.html",
)


def add_commands(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add ``run``, ``test`` and ``bench`` to the lab's command line."""
    running = commands.add_parser(
        "run",
        help="boot a kernel and run a command in it",
        usage="%(prog)s KERNEL CPU [option ...] -- COMMAND [ARG ...]",
    )
    _add_guest_arguments(running)
    running.set_defaults(run=run)

    testing = commands.add_parser(
        "test",
        help="boot a kernel and run the test suite in it",
        usage="%(prog)s KERNEL CPU [option ...] [-- PYTEST-ARG ...]",
    )
    _add_guest_arguments(testing)
    testing.set_defaults(run=test)

    conforming = commands.add_parser(
        "conform",
        help="boot a kernel and run kvmipa conform in it; its reports arrive in --out",
        usage="%(prog)s KERNEL CPU [option ...] [-- ARG-OF-CONFORM ...]",
    )
    _add_guest_arguments(conforming)
    conforming.set_defaults(run=conform)

    benching = commands.add_parser("bench", help="boot a kernel and measure against C in it")
    _add_guest_arguments(benching)
    benching.add_argument(
        "--benchmark", choices=sorted(bench.NAMES), default="machine_type_sweep", help="default: machine_type_sweep"
    )
    benching.set_defaults(run=_bench)


def _add_guest_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("kernel", metavar="KERNEL", help="such as 6.12 or 6.12-16k; see list")
    add("cpu", metavar="CPU", help="such as max or cortex-a57; see list")
    add("--mode", default="default", help="KVM's mode: default, nvhe, protected, nested, none")
    add("--memory", type=int, metavar="MIB", help="of the guest")
    add("--smp", type=int, metavar="N", help="CPUs of the guest")
    add("--timeout", type=float, metavar="SECONDS", help="from the start of QEMU to the end of the command")
    add("--append", default="", metavar="WORDS", help="more for the kernel's command line, such as loglevel=7")
    add("--env", action="append", default=[], metavar="NAME=VALUE", help="more for the command's environment")
    add("--copy", action="append", default=[], metavar="HOST:GUEST", help="a file or directory to copy into the guest")
    add("--out", type=Path, metavar="DIR", help="where files that the command leaves in /out arrive")
    add("--gdb", type=int, metavar="PORT", help="QEMU's gdb stub, on 127.0.0.1")
    add("--channel", choices=("auto", "port", "console"), default="auto", help="how results come back")
    add(
        "--console",
        choices=("all", "command", "none"),
        default="command",
        help="which of the kernel's lines to show: all, those that come while the command runs (default), none; "
        "all of them are always kept in a file",
    )
    add("--wheel", type=Path, metavar="FILE", help="install this wheel, instead of building one")
    add("--no-wheel", action="store_true", help="run without kvmipa")


def run(lab: Lab, cache: Cache, options: argparse.Namespace) -> int:
    """Run the command that was given."""
    configuration = _configuration(lab, options)
    result = _guest(lab, cache, options, options.command, options.out)
    _report_time_out(result)
    progress(
        f"{configuration.name} ({result.guest['release']}): exit status {result.exit_status}, "
        f"init after {result.seconds_to_init:.1f} s, {result.seconds_total:.1f} s in all"
    )
    return EXIT_TIMEOUT if result.timed_out else result.exit_status


def test(lab: Lab, cache: Cache, options: argparse.Namespace) -> int:
    """Run the tests that a real kernel can run."""
    configuration = _configuration(lab, options)
    started = time.monotonic()
    with TemporaryDirectory(prefix="kvmipa-lab-") as scratch:
        out = options.out or Path(scratch)
        command = [*lab.test_command, "--junitxml=/out/junit.xml", *options.command]
        result = _guest(lab, cache, options, command, out)
        counts = _counts(out / "junit.xml") if "junit.xml" in result.files else "no test report"
    _report_time_out(result)
    verdict = "passed" if result.exit_status == 0 else f"FAILED (pytest's exit status {result.exit_status})"
    progress(
        f"{configuration.name} ({result.guest['release']}): {verdict}: {counts}; {result.seconds_total:.1f} s from "
        f"boot to verdict, {time.monotonic() - started:.1f} s in all"
    )
    return EXIT_TIMEOUT if result.timed_out else result.exit_status


def conform(lab: Lab, cache: Cache, options: argparse.Namespace) -> int:
    """Run the conformance run as its users do, with a report of each form."""
    configuration = _configuration(lab, options)
    command = ["kvmipa", "--backend", "native", "conform", *CONFORM_REPORTS, *options.command]
    result = _guest(lab, cache, options, command, options.out)
    _report_time_out(result)
    progress(
        f"{configuration.name} ({result.guest['release']}): conform: exit status {result.exit_status}; "
        f"{result.seconds_total - result.seconds_to_init:.1f} s after boot"
    )
    return EXIT_TIMEOUT if result.timed_out else result.exit_status


def _bench(lab: Lab, cache: Cache, options: argparse.Namespace) -> int:
    with TemporaryDirectory(prefix="kvmipa-lab-") as scratch:
        name = options.benchmark
        program = bench.compile_program(name, lab.wheel.compiler, lab.wheel.compiler_package, Path(scratch))
        options.copy.append(f"{program}:{bench.NAMES[name]}")
        result = _guest(lab, cache, options, bench.command(name), options.out)
    _report_time_out(result)
    return EXIT_TIMEOUT if result.timed_out else result.exit_status


def _configuration(lab: Lab, options: argparse.Namespace) -> Configuration:
    return lab.configuration(options.kernel, options.cpu, options.mode)


def _guest(
    lab: Lab, cache: Cache, options: argparse.Namespace, command: Sequence[str], out: Path | None
) -> GuestResult:
    configuration = _configuration(lab, options)
    if why := lab.obstacle(configuration):
        progress(f"{configuration.name} is known not to work: {why}")
    wheel_file: Path | None = options.wheel
    if wheel_file is None and not options.no_wheel:
        wheel_file = wheel.build(lab, cache)
    progress(f"{configuration.name}: {shlex.join(command)}")
    return boot.run_in_guest(
        configuration,
        command,
        files=parse_copies(options.copy),
        wheel_file=wheel_file,
        env=dict(_assignment(word) for word in options.env),
        memory=options.memory,
        smp=options.smp,
        timeout=options.timeout,
        append=options.append,
        out_dir=out,
        gdb_port=options.gdb,
        channel_kind=options.channel,
        listener=Terminal(console=options.console),
        lab=lab,
        cache=cache,
    )


def _assignment(word: str) -> tuple[str, str]:
    name, equals, value = word.partition("=")
    if not name or not equals:
        raise LabError(f"--env {word}: expected NAME=VALUE")
    return name, value


def _report_time_out(result: GuestResult) -> None:
    if result.timed_out:
        progress(f"the command's time was up, and it was ended; console: {result.console_path}")


def _counts(report: Path) -> str:
    """Passes, failures and skips of a JUnit file."""
    totals = dict.fromkeys(("tests", "failures", "errors", "skipped"), 0)
    for suite in ET.parse(report).getroot().iter("testsuite"):
        for name in totals:
            totals[name] += int(suite.get(name, 0))
    bad = totals["failures"] + totals["errors"]
    return f"{totals['tests'] - bad - totals['skipped']} passed, {bad} failed, {totals['skipped']} skipped"


# Those of which what stands behind -- is theirs.
TAKE_COMMAND = (run, test, conform)
