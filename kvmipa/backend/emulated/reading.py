# SPDX-License-Identifier: Apache-2.0
"""Reading a running host's profile: through KVM, and where KVM hides it, from what the kernel shows elsewhere."""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING, Any, Final

from kvmipa import abi, errors, running_kernel
from kvmipa.backend.emulated.host import HostProfile
from kvmipa.backend.emulated.release import nearest
from kvmipa.id_registers import DECISIVE, field, kvm_register_id, with_field

if TYPE_CHECKING:
    from kvmipa.system import Kvm
    from kvmipa.vm import Vm

# Without these vCPU features KVM hides the ID register fields of what they are about.
_FEATURES: Final = {
    abi.KVM_CAP_ARM_PMU_V3: abi.KVM_ARM_VCPU_PMU_V3,
    abi.KVM_CAP_ARM_SVE: abi.KVM_ARM_VCPU_SVE,
    abi.KVM_CAP_ARM_PTRAUTH_ADDRESS: abi.KVM_ARM_VCPU_PTRAUTH_ADDRESS,
    abi.KVM_CAP_ARM_PTRAUTH_GENERIC: abi.KVM_ARM_VCPU_PTRAUTH_GENERIC,
}

# Arm ARM, CTR_EL0: bit 29, a field of one bit.
_CTR_EL0_DIC: Final = 1 << 29


def read_profile(kvm: Kvm) -> HostProfile:
    """See HostProfile.of."""
    emulated = kvm._backend.profile
    if emulated is not None:
        return emulated
    uname = os.uname()
    running = running_kernel.stable_release(uname.release, uname.version)
    registers = read_registers(kvm)
    known = {name: name.lower() for name in registers if name.lower() in HostProfile.__dataclass_fields__}
    found: dict[str, Any] = {known[name]: registers[name] for name in known}
    return HostProfile(
        release=nearest(running),
        page_size=kvm.page_size or 4096,
        mode=_mode(kvm, registers["ID_AA64MMFR1_EL1"]),
        gic=_gic(kvm),
        cpus=os.cpu_count() or 1,
        fwb=field("ID_AA64MMFR2_EL1", "FWB", registers["ID_AA64MMFR2_EL1"]) > 0,
        dic=bool(registers["CTR_EL0"] & _CTR_EL0_DIC),
        thp=_thp(),
        midr_el1=_midr(),
        source=f"read on the running host, Linux {running}",
        **found,
        **_configuration(uname.release),
    )


def read_registers(kvm: Kvm) -> dict[str, int]:
    """ID registers as a vCPU with every feature sees them: the host's sanitised values where KVM hides nothing.

    A register that the kernel does not know is 0. Raises KvmError where no vCPU can be made.
    """
    # The smallest VM that the host makes: on 7.3 the close of a larger one takes longer.
    with kvm.create_vm(32 if kvm.host_ipa_limit else None) as vm:
        vcpu = _answer(vm, vm.fileno(), abi.KVM_CREATE_VCPU, 0)
        try:
            _initialise(kvm, vm, vcpu)
            found = {register: _one_register(vm, vcpu, register) for register in DECISIVE}
        finally:
            vm._backend.close(vcpu)
    if kvm.check_extension(abi.KVM_CAP_ARM_MTE):
        # A VM shows the field only once it has enabled the capability; 2 is the least that the capability needs.
        found["ID_AA64PFR1_EL1"] = with_field("ID_AA64PFR1_EL1", "MTE", found["ID_AA64PFR1_EL1"], 2)
    return found


def _initialise(kvm: Kvm, vm: Vm, vcpu: int) -> None:
    """KVM_ARM_VCPU_INIT with every feature that shows more of the CPU."""
    init = bytearray(abi.VCPU_INIT.size)
    _answer(vm, vm.fileno(), abi.KVM_ARM_PREFERRED_TARGET, init)
    target = abi.VCPU_INIT.unpack(init)[0]
    features = sum(1 << bit for cap, bit in _FEATURES.items() if kvm.check_extension(cap))
    abi.VCPU_INIT.pack_into(init, 0, target, features, *[0] * 6)
    _answer(vm, vcpu, abi.KVM_ARM_VCPU_INIT, init)


def _one_register(vm: Vm, vcpu: int, register: str) -> int:
    import ctypes

    value = ctypes.c_uint64()
    request = bytearray(abi.ONE_REG.pack(kvm_register_id(register), ctypes.addressof(value)))
    _answer(vm, vcpu, abi.KVM_GET_ONE_REG, request, allowed=errno.ENOENT)
    return value.value


def _answer(vm: Vm, fd: int, request: int, argument: int | bytearray, allowed: int = 0) -> int:
    """The result of an ioctl that has to go well, or fail with the errno that is allowed."""
    backend = vm._backend
    if isinstance(argument, int):
        result = backend.ioctl(fd, request, argument)
    else:
        result = backend.ioctl_buffer(fd, request, argument)
    if result < 0 and -result != allowed:
        raise errors.KvmError(
            -result,
            cause=f"KVM did not let a vCPU be looked at: {os.strerror(-result)}",
            asked="the host's ID registers, which are read through a vCPU",
            available="the IPA limit and the capabilities",
            ioctl=abi.request_name(request),
            fix="run: kvmipa doctor",
        )
    return result


def _gic(kvm: Kvm) -> str | None:
    if not kvm.check_extension(abi.KVM_CAP_IRQCHIP):
        return None
    return "v2" if kvm.check_extension(abi.KVM_CAP_MAX_VCPUS) == 8 else "v3"


def _mode(kvm: Kvm, mmfr1: int) -> str:
    """kvm-arm.mode of the kernel's command line; without one, VHE if the CPU has it."""
    asked = running_kernel.command_line_mode()
    # "nested" is only a wish: without FEAT_NV2 the kernel runs as if it had not been there.
    if asked in ("nvhe", "protected") or (asked == "nested" and kvm.check_extension(abi.KVM_CAP_ARM_EL2)):
        return asked
    return "vhe" if field("ID_AA64MMFR1_EL1", "VH", mmfr1) else "nvhe"


def _thp() -> str:
    """What is in brackets of the kernel's choices; no file: built without transparent huge pages."""
    import re
    from pathlib import Path

    try:
        found = re.search(r"\[(\w+)\]", Path("/sys/kernel/mm/transparent_hugepage/enabled").read_text())
    except OSError:
        return "never"
    return found[1] if found else "never"


def _midr() -> int:
    """MIDR_EL1 of the first CPU; 0 where the kernel does not show it."""
    from pathlib import Path

    try:
        return int(Path("/sys/devices/system/cpu/cpu0/regs/identification/midr_el1").read_text(), 16)
    except (OSError, ValueError):
        return 0


def _configuration(release: str) -> dict[str, Any]:
    """CONFIG_ARM64_* that stage 2 depends on, as far as the kernel's configuration is to be found."""
    config = running_kernel.configuration(release)
    if config is None:
        return {}
    options = {"pa_bits": "CONFIG_ARM64_PA_BITS", "va_bits": "CONFIG_ARM64_VA_BITS"}
    numbers = {name: int(config[option]) for name, option in options.items() if option in config}
    return {"hw_afdbm": "CONFIG_ARM64_HW_AFDBM" in config, **numbers}
