# SPDX-License-Identifier: Apache-2.0
"""The VM descriptor of the emulated kernel (kvm_vm_ioctl in virt/kvm/kvm_main.c)."""

from __future__ import annotations

from errno import EINVAL, EIO
from os import getpid
from typing import TYPE_CHECKING, Final

from kvmipa._abi_table import KVM_CHECK_EXTENSION

if TYPE_CHECKING:
    from collections.abc import Callable

    from kvmipa.backend.emulated.host import HostProfile
    from kvmipa.stage2 import Stage2


class VmFile:
    """An open VM."""

    def __init__(self, profile: HostProfile, answers: dict[int, int], ipa_bits: int) -> None:
        self.profile = profile
        self.ipa_bits = ipa_bits
        self._answers = answers
        # The kernel compares address spaces (kvm->mm); a child after fork has another one.
        self._owner = getpid()

    def ioctl(self, request: int, argument: int, /) -> int:
        """Answer one request; an unknown one is EINVAL on arm64, and everything is EIO in another process."""
        if getpid() != self._owner:
            return -EIO
        handler = _REQUESTS.get(request)
        return -EINVAL if handler is None else handler(self, argument)

    def _check_extension(self, cap: int) -> int:
        return self._answers.get(cap, 0)

    @property
    def stage2(self) -> Stage2:
        """The VM's translation: fixed when it was created."""
        from kvmipa.stage2 import Stage2
        from kvmipa.stage2.geometry import Geometry

        register = self.profile.stage2_register(self.ipa_bits)
        return Stage2(register, Geometry(self.profile.page_size, register.ipa_bits))


_REQUESTS: Final[dict[int, Callable[[VmFile, int], int]]] = {
    KVM_CHECK_EXTENSION: VmFile._check_extension,
}
