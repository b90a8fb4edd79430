# SPDX-License-Identifier: Apache-2.0
"""vCPUs on either kernel: creation, initialisation and attributes (kernel-device-spec 3 and 4.1 to 4.3)."""

from __future__ import annotations

import ctypes
import errno
from typing import TYPE_CHECKING

import pytest

from kvmipa import GuestMemory, abi, errors
from kvmipa.vcpu import Vcpu, VcpuFeature
from tests.device_asking import (
    BAD,
    CTRL,
    FILL,
    GET,
    HAS,
    INIT,
    KVM_ARM_VCPU_FINALIZE,
    KVM_ARM_VCPU_INIT,
    KVM_GET_ONE_REG,
    KVM_RUN,
    KVM_SET_ONE_REG,
    PMU,
    PVTIME,
    REDIST_REGS,
    SET,
    TIMER,
    UNSET,
    V3,
    Machine,
    name,
    release_of,
)
from tests.test_device import refused

if TYPE_CHECKING:
    from collections.abc import Iterator

    from kvmipa import Kvm

EL1_32BIT, PSCI_0_2, PMU_V3, SVE, PTRAUTH = 1 << 1, 1 << 2, 1 << 3, 1 << 4, 3 << 5


@pytest.fixture
def on(kvm: Kvm) -> Iterator[Machine]:
    """A VM of 36 bits."""
    with Machine(kvm) as machine:
        yield machine


@pytest.fixture
def release(kvm: Kvm) -> tuple[int, ...]:
    """The kernel's."""
    return release_of(kvm)


def has_v3(on: Machine) -> bool:
    return on.create(V3, 1) == 0


# ------------------------------------------------------------------------------------------------ creation


def test_ids(on: Machine, release: tuple[int, ...]) -> None:
    most = on.vm.check_extension(abi.KVM_CAP_MAX_VCPU_ID)
    assert [name(on.vcpu(number)) for number in (most, 512, (1 << 64) - 1)] == ["EINVAL"] * 3
    assert on.vcpu(3) >= 0
    assert name(on.vcpu(3)) == "EEXIST"
    beyond = on.vcpu(1 << 32 | 1)
    assert beyond >= 0 if release < (6, 12) else name(beyond) == "EINVAL"


def test_vcpu_that_exists_uses_up_a_frame_until_7_3(on: Machine, release: tuple[int, ...]) -> None:
    if not has_v3(on):
        pytest.skip("the host has no GICv3")
    if release < (6, 1) and on.vm.backend == "native":
        # The frame of the vCPU that was not made stays on its bus: it oopses in kvm_destroy_vm.
        pytest.skip("Linux 5.10 does not survive it")
    gic = on.create(V3)
    on.address(gic, 2, 0x800_0000)
    on.address(gic, 5, 0x900_0000 | 2 << 52)
    on.vcpu(0)
    assert name(on.vcpu(0)) == "EEXIST"
    assert on.init(on.vcpu(1)) == 0
    assert on.attribute(gic, SET, CTRL, INIT) == 0
    typer = on.get(gic, REDIST_REGS, 1 << 32 | 8, 4)
    assert isinstance(typer, int)
    # GICR_TYPER.Last; before 6.1 it is not there as an attribute.
    assert bool(typer >> 4 & 1) == (release >= (7, 3))


def test_requests_before_initialisation(on: Machine) -> None:
    vcpu = on.vcpu()
    waiting = (KVM_GET_ONE_REG, KVM_SET_ONE_REG, KVM_ARM_VCPU_FINALIZE)
    assert [on.ask(vcpu, request, BAD) for request in waiting] == ["ENOEXEC"] * 3
    assert [on.ask(vcpu, KVM_RUN, argument) for argument in (0, 1)] == ["ENOEXEC", "EINVAL"]
    assert [on.ask(vcpu, number) for number in (0, 0xAE00, 0xAE41, 0x5401)] == ["EINVAL"] * 4


def test_preferred_target(on: Machine, release: tuple[int, ...]) -> None:
    assert on.target() == 5 if release >= (6, 12) else on.target() in range(6)


# ------------------------------------------------------------------------------------------------ initialisation


def test_initialisation_again(on: Machine) -> None:
    vcpu = on.vcpu()
    assert [on.init(vcpu, PSCI_0_2) for _ in range(2)] == [0, 0]
    assert on.init(vcpu, 0) == "EINVAL"
    assert on.ask(vcpu, KVM_ARM_VCPU_INIT, BAD) == "EFAULT"


def test_power_off_has_to_be_repeated_until_6_12(on: Machine, release: tuple[int, ...]) -> None:
    vcpu = on.vcpu()
    assert on.init(vcpu, 1) == 0
    assert on.init(vcpu, 0) == (0 if release >= (6, 12) else "EINVAL")


@pytest.mark.parametrize("feature", [10, 31])
def test_unknown_feature(feature: int, on: Machine) -> None:
    assert on.init(on.vcpu(), 1 << feature) == "ENOENT"


def test_unknown_words_of_features(on: Machine) -> None:
    assert on.init(on.vcpu(), 0, more=(0, 0, 1, 0, 0, 0)) == "ENOENT"


def test_features_of_7_3(on: Machine, release: tuple[int, ...]) -> None:
    vcpu = on.vcpu()
    # HAS_EL2_E2H0 alone, and PMU_V3_STRICT without PMU_V3.
    assert on.init(vcpu, 1 << 9) == ("EINVAL" if release >= (7, 3) else "ENOENT")
    assert on.init(vcpu, 1 << 8) == (0 if release >= (7, 3) else "ENOENT")


@pytest.mark.parametrize("target", [6, 99, 0xFFFF_FFFF])
def test_unknown_target(target: int, on: Machine) -> None:
    assert on.init(on.vcpu(), 0, target) == "EINVAL"


@pytest.mark.parametrize(
    ("features", "cap"),
    [
        (EL1_32BIT, abi.KVM_CAP_ARM_EL1_32BIT),
        (PMU_V3, abi.KVM_CAP_ARM_PMU_V3),
        (SVE, abi.KVM_CAP_ARM_SVE),
        (PTRAUTH, abi.KVM_CAP_ARM_PTRAUTH_ADDRESS),
    ],
)
def test_feature_of_the_host(features: int, cap: int, on: Machine) -> None:
    there = on.vm.check_extension(cap)
    assert on.init(on.vcpu(), features) == (0 if there else "EINVAL")


def test_half_of_pointer_authentication(on: Machine) -> None:
    assert [on.init(on.vcpu(number), 1 << 5 + number) for number in range(2)] == ["EINVAL"] * 2


def test_features_that_differ(on: Machine, release: tuple[int, ...]) -> None:
    first, second = on.vcpu(0), on.vcpu(1)
    assert on.init(first, PSCI_0_2) == 0
    assert on.init(second, 0) == ("EINVAL" if release >= (6, 12) else 0)
    assert on.init(second, PSCI_0_2) == (0 if release >= (6, 12) else "EINVAL")


def test_finalising_sve(on: Machine) -> None:
    vcpu, plain = on.vcpu(0), on.vcpu(1)
    what = ctypes.c_int(4)
    if on.init(vcpu, SVE) == 0:
        found = [on.ask(vcpu, KVM_ARM_VCPU_FINALIZE, ctypes.addressof(what)) for _ in range(2)]
        assert found == [0, "EPERM"]
    else:
        assert on.init(plain) == 0
        assert on.ask(plain, KVM_ARM_VCPU_FINALIZE, ctypes.addressof(what)) == "EINVAL"
        assert on.ask(plain, KVM_ARM_VCPU_FINALIZE, BAD) == "EFAULT"


# ------------------------------------------------------------------------------------------------ attributes


def test_groups(on: Machine) -> None:
    vcpu = on.vcpu()
    for request in (SET, GET, HAS):
        assert on.ask(vcpu, request, BAD) == "EFAULT"
        assert [on.attribute(vcpu, request, group, 0, BAD) for group in (3, 99)] == ["ENXIO"] * 2


def test_timers(on: Machine, release: tuple[int, ...]) -> None:
    count = 4 if release >= (6, 4) else 2
    vcpu = on.vcpu()
    defaults: list[str | int] = [27, 30, 28, 26]
    assert [on.get(vcpu, TIMER, attr, 4) for attr in range(5)] == defaults[:count] + ["ENXIO"] * (5 - count)
    assert [on.has(vcpu, TIMER, attr) for attr in range(5)] == [0] * count + ["ENXIO"] * (5 - count)
    assert on.attribute(vcpu, SET, TIMER, 0, BAD) == "EINVAL"
    if not has_v3(on):
        return
    on.create(V3)
    assert on.attribute(vcpu, SET, TIMER, 0, BAD) == "EFAULT"
    found = [on.put(vcpu, TIMER, 0, number, 4) for number in (15, 32, 0xFFFF_FFFF, 16, 31)]
    assert found == ["EINVAL"] * 3 + [0, 0]
    assert on.put(vcpu, TIMER, count, 20, 4) == "ENXIO"
    later = on.vcpu(1)
    assert on.get(later, TIMER, 0, 4) == (31 if release >= (6, 12) else 27)


def test_pmu_needs_its_feature(on: Machine) -> None:
    vcpu = on.vcpu()
    assert [on.has(vcpu, PMU, attr) for attr in range(3)] == ["ENXIO"] * 3
    assert on.attribute(vcpu, SET, PMU, 0, BAD) == "ENODEV"
    assert on.get(vcpu, PMU, 1, 4) == "ENXIO"


def test_pmu(on: Machine, release: tuple[int, ...]) -> None:
    if not on.vm.check_extension(abi.KVM_CAP_ARM_PMU_V3) or not has_v3(on):
        pytest.skip("the host has no PMU, or no GICv3")
    first, second = on.vcpu(0), on.vcpu(1)
    for vcpu in (first, second):
        assert on.init(vcpu, PMU_V3) == 0
    known = 5 if release >= (7, 3) else 4 if release >= (6, 1) else 3
    assert [on.has(first, PMU, attr) for attr in range(6)] == [0] * known + ["ENXIO"] * (6 - known)
    assert on.put(first, PMU, 0, 23, 4) == "EINVAL"
    gic = on.create(V3)
    assert [on.put(first, PMU, 0, number, 4) for number in (15, 1020, 23, 23, 24)] == [
        "EINVAL",
        "EINVAL",
        0,
        "EBUSY",
        "EINVAL",
    ]
    assert on.get(first, PMU, 0, 4) == 23
    assert on.put(second, PMU, 0, 24, 4) == "EINVAL"
    assert on.get(second, PMU, 0, 4) == "ENXIO"
    assert on.attribute(first, SET, PMU, 1) == "ENODEV"
    assert on.attribute(gic, SET, CTRL, INIT) == 0
    assert [on.attribute(vcpu, SET, PMU, 1) for vcpu in (second, first, first)] == ["ENXIO", 0, "EBUSY"]


def test_stolen_time(on: Machine, kvm: Kvm) -> None:
    if not kvm.check_extension(abi.KVM_CAP_STEAL_TIME):
        pytest.skip("this host does not count stolen time")
    vcpu, page = on.vcpu(), kvm.page_size or 4096
    assert on.get(vcpu, PVTIME, 0) == UNSET
    assert [on.put(vcpu, PVTIME, 0, ipa) for ipa in (1, 63, 64, on.size, FILL)] == ["EINVAL"] * 5
    slots = [on.vm.add_memory(at * 0x10_0000, GuestMemory(page), readonly=at == 1) for at in (1, 2)]
    assert on.put(vcpu, PVTIME, 0, 0x10_0000) == "EINVAL"
    assert on.put(vcpu, PVTIME, 0, 0x20_0000 + page) == "EINVAL"
    assert on.put(vcpu, PVTIME, 0, 0x20_0000 + page - 64) == 0
    assert [on.put(vcpu, PVTIME, 0, ipa) for ipa in (0x20_0000, 1)] == ["EEXIST", "EINVAL"]
    assert on.get(vcpu, PVTIME, 0) == 0x20_0000 + page - 64
    assert len(slots) == 2


# ------------------------------------------------------------------------------------------------ handles


def test_handle(kvm: Kvm) -> None:
    with kvm.create_vm(36) as vm:
        vcpu = vm.create_vcpu(4)
        assert isinstance(vcpu, Vcpu)
        assert (vcpu.vcpu_id, vcpu.backend) == (4, kvm.backend)
        vcpu.init(VcpuFeature.PSCI_0_2 | VcpuFeature.POWER_OFF)
        assert vcpu.has_attr(TIMER, 0)
        assert not vcpu.has_attr(TIMER, 9)
        assert vcpu.get_attr(TIMER, 1, 4) == 30
        assert "id=4" in repr(vcpu)
    assert vcpu.get_attr(TIMER, 0, 4) == 27
    vcpu.close()
    with refused(errors.ClosedError, errno.EBADF):
        vcpu.get_attr(TIMER, 0, 4)


def test_vcpu_of_a_closed_vm_is_initialised(kvm: Kvm) -> None:
    with kvm.create_vm(36) as vm:
        first, second, third = (vm.create_vcpu(number) for number in range(3))
        target = vm.preferred_target()
    with first, second, third:
        first.init()
        second.init(target=target)
        with refused(errors.VcpuTargetError, errno.EINVAL, f"available: {target}"):
            third.init(target=99)
        with refused(errors.VcpuFeatureError, errno.ENOENT, "does not know"):
            third.init(1 << 20)
        with refused(errors.VcpuFeatureError, errno.EINVAL, "does not have all of the features, or"):
            third.init(VcpuFeature.PTRAUTH_ADDRESS)
    with refused(errors.ClosedError, errno.EBADF, "this Vcpu is closed", "KVM_ARM_VCPU_INIT"):
        first.init()


def test_closed_vcpu_of_a_vm_names_itself(kvm: Kvm) -> None:
    with kvm.create_vm(36) as vm:
        vcpu = vm.create_vcpu(0)
        vcpu.close()
        with refused(errors.ClosedError, errno.EBADF, "this Vcpu is closed"):
            vcpu.init()
    with refused(errors.ClosedError, errno.EBADF, "this Vm is closed"):
        vm.preferred_target()


def test_target_is_read_once_for_all_vcpus_of_a_vm(kvm: Kvm, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    send = kvm._backend.ioctl_buffer

    def keep(fd: int, request: int, buffer: bytearray) -> int:
        asked.append(request)
        return send(fd, request, buffer)

    monkeypatch.setattr(kvm._backend, "ioctl_buffer", keep)
    with kvm.create_vm(36) as vm, vm.create_vcpu(0) as first, vm.create_vcpu(1) as second:
        for vcpu in (first, second, first):
            vcpu.init()
    assert asked == [abi.KVM_ARM_PREFERRED_TARGET, *[KVM_ARM_VCPU_INIT] * 3]


def test_vm_that_names_no_target_says_so_at_initialisation(kvm: Kvm, monkeypatch: pytest.MonkeyPatch) -> None:
    send = kvm._backend.ioctl_buffer

    def refuse(fd: int, request: int, buffer: bytearray) -> int:
        return -errno.EPERM if request == abi.KVM_ARM_PREFERRED_TARGET else send(fd, request, buffer)

    with kvm.create_vm(36) as vm:
        target = vm.preferred_target()
        monkeypatch.setattr(kvm._backend, "ioctl_buffer", refuse)
        with vm.create_vcpu(0) as vcpu:
            with refused(errors.VcpuError, errno.EPERM, "does not name its CPU"):
                vcpu.init()
            with refused(errors.VcpuTargetError, errno.EINVAL, "preferred_target()"):
                vcpu.init(target=99)
            vcpu.init(target=target)


def test_errors_of_creation_name_their_cause(kvm: Kvm) -> None:
    with kvm.create_vm(36) as vm, vm.create_vcpu(0):
        with refused(errors.VcpuExistsError, errno.EEXIST):
            vm.create_vcpu(0)
        last = vm.check_extension(abi.KVM_CAP_MAX_VCPU_ID) - 1
        with refused(errors.VcpuIdError, errno.EINVAL, f"ids 0 to {last}"):
            vm.create_vcpu(last + 1)
        if vm.has_device_type("vgic-v3"):
            with vm.create_device("vgic-v3") as vgic:
                vgic.set_attr(0, 2, 0x800_0000)
                vgic.set_attr(0, 5, 0x900_0000 | 8 << 52)
                vm.create_vcpu(1).close()
    with kvm.create_vm(36) as vm:
        if vm.has_device_type("vgic-v3"):
            with vm.create_device("vgic-v3") as vgic:
                vgic.set_attr(0, 5, 0x900_0000 | 8 << 52)
                vgic.set_attr(0, 2, 0x900_0000)
                with refused(errors.DeviceOverlapError, errno.EINVAL, "128K for each of 1 vCPUs"):
                    vm.create_vcpu(0)


def test_errors_of_initialisation_name_their_cause(kvm: Kvm) -> None:
    with kvm.create_vm(36) as vm, vm.create_vcpu(0) as vcpu:
        with refused(errors.VcpuTargetError, errno.EINVAL, "leave target to init()"):
            vcpu.init(target=99)
        with refused(errors.VcpuFeatureError, errno.ENOENT, "does not know"):
            vcpu.init(1 << 20)
        if not vm.check_extension(abi.KVM_CAP_ARM_SVE):
            with refused(errors.VcpuFeatureError, errno.EINVAL, "does not have feature 4"):
                vcpu.init(VcpuFeature.SVE)
    with kvm.create_vm(36) as vm, vm.create_vcpu(0) as vcpu:
        vcpu.init()
        with refused(errors.VcpuFeatureError, errno.EINVAL, "an earlier init()"):
            vcpu.init(0)


def test_errors_of_attributes_name_their_cause(kvm: Kvm) -> None:
    with kvm.create_vm(36) as vm, vm.create_vcpu(0) as vcpu:
        with refused(errors.NoVgicError, errno.EINVAL):
            vcpu.set_attr(TIMER, 0, 20, size=4)
        with refused(errors.NoSuchAttributeError, errno.ENODEV):
            vcpu.set_attr(PMU, 0, 20, size=4)
        with refused(errors.NoSuchAttributeError, errno.ENXIO):
            vcpu.get_attr(9, 0)
        with refused(errors.AttributePointerError, errno.EFAULT):
            vcpu.get_attr_raw(TIMER, 0, BAD)
        if kvm.check_extension(abi.KVM_CAP_STEAL_TIME):
            with refused(errors.MisalignedDeviceAddressError, errno.EINVAL):
                vcpu.set_pvtime_ipa(32)
            with refused(errors.NoMemoryThereError, errno.EINVAL):
                vcpu.set_pvtime_ipa(64)
            vm.add_memory(0, GuestMemory(1 << 16))
            vcpu.set_pvtime_ipa(64)
            with refused(errors.AddressAlreadySetError, errno.EEXIST):
                vcpu.set_pvtime_ipa(64)
