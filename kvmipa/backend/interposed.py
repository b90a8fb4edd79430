# SPDX-License-Identifier: Apache-2.0
"""A backend in front of another one: what looks on, or changes answers, overrides what it is about."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from array import array
    from collections.abc import Callable, Sequence

    from kvmipa.access import Access, Result
    from kvmipa.backend import Backend
    from kvmipa.backend.emulated.host import HostProfile
    from kvmipa.stage2 import Stage2
    from kvmipa.stage2.debugfs import ShownStage2
    from kvmipa.turn import Turn


class InterposedBackend:
    """Every system call goes on to the backend behind; see Backend for what each is.

    >>> from kvmipa import HostProfile, Kvm
    >>> from kvmipa.backend.emulated import EmulatedBackend
    >>> with Kvm(InterposedBackend(EmulatedBackend(HostProfile()))) as kvm:
    ...     kvm.backend, kvm.host_ipa_limit
    ('emulated', 52)
    """

    def __init__(self, behind: Backend) -> None:
        self.behind = behind

    @property
    def name(self) -> str:
        """See Backend."""
        return self.behind.name

    @property
    def profile(self) -> HostProfile | None:
        """See Backend."""
        return self.behind.profile

    def open(self, path: str, /) -> int:
        """See Backend."""
        return self.behind.open(path)

    def ioctl(self, fd: int, request: int, argument: int, /) -> int:
        """See Backend."""
        return self.behind.ioctl(fd, request, argument)

    def ioctl_buffer(self, fd: int, request: int, buffer: bytearray, /) -> int:
        """See Backend."""
        return self.behind.ioctl_buffer(fd, request, buffer)

    def close(self, fd: int, /) -> None:
        """See Backend."""
        self.behind.close(fd)

    def mmap(self, fd: int, size: int, offset: int = 0, /) -> memoryview | int:
        """See Backend."""
        return self.behind.mmap(fd, size, offset)

    def runner(self, fd: int, area: memoryview, turn: Turn, /) -> Callable[[], int]:
        """See Backend."""
        return self.behind.runner(fd, area, turn)

    def kick(self, fd: int, turn: Turn, /) -> int:
        """See Backend."""
        return self.behind.kick(fd, turn)

    def sweep_machine_types(self, fd: int, types: array[int], /) -> Sequence[int]:
        """See Backend."""
        return self.behind.sweep_machine_types(fd, types)

    def access(self, fd: int, what: Access, /) -> Result:
        """See Backend."""
        return self.behind.access(fd, what)

    def stage2(self, fd: int, /) -> Stage2 | ShownStage2:
        """See Backend."""
        return self.behind.stage2(fd)
