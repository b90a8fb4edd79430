# SPDX-License-Identifier: Apache-2.0
"""The traces of real kernels: what is done on them, and how new ones are compared."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import pytest

from ci.lab import __main__ as main
from ci.lab import config, trace_record, traces
from ci.lab.trace_list.making import Host
from kvmipa import HostProfile, abi
from kvmipa.backend.emulated import EmulatedBackend
from kvmipa.trace import Begin, Ioctl, Result, Step, Trace, replay, run

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="traces are done on Linux")

HOSTS = ("qemu-max-5.10-4k", "qemu-cortex-a53-6.1-4k", "qemu-max-6.12-16k", "qemu-max-7.3-4k", "qemu-max-6.12-4k-pkvm")
VERSION_2 = HostProfile(release="6.12", gic="v2")


@pytest.mark.parametrize("name", HOSTS)
def test_what_is_done_replays_on_the_emulation(name: str) -> None:
    profile = HostProfile.preset(name)
    taken = run(traces.operations(Host.of(profile)), EmulatedBackend(profile))
    again = Trace.of_text(taken.text())
    assert again.text() == taken.text()
    assert [str(difference) for difference in replay(again, EmulatedBackend(profile))] == []


@pytest.mark.parametrize("name", HOSTS)
def test_vms_are_of_sizes_that_are_closed_soon(name: str) -> None:
    host = Host.of(HostProfile.preset(name))
    assert max(host.sizes) <= (44 if host.page_size == 4096 else 42)
    assert set(host.sizes) >= {32, 36, 40}
    assert host.top_size == (52 if name == "qemu-max-6.12-4k-pkvm" else min(host.limit, host.top_size))


def test_parts_have_names_of_their_own() -> None:
    names = [it.name for it in traces.operations(Host.of(VERSION_2)) if isinstance(it, Begin)]
    assert len(names) == len(set(names))


def test_gicv2_is_traced_where_there_is_one() -> None:
    def creations(profile: HostProfile) -> int:
        parts = (it.name for it in traces.operations(Host.of(profile)) if isinstance(it, Begin))
        return sum("GICv2" in name for name in parts)

    assert creations(VERSION_2) > 10
    assert creations(HostProfile(release="6.12")) == 0


def test_no_request_of_a_trace_runs_a_vcpu() -> None:
    requests = {
        it.number for it in traces.operations(Host.of(VERSION_2)) if isinstance(it, Ioctl) and "vcpu" in str(it.on)
    }
    assert requests
    assert abi.KVM_RUN not in requests


def test_differences_between_traces() -> None:
    one = Trace({}, (Step(Begin("part"), Result(0, {})), Step(Ioctl("kvm", 0xAE00), Result(12, {}))))
    other = Trace({}, (one.steps[0], Step(Ioctl("kvm", 0xAE00), Result(13, {})), one.steps[0]))
    assert trace_record.differences(one, one) == []
    assert [line.partition(":")[0] for line in trace_record.differences(one, other)] == ["step 1", "step 2"]


def test_machine_with_another_interrupt_controller(tmp_path: Path) -> None:
    lab = config.load()
    assert trace_record.with_gic(lab, None) is lab
    assert trace_record.with_gic(lab, "v2").machine.machine.endswith("gic-version=2")
    assert trace_record.with_gic(lab, "v3").machine.machine.endswith("gic-version=3")
    configuration = lab.configuration("6.12", "max")
    assert trace_record.file_of(configuration, tmp_path).name == "6.12__max.jsonl.gz"
    assert trace_record.file_of(configuration, tmp_path, "v2").name == "6.12__max__gicv2.jsonl.gz"


@pytest.mark.parametrize("arguments", [["6.12"], ["--mode", "nvhe"]])
def test_refused_before_booting(
    arguments: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(trace_record, "take", lambda *_: pytest.fail("something was booted"))
    assert main.main(["trace", *arguments]) == main.EXIT_LAB
    assert "trace takes a kernel and a CPU, or neither" in capsys.readouterr().err


def test_trace_is_kept_or_compared(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    profile = HostProfile(release="6.12")
    fresh = run([Begin("part")], EmulatedBackend(profile), {"release": "6.12"})
    configuration = config.load().configuration("6.12", "max")
    monkeypatch.setattr(trace_record, "take", lambda *_: iter([trace_record.Outcome(configuration, fresh)]))
    command = ["trace", "6.12", "max", "--out", str(tmp_path)]
    assert main.main([*command, "--check"]) == 1
    assert "there is no such trace" in capsys.readouterr().out
    assert main.main(command) == 0
    assert Trace.read(tmp_path / "6.12__max.jsonl.gz") == fresh
    assert main.main([*command, "--check"]) == 0
    assert "as traced" in capsys.readouterr().out
