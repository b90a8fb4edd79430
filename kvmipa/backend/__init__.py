# SPDX-License-Identifier: Apache-2.0
"""The seam: the system calls that kvmipa makes, with two kernels behind it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Protocol

if TYPE_CHECKING:
    from array import array
    from collections.abc import Sequence

    from kvmipa.access import Access, Result
    from kvmipa.backend.emulated.host import HostProfile
    from kvmipa.stage2 import Stage2
    from kvmipa.stage2.debugfs import ShownStage2

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
