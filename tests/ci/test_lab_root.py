# SPDX-License-Identifier: Apache-2.0
"""Bytecode that is compiled here is bytecode that the guest accepts."""

from __future__ import annotations

import importlib.util
import marshal
import subprocess
import sys
from typing import TYPE_CHECKING

from ci.lab import root
from ci.lab.cpio import Entry

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
