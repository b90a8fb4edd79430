# SPDX-License-Identifier: Apache-2.0
"""Addresses and regions of the emulated kernel's vGICs in every release (kernel-device-spec 2.1 to 2.6)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hypothesis import given
from hypothesis import strategies as st

from kvmipa.backend.emulated.vgic.frames import UNDEFINED, is_in_range, overlap, wraps
from tests.backend.emulated.machines import SINCE_6_1, initialised, machine
from tests.device_asking import (
    ADDR,
    BAD,
    CTRL,
    DIST,
    GET,
    INIT,
    REDIST,
    REDIST_REGS,
    REGION,
    SET,
    UNSET,
    V2,
    V2_CPU,
    V2_DIST,
    V3,
    name,
    region,
)

if TYPE_CHECKING:
    from tests.device_asking import Machine


def test_addresses_of_version_2(release: str, on_v2: Machine) -> None:
    gic = on_v2.create(V2)
    assert on_v2.address(gic, DIST, 0x800_0000) == "ENXIO"
    assert on_v2.address(gic, V2_CPU, on_v2.size - 0x1000) == ("E2BIG" if release in SINCE_6_1 else 0)
    assert on_v2.address(gic, V2_DIST, 0x1800) == "EINVAL"
    assert on_v2.address(gic, V2_DIST, on_v2.size - 0x1000) == 0
    assert on_v2.get(gic, ADDR, V2_DIST) == on_v2.size - 0x1000


def test_get_reads_the_value_first_until_6_1(release: str, on: Machine, gic: int) -> None:
    # A wrong kind is found first only where nothing is read.
    assert on.attribute(gic, GET, ADDR, V2_DIST, BAD) == ("ENXIO" if release in SINCE_6_1 else "EFAULT")
    assert on.attribute(gic, GET, ADDR, REGION, BAD) == "EFAULT"


def test_addresses_can_be_set_after_initialisation(on: Machine) -> None:
    gic = initialised(on)
    assert on.address(gic, DIST, 0x800_0000) == 0
    assert on.address(gic, REDIST, 0x900_0000) == 0


def test_regions_after_the_one_for_all(release: str, on: Machine, gic: int) -> None:
    assert on.address(gic, REDIST, 0x900_0000) == 0
    recent = release in SINCE_6_1
    assert on.address(gic, REGION, region(0, 0xA00_0000, 1)) == "EINVAL"
    assert on.address(gic, REGION, region(1, 0xA00_0000, 1)) == (0 if recent else "EINVAL")
    assert on.address(gic, REDIST, 0xB00_0000) == "EINVAL"


def test_index_of_a_region_is_a_byte(on: Machine, gic: int) -> None:
    assert on.address(gic, REGION, region(256, 0x900_0000, 1)) == 0
    assert on.get(gic, ADDR, REGION, given=0xF00) == region(0, 0x900_0000, 1)


def test_region_that_fails_at_a_vcpu_goes_again_since_6_1(release: str, on: Machine, gic: int) -> None:
    on.vcpu()
    assert on.address(gic, DIST, 0x800_0000) == 0
    assert on.address(gic, REGION, region(0, 0x7FF_0000, 2)) == "EINVAL"
    assert on.get(gic, ADDR, REGION, given=0) == ("ENOENT" if release in SINCE_6_1 else region(0, 0x7FF_0000, 2))


def test_frames_come_in_the_order_of_regions(release: str, on: Machine, gic: int) -> None:
    fds = [on.vcpu(number) for number in range(3)]
    assert [on.init(fd) for fd in fds] == [0] * 3
    assert on.address(gic, DIST, 0x800_0000) == 0
    assert on.address(gic, REGION, region(0, 0x900_0000, 2)) == 0
    assert on.address(gic, REGION, region(1, 0xA00_0000, 2)) == 0
    assert on.attribute(gic, SET, CTRL, INIT) == 0
    last = [on.get(gic, REDIST_REGS, number << 32 | 8, 4) for number in range(3)]
    seen = 0x10 if release in SINCE_6_1 else 0
    assert last == [0, 0x100 | seen, 0x200 | seen]


def test_region_next_to_another_hides_its_end(release: str, on: Machine, gic: int) -> None:
    for number in range(2):
        assert on.init(on.vcpu(number)) == 0
    assert on.address(gic, REGION, region(0, 0x900_0000, 1)) == 0
    assert on.address(gic, REGION, region(1, 0x902_0000, 1)) == 0
    assert on.attribute(gic, SET, CTRL, INIT) == 0
    seen = 0x10 if release in SINCE_6_1 else 0
    assert [on.get(gic, REDIST_REGS, number << 32 | 8, 4) for number in range(2)] == [0, 0x100 | seen]


def test_bus_is_full_at_1000_devices() -> None:
    with machine() as on:
        gic = on.create(V3)
        for number in range(999):
            assert on.ask_struct(on.fd, 0x4010AE67, "=QII", number * 16, 16, 0) == 0
        assert on.address(gic, REGION, region(0, 0x900_0000, 8)) == 0
        assert on.vcpu(0) >= 0
        assert name(on.vcpu(1)) == "ENOSPC"


u64 = st.integers(0, (1 << 64) - 1)


@given(base=u64, size=st.integers(0, 1 << 34), other=u64, other_size=st.integers(1, 1 << 34))
def test_ranges_that_do_not_wrap_overlap_as_sets_do(base: int, size: int, other: int, other_size: int) -> None:
    if wraps(base, size) or wraps(other, other_size) or not size:
        return
    expected = max(base, other) < min(base + size, other + other_size)
    assert overlap(base, size, other, other_size) == expected == overlap(other, other_size, base, size)


@given(frame=st.integers(0, 1 << 22), size=st.integers(0, 64))
def test_range_is_good_if_it_is_all_in_the_ipa_space(frame: int, size: int) -> None:
    with machine("6.12") as on:
        vm = on.backend._descriptors.get(on.fd).vm
        address, length = frame << 16, size << 16
        expected = address < on.size and address + length <= on.size
        assert is_in_range(vm, address, 1 << 16, length) == expected
        assert not is_in_range(vm, address | 1, 1 << 16, length)
        assert not is_in_range(vm, UNDEFINED & ~0xFFFF, 1 << 16, 0x1_0000)


def test_unset_addresses_of_version_2(on_v2: Machine) -> None:
    gic = on_v2.create(V2)
    assert [on_v2.get(gic, ADDR, kind) for kind in (V2_DIST, V2_CPU)] == [UNSET, UNSET]
