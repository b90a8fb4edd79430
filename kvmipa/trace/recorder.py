# SPDX-License-Identifier: Apache-2.0
"""Taking a trace of what a program asks of a kernel."""

from __future__ import annotations

import os
import time
from errno import EALREADY, EBADF, EFAULT, EINPROGRESS, EINTR, EMFILE
from threading import RLock
from typing import TYPE_CHECKING, Any, Final

from kvmipa import abi
from kvmipa.backend.interposed import InterposedBackend
from kvmipa.recording import profile_as_json
from kvmipa.run_area import EXIT as EXIT_UNION
from kvmipa.run_area import EXIT_REASON, IMMEDIATE_EXIT, MMIO_DATA, exit_reason, mmio_fields
from kvmipa.trace.arena import NOTHING_WRITTEN
from kvmipa.trace.arguments import LARGEST, Argument, TooLargeError
from kvmipa.trace.contents import LIMIT as CONTENTS_LIMIT
from kvmipa.trace.contents import Contents, TooMuchError
from kvmipa.trace.file import Step, Trace
from kvmipa.trace.names import Names, Vm
from kvmipa.trace.operations import Close, Ioctl, MapRunArea, Note, Open, Protect, Run, Write
from kvmipa.trace.runs import WRITABLE, exit_of
from kvmipa.trace.session import NEW, Result
from kvmipa.trace.values import LARGEST as LARGEST_PIECE
from kvmipa.trace.values import Bytes
from kvmipa.turn import OPEN

if TYPE_CHECKING:
    from array import array
    from collections.abc import Callable, Iterator, Sequence

    from kvmipa.access import Access
    from kvmipa.access import Result as Accessed
    from kvmipa.backend import Backend
    from kvmipa.backend.emulated.host import HostProfile
    from kvmipa.trace.names import Descriptor
    from kvmipa.trace.operations import Operation
    from kvmipa.trace.values import Value
    from kvmipa.turn import Turn

#: Operations after which a trace in memory ends; one in a file may have more.
LIMIT: Final = 50_000

# Bits 31:30 of a request: whether its argument is an address.
_TAKES_ADDRESS: Final = 0xC000_0000

# What makes a descriptor, and of which kind.
_MAKES: Final = {
    abi.KVM_CREATE_VM: "vm",
    abi.KVM_CREATE_VCPU: "vcpu",
    abi.KVM_GET_STATS_FD: "stats",
    abi.KVM_CREATE_GUEST_MEMFD: "gmem",
}
_SETS_MEMORY: Final = (abi.KVM_SET_USER_MEMORY_REGION, abi.KVM_SET_USER_MEMORY_REGION2)
_FD_IN_CREATE_DEVICE: Final = slice(4, 8)

# Of a runner that did not enter KVM_RUN.
_NO_RUNS: Final = {-EALREADY, -EINPROGRESS, -EBADF}

_DONE: Final = Result(0, NOTHING_WRITTEN)


class TracingBackend(InterposedBackend):
    """Notes every system call that goes through it, as a trace that runs again elsewhere.

    keep: gets each step, in order; None keeps them here, ``limit`` at most. In a child of fork() nothing is noted.
    What a trace cannot say stands in it as a note.

    >>> from kvmipa import HostProfile, Kvm
    >>> from kvmipa.backend.emulated import EmulatedBackend
    >>> backend = TracingBackend(EmulatedBackend(HostProfile()))
    >>> with Kvm(backend) as kvm, kvm.create_vm(40):
    ...     pass
    >>> print(backend.trace(backend.profile).text().splitlines()[-3])
    {"ioctl":"KVM_CREATE_VM","on":"kvm","argument":40,"new":"vm0","result":"new"}
    """

    def __init__(self, behind: Backend, keep: Callable[[Step], None] | None = None, limit: int = LIMIT) -> None:
        super().__init__(behind)
        self._steps: list[Step] = []
        self._keep = self._steps.append if keep is None else keep
        self._left = limit
        #: How many operations were noted.
        self.noted = 0
        self._pid = os.getpid()
        # A signal handler may ask something while it is held.
        self._lock = RLock()
        self._names = Names(self._note)
        self._contents: Contents | None = Contents()
        self._said: set[str] = set()

    def trace(self, profile: HostProfile) -> Trace:
        """What was noted so far, with the host that answered."""
        with self._lock:
            return Trace({"profile": profile_as_json(profile)}, tuple(self._steps))

    # -------------------------------------------------------------------------------------------- noting

    def _note(self, operation: Operation, result: Result = _DONE) -> None:
        self._left -= 1
        if self._left < 0:
            return
        if not self._left:
            operation, result = Note(f"the trace is cut: {self.noted} operations are kept, and no more"), _DONE
        self.noted += 1
        self._keep(Step(operation, result))

    def _say(self, text: str) -> None:
        """Something that the trace lacks, once."""
        if text not in self._said:
            self._said.add(text)
            self._note(Note(text))

    @property
    def _is_off(self) -> bool:
        """Whether nothing more is noted: all that costs is left out."""
        return self._left <= 0 or os.getpid() != self._pid

    # -------------------------------------------------------------------------------------------- descriptors

    def open(self, path: str, /) -> int:
        """See Backend."""
        fd = self.behind.open(path)
        if not self._is_off:
            with self._lock:
                if fd >= 0:
                    self._note(Open(self._names.new("kvm", fd)), Result(NEW, NOTHING_WRITTEN))
                else:
                    self._note(Open("kvm"), Result(fd, NOTHING_WRITTEN))
        return fd

    def close(self, fd: int, /) -> None:
        """See Backend."""
        if not self._is_off:
            # Before it: another thread may get the number at once.
            with self._lock:
                known = self._names.forget(fd)
                if known is not None:
                    self._note(Close(known.name))
        self.behind.close(fd)

    def sweep_machine_types(self, fd: int, types: array[int], /) -> Sequence[int]:
        """See Backend."""
        results = self.behind.sweep_machine_types(fd, types)
        if not self._is_off:
            with self._lock:
                on, made = self._on(fd), Result(NEW, NOTHING_WRITTEN)
                for machine_type, code in zip(types, results, strict=False):
                    result = Result(-code, NOTHING_WRITTEN) if code else made
                    self._note(Ioctl(on, "KVM_CREATE_VM", machine_type), result)
        return results

    def _on(self, fd: int) -> str | int:
        known = self._names.of(fd)
        if known is not None:
            return known.name
        return fd if fd < 0 else "closed"

    # -------------------------------------------------------------------------------------------- ioctls

    def ioctl(self, fd: int, request: int, argument: int, /) -> int:
        """See Backend."""
        if self._is_off:
            return self.behind.ioctl(fd, request, argument)
        if type(argument) is not int or argument < 0 or not request & _TAKES_ADDRESS:
            value = self.behind.ioctl(fd, request, argument)
            with self._lock:
                self._note_result(fd, request, int(argument), value, None)
            return value
        with self._lock:
            seen = Argument(self._names, fd, request)
            described = self._described(seen, lambda: seen.at(argument) if argument else 0)
        value = self.behind.ioctl(fd, request, argument)
        with self._lock:
            self._note_result(fd, request, described, value, seen)
        return value

    def ioctl_buffer(self, fd: int, request: int, buffer: bytearray, /) -> int:
        """See Backend."""
        if self._is_off:
            return self.behind.ioctl_buffer(fd, request, buffer)
        with self._lock:
            seen = Argument(self._names, fd, request)
            described = self._described(seen, lambda: seen.of(buffer))
        value = self.behind.ioctl_buffer(fd, request, buffer)
        with self._lock:
            self._note_result(fd, request, described, value, seen)
        return value

    def _described(self, seen: Argument, describe: Callable[[], Value]) -> Value | None:
        try:
            return describe()
        except TooLargeError:
            seen.buffers.clear()
            return None

    def _note_result(self, fd: int, request: int, described: Value | None, value: int, seen: Argument | None) -> None:
        name = abi.request_name(request)
        known = self._names.of(fd)
        if known is None and value != -EBADF:
            self._say(f"requests on descriptors that are not KVM's are not traced, such as {name}")
            return
        if described is None:
            self._say(f"{name} with more than {LARGEST} bytes is not traced")
            return
        if value == -EFAULT and seen is not None and seen.is_in_readonly_memory():
            self._say(f"requests with read-only memory that fail for it are not traced, such as {name}")
            return
        on = known.name if known else self._on(fd)
        if request == abi.KVM_CREATE_DEVICE and value >= 0 and seen is not None:
            self._note_device(on, described, value, seen, known)
            return
        wrote = seen.wrote(failed=value < 0) if seen is not None and seen.buffers else NOTHING_WRITTEN
        new, result = None, Result(value, wrote)
        if request in _MAKES and value >= 0:
            new, result = self._made(request, value, known), Result(NEW, wrote)
        operation = Ioctl(on, name if name in abi.REQUESTS else request, described, new, value == -EMFILE)
        self._note(operation, result)
        if value >= 0 and known is not None and seen is not None and request in _SETS_MEMORY:
            self._remember_slot(known, seen)
        elif request == abi.KVM_GET_VCPU_MMAP_SIZE and value > 0:
            self._names.page_size = value // 2

    def _made(self, request: int, fd: int, on: Descriptor | None) -> str:
        kind = _MAKES[request]
        return self._names.new(kind, fd, Vm() if kind == "vm" else on.vm if on else None)

    def _note_device(
        self, on: str | int, described: Value, value: int, seen: Argument, known: Descriptor | None
    ) -> None:
        if seen.fields.get("flags", 0) & abi.KVM_CREATE_DEVICE_TEST or not seen.buffers:
            self._note(Ioctl(on, "KVM_CREATE_DEVICE", described), Result(value, seen.wrote(failed=False)))
            return
        content = seen.buffers[0].look() or bytes(12)
        new = self._names.new(
            "dev", int.from_bytes(content[_FD_IN_CREATE_DEVICE], "little"), known.vm if known else None
        )
        wrote = seen.wrote(but=_FD_IN_CREATE_DEVICE, failed=False)
        self._note(Ioctl(on, "KVM_CREATE_DEVICE", described, new), Result(NEW, wrote))

    # -------------------------------------------------------------------------------------------- guest memory

    def _remember_slot(self, on: Descriptor, seen: Argument) -> None:
        fields, vm = seen.fields, on.vm
        if vm is None:
            return
        slot, size, address = (fields.get(name, 0) for name in ("slot", "memory_size", "userspace_addr"))
        vm.slots.pop(slot, None)
        vm.sizes[slot] = size
        if size:
            area = self._names.area_of(address)
            # What is longer than its memory may have other things of the process behind it.
            vm.slots[slot] = (address, size) if area is not None and address + size <= area.end else None
            if vm.slots[slot] is None and area is not None:
                self._say(f"slot {slot} is longer than the memory behind it, whose content is not traced")

    def _note_writes(self, vm: Vm) -> None:
        """What user space wrote to a guest's memory since it was looked at last."""
        if self._contents is None or vm.running:
            if vm.running:
                self._say("what user space writes to guest memory while another vCPU runs is not traced")
            return
        try:
            for change in self._contents.changes(vm.memory()):
                self._note_write(change.address, change.content)
        except TooMuchError:
            self._give_up()

    def _note_write(self, address: int, content: bytes) -> None:
        area = self._names.area_of(address)
        if area is None:
            return
        for at in range(0, len(content), LARGEST_PIECE):
            if area.protection != "rw":
                self._note(Protect(area.name, "rw"))
            self._note(Write(area.place_of(address + at), Bytes(content[at : at + LARGEST_PIECE])))
            if area.protection != "rw":
                self._note(Protect(area.name, area.protection))

    def _give_up(self) -> None:
        self._contents = None
        self._say(f"guests have more than {CONTENTS_LIMIT >> 20} MiB in use: from here on it is not traced")

    # -------------------------------------------------------------------------------------------- running

    def mmap(self, fd: int, size: int, offset: int = 0, /) -> memoryview | int:
        """See Backend."""
        found = self.behind.mmap(fd, size, offset)
        if not self._is_off:
            with self._lock:
                page = self._names.page_size
                known = self._names.of(fd)
                if known is not None and not size % page and not offset % page:
                    result = found if isinstance(found, int) else 0
                    self._note(MapRunArea(known.name, size // page, offset // page), Result(result, NOTHING_WRITTEN))
                    if offset and not result:
                        self._say("what is taken out of a vCPU's rings is not traced")
        return found

    def runner(self, fd: int, area: memoryview, turn: Turn, /) -> Callable[[], int]:
        """See Backend."""
        run = self.behind.runner(fd, area, turn)
        known = self._names.of(fd)
        if known is None or known.vm is None or self._is_off:
            return run
        return _TracedRun(self, known, area, turn, run)

    def access(self, fd: int, what: Access, /) -> Accessed:
        """See Backend."""
        if not self._is_off:
            with self._lock:
                self._say("accesses without a vCPU (Vm.access) are not traced")
        return self.behind.access(fd, what)


class _TracedRun:
    """KVM_RUN of one vCPU, noted."""

    def __init__(
        self, recorder: TracingBackend, vcpu: Descriptor, area: memoryview, turn: Turn, run: Callable[[], int]
    ) -> None:
        self._recorder = recorder
        self._name = vcpu.name
        self._vm = vcpu.vm or Vm()
        self._area = area
        self._turn = turn
        self._run = run
        self._last = bytes(area[:WRITABLE])
        self._reply: tuple[int, int] | None = None

    def __call__(self) -> int:
        recorder = self._recorder
        if recorder._is_off or self._turn[OPEN]:
            return self._run()
        with recorder._lock:
            before = self._before()
            recorder._note_writes(self._vm)
            self._vm.running += 1
        clock = time.monotonic()
        try:
            result = self._run()
        finally:
            # In a child of fork() the lock may be another thread's.
            is_off = recorder._is_off
            if not is_off:
                with recorder._lock:
                    self._vm.running -= 1
        if not is_off and result not in _NO_RUNS:
            with recorder._lock:
                self._note(before, result, time.monotonic() - clock)
        return result

    def _before(self) -> dict[int, bytes]:
        """What user space put into the run area since the last run."""
        now = bytes(self._area[:WRITABLE])
        found: dict[int, bytes] = {}
        if now[IMMEDIATE_EXIT]:
            found[IMMEDIATE_EXIT] = now[IMMEDIATE_EXIT : IMMEDIATE_EXIT + 1]
        if self._reply:
            start, size = self._reply
            found[start] = now[start : start + size]
        for start, content in _differences(_without_request(self._last), _without_request(now)):
            found.setdefault(start, content)
        return found

    def _note(self, before: dict[int, bytes], result: int, seconds: float) -> None:
        recorder, area = self._recorder, self._area
        was_asked = IMMEDIATE_EXIT in before
        interrupted = round(seconds, 6) if result == -EINTR and not was_asked else None
        left: dict[str, Any] = exit_of(result, area) if result >= 0 or result == -EFAULT else NOTHING_WRITTEN
        recorder._note(Run(self._name, before, interrupted), Result(result, left))
        self._last = bytes(area[:WRITABLE])
        self._reply = None
        if result >= 0 and exit_reason(area, EXIT_REASON)[0] == abi.KVM_EXIT_MMIO:
            _, _, size, is_write = mmio_fields(area, EXIT_UNION)
            self._reply = None if is_write else (MMIO_DATA, size)
        if recorder._contents is not None and not self._vm.running:
            try:
                recorder._contents.learn(self._vm.memory())
            except TooMuchError:
                recorder._give_up()


def _without_request(area: bytes) -> bytes:
    """All but immediate_exit."""
    return area[:IMMEDIATE_EXIT] + b"\0" + area[IMMEDIATE_EXIT + 1 :]


def _differences(before: bytes, now: bytes) -> Iterator[tuple[int, bytes]]:
    """Where bytes differ, by words of 8 bytes, those together that follow each other."""
    if before == now:
        return
    start = -1
    for at in range(0, len(now) + 8, 8):
        differs = at < len(now) and before[at : at + 8] != now[at : at + 8]
        if differs and start < 0:
            start = at
        elif not differs and start >= 0:
            yield start, now[start:at]
            start = -1
