# SPDX-License-Identifier: Apache-2.0
"""Why an attribute of a vCPU could not be set or read (kernel-device-spec 3)."""

from __future__ import annotations

import errno
from typing import Final

from kvmipa import abi, errors
from kvmipa.causes import Cause
from kvmipa.causes.attributes import BAD_POINTER, AttributeAttempt


class VcpuAttempt(AttributeAttempt):
    """An attribute of a vCPU that was asked for."""

    what = "Vcpu"
    kind = errors.VcpuError

    def _cause(self, code: int) -> Cause | None:
        if code == errno.EFAULT:
            return BAD_POINTER
        found = _CAUSES.get((self.group, code))
        if code == errno.EINVAL and self.value is not None:
            if self.group == abi.KVM_ARM_VCPU_PVTIME_CTRL:
                return _MISALIGNED_TIME if self.value % 64 else found
            if self.group == abi.KVM_ARM_VCPU_TIMER_CTRL and not 16 <= self.value < 32:
                return _NO_PPI
        return found or (_NO_ATTRIBUTE if code in {errno.ENXIO, errno.ENODEV} else None)


_NO_ATTRIBUTE: Final = Cause(
    errors.NoSuchAttributeError,
    "the vCPU has no such attribute, or not with its features",
    "what has_attr() says",
    "ask has_attr() before; the PMU's need init() with the feature PMU_V3",
)
_MISALIGNED_TIME: Final = Cause(
    errors.MisalignedDeviceAddressError, "the address is not a multiple of 64", "multiples of 64", "align it"
)
_NO_PPI: Final = Cause(
    errors.InterruptNumberError, "a timer's interrupt is a PPI", "16 to 31", "use one that no other timer has"
)
_CAUSES: Final[dict[tuple[int, int], Cause]] = {
    (abi.KVM_ARM_VCPU_PVTIME_CTRL, errno.EEXIST): Cause(
        errors.AddressAlreadySetError, "the vCPU has such an address already, which stays", "", "set it once"
    ),
    (abi.KVM_ARM_VCPU_PVTIME_CTRL, errno.EINVAL): Cause(
        errors.NoMemoryThereError,
        "there is no memory that the guest can write at this address",
        "slots that are not read-only",
        "add memory there first",
    ),
    (abi.KVM_ARM_VCPU_TIMER_CTRL, errno.EINVAL): Cause(
        errors.NoVgicError, "the VM has no vGIC", "", "create the vGIC before"
    ),
    (abi.KVM_ARM_VCPU_TIMER_CTRL, errno.EBUSY): Cause(
        errors.VcpuError, "the timers' interrupts are in use: a vCPU has run", "", "set them before the first run"
    ),
    (abi.KVM_ARM_VCPU_PMU_V3_CTRL, errno.EINVAL): Cause(
        errors.InterruptNumberError,
        "not an interrupt that the PMU can have, or the VM has no vGIC",
        "one PPI (16 to 31) for all vCPUs, or an SPI for each",
        "create the vGIC before, and use the same PPI everywhere",
    ),
    (abi.KVM_ARM_VCPU_PMU_V3_CTRL, errno.EBUSY): Cause(
        errors.VcpuError, "the PMU is initialised, or this is set", "", "set it once, before the PMU's initialisation"
    ),
}
