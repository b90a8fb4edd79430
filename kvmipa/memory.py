# SPDX-License-Identifier: Apache-2.0
"""Memory for guests: GuestMemory, what the process maps for them, and Memslot, a piece of it that a VM has."""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
import sys
from operator import index
from threading import Lock
from typing import TYPE_CHECKING, Any, Final

from kvmipa import errors
from kvmipa._abi_table import KVM_MEM_LOG_DIRTY_PAGES, KVM_MEM_READONLY
from kvmipa.causes import closed_error

if TYPE_CHECKING:
    from collections.abc import Iterable
    from types import TracebackType

    from typing_extensions import Self

    from kvmipa.memory_causes import Region
    from kvmipa.slots import SlotTable

    # A path, a descriptor, or what has one.
    File = str | os.PathLike[str] | int | Any

PAGE_SIZE: Final = mmap.PAGESIZE

# KVM maps a guest's memory in huge pages where user address and guest address have the same place in one: the size of a
# block of level 2, by the process's own page size, and of a small one where memory is less (kernel-ipa-spec 5.5). The
# last is the largest page that a host can have, so that memory fits an emulated host of another page size as well.
_BLOCKS: Final = (PAGE_SIZE * PAGE_SIZE // 8, 2 << 20, 64 << 10)

# include/uapi/asm-generic/mman-common.h; Python has no names for them.
_MAP_HUGETLB: Final = 0x40000
_MAP_HUGE_SHIFT: Final = 26
_MAP_FIXED: Final = 0x10

_WORD_BITS: Final = 64


class GuestMemory:
    r"""Memory of this process for a guest: anonymous, or of a file.

    size: bytes, a multiple of the page size. alignment: of its address, in bytes, a power of two; None aligns it so
    that huge pages are possible: to 2 MiB where it is as large as that (more where the process's pages are larger).
    file: a path, a descriptor or what has a fileno(); offset: where in the file it starts, in bytes. private: whether
    writes are not seen by others who map the file; None: private where there is no file. hugetlb: size of the huge
    pages to take from the system's pool, in bytes (Linux). readonly: the process, and so the guest, cannot write.

    It stays mapped as long as a VM uses it: close() then raises MemoryInUseError, and dropping it has no effect before
    the slot is deleted or the VM closed. Raises GuestMemorySizeError for sizes that cannot be, GuestMemoryError where
    the system refuses.

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
            found = _map_anonymous(size, index(alignment), unit, shared=private is False, huge=hugetlb is not None)
        else:
            found = _map_file(size, index(alignment), file, offset, private=bool(private), readonly=readonly)
        self._map, self._start = found
        self._size = size
        self._readonly = readonly
        self._address = _address_of(self._map, readonly=readonly) + self._start
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

    def __enter__(self) -> Self:
        """The memory itself; ClosedError once closed."""
        self._require_open()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close, however the block ended."""
        self.close()

    def __repr__(self) -> str:
        """Size, place and state."""
        state = "closed" if self.closed else f"at {self._address:#x}"
        return f"<kvmipa.GuestMemory {self._size:#x} bytes {state}>"


class Memslot:
    """A memory slot of a VM; made by Vm.add_memory() and Vm.set_user_memory_region(), listed by Vm.memslots.

    slot_id: its number. guest_phys_addr, memory_size, userspace_addr: bytes. flags: KVM_MEM_*. memory: the GuestMemory
    that it is of, None where the address was given as a number. It belongs to its Vm: with that closed, only looking
    at it works.

    >>> import kvmipa
    >>> with kvmipa.open("emulated") as kvm, kvm.create_vm(40) as vm:
    ...     slot = vm.add_memory(0x4000_0000, kvmipa.GuestMemory(2 << 20))
    ...     slot.move(0x8000_0000)
    ...     slot
    <kvmipa.Memslot 0: 0x80000000..0x801fffff>
    """

    __slots__ = ("_table", "flags", "guest_phys_addr", "memory", "memory_size", "slot_id", "userspace_addr")

    def __init__(self, table: SlotTable, region: Region, memory: GuestMemory | None = None) -> None:
        self._table: SlotTable | None = table
        self.slot_id = region.slot
        self.guest_phys_addr = region.guest_phys_addr
        self.memory_size = region.memory_size
        self.userspace_addr = region.userspace_addr
        self.flags = region.flags
        self.memory = memory

    @property
    def end(self) -> int:
        """The first guest address behind it."""
        return self.guest_phys_addr + self.memory_size

    @property
    def readonly(self) -> bool:
        """Whether the guest's stores are not carried out, but exit as MMIO (KVM_MEM_READONLY)."""
        return bool(self.flags & KVM_MEM_READONLY)

    @property
    def log_dirty(self) -> bool:
        """Whether KVM notes which pages are written (KVM_MEM_LOG_DIRTY_PAGES)."""
        return bool(self.flags & KVM_MEM_LOG_DIRTY_PAGES)

    @property
    def deleted(self) -> bool:
        """Whether the VM no longer has it: it was deleted, or the VM is closed."""
        return self._table is None

    def move(self, guest_phys_addr: int) -> None:
        """Give it another guest address; what the guest has written stays in it.

        Raises what Vm.set_user_memory_region() raises, and NoSuchSlotError once deleted; the slot is then where it was.
        """
        self._alive("move it").change(self, guest_phys_addr, self.flags)

    def set_logging(self, on: bool) -> None:
        """Switch dirty logging on or off; a log that was on before is kept.

        Raises SlotMappingError for memory that KVM cannot log, ProtectedSlotError, NoSuchSlotError once deleted.
        """
        flags = self.flags | KVM_MEM_LOG_DIRTY_PAGES if on else self.flags & ~KVM_MEM_LOG_DIRTY_PAGES
        self._alive("switch its dirty logging").change(self, self.guest_phys_addr, flags)

    def delete(self) -> None:
        """Take it from the VM; deleting it twice does nothing. Its GuestMemory can be closed then."""
        if self._table is not None:
            self._table.delete(self)

    def dirty_bitmap(self) -> bytes:
        """The dirty bitmap as the kernel gives it: a bit for each page, in unsigned longs (KVM_GET_DIRTY_LOG).

        The bits are cleared by this, unless KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2 was enabled: clear_dirty_log() does it
        then. Raises DirtyLogOffError, NoSuchSlotError once deleted.
        """
        return self._alive("read its dirty log").dirty_bitmap(self)

    def dirty_log(self) -> list[int]:
        """The pages that the guest has written, counted from the slot's start; as dirty_bitmap() otherwise."""
        return list(pages_of(self.dirty_bitmap()))

    def clear_dirty_log(self, first_page: int = 0, num_pages: int | None = None, bitmap: bytes | None = None) -> None:
        """Clear dirty bits and start to watch those pages again (KVM_CLEAR_DIRTY_LOG).

        first_page: a multiple of 64. num_pages: a multiple of 64 too, or all that are left (None). bitmap: which of
        these pages, in the form of dirty_bitmap(); None: each of them. Raises DirtyLogRangeError, DirtyLogOffError,
        NoSuchSlotError once deleted, NotSupportedError before Linux 5.0.
        """
        self._alive("clear its dirty log").clear_dirty_log(self, first_page, num_pages, bitmap)

    def forget(self) -> None:
        """The VM has it no longer; kvmipa's own."""
        self._table = None
        if self.memory is not None:
            self.memory.detach(self)
            self.memory = None

    def _alive(self, action: str) -> SlotTable:
        if self._table is None:
            raise errors.NoSuchSlotError(
                errno.ENOENT,
                cause=f"slot {self.slot_id} was deleted, or its VM is closed",
                asked=action,
                available="the slots in Vm.memslots",
                fix="set the slot again",
            )
        return self._table

    def __repr__(self) -> str:
        """Number, guest addresses, flags and state."""
        words = [
            word
            for word, given in (
                ("readonly", self.readonly),
                ("log_dirty", self.log_dirty),
                ("deleted", self.deleted),
            )
            if given
        ]
        addresses = f"{self.guest_phys_addr:#x}..{self.end - 1:#x}"
        return f"<kvmipa.Memslot {self.slot_id}: {' '.join([addresses, *words])}>"


def pages_of(bitmap: bytes) -> Iterable[int]:
    """The numbers of the bits that are set.

    >>> list(pages_of((1 << 3 | 1 << 70).to_bytes(16, sys.byteorder)[:8] + bytes(8)))
    [3]
    """
    for position, word in enumerate(memoryview(bitmap).cast("Q")):
        left = word
        while left:
            lowest = left & -left
            yield position * _WORD_BITS + lowest.bit_length() - 1
            left ^= lowest


# ------------------------------------------------------------------------------------------------ mapping


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


def _map_anonymous(size: int, alignment: int, unit: int, *, shared: bool, huge: bool) -> tuple[mmap.mmap, int]:
    """A mapping, and where in it the memory is: mmap() aligns to pages, so what is mapped is that much longer."""
    length = size + alignment - unit
    try:
        if not hasattr(mmap, "MAP_PRIVATE"):
            found = mmap.mmap(-1, length)
        else:
            flags = (mmap.MAP_SHARED if shared else mmap.MAP_PRIVATE) | mmap.MAP_ANONYMOUS
            if huge:
                flags |= _huge_page_flags(unit)
            found = mmap.mmap(-1, length, flags=flags, prot=mmap.PROT_READ | mmap.PROT_WRITE)
    except OSError as failure:
        raise _refused(failure, f"{size:#x} bytes", huge=huge) from failure
    except OverflowError:
        raise _refused(OSError(errno.ENOMEM, "too large"), f"{size:#x} bytes", huge=huge) from None
    return found, -_address_of(found) % alignment


def _huge_page_flags(size: int) -> int:
    if sys.platform != "linux":
        raise errors.NotSupportedError(
            errno.EOPNOTSUPP,
            cause="only Linux has a pool of huge pages",
            asked=f"huge pages of {size:#x} bytes",
            available="memory aligned so that the system may use large pages by itself",
            fix="leave hugetlb out",
        )
    return _MAP_HUGETLB | (size.bit_length() - 1) << _MAP_HUGE_SHIFT


def _map_file(
    size: int, alignment: int, file: File, offset: int, *, private: bool, readonly: bool
) -> tuple[mmap.mmap, int]:
    fd, is_ours = _descriptor(file, readonly=readonly and not private)
    try:
        _check_length(fd, offset, size)
        prot = mmap.PROT_READ | (0 if readonly else mmap.PROT_WRITE)
        flags = mmap.MAP_PRIVATE if private else mmap.MAP_SHARED
        if alignment <= PAGE_SIZE:
            return mmap.mmap(fd, size, flags=flags, prot=prot, offset=offset), 0
        # Address space first, and the file over its aligned part; unmapping the whole unmaps that too.
        space = mmap.mmap(-1, size + alignment - PAGE_SIZE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS, prot=prot)
        address = _address_of(space, readonly=readonly)
        start = -address % alignment
        _map_over(address + start, size, (prot, flags), fd, offset)
        return space, start
    except OSError as failure:
        if isinstance(failure, errors.KvmError):
            raise
        raise _refused(failure, f"{size:#x} bytes of {file!r}") from failure
    finally:
        if is_ours:
            os.close(fd)


def _descriptor(file: File, *, readonly: bool) -> tuple[int, bool]:
    """A descriptor of the file, and whether it was opened here."""
    if isinstance(file, (str, os.PathLike)):
        try:
            return os.open(file, (os.O_RDONLY if readonly else os.O_RDWR) | os.O_CLOEXEC), True
        except OSError as failure:
            raise _refused(failure, f"a mapping of {file!r}") from failure
    return (file if isinstance(file, int) else index(file.fileno())), False


def _check_length(fd: int, offset: int, size: int) -> None:
    """What is mapped beyond the end of a file is a SIGBUS when it is touched."""
    import stat

    status = os.fstat(fd)
    if stat.S_ISREG(status.st_mode) and offset + size > status.st_size:
        raise errors.GuestMemorySizeError(
            errno.EINVAL,
            cause="the file is shorter than that",
            asked=f"{size:#x} bytes from {offset:#x} on",
            available=f"a file of {status.st_size:#x} bytes",
            fix="make the file longer first (os.truncate), or map less",
        )


def _map_over(address: int, size: int, how: tuple[int, int], fd: int, offset: int) -> None:
    """mmap(2) with MAP_FIXED, over a part of a mapping that is ours. how: protection and flags."""
    prot, flags = how
    libc = ctypes.CDLL(None, use_errno=True)
    libc.mmap.restype = ctypes.c_void_p
    number = ctypes.c_int
    libc.mmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t, number, number, number, ctypes.c_int64)
    if libc.mmap(address, size, prot, flags | _MAP_FIXED, fd, offset) != address:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))


def _address_of(mapping: mmap.mmap, *, readonly: bool = False) -> int:
    if not readonly:
        return ctypes.addressof(ctypes.c_char.from_buffer(mapping))
    # ctypes takes no buffer that it could not write to. The first field of a Py_buffer is the address.
    view = (ctypes.c_void_p * 32)()
    ctypes.pythonapi.PyObject_GetBuffer(ctypes.py_object(mapping), view, 0)
    address = view[0]
    ctypes.pythonapi.PyBuffer_Release(view)
    assert address is not None
    return int(address)


def _refused(failure: OSError, asked: str, *, huge: bool = False) -> errors.GuestMemoryError:
    fix = "map less, or free memory; look at ulimit -v and vm.overcommit_memory"
    if huge:
        fix = "put pages into the pool (sysctl vm.nr_hugepages), or leave hugetlb out"
    elif failure.errno != errno.ENOMEM:
        fix = "look at the file and its permissions"
    return errors.GuestMemoryError(
        failure.errno or errno.ENOMEM,
        cause=f"the system does not map it: {os.strerror(failure.errno or errno.ENOMEM)}",
        asked=asked,
        available="what the system has left",
        fix=fix,
    )
