# SPDX-License-Identifier: Apache-2.0
"""The mirror is found in whatever form a machine writes its apt sources."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from ci.lab import apt
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
    with pytest.raises(LabError, match="no Debian mirror"):
        apt.find_mirror(apt.machine_sources(tmp_path), CODENAMES)
