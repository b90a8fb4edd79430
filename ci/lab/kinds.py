# SPDX-License-Identifier: Apache-2.0
"""The kinds of recordings, and where a new one says something else than the one in the repository.

How it was taken, and of which point release, may differ.
"""

from __future__ import annotations

import gzip
import json
from itertools import zip_longest
from typing import TYPE_CHECKING, Any, Final

from ci.lab import stage2_samples
from ci.lab.record import Kind
from kvmipa.recording import Recording
from kvmipa.trace import Trace

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

# What of a VM's dumps is another each time, or is the kernel's point release.
_OF_A_RUN: Final = ("hva", "hva_offset_in_block", "release", "version")


# ---------------------------------------------------------------------------------------------- differences


def _of_pairs(what: str, old: Sequence[Any], new: Sequence[Any]) -> list[str]:
    pairs = enumerate(zip_longest(old, new))
    return [f"{what} {number}: {one} in the repository, {other} now" for number, (one, other) in pairs if one != other]


def _of_lines(what: str, old: Path, new: Path) -> list[str]:
    """All but the header."""
    return _of_pairs(what, *([json.loads(line) for line in lines(path)[1:]] for path in (old, new)))


def of_recordings(old: Path, new: Path) -> list[str]:
    """Observations, and the profile."""
    with old.open() as committed, new.open() as fresh:
        one, other = Recording.read(committed), Recording.read(fresh)
    profiles = [recording.header["profile"] for recording in (one, other)]
    names = sorted(profiles[0].keys() - {"release", "source"})
    found = [
        f"profile {name}: {profiles[0][name]} in the repository, {profiles[1].get(name)} now"
        for name in names
        if profiles[0][name] != profiles[1].get(name)
    ]
    return found + _of_pairs("observation", one.observations, other.observations)


def of_traces(old: Path, new: Path) -> list[str]:
    """Steps."""
    return _of_pairs("step", Trace.read(old).steps, Trace.read(new).steps)


def of_accesses(old: Path, new: Path) -> list[str]:
    """Accesses with what came of them."""
    return _of_lines("access", old, new)


def of_samples(old: Path, new: Path) -> list[str]:
    """VMs: VTCR_EL2 and the tables, wherever in memory they are."""
    vms = [[stage2_samples.comparable(json.loads(line)) for line in lines(path)[1:]] for path in (old, new)]
    return [
        f"VM {one.get('machine_type')}, {difference}"
        for one, other in zip_longest(*vms, fillvalue={})
        for difference in _of_objects("", one, other)
    ]


def of_dumps(old: Path, new: Path) -> list[str]:
    """A dump's text, or what is known of its VM."""
    if old.suffix == ".txt":
        return _of_pairs("line", lines(old), lines(new))
    return list(_of_objects("", json.loads(old.read_text()), json.loads(new.read_text())))


def of_transcripts(old: Path, new: Path) -> list[str]:
    """Steps with what came of them, and how each guest ended."""
    return _of_lines("line", old, new)


def of_registers(old: Path, new: Path) -> list[str]:
    """Lines, and what is the host's."""
    pairs = [[json.loads(line) for line in lines(path)] for path in (old, new)]
    hosts = [pair[0]["registers"] for pair in pairs]
    return [*_of_objects("registers", *hosts), *_of_pairs("line", *(pair[1:] for pair in pairs))]


def _of_objects(where: str, old: Any, new: Any) -> Iterator[str]:
    if isinstance(old, dict) and isinstance(new, dict):
        for name in dict.fromkeys([*old, *new]):
            if name not in _OF_A_RUN:
                yield from _of_objects(f"{where}/{name}", old.get(name), new.get(name))
    elif isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        for number, (one, other) in enumerate(zip(old, new, strict=True)):
            yield from _of_objects(f"{where}/{number}", one, other)
    elif old != new:
        yield f"{where}: {old!r} in the repository, {new!r} now"


# ---------------------------------------------------------------------------------------------- descriptions


def lines(path: Path) -> list[str]:
    """A file's lines."""
    data = path.read_bytes()
    return (gzip.decompress(data) if path.suffix == ".gz" else data).decode().splitlines()


def _counted(what: str) -> Callable[[Sequence[Path]], str]:
    def describe(files: Sequence[Path]) -> str:
        header, *rest = lines(files[0])
        return f"{len(rest)} {what}, Linux {json.loads(header)['release']}"

    return describe


def _describe_dumps(files: Sequence[Path]) -> str:
    releases = {json.loads(path.read_text())["release"] for path in files if path.suffix == ".json"}
    return f"{len(files)} files, Linux {', '.join(releases)}"


# ---------------------------------------------------------------------------------------------- the kinds


MACHINE_TYPES: Final = Kind(
    command="record",
    help="record what real kernels answer to machine types and capabilities",
    folder="recordings",
    module="ci.lab.recorder",
    suffix=".jsonl",
    differences=of_recordings,
    describe=_counted("observations"),
    listed=lambda lab: lab.recorded,
)
TRACES: Final = Kind(
    command="trace",
    help="trace what real kernels answer to VMs, memory, devices and vCPUs",
    folder="traces",
    module="ci.lab.traces",
    suffix=".jsonl.gz",
    differences=of_traces,
    describe=_counted("steps"),
    listed=lambda lab: (*lab.recorded, *lab.traced),
    chooses_gic=True,
)
ACCESSES: Final = Kind(
    command="accesses",
    help="record what comes of a guest's accesses",
    folder="accesses",
    module="ci.lab.access_recorder",
    suffix=".jsonl",
    differences=of_accesses,
    describe=_counted("accesses"),
)
SAMPLES: Final = Kind(
    command="sample",
    help="read VTCR_EL2 and the stage-2 tables of VMs of every size",
    folder="stage2_samples",
    module="ci.lab.stage2_sampler",
    suffix=".jsonl",
    differences=of_samples,
    describe=_counted("VMs"),
    attend=stage2_samples.Looking,
    machine=stage2_samples.MACHINE,
)
DUMPS: Final = Kind(
    command="ptdump",
    help="read what debugfs shows of stage 2, on kernels that are built here",
    folder="ptdump",
    module="ci.lab.ptdump_recorder",
    suffix="",
    differences=of_dumps,
    describe=_describe_dumps,
    # For a block of 64K pages, which has 512 MiB.
    machine={"memory": 3072},
)
REGISTERS: Final = Kind(
    command="registers",
    help="record the registers and the state of vCPUs, and what they can be set to",
    folder="registers",
    module="ci.lab.register_recorder",
    suffix=".jsonl.gz",
    differences=of_registers,
    describe=_counted("lines"),
)
TRANSCRIPTS: Final = Kind(
    command="transcripts",
    help="record what comes of the guest conformance program",
    folder="transcripts",
    module="ci.lab.transcript_recorder",
    suffix=".jsonl.gz",
    differences=of_transcripts,
    describe=_counted("lines"),
)
KINDS: Final = (MACHINE_TYPES, TRACES, ACCESSES, SAMPLES, DUMPS, REGISTERS, TRANSCRIPTS)
