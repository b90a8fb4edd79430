# SPDX-License-Identifier: Apache-2.0
"""The backend that has the faults: it stands in front of another one."""

from __future__ import annotations

import errno
from threading import RLock, get_ident
from typing import TYPE_CHECKING, Final

from kvmipa.abi import KVM_CREATE_VM
from kvmipa.backend import check_buffer
from kvmipa.backend.interposed import InterposedBackend
from kvmipa.fault_injection.calls import MAKERS, Call, name_of, struct_name
from kvmipa.turn import OPEN, TAKEN, ended, taking

if TYPE_CHECKING:
    from array import array
    from collections.abc import Callable, Sequence

    from kvmipa.backend import Backend
    from kvmipa.fault_injection import Faults
    from kvmipa.turn import Turn

# The field fd of struct kvm_create_device, and its flag for a question only.
_DEVICE_FD: Final = slice(4, 8)
_DEVICE_FLAGS: Final = slice(8, 12)
# The number of the thread in a turn.
_HOLDER: Final = slice(0, 3)

# What Kvm.ignores_size asks for; nobody else has a use for a VM of one bit.
_OWN_QUESTION: Final = 1


class FaultInjector(InterposedBackend):
    """A backend in front of another one, some of whose system calls go wrong; faults says which.

    >>> import errno, kvmipa
    >>> from kvmipa.backend.emulated import EmulatedBackend
    >>> from kvmipa.fault_injection import Faults
    >>> faults = Faults()
    >>> with kvmipa.Kvm(FaultInjector(EmulatedBackend(kvmipa.HostProfile()), faults)) as kvm:
    ...     _ = faults.fail("KVM_CREATE_VM", errno.EMFILE)
    ...     kvm.create_vm(40)
    Traceback (most recent call last):
    ...
    kvmipa.errors.DescriptorLimitError: this process has no file descriptor left (KVM_CREATE_VM(0x28): EMFILE)
      asked:     a VM of 40 bits
      ...
    """

    def __init__(self, behind: Backend, faults: Faults) -> None:
        super().__init__(behind)
        self.faults = faults
        self._kinds: dict[int, str] = {}
        faults.injectors.add(self)

    def systems(self) -> set[int]:
        """The open descriptors of the KVM device."""
        return {fd for fd, kind in tuple(self._kinds.items()) if kind == "kvm"}

    def open(self, path: str, /) -> int:
        """See Backend."""
        fd = self.faults.meet(Call("open", path=path), lambda: self.behind.open(path))
        if fd >= 0:
            self._kinds[fd] = "kvm"
        return fd

    def close(self, fd: int, /) -> None:
        """See Backend."""
        self._kinds.pop(fd, None)
        self.behind.close(fd)

    def ioctl(self, fd: int, request: int, argument: int, /) -> int:
        """See Backend."""
        return self._ioctl(fd, request, argument, is_single=True)

    def _ioctl(self, fd: int, request: int, argument: int, *, is_single: bool) -> int:
        kind = self._kinds.get(fd)
        if kind is None:
            # The kernel says what is wrong with it.
            return self.behind.ioctl(fd, request, argument)
        name = name_of(request, kind)
        if self.faults.concern(name) and isinstance(argument, int) and 0 <= argument < 1 << 64:
            own = is_single and name == "KVM_CREATE_VM" and argument == _OWN_QUESTION
            call = Call(name, kind, argument, _content(name, argument), own=own)
            result = self.faults.meet(call, lambda: self.behind.ioctl(fd, request, argument))
        else:
            result = self.behind.ioctl(fd, request, argument)
        if result >= 0 and name in MAKERS:
            self._note(name, result, _content(name, argument))
        return result

    def ioctl_buffer(self, fd: int, request: int, buffer: bytearray, /) -> int:
        """See Backend."""
        kind = self._kinds.get(fd)
        if kind is None:
            return self.behind.ioctl_buffer(fd, request, buffer)
        name = name_of(request, kind)
        if self.faults.concern(name):
            check_buffer(request, buffer)
            call = Call(name, kind, data=bytes(buffer))
            result = self.faults.meet(call, lambda: self.behind.ioctl_buffer(fd, request, buffer))
        else:
            result = self.behind.ioctl_buffer(fd, request, buffer)
        if result >= 0 and name in MAKERS:
            self._note(name, result, buffer)
        return result

    def _note(self, name: str, result: int, content: bytes | bytearray) -> None:
        """Remember what kind of descriptor was made."""
        if name == "KVM_CREATE_DEVICE":
            if int.from_bytes(content[_DEVICE_FLAGS], "little"):
                return
            result = int.from_bytes(content[_DEVICE_FD], "little")
        self._kinds[result] = MAKERS[name]

    def mmap(self, fd: int, size: int, offset: int = 0, /) -> memoryview | int:
        """See Backend."""
        if not self.faults.concern("mmap"):
            return self.behind.mmap(fd, size, offset)
        mapped: list[memoryview] = []

        def ask() -> int:
            found = self.behind.mmap(fd, size, offset)
            if isinstance(found, int):
                return found
            mapped.append(found)
            return 0

        result = self.faults.meet(Call("mmap", self._kinds.get(fd, ""), offset), ask)
        return result if result < 0 else mapped[0]

    def sweep_machine_types(self, fd: int, types: array[int], /) -> Sequence[int]:
        """See Backend. One by one only where a fault may be in it."""
        kind = self._kinds.get(fd)
        if kind is None or not self.faults.concern("KVM_CREATE_VM"):
            return self.behind.sweep_machine_types(fd, types)
        results: list[int] = []
        for machine_type in types:
            vm = self._ioctl(fd, KVM_CREATE_VM, machine_type, is_single=False)
            if vm >= 0:
                self.close(vm)
            elif vm == -errno.EINTR:
                break
            results.append(-vm if vm < 0 else 0)
        return results

    def runner(self, fd: int, area: memoryview, turn: Turn, /) -> Callable[[], int]:
        """See Backend."""
        return _Runs(self.faults, area, turn, self.behind.runner(fd, area, turn)).run


class _Runs:
    """KVM_RUN of one vCPU. One that fails takes the turn here, as Backend.runner says, and does not enter the kernel.

    The native backend takes it in C, without the GIL: so it is taken here only while no other thread is on the way
    there, and none goes there meanwhile.
    """

    def __init__(self, faults: Faults, area: memoryview, turn: Turn, enter: Callable[[], int]) -> None:
        self._faults = faults
        self._turn = turn
        self._enter = enter
        self._result = 0
        self._fail = taking(turn, area, lambda: self._result)
        self._failed = False
        # A signal handler may run the vCPU while its thread is in here.
        self._lock = RLock()
        self._inside: set[int] = set()

    def run(self) -> int:
        """One KVM_RUN."""
        turn = self._turn
        # No KVM_RUN comes of what does not get the turn.
        if ended(turn) or turn[TAKEN] or turn[OPEN] or not self._faults.concern("KVM_RUN"):
            return self._go()
        return self._faults.meet(Call("KVM_RUN", "vcpu"), self._go, fail=self._do_not_go)

    def _go(self) -> int:
        me = get_ident()
        if ended(self._turn):
            # In a child of fork() the lock may be another thread's.
            return self._enter()
        with self._lock:
            self._inside.add(me)
            if self._failed and not self._turn[TAKEN]:
                # Who was here last; from a thread that was not, C lets the kick's signal through.
                self._turn[_HOLDER] = bytes(3)
                self._failed = False
        try:
            return self._enter()
        finally:
            self._inside.discard(me)

    def _do_not_go(self, result: int) -> int:
        with self._lock:
            if self._inside - {get_ident()}:
                return -errno.EALREADY
            self._result, self._failed = result, True
            return self._fail()


def _content(name: str, address: int) -> bytes:
    """The struct that a request points to; empty where it has none, or the process has no such memory."""
    struct = struct_name(name) if name.startswith("KVM_") else None
    if struct is None:
        return b""
    from kvmipa.abi import REQUESTS
    from kvmipa.backend.emulated.user_memory import BadAddressError, read

    try:
        return read(address, REQUESTS[name] >> 16 & 0x3FFF)
    except BadAddressError:
        return b""
