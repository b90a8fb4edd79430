# SPDX-License-Identifier: Apache-2.0
"""What the handles of all kinds of descriptor share: closing, and being closed."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, ClassVar, Protocol

from kvmipa.causes import closed_error, of_vm
from kvmipa.closing import Closing

if TYPE_CHECKING:
    from kvmipa.backend import Backend
    from kvmipa.errors import KvmError

_CLOSED = -1


class Held(Protocol):
    """What lives as long as somebody holds it."""

    # Why the VM that it is of is dead.
    died_of: str | None

    def hold(self) -> None:
        """One more."""
        ...

    def release(self) -> None:
        """One less."""
        ...


class Handle(Closing):
    """A descriptor of a backend, closed at the end of a ``with`` block, by close(), or when it is collected."""

    kind: ClassVar[str] = "handle"

    def __init__(self, backend: Backend, fd: int) -> None:
        self._backend = backend
        # A closed handle's descriptor is -1: the kernel itself answers EBADF, and the fast path needs no test.
        self._fd = fd
        self._ioctl = backend.ioctl
        self._held: Held | None = None

    @property
    def backend(self) -> str:
        """Which kernel answers: "native" or "emulated"."""
        return self._backend.name

    @property
    def closed(self) -> bool:
        """Whether close() was called."""
        return self._fd == _CLOSED

    def fileno(self) -> int:
        """The descriptor's number; ClosedError once closed.

        On the emulated backend it is a placeholder that only kvmipa can send ioctls to.
        """
        if self._fd == _CLOSED:
            raise closed_error(self.kind)
        return self._fd

    def close(self) -> None:
        """Close the descriptor; closing twice does nothing."""
        fd, self._fd = self._fd, _CLOSED
        if fd != _CLOSED:
            self._before_close()
            self._backend.close(fd)
            self._after_close()

    def _before_close(self) -> None:
        """Stop whoever else sends requests to the number: from close() on, somebody else may have it."""

    def _after_close(self) -> None:
        """Let go of what was held as long as the descriptor was open."""
        held, self._held = self._held, None
        if held is not None:
            held.release()

    def keep(self, what: Held) -> None:
        """Hold something until this handle is closed."""
        what.hold()
        self._held = what

    @property
    def died_of(self) -> str | None:
        """The cause of the first run that failed and killed the VM (kernel-device-spec 2.9); None where none did."""
        return None if self._held is None else self._held.died_of

    def refused(self, error: KvmError) -> KvmError:
        """An error of a request, as what it is where the VM is dead."""
        return of_vm(error, self.died_of)

    def _require_open(self) -> None:
        self.fileno()

    def __del__(self) -> None:
        """Close, and complain as files do."""
        if getattr(self, "_fd", _CLOSED) != _CLOSED:
            try:
                warnings.warn(f"unclosed {self!r}", ResourceWarning, stacklevel=2, source=self)
            finally:
                self.close()
