# SPDX-License-Identifier: Apache-2.0
"""Taking recordings of every kind: which configurations, what is kept, what is compared, what is said of failures."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from ci.lab import __main__ as lab
from ci.lab import boot, config, kernel, record, wheel
from ci.lab.kinds import ACCESSES, DUMPS, KINDS, MACHINE_TYPES, SAMPLES, TRACES
from ci.lab.record import Attendant, Kind

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ci.lab.config import Configuration


def fetched(lab: object, cache: object, wanted: config.Kernel, *, again: bool = False) -> kernel.FetchedKernel:
    return kernel.FetchedKernel(wanted.name, "release", "1-1", (), Path())


@dataclasses.dataclass
class Guests:
    """In place of QEMU: guests that leave what the repository has of their configuration, or what they are told to."""

    kind: Kind = ACCESSES
    booted: list[str] = dataclasses.field(default_factory=list)
    machines: list[dict[str, Any]] = dataclasses.field(default_factory=list)
    commands: list[Sequence[str]] = dataclasses.field(default_factory=list)
    changed: tuple[str, str] = ("", "")
    left: bool = True
    exit_status: int = 0
    timed_out: bool = False
    console_path: str = "console.log"
    seconds_total: float = 1.0

    def run(self, configuration: Configuration, command: Sequence[str], *, out_dir: Path, **machine: Any) -> Guests:
        self.booted.append(configuration.name)
        self.commands.append(command)
        self.machines.append(machine)
        for path in self.kind.files(configuration, self.kind.directory) if self.left else ():
            shutil.copyfile(path, out_dir / path.name)
            if path.suffix != ".gz":
                (out_dir / path.name).write_text(path.read_text().replace(*self.changed))
        return self


@pytest.fixture
def guests(monkeypatch: pytest.MonkeyPatch) -> Guests:
    found = Guests()
    monkeypatch.setattr(boot, "run_in_guest", found.run)
    monkeypatch.setattr(wheel, "build", lambda *_: Path("wheel"))
    monkeypatch.setattr(kernel, "fetch", fetched)
    monkeypatch.setattr(kernel, "cached", lambda _cache, _kernel: True)
    monkeypatch.setattr(record, "_qemu_version", lambda _machine: "QEMU")
    return found


# ------------------------------------------------------------------------------------------------ what is booted


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.command)
def test_one_configuration_by_its_names(kind: Kind, guests: Guests, tmp_path: Path) -> None:
    guests.kind = kind
    lab.main([kind.command, "6.12", "cortex-a57", "--mode", "protected", "--out", str(tmp_path)])
    assert guests.booted == ["6.12__cortex-a57__protected"]
    *start, path, header = guests.commands[0]
    assert start == ["python3", "-m", kind.module]
    assert path == f"/out/6.12__cortex-a57__protected{kind.suffix}"
    assert json.loads(header)["lab"] == {
        "kernel": "6.12",
        "cpu": "cortex-a57",
        "mode": "protected",
        "qemu_cpu": "cortex-a57",
        "package_version": "1-1",
        "qemu": "QEMU",
    }


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.command)
def test_what_is_listed_is_what_the_repository_has(kind: Kind) -> None:
    configurations = record._listed(kind, config.load())
    kept = {path.name for path in kind.directory.iterdir() if path.is_file() and path.name != "README.md"}
    files = [path.name for it in configurations for path in kind.files(it, kind.directory)]
    assert sorted(files) == sorted(kept)
    assert len({it.name for it in configurations}) == len(configurations)


def test_without_names_all_traces_are_taken_at_once(guests: Guests, tmp_path: Path) -> None:
    guests.kind = TRACES
    assert lab.main(["trace", "--out", str(tmp_path)]) == 0
    listed = config.load()
    assert len(guests.booted) == len(listed.recorded) + 4
    assert {name for name in guests.booted if "gic" in name} == {
        f"{release}__max__gicv2" for release in ("5.10", "6.1", "6.12", "7.3")
    }
    assert {path.name for path in tmp_path.iterdir()} == {f"{name}.jsonl.gz" for name in guests.booted}


def test_what_would_have_to_be_built_first_is_left_out(
    guests: Guests, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    built = config.load().built_kernels
    monkeypatch.setattr(kernel, "cached", lambda _cache, item: None if item.name in built else True)
    guests.kind = MACHINE_TYPES
    assert lab.main(["record", "--out", str(tmp_path)]) == 0
    assert guests.booted
    assert not {name.split("__")[0] for name in guests.booted} & built.keys()
    assert "6.12-64k-lab is left out" in capsys.readouterr().err


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.command)
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["6.12"], "takes a kernel and a CPU, or neither"),
        (["--mode", "protected"], "a kernel and a CPU"),
        (["6.12", "max-9000"], "no CPU is called 'max-9000'"),
        (["--check", "5.10", "max", "--mode", "nvhe"], "has no files of 5.10__max__nvhe"),
    ],
)
def test_refused_before_booting(
    kind: Kind, arguments: list[str], message: str, guests: Guests, capsys: pytest.CaptureFixture[str]
) -> None:
    assert lab.main([kind.command, *arguments]) == lab.EXIT_LAB
    assert message in capsys.readouterr().err
    assert guests.booted == []


def test_interrupt_controller_is_the_machines(guests: Guests, tmp_path: Path) -> None:
    guests.kind = TRACES
    assert lab.main(["trace", "6.12", "max", "--gic", "v2", "--out", str(tmp_path)]) == 0
    assert guests.booted == ["6.12__max__gicv2"]
    machine = config.load().machine
    assert machine.with_gic("v2").machine.endswith("gic-version=2")
    assert machine.with_gic("v3").machine.endswith("gic-version=3")
    assert machine.with_gic("default") is machine
    with pytest.raises(SystemExit):
        lab.main(["record", "6.12", "max", "--gic", "v2"])


# ------------------------------------------------------------------------------------------------ what comes of it


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        (MACHINE_TYPES, ["6.12", "max"]),
        (TRACES, ["6.12", "max"]),
        (ACCESSES, ["6.12", "max"]),
        (DUMPS, ["6.12-lab", "cortex-a57"]),
    ],
    ids=lambda it: it.command if isinstance(it, Kind) else "",
)
def test_kept_then_compared(
    kind: Kind, name: list[str], guests: Guests, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    guests.kind = kind
    command = [kind.command, *name, "--out", str(tmp_path)]
    assert lab.main(command) == 0
    kept = kind.files(config.load().configuration(*name), tmp_path)
    assert [path.read_bytes() for path in kept] == [(kind.directory / path.name).read_bytes() for path in kept]
    assert len(kept) == (9 if kind is DUMPS else 1)
    assert ": kept" in capsys.readouterr().out
    before = [path.stat().st_mtime_ns for path in kept]
    assert lab.main([*command, "--check"]) == 0
    assert ": as recorded" in capsys.readouterr().out
    assert [path.stat().st_mtime_ns for path in kept] == before


def test_a_difference_is_shown_and_ends_with_1(guests: Guests, capsys: pytest.CaptureFixture[str]) -> None:
    guests.changed = ('"mapped"', '"moved"')
    assert lab.main(["accesses", "6.12", "max", "--check"]) == 1
    shown = capsys.readouterr().out.splitlines()
    assert "DIFFERENCES" in shown[0]
    assert "['mapped']} in the repository" in shown[1]
    assert len(shown) == 21


def test_a_file_less_or_more_is_a_difference(
    guests: Guests, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    guests.kind = DUMPS
    command = ["ptdump", "6.12-lab", "cortex-a57", "--out", str(tmp_path)]
    assert lab.main(command) == 0
    (tmp_path / "6.12-lab__cortex-a57__32.txt").rename(tmp_path / "6.12-lab__cortex-a57__52.txt")
    assert lab.main([*command, "--check"]) == 1
    shown = capsys.readouterr().out
    assert "6.12-lab__cortex-a57__52.txt: not taken any more" in shown
    assert "6.12-lab__cortex-a57__32.txt: there was no such file" in shown
    assert lab.main(command) == 0
    assert not (tmp_path / "6.12-lab__cortex-a57__52.txt").exists()


@pytest.mark.parametrize(
    ("trouble", "message"),
    [
        ({"exit_status": 3}, "exit status 3; console: console.log"),
        ({"timed_out": True}, "time is up; console: console.log"),
        ({"left": False}, "the guest left no file"),
    ],
)
def test_one_that_fails_leaves_the_others(
    trouble: dict[str, Any], message: str, guests: Guests, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    for name, value in trouble.items():
        setattr(guests, name, value)
    assert lab.main(["accesses", "--out", str(tmp_path)]) == 1
    shown = capsys.readouterr().out
    assert f"6.12__max: NOT RECORDED\n  {message}" in shown
    assert len(guests.booted) == shown.count("NOT RECORDED") > 20
    assert list(tmp_path.iterdir()) == []


def test_attendant_adds_to_what_the_guest_left(guests: Guests, capsys: pytest.CaptureFixture[str]) -> None:
    class Adding(Attendant):
        def finish(self, path: Path) -> None:
            path.write_text(path.read_text() + "[]\n")

    kind = dataclasses.replace(ACCESSES, attend=lambda _: Adding({"left_out": [52]}))
    configuration = config.load().configuration("6.12", "max")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("ci.lab.__main__.KINDS", (kind,))
        assert lab.main(["accesses", "6.12", "max", "--check"]) == 1
    assert json.loads(guests.commands[0][-1])["left_out"] == [52]
    accesses = len((kind.path(configuration, kind.directory)).read_text().splitlines())
    assert f"access {accesses - 1}: None in the repository, [] now" in capsys.readouterr().out


def test_kinds_boot_their_own_machines(guests: Guests, tmp_path: Path) -> None:
    guests.kind = SAMPLES
    guests.left = False
    assert lab.main(["sample", "6.12-16k", "max", "--out", str(tmp_path)]) == 1
    (machine,) = guests.machines
    assert (machine["smp"], machine["memory"]) == (1, 4096)
    assert machine["gdb_port"] > 0
    assert json.loads(guests.commands[0][-1])["left_out"] == [52]


def test_dumps_of_another_mode_are_others(tmp_path: Path) -> None:
    for name in ("6.12-lab__max__32.txt", "6.12-lab__max__40__many.json", "6.12-lab__max__protected__32.txt"):
        (tmp_path / name).touch()
    listed = config.load()
    for mode, count in (("default", 2), ("protected", 1)):
        assert len(DUMPS.files(listed.configuration("6.12-lab", "max", mode), tmp_path)) == count
