# SPDX-License-Identifier: Apache-2.0
"""A wheel goes into the guest only if it is what it says, and as an installer would put it."""

from __future__ import annotations

import struct
import zipfile
from pathlib import Path

import pytest

from ci.lab import wheel
from ci.lab.errors import LabError
from ci.lab.root import GuestRoot

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
