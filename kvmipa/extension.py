# SPDX-License-Identifier: Apache-2.0
"""KVM_CHECK_EXTENSION, which the system descriptor and VM descriptors have."""

from __future__ import annotations

import errno
import os
from operator import index
from typing import TYPE_CHECKING

from kvmipa import causes, errors
from kvmipa._abi_table import KVM_CHECK_EXTENSION
from kvmipa.handle import Handle

if TYPE_CHECKING:
    from kvmipa.errors import KvmError


class ExtensionHandle(Handle):
    """A descriptor that can be asked what KVM can do."""

    def check_extension(self, cap: int) -> int:
        """What KVM_CHECK_EXTENSION answers: 0 for unknown, else 1 or a number that the capability defines.

        Where system and VM differ, the VM's answer is the one to trust. Raises CapabilityNeedsVmError for the
        capabilities that only a VM can answer (131, 243), ClosedError, OtherProcessError, TypeError for what is not an
        int, and OverflowError for what does not fit 64 bits.

        >>> import kvmipa
        >>> from kvmipa.abi import KVM_CAP_ARM_VM_IPA_SIZE
        >>> with kvmipa.open("emulated", host="qemu-max-6.12-4k") as kvm:
        ...     kvm.check_extension(KVM_CAP_ARM_VM_IPA_SIZE)
        52
        """
        value = self._ioctl(self._fd, KVM_CHECK_EXTENSION, index(cap))
        if value < 0:
            raise self.refused(self._extension_error(-value, cap))
        return value

    def _extension_error(self, code: int, cap: int) -> KvmError:
        from kvmipa.abi import capability_name

        if self.closed:
            return causes.closed_error(self.kind, "KVM_CHECK_EXTENSION")
        if code == errno.EIO:
            return causes.other_process_error(self.kind, "KVM_CHECK_EXTENSION", cap)
        asked = capability_name(cap)
        return errors.KvmError(
            code,
            cause=f"KVM did not answer: {os.strerror(code)}",
            asked=asked,
            available="the other capabilities, perhaps",
            ioctl="KVM_CHECK_EXTENSION",
            argument=cap,
            fix="look at what stands between this process and KVM (seccomp, a sandbox)",
        )
