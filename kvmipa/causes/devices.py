# SPDX-License-Identifier: Apache-2.0
"""Why a device could not be created (KVM_CREATE_DEVICE, KVM_CREATE_IRQCHIP; kernel-device-spec 1)."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING, Final

from kvmipa import abi, errors
from kvmipa.causes import DESCRIPTOR_LIMITS, Cause, handle_error, unnamed

if TYPE_CHECKING:
    from kvmipa.errors import KvmError


def create_device_error(code: int, ioctl: str, device_type: int, label: str, vcpus: int) -> KvmError:
    """Why a type was refused; vcpus: how many the VM has.

    KVM_CREATE_IRQCHIP names no type: it is a vGICv2's.
    """
    argument = device_type if ioctl == "KVM_CREATE_DEVICE" else None
    common = handle_error(code, "Vm", ioctl, argument or 0)
    if common is not None:
        return common
    is_vgic = device_type in {abi.KVM_DEV_TYPE_ARM_VGIC_V2, abi.KVM_DEV_TYPE_ARM_VGIC_V3}
    found = (_VGIC.get(code) if is_vgic else None) or _ANY.get(code) or unnamed(code, errors.DeviceError)
    return found.filled(label=label, vcpus=vcpus).error(code, asked=f"a device {label}", ioctl=ioctl, argument=argument)


_NO_SUCH_TYPE: Final = Cause(
    errors.DeviceTypeUnsupportedError,
    "this host has no device {label}",
    "what Vm.has_device_type() says: a GICv3 host has vgic-v3 and vgic-its, a GICv2 host vgic-v2",
    "ask for the vGIC that the host has",
)
_ANY: Final = {
    errno.ENODEV: _NO_SUCH_TYPE,
    errno.ENXIO: _NO_SUCH_TYPE,
    errno.EBUSY: Cause(
        errors.DeviceExistsError, "the VM has a device {label} already", "one for each VM", "use the one that there is"
    ),
    **DESCRIPTOR_LIMITS,
    errno.EFAULT: Cause(
        errors.DeviceError,
        "the device was made, but its descriptor could not be written",
        "",
        "pass memory of your own",
    ),
}
_VGIC: Final = {
    errno.EEXIST: Cause(
        errors.VgicExistsError,
        "the VM has a vGIC already, for good",
        "one vGIC for each VM, of whatever model",
        "keep its handle, or create another VM",
    ),
    errno.EBUSY: Cause(
        errors.VcpuHasRunError,
        "a vCPU has run, or is running",
        "a vGIC for VMs whose vCPUs have not run",
        "create the vGIC before the first run",
    ),
    errno.E2BIG: Cause(
        errors.TooManyVcpusError,
        "the VM has {vcpus} vCPUs, more than this vGIC can have",
        "8 with a vGICv2, 512 with a vGICv3",
        "create fewer vCPUs, or another vGIC",
    ),
}
