# SPDX-License-Identifier: Apache-2.0
"""``kvmipa stage2``."""

from __future__ import annotations

import errno
from pathlib import Path
from typing import TYPE_CHECKING
from xml.etree import ElementTree

import pytest

from kvmipa import Vm
from kvmipa.errors import NotSupportedError
from kvmipa.stage2.debugfs import ShownStage2
from kvmipa.stage2.geometry import Geometry

if TYPE_CHECKING:
    from tests.cli.conftest import Command


def test_shape_and_register_are_drawn(kvmipa: Command) -> None:
    shown = kvmipa("--host", "middle", "stage2", "--ipa-bits", "33")
    assert (shown.status, shown.err) == (0, "")
    lines = shown.out.splitlines()
    assert lines[:3] == [
        "EMULATED     middle: Linux 6.12, 4K pages, mode vhe",
        "IPA          33 bits (8 GiB), 4K pages, 2 levels from level 2",
        "start level  8 tables side by side (32 KiB), 4096 entries in use",
    ]
    assert "| IPA[32:21]   | IPA[20:12]   | IPA[11:0]    |" in lines
    assert "  T0SZ       31  33 bits of IPA" in lines


@pytest.mark.parametrize("size", [[], ["--ipa-bits", "0"]])
def test_without_a_size_it_is_the_default(kvmipa: Command, size: list[str]) -> None:
    assert kvmipa("--host", "middle", "stage2", *size).rows["IPA"].startswith("40 bits")


def test_json_has_fields_and_register(kvmipa: Command) -> None:
    found = kvmipa("--json", "--host", "middle", "stage2", "--ipa-bits", "33").json
    assert found["stage2"]["fields"] == [
        {"level": 2, "high": 32, "low": 21, "entry_size": 1 << 21},
        {"level": 3, "high": 20, "low": 12, "entry_size": 4096},
        {"level": None, "high": 11, "low": 0, "entry_size": None},
    ]
    assert (found["command"], found["ipa_bits"], found["svg"]) == ("stage2", 33, None)
    assert found["stage2"]["concatenated_tables"] == 8
    assert found["vtcr_el2"]["fields"]["T0SZ"] == 31
    assert int(found["vtcr_el2"]["value"], 0) & 0x3F == 31


def test_picture_is_written_beside_the_text(kvmipa: Command, tmp_path: Path) -> None:
    file = tmp_path / "ein Bild.svg"
    shown = kvmipa("--host", "middle", "stage2", "--svg", str(file))
    assert (shown.status, shown.err) == (0, "")
    assert shown.out == kvmipa("--host", "middle", "stage2").out
    assert "40 IPA bits" in ElementTree.parse(file).getroot()[0].text  # type: ignore[operator]
    assert kvmipa("--json", "--host", "middle", "stage2", "--svg", str(file)).json["svg"] == str(file)


@pytest.mark.parametrize("name", ["", "missing/picture.svg"])
def test_file_that_cannot_be_written_is_an_error_beside_the_text(kvmipa: Command, tmp_path: Path, name: str) -> None:
    file = str(tmp_path / name)
    shown = kvmipa("--host", "middle", "stage2", "--svg", file)
    assert shown.status == 1
    assert shown.out == kvmipa("--host", "middle", "stage2").out
    assert shown.err.startswith(f"kvmipa: {file}: ")
    assert shown.err.count("\n") == 1
    again = kvmipa("--json", "--host", "middle", "stage2", "--svg", file)
    assert (again.status, again.json["svg"]) == (1, None)
    assert again.json["svg_error"].startswith(file)


@pytest.mark.parametrize(
    ("host", "size", "kind"),
    [
        ("middle", "45", "IpaSizeTooLargeError"),
        ("middle", "31", "IpaSizeTooSmallError"),
        ("old", "41", "IpaSizeNotConfigurableError"),
    ],
)
def test_size_that_the_host_refuses_is_a_no_with_its_cause(
    kvmipa: Command, tmp_path: Path, host: str, size: str, kind: str
) -> None:
    file = tmp_path / "picture.svg"
    shown = kvmipa("--json", "--host", host, "stage2", "--ipa-bits", size, "--svg", str(file))
    assert shown.status == 1
    assert shown.json["error"]["class"] == kind
    assert not file.exists()


def test_size_that_no_host_has_is_wrong_usage(kvmipa: Command) -> None:
    assert kvmipa("--host", "middle", "stage2", "--ipa-bits", "296").status == 2
    assert kvmipa("--host", "middle", "stage2", "--ipa-bits", "forty").status == 2


def test_host_without_kvm_is_unavailable(kvmipa: Command) -> None:
    assert kvmipa("--host", "off", "stage2").status == kvmipa("--host", "off", "create").status != 0


def test_pkvm_host_shows_what_the_vm_was_given(kvmipa: Command) -> None:
    assert kvmipa("--host", "pkvm", "stage2", "--ipa-bits", "36").rows["IPA"].startswith("52 bits")


def test_register_that_does_not_show_is_left_out(kvmipa: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    found = {"not at all": NotSupportedError(errno.EOPNOTSUPP, cause="no debugfs"), "its shape": None}
    for failure in found.values():

        def stage2(vm: Vm, failure: Exception | None = failure) -> ShownStage2:
            if failure:
                raise failure
            return ShownStage2(Geometry(16384, vm.ipa_bits), str)

        monkeypatch.setattr(Vm, "stage2", property(stage2))
        shown = kvmipa("--json", "--host", "middle", "stage2", "--ipa-bits", "36").json
        assert shown["vtcr_el2"] is None
        assert shown["stage2"]["page_size"] == (4096 if failure else 16384)
        assert "VTCR_EL2" not in kvmipa("--host", "middle", "stage2", "--ipa-bits", "36").out


def test_help_teaches(kvmipa: Command) -> None:
    shown = kvmipa("stage2", "--help")
    assert shown.status == 0
    for word in ("--ipa-bits N", "--svg FILE", "examples:", "side by side", "VTCR_EL2", "exit status 1"):
        assert word in shown.out


def test_a_host_that_ignores_the_size_says_so(kvmipa: Command) -> None:
    found = kvmipa("--host", "pkvm", "stage2", "--ipa-bits", "34")
    assert found.rows["asked for"] == "34 bits; this host gives every VM its limit (pKVM)"
    assert "asked for" not in kvmipa("--host", "wide", "stage2", "--ipa-bits", "34").rows


def test_picture_alone_goes_to_stdout(kvmipa: Command) -> None:
    out = kvmipa("--host", "wide", "stage2", "--svg", "-").out
    assert out.startswith("<svg")
    assert out.rstrip().endswith("</svg>")
    assert not Path("-").exists()
