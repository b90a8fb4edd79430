# SPDX-License-Identifier: Apache-2.0
"""The archive that Linux unpacks: what is written can be read, by this reader and by cpio(1)."""

from __future__ import annotations

import io
import shutil
import stat
import subprocess

import pytest

from ci.lab import cpio
from ci.lab.cpio import Entry, Tree

TREE = {
    "bin/sh": Entry.file(b"#!", 0o755),
    "dev/console": Entry.character_device(5, 1),
    "empty": Entry.file(b""),
    "lib": Entry.symlink("usr/lib"),
    "tmp": Entry.directory(0o1777),
    **{f"length/{n}": Entry.file(bytes(range(n))) for n in range(9)},
}


def archive(tree: Tree) -> bytes:
    file = io.BytesIO()
    cpio.write(file, tree)
    return file.getvalue()


def test_round_trip() -> None:
    assert dict(cpio.read(archive(TREE))) == cpio.with_parents(TREE)


def test_directories_come_before_what_is_in_them() -> None:
    names = [name for name, _ in cpio.read(archive({"a/b/c": Entry.file(b""), "a": Entry.directory(0o700)}))]
    assert names == ["a", "a/b", "a/b/c"]


def test_a_directory_of_ones_own_keeps_its_mode() -> None:
    tree = dict(cpio.read(archive({"a/b": Entry.file(b""), "a": Entry.directory(0o700)})))
    assert stat.S_IMODE(tree["a"].mode) == 0o700


def test_archives_may_follow_one_another() -> None:
    both = archive({"a": Entry.file(b"1")}) + archive({"a": Entry.file(b"2"), "b": Entry.file(b"3")})
    assert [(name, entry.data) for name, entry in cpio.read(both)] == [("a", b"1"), ("a", b"2"), ("b", b"3")]


def test_archives_are_reproducible_and_padded() -> None:
    assert archive(TREE) == archive(dict(reversed(TREE.items())))
    assert len(archive(TREE)) % 512 == 0


@pytest.mark.parametrize("keep", [50, 112, 200])
def test_a_cut_off_archive_is_refused(keep: int) -> None:
    data = archive({"name-of-some-length": Entry.file(b"x" * 500)})
    with pytest.raises(ValueError, match="cut off"):
        list(cpio.read(data[:keep]))


def test_garbage_is_refused() -> None:
    with pytest.raises(ValueError, match="no cpio header at offset 0"):
        list(cpio.read(b"070702" + b"0" * 200))


@pytest.mark.skipif(not shutil.which("cpio"), reason="cpio(1), which is to read it, is not here (Debian: cpio)")
def test_cpio_reads_it() -> None:
    listing = subprocess.run(["cpio", "-tv"], input=archive(TREE), capture_output=True, check=True).stdout.decode()
    lines = {line.split()[-1]: line for line in listing.splitlines()}
    assert lines["dev/console"].startswith("crw-------")
    assert lines["tmp"].startswith("drwxrwxrwt")
    assert "lib -> usr/lib" in lines["usr/lib"]
