# SPDX-License-Identifier: Apache-2.0
"""A wheel goes into the guest only if it is what it says, and as an installer would put it."""

from __future__ import annotations

import dataclasses
import struct
import sys
import sysconfig
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, cast

import pytest

from ci.lab import config, programs, wheel
from ci.lab.cache import Cache
from ci.lab.errors import LabError
from ci.lab.root import GuestRoot
from ci.packaging.build import Tools

if TYPE_CHECKING:
    from ci.lab.apt import Apt

ARM64 = b"\x7fELF\x02\x01" + bytes(12) + struct.pack("<H", 183)
ROOT = GuestRoot("bookworm", "3.11", {}, Path("/nowhere"))


def make(directory: Path, tag: str, files: dict[str, bytes]) -> Path:
    path = directory / f"kvmipa-1-{tag}.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return path


def test_wheel_with_a_defect_is_refused_with_what_it_is(tmp_path: Path) -> None:
    with pytest.raises(LabError, match="native code"):
        wheel.check(make(tmp_path, "cp310-abi3-linux_aarch64", {"kvmipa/__init__.py": b""}))


@pytest.mark.parametrize("tag", ["cp310-abi3-linux_x86_64", "py3-none-any"])
def test_wheel_for_another_machine_is_refused(tmp_path: Path, tag: str) -> None:
    with pytest.raises(LabError, match="an arm64 wheel was to be built"):
        wheel.check(make(tmp_path, tag, {"kvmipa/_native.abi3.so": ARM64}))


def test_build_tools_are_shared_by_environments(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    installs = []
    monkeypatch.setattr(Tools, "install", lambda *arguments: installs.append(arguments))
    cache = Cache(tmp_path)
    first = wheel.build_tools(cache, ["setuptools"])
    monkeypatch.setattr(sys, "executable", "/another/environment/python")
    second = wheel.build_tools(cache, ["setuptools"])
    assert first.packages == second.packages
    assert len(installs) == 1
    assert wheel.build_tools(cache, ["setuptools>=99"]).packages != first.packages
    monkeypatch.setattr(sysconfig, "get_platform", lambda: "linux-s390x")
    assert wheel.build_tools(cache, ["setuptools"]).packages != first.packages


def test_a_changed_recipe_is_another_wheel() -> None:
    files = {"setup.py": Path(__file__)}
    recipe = config.load().wheel
    key = wheel._key(recipe, files, "12")
    assert key == wheel._key(dataclasses.replace(recipe), files, "12")
    assert key != wheel._key(dataclasses.replace(recipe, cflags="-O3"), files, "12")
    assert key != wheel._key(recipe, files, "13")
    assert key != wheel._key(recipe, {"setup.cfg": Path(__file__)}, "12")


class Index:
    """The packages of a suite."""

    suite = "trixie"

    def __init__(self, depends: dict[str, str]) -> None:
        self.depends = depends

    def show(self, package: str) -> dict[str, str] | None:
        known = package in self.depends
        return {"version": f"{package}'s", "depends": self.depends[package]} if known else None


def test_headers_are_those_of_the_suites_python() -> None:
    index = Index(
        {"libpython3-dev": "libpython3-stdlib (= 3.13.5-1), libpython3.13-dev (>= 3.13.5-1~)", "libpython3.13-dev": ""}
    )
    assert wheel._headers_package(cast("Apt", index)) == ("libpython3.13-dev", "libpython3.13-dev's")


@pytest.mark.parametrize("depends", [{}, {"libpython3-dev": ""}, {"libpython3-dev": "libpython3.13-dev"}])
def test_a_suite_without_headers_says_so(depends: dict[str, str]) -> None:
    with pytest.raises(LabError, match="trixie has no headers of Python"):
        wheel._headers_package(cast("Apt", Index(depends)))


@pytest.mark.parametrize("minor", ["3.13", "3.99"])
def test_no_header_of_this_machine_is_compiled_with(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, minor: str
) -> None:
    """Also for a Python that no suite has."""
    monkeypatch.setattr(wheel, "python_minor", lambda: minor)
    monkeypatch.setattr(programs, "find", lambda name, package: name)
    cache = Cache(tmp_path)
    include = cache.directory("headers", "trixie", "python3.13").parent
    flags = wheel.cross_settings(config.load(), cache)["CFLAGS"].split()
    assert [flag for flag in flags if flag.startswith("-I")] == [f"-I{include}/python3.13", f"-I{include}"]


def test_installed(tmp_path: Path) -> None:
    files = {
        "kvmipa/__init__.py": b"x = 1\n",
        "kvmipa-1.dist-info/entry_points.txt": b"[console_scripts]\nkvmipa = kvmipa.cli:main\n[pytest11]\nx = a.b\n",
    }
    tree = wheel.installed(make(tmp_path, "py3-none-any", files), ROOT)
    site = "usr/local/lib/python3.11/dist-packages"
    assert tree[f"{site}/kvmipa/__init__.py"].data == b"x = 1\n"
    assert tree["usr/local/bin/kvmipa"].mode & 0o111
    assert b"from kvmipa.cli import main" in tree["usr/local/bin/kvmipa"].data
    assert set(tree) == {f"{site}/{name}" for name in files} | {"usr/local/bin/kvmipa"}
