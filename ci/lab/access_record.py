# SPDX-License-Identifier: Apache-2.0
"""What comes of a guest's accesses on real kernels: recording it, and comparing with the repository's recordings."""

from __future__ import annotations

import json
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from ci.lab import kernel, record, wheel
from ci.lab.errors import LabError

if TYPE_CHECKING:
    import argparse

    from ci.lab.cache import Cache
    from ci.lab.config import Configuration, Lab

ACCESSES = Path(__file__).parents[2] / "tests" / "data" / "accesses"


def take(lab: Lab, cache: Cache, configuration: Configuration) -> list[dict[str, Any]]:
    """Boot a configuration and have a guest on it make the accesses: the header, and a line each."""
    wheel_file = wheel.build(lab, cache)
    kernel.fetch(lab, cache, configuration.kernel)
    with TemporaryDirectory(prefix="kvmipa-lab-") as scratch:
        path = record.run_recorder(
            lab, cache, configuration, wheel_file, Path(scratch), module="ci.lab.access_recorder"
        )
        return read(path)


def read(path: Path) -> list[dict[str, Any]]:
    """The lines of a recording."""
    return [json.loads(line) for line in path.read_text().splitlines()]


def add_command(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add ``accesses`` to the lab's command line."""
    parser = commands.add_parser(
        "accesses",
        help="record what comes of a guest's accesses, into tests/data/accesses",
        description="Without names: every configuration that has a recording already.",
    )
    parser.add_argument("kernel", nargs="?", metavar="KERNEL", help="one kernel, on CPU")
    parser.add_argument("cpu", nargs="?", metavar="CPU")
    parser.add_argument("--mode", default="default", help="KVM's mode, with KERNEL and CPU")
    parser.add_argument("--check", action="store_true", help="write nothing: compare with the repository's")
    parser.add_argument("--out", type=Path, default=ACCESSES, metavar="DIR", help="another place")
    parser.set_defaults(run=_command)


def _command(lab: Lab, cache: Cache, options: argparse.Namespace) -> int:
    if bool(options.kernel) != bool(options.cpu):
        raise LabError("accesses takes a kernel and a CPU, or neither")
    recorded = [path.stem.split("__") for path in sorted(ACCESSES.glob("*.jsonl"))]
    names = [(options.kernel, options.cpu, options.mode)] if options.kernel else recorded
    results = [_one(lab, cache, lab.configuration(*name), options) for name in names]
    return 0 if all(results) else 1


def _one(lab: Lab, cache: Cache, configuration: Configuration, options: argparse.Namespace) -> bool:
    fresh = take(lab, cache, configuration)
    path = options.out / f"{configuration.name}.jsonl"
    if not options.check:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(f"{json.dumps(line)}\n" for line in fresh))
        print(f"{configuration.name}: {len(fresh) - 1} accesses: {path.name}")
        return True
    # The header says how it was taken, and of which point release.
    same = path.is_file() and read(path)[1:] == fresh[1:]
    print(f"{configuration.name}: {len(fresh) - 1} accesses: {'as recorded' if same else 'DIFFERENT'}")
    return same
