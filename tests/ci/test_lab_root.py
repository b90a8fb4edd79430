# SPDX-License-Identifier: Apache-2.0
"""Bytecode that is compiled here is bytecode that the guest accepts."""

from __future__ import annotations

import importlib.util
import marshal
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from ci.lab import root
from ci.lab.cpio import Entry, Tree
from ci.lab.errors import LabError

if TYPE_CHECKING:
    from pathlib import Path

SOURCE = b"# -*- coding: latin-1 -*-\nname = '\xe9'\n\n\ndef fail():\n    raise ValueError(name)\n"


def test_bytecode_is_used_and_has_the_guests_path(tmp_path: Path) -> None:
    compiled = root.bytecode(
        {"mod.py": Entry.file(SOURCE), "bad.py": Entry.file(b"print 1\n"), "data": Entry.file(b"")}
    )
    assert list(compiled) == [importlib.util.cache_from_source("mod.py")]
    (cached,) = compiled.values()
    (tmp_path / "mod.py").write_bytes(b"this is not read\n")
    target = tmp_path / importlib.util.cache_from_source("mod.py")
    target.parent.mkdir()
    target.write_bytes(cached.data)
    result = subprocess.run(
        [sys.executable, "-c", "import mod; mod.fail()"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert "ValueError: \xe9" in result.stderr
    assert marshal.loads(cached.data[16:]).co_filename == "/mod.py"


@pytest.mark.parametrize(
    "tree",
    [
        {"link": Entry.symlink("../outside"), "link/file": Entry.file(b"x")},
        {"a/file": Entry.symlink("../../outside/file"), "b": Entry.symlink("a"), "b/file": Entry.file(b"x")},
    ],
)
def test_links_that_lead_outside_are_not_written_through(tmp_path: Path, tree: Tree) -> None:
    for name in ("inside", "outside"):
        (tmp_path / name).mkdir()
    with pytest.raises(LabError, match="leads out"):
        root._lay_out(tree, tmp_path / "inside")
    assert list((tmp_path / "outside").iterdir()) == []


def test_links_that_stay_inside_are_followed(tmp_path: Path) -> None:
    root._lay_out({"a/link": Entry.symlink("/nowhere"), "b": Entry.symlink("a"), "b/file": Entry.file(b"x")}, tmp_path)
    assert (tmp_path / "a/file").read_bytes() == b"x"
