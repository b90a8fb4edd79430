# SPDX-License-Identifier: Apache-2.0
"""The fuzzer's part in the guest: ``python3 -m ci.lab.fuzz_guest run SEED OPERATIONS DIR`` or ``shrink FILE DIR``.

``run`` does the generator's traces on the real kernel and leaves the results: a line with the host's profile, then a
line a trace. ``shrink`` takes traces on which the emulation is known to differ, and shortens each of them: both kernels
are there.
"""

from __future__ import annotations

import gzip
import json
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import kvmipa
from ci.lab import fuzz_generator
from ci.lab.fuzz_shrink import shrink
from ci.lab.trace_list.making import Host
from kvmipa.backend.emulated import EmulatedBackend
from kvmipa.backend.native import NativeBackend
from kvmipa.recording import profile_as_json
from kvmipa.trace import Result, Session, Trace, run

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from kvmipa import HostProfile
    from kvmipa.backend import Backend

RESULTS: Final = "results.jsonl.gz"


def profile_of_host() -> HostProfile:
    """What is to be emulated."""
    with kvmipa.open("native") as kvm:
        return kvmipa.HostProfile.of(kvm)


def do(number: int, seed: int, host: Host, backend: Backend) -> list[Result]:
    """One trace on a kernel."""
    operations = fuzz_generator.trace(seed, number, host)
    with Session(backend) as session:
        return [session.do(operation) for operation in operations]


def packed(results: Iterable[Result]) -> list[Any]:
    """Results as short as may be: most of them write nothing."""
    return [[value, wrote] if wrote else value for value, wrote in results]


def unpacked(found: Sequence[Any]) -> list[Result]:
    """The inverse of packed()."""
    return [Result(*item) if isinstance(item, list) else Result(item, {}) for item in found]


def main_run(seed: int, operations: int, directory: Path) -> None:
    """Leave the results of as many traces as it takes."""
    profile, backend = profile_of_host(), NativeBackend()
    host = Host.of(profile)
    started = time.monotonic()
    number = done = 0
    with gzip.open(directory / RESULTS, "wt", compresslevel=1) as file:
        print(json.dumps({"profile": profile_as_json(profile)}), file=file)
        while done < operations:
            results = do(number, seed, host, backend)
            print(json.dumps(packed(results), separators=(",", ":")), file=file)
            number, done = number + 1, done + len(results)
    seconds = time.monotonic() - started
    print(f"{number} traces, {done} operations, {done / seconds:.0f} a second")


def main_shrink(file: Path, directory: Path) -> None:
    """Leave the shortest trace for each of those in the file."""
    profile = profile_of_host()
    real, other = NativeBackend(), EmulatedBackend(profile)
    header = {"profile": profile_as_json(profile)}
    for number, text in enumerate(json.loads(file.read_text())):
        operations = Trace.of_text(text).operations
        try:
            shortest = shrink(operations, real, other)
        except ValueError:
            print(f"trace {number}: no difference this time")
            continue
        run(shortest, real, header).write(directory / f"{number}.jsonl")
        print(f"trace {number}: {len(operations)} operations, now {len(shortest)}", flush=True)


if __name__ == "__main__":
    if sys.argv[1] == "run":
        main_run(int(sys.argv[2]), int(sys.argv[3]), Path(sys.argv[4]))
    else:
        main_shrink(Path(sys.argv[2]), Path(sys.argv[3]))
