# SPDX-License-Identifier: Apache-2.0
"""The differential fuzzer: random traces on a real kernel and on the emulation of the same host.

The guest does the traces and leaves results; here the emulation does them too. A trace for each kind of difference goes
back to the guest, which shrinks it with both kernels at hand.
"""

from __future__ import annotations

import gzip
import json
import time
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, Final

from ci.lab import boot, fuzz_generator, record, wheel
from ci.lab.cache import progress
from ci.lab.config import GICS
from ci.lab.errors import LabError
from ci.lab.fuzz_guest import RESULTS, unpacked
from ci.lab.fuzz_shrink import Signature, attempt, signature
from ci.lab.listener import Terminal
from ci.lab.trace_list.making import Host
from kvmipa.backend.emulated import EmulatedBackend
from kvmipa.recording import profile_from_json
from kvmipa.trace import Result, Session, Step, Trace, replay

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from ci.lab.cache import Cache
    from ci.lab.config import Configuration, Lab
    from kvmipa.backend import Backend
    from kvmipa.trace import Operation

REGRESSIONS: Final = record.DATA / "traces" / "regressions"
TIMEOUT: Final = 1800.0
# Kinds of differences that are shrunk in one go.
KINDS: Final = 40


@dataclass
class Kind:
    """A kind of difference: how many traces show it first, and the shortest of them."""

    signature: Signature
    count: int
    operations: list[Operation]


# ---------------------------------------------------------------------------------------------- comparing


def compare(
    seed: int, host: Host, backend: Backend, results: Iterable[Sequence[Result]]
) -> Iterator[tuple[Signature, list[Operation]]]:
    """The first difference of each trace that has one, and the trace up to it."""
    for number, expected in enumerate(results):
        operations = fuzz_generator.trace(seed, number, host)
        with Session(backend) as session:
            for at, (operation, real) in enumerate(zip(operations, expected, strict=True)):
                answer = attempt(session, operation)
                if answer != real:
                    yield signature(operation, real, answer), operations[: at + 1]
                    break


def kinds(differences: Iterable[tuple[Signature, list[Operation]]]) -> list[Kind]:
    """Differences by kind, the most frequent first."""
    found: dict[Signature, Kind] = {}
    for which, operations in differences:
        kind = found.setdefault(which, Kind(which, 0, operations))
        kind.count += 1
        if len(operations) < len(kind.operations):
            kind.operations = operations
    return sorted(found.values(), key=lambda kind: -kind.count)


def read_results(path: Path) -> tuple[dict[str, Any], Iterator[list[Result]]]:
    """What the guest left: its profile, and the results of each trace."""
    header, *lines = gzip.decompress(path.read_bytes()).decode().splitlines()
    return json.loads(header)["profile"], (unpacked(json.loads(line)) for line in lines)


# ---------------------------------------------------------------------------------------------- in the guest


@dataclass(frozen=True)
class Guest:
    """A configuration, and what it takes to boot it."""

    lab: Lab
    cache: Cache
    configuration: Configuration

    def run(self, words: Sequence[str], out: Path, files: Mapping[str, Path] | None = None) -> None:
        """Boot it for one command of ci.lab.fuzz_guest; LabError where that fails."""
        name = self.configuration.name
        result = boot.run_in_guest(
            self.configuration,
            ["python3", "-m", "ci.lab.fuzz_guest", *words],
            files=files,
            wheel_file=wheel.build(self.lab, self.cache),
            timeout=TIMEOUT,
            out_dir=out,
            listener=Terminal(console="command"),
            lab=self.lab,
            cache=self.cache,
        )
        if result.timed_out or result.exit_status:
            why = "time is up" if result.timed_out else f"exit status {result.exit_status}"
            raise LabError(f"{name}: the fuzzer's guest failed ({why}); console: {result.console_path}")
        progress(f"{name}: {words[0]} took {result.seconds_total:.1f} s")

    def shrink(self, found: Sequence[Kind], scratch: Path) -> list[Path]:
        """The guest's shortest traces, in the order of the kinds; where there is none, the file is missing."""
        nothing = Result(0, {})
        texts = [Trace({}, tuple(Step(operation, nothing) for operation in kind.operations)).text() for kind in found]
        candidates, out = scratch / "candidates.json", scratch / "shrunk"
        candidates.write_text(json.dumps(texts))
        self.run(["shrink", "/candidates.json", "/out"], out, {"/candidates.json": candidates})
        return [out / f"{number}.jsonl" for number in range(len(found))]


# ---------------------------------------------------------------------------------------------- the subcommand


def add_command(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add ``fuzz`` to the lab's command line."""
    parser = commands.add_parser(
        "fuzz",
        help="do random operations on a real kernel and on the emulation, and compare",
        description="Each kind of difference leaves its shortest trace, with the real kernel's results, in DIR.",
    )
    parser.add_argument("kernel", metavar="KERNEL")
    parser.add_argument("cpu", metavar="CPU")
    parser.add_argument("--mode", default="default", help="KVM's mode")
    parser.add_argument("--gic", choices=tuple(GICS), default="default", help="the machine's interrupt controller")
    parser.add_argument("--operations", type=int, default=20_000, metavar="N", help="default: 20000")
    parser.add_argument("--seed", type=int, default=1, metavar="S", help="default: 1")
    parser.add_argument("--no-shrink", action="store_true", help="only count the differences")
    parser.add_argument("--out", type=Path, default=REGRESSIONS, metavar="DIR", help="where shortest traces are left")
    parser.set_defaults(run=_command)


def _command(lab: Lab, cache: Cache, options: argparse.Namespace) -> int:
    guest = Guest(lab, cache, lab.configuration(options.kernel, options.cpu, options.mode, options.gic))
    name = guest.configuration.name
    with TemporaryDirectory(prefix="kvmipa-lab-") as directory:
        scratch = Path(directory)
        guest.run(["run", str(options.seed), str(options.operations), "/out"], scratch)
        header, results = read_results(scratch / RESULTS)
        profile = profile_from_json(header)
        started = time.monotonic()
        found = kinds(compare(options.seed, Host.of(profile), EmulatedBackend(profile), results))
        progress(f"{name}: compared in {time.monotonic() - started:.1f} s")
        print(f"{name}, seed {options.seed}: {len(found)} kinds of differences")
        for kind in found:
            print(f"  {kind.count:6} x {kind.signature}")
        if found and not options.no_shrink:
            circumstances = record.circumstances(lab, cache, guest.configuration)
            header = {"lab": circumstances, "fuzzer": {"seed": options.seed}}
            for number, path in enumerate(guest.shrink(found[:KINDS], scratch)):
                if path.is_file():
                    _keep(Trace.read(path), header, options.out / f"{name}-{options.seed}-{number}.jsonl")
    return 1 if found else 0


def _keep(trace: Trace, header: Mapping[str, Any], path: Path) -> None:
    """Leave one of the shortest traces, and show it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Trace({**trace.header, **header}, trace.steps).write(path)
    print(f"\n{path.name}")
    for line in trace.text().splitlines()[1:]:
        print(f"    {line}")
    for difference in replay(trace, EmulatedBackend(trace.profile)):
        print(f"    the emulation: {difference.answer}")
