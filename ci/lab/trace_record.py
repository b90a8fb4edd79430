# SPDX-License-Identifier: Apache-2.0
"""Traces of real kernels: taking them, and comparing new ones with those in the repository."""

from __future__ import annotations

import json
import re
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import zip_longest
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from ci.lab import boot, kernel, record, wheel
from ci.lab.cache import progress
from ci.lab.errors import LabError
from ci.lab.traces import TRACES
from kvmipa.trace import Trace

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator, Sequence

    from ci.lab.cache import Cache
    from ci.lab.config import Configuration, Lab

TIMEOUT = 600.0


@dataclass(frozen=True, slots=True)
class Outcome:
    """What one configuration gave: a trace, or the reason why there is none."""

    configuration: Configuration
    trace: Trace | None
    error: str = ""


def take(lab: Lab, cache: Cache, configurations: Sequence[Configuration]) -> Iterator[Outcome]:
    """Boot each configuration and do the operations of ci.lab.traces on it; as many at a time as the lab has slots."""
    wheel_file = wheel.build(lab, cache)
    for configuration in configurations:
        kernel.fetch(lab, cache, configuration.kernel)

    def one(configuration: Configuration) -> Outcome:
        try:
            return Outcome(configuration, _take(lab, cache, configuration, wheel_file))
        except LabError as error:
            return Outcome(configuration, None, str(error))

    with ThreadPoolExecutor(lab.machine.slots) as pool:
        yield from pool.map(one, configurations)


def _take(lab: Lab, cache: Cache, configuration: Configuration, wheel_file: Path) -> Trace:
    header = json.dumps({"lab": record.circumstances(lab, cache, configuration)})
    with TemporaryDirectory(prefix="kvmipa-lab-") as scratch:
        result = boot.run_in_guest(
            configuration,
            ["python3", "-m", "ci.lab.traces", "/out/trace.jsonl.gz", header],
            wheel_file=wheel_file,
            timeout=TIMEOUT,
            out_dir=Path(scratch),
            lab=lab,
            cache=cache,
        )
        if result.timed_out or result.exit_status:
            why = "time is up" if result.timed_out else f"exit status {result.exit_status}"
            raise LabError(f"{configuration.name}: no trace ({why}); console: {result.console_path}")
        progress(f"{configuration.name}: traced in {result.seconds_total:.1f} s")
        return Trace.read(Path(scratch) / "trace.jsonl.gz")


def with_gic(lab: Lab, gic: str | None) -> Lab:
    """The lab with another interrupt controller in its machine: "v2" or "v3"."""
    if gic is None:
        return lab
    machine = re.sub(r"gic-version=\d", f"gic-version={gic[1:]}", lab.machine.machine)
    return replace(lab, machine=replace(lab.machine, machine=machine))


def file_of(configuration: Configuration, directory: Path = TRACES, gic: str | None = None) -> Path:
    """Where a configuration's trace is kept."""
    return directory / f"{configuration.name}{f'__gic{gic}' if gic else ''}.jsonl.gz"


def differences(committed: Trace, fresh: Trace) -> list[str]:
    """Where a new trace says something else; the kernel's point release and how it was taken may differ."""
    pairs = enumerate(zip_longest(committed.steps, fresh.steps))
    return [f"step {number}: {old} in the repository, {new} now" for number, (old, new) in pairs if old != new]


# ---------------------------------------------------------------------------------------------- the subcommand


def add_command(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add ``trace`` to the lab's command line."""
    parser = commands.add_parser(
        "trace",
        help="trace what real kernels answer to VMs, memory, devices and vCPUs, into tests/data/traces",
        description="Without names: every configuration that lab.toml lists under [record].",
    )
    parser.add_argument("kernel", nargs="?", metavar="KERNEL", help="one kernel, on CPU")
    parser.add_argument("cpu", nargs="?", metavar="CPU")
    parser.add_argument("--mode", help="KVM's mode, with KERNEL and CPU")
    parser.add_argument("--gic", choices=("v2", "v3"), help="the machine's interrupt controller; default: lab.toml's")
    parser.add_argument("--check", action="store_true", help="write nothing: compare with the traces in the repository")
    parser.add_argument("--out", type=Path, default=TRACES, metavar="DIR", help="another place")
    parser.set_defaults(run=_command)


def _command(lab: Lab, cache: Cache, options: argparse.Namespace) -> int:
    if bool(options.kernel) != bool(options.cpu) or (options.mode and not options.kernel):
        raise LabError("trace takes a kernel and a CPU, or neither; --mode goes with them")
    names = (
        [(options.kernel, options.cpu, options.mode or "default")] if options.kernel else list(_recorded(lab, cache))
    )
    failed = False
    lab = with_gic(lab, options.gic)
    for outcome in take(lab, cache, [lab.configuration(*name) for name in names]):
        problems = _keep(outcome, file_of(outcome.configuration, options.out, options.gic), check=options.check)
        failed = failed or bool(problems)
        for problem in problems[:20]:
            print(f"  {problem}")
    return 1 if failed else 0


def _recorded(lab: Lab, cache: Cache) -> Iterator[tuple[str, ...]]:
    """What lab.toml lists, but for kernels that would have to be built first."""
    built = lab.built_kernels
    return (names for names in lab.recorded if names[0] not in built or kernel.cached(cache, built[names[0]]))


def _keep(outcome: Outcome, path: Path, *, check: bool) -> list[str]:
    """Write or compare one trace; what is wrong with it."""
    name, fresh = outcome.configuration.name, outcome.trace
    if fresh is None:
        print(f"{name}: NO TRACE")
        return [outcome.error]
    if check:
        problems = differences(Trace.read(path), fresh) if path.is_file() else ["there is no such trace"]
        print(f"{name}: {len(fresh.steps)} steps: {f'{len(problems)} DIFFERENCES' if problems else 'as traced'}")
        return problems
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh.write(path)
    print(f"{name}: {len(fresh.steps)} steps, Linux {fresh.header['release']}: {path.name}")
    return []
