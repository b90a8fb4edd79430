# SPDX-License-Identifier: Apache-2.0
"""GuestMemory: memory of this process for guests, mapped as long as a VM uses it."""

from __future__ import annotations

import errno
from operator import index
from threading import Lock
from typing import TYPE_CHECKING, Final

from kvmipa import errors
from kvmipa.buffers import address_of
from kvmipa.causes import closed_error
from kvmipa.closing import Closing
from kvmipa.memory_mapping import PAGE_SIZE, map_anonymous, map_file

if TYPE_CHECKING:
    import mmap

    from kvmipa.memory_mapping import File

# KVM maps a guest's memory in huge pages where user address and guest address have the same place in one: the size of a
# block of level 2, by the process's own page size, and of a small one where memory is less (kernel-ipa-spec 5.5). The
# last is the largest page that a host can have, so that memory fits an emulated host of another page size as well.
_BLOCKS: Final = (PAGE_SIZE * PAGE_SIZE // 8, 2 << 20, 64 << 10)


class GuestMemory(Closing):
    r"""Memory of this process for a guest: anonymous, or of a file.

    size: bytes, a multiple of the page size. alignment: of its address, in bytes, a power of two; None aligns it so
    that huge pages are possible: to 2 MiB where it is as large as that (more where the process's pages are larger).
    file: a path, a descriptor or what has a fileno(); offset: where in the file it starts, in bytes. private: whether
    writes are not seen by others who map the file; None: private where there is no file. hugetlb: size of the huge
    pages to take from the system's pool, in bytes (Linux). readonly: the process, and so the guest, cannot write.

    It stays mapped as long as a VM uses it: close() then raises MemoryInUseError, and dropping it has no effect before
    the slot is deleted or the VM gone. Raises GuestMemorySizeError for sizes that cannot be, GuestMemoryError where the
    system refuses, TypeError for what is no file.

    >>> with GuestMemory(2 << 20) as memory:
    ...     memory.buffer[:5] = b"guest"
    ...     memory.address % (2 << 20), memory.size, bytes(memory.buffer[:6])
    (0, 2097152, b'guest\x00')
    """

    def __init__(
        self,
        size: int,
        *,
        alignment: int | None = None,
        file: File | None = None,
        offset: int = 0,
        private: bool | None = None,
        hugetlb: int | None = None,
        readonly: bool = False,
    ) -> None:
        self._map: mmap.mmap | None = None
        self._lock = Lock()
        self._users: set[object] = set()
        unit = PAGE_SIZE if hugetlb is None else index(hugetlb)
        size, offset = index(size), index(offset)
        _check("the size of a huge page", unit, PAGE_SIZE, power_of_two=True)
        _check("size", size, unit)
        _check("offset", offset, PAGE_SIZE, least=0)
        if alignment is None:
            alignment = max(unit, next((block for block in _BLOCKS if size >= block), _BLOCKS[-1]))
        _check("alignment", index(alignment), unit, power_of_two=True)
        if file is None:
            _check_anonymous(offset=offset, readonly=readonly)
            found = map_anonymous(size, index(alignment), unit, shared=private is False, huge=hugetlb is not None)
        else:
            found = map_file(size, index(alignment), file, offset, private=bool(private), readonly=readonly)
        self._map, self._start = found
        self._size = size
        self._readonly = readonly
        self._address = address_of(self._map) + self._start
        self._buffer = self._view()

    def _view(self) -> memoryview:
        assert self._map is not None
        return memoryview(self._map)[self._start : self._start + self._size]

    @property
    def address(self) -> int:
        """Where it is in this process; ClosedError once closed."""
        self._require_open()
        return self._address

    @property
    def size(self) -> int:
        """Its length in bytes."""
        return self._size

    @property
    def readonly(self) -> bool:
        """Whether this process cannot write to it."""
        return self._readonly

    @property
    def buffer(self) -> memoryview:
        """Its bytes, to read and write in place; ClosedError once closed.

        A view that somebody still has when it is closed makes close() raise MemoryInUseError.
        """
        self._require_open()
        return self._buffer

    @property
    def closed(self) -> bool:
        """Whether it is unmapped."""
        return self._map is None

    @property
    def in_use(self) -> bool:
        """Whether a slot of a VM has memory from it."""
        return bool(self._users)

    def close(self) -> None:
        """Unmap it; closing twice does nothing. MemoryInUseError while a slot or a view uses it."""
        with self._lock:
            if self._map is None:
                return
            if self._users:
                raise self._in_use_error(
                    f"{len(self._users)} memory slot(s) of a VM use it", "delete the slots or close the VM first"
                )
            self._buffer.release()
            try:
                self._map.close()
            except BufferError:
                self._buffer = self._view()
                raise self._in_use_error(
                    "somebody has a view of its buffer", "release() the memoryviews that were made of it"
                ) from None
            self._map = None

    def _in_use_error(self, cause: str, fix: str) -> errors.MemoryInUseError:
        return errors.MemoryInUseError(
            errno.EBUSY, cause=cause, asked=f"unmap {self!r}", available="the memory as it is", fix=fix
        )

    def attach(self, user: object) -> None:
        """A slot is about to use it; kvmipa's own."""
        with self._lock:
            self._require_open()
            self._users.add(user)

    def detach(self, user: object) -> None:
        """A slot uses it no longer; kvmipa's own."""
        self._users.discard(user)

    def _require_open(self) -> None:
        if self._map is None:
            raise closed_error("GuestMemory")

    def __repr__(self) -> str:
        """Size, place and state."""
        state = "closed" if self.closed else f"at {self._address:#x}"
        return f"<kvmipa.GuestMemory {self._size:#x} bytes {state}>"


def _check(what: str, value: int, unit: int, *, least: int = 1, power_of_two: bool = False) -> None:
    """GuestMemorySizeError unless a value is a multiple of a unit."""
    if value >= least and not value % unit and not (power_of_two and value & (value - 1)):
        return
    kind = "a power of two and a multiple" if power_of_two else "a multiple"
    raise errors.GuestMemorySizeError(
        errno.EINVAL,
        cause=f"{what} is not {kind} of {unit} bytes",
        asked=f"guest memory, {what}: {value:#x}",
        available=f"multiples of {unit:#x}, of {'0' if not least else unit} or more",
        fix=f"round it yourself: {max(-(-value // unit) * unit, unit if least else 0):#x} is the next",
    )


def _check_anonymous(*, offset: int, readonly: bool) -> None:
    if offset or readonly:
        raise errors.GuestMemorySizeError(
            errno.EINVAL,
            cause="memory without a file has no offset and is not read-only",
            asked="anonymous guest memory",
            available="offset and readonly with a file",
            fix="name a file, or leave them out; a slot can be read-only to the guest: Vm.add_memory(readonly=True)",
        )
