# SPDX-License-Identifier: Apache-2.0
"""Vm: the descriptor of one virtual machine."""

from __future__ import annotations

from operator import index
from typing import TYPE_CHECKING

from kvmipa._abi_table import KVM_CHECK_EXTENSION
from kvmipa.extension import check_extension_error
from kvmipa.handle import Handle

if TYPE_CHECKING:
    from kvmipa.backend import Backend
    from kvmipa.stage2 import Stage2
    from kvmipa.stage2.geometry import Geometry


class Vm(Handle):
    """A virtual machine; made by Kvm.create_vm().

    It keeps working when the Kvm that made it is closed, and belongs to the process that created it.

    ipa_bits: the size asked for, in bits (40 for the default). A pKVM host gives every VM its limit instead.

    >>> import kvmipa
    >>> with kvmipa.open("emulated", host="qemu-max-6.12-4k") as kvm:
    ...     vm = kvm.create_vm(36)
    >>> with vm:
    ...     vm.ipa_bits, vm.geometry.levels
    (36, 3)
    """

    kind = "Vm"

    def __init__(self, backend: Backend, fd: int, ipa_bits: int, page_size: int) -> None:
        super().__init__(backend, fd)
        self.ipa_bits = ipa_bits
        self._page_size = page_size

    def check_extension(self, cap: int) -> int:
        """What KVM_CHECK_EXTENSION answers for this VM: the answer to trust where it differs from the system's.

        Raises ClosedError, OtherProcessError, TypeError for what is not an int, OverflowError for what does not fit 64
        bits.
        """
        value = self._ioctl(self._fd, KVM_CHECK_EXTENSION, index(cap))
        if value < 0:
            raise check_extension_error(self, -value, cap)
        return value

    @property
    def geometry(self) -> Geometry:
        """The shape of the stage-2 tables that a VM of ipa_bits has on this host: levels, start level, concatenation.

        Raises ValueError where KVM makes no VM of ipa_bits (a pKVM host that ignored the size).
        """
        from kvmipa.stage2.geometry import Geometry

        return Geometry(self._page_size, self.ipa_bits)

    @property
    def stage2(self) -> Stage2:
        """The VM's stage 2 as the kernel has it; NotSupportedError on the native backend.

        >>> import kvmipa
        >>> with kvmipa.open("emulated", host="qemu-max-6.12-4k") as kvm, kvm.create_vm(40) as vm:
        ...     hex(vm.stage2.vtcr_el2.value)
        '0x1802e3558'
        """
        return self._backend.stage2(self.fileno())

    def __repr__(self) -> str:
        """Backend, size and state."""
        state = "closed" if self.closed else f"fd={self._fd}"
        return f"<kvmipa.Vm {self.backend} ipa_bits={self.ipa_bits} {state}>"
