# SPDX-License-Identifier: Apache-2.0
"""``kvmipa hosts``."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Mapping

    from kvmipa import HostProfile
    from tests.cli.conftest import Command


def test_hosts_are_a_table(kvmipa: Command) -> None:
    lines = kvmipa("hosts").out.splitlines()
    assert lines[0].split("  ")[0] == "preset"
    assert [line.split() for line in lines[3:5]] == [
        ["middle", "6.12", "4K", "vhe", "44"],
        ["narrow", "6.12", "16K", "vhe", "36"],
    ]


def test_host_without_a_limit_has_a_dash(kvmipa: Command) -> None:
    rows = {line.split()[0]: line.split() for line in kvmipa("hosts").out.splitlines()}
    assert rows["old"][-1] == rows["off"][-1] == "-"


def test_host_shows_where_its_numbers_are_from(kvmipa: Command) -> None:
    assert "the documentation of QEMU" in kvmipa("hosts").out


def test_json_has_every_host(kvmipa: Command, hosts: Mapping[str, HostProfile]) -> None:
    found = kvmipa("hosts", "--json").json
    assert found["command"] == "hosts"
    assert list(found["presets"]) == list(hosts)
    assert found["presets"]["narrow"] == {
        "release": "6.12",
        "page_size": 16384,
        "mode": "vhe",
        "ipa_limit": 36,
        "source": "",
    }
    assert found["presets"]["old"]["ipa_limit"] is None


@pytest.mark.parametrize(("variable", "value"), [("KVMIPA_BACKEND", "nonsense"), ("KVMIPA_HOST", "nonsense")])
def test_list_is_there_when_the_environment_is_wrong(
    kvmipa: Command, monkeypatch: pytest.MonkeyPatch, variable: str, value: str
) -> None:
    monkeypatch.setenv(variable, value)
    assert kvmipa("hosts").status == 0


def test_every_host_of_the_list_can_be_asked(kvmipa: Command, hosts: Mapping[str, HostProfile]) -> None:
    statuses = {name: kvmipa("--host", name, "create", "--ipa-bits", "0").status for name in hosts}
    assert statuses == dict.fromkeys(hosts, 0) | {"narrow": 1, "off": 3}
