# SPDX-License-Identifier: Apache-2.0
"""Recordings of real kernels: taking them, and keeping them or comparing them with those in the repository.

What is recorded is a Kind: ci.lab.kinds has all of them.
"""

from __future__ import annotations

import json
import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from itertools import product
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, Final

from ci.lab import boot, kernel, programs, wheel
from ci.lab.cache import progress
from ci.lab.config import GICS
from ci.lab.errors import LabError
from ci.lab.listener import Terminal

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from ci.lab.cache import Cache
    from ci.lab.config import Configuration, Lab, Machine
    from ci.lab.listener import Listener

DATA: Final = Path(__file__).parents[2] / "tests" / "data"

# Linux 7.3 with 16K pages steps through a VM of 52 bits 32 MiB at a time when it is closed: minutes under emulation.
TIMEOUT: Final = 900.0
# Of the differences of a file, how many are shown.
_SHOWN: Final = 20


@dataclass(frozen=True, eq=False)
class Kind:
    """Something that is recorded of a kernel on a CPU, in files of its own."""

    #: The subcommand.
    command: str
    help: str
    #: A folder of tests/data.
    folder: str
    #: The module that runs in the guest, ``python3 -m MODULE PATH HEADER``.
    module: str
    #: What is behind the configuration's name in PATH.
    suffix: str
    #: Where a new file says something else than the one in the repository.
    differences: Callable[[Path, Path], list[str]]
    #: What is in a configuration's files, in a few words.
    describe: Callable[[Sequence[Path]], str]
    #: What lab.toml lists of it; None: what has files already.
    listed: Callable[[Lab], Sequence[tuple[str, ...]]] | None = None
    #: Who is there while a guest runs.
    attend: Callable[[Configuration], Attendant] = lambda _: Attendant()
    #: More of run_in_guest's arguments.
    machine: Mapping[str, Any] = field(default_factory=dict)
    #: Whether the subcommand chooses the interrupt controller.
    chooses_gic: bool = False

    @property
    def directory(self) -> Path:
        """Where the repository has them."""
        return DATA / self.folder

    def path(self, configuration: Configuration, directory: Path) -> Path:
        """What the guest's module is told to write, as it is kept."""
        return directory / f"{configuration.name}{self.suffix}"

    def files(self, configuration: Configuration, directory: Path) -> list[Path]:
        """The files of a configuration: the one, or without a suffix all that have its name and a size in front."""
        path = self.path(configuration, directory)
        found = [path] if self.suffix else directory.glob(f"{path.name}__[0-9]*")
        return sorted(one for one in found if one.is_file())


class Attendant:
    """Who is there while a guest runs; this one only passes on what the guest's module says, such as why it failed.

    header: more of HEADER. gdb_port: where QEMU's gdb stub is to be.
    """

    def __init__(
        self, header: Mapping[str, Any] | None = None, listener: Listener | None = None, gdb_port: int | None = None
    ) -> None:
        self.header = header or {}
        self.listener = listener or Terminal(console="none")
        self.gdb_port = gdb_port

    def trouble(self) -> str:
        """What more to say where the guest's module failed."""
        return ""

    def finish(self, path: Path) -> None:
        """The guest has left this file: add to it; raises LabError."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What one configuration gave: files, or the reason why there are none."""

    configuration: Configuration
    files: tuple[Path, ...]
    error: str = ""


# ---------------------------------------------------------------------------------------------- taking


@dataclass(frozen=True)
class Taker:
    """Records one kind into a directory."""

    kind: Kind
    lab: Lab
    cache: Cache
    directory: Path

    def take(self, configurations: Sequence[Configuration]) -> Iterator[Outcome]:
        """Boot each configuration and record it; as many at a time as the lab has slots."""
        wheel_file = wheel.build(self.lab, self.cache)
        for configuration in configurations:
            kernel.fetch(self.lab, self.cache, configuration.kernel)

        def one(configuration: Configuration) -> Outcome:
            try:
                return Outcome(configuration, self._take(configuration, wheel_file))
            except LabError as error:
                return Outcome(configuration, (), str(error))

        with ThreadPoolExecutor(self.lab.machine.slots) as pool:
            yield from pool.map(one, configurations)

    def _take(self, configuration: Configuration, wheel_file: Path) -> tuple[Path, ...]:
        kind, attendant = self.kind, self.kind.attend(configuration)
        path = kind.path(configuration, self.directory)
        header = json.dumps({"lab": circumstances(self.lab, self.cache, configuration), **attendant.header})
        result = boot.run_in_guest(
            configuration,
            ["python3", "-m", kind.module, f"/out/{path.name}", header],
            wheel_file=wheel_file,
            timeout=TIMEOUT,
            out_dir=self.directory,
            listener=attendant.listener,
            gdb_port=attendant.gdb_port,
            lab=self.lab,
            cache=self.cache,
            **kind.machine,
        )
        if result.timed_out or result.exit_status:
            why = "time is up" if result.timed_out else f"exit status {result.exit_status}"
            raise LabError(f"{why}{attendant.trouble()}; console: {result.console_path}")
        files = tuple(kind.files(configuration, self.directory))
        if files:
            attendant.finish(path)
        progress(f"{configuration.name}: recorded in {result.seconds_total:.1f} s")
        return files


def circumstances(lab: Lab, cache: Cache, configuration: Configuration) -> dict[str, object]:
    """What only the outside knows of a recording."""
    fetched = kernel.fetch(lab, cache, configuration.kernel)
    return {
        "kernel": configuration.kernel.name,
        "cpu": configuration.cpu.name,
        "mode": configuration.mode.name,
        "qemu_cpu": configuration.cpu.qemu,
        "package_version": fetched.version,
        "qemu": _qemu_version(lab.machine),
    }


def _qemu_version(machine: Machine) -> str:
    path = programs.find(machine.qemu, machine.qemu_package)
    return subprocess.run([path, "--version"], capture_output=True, text=True, check=True).stdout.splitlines()[0]


# ---------------------------------------------------------------------------------------------- the subcommand


def add_command(kind: Kind, commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the kind's subcommand to the lab's command line."""
    listed = "every configuration that lab.toml lists" if kind.listed else "every configuration that has files already"
    parser = commands.add_parser(
        kind.command,
        help=f"{kind.help}, into tests/data/{kind.folder}",
        description=f"Without names: {listed}, where its kernel is not one that has to be built first.",
    )
    parser.add_argument("kernel", nargs="?", metavar="KERNEL", help="one kernel, on CPU")
    parser.add_argument("cpu", nargs="?", metavar="CPU")
    parser.add_argument("--mode", help="KVM's mode, with KERNEL and CPU")
    if kind.chooses_gic:
        parser.add_argument(
            "--gic", choices=tuple(GICS), help="the machine's interrupt controller, with KERNEL and CPU"
        )
    parser.add_argument("--check", action="store_true", help="write nothing: compare with the repository's")
    parser.add_argument("--out", type=Path, default=kind.directory, metavar="DIR", help="another place")
    parser.set_defaults(run=partial(_command, kind), gic=None)


def _command(kind: Kind, lab: Lab, cache: Cache, options: argparse.Namespace) -> int:
    if bool(options.kernel) != bool(options.cpu):
        raise LabError(f"{kind.command} takes a kernel and a CPU, or neither")
    if (options.mode or options.gic) and not options.kernel:
        options_of_one = "--mode and --gic take" if kind.chooses_gic else "--mode takes"
        raise LabError(f"{kind.command} {options_of_one} a kernel and a CPU: what is listed has its own")
    if options.kernel:
        configurations = [
            lab.configuration(options.kernel, options.cpu, options.mode or "default", options.gic or "default")
        ]
    else:
        configurations = list(_available(_listed(kind, lab), lab, cache))
    if options.check:
        _expect_files(kind, configurations, options.out)
    with TemporaryDirectory(prefix="kvmipa-lab-") as scratch:
        outcomes = Taker(kind, lab, cache, Path(scratch)).take(configurations)
        good = [_report(kind, outcome, options.out, check=options.check) for outcome in outcomes]
    return 0 if all(good) else 1


def _listed(kind: Kind, lab: Lab) -> list[Configuration]:
    if kind.listed is not None:
        return [lab.configuration(*names) for names in kind.listed(lab)]
    every = (lab.configuration(*names) for names in product(lab.all_kernels, lab.cpus, lab.modes))
    return [configuration for configuration in every if kind.files(configuration, kind.directory)]


def _available(configurations: Sequence[Configuration], lab: Lab, cache: Cache) -> Iterator[Configuration]:
    """But for kernels that would have to be built first."""
    absent = {name: item for name, item in lab.built_kernels.items() if kernel.cached(cache, item) is None}
    for name in sorted(absent.keys() & {it.kernel.name for it in configurations}):
        progress(f"{name} is left out: it is {kernel.how_to_build(absent[name])}")
    yield from (it for it in configurations if it.kernel.name not in absent)


def _expect_files(kind: Kind, configurations: Sequence[Configuration], directory: Path) -> None:
    """Refuse to compare with what is not there, before minutes go into booting."""
    missing = [it.name for it in configurations if not kind.files(it, directory)]
    if missing:
        raise LabError(f"nothing to compare with: {directory} has no files of {', '.join(missing)}")


def _report(kind: Kind, outcome: Outcome, directory: Path, *, check: bool) -> bool:
    """Keep or compare what was taken, and say so; whether it is as it should be."""
    name = outcome.configuration.name
    if not outcome.files:
        print(f"{name}: NOT RECORDED\n  {outcome.error or 'the guest left no file'}", flush=True)
        return False
    problems = []
    if check:
        problems = _problems(kind, outcome, directory)
        verdict = f"{len(problems)} DIFFERENCES" if problems else "as recorded"
    else:
        _keep(kind, outcome, directory)
        verdict = "kept"
    print(f"{name}: {kind.describe(outcome.files)}: {verdict}", flush=True)
    for problem in problems[:_SHOWN]:
        print(f"  {problem}")
    return not problems


def _keep(kind: Kind, outcome: Outcome, directory: Path) -> None:
    """Put what was taken in the place of what there was."""
    directory.mkdir(parents=True, exist_ok=True)
    for old in kind.files(outcome.configuration, directory):
        old.unlink()
    for path in outcome.files:
        shutil.copyfile(path, directory / path.name)


def _problems(kind: Kind, outcome: Outcome, directory: Path) -> list[str]:
    """Where what was taken says something else than what there is."""
    old = {path.name: path for path in kind.files(outcome.configuration, directory)}
    new = {path.name: path for path in outcome.files}
    problems = [f"{name}: not taken any more" for name in old.keys() - new.keys()]
    problems += [f"{name}: there was no such file" for name in new.keys() - old.keys()]
    for name in sorted(old.keys() & new.keys()):
        problems += [f"{name}: {it}" if len(new) > 1 else it for it in kind.differences(old[name], new[name])]
    return problems
