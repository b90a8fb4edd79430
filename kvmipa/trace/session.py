# SPDX-License-Identifier: Apache-2.0
"""Doing a trace's operations on a kernel: names become descriptors and addresses of this process."""

from __future__ import annotations

import errno
import gc
import os
import re
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from kvmipa.abi import (
    KVM_CREATE_DEVICE,
    KVM_CREATE_DEVICE_TEST,
    KVM_CREATE_GUEST_MEMFD,
    KVM_CREATE_VCPU,
    KVM_CREATE_VM,
    KVM_GET_DIRTY_LOG,
    KVM_GET_STATS_FD,
    KVM_GET_VCPU_MMAP_SIZE,
    KVM_RUN,
    KVM_SET_USER_MEMORY_REGION,
    KVM_SET_USER_MEMORY_REGION2,
)
from kvmipa.backend import DEVICE
from kvmipa.recording import no_free_descriptor
from kvmipa.trace.areas import Areas
from kvmipa.trace.arena import NOTHING_WRITTEN, Arena
from kvmipa.trace.operations import (
    Begin,
    Close,
    EventFd,
    Ioctl,
    Map,
    MapRunArea,
    Note,
    Open,
    Operation,
    Protect,
    Run,
    Unmap,
    Write,
)
from kvmipa.trace.runs import PATIENCE, RunArea, Watchdog, exit_of
from kvmipa.trace.values import layout_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from kvmipa.backend import Backend
    from kvmipa.trace.values import Value

# The result of what made a descriptor: its number is the process's own.
NEW: Final = "new"

# Requests whose result is a descriptor, on whatever they work; KVM_CREATE_DEVICE writes its own into the struct.
_MAKES_DESCRIPTOR: Final = frozenset((KVM_CREATE_VM, KVM_CREATE_VCPU, KVM_GET_STATS_FD, KVM_CREATE_GUEST_MEMFD))

# A descriptor that is never open: beyond any RLIMIT_NOFILE that a trace is run with.
CLOSED: Final = 1 << 30

# Below the lowest address at which programs and libraries of arm64 and x86-64 are loaded, above vm.mmap_min_addr.
UNMAPPED: Final = 0x10_0000
# In the kernel's half, with bit 55 set: no tag either.
KERNEL: Final = 0xFFFF_0000_0000_0000
_PLACES: Final = {"null": 0, "unmapped": UNMAPPED, "kernel": KERNEL}
# No process has memory below the one, where programs are loaded, or from the other on, beyond 48 bits.
NO_MEMORY_BELOW: Final = 0x20_0000
NO_MEMORY_FROM: Final = 1 << 48
_AREA: Final = "mem"
SYMBOL: Final = re.compile(r"([A-Za-z_][\w.]*)(?:([+-])(0x[0-9a-f]+))?")

_U64: Final = (1 << 64) - 1

# Seconds for a guest's next exit where it did not have one in time already.
_LESS_PATIENCE: Final = 1.0
_FD_IN_CREATE_DEVICE: Final = slice(4, 8)
_SETS_MEMORY: Final = (KVM_SET_USER_MEMORY_REGION, KVM_SET_USER_MEMORY_REGION2)
_REGION: Final = layout_of("userspace_memory_region")


class Result(NamedTuple):
    """What came of an operation: a result, -errno or NEW, and what was written to its buffers.

    wrote: "buffer+offset" -> the bytes in hexadecimal; of a run, "exit" -> what kind of exit it is, and its fields.
    """

    value: int | str
    wrote: dict[str, Any]


class _GuestMemory:
    """The memory slots of one VM: whether all that its guest can write to lies in areas."""

    def __init__(self) -> None:
        self.slots: list[tuple[int, int]] = []
        self.why_unsafe = ""


class Session:
    """A process's descriptors and memory as a trace knows them; a context manager.

    Areas and buffers are real memory of this process, whichever kernel is behind the backend. So a guest does not run
    (ValueError) whose memory is not in areas: it could write to this process's own. patience: seconds that a guest has
    for its next exit.
    """

    def __init__(self, backend: Backend, device: str = DEVICE, patience: float = PATIENCE) -> None:
        self._backend = backend
        self._device = device
        self._descriptors: dict[str, int] = {}
        self._nameless: list[int] = []
        self._eventfds: set[str] = set()
        self._areas = Areas()
        self._arena = Arena(self._number_of)
        self._patience = patience
        self._page_size = 0
        self._watchdog = Watchdog()
        # By the names of VMs and of vCPUs.
        self._memories: dict[str, _GuestMemory] = {}
        self._vcpus: set[str] = set()
        self._run_areas: dict[str, RunArea] = {}
        self._rings: list[memoryview] = []

    def do(self, operation: Operation) -> Result:
        """Do one operation."""
        return _DO[operation.__class__](self, operation)

    def close(self) -> None:
        """Close and unmap everything; the session can go on after it."""
        for name in list(self._descriptors)[::-1]:
            self._close(name)
        for fd in self._nameless:
            self._backend.close(fd)
        self._nameless.clear()
        self._rings.clear()
        self._areas.unmap_all()
        self._watchdog.close()

    def __enter__(self) -> Session:
        """The session."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close everything."""
        self.close()

    # ------------------------------------------------------------------------------------------ names

    def _number_of(self, value: Value) -> int:
        """The number that a value is in this process."""
        if isinstance(value, int):
            return value
        if isinstance(value, str):
            return self._address_of(value) & _U64
        return self._arena.place(value)

    def _address_of(self, symbol: str) -> int:
        match = SYMBOL.fullmatch(symbol)
        if match is None:
            raise ValueError(f"not a symbol: {symbol!r}")
        name, sign, offset = match.groups()
        if not offset:
            return self._base_of(name)
        distance = int(offset, 16)
        address = self._base_of(name) + (-distance if sign == "-" else distance)
        if NO_MEMORY_BELOW <= address & _U64 < NO_MEMORY_FROM and not self._areas.has_free(address & _U64, 0):
            raise ValueError(f"{symbol} may be this process's own memory")
        return address

    def _base_of(self, name: str) -> int:
        if name in _PLACES:
            return _PLACES[name]
        if name.startswith(_AREA):
            return self._areas.address_of(name, otherwise=UNMAPPED)
        return self._descriptors.get(name, CLOSED)

    def _bind(self, name: str | None, fd: int) -> None:
        """Give a new descriptor its name; a name can stand for one only."""
        if name is None:
            self._backend.close(fd)
            return
        self._close(name)
        self._descriptors[name] = fd

    def _close(self, name: str) -> None:
        fd = self._descriptors.pop(name, None)
        if fd is None:
            return
        self._memories.pop(name, None)
        self._vcpus.discard(name)
        run_area = self._run_areas.pop(name, None)
        if run_area is not None:
            run_area.let_go()
        if name in self._eventfds:
            self._eventfds.discard(name)
            with suppress(OSError):
                os.close(fd)
        else:
            self._backend.close(fd)

    # ------------------------------------------------------------------------------------------ operations

    def _begin(self, _: Begin) -> Result:
        self.close()
        return _DONE

    def _open(self, operation: Open) -> Result:
        fd = self._backend.open(self._device)
        if fd < 0:
            return Result(fd, NOTHING_WRITTEN)
        self._bind(operation.name, fd)
        return _MADE

    def _eventfd(self, operation: EventFd) -> Result:
        self._bind(operation.name, os.eventfd(0))
        self._eventfds.add(operation.name)
        return _MADE

    def _close_one(self, operation: Close) -> Result:
        self._close(operation.name)
        return _DONE

    def _map(self, operation: Map) -> Result:
        self._disown(operation.name)
        self._areas.map(operation.name, operation.size, operation.protection, operation.room)
        return _DONE

    def _protect(self, operation: Protect) -> Result:
        self._areas.protect(operation.name, operation.protection)
        return _DONE

    def _disown(self, name: str) -> None:
        """What is mapped where an area was is the process's own, and a slot may be there still."""
        if self._areas.address_of(name, otherwise=0):
            for memory in self._memories.values():
                if memory.slots:
                    memory.why_unsafe = f"{name} was unmapped while the VM had slots"

    def _unmap(self, operation: Unmap) -> Result:
        self._disown(operation.name)
        self._areas.unmap(operation.name)
        return _DONE

    def _write(self, operation: Write) -> Result:
        match = SYMBOL.fullmatch(operation.where)
        pieces = operation.data if isinstance(operation.data, tuple) else (operation.data,)
        content = b"".join(piece.pack(self._number_of) for piece in pieces)
        # Before an area there is nothing to write to.
        if match and match[2] != "-":
            self._areas.write(match[1], int(match[3] or "0", 16), content)
        self._arena.clear()
        return _DONE

    def _note(self, _: Note) -> Result:
        return _DONE

    def _map_run_area(self, operation: MapRunArea) -> Result:
        fd = self._descriptors.get(operation.vcpu, CLOSED)
        page_size = self._page_size or self._ask_page_size()
        found = self._backend.mmap(fd, operation.pages * page_size, operation.first * page_size)
        if isinstance(found, int):
            return Result(found, NOTHING_WRITTEN)
        if operation.first:
            self._rings.append(found)
        elif operation.vcpu in self._vcpus:
            self._run_areas[operation.vcpu] = RunArea(self._backend, fd, found)
        return _DONE

    def _ask_page_size(self) -> int:
        """The kernel's: what is shared with a vCPU takes two pages (kernel-ipa-spec 1.3)."""
        fd = self._backend.open(self._device)
        size = self._backend.ioctl(fd, KVM_GET_VCPU_MMAP_SIZE, 0) if fd >= 0 else fd
        if fd >= 0:
            self._backend.close(fd)
        self._page_size = max(size // 2, 0)
        return self._page_size

    def _run(self, operation: Run) -> Result:
        run_area = self._run_areas.get(operation.vcpu)
        if run_area is None:
            return Result(-errno.EBADF, NOTHING_WRITTEN)
        self._require_safe(operation.vcpu)
        run_area.put(operation.before)
        seconds = self._patience if operation.interrupted is None else min(operation.interrupted, self._patience)
        value = self._watchdog.run(run_area, seconds)
        if self._watchdog.has_barked and operation.interrupted is None:
            # It may have to be waited for again and again.
            self._patience = min(self._patience, _LESS_PATIENCE)
            return Result(value, {"exit": f"none in {seconds:g} s"})
        return Result(value, exit_of(value, run_area.area))

    def _require_safe(self, vcpu: str) -> None:
        why = self._memories[vcpu].why_unsafe
        if why:
            raise ValueError(f"{vcpu} does not run: its guest could write to memory that is no area ({why})")

    def _note_memory(self, on: str, address: int) -> None:
        """A VM has another slot; the kernel could read the struct."""
        memory = self._memories.get(on)
        if memory is None:
            return
        content = self._areas.peek(address, _REGION.size)
        slot, size, start = (
            int.from_bytes(content[place.offset : place.offset + place.width], "little")
            for place in map(_REGION.fields.__getitem__, ("slot", "memory_size", "userspace_addr"))
        )
        if size:
            memory.slots.append((start, size))
            if start + size > NO_MEMORY_BELOW and start < NO_MEMORY_FROM and not self._areas.has_free(start, size):
                memory.why_unsafe = f"slot {slot} has {size:#x} bytes from {start:#x} on"

    def _ioctl(self, operation: Ioctl) -> Result:
        on, request = operation.on, operation.number
        fd = on if isinstance(on, int) else self._descriptors.get(on, CLOSED)
        argument = operation.argument
        if not isinstance(argument, int):
            argument = self._number_of(argument)
        if request == KVM_RUN and not argument and on in self._vcpus:
            raise ValueError('KVM_RUN is no ioctl in a trace but {"run": ...}, with what user space does before it')
        arena = self._arena
        arena.remember()
        if request == KVM_CREATE_DEVICE:
            result = self._create_device(operation, fd, argument)
        else:
            if operation.no_descriptor:
                with no_free_descriptor():
                    value = self._backend.ioctl(fd, request, argument)
            else:
                value = self._backend.ioctl(fd, request, argument)
            made = request in _MAKES_DESCRIPTOR and value >= 0
            if made:
                self._bind(operation.new, value)
                self._inherit(operation)
            elif request in _SETS_MEMORY and value == 0 and isinstance(on, str):
                self._note_memory(on, argument)
            result = Result(NEW if made else value, arena.changes())
        if arena.used:
            # A dirty log may be longer than the buffer that was given for it.
            arena.clear(all_of_it=request == KVM_GET_DIRTY_LOG)
        return result

    def _inherit(self, operation: Ioctl) -> None:
        """A new VM has memory of its own, and a vCPU its VM's, which may be closed before it."""
        if operation.new and operation.number == KVM_CREATE_VM:
            self._memories[operation.new] = _GuestMemory()
        elif operation.new and operation.number == KVM_CREATE_VCPU and operation.on in self._memories:
            self._memories[operation.new] = self._memories[str(operation.on)]
            self._vcpus.add(operation.new)

    def _create_device(self, operation: Ioctl, fd: int, argument: int) -> Result:
        """Its descriptor is in the struct; where that cannot be written, the descriptor stays without a name."""
        with _no_collection():
            return self._create_device_between(operation, fd, argument)

    def _create_device_between(self, operation: Ioctl, fd: int, argument: int) -> Result:
        before = _lowest_free()
        if operation.no_descriptor:
            with no_free_descriptor():
                value = self._backend.ioctl(fd, KVM_CREATE_DEVICE, argument)
        else:
            value = self._backend.ioctl(fd, KVM_CREATE_DEVICE, argument)
        if value < 0 and value != -errno.EFAULT:
            return Result(value, self._arena.changes())
        if value < 0:
            if _lowest_free() != before:
                self._nameless.append(before)
                return Result(value, {"descriptor": "left open"})
            return Result(value, self._arena.changes())
        struct = self._areas.peek(argument, 12)
        if struct[8] & KVM_CREATE_DEVICE_TEST:
            return Result(value, self._arena.changes())
        new = int.from_bytes(struct[_FD_IN_CREATE_DEVICE], "little")
        wrote = self._arena.changes(but=_FD_IN_CREATE_DEVICE)
        if new != before:
            # The emulation's own mistake, should it make one: a kernel gives the lowest.
            return Result(value, wrote | {"descriptor": "not the lowest free one"})
        self._bind(operation.new, new)
        return Result(NEW, wrote)


@contextmanager
def _no_collection() -> Iterator[None]:
    """Whoever compares descriptor numbers wants none closed meanwhile: an emulated VM's epoll goes with its cycles."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def _lowest_free() -> int:
    """The number that the next descriptor gets."""
    try:
        fd = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return -1
    os.close(fd)
    return fd


_DONE: Final = Result(0, NOTHING_WRITTEN)
_MADE: Final = Result(NEW, NOTHING_WRITTEN)
_DO: Final[dict[type, Callable[[Session, Any], Result]]] = {
    Begin: Session._begin,
    Open: Session._open,
    EventFd: Session._eventfd,
    Close: Session._close_one,
    Map: Session._map,
    Protect: Session._protect,
    Unmap: Session._unmap,
    Write: Session._write,
    Ioctl: Session._ioctl,
    MapRunArea: Session._map_run_area,
    Run: Session._run,
    Note: Session._note,
}
