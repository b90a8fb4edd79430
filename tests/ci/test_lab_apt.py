# SPDX-License-Identifier: Apache-2.0
"""The mirror is found in whatever form a machine writes its apt sources."""

from __future__ import annotations

import io
import re
import shutil
import subprocess
import tarfile
from typing import TYPE_CHECKING

import pytest

from ci.lab import apt, config
from ci.lab.cache import Cache
from ci.lab.errors import LabError

if TYPE_CHECKING:
    from pathlib import Path

CODENAMES = ("bookworm", "trixie")

ONE_LINE = """\
# deb http://mirror.invalid/commented bookworm main
deb-src http://mirror.invalid/source bookworm main
deb [arch=amd64 signed-by=/keys/tool.gpg] http://tools.invalid/apt stable main
deb [ signed-by=/keys/debian.gpg arch=amd64 ] http://mirror.invalid/debian bookworm main contrib # comment
deb http://mirror.invalid/security bookworm-security main
"""

DEB822 = """\
# a comment
Types: deb
URIs: http://tools.invalid/apt
Suites: stable
Components: main
Signed-By:
 -----BEGIN PGP PUBLIC KEY BLOCK-----
 .
 -----END PGP PUBLIC KEY BLOCK-----

Enabled: no
Types: deb
URIs: http://mirror.invalid/disabled
Suites: bookworm
Components: main

Types: deb deb-src
URIs: http://mirror.invalid/debian
Suites: trixie trixie-updates
Components: main
Signed-By: /keys/debian.gpg
"""


@pytest.mark.parametrize(("name", "text"), [("sources.list", ONE_LINE), ("sources.list.d/debian.sources", DEB822)])
def test_mirror(tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / "sources.list.d").mkdir()
    (tmp_path / name).write_text(text)
    assert apt.find_mirror(apt.machine_sources(tmp_path), CODENAMES) == apt.Mirror(
        "http://mirror.invalid/debian", "/keys/debian.gpg"
    )


def test_deb822_under_the_old_name(tmp_path: Path) -> None:
    (tmp_path / "sources.list").write_text(DEB822)
    assert [source.suite for source in apt.machine_sources(tmp_path)] == ["stable", "trixie", "trixie-updates"]


def test_no_mirror(tmp_path: Path) -> None:
    with pytest.raises(LabError, match=r"apt sources have none .* and KVMIPA_LAB_MIRROR is not set"):
        apt.find_mirror(apt.machine_sources(tmp_path), CODENAMES)


def test_named_mirror(tmp_path: Path) -> None:
    keyring = tmp_path / "keys.gpg"
    keyring.touch()
    environment = {"KVMIPA_LAB_MIRROR": "http://mirror.invalid/debian", "KVMIPA_LAB_KEYRING": str(keyring)}
    assert apt.named_mirror(environment) == apt.Mirror("http://mirror.invalid/debian", str(keyring))
    assert apt.named_mirror({}) is None
    assert apt.named_mirror({"KVMIPA_LAB_MIRROR": ""}) is None


def test_named_mirror_without_its_keyring(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(apt, "KEYRING", str(tmp_path / "missing.gpg"))
    with pytest.raises(LabError, match=r"keyring .*missing\.gpg: apt install debian-archive-keyring"):
        apt.named_mirror({"KVMIPA_LAB_MIRROR": "http://mirror.invalid/debian"})


def test_named_mirror_comes_before_the_machines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    keyring = tmp_path / "keys.gpg"
    keyring.touch()
    monkeypatch.setenv("KVMIPA_LAB_MIRROR", "http://mirror.invalid/named")
    monkeypatch.setenv("KVMIPA_LAB_KEYRING", str(keyring))
    monkeypatch.setattr(apt.Apt, "_run", lambda *_: "")
    monkeypatch.setattr(apt.Apt, "_configuration", lambda _: "")
    cache = Cache(tmp_path / "cache")
    with apt.Apt(config.load(), cache, "trixie-backports").session():
        pass
    assert cache.path("apt", "trixie-backports", "sources.list").read_text().splitlines() == [
        f"deb [arch=arm64 signed-by={keyring}] http://mirror.invalid/named {suite} main"
        for suite in ("trixie-backports", "trixie")
    ]


def test_unsigned_mirrors_are_refused_whatever_the_machine_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = ("AllowInsecureRepositories", "AllowWeakRepositories", "AllowDowngradeToInsecureRepositories")
    machine = "".join(f'Acquire::{name} "true";\n' for name in names)
    monkeypatch.setattr(apt.Apt, "_call", lambda *_: subprocess.CompletedProcess([], 0, machine, ""))
    text = apt.Apt(config.load(), Cache(tmp_path), "bookworm")._configuration()
    for name in names:
        # Of several assignments apt takes the last.
        assert re.findall(rf'^Acquire::{name} "(\w+)";$', text, re.MULTILINE) == ["true", "false"]


needs_dpkg = pytest.mark.skipif(shutil.which("dpkg-deb") is None, reason="no dpkg-deb")


def package(path: Path, member: str) -> Path:
    """A Debian package with one file: an ar archive of two tar archives."""
    parts = {"debian-binary": b"2.0\n"}
    for name, file in (("control.tar", "./control"), ("data.tar", member)):
        archive = io.BytesIO()
        with tarfile.open(fileobj=archive, mode="w") as tar:
            info = tarfile.TarInfo(file)
            info.size = 1
            tar.addfile(info, io.BytesIO(b"x"))
        parts[name] = archive.getvalue()
    entries = [
        f"{name:16}{0:<12}{0:<6}{0:<6}{100644:<8}{len(data):<10}`\n".encode() + data for name, data in parts.items()
    ]
    path.write_bytes(b"!<arch>\n" + b"".join(entries))
    return path


@needs_dpkg
def test_members_of_a_package(tmp_path: Path) -> None:
    ((member, data),) = apt.unpack(package(tmp_path / "good.deb", "./usr/a..b"))
    assert (member.name, data) == ("usr/a..b", b"x")


@needs_dpkg
@pytest.mark.parametrize("name", ["/etc/passwd", ".//etc/passwd", "../x", "./usr/../../x"])
def test_members_outside_are_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(LabError, match=r"bad\.deb could not be unpacked: it has a member"):
        list(apt.unpack(package(tmp_path / "bad.deb", name)))


@needs_dpkg
@pytest.mark.parametrize("keep", [0, 40, 3000])
def test_a_corrupt_package_is_refused(tmp_path: Path, keep: int) -> None:
    path = package(tmp_path / "bad.deb", "./usr/file")
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(LabError, match=r"bad\.deb could not be unpacked"):
        list(apt.unpack(path))
