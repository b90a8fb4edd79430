# SPDX-License-Identifier: Apache-2.0
"""Why a register of a vCPU could not be read or written, or they were not listed (kernel-device-spec 4.3, 4.5)."""

from __future__ import annotations

import errno
import re
from typing import TYPE_CHECKING, Final, NamedTuple

from kvmipa import abi, errors
from kvmipa.causes import Cause, handle_error, unnamed
from kvmipa.registers import IDS, Reg, RegKind

if TYPE_CHECKING:
    from kvmipa.backend.emulated.host import HostProfile
    from kvmipa.errors import KvmError

# Bits 15:0 of a core register's id: where it begins in struct kvm_regs, in units of 4 bytes.
_INDEX: Final = 0xFFFF


def waiting_cause(code: int) -> Cause | None:
    """What all requests for a vCPU's registers answer before it is ready; None for any other errno."""
    return _WAITING.get(code)


def release_of(profile: HostProfile | None) -> str:
    """The release of the kernel that answers: the emulated host's, or (None) the running one."""
    if profile is not None:
        return profile.release
    import os

    from kvmipa.running_kernel import stable_release

    return stable_release(os.uname().release, os.uname().version)


def reg_list_error(code: int) -> KvmError:
    """Why KVM_GET_REG_LIST failed."""
    ioctl = "KVM_GET_REG_LIST"
    common = handle_error(code, "Vcpu", ioctl)
    if common is not None:
        return common
    found = waiting_cause(code) or unnamed(code, errors.RegisterError)
    return found.error(code, asked="the list of the vCPU's registers", ioctl=ioctl)


def finalize_error(code: int, feature: int) -> KvmError:
    """Why KVM_ARM_VCPU_FINALIZE refused a feature's number."""
    ioctl = "KVM_ARM_VCPU_FINALIZE"
    common = handle_error(code, "Vcpu", ioctl)
    if common is not None:
        return common
    if code == errno.EINVAL:
        found = _NO_SVE if feature == abi.KVM_ARM_VCPU_SVE else _NOT_TO_FINALISE.filled(feature=feature)
    elif code == errno.EPERM:
        found = _FINALISED
    else:
        found = waiting_cause(code) or unnamed(code, errors.VcpuError)
    return found.error(code, asked=f"feature {feature} to be final", ioctl=ioctl, argument=feature)


class RegisterAttempt(NamedTuple):
    """A register that was asked for.

    value: what was to be written, None where it was read. features: what init() was given, None before; release: of the
    kernel that answers.
    """

    register: Reg
    value: int | None
    features: int | None
    release: str

    def error(self, code: int) -> KvmError:
        """Why it failed with errno ``code``."""
        ioctl = "KVM_GET_ONE_REG" if self.value is None else "KVM_SET_ONE_REG"
        common = handle_error(code, "Vcpu", ioctl, self.register)
        if common is not None:
            return common
        asked = str(self.register) if self.value is None else f"{self.register} = {self.value:#x}"
        return self._cause(code).error(code, asked=asked, ioctl=ioctl, argument=int(self.register))

    def _cause(self, code: int) -> Cause:
        if code == errno.ENOENT:
            return self._absent()
        if code == errno.EINVAL:
            found = self._not_an_id() or self._refused_value()
        elif code == errno.EBUSY:
            found = _FROZEN
        elif code == errno.EPERM and self.value is not None and self.register == Reg.SVE_VLS:
            found = _FINALISED
        else:
            found = waiting_cause(code)
        return (found or unnamed(code, errors.RegisterError)).filled(name=self.register)

    # -------------------------------------------------------------------------------------------- ENOENT

    def _absent(self) -> Cause:
        register = self.register
        if register not in _IDS:
            if register.kind is RegKind.SYSTEM and register.size != _SYSTEM_SIZE:
                return _SYSTEM_OF_OTHER_SIZE.filled(name=register, size=register.size)
            if register.kind is RegKind.CORE:
                return _BEYOND_CORE.filled(index=register & _INDEX)
        found = _ABSENT.filled(name=register, release=self.release)
        for need in _NEEDS:
            if re.fullmatch(need.names, register.name) and not self._has(need.feature):
                return found._replace(cause=f"{found.cause}: {need.cause}", fix=need.fix)
        return found

    def _has(self, feature: int | None) -> bool:
        """Whether the vCPU has a feature, so that it cannot be what is missing."""
        return feature is not None and bool((self.features or 0) >> feature & 1)

    # -------------------------------------------------------------------------------------------- EINVAL

    def _not_an_id(self) -> Cause | None:
        register = self.register
        if register.kind is RegKind.UNKNOWN:
            return _FOREIGN
        if register in _IDS:
            is_vector = register.kind is RegKind.CORE and register.size == _VECTOR_SIZE
            return _VECTOR_OF_SVE if is_vector and self._has(abi.KVM_ARM_VCPU_SVE) else None
        if register.kind is RegKind.CORE:
            return _not_a_core_register(register)
        return _NO_SUCH_SVE if register.kind is RegKind.SVE else None

    def _refused_value(self) -> Cause | None:
        if self.value is None:
            return None
        for pattern, cause in _VALUES:
            if re.fullmatch(pattern, self.register.name):
                return cause
        return _VALUE


_IDS: Final = frozenset(IDS.values())
_VECTOR_SIZE: Final = 16
_SYSTEM_SIZE: Final = 8


def _not_a_core_register(register: Reg) -> Cause:
    """An index that is none, or of another size."""
    index = register & _INDEX
    starts = {number & _INDEX: Reg(number) for number in IDS.values() if Reg(number).kind is RegKind.CORE}
    start = max(first for first in starts if first <= index)
    there = starts[start]
    if start != index:
        return _INSIDE.filled(index=index, there=there, first=start)
    return _OTHER_SIZE.filled(size=register.size, there=there, right=there.size, id=there.id)


# ------------------------------------------------------------------------------------------------ what is said

_WAITING: Final = {
    errno.ENOEXEC: Cause(
        errors.VcpuNotInitialisedError, "the vCPU is not initialised: it has no registers", "", "call init() first"
    ),
    errno.EPERM: Cause(
        errors.SveNotFinalisedError,
        "the vCPU has SVE, and its vector lengths are not final",
        "SVE_VLS, which can still be set",
        "call finalize() after init()",
    ),
}
_FINALISED: Final = Cause(
    errors.SveFinalisedError,
    "the vector lengths are final: finalize() was called",
    "",
    "set SVE_VLS between init() and finalize(); a vCPU of another VM can have others",
)
_NO_SVE: Final = Cause(
    errors.VcpuFeatureError,
    "the vCPU has no SVE, of which something is to be final",
    "vCPUs with the feature SVE",
    "init() with VcpuFeature.SVE, where check_extension(KVM_CAP_ARM_SVE) has it; or leave finalize() out",
)
_NOT_TO_FINALISE: Final = Cause(
    errors.VcpuFeatureError,
    "feature {feature} is none that is made final",
    "VcpuFeature.SVE, 4",
    "finalize() without an argument",
)

_FOREIGN: Final = Cause(
    errors.RegisterIdError,
    "{name} is not the id of an arm64 register",
    "ids with 0x60 in bits 63:56 and 0 in bits 51:32",
    "take one of kvmipa.Reg, or of reg_list()",
)
_INSIDE: Final = Cause(
    errors.RegisterIdError,
    "no core register begins at index {index}: that is within {there}, which begins at {first}",
    "core registers, whose ids are counted in 4 bytes of struct kvm_regs",
    "take kvmipa.Reg.{there}",
)
_OTHER_SIZE: Final = Cause(
    errors.RegisterIdError,
    "the id says that {there} has {size} bytes, but it has {right}",
    "{id:#x}",
    "take kvmipa.Reg.{there}",
)
_VECTOR_OF_SVE: Final = Cause(
    errors.RegisterIdError,
    "a vCPU with SVE has no {name}: it is the lower 128 bits of a Z register",
    "Z0 to Z31, after finalize()",
    "read and write the Z register of the same number; or init() without VcpuFeature.SVE",
)
_NO_SUCH_SVE: Final = Cause(
    errors.RegisterIdError,
    "{name} is not the id of a register of SVE, or says another size",
    "Z0 to Z31, P0 to P15, FFR and SVE_VLS",
    "take one of kvmipa.Reg",
)

_ABSENT: Final = Cause(
    errors.NoSuchRegisterError,
    "this vCPU has no register {name} on Linux {release}",
    "what reg_list() has",
    "ask reg_list() before; other hosts, kernels and features have other registers",
)

_SYSTEM_OF_OTHER_SIZE: Final = Cause(
    errors.NoSuchRegisterError,
    "{name} is not the id of a system register: it says {size} bytes, and they have 8",
    "ids that begin with 0x6030",
    "take one of kvmipa.Reg, or of reg_list()",
)
_BEYOND_CORE: Final = Cause(
    errors.NoSuchRegisterError,
    "no core register is at index {index}: FPCR, at 213, is the last one",
    "core registers, whose ids are counted in 4 bytes of struct kvm_regs",
    "take one of kvmipa.Reg",
)


class _Need(NamedTuple):
    """Why registers of these names can be missing. feature: a vCPU that has it lacks something else."""

    names: str
    cause: str
    fix: str
    feature: int | None = None


_PMU: Final = r"PM(CR|CNTEN|INTEN|OVS|SWINC|SELR|CEID|CCNTR|XEV|USERENR|CCFILTR|EVCNTR|EVTYPER|MIR)\w+"
_AARCH32: Final = r"(DBGVCR32|DACR32|IFSR32|FPEXC32)_EL2"

# The first one that fits counts (kernel-device-spec 4.5; arch/arm64/kvm/sys_regs.c, the functions *_visibility).
_NEEDS: Final = (
    _Need(_PMU, "it is the PMU's", "init() with VcpuFeature.PMU_V3", abi.KVM_ARM_VCPU_PMU_V3),
    _Need(r"[ZP]\d+|FFR|SVE_VLS|ZCR_EL1", "it is SVE's", "init() with VcpuFeature.SVE", abi.KVM_ARM_VCPU_SVE),
    _Need(
        r"AP\w+KEY\w+",
        "it is a key of pointer authentication",
        "init() with VcpuFeature.PTRAUTH_ADDRESS | VcpuFeature.PTRAUTH_GENERIC",
        abi.KVM_ARM_VCPU_PTRAUTH_ADDRESS,
    ),
    _Need(_AARCH32, "it is of AArch32", "leave it to hosts whose CPU runs 32-bit guests"),
    _Need(
        r"\w+_EL2",
        "it is a guest hypervisor's",
        "init() with VcpuFeature.HAS_EL2, where check_extension(KVM_CAP_ARM_EL2) has it",
        abi.KVM_ARM_VCPU_HAS_EL2,
    ),
    _Need(
        r"RGSR_EL1|GCR_EL1|TFSR\w+",
        "it is of memory tagging",
        "enable_cap(KVM_CAP_ARM_MTE) on the VM before the vCPU is made, where the host has it",
    ),
    _Need("VENDOR_HYP_BMAP_2", "it came after Linux 6.12", "run a newer kernel, such as 7.3"),
    _Need(r"\w+_BMAP", "it came after Linux 5.10", "run a newer kernel, such as 6.1"),
    _Need(r"CCSIDR_\d+", "the host has no such cache", "look at CLIDR_EL1, which says what caches there are"),
    _Need(
        r"ICC_\w+", "it is the vGIC's", "ask the vGIC: Device.get_attr(), group 6 (KVM_DEV_ARM_VGIC_GRP_CPU_SYSREGS)"
    ),
)

_FROZEN: Final = Cause(
    errors.RegisterFrozenError,
    "{name} stays as it is: a vCPU of this VM has run",
    "its present value",
    "set it between init() and the first run",
)

_VALUE: Final = Cause(
    errors.RegisterValueError, "{name} cannot have this value", "", "read it, and change what is to be another"
)
_VALUES: Final = (
    (
        "PSTATE",
        Cause(
            errors.RegisterValueError,
            "this vCPU cannot be in the mode of bits 4:0 of PSTATE",
            "0 (EL0t), 4 (EL1t), 5 (EL1h); 8 and 9 with HAS_EL2; those of AArch32 with EL1_32BIT only",
            "0x3c5 is EL1h with all exceptions masked, as init() sets it",
        ),
    ),
    (
        "PSCI_VERSION",
        Cause(
            errors.RegisterValueError,
            "this is not a version of PSCI that the vCPU can have",
            "1 (0.1) without the feature PSCI_0_2; with it 0x2, 0x10000, and what the kernel knows since",
            "init() with VcpuFeature.PSCI_0_2 for all but 0.1; leave what is newer than the kernel",
        ),
    ),
    (
        r"SMCCC_ARCH_WORKAROUND_\d",
        Cause(
            errors.RegisterValueError,
            "{name} would promise the guest what the host does not do",
            "the host's own level, which it reads as, and lower ones",
            "leave it, or lower it",
        ),
    ),
    (
        r"\w+_BMAP(_2)?",
        Cause(
            errors.RegisterValueError,
            "a bit of {name} is of a hypercall that this kernel does not have",
            "the bits that kvmipa reads after init() (VENDOR_HYP_BMAP_2: the lower two)",
            "clear the others",
        ),
    ),
    (
        "SVE_VLS",
        Cause(
            errors.RegisterValueError,
            "the host cannot give a guest exactly these vector lengths",
            "those that it reads as after init(), up to a largest one, and none of them left out",
            "clear bits from the top only",
        ),
    ),
    (
        r"CCSIDR_\d+",
        Cause(
            errors.InvariantRegisterError,
            "{name} is the geometry of a cache, and cannot be this one",
            "on Linux 5.10 its present value only, later also other sets, ways and lines",
            "read it, and change these fields",
        ),
    ),
    (
        r"ID_\w+|MVFR\d_EL1|S3_0_C0_\w+|(CTR|MIDR|REVIDR|AIDR|CLIDR)_EL[01]",
        Cause(
            errors.InvariantRegisterError,
            "{name} says what the host is, and cannot be made to say this",
            "its present value; since Linux 6.12 in many fields also less than that",
            "lower fields only, and read it back; KVM_ARM_GET_REG_WRITABLE_MASKS has the bits that can change",
        ),
    ),
)
