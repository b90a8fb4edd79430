# SPDX-License-Identifier: Apache-2.0
"""The cpio archive that Linux unpacks as its first root filesystem ("newc", magic 070701).

The format is described in the kernel's Documentation/driver-api/early-userspace/buffer-format.rst: for each file a
header of thirteen 8-digit hexadecimal numbers, the name, and the contents, the last two padded to four bytes; then an
entry called TRAILER!!!. Several archives may follow one another, padded with zeros; later files replace earlier ones.
"""

from __future__ import annotations

import stat
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, BinaryIO

if TYPE_CHECKING:
    from collections.abc import Iterator

MAGIC = b"070701"
TRAILER = "TRAILER!!!"
_HEADER_SIZE = len(MAGIC) + 13 * 8
_BLOCK = 512


@dataclass(frozen=True, slots=True)
class Entry:
    """One file of any kind: its mode with the type bits, and the contents, link target or device number."""

    mode: int
    data: bytes = b""
    device: tuple[int, int] = (0, 0)

    @classmethod
    def file(cls, data: bytes, permissions: int = 0o644) -> Entry:
        return cls(stat.S_IFREG | permissions, data)

    @classmethod
    def directory(cls, permissions: int = 0o755) -> Entry:
        return cls(stat.S_IFDIR | permissions)

    @classmethod
    def symlink(cls, target: str) -> Entry:
        return cls(stat.S_IFLNK | 0o777, target.encode())

    @classmethod
    def character_device(cls, major: int, minor: int, permissions: int = 0o600) -> Entry:
        return cls(stat.S_IFCHR | permissions, device=(major, minor))


#: Files by their path without a leading slash.
Tree = dict[str, Entry]


def with_parents(tree: Tree) -> Tree:
    """The same files with the directories that they need, in an order that the kernel can unpack."""
    whole: Tree = {}
    for path in sorted(tree):
        for parent in reversed(PurePosixPath(path).parents[:-1]):
            whole.setdefault(str(parent), tree.get(str(parent), Entry.directory()))
        whole[path] = tree[path]
    return whole


def write(file: BinaryIO, tree: Tree) -> None:
    """Append an archive of these files, all owned by root and dated 1970."""
    size = 0
    for number, (path, entry) in enumerate(with_parents(tree).items(), start=1):
        size += _write_entry(file, path, entry, number)
    size += _write_entry(file, TRAILER, Entry(0), 0)
    file.write(bytes(-size % _BLOCK))


def _write_entry(file: BinaryIO, path: str, entry: Entry, inode: int) -> int:
    name = path.encode() + b"\0"
    links = 2 if stat.S_ISDIR(entry.mode) else 1
    owner = modified = device = checksum = 0
    numbers = (
        *(inode, entry.mode, owner, owner, links, modified, len(entry.data)),
        *(device, device, *entry.device, len(name), checksum),
    )
    head = MAGIC + b"".join(b"%08x" % number for number in numbers) + name
    head += bytes(-len(head) % 4)
    body_padding = bytes(-len(entry.data) % 4)
    return file.write(head) + file.write(entry.data) + file.write(body_padding)


def read(data: bytes) -> Iterator[tuple[str, Entry]]:
    """The files of one archive or of several that follow one another, without the trailers."""
    at = 0
    while at < len(data):
        if data[at : at + 1] == b"\0":
            at += 1
            continue
        path, entry, at = _read_entry(data, at)
        if path != TRAILER:
            yield path, entry


def _read_entry(data: bytes, at: int) -> tuple[str, Entry, int]:
    if data[at : at + len(MAGIC)] != MAGIC:
        raise ValueError(f"no cpio header at offset {at}")
    digits = data[at + len(MAGIC) : at + _HEADER_SIZE]
    if len(digits) != _HEADER_SIZE - len(MAGIC):
        raise ValueError(f"cpio header at offset {at} is cut off")
    numbers = [int(digits[n : n + 8], 16) for n in range(0, len(digits), 8)]
    mode, size, device, name_size = numbers[1], numbers[6], (numbers[9], numbers[10]), numbers[11]
    name_end = at + _HEADER_SIZE + name_size
    start = name_end + -(name_end - at) % 4
    end = start + size
    if end > len(data):
        raise ValueError(f"cpio archive is cut off in the file at offset {at}")
    path = data[at + _HEADER_SIZE : name_end - 1].decode()
    return path, Entry(mode, data[start:end], device), end + -(end - start) % 4
