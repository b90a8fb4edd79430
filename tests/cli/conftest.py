# SPDX-License-Identifier: Apache-2.0
"""The command line in this process, on a few hosts that differ in what they can."""

from __future__ import annotations

import json
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import pytest

from kvmipa import HostProfile
from kvmipa.backend.emulated import presets
from kvmipa.choice import DEFAULT_HOST
from kvmipa.cli import main

if TYPE_CHECKING:
    from collections.abc import Mapping

HOSTS: Mapping[str, HostProfile] = MappingProxyType(
    {
        host.name: host
        for host in (
            HostProfile(name=DEFAULT_HOST, source="the documentation of QEMU"),
            HostProfile(name="wide", release="7.3", id_aa64mmfr0_el1=0x32310201126),
            HostProfile(name="middle", release="6.12", id_aa64mmfr0_el1=0x1124),
            HostProfile(name="narrow", page_size=16384, id_aa64mmfr0_el1=0x200100001),
            HostProfile(name="old", release="4.19", id_aa64mmfr0_el1=0x1124),
            HostProfile(name="pkvm", release="7.3", mode="protected"),
            HostProfile(name="off", mode="none"),
        )
    }
)


class Outcome(NamedTuple):
    """What a command left behind."""

    status: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """Standard output, which is one JSON object and nothing else."""
        found = json.loads(self.out)
        assert found["schema"] == 1
        return found

    @property
    def rows(self) -> dict[str, str]:
        """Standard output as names and values."""
        parts = (line.partition("  ") for line in self.out.splitlines())
        return {name: value.strip() for name, _, value in parts}


class Command(Protocol):
    """Run kvmipa with these arguments."""

    def __call__(self, *words: str) -> Outcome: ...


@pytest.fixture(autouse=True)
def hosts(monkeypatch: pytest.MonkeyPatch) -> Mapping[str, HostProfile]:
    """The presets that --host knows in these tests; and help of one width on every terminal."""
    monkeypatch.setattr(presets, "presets", lambda: HOSTS)
    monkeypatch.setenv("COLUMNS", "120")
    return HOSTS


@pytest.fixture
def kvmipa(capsys: pytest.CaptureFixture[str]) -> Command:
    """The command line."""

    def run(*words: str) -> Outcome:
        return Outcome(main(words), *capsys.readouterr())

    return run
