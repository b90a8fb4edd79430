# SPDX-License-Identifier: Apache-2.0
"""Vm: the descriptor of one virtual machine."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kvmipa.extension import ExtensionHandle

if TYPE_CHECKING:
    from collections.abc import Callable

    from kvmipa.backend import Backend
    from kvmipa.stage2 import Stage2
    from kvmipa.stage2.geometry import Geometry


class Vm(ExtensionHandle):
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

    def __init__(
        self, backend: Backend, fd: int, ipa_bits: int, *, given_bits: Callable[[], int], page_size: int
    ) -> None:
        super().__init__(backend, fd)
        self.ipa_bits = ipa_bits
        self._given_bits = given_bits
        self._page_size = page_size

    @property
    def geometry(self) -> Geometry:
        """The shape of the VM's stage-2 tables on this host: levels, start level, concatenation.

        On a pKVM host that ignores the size it is the shape of the host's limit, which the VM was given and which KVM
        checks memory against; whether the host does that is asked when it is first wanted (Kvm.ignores_size).
        """
        from kvmipa.stage2.geometry import Geometry

        return Geometry(self._page_size, self._given_bits())

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
