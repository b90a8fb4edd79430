# SPDX-License-Identifier: Apache-2.0
"""The seam: the system calls that kvmipa makes, with two kernels behind it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Protocol

if TYPE_CHECKING:
    from array import array
    from collections.abc import Callable, Sequence

    from kvmipa.access import Access, Result
    from kvmipa.backend.emulated.host import HostProfile
    from kvmipa.stage2 import Stage2
    from kvmipa.stage2.debugfs import ShownStage2
    from kvmipa.turn import Turn

NAMES: Final = ("native", "emulated")

# Where the kernel puts KVM; the emulated machine has it there too.
DEVICE: Final = "/dev/kvm"


def check_buffer(request: int, buffer: bytearray) -> None:
    """ValueError for a buffer that is shorter than the request says its struct is (bits 29:16)."""
    size = request >> 16 & 0x3FFF
    if len(buffer) < size:
        raise ValueError(f"request {request:#x} takes a struct of {size} bytes, not {len(buffer)}")


class Backend(Protocol):
    """Linux's system calls as KVM needs them: descriptors, bytes and errno.

    What Linux could refuse comes back as -errno, and is not raised; what a C caller could not even write is
    (TypeError, OverflowError).
    """

    @property
    def name(self) -> str:
        """One of NAMES."""
        ...

    @property
    def profile(self) -> HostProfile | None:
        """The machine that is emulated; None: the one that this process runs on."""
        ...

    def open(self, path: str, /) -> int:
        """A new descriptor of the KVM device."""
        ...

    def ioctl(self, fd: int, request: int, argument: int, /) -> int:
        """An ioctl whose argument is a value of 64 bits.

        Raises TypeError for an argument that is not an int, OverflowError for one outside 0..2**64-1.
        """
        ...

    def ioctl_buffer(self, fd: int, request: int, buffer: bytearray, /) -> int:
        """An ioctl whose argument points to a struct, which the kernel may write to.

        Raises ValueError for a buffer that is shorter than the request's struct: the kernel would go on behind it.
        """
        ...

    def close(self, fd: int, /) -> None:
        """Close a descriptor; never fails."""
        ...

    def mmap(self, fd: int, size: int, offset: int = 0, /) -> memoryview | int:
        """Map a vCPU's descriptor, shared with the kernel (mmap(2)): its bytes, which can be written, or -errno.

        They stay mapped as long as somebody has the view, or one of its parts, also when the descriptor is closed; and
        until then the kernel keeps the VM. size, offset: in bytes, multiples of the page size.
        """
        ...

    def runner(self, fd: int, area: memoryview, turn: Turn, /) -> Callable[[], int]:
        """What makes one KVM_RUN of a vCPU with each call, and returns exit_reason, or -errno.

        area: what mmap() gave of the descriptor, which begins with struct kvm_run: what else there is to know of an
        exit is there. Of an MMIO exit's data the bytes that the guest did not store are 0. As long as there is no
        new exit, exit_reason is KVM_EXIT_UNKNOWN, or KVM_EXIT_MMIO with a len of 0 (arm64's KVM_RUN looks at that
        reason only). While the guest runs the GIL is not held. -EINTR is not tried again: Python's signal
        handlers have to run; a KVM_RUN that was ended by immediate_exit leaves that set, as the kernel does.

        A call takes the turn, and the caller gives it back (turn[TAKEN] = 0) when it has read the area; -EALREADY:
        another thread has it; -EINPROGRESS: turn[OPEN], the caller has the turn nevertheless. When turn.end() was
        called no thread enters KVM_RUN any more, and where turn.holder() is nobody then, none is there: the descriptor
        may be closed and the area unmapped.
        """
        ...

    def kick(self, fd: int, turn: Turn, /) -> int:
        """Have the KVM_RUN of the thread whose turn it is, if there is one, return -EINTR: 0 or -errno.

        The caller has set immediate_exit before, for the case that the thread is about to enter KVM_RUN: it either sees
        that, or is seen here. It clears it afterwards.
        """
        ...

    def sweep_machine_types(self, fd: int, types: array[int], /) -> Sequence[int]:
        """Create and close a VM of each type (an array of "Q"): 0 or errno of each, in order.

        Fewer results than types: the sweep took long, and is to be continued; none: KVM_CREATE_VM kept answering EINTR.
        """
        ...

    def access(self, fd: int, what: Access, /) -> Result:
        """What comes of a guest's access on a VM; NotSupportedError where that takes a real vCPU.

        Raises OSError (EIO) for a VM of another process.
        """
        ...

    def stage2(self, fd: int, /) -> Stage2 | ShownStage2:
        """A VM's stage 2; NotSupportedError where this kernel does not show it."""
        ...
