# SPDX-License-Identifier: Apache-2.0
"""What KVM_CHECK_EXTENSION's failures mean, on the descriptors that have it."""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING

from kvmipa import causes, errors

if TYPE_CHECKING:
    from kvmipa.errors import KvmError
    from kvmipa.handle import Handle


def check_extension_error(handle: Handle, code: int, cap: int) -> KvmError:
    """Why KVM_CHECK_EXTENSION(cap) on this handle failed with errno ``code``."""
    from kvmipa.abi import capability_name

    if handle.closed:
        return causes.closed_error(handle.kind, "KVM_CHECK_EXTENSION")
    if code == errno.EIO:
        return causes.other_process_error(handle.kind, "KVM_CHECK_EXTENSION", cap)
    name = capability_name(cap)
    if code == errno.EINVAL and handle.kind == "Kvm":
        # A negative answer of kvm_vm_ioctl_check_extension: it dereferences the VM (kernel-ipa-spec 9).
        return errors.CapabilityNeedsVmError(
            code,
            cause=f"{name} depends on the VM",
            ioctl="KVM_CHECK_EXTENSION",
            argument=cap,
            fix="ask the VM: Vm.check_extension()",
        )
    return errors.KvmError(code, cause=os.strerror(code), asked=name, ioctl="KVM_CHECK_EXTENSION", argument=cap)
