# SPDX-License-Identifier: Apache-2.0
"""Recordings of real kernels: taking them, and comparing new ones with those in the repository."""

from __future__ import annotations

import json
import subprocess
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from ci.lab import boot, kernel, programs, wheel
from ci.lab.cache import progress
from ci.lab.errors import LabError
from kvmipa.recording import Recording

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from ci.lab.cache import Cache
    from ci.lab.config import Configuration, Lab, Machine

RECORDINGS = Path(__file__).parents[2] / "tests" / "data" / "recordings"

# Linux 7.3 with 16K pages steps through a VM of 52 bits 32 MiB at a time when it is closed: minutes under emulation.
TIMEOUT = 900.0


@dataclass(frozen=True, slots=True)
class Outcome:
    """What one configuration gave: a recording, or the reason why there is none."""

    configuration: Configuration
    recording: Recording | None
    error: str = ""


def record(lab: Lab, cache: Cache, configurations: Sequence[Configuration]) -> Iterator[Outcome]:
    """Boot each configuration and ask it what the recorder asks; as many at a time as the lab has slots."""
    wheel_file = wheel.build(lab, cache)
    for configuration in configurations:
        kernel.fetch(lab, cache, configuration.kernel)

    def one(configuration: Configuration) -> Outcome:
        try:
            return Outcome(configuration, _record(lab, cache, configuration, wheel_file))
        except LabError as error:
            return Outcome(configuration, None, str(error))

    with ThreadPoolExecutor(lab.machine.slots) as pool:
        yield from pool.map(one, configurations)


def _record(lab: Lab, cache: Cache, configuration: Configuration, wheel_file: Path) -> Recording:
    with TemporaryDirectory(prefix="kvmipa-lab-") as scratch:
        return read(run_recorder(lab, cache, configuration, wheel_file, Path(scratch), module="ci.lab.recorder"))


def run_recorder(
    lab: Lab,
    cache: Cache,
    configuration: Configuration,
    wheel_file: Path,
    scratch: Path,
    *,
    module: str,
    file_name: str = "recording.jsonl",
) -> Path:
    """Run a module that records in the guest, ``python3 -m MODULE FILE HEADER``; the file that it wrote.

    HEADER is a JSON object of what only the outside knows. Raises LabError where there is no recording.
    """
    header = json.dumps({"lab": circumstances(lab, cache, configuration)})
    result = boot.run_in_guest(
        configuration,
        ["python3", "-m", module, f"/out/{file_name}", header],
        wheel_file=wheel_file,
        timeout=TIMEOUT,
        out_dir=scratch,
        lab=lab,
        cache=cache,
    )
    if result.timed_out or result.exit_status:
        why = "time is up" if result.timed_out else f"exit status {result.exit_status}"
        raise LabError(f"{configuration.name}: no recording ({why}); console: {result.console_path}")
    progress(f"{configuration.name}: recorded in {result.seconds_total:.1f} s")
    return scratch / file_name


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


def read(path: Path) -> Recording:
    """A recording from its file."""
    with path.open() as file:
        return Recording.read(file)


def file_of(configuration: Configuration, directory: Path = RECORDINGS) -> Path:
    """Where a configuration's recording is kept."""
    return directory / f"{configuration.name}.jsonl"


def differences(committed: Recording, fresh: Recording) -> list[str]:
    """Where a new recording says something else; the kernel's point release and how it was taken may differ."""
    found = []
    for name in sorted(committed.header["profile"].keys() - {"release", "source"}):
        old, new = (recording.header["profile"].get(name) for recording in (committed, fresh))
        if old != new:
            found.append(f"profile {name}: {old} in the repository, {new} now")
    if len(committed.observations) != len(fresh.observations):
        found.append(f"{len(committed.observations)} observations in the repository, {len(fresh.observations)} now")
    for old_seen, new_seen in zip(committed.observations, fresh.observations, strict=False):
        if old_seen != new_seen:
            found.append(f"{old_seen.as_json()} in the repository, {new_seen.as_json()} now")
    return found
