# SPDX-License-Identifier: Apache-2.0
"""vCPUs of the emulated kernel in every release (kernel-device-spec 3 and 4.1 to 4.3)."""

from __future__ import annotations

import ctypes
import struct
from typing import TYPE_CHECKING

import pytest

from tests.backend.emulated.machines import machine
from tests.device_asking import BAD, CTRL, INIT, KVM_ARM_VCPU_FINALIZE, PMU, SET, TIMER, V3, Machine, name, region

if TYPE_CHECKING:
    from collections.abc import Iterator

# Registers of QEMU's largest CPU: AArch32, SVE, PMUv3, pointer authentication.
ABLE = {
    "id_aa64pfr0_el1": 0x1101_0011_2111_0222,
    "id_aa64dfr0_el1": 0x1030_5609,
    "id_aa64isar1_el1": 0x11_1111_1021_1102,
}
EL1_32BIT, PSCI_0_2, PMU_V3, SVE, ADDRESS, GENERIC = (1 << bit for bit in range(1, 7))
OF_THE_VM = {"6.12", "7.3"}


@pytest.fixture
def on(release: str) -> Iterator[Machine]:
    """A VM of each, on a host that has every feature."""
    with machine(release, **ABLE) as made:
        yield made


# ------------------------------------------------------------------------------------------------ creation


@pytest.mark.parametrize(
    ("number", "until_6_12", "since_6_12"),
    [
        (511, 0, 0),
        (512, "EINVAL", "EINVAL"),
        (1 << 32 | 1, 0, "EINVAL"),
        (1 << 32 | 512, "EINVAL", "EINVAL"),
        ((1 << 64) - 1, "EINVAL", "EINVAL"),
    ],
)
def test_id(number: int, until_6_12: str | int, since_6_12: str | int, release: str, on: Machine) -> None:
    found = on.vcpu(number)
    assert (0 if found >= 0 else name(found)) == (since_6_12 if release in OF_THE_VM else until_6_12)


def test_order_of_refusals(release: str, on: Machine) -> None:
    gic = on.create(V3)
    on.vcpu(0)
    on.attribute(gic, SET, CTRL, INIT)
    assert [name(on.vcpu(number)) for number in (0, 1, 511, 512)] == [
        "EEXIST" if release == "7.3" else "EBUSY",
        "EBUSY",
        "EBUSY",
        "EINVAL",
    ]


def test_id_stays_in_use(on: Machine) -> None:
    on.backend.close(on.vcpu(0))
    assert name(on.vcpu(0)) == "EEXIST"


def test_gicv2_host_has_8(release: str) -> None:
    with machine(release, gic="v2") as on:
        assert [name(on.vcpu(number)) for number in (8, 512)] == ["EINVAL"] * 2
        assert min(on.vcpu(number) for number in range(8)) >= 0
        # Which of the two reasons it is, only 7.3 tells.
        assert name(on.vcpu(0)) == ("EINVAL" if release in {"6.1", "6.12", "7.3"} else "EEXIST")


def test_frames_of_vcpus_that_exist_are_used_up_until_7_3(release: str, on: Machine) -> None:
    gic = on.create(V3)
    assert on.address(gic, 5, region(0, 0x900_0000, 2)) == 0
    on.vcpu(0)
    assert name(on.vcpu(0)) == "EEXIST"
    on.vcpu(1)
    vm = on.backend._descriptors.get(on.fd).vm
    assert (vm.vcpus[1].frame is not None) == (release == "7.3")


# ------------------------------------------------------------------------------------------------ initialisation


def test_every_feature_of_the_host(release: str, on: Machine) -> None:
    features = PSCI_0_2 | PMU_V3 | SVE | ADDRESS | GENERIC
    vcpu = on.vcpu()
    if release in {"4.19", "4.20"}:
        # SVE and pointer authentication in guests are of 5.2.
        assert on.init(vcpu, features) == "ENOENT"
        return
    assert on.init(vcpu, features) == 0
    what = ctypes.c_int(4)
    assert [on.ask(vcpu, KVM_ARM_VCPU_FINALIZE, ctypes.addressof(what)) for _ in range(2)] == [0, "EPERM"]
    what.value = 5
    assert on.ask(vcpu, KVM_ARM_VCPU_FINALIZE, ctypes.addressof(what)) == "EINVAL"


@pytest.mark.parametrize(("release", "unknown"), [("4.19", True), ("5.1", True), ("5.2", False)])
def test_finalising_is_known_since_5_2(release: str, *, unknown: bool) -> None:
    with machine(release, **ABLE) as on:
        # A vCPU that is not initialised says so first.
        assert on.ask(on.vcpu(), KVM_ARM_VCPU_FINALIZE, BAD) == ("EINVAL" if unknown else "ENOEXEC")


@pytest.mark.parametrize("features", [SVE, ADDRESS | GENERIC])
def test_features_that_came_with_5_2(features: int, release: str) -> None:
    nothing = {"id_aa64pfr0_el1": 0x11, "id_aa64isar1_el1": 0}
    with machine(release, **nothing) as on:
        assert on.init(on.vcpu(), features) == ("ENOENT" if release in {"4.19", "4.20"} else "EINVAL")


@pytest.mark.parametrize("features", [PMU_V3, EL1_32BIT])
def test_features_that_the_host_does_not_have(features: int, release: str) -> None:
    nothing = {"id_aa64dfr0_el1": 0xF06, "id_aa64pfr0_el1": 0x11, "id_aa64isar1_el1": 0}
    with machine(release, **nothing) as on:
        vcpu = on.vcpu()
        assert on.init(vcpu, features) == "EINVAL"
        assert on.init(vcpu, PSCI_0_2) == 0


def test_features_that_were_taken_stay_until_6_12(release: str, on: Machine) -> None:
    vcpu = on.vcpu()
    assert on.init(vcpu, PSCI_0_2 | 1 << 20) == "ENOENT"
    assert on.init(vcpu, 0) == 0
    # Whether it has PSCI_0_2: only the same features again are taken.
    assert on.init(vcpu, PSCI_0_2) == ("EINVAL" if release in OF_THE_VM else 0)


def test_width_of_el1(release: str, on: Machine) -> None:
    first, second = on.vcpu(0), on.vcpu(1)
    of_all = release not in {"6.1", "6.12", "7.3"}
    # Until 6.1 it has to agree with vCPUs that were not even initialised.
    assert on.init(first, EL1_32BIT) == ("EINVAL" if of_all else 0)
    assert on.init(second, 0) == (0 if of_all else "EINVAL")
    assert on.init(second, EL1_32BIT) == ("EINVAL" if of_all else 0)


def test_one_vcpu_of_32_bits(on: Machine) -> None:
    assert on.init(on.vcpu(), EL1_32BIT) == 0


def test_failed_vcpu_settles_the_width_in_6_1(release: str, on: Machine) -> None:
    vcpu = on.vcpu()
    assert on.init(vcpu, ADDRESS) == ("ENOENT" if release in {"4.19", "4.20"} else "EINVAL")
    assert on.init(vcpu, EL1_32BIT) == ("EINVAL" if release == "6.1" else 0)


@pytest.mark.parametrize("release", ["6.1", "6.12", "7.3"])
def test_memory_tags_and_32_bits(release: str) -> None:
    with machine(release, **ABLE, id_aa64pfr1_el1=0x200) as on:
        on.vm.enable_cap(205)
        assert on.init(on.vcpu(), EL1_32BIT) == "EINVAL"


def test_nested_guests_of_7_3() -> None:
    el2 = 1 << 7
    with machine("7.3", **ABLE) as on:
        assert on.init(on.vcpu(), el2) == "EINVAL"
    with machine("7.3", **ABLE, mode="nested") as on:
        assert on.init(on.vcpu(0), el2 | EL1_32BIT) == "EINVAL"
        assert on.init(on.vcpu(1), el2) == 0


# ------------------------------------------------------------------------------------------------ attributes


@pytest.mark.parametrize(("release", "number"), [("6.3", 2), ("6.4", 4)])
def test_timers_of_a_guests_el2_since_6_4(release: str, number: int) -> None:
    with machine(release) as on:
        vcpu = on.vcpu()
        assert [on.has(vcpu, TIMER, attr) for attr in range(5)] == [0] * number + ["ENXIO"] * (5 - number)


def test_timers_of_vcpus_to_come(release: str, on: Machine) -> None:
    on.create(V3)
    vcpus = [on.vcpu(number) for number in range(2)]
    assert on.put(vcpus[1], TIMER, 1, 20, 4) == 0
    vcpus.append(on.vcpu(2))
    assert [on.get(vcpu, TIMER, 1, 4) for vcpu in vcpus] == [20, 20, 20 if release in OF_THE_VM else 30]


def test_pmu_is_the_vms_since_6_12(release: str, on: Machine) -> None:
    first, second = on.vcpu(0), on.vcpu(1)
    assert on.init(first, PMU_V3) == 0
    assert on.has(second, PMU, 0) == (0 if release in OF_THE_VM else "ENXIO")


def test_pmu_interrupts_are_one_ppi_or_an_spi_each(on: Machine) -> None:
    gic = on.create(V3)
    vcpus = [on.vcpu(number) for number in range(3)]
    assert [on.init(vcpu, PMU_V3) for vcpu in vcpus] == [0] * 3
    found = [on.put(vcpu, PMU, 0, number, 4) for vcpu, number in zip(vcpus, (40, 40, 41), strict=True)]
    assert found == [0, "EINVAL", 0]
    assert on.put(vcpus[1], PMU, 0, 23, 4) == "EINVAL"
    assert on.put(vcpus[1], PMU, 0, 400, 4) == 0
    on.attribute(gic, SET, CTRL, INIT)
    assert [on.attribute(vcpu, SET, PMU, 1) for vcpu in vcpus] == [0, "EINVAL", 0]


def test_pmu_without_a_vgic(on: Machine) -> None:
    vcpu = on.vcpu()
    assert on.init(vcpu, PMU_V3) == 0
    assert [on.put(vcpu, PMU, 0, 23, 4), on.get(vcpu, PMU, 0, 4)] == ["EINVAL", "EINVAL"]
    assert [on.attribute(vcpu, SET, PMU, 1) for _ in range(2)] == [0, "EBUSY"]


def pmu_filter(on: Machine, vcpu: int, base: int, count: int, action: int) -> str | int:
    """KVM_ARM_VCPU_PMU_V3_FILTER."""
    return on.put(vcpu, PMU, 2, int.from_bytes(struct.pack("=HHB3x", base, count, action), "little"))


@pytest.mark.parametrize(("version", "events"), [(0x1, 1 << 10), (0x6, 1 << 16)])
def test_pmu_filter(version: int, events: int, release: str) -> None:
    with machine(release, id_aa64dfr0_el1=0x6 | version << 8) as on:
        vcpu = on.vcpu()
        assert on.init(vcpu, PMU_V3) == 0
        assert [pmu_filter(on, vcpu, events - 1, count, 0) for count in (1, 2)] == [0, "EINVAL"]
        assert [pmu_filter(on, vcpu, 0, 1, action) for action in (1, 2)] == [0, "EINVAL"]


def test_pmu_that_is_chosen(release: str, on: Machine) -> None:
    vcpu = on.vcpu()
    strict = PMU_V3 | (1 << 9 if release == "7.3" else 0)
    assert on.init(vcpu, strict) == 0
    if release == "7.3":
        assert on.attribute(vcpu, SET, PMU, 1) == "ENXIO"
        assert pmu_filter(on, vcpu, 0, 1, 0) == "ENXIO"
        assert on.put(vcpu, PMU, 4, 1, 4) == "EINVAL"
    number = {"6.1": 8, "6.12": 10, "7.3": 10}.get(release)
    assert on.put(vcpu, PMU, 3, number or 8, 4) == (0 if number else "ENXIO")
    assert on.put(vcpu, PMU, 3, 77, 4) == "ENXIO"
    counters = [on.put(vcpu, PMU, 4, count, 4) for count in (0, 6, 7, 0xFFFF_FFFF)]
    assert counters == ([0, 0, "EINVAL", "EINVAL"] if release == "7.3" else ["ENXIO"] * 4)
    assert on.attribute(vcpu, SET, PMU, 1) == 0


def test_statistics(release: str, on: Machine) -> None:
    found = on.backend.ioctl(on.vcpu(), 0xAECE, 0)
    if release in {"6.1", "6.12", "7.3"}:
        assert on.ask(found, 0xAE03) == "ENOTTY"
        on.backend.close(found)
    else:
        assert name(found) == "EINVAL"
