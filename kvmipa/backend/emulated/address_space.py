# SPDX-License-Identifier: Apache-2.0
"""What KVM looks at in the process's address space: VMAs when a slot is set (kernel-ipa-spec 4.4), pages on a fault.

Only Linux lists them, and only in part: of flags, /proc/self/smaps has VM_PFNMAP ("pf").
"""

from __future__ import annotations

import mmap
import os
import re
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

from kvmipa.backend.emulated.user_memory import is_readable

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

_MAPS: Final = Path("/proc/self/maps")
_SMAPS: Final = Path("/proc/self/smaps")
_LINE: Final = re.compile(r"([0-9a-f]+)-([0-9a-f]+) (....) \S+ \S+ (\d+) *(.*)\n")

# The kernel's data pages, which every process has; the one that arm64 has too.
_KERNEL_DATA: Final = "[vvar"
_DATA_PAGE: Final = "[vvar]"
# What can be mapped by frame number.
_OF_DEVICES: Final = ("/dev/", "/sys/")
_FRAMES: Final = (_KERNEL_DATA, *_OF_DEVICES)
_RAM: Final = "/dev/mem"

# What the first line of a VMA begins with in either listing.
_HEX_DIGITS: Final = "0123456789abcdef"

# RAM that tags can be in: shmem under its various names (VM_MTE_ALLOWED in mm/shmem.c, and in asm/mman.h).
_SHMEM: Final = ("/dev/shm/", "/memfd:", "/dev/zero", "[anon_shmem")  # noqa: S108  names in a listing

# Documentation/admin-guide/mm/pagemap.rst: a page that is mapped here only, which the page of zeros never is; a page of
# a file or of shared memory; one that is swapped out.
_EXCLUSIVE: Final = 1 << 56
_OF_FILE: Final = 1 << 61
_SWAPPED: Final = 1 << 62
# Entries that are read at a time.
_PAGEMAP_CHUNK: Final = 4096


class Mapping(NamedTuple):
    """A VMA of this process: addresses in bytes, and the rest as /proc/self/maps has it.

    flags, page_size: the VmFlags and the KernelPageSize, in bytes, of /proc/self/smaps; empty and 0 where that was not
    read.
    """

    start: int
    end: int
    permissions: str
    inode: int
    path: str
    flags: frozenset[str] = frozenset()
    page_size: int = 0

    @property
    def readable(self) -> bool:
        """Whether the process may read there (VM_READ)."""
        return self.permissions[0] == "r"

    @property
    def writable(self) -> bool:
        """Whether the process may write there (VM_WRITE)."""
        return self.permissions[1] == "w"

    @property
    def shared(self) -> bool:
        """VM_SHARED."""
        return self.permissions[3] == "s"

    @property
    def anonymous(self) -> bool:
        """Private memory that is no file's: what transparent huge pages are for."""
        return not (self.shared or self.inode or self.path.startswith("["))

    @property
    def hugetlb_size(self) -> int:
        """Bytes of its huge pages, where they come from the system's pool (VM_HUGETLB); else 0."""
        return self.page_size if "ht" in self.flags else 0

    @property
    def device(self) -> bool:
        """Whether it is mapped by frame number (VM_PFNMAP), and no memory of the kernel's."""
        return "pf" in self.flags and not self.path.startswith(_KERNEL_DATA)

    def is_huge(self, block_size: int, enabled: str) -> bool:
        """Whether transparent huge pages are for it, as /sys/kernel/mm/transparent_hugepage/enabled says (thp.rst)."""
        if not self.anonymous or self.end - self.start < block_size or self.hugetlb_size:
            return False
        return enabled != "never" and "nh" not in self.flags and (enabled == "always" or "hg" in self.flags)

    @property
    def may_have_tags(self) -> bool:
        """VM_MTE_ALLOWED: anonymous memory and shmem."""
        return self.path.startswith(_SHMEM) or (not self.inode and not self.path.startswith("["))


def mappings(start: int, end: int) -> Iterator[Mapping]:
    """The VMAs that a range of addresses touches, in order; none where the system does not list them."""
    for line in _lines(_MAPS):
        found = _parse(line)
        if found and found.start >= end:
            return
        if found and start < found.end:
            yield found


def missing(before: Iterable[Mapping], now: Sequence[Mapping], start: int, end: int) -> Iterator[tuple[int, int]]:
    """The parts of a range that were mapped before and are not now. now: in order.

    >>> def at(*places):
    ...     return [Mapping(first, last, "rw-p", 0, "") for first, last in places]
    >>> list(missing(at((0, 8), (8, 12)), at((2, 4), (6, 10)), 1, 20))
    [(1, 2), (4, 6), (10, 12)]
    """
    for old in before:
        position, last = max(old.start, start), min(old.end, end)
        for new in now:
            if position >= last:
                break
            if position < new.start:
                yield position, min(new.start, last)
            position = max(position, new.end)
        if position < last:
            yield position, last


def backing(start: int, end: int, block_size: int) -> tuple[Mapping, ...]:
    """As mappings(), with flags and page sizes where they matter to a fault: finding those out takes long.

    block_size: bytes of a transparent huge page. Where the system lists nothing, the whole range counts as one mapping
    of anonymous memory, if it can be read at all.
    """
    found = tuple(mappings(start, end))
    if not found and next(_lines(_MAPS), None) is None and is_readable(start):
        return (Mapping(start, end, "rw-p", 0, ""),)
    if any(_is_special(one) or (one.anonymous and one.end - one.start >= block_size) for one in found):
        described = {one.start: one for one in _described(_lines(_SMAPS), start, end)}
        found = tuple(described.get(one.start, one) if _is_same(one, described) else one for one in found)
    return found


def _is_special(found: Mapping) -> bool:
    return "huge" in found.path or found.path.startswith(_FRAMES)


def _is_same(found: Mapping, described: dict[int, Mapping]) -> bool:
    """Whether the two listings, which were not read at one moment, have the same mapping."""
    return found.start in described and described[found.start].end == found.end


def touches_frames(start: int, end: int, *, data_page: bool) -> bool:
    """Whether a range has a VMA that is mapped by frame number (VM_PFNMAP): devices.

    data_page: the emulated kernel maps its own data page like that, which the one that runs need not do.
    """
    found = list(mappings(start, end))
    return (data_page and any(mapping.path == _DATA_PAGE for mapping in found)) or _have_frames(found)


def touches_cached_frames(start: int, end: int) -> bool:
    """Whether a range has a VMA of cached memory that is mapped by frame number.

    /dev/mem counts as that: RAM which it maps is cached, and nothing tells it from registers, which are not.
    """
    return _may_map_ram() and _have_frames([found for found in mappings(start, end) if found.path == _RAM])


@lru_cache(maxsize=1)
def _may_map_ram() -> bool:
    """Whether the process can have any of it: most cannot, and looking at all mappings takes long."""
    return os.access(_RAM, os.R_OK)


def _have_frames(suspects: list[Mapping]) -> bool:
    """Whether one of these has VM_PFNMAP by the running kernel's word; reading all flags takes long."""
    places = {(mapping.start, mapping.end) for mapping in suspects if mapping.path.startswith(_OF_DEVICES)}
    return bool(places) and any((found.start, found.end) in places for found in _frame_mappings(_lines(_SMAPS)))


def _frame_mappings(lines: Iterable[str]) -> Iterator[Mapping]:
    """The VMAs of a listing in the form of /proc/self/smaps that have VM_PFNMAP."""
    return (found for found in _described(lines) if "pf" in found.flags)


def _described(lines: Iterable[str], start: int = 0, end: int = 1 << 64) -> Iterator[Mapping]:
    """The VMAs that a range touches, of a listing in the form of /proc/self/smaps, whose last lines have the flags.

    The listing is in order, and is read only as far as that: the kernel counts the pages of each VMA for it.
    """
    current, page_size = None, 0
    for line in lines:
        if line[:1] in _HEX_DIGITS:
            current = _parse(line) or current
            if current and current.start >= end:
                return
            if current and current.end <= start:
                current = None
        elif current is None:
            continue
        elif line.startswith("KernelPageSize:"):
            page_size = int(line.split()[1]) << 10
        elif line.startswith("VmFlags:"):
            yield current._replace(flags=frozenset(line.split()[1:]), page_size=page_size)


def was_written(address: int, size: int) -> bool:
    """Whether a range of private memory has a page of its own, and not only the page of zeros that a read gives it.

    Bytes. True where the system does not tell.
    """
    pagemap = _pagemap()
    if pagemap is None:
        return True
    first = address // mmap.PAGESIZE
    end = first + max(size // mmap.PAGESIZE, 1)
    for page in range(first, end, _PAGEMAP_CHUNK):
        try:
            found = os.pread(pagemap, 8 * min(_PAGEMAP_CHUNK, end - page), 8 * page)
        except OSError:
            return True
        entries = memoryview(found[: len(found) & ~7]).cast("Q")
        if any(entry & (_EXCLUSIVE | _OF_FILE) == _EXCLUSIVE or entry & _SWAPPED for entry in entries):
            return True
    return False


class _Pagemap:
    """The listing of this process's pages; it stays open, for it is asked for each page that a guest reads first.

    A child after fork has a listing of its own, and closes its parent's, if it has not done so: file tells whether the
    number is still that of the parent's.
    """

    def __init__(self) -> None:
        self._process = 0
        self._fd: int | None = None
        self._file: os.stat_result | None = None

    def __call__(self) -> int | None:
        """The descriptor, or None where the system has no such listing."""
        process = os.getpid()
        if process != self._process:
            self._close()
            with suppress(OSError):
                self._fd = os.open(f"/proc/{process}/pagemap", os.O_RDONLY | os.O_CLOEXEC)
                self._file = os.fstat(self._fd)
            self._process = process
        return self._fd

    def _close(self) -> None:
        fd, file = self._fd, self._file
        self._fd = self._file = None
        if fd is not None and file is not None:
            with suppress(OSError):
                if os.path.samestat(os.fstat(fd), file):
                    os.close(fd)


_pagemap: Final = _Pagemap()


def _lines(listing: Path) -> Iterator[str]:
    with suppress(OSError), listing.open(errors="replace") as lines:
        yield from lines


def _parse(line: str) -> Mapping | None:
    match = _LINE.match(line)
    if match is None:
        return None
    start, end, permissions, inode, path = match.groups()
    return Mapping(int(start, 16), int(end, 16), permissions, int(inode), path)
