# SPDX-License-Identifier: Apache-2.0
"""Reading a running host's profile: through KVM, and where KVM hides it, from what the kernel shows elsewhere."""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING, Any, Final

from kvmipa import abi, errors, running_kernel
from kvmipa.backend.emulated.host import HostProfile
from kvmipa.id_registers import FIELDS, field, kvm_register_id, with_field

if TYPE_CHECKING:
    from kvmipa.system import Kvm
    from kvmipa.vm import Vm

# arch/arm64/include/uapi/asm/kvm.h: vCPU features without which KVM hides the ID register fields of the CPU's.
_FEATURES: Final = {
    abi.KVM_CAP_ARM_PMU_V3: 1 << 3,
    abi.KVM_CAP_ARM_SVE: 1 << 4,
    abi.KVM_CAP_ARM_PTRAUTH_ADDRESS: 1 << 5,
    abi.KVM_CAP_ARM_PTRAUTH_GENERIC: 1 << 6,
}

_CTR_EL0_DIC: Final = 1 << 29


def read_profile(kvm: Kvm) -> HostProfile:
    """See HostProfile.of."""
    backend = kvm._backend
    emulated: HostProfile | None = getattr(backend, "profile", None)
    if emulated is not None:
        return emulated
    registers = read_registers(kvm)
    release = running_kernel.stable_release(*os.uname()[2:4])
    found: dict[str, Any] = {
        name.lower(): value for name, value in registers.items() if name.lower() in HostProfile.__dataclass_fields__
    }
    if kvm.check_extension(abi.KVM_CAP_ARM_MTE):
        # A VM shows the field only once it has enabled the capability; 2 is the least that the capability needs.
        found["id_aa64pfr1_el1"] = with_field("ID_AA64PFR1_EL1", "MTE", found["id_aa64pfr1_el1"], 2)
    return HostProfile(
        release=release,
        page_size=kvm.page_size or 4096,
        mode=_mode(kvm, registers["ID_AA64MMFR1_EL1"]),
        gic={512: "v3", 8: "v2"}.get(kvm.check_extension(abi.KVM_CAP_MAX_VCPUS))
        if kvm.check_extension(abi.KVM_CAP_IRQCHIP)
        else None,
        cpus=os.cpu_count() or 1,
        fwb=field("ID_AA64MMFR2_EL1", "FWB", registers["ID_AA64MMFR2_EL1"]) > 0,
        dic=bool(registers["CTR_EL0"] & _CTR_EL0_DIC),
        source=f"read on the running host, Linux {release}",
        **found,
        **_configuration(os.uname().release),
    )


def read_registers(kvm: Kvm) -> dict[str, int]:
    """ID registers as a vCPU with every feature sees them: the host's sanitised values where KVM hides nothing.

    A register that the kernel does not show is 0. Raises KvmError where no vCPU can be made.
    """
    with kvm.create_vm(32) as vm:
        vcpu = _answer(vm, vm.fileno(), abi.KVM_CREATE_VCPU, 0)
        try:
            _initialise(kvm, vm, vcpu)
            return {register: _one_register(vm, vcpu, register) for register in FIELDS}
        finally:
            vm._backend.close(vcpu)


def _initialise(kvm: Kvm, vm: Vm, vcpu: int) -> None:
    """KVM_ARM_VCPU_INIT with every feature that shows more of the CPU."""
    init = bytearray(abi.VCPU_INIT.size)
    _answer(vm, vm.fileno(), abi.KVM_ARM_PREFERRED_TARGET, init)
    target = abi.VCPU_INIT.unpack(init)[0]
    features = sum(bit for cap, bit in _FEATURES.items() if kvm.check_extension(cap))
    abi.VCPU_INIT.pack_into(init, 0, target, features, *[0] * 6)
    _answer(vm, vcpu, abi.KVM_ARM_VCPU_INIT, init)


def _one_register(vm: Vm, vcpu: int, register: str) -> int:
    import ctypes

    value = ctypes.c_uint64()
    request = bytearray(abi.ONE_REG.pack(kvm_register_id(register), ctypes.addressof(value)))
    if vm._backend.ioctl_buffer(vcpu, abi.KVM_GET_ONE_REG, request) == -errno.ENOENT:
        return 0
    return value.value


def _answer(vm: Vm, fd: int, request: int, argument: int | bytearray) -> int:
    backend = vm._backend
    if isinstance(argument, int):
        result = backend.ioctl(fd, request, argument)
    else:
        result = backend.ioctl_buffer(fd, request, argument)
    if result < 0:
        raise errors.KvmError(
            -result,
            cause=f"a host's ID registers are read through a vCPU, and {os.strerror(-result)}",
            ioctl=abi.request_name(request),
        )
    return result


def _mode(kvm: Kvm, mmfr1: int) -> str:
    """kvm-arm.mode of the kernel's command line; without one, VHE if the CPU has it."""
    asked = running_kernel.command_line_mode()
    # "nested" is only a wish: without FEAT_NV2 the kernel runs as if it had not been there.
    if asked in ("nvhe", "protected") or (asked == "nested" and kvm.check_extension(abi.KVM_CAP_ARM_EL2)):
        return asked
    return "vhe" if field("ID_AA64MMFR1_EL1", "VH", mmfr1) else "nvhe"


def _configuration(release: str) -> dict[str, Any]:
    """CONFIG_ARM64_* that stage 2 depends on, as far as the kernel's configuration is to be found."""
    config = running_kernel.configuration(release)
    if config is None:
        return {}
    options = {"pa_bits": "CONFIG_ARM64_PA_BITS", "va_bits": "CONFIG_ARM64_VA_BITS"}
    numbers = {name: int(config[option]) for name, option in options.items() if option in config}
    return {"hw_afdbm": "CONFIG_ARM64_HW_AFDBM" in config, **numbers}
