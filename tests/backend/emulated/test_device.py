# SPDX-License-Identifier: Apache-2.0
"""Devices of the emulated kernel: types, creation, descriptors, the old requests (kernel-device-spec 1 and 2.0)."""

from __future__ import annotations

import os

import pytest

from kvmipa import errors
from tests.backend.emulated.asking import SPECIFIED, needs_rlimit
from tests.backend.emulated.machines import machine
from tests.device_asking import (
    ADDR,
    BAD,
    DIST,
    FILL,
    GET,
    HAS,
    ITS,
    KVM_ARM_SET_DEVICE_ADDR,
    KVM_CREATE_DEVICE,
    KVM_CREATE_IRQCHIP,
    NR_IRQS,
    REDIST,
    SET,
    TEST,
    UNSET,
    V2,
    V2_CPU,
    V2_DIST,
    V3,
    VFIO,
    Machine,
    name,
)
from tests.forking import in_child, needs_fork

KVM_CHECK_EXTENSION, MAX_VCPUS, MSI_DEVID = 0xAE03, 66, 131


@pytest.mark.parametrize(
    ("gic", "mode", "there"),
    [
        ("v3", "vhe", {VFIO, V3, ITS}),
        ("v2", "vhe", {VFIO, V2}),
        (None, "vhe", {VFIO}),
        ("v3", "protected", {VFIO, V3, ITS}),
        ("v2", "protected", {VFIO}),
    ],
)
def test_types_are_those_of_the_hosts_gic(gic: str | None, mode: str, there: set[int]) -> None:
    with machine("6.12", gic=gic, mode=mode) as on:
        assert {kind for kind in range(40) if on.create(kind, TEST) == 0} == there
        assert {kind for kind in range(40) if on.create(kind) >= 0} == there


def test_test_creates_nothing_and_ignores_other_flags(on: Machine) -> None:
    assert [on.create(V3, 0xFFFF_FFFF) for _ in range(2)] == [0, 0]
    assert on.create(V3, 0xFFFF_FFFE) >= 0
    assert on.create(V3, TEST) == 0


def test_type_comes_after_the_struct_and_before_all_else(on: Machine) -> None:
    assert on.ask(on.fd, KVM_CREATE_DEVICE, BAD) == "EFAULT"
    assert name(on.create(10)) == "ENODEV"


def test_one_vgic_for_ever_and_any_number_of_its(on: Machine) -> None:
    gic = on.create(V3)
    on.backend.close(gic)
    assert name(on.create(V3)) == "EEXIST"
    assert min(on.create(ITS) for _ in range(3)) >= 0


def test_vfio_ends_with_its_descriptor_since_6_1(release: str, on: Machine) -> None:
    vfio = on.create(VFIO)
    assert name(on.create(VFIO)) == "EBUSY"
    on.backend.close(vfio)
    again = on.create(VFIO)
    assert again >= 0 if release in {"6.1", "6.12", "7.3"} else name(again) == "EBUSY"


def test_vfio_has_no_get_and_takes_vfios_files_only(on: Machine) -> None:
    vfio = on.create(VFIO)
    assert on.attribute(vfio, GET, 1, 1, BAD) == "EPERM"
    assert on.ask(vfio, GET, BAD) == "EPERM"
    assert [on.has(vfio, 1, attr) for attr in range(4)] == ["ENXIO", 0, 0, "ENXIO"]
    assert [on.put(vfio, 1, 1, fd, 4) for fd in (on.fd, 0xFFFF_FFFF)] == ["EINVAL", "EBADF"]
    assert [on.put(vfio, 1, 2, fd, 4) for fd in (on.fd, 0xFFFF_FFFF)] == ["ENOENT", "EBADF"]
    assert on.attribute(vfio, SET, 1, 1, BAD) == "EFAULT"
    assert on.attribute(vfio, SET, 0, 1, BAD) == "ENXIO"


@pytest.mark.parametrize("kind", [V3, ITS, VFIO])
def test_other_requests_on_a_device_are_enotty(kind: int, on: Machine) -> None:
    device = on.create(kind)
    assert [on.ask(device, number, BAD) for number in (0, 0xAE00, 0xAE03, 0xC00CAEE0, 0x4010AEAB)] == ["ENOTTY"] * 5


@needs_rlimit
def test_vgic_stays_where_no_descriptor_is_left_and_vfio_does_not(on: Machine) -> None:
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    free = os.open(os.devnull, os.O_RDONLY)
    os.close(free)
    resource.setrlimit(resource.RLIMIT_NOFILE, (free, hard))
    try:
        assert [name(on.create(kind)) for kind in (VFIO, V3)] == ["EMFILE"] * 2
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert name(on.create(V3)) == "EEXIST"
    assert on.create(VFIO) >= 0


@needs_fork
def test_devices_belong_to_the_process_of_their_vm() -> None:
    with machine() as on:
        gic, vcpu = on.create(V3), on.vcpu()
        for fd in (gic, vcpu):
            assert in_child(lambda fd=fd: on.backend.ioctl(fd, 0xAE03, 0)) == -5  # type: ignore[misc]


def test_device_keeps_its_vm_alive() -> None:
    with machine() as on:
        gic = on.create(V3)
        on.vm.close()
        assert on.get(gic, NR_IRQS, 0, 4) == 32


def test_vgic_comes_before_the_first_run(on: Machine) -> None:
    on.vcpu()
    on.backend._descriptors.get(on.fd).vm.vcpus[0].has_run = True
    assert name(on.create(V3)) == "EBUSY"
    assert on.create(ITS) >= 0


@pytest.mark.parametrize(("release", "code"), [("5.10", 22), ("6.12", 17)])
def test_cause_is_the_same_where_the_errno_is_not(release: str, code: int) -> None:
    with machine(release) as on, on.vm.create_device("vgic-v3") as vgic:
        vgic.set_attr(ADDR, REDIST, 0x900_0000)
        with pytest.raises(errors.AddressAlreadySetError) as caught:
            vgic.set_attr(ADDR, REDIST, 0xA00_0000)
        assert caught.value.errno == code


def test_target_is_the_hosts_until_6_12(release: str) -> None:
    with machine(release, midr_el1=0x411F_D070) as on:
        assert on.target() == (5 if release in {"6.12", "7.3"} else 2)
        assert on.init(on.vcpu(), 0, 5) == (0 if release in {"6.12", "7.3"} else "EINVAL")


def test_vgic_limits_the_vcpus_by_its_model(on_v2: Machine) -> None:
    limits = [on_v2.ask(on_v2.fd, KVM_CHECK_EXTENSION, MAX_VCPUS)]
    on_v2.create(V2)
    limits.append(on_v2.ask(on_v2.fd, KVM_CHECK_EXTENSION, MAX_VCPUS))
    assert limits == [8, 8]
    assert [name(on_v2.vcpu(number)) for number in (8, 511)] == ["EINVAL"] * 2


def test_its_wants_device_ids(on: Machine) -> None:
    assert on.ask(on.fd, KVM_CHECK_EXTENSION, MSI_DEVID) == 0
    on.create(ITS)
    assert on.ask(on.fd, KVM_CHECK_EXTENSION, MSI_DEVID) == 1


# ------------------------------------------------------------------------------------------------ old requests


def test_irqchip_is_a_vgic_of_version_2(on_v2: Machine) -> None:
    assert [on_v2.ask(on_v2.fd, KVM_CREATE_IRQCHIP, BAD) for _ in range(2)] == [0, "EEXIST"]
    assert name(on_v2.create(V2)) == "EEXIST"


def test_irqchip_on_other_hosts(release: str, on: Machine) -> None:
    assert on.ask(on.fd, KVM_CREATE_IRQCHIP) == "ENODEV"
    on.create(V3)
    recent = release in {"6.1", "6.12", "7.3"}
    assert on.ask(on.fd, KVM_CREATE_IRQCHIP) == ("ENODEV" if recent else "EEXIST")
    with machine(release, gic=None) as without:
        assert without.ask(without.fd, KVM_CREATE_IRQCHIP) == "ENXIO"
        assert without.ask_struct(without.fd, KVM_ARM_SET_DEVICE_ADDR, "=QQ", 0, 0) == "ENXIO"


def legacy(on: Machine, kind: int, address: int, device: int = 0) -> str | int:
    """KVM_ARM_SET_DEVICE_ADDR."""
    return on.ask_struct(on.fd, KVM_ARM_SET_DEVICE_ADDR, "=QQ", device << 16 | kind, address)


def test_old_addresses_of_a_vgic_of_version_2(on_v2: Machine) -> None:
    assert legacy(on_v2, V2_DIST, 0x800_0000) == "ENODEV"
    gic = on_v2.create(V2)
    assert [legacy(on_v2, kind, 0x800_0000) for kind in (DIST, 3, 4, 5, 6)] == ["ENODEV"] * 5
    assert legacy(on_v2, V2_DIST, 0x800_0000, device=1) == "ENODEV"
    assert [legacy(on_v2, V2_DIST, value) for value in (0x800, 0x800_0000, 0x800_0000)] == ["EINVAL", 0, "EEXIST"]
    assert legacy(on_v2, V2_CPU, 0x801_0000) == 0
    assert [on_v2.get(gic, ADDR, kind) for kind in (V2_DIST, V2_CPU)] == [0x800_0000, 0x801_0000]
    assert on_v2.ask(on_v2.fd, KVM_ARM_SET_DEVICE_ADDR, BAD) == "EFAULT"


def test_old_addresses_of_a_vgic_of_version_3_until_6_1(release: str, on: Machine) -> None:
    gic = on.create(V3)
    recent = release in {"6.1", "6.12", "7.3"}
    assert legacy(on, DIST, 0x800_0000) == ("ENODEV" if recent else 0)
    assert on.get(gic, ADDR, DIST) == (UNSET if recent else 0x800_0000)
    # Bits above those of the device's number.
    assert legacy(on, DIST, 0x900_0000, device=1 << 20) == "ENODEV"


@pytest.mark.parametrize("release", SPECIFIED)
def test_upper_half_of_an_old_identity_is_ignored_since_6_1(release: str) -> None:
    with machine(release, gic="v2") as on:
        on.create(V2)
        assert legacy(on, V2_DIST, 0x800_0000, device=1 << 16) == ("ENODEV" if release == "5.10" else 0)


# ------------------------------------------------------------------------------------------------ attributes of VMs


def smccc(on: Machine, base: int, count: int, action: int, pad: int = 0) -> str | int:
    """KVM_SET_DEVICE_ATTR of the filter."""
    import ctypes
    import struct

    buffer = ctypes.create_string_buffer(struct.pack("=IIBB14x", base, count, action, pad), 24)
    return on.attribute(on.fd, SET, 0, 0, ctypes.addressof(buffer))


@pytest.mark.parametrize("release", ["4.19", "5.10", "6.1", "6.3"])
def test_vms_have_no_attributes_until_6_4(release: str) -> None:
    with machine(release) as on:
        assert [on.attribute(on.fd, request, 0, 0, BAD) for request in (SET, GET, HAS)] == ["EINVAL"] * 3


@pytest.mark.parametrize("release", ["6.4", "6.12", "7.3"])
def test_vms_have_attributes_since_6_4(release: str) -> None:
    with machine(release) as on:
        assert [on.attribute(on.fd, request, 0, 0, BAD) for request in (SET, GET, HAS)] == ["EFAULT", "EINVAL", 0]
        assert [on.attribute(on.fd, SET, *which, BAD) for which in ((1, 0), (0, 1))] == ["ENXIO"] * 2
        assert on.ask(on.fd, HAS, BAD) == "EFAULT"


def test_smccc_filter() -> None:
    with machine() as on:
        bad = ((1, 0, 0), (1, 1, 3), (1, 1, 1, 1), (0xFFFF_FFFF, 2, 1), (0, 0xFFFF_FFFF + 0, 3))
        assert [smccc(on, *values) for values in bad] == ["EINVAL"] * len(bad)
        reserved = ((0x8000_0000, 1, 1), (0x8000_FFFF, 1, 1), (0x7FFF_FFFF, 2, 1), (0xC000_0000, 0x1_0000, 1))
        assert [smccc(on, *values) for values in reserved] == ["EEXIST"] * 4
        good = ((0x8400_0000, 16, 1), (0x8400_0010, 1, 2), (0x8001_0000, 1, 0), (0xFFFF_FFFF, 1, 1))
        assert [smccc(on, *values) for values in good] == [0] * 4
        assert [smccc(on, *values) for values in ((0x8400_000F, 1, 1), (0x83FF_FFFF, 2, 0))] == ["EEXIST"] * 2


def test_pkvm_of_7_3_hides_what_it_cannot_do() -> None:
    with machine("7.3", mode="protected") as on:
        gic = on.create(V3)
        assert on.get(gic, ADDR, DIST, given=FILL) == UNSET
        assert on.attribute(on.fd, HAS, 0, 0) == 0
