# SPDX-License-Identifier: Apache-2.0
"""Why a vCPU was not created or not initialised (KVM_CREATE_VCPU, KVM_ARM_VCPU_INIT; kernel-device-spec 4.1, 4.2)."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING, Final, NamedTuple

from kvmipa import abi, errors
from kvmipa.causes import DESCRIPTOR_LIMITS, KERNEL_LOG, Cause, handle_error, unnamed

if TYPE_CHECKING:
    from collections.abc import Collection

    from kvmipa.asking import AskCapability
    from kvmipa.errors import KvmError


def create_vcpu_error(code: int, vcpu_id: int, ids: Collection[int], ask: AskCapability) -> KvmError:
    """Why KVM_CREATE_VCPU refused an id; ``ids`` are those that this handle has made."""
    ioctl = "KVM_CREATE_VCPU"
    common = handle_error(code, "Vm", ioctl, vcpu_id)
    if common is not None:
        return common
    found = _refused_id(vcpu_id, ids, ask) if code == errno.EINVAL else _CREATION.get(code)
    found = found or unnamed(code, errors.VcpuError)
    return found.error(code, asked=f"vCPU {vcpu_id}", ioctl=ioctl, argument=vcpu_id)


def _refused_id(vcpu_id: int, ids: Collection[int], ask: AskCapability) -> Cause:
    most = ask(abi.KVM_CAP_MAX_VCPUS)
    last = ask(abi.KVM_CAP_MAX_VCPU_ID) or most
    if vcpu_id >= last:
        return Cause(
            errors.VcpuIdError,
            f"vCPU id {vcpu_id} is beyond the last one",
            f"ids 0 to {last - 1} (KVM_CAP_MAX_VCPU_ID; 8 with a vGICv2)",
            "use a smaller id; ids may have gaps",
        )
    if len(ids) >= most:
        return Cause(
            errors.TooManyVcpusError,
            f"the VM has {len(ids)} vCPUs already",
            f"{most} (KVM_CAP_MAX_VCPUS)",
            "create no more, or another VM",
        )
    return Cause(
        errors.DeviceOverlapError,
        "the redistributors, with the vCPU's, would be on the distributor, on each other or beyond the IPA space",
        f"128K for each of {len(ids) + 1} vCPUs",
        "place distributor and redistributors apart, and with room for all vCPUs, before they are made",
    )


_CREATION: Final = {
    errno.EEXIST: Cause(
        errors.VcpuExistsError,
        "the VM has a vCPU of this id, whose descriptor may be closed",
        "ids that were not used",
        "keep the handle, or take another id",
    ),
    errno.EBUSY: Cause(
        errors.VgicInitialisedError,
        "the vGIC is initialised: the VM's vCPUs are all that it will have",
        "the vCPUs that there are",
        "create all vCPUs, then call Vgic.init()",
    ),
    **DESCRIPTOR_LIMITS,
    errno.ENOSPC: Cause(
        errors.VcpuError, "the VM has more than 1000 devices on its MMIO bus", "1000", "remove coalesced zones"
    ),
}


# ------------------------------------------------------------------------------------------------ initialisation


def preferred_target_error(code: int) -> KvmError:
    """Why KVM_ARM_PREFERRED_TARGET named no target."""
    ioctl = "KVM_ARM_PREFERRED_TARGET"
    return handle_error(code, "Vm", ioctl) or _NO_TARGET.error(
        code, asked="the target of this host's vCPUs", ioctl=ioctl
    )


_NO_TARGET: Final = Cause(errors.VcpuError, "KVM does not name its CPU", "", KERNEL_LOG)


# Feature bit -> the capability by which a host says that it has it. HAS_EL2_E2H0 is not among them: alone it is taken
# whatever the host has, and with HAS_EL2 that is what is missing (kernel-device-spec 4.2).
_FEATURE_CAPABILITIES: Final = {
    abi.KVM_ARM_VCPU_EL1_32BIT: abi.KVM_CAP_ARM_EL1_32BIT,
    abi.KVM_ARM_VCPU_PMU_V3: abi.KVM_CAP_ARM_PMU_V3,
    abi.KVM_ARM_VCPU_SVE: abi.KVM_CAP_ARM_SVE,
    abi.KVM_ARM_VCPU_PTRAUTH_ADDRESS: abi.KVM_CAP_ARM_PTRAUTH_ADDRESS,
    abi.KVM_ARM_VCPU_PTRAUTH_GENERIC: abi.KVM_CAP_ARM_PTRAUTH_GENERIC,
    abi.KVM_ARM_VCPU_HAS_EL2: abi.KVM_CAP_ARM_EL2,
    abi.KVM_ARM_VCPU_PMU_V3_STRICT: abi.KVM_CAP_ARM_PMU_V3_STRICT,
}
_GENERIC_TARGET: Final = 5


class InitAttempt(NamedTuple):
    """What KVM_ARM_VCPU_INIT was asked for.

    preferred: the target that the VM named, None where it named none; ask: what the VM answers for a capability, None
    where it is closed.
    """

    features: int
    target: int
    preferred: int | None
    ask: AskCapability | None

    def error(self, code: int) -> KvmError:
        """Why it failed with errno ``code``."""
        ioctl = "KVM_ARM_VCPU_INIT"
        common = handle_error(code, "Vcpu", ioctl)
        if common is not None:
            return common
        if code == errno.ENOENT:
            found = _UNKNOWN_FEATURE.filled(features=self.features)
        elif code == errno.EINVAL:
            found = self._refused()
        else:
            found = unnamed(code, errors.VcpuError)
        return found.error(code, asked=f"features {self.features:#x} on target {self.target}", ioctl=ioctl)

    def _refused(self) -> Cause:
        if self.target not in {self.preferred, _GENERIC_TARGET}:
            named = "what Vm.preferred_target() says" if self.preferred is None else str(self.preferred)
            return _FOREIGN_TARGET.filled(target=self.target, preferred=named)
        wanted = {bit: cap for bit, cap in _FEATURE_CAPABILITIES.items() if self.features >> bit & 1}
        if self.ask is None:
            return _FEATURES_OR_HOST if wanted else _FEATURES
        missing = [str(bit) for bit, cap in wanted.items() if not self.ask(cap)]
        return _MISSING_FEATURE.filled(missing=", ".join(missing)) if missing else _FEATURES


_UNKNOWN_FEATURE: Final = Cause(
    errors.VcpuFeatureError,
    "this kernel does not know one of the features {features:#x}",
    "bits 0 to 6, since 7.3 up to 9",
    "ask for features that check_extension() has",
)
_FOREIGN_TARGET: Final = Cause(
    errors.VcpuTargetError, "target {target} is not this host's CPU", "{preferred}", "leave target to init()"
)
_MISSING_FEATURE: Final = Cause(
    errors.VcpuFeatureError,
    "this host does not have feature {missing}",
    "what check_extension() says of the features' capabilities",
    "leave it out",
)
_FEATURES: Final = Cause(
    errors.VcpuFeatureError,
    "these features do not go with each other, or with those of this VM's other vCPUs or of an earlier init()",
    "both kinds of pointer authentication or none; PMU_V3_STRICT with PMU_V3; since 6.12 the same for all vCPUs",
    "initialise all vCPUs of a VM alike",
)
_FEATURES_OR_HOST: Final = _FEATURES._replace(
    cause=f"this host does not have all of the features, or {_FEATURES.cause}",
    fix=f"ask Kvm.check_extension() for them; {_FEATURES.fix}",
)
