# SPDX-License-Identifier: Apache-2.0
"""Devices through the handles, and what was executed on real kernels (kernel-device-spec 2.10), on either kernel."""

from __future__ import annotations

import errno
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest

from kvmipa import errors
from kvmipa.abi import KVM_DEV_VFIO_FILE, KVM_DEV_VFIO_FILE_ADD, KVM_DEV_VFIO_FILE_DEL
from kvmipa.device import Device, DeviceType, Its, Vgic
from tests.device_asking import (
    ADDR,
    BAD,
    CPU_SYSREGS,
    CTRL,
    DIST,
    DIST_REGS,
    GET,
    INIT,
    ITS,
    ITS_ADDR,
    NR_IRQS,
    REDIST,
    REGION,
    SAVE_PENDING,
    SET,
    UNSET,
    V2,
    V3,
    Machine,
    name,
    region,
    release_of,
)

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from kvmipa import Kvm, Vm


@pytest.fixture
def old(kvm: Kvm) -> bool:
    """Whether frames are checked by their first byte only: before 6.1."""
    return release_of(kvm) < (6, 1)


@pytest.fixture
def on(kvm: Kvm) -> Iterator[Machine]:
    """A VM of 36 bits on a host with a GICv3."""
    with Machine(kvm) as machine:
        if machine.create(V3, 1):
            pytest.skip("the host has no GICv3")
        yield machine


@pytest.fixture
def gic(on: Machine) -> int:
    """Its vGICv3."""
    return on.create(V3)


@pytest.fixture
def vm(kvm: Kvm) -> Iterator[Vm]:
    """A VM of 36 bits on a host with a GICv3."""
    with kvm.create_vm(36) as made:
        if not made.has_device_type("vgic-v3"):
            pytest.skip("the host has no GICv3")
        yield made


# ------------------------------------------------------------------------------------------------ executed (2.10)


def test_unset_addresses(on: Machine, gic: int) -> None:
    assert [on.get(gic, ADDR, kind) for kind in (DIST, REDIST)] == [UNSET, UNSET]
    assert on.get(gic, ADDR, REGION, given=0) == "ENOENT"


@pytest.mark.parametrize("kind", [0, 1, ITS_ADDR, 6])
def test_address_of_another_device(kind: int, on: Machine, gic: int) -> None:
    assert on.address(gic, kind, 0x800_0000) == "ENXIO"
    assert on.attribute(gic, SET, ADDR, kind, BAD) == "EFAULT"


# Values are relative to the end of the IPA space where they begin with "LIM".
@pytest.mark.parametrize(
    ("value", "before_6_1", "since_6_1"),
    [
        (0x1000, "EINVAL", "EINVAL"),
        (("LIM", 0), "E2BIG", "E2BIG"),
        (("LIM", 0x1000), "E2BIG", "EINVAL"),
        ((1 << 64) - 0x1_0000, "E2BIG", "EINVAL"),
        (("LIM", -0x1_0000), 0, 0),
    ],
)
def test_distributor(
    value: int | tuple[str, int], before_6_1: str | int, since_6_1: str | int, old: bool, on: Machine, gic: int
) -> None:
    address = value if isinstance(value, int) else on.size + value[1]
    assert on.address(gic, DIST, address) == (before_6_1 if old else since_6_1)


def test_distributor_that_is_set(old: bool, on: Machine, gic: int) -> None:
    last = on.size - 0x1_0000
    assert on.address(gic, DIST, last) == 0
    found = [on.address(gic, DIST, value) for value in (last, on.size, 1)]
    assert found == (["EEXIST", "E2BIG", "EINVAL"] if old else ["EEXIST"] * 3)
    assert on.get(gic, ADDR, DIST) == last


def test_number_of_interrupts(on: Machine, gic: int) -> None:
    assert [on.put(gic, NR_IRQS, 0, number, 4) for number in (1024, 32, 63, 1020, 0, 65)] == ["EINVAL"] * 6
    assert on.get(gic, NR_IRQS, 0, 4) == 32
    assert [on.put(gic, NR_IRQS, 0, number, 4) for number in (992, 64, 1)] == [0, "EBUSY", "EINVAL"]
    assert on.get(gic, NR_IRQS, 0, 4) == 992


def test_initialisation_ends_the_making_of_vcpus(on: Machine, gic: int) -> None:
    assert [on.attribute(gic, SET, CTRL, INIT) for _ in range(2)] == [0, 0]
    assert [name(on.vcpu(number)) for number in (0, 9999)] == ["EBUSY", "EINVAL"]
    assert on.get(gic, NR_IRQS, 0, 4) == 256


def test_saving_pending_tables_before_initialisation(old: bool, on: Machine, gic: int) -> None:
    assert on.attribute(gic, SET, CTRL, SAVE_PENDING) == (0 if old else "ENXIO")


def test_regions_that_cannot_be(on: Machine, gic: int) -> None:
    values = (region(0, 0x800_0000, 0), region(0, 0x800_0000, 1, flags=1), region(1, 0x800_0000, 1))
    assert [on.address(gic, REGION, value) for value in values] == ["EINVAL"] * 3


def test_region_that_ends_beyond_the_ipa_space(old: bool, on: Machine, gic: int) -> None:
    assert on.address(gic, REGION, region(0, on.size - 0x2_0000, 2)) == (0 if old else "E2BIG")
    assert on.address(gic, REGION, region(0, on.size - 0x4_0000, 2)) == ("EINVAL" if old else 0)
    assert on.get(gic, ADDR, REGION, given=256) == on.get(gic, ADDR, REGION, given=0)


def test_region_after_region(on: Machine, gic: int) -> None:
    assert on.address(gic, REGION, region(0, 0x800_0000, 2)) == 0
    assert on.address(gic, REDIST, 0x900_0000) == "EINVAL"
    found = [on.address(gic, REGION, region(index, 0x900_0000, 2)) for index in (0, 2, 1)]
    assert found == ["EINVAL", "EINVAL", 0]


def test_distributor_on_a_region_is_seen_by_the_next_vcpu(on: Machine, gic: int) -> None:
    assert on.address(gic, REGION, region(0, 0x800_0000, 2)) == 0
    assert on.address(gic, DIST, 0x800_0000) == 0
    assert name(on.vcpu(0)) == "EINVAL"
    assert on.address(gic, REGION, region(1, 0x900_0000, 2)) == 0


def test_one_region_for_all_vcpus(old: bool, on: Machine, gic: int) -> None:
    last = on.size - 0x1_0000
    found = [on.address(gic, REDIST, value) for value in (on.size, last, last)]
    assert found == ["E2BIG", 0, "EINVAL" if old else "EEXIST"]
    assert on.address(gic, REGION, region(1, 0x10_0000, 2)) == ("EINVAL" if old else 0)
    assert on.get(gic, ADDR, REGION, given=1) == ("ENOENT" if old else 0x20_0000_0010_0001)
    assert on.vcpu(0) >= 0
    second = on.vcpu(1)
    assert second >= 0 if old else name(second) == "EINVAL"


def test_redistributors_on_the_distributor(old: bool, on: Machine, gic: int) -> None:
    on.vcpu(0)
    assert on.address(gic, DIST, 0x800_0000) == 0
    assert on.address(gic, REDIST, 0x800_0000) == "EINVAL"
    assert on.get(gic, ADDR, REDIST) == (0x800_0000 if old else UNSET)


def test_its_address(old: bool, on: Machine) -> None:
    its = on.create(ITS)
    assert on.attribute(its, SET, ADDR, DIST, BAD) == "ENODEV"
    assert on.get(its, ADDR, DIST) == "ENODEV"
    last = on.size - 0x2_0000
    if old:
        assert on.address(its, ITS_ADDR, on.size - 0x1_0000) == 0
    else:
        found = [on.address(its, ITS_ADDR, value) for value in (on.size - 0x1_0000, last, last)]
        assert found == ["E2BIG", 0, "EEXIST"]


def test_unknown_control_of_an_its(on: Machine, kvm: Kvm) -> None:
    its = on.create(ITS)
    assert on.attribute(its, SET, CTRL, 9) == ("ENXIO" if release_of(kvm) >= (7, 3) else 0)


def test_implementation_of_the_distributor(old: bool, on: Machine, gic: int, kvm: Kvm) -> None:
    on.vcpu(0)
    identity = 0x4B00_243B if old else 0x4B00_343B
    assert on.get(gic, DIST_REGS, 8, 4) == (identity if release_of(kvm) >= (7, 3) else "EBUSY")
    on.attribute(gic, SET, CTRL, INIT)
    assert on.get(gic, DIST_REGS, 8, 4) == identity


def test_unknown_system_register(old: bool, on: Machine, gic: int) -> None:
    on.vcpu(0)
    on.attribute(gic, SET, CTRL, INIT)
    assert on.get(gic, CPU_SYSREGS, 0xFFFF) == ("ENXIO" if old else "ENOENT")
    assert on.has(gic, CPU_SYSREGS, 0xFFFF) == "ENXIO"


def test_second_vgic_and_requests_that_devices_do_not_know(on: Machine, gic: int) -> None:
    assert name(on.create(V3)) == "EEXIST"
    assert [name(on.create(kind)) for kind in (10, 99, 1 << 31)] == ["ENODEV"] * 3
    assert on.ask(gic, 0xAE03) == "ENOTTY"
    assert on.attribute(gic, GET, CTRL, INIT, BAD) == "ENXIO"


# ------------------------------------------------------------------------------------------------ handles


def test_vgic_of_a_virtual_machine_monitor(vm: Vm) -> None:
    with vm.create_device("vgic-v3") as vgic, vm.create_vcpu(0) as first, vm.create_vcpu(1) as second:
        assert isinstance(vgic, Vgic)
        assert (vgic.distributor, vgic.redistributor_regions, vgic.nr_irqs) == (None, [], 32)
        vgic.set_distributor(0x800_0000)
        vgic.add_redistributor_region(0x80A_0000, 1)
        vgic.add_redistributor_region(0x90A_0000, 1)
        vgic.nr_irqs = 128
        first.init()
        second.init()
        vgic.init()
        assert vgic.redistributor_regions == [(0x80A_0000, 1), (0x90A_0000, 1)]
        assert (vgic.distributor, vgic.nr_irqs) == (0x800_0000, 128)
        assert vgic.has_attr(CTRL, INIT)
        assert not vgic.has_attr(CTRL, 77)


def test_its_has_an_address(vm: Vm) -> None:
    with vm.create_device(DeviceType.VGIC_ITS) as its:
        assert isinstance(its, Its)
        assert its.its_address is None
        its.set_its_address(0x808_0000)
        its.init()
        assert its.its_address == 0x808_0000


def test_types_by_number_and_by_name(vm: Vm) -> None:
    assert vm.has_device_type(4)
    assert vm.has_device_type("vfio")
    assert not vm.has_device_type(10)
    with vm.create_device(4) as vfio:
        assert type(vfio) is Device
        assert vfio.device_type is DeviceType.VFIO
        assert "vfio" in repr(vfio)
    with pytest.raises(ValueError, match="vgic-v2, vgic-v3"):
        vm.create_device("vgic-v9")
    with pytest.raises(ValueError, match="has_device_type"):
        vm.create_device("vgic-v3", flags=1)


@contextmanager
def refused(error: type[errors.KvmError], code: int | tuple[int, ...], *words: str) -> Iterator[None]:
    """An error of exactly this class, with the kernel's errno and words in its message."""
    with pytest.raises(errors.KvmError) as caught:
        yield
    found = caught.value
    assert type(found) is error
    assert found.errno in ((code,) if isinstance(code, int) else code)
    assert [word for word in words if word not in str(found)] == []


def test_errors_of_addresses_name_their_cause(vm: Vm) -> None:
    limit = 1 << vm.geometry.ipa_bits
    with vm.create_device("vgic-v3") as vgic:
        assert isinstance(vgic, Vgic)
        with refused(errors.DeviceBeyondIpaSpaceError, errno.E2BIG, "0x10000 bytes beyond the VM's IPA space of 2^"):
            vgic.set_distributor(limit)
        with refused(errors.DeviceBeyondIpaSpaceError, errno.E2BIG, f"a VM of {vm.geometry.ipa_bits + 1} bits"):
            vgic.set_redistributors(limit)
        with refused(errors.MisalignedDeviceAddressError, errno.EINVAL, "use 0x10000 or 0x20000"):
            vgic.set_distributor(0x1_1000)
        with refused(errors.NoSuchAttributeError, errno.ENXIO, "has_attr"):
            vgic.set_cpu_interface(0)
        vgic.set_distributor(0x800_0000)
        with refused(errors.AddressAlreadySetError, errno.EEXIST, "0x8000000"):
            vgic.set_distributor(0x800_0000)
        with refused(errors.RedistributorRegionError, errno.EINVAL, "without frames"):
            vgic.add_redistributor_region(0x900_0000, 0)
        with refused(errors.RedistributorRegionError, errno.EINVAL, "region 1 is not the next one"):
            vgic.add_redistributor_region(0x900_0000, 1, index=1)
        vgic.add_redistributor_region(0x900_0000, 2)
        with refused(errors.DeviceOverlapError, errno.EINVAL, "regions at 0x9000000 for 2"):
            vgic.add_redistributor_region(0x902_0000, 2)
        with refused(errors.RedistributorRegionError, errno.EINVAL, "regions of their own"):
            vgic.set_redistributors(0xA00_0000)
        with refused(errors.RedistributorRegionError, errno.ENOENT):
            vgic.get_attr(ADDR, REGION, given=5)
        for base in (0x1000, 1 << 52, -0x1_0000):
            with pytest.raises(ValueError, match="multiple of 64K"):
                vgic.add_redistributor_region(base, 1)


def test_one_region_twice(vm: Vm) -> None:
    with vm.create_device("vgic-v3") as vgic:
        assert isinstance(vgic, Vgic)
        vgic.set_redistributors(0x900_0000)
        assert vgic.redistributor_regions[:1] == [(0x900_0000, 0)]
        with refused(errors.AddressAlreadySetError, (errno.EEXIST, errno.EINVAL), "0x9000000 for all"):
            vgic.set_redistributors(0xA00_0000)


def test_errors_of_a_vgic_that_is_initialised(vm: Vm) -> None:
    with vm.create_device("vgic-v3") as vgic, vm.create_vcpu(0) as vcpu:
        assert isinstance(vgic, Vgic)
        with refused(errors.VgicNotInitialisedError, errno.EBUSY, "init()"):
            vgic.get_attr(DIST_REGS, 0x80, 4)
        with refused(errors.NrIrqsError, errno.EINVAL, "1024", "64 to 992"):
            vgic.nr_irqs = 1024
        vgic.init()
        with refused(errors.NrIrqsAlreadySetError, errno.EBUSY, "256 interrupts"):
            vgic.nr_irqs = 64
        with refused(errors.VgicInitialisedError, errno.EBUSY, "create all vCPUs"):
            vm.create_vcpu(1)
        with refused(errors.NoSuchVcpuError, errno.EINVAL, "[0]"):
            vgic.get_attr(5, 7 << 32, 4)
        with refused(errors.AttributePointerError, errno.EFAULT):
            vgic.set_attr_raw(ADDR, DIST, BAD)
        with refused(errors.AttributePointerError, errno.EFAULT):
            vgic.get_attr_raw(NR_IRQS, 0, BAD)
        assert vcpu.vcpu_id == 0


def test_errors_of_creation(vm: Vm) -> None:
    with vm.create_device("vgic-v3"), vm.create_device("vfio"):
        with refused(errors.VgicExistsError, errno.EEXIST, "one vGIC for each VM"):
            vm.create_device("vgic-v3")
        with refused(errors.DeviceExistsError, errno.EBUSY, "vfio"):
            vm.create_device("vfio")
        with refused(errors.DeviceTypeUnsupportedError, errno.ENODEV, "type 10"):
            vm.create_device(10)
        if not vm.has_device_type(V2):
            with refused(errors.DeviceTypeUnsupportedError, errno.ENODEV, "vgic-v2"):
                vm.create_device("vgic-v2")
        with refused(errors.NoSuchAttributeError, errno.ENODEV, "Vgic.set_distributor()"):
            vm.set_device_addr(9, 0x800_0000)


def test_irqchip_is_a_vgic_of_version_2(kvm: Kvm) -> None:
    with kvm.create_vm(36) as vm:
        if vm.has_device_type("vgic-v2"):
            vm.create_irqchip()
            vm.set_device_addr(0, 0x800_0000)
            with refused(errors.AddressAlreadySetError, errno.EEXIST):
                vm.set_device_addr(0, 0x800_0000)
            with refused(errors.MisalignedDeviceAddressError, errno.EINVAL):
                vm.set_device_addr(1, 0x800)
        else:
            with refused(errors.DeviceTypeUnsupportedError, (errno.ENODEV, errno.ENXIO), "KVM_CREATE_IRQCHIP"):
                vm.create_irqchip()


def test_errors_of_vfio_are_of_its_descriptors(kvm: Kvm, tmp_path: Path) -> None:
    with (tmp_path / "file").open("w") as file, kvm.create_vm(36) as vm, vm.create_device("vfio") as vfio:
        number, unused = file.fileno(), 1 << 30
        for attr in (KVM_DEV_VFIO_FILE_ADD, KVM_DEV_VFIO_FILE_DEL):
            with refused(errors.VfioFileError, errno.EBADF, f"descriptor {unused} is not open"):
                vfio.set_attr(KVM_DEV_VFIO_FILE, attr, unused, size=4)
        with refused(errors.VfioFileError, errno.EINVAL, f"descriptor {number} is not VFIO's"):
            vfio.set_attr(KVM_DEV_VFIO_FILE, KVM_DEV_VFIO_FILE_ADD, number, size=4)
        with refused(errors.VfioFileError, errno.ENOENT, f"descriptor {number}", "not added"):
            vfio.set_attr(KVM_DEV_VFIO_FILE, KVM_DEV_VFIO_FILE_DEL, number, size=4)
        with refused(errors.AttributeNotReadableError, errno.EPERM, "not be read"):
            vfio.get_attr(KVM_DEV_VFIO_FILE, KVM_DEV_VFIO_FILE_ADD)
        with refused(errors.AttributePointerError, errno.EFAULT):
            vfio.set_attr_raw(KVM_DEV_VFIO_FILE, KVM_DEV_VFIO_FILE_ADD, BAD)
        # What a vGIC has in these groups.
        for group in (ADDR, NR_IRQS, CTRL):
            with refused(errors.NoSuchAttributeError, errno.ENXIO, f"group {group}"):
                vfio.set_attr(group, 0, 0)
    with refused(errors.ClosedError, errno.EBADF, "this Device is closed"):
        vfio.set_attr(KVM_DEV_VFIO_FILE, KVM_DEV_VFIO_FILE_ADD, number, size=4)


def test_device_outlives_its_vm_and_closes(kvm: Kvm) -> None:
    with kvm.create_vm(36) as vm:
        if not vm.has_device_type("vgic-v3"):
            pytest.skip("the host has no GICv3")
        vgic = vm.create_device("vgic-v3")
    assert vgic.get_attr(NR_IRQS, 0, 4) == 32
    vgic.close()
    assert vgic.closed
    with refused(errors.ClosedError, errno.EBADF):
        vgic.get_attr(NR_IRQS, 0, 4)
    with refused(errors.ClosedError, errno.EBADF):
        vm.create_device("vgic-v3")


def test_values_are_what_they_fit(vm: Vm) -> None:
    with vm.create_device("vgic-v3") as vgic:
        vgic.set_attr(ADDR, DIST, (0x800_0000).to_bytes(8, "little"))
        assert vgic.get_attr(ADDR, DIST) == 0x800_0000
        with pytest.raises(OverflowError):
            vgic.set_attr(NR_IRQS, 0, 1 << 32, size=4)


def test_address_of_an_its_stays_set_where_the_bus_has_no_room_for_it(on: Machine) -> None:
    its, last = on.create(ITS), on.create(ITS)
    for number in range(999):
        assert on.ask_struct(on.fd, 0x4010AE67, "=QII", number * 16, 16, 0) == 0
    assert on.address(its, ITS_ADDR, 0x800_0000) == 0
    assert on.address(last, ITS_ADDR, 0x900_0000) == "ENOSPC"
    assert on.get(last, ADDR, ITS_ADDR) == 0x900_0000
