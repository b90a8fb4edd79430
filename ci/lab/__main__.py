# SPDX-License-Identifier: Apache-2.0
"""The command line of the lab."""

from __future__ import annotations

import argparse
import contextlib
import shlex
import signal
import sys
import time
import xml.etree.ElementTree as ET
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from ci.lab import (
    access_record,
    bench,
    boot,
    build_kernel,
    config,
    fuzz,
    kernel,
    qemu,
    record,
    root,
    stage2_samples,
    trace_record,
    wheel,
)
from ci.lab.cache import Cache, progress
from ci.lab.errors import GuestTimeoutError, LabError
from ci.lab.listener import Terminal
from ci.lab.overlay import parse_copies
from ci.packaging.build import SOURCE

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from types import FrameType

    from ci.lab.config import Configuration, Lab
    from ci.lab.conversation import GuestResult

# As timeout(1) and git bisect have it: neither can be mistaken for the status of an ordinary command.
EXIT_TIMEOUT = 124
EXIT_LAB = 125
# 128 + SIGTERM, as a shell has it.
EXIT_TERMINATED = 143

DESCRIPTION = """\
Boot real arm64 Linux kernels that have a working /dev/kvm under qemu-system-aarch64, and run a command in the guest.
No hardware virtualisation is used, and nothing is installed on this machine.
"""

EPILOG = """\
examples:
  python -m ci.lab list                                 what there is, and what is in the cache
  python -m ci.lab fetch                                download all kernels that Debian has
  python -m ci.lab build-kernel 6.12-64k-lab            build one that it does not have
  python -m ci.lab test 6.12 max                        the test suite on Linux 6.12, QEMU's largest CPU
  python -m ci.lab test 6.1 cortex-a57 -- -k memslot    a part of it on an older kernel and a smaller CPU
  python -m ci.lab record --check 6.12 max              does that kernel still answer as recorded?
  python -m ci.lab trace 6.12 max                       what it answers to VMs, memory, devices and vCPUs
  python -m ci.lab fuzz 7.3 max --operations 200000     random operations, there and on the emulation
  python -m ci.lab bench 6.12 max                       the machine-type sweep, Python against C
  python -m ci.lab run 6.12 max --mode protected -- kvmipa doctor
  python -m ci.lab run 7.3 max --out results --no-wheel -- sh -c 'dmesg > /out/dmesg'
  python -m ci.lab run 6.12 max --copy probe.py:/probe.py -- python3 /probe.py

Whatever a command needs (kernel, root filesystem, wheel) is downloaded and built first if it is not in the cache, which
is $KVMIPA_LAB_CACHE, or kvmipa-lab in the user's cache directory. Debian packages come from the mirror that this
machine's apt uses, or from $KVMIPA_LAB_MIRROR, the URI of a Debian mirror: machines that are not Debian have to name
one. Its packages are verified with $KVMIPA_LAB_KEYRING, or with debian-archive-keyring's
(apt install debian-archive-keyring).

exit status of run and test: the command's own (128 + n where signal n ended it), 124 where its time was up,
125 where the lab itself failed.

needs: Python 3.11, qemu-system-aarch64, apt and dpkg-deb, and for the wheel gcc-aarch64-linux-gnu
(Debian: apt install qemu-system-arm gcc-aarch64-linux-gnu).
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one subcommand; its exit status."""
    options = _parse(sys.argv[1:] if arguments is None else arguments)
    try:
        with _ended_by_sigterm():
            status: int = options.run(config.load(), Cache(), options)
    except GuestTimeoutError as error:
        print(f"lab: {error}", file=sys.stderr)
        return EXIT_TIMEOUT
    except LabError as error:
        print(f"lab: {error}", file=sys.stderr)
        return EXIT_LAB
    except KeyboardInterrupt:
        return 130
    return status


@contextlib.contextmanager
def _ended_by_sigterm() -> Iterator[None]:
    """Have SIGTERM raise SystemExit: its default action would end the lab and leave its QEMU running."""
    previous = signal.signal(signal.SIGTERM, _terminate)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)


def _terminate(number: int, frame: FrameType | None) -> None:
    # A second one would break off the cleaning up after the first.
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    qemu.STOPPING.set()
    raise SystemExit(EXIT_TERMINATED)


# ---------------------------------------------------------------------------------------------- the parser


def _parse(arguments: Sequence[str]) -> argparse.Namespace:
    """The options, and in `command` what follows the first --.

    argparse has no notion of that: it would read on for options of its own in the guest's command.
    """
    parser = _parser()
    own, command = list(arguments), []
    if "--" in own:
        at = own.index("--")
        own, command = own[:at], own[at + 1 :]
    options = parser.parse_args(own)
    if options.run not in (_run, _test) and command:
        parser.error("only run and test take a command after --")
    if options.run is _run and not command:
        parser.error("run takes a command after --")
    options.command = command
    return options


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m ci.lab",
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(metavar="COMMAND", required=True)

    listing = commands.add_parser("list", help="the configurations, and what is in the cache")
    listing.set_defaults(run=_list)

    fetch = commands.add_parser("fetch", help="download kernels")
    fetch.add_argument("kernels", nargs="*", metavar="KERNEL", help="default: all that are downloaded")
    fetch.add_argument("--again", action="store_true", help="look for a newer version also where one is in the cache")
    fetch.set_defaults(run=_fetch)

    building = commands.add_parser("build-kernel", help="build a kernel that Debian does not have, from its sources")
    building.add_argument("kernels", nargs="+", metavar="KERNEL", help="such as 6.12-64k-lab; see list")
    building.add_argument(
        "--again", action="store_true", help="look for newer sources also where some are in the cache"
    )
    building.set_defaults(run=_build_kernel)

    making_root = commands.add_parser("root", help="build the guest's root filesystem")
    making_root.add_argument("--again", action="store_true", help="build it anew, from today's packages")
    making_root.set_defaults(run=_root)

    making_wheel = commands.add_parser("wheel", help="cross-build the arm64 wheel of the working tree")
    making_wheel.add_argument("--source", type=Path, default=SOURCE, metavar="DIR", help="another source tree")
    making_wheel.set_defaults(run=_wheel)

    running = commands.add_parser(
        "run",
        help="boot a kernel and run a command in it",
        usage="%(prog)s KERNEL CPU [option ...] -- COMMAND [ARG ...]",
    )
    _add_guest_arguments(running)
    running.set_defaults(run=_run)

    testing = commands.add_parser(
        "test",
        help="boot a kernel and run the test suite in it",
        usage="%(prog)s KERNEL CPU [option ...] [-- PYTEST-ARG ...]",
    )
    _add_guest_arguments(testing)
    testing.set_defaults(run=_test)

    benching = commands.add_parser("bench", help="boot a kernel and measure against C in it")
    _add_guest_arguments(benching)
    benching.add_argument(
        "--benchmark", choices=sorted(bench.NAMES), default="machine_type_sweep", help="default: machine_type_sweep"
    )
    benching.set_defaults(run=_bench)

    recording = commands.add_parser(
        "record",
        help="record what real kernels answer, into tests/data/recordings",
        description="Without names: every configuration that lab.toml lists under [record], where its kernel is "
        "not one that has to be built first.",
    )
    recording.add_argument("kernel", nargs="?", metavar="KERNEL", help="one kernel, on CPU")
    recording.add_argument("cpu", nargs="?", metavar="CPU")
    recording.add_argument("--mode", help="KVM's mode, with KERNEL and CPU")
    recording.add_argument(
        "--check", action="store_true", help="write nothing: compare with the recordings in the repository"
    )
    recording.add_argument("--out", type=Path, default=record.RECORDINGS, metavar="DIR", help="another place")
    recording.set_defaults(run=_record)

    sampling = commands.add_parser(
        "sample", help="read VTCR_EL2 and the stage-2 tables of VMs of every size, into tests/data/stage2_samples"
    )
    sampling.add_argument("kernel", metavar="KERNEL")
    sampling.add_argument("cpu", metavar="CPU")
    sampling.add_argument("--mode", default="default", help="KVM's mode")
    sampling.add_argument("--out", type=Path, default=stage2_samples.SAMPLES, metavar="DIR", help="another place")
    sampling.set_defaults(run=_sample)
    trace_record.add_command(commands)
    access_record.add_command(commands)
    fuzz.add_command(commands)
    return parser


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


# ---------------------------------------------------------------------------------------------- the subcommands


def _list(lab: Lab, cache: Cache, options: argparse.Namespace) -> int:
    print(f"cache: {cache.root}")
    guest_root = root.cached(lab, cache)
    print(f"root:  {_describe_root(guest_root)}")
    print("\nkernels")
    for item in lab.all_kernels.values():
        fetched = kernel.cached(cache, item)
        absent = "not built" if item.name in lab.built_kernels else "not fetched"
        state = f"{fetched.release} ({fetched.version})" if fetched else absent
        print(f"  {item.name:12} {item.page_size // 1024:2}K pages, {item.pa_bits}-bit PA  {item.suite:17} {state}")
    print("\nCPUs")
    for cpu in lab.cpus.values():
        print(f"  {cpu.name:14} -cpu {cpu.qemu}")
    print("\nmodes")
    for mode in lab.modes.values():
        print(f"  {mode.name:14} {mode.about}")
    print("\nwhat does not work")
    for obstacle in lab.obstacles:
        names = (obstacle.kernels, obstacle.cpus, obstacle.modes)
        which = " x ".join(",".join(group) for group in names if group is not None)
        print(f"  {which}:\n      {obstacle.why}")
    return 0


def _describe_root(guest_root: root.GuestRoot | None) -> str:
    if guest_root is None:
        return "not built"
    size = guest_root.archive.stat().st_size / 1e6
    return f"{guest_root.suite}, Python {guest_root.python}, {size:.0f} MB"


def _fetch(lab: Lab, cache: Cache, options: argparse.Namespace) -> int:
    for name in options.kernels:
        lab.configuration(name, next(iter(lab.cpus)))
    failed = False
    for name in options.kernels or lab.kernels:
        try:
            fetched = kernel.fetch(lab, cache, lab.all_kernels[name], again=options.again)
        except LabError as error:
            print(f"lab: {name}: {error}", file=sys.stderr)
            failed = True
        else:
            print(f"{name:12} {fetched.release:30} {fetched.image}")
    for item in lab.built_kernels.values() if not options.kernels else ():
        print(f"{item.name:12} {kernel.how_to_build(item)}")
    return EXIT_LAB if failed else 0


def _build_kernel(lab: Lab, cache: Cache, options: argparse.Namespace) -> int:
    for name in options.kernels:
        if name not in lab.built_kernels:
            raise LabError(f"{name} is not among the kernels that are built here: {', '.join(lab.built_kernels)}")
    for name in options.kernels:
        built = build_kernel.build(lab, cache, lab.built_kernels[name], again=options.again)
        print(f"{name:12} {built.release:30} {built.image}")
    return 0


def _root(lab: Lab, cache: Cache, options: argparse.Namespace) -> int:
    guest_root = root.build(lab, cache, again=options.again)
    print(f"{_describe_root(guest_root)}: {guest_root.archive}")
    return 0


def _wheel(lab: Lab, cache: Cache, options: argparse.Namespace) -> int:
    print(wheel.build(lab, cache, options.source))
    return 0


def _run(lab: Lab, cache: Cache, options: argparse.Namespace) -> int:
    configuration = _configuration(lab, options)
    result = _guest(lab, cache, options, options.command, options.out)
    _report_time_out(result)
    progress(
        f"{configuration.name} ({result.guest['release']}): exit status {result.exit_status}, "
        f"init after {result.seconds_to_init:.1f} s, {result.seconds_total:.1f} s in all"
    )
    return EXIT_TIMEOUT if result.timed_out else result.exit_status


def _test(lab: Lab, cache: Cache, options: argparse.Namespace) -> int:
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


def _bench(lab: Lab, cache: Cache, options: argparse.Namespace) -> int:
    with TemporaryDirectory(prefix="kvmipa-lab-") as scratch:
        name = options.benchmark
        program = bench.compile_program(name, lab.wheel.compiler, lab.wheel.compiler_package, Path(scratch))
        options.copy.append(f"{program}:{bench.NAMES[name]}")
        result = _guest(lab, cache, options, bench.command(name), options.out)
    _report_time_out(result)
    return EXIT_TIMEOUT if result.timed_out else result.exit_status


def _record(lab: Lab, cache: Cache, options: argparse.Namespace) -> int:
    if options.kernel and not options.cpu:
        raise LabError("record takes a kernel and a CPU, or neither")
    if options.mode and not options.kernel:
        raise LabError("record --mode takes a kernel and a CPU: lab.toml names the modes of what it lists")
    one = (options.kernel, options.cpu, options.mode or "default")
    names = [one] if options.kernel else list(_recorded(lab, cache))
    configurations = [lab.configuration(*name) for name in names]
    if options.check:
        _expect_recordings(configurations, options.out)
    failed = False
    for outcome in record.record(lab, cache, configurations):
        problems = _keep(outcome, options.out, check=options.check)
        failed = failed or bool(problems)
        for problem in problems[:20]:
            print(f"  {problem}")
    return 1 if failed else 0


def _sample(lab: Lab, cache: Cache, options: argparse.Namespace) -> int:
    configuration = _configuration(lab, options)
    lines = stage2_samples.take(lab, cache, configuration)
    path = record.file_of(configuration, options.out)
    stage2_samples.write(lines, path)
    print(f"{configuration.name}: {len(lines) - 1} VMs, Linux {lines[0]['release']}: {path.name}")
    return 0


def _recorded(lab: Lab, cache: Cache) -> Iterator[tuple[str, ...]]:
    """What lab.toml lists, but for kernels that would have to be built first."""
    absent = {name: item for name, item in lab.built_kernels.items() if kernel.cached(cache, item) is None}
    for name in sorted(absent.keys() & {names[0] for names in lab.recorded}):
        progress(f"{name} is left out: it is {kernel.how_to_build(absent[name])}")
    yield from (names for names in lab.recorded if names[0] not in absent)


def _expect_recordings(configurations: Sequence[Configuration], directory: Path) -> None:
    """Refuse to compare with what is not there, before minutes go into booting."""
    missing = [item.name for item in configurations if not record.file_of(item, directory).is_file()]
    if missing:
        raise LabError(f"nothing to compare with: there is no recording of {', '.join(missing)}")


def _keep(outcome: record.Outcome, directory: Path, *, check: bool) -> list[str]:
    """Write or compare one recording; what is wrong with it."""
    name, fresh = outcome.configuration.name, outcome.recording
    if fresh is None:
        print(f"{name}: NOT RECORDED")
        return [outcome.error]
    path = record.file_of(outcome.configuration, directory)
    if not check:
        directory.mkdir(parents=True, exist_ok=True)
        with path.open("w") as file:
            fresh.write(file)
        print(f"{name}: {len(fresh.observations)} observations, Linux {fresh.header['release']}: {path.name}")
        return []
    problems = record.differences(record.read(path), fresh)
    verdict = f"{len(problems)} DIFFERENCES" if problems else "as recorded"
    print(f"{name}: {len(fresh.observations)} observations, Linux {fresh.header['release']}: {verdict}")
    return problems


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


if __name__ == "__main__":
    sys.exit(main())
