# SPDX-License-Identifier: Apache-2.0
"""Where a new recording says something else: what a kernel answered counts, what is another each time does not."""

from __future__ import annotations

import gzip
import json
from typing import TYPE_CHECKING, Any

import pytest

from ci.lab.kinds import ACCESSES, DUMPS, MACHINE_TYPES, SAMPLES, TRACES, TRANSCRIPTS, lines
from kvmipa.trace import Begin, Ioctl, Result, Step, Trace

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from ci.lab.record import Kind

FILES = {
    MACHINE_TYPES: "6.12__max.jsonl",
    ACCESSES: "6.12__max.jsonl",
    SAMPLES: "6.12__max.jsonl",
    DUMPS: "6.12-lab__max__40.json",
}


def changed(kind: Kind, directory: Path, change: Callable[[Any], None], line: int = 0) -> list[str]:
    """The differences of a file of the repository that was changed: one of its JSON lines, or all of it."""
    old = kind.directory / FILES[kind]
    texts = lines(old) if old.suffix == ".jsonl" else [old.read_text()]
    found = json.loads(texts[line])
    change(found)
    new = directory / old.name
    new.write_text("\n".join([*texts[:line], json.dumps(found), *texts[line + 1 :]]))
    return kind.differences(old, new)


def set_in(*path: Any, to: Any) -> Callable[[Any], None]:
    """A change of what is at a path of keys and numbers."""

    def change(found: Any) -> None:
        for name in path[:-1]:
            found = found[name]
        assert found[path[-1]] != to
        found[path[-1]] = to

    return change


@pytest.mark.parametrize(
    ("kind", "line", "change"),
    [
        (MACHINE_TYPES, 0, set_in("release", to="9")),
        (MACHINE_TYPES, 0, set_in("profile", "release", to="9")),
        (MACHINE_TYPES, 0, set_in("lab", "qemu", to="9")),
        (ACCESSES, 0, set_in("release", to="9")),
        (SAMPLES, 0, set_in("release", to="9")),
        (SAMPLES, 5, set_in("vttbr_el2", to="0x0")),
        (SAMPLES, 5, set_in("slots", 0, "hva_phase", to="0x0")),
        (SAMPLES, 5, lambda vm: set_in("leaves", 0, 2, to=hex(int(vm["leaves"][0][2], 16) ^ 0x1234_0000_0300))(vm)),
        (DUMPS, 0, set_in("release", to="9")),
        (DUMPS, 0, set_in("slots", 1, "hva", to="0x0")),
    ],
)
def test_same(kind: Kind, line: int, change: Callable[[Any], None], tmp_path: Path) -> None:
    assert changed(kind, tmp_path, change, line) == []


@pytest.mark.parametrize(
    ("kind", "line", "change", "difference"),
    [
        (MACHINE_TYPES, 0, set_in("profile", "pa_bits", to=9), "profile pa_bits: 52 in the repository, 9 now"),
        (MACHINE_TYPES, 3, set_in("result", to=9), "observation 2: "),
        (ACCESSES, 3, set_in("result", to=["hangs"]), "access 2: "),
        (SAMPLES, 5, set_in("vtcr_el2", to="0x1802e3558"), "VM 35, /vtcr_el2: "),
        (SAMPLES, 5, set_in("slots", 0, "flags", to=9), "VM 35, /slots/0/flags: 0 in the repository, 9 now"),
        (SAMPLES, 5, lambda vm: set_in("leaves", 0, 2, to=hex(int(vm["leaves"][0][2], 16) ^ 0x80))(vm), "VM 35, /leav"),
        (SAMPLES, 5, lambda vm: vm["tables"].pop(), "VM 35, /tables: "),
        (DUMPS, 0, set_in("dump_before_slots", "stage2_levels", to="9"), "/dump_before_slots/stage2_levels: '3"),
        (DUMPS, 0, set_in("slots", 1, "smaps_before_vcpu", "Rss", to=0), "/slots/1/smaps_before_vcpu/Rss: 8192 in"),
        (DUMPS, 0, lambda found: found["later"].pop(), "/later: "),
        (DUMPS, 0, lambda found: found.update(more=1), "/more: None in the"),
    ],
)
def test_different(kind: Kind, line: int, change: Callable[[Any], None], difference: str, tmp_path: Path) -> None:
    (found,) = changed(kind, tmp_path, change, line)
    assert found.startswith(difference)


def test_a_run_of_leaves_is_as_many_leaves(tmp_path: Path) -> None:
    """Pages that lie one behind the other in memory are written as one run."""

    def split(vm: Any) -> None:
        at, (ipa, level, descriptor, count) = next((n, leaf) for n, leaf in enumerate(vm["leaves"]) if len(leaf) > 3)
        size = 1 << 12 + (3 - level) * 9
        second = [hex(int(ipa, 16) + size), level, hex(int(descriptor, 16) + (5 << 30)), count - 1]
        vm["leaves"][at : at + 1] = [[ipa, level, descriptor], second]

    assert changed(SAMPLES, tmp_path, split, 5) == []


def test_text_of_a_dump(tmp_path: Path) -> None:
    old = DUMPS.directory / "6.12-lab__max__40.txt"
    new = tmp_path / old.name
    new.write_text(old.read_text())
    assert DUMPS.differences(old, new) == []
    new.write_text(old.read_text().replace("R W X", "R   X", 1))
    (found,) = DUMPS.differences(old, new)
    assert found.startswith("line ")


def test_traces(tmp_path: Path) -> None:
    one = Trace({"release": "1"}, (Step(Begin("part"), Result(0, {})), Step(Ioctl("kvm", 0xAE00), Result(12, {}))))
    other = Trace({"release": "2"}, (one.steps[0], Step(Ioctl("kvm", 0xAE00), Result(13, {})), one.steps[0]))
    paths = [tmp_path / name for name in ("one.jsonl.gz", "other.jsonl.gz")]
    for trace, path in zip((one, other), paths, strict=True):
        trace.write(path)
    assert TRACES.differences(paths[0], paths[0]) == []
    assert [line.partition(":")[0] for line in TRACES.differences(*paths)] == ["step 1", "step 2"]
    assert TRACES.describe(paths[1:]) == "3 steps, Linux 2"


def test_transcripts(tmp_path: Path) -> None:
    old = TRANSCRIPTS.directory / "6.12__max.jsonl.gz"
    texts = lines(old)
    new = tmp_path / old.name

    def differences(line: int, change: Callable[[Any], None]) -> list[str]:
        found = json.loads(texts[line])
        change(found)
        new.write_bytes(gzip.compress("\n".join([*texts[:line], json.dumps(found), *texts[line + 1 :]]).encode()))
        return TRANSCRIPTS.differences(old, new)

    assert differences(0, set_in("release", to="9")) == []
    (found,) = differences(3, set_in("values", to=["0x0"]))
    assert found.startswith("line 2: ")
    assert TRANSCRIPTS.describe([old]).startswith(f"{len(texts) - 1} lines, Linux 6.12.")
