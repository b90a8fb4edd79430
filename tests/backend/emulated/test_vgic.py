# SPDX-License-Identifier: Apache-2.0
"""The vGIC of the emulated kernel in every release: addresses, regions, registers (kernel-device-spec 2)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvmipa.backend.emulated.frames import UNDEFINED, is_in_range, overlap, wraps
from kvmipa.backend.emulated.vgic_registers import V3_REDISTRIBUTOR, V3_REDISTRIBUTOR_3, search
from tests.backend.emulated.asking import RELEASES
from tests.backend.emulated.test_device import machine
from tests.device_asking import (
    ADDR,
    BAD,
    CPU_REGS,
    CPU_SYSREGS,
    CTRL,
    DIST,
    DIST_REGS,
    GET,
    INIT,
    ITS,
    LEVEL_INFO,
    MAINT_IRQ,
    NR_IRQS,
    REDIST,
    REDIST_REGS,
    REGION,
    SAVE_PENDING,
    SET,
    UNSET,
    V2,
    V2_CPU,
    V2_DIST,
    V3,
    Machine,
    name,
    region,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

SINCE_6_1 = {"6.1", "6.12", "7.3"}


@pytest.fixture(params=RELEASES)
def release(request: pytest.FixtureRequest) -> str:
    """Each release that behaves in its own way."""
    return str(request.param)


@pytest.fixture
def on(release: str) -> Iterator[Machine]:
    """A VM of each."""
    with machine(release) as made:
        yield made


@pytest.fixture
def gic(on: Machine) -> int:
    """Its vGICv3."""
    return on.create(V3)


@pytest.fixture
def on_v2(release: str) -> Iterator[Machine]:
    """A VM of each on a host with a GICv2."""
    with machine(release, gic="v2") as made:
        yield made


def initialised(on: Machine, vcpus: int = 1, kind: int = V3) -> int:
    """A vGIC that is initialised, with vCPUs that are."""
    gic = on.create(kind)
    for number in range(vcpus):
        assert on.init(on.vcpu(number)) == 0
    assert on.attribute(gic, SET, CTRL, INIT) == 0
    return gic


# ------------------------------------------------------------------------------------------------ which there are


def test_attributes_of_version_3(release: str, on: Machine, gic: int) -> None:
    on.vcpu()
    there = {(group, attr) for group in range(12) for attr in range(9) if on.has(gic, group, attr) == 0}
    addresses = {(ADDR, DIST), (ADDR, REDIST), (ADDR, REGION)}
    registers = {(DIST_REGS, 0), (DIST_REGS, 4), (DIST_REGS, 8), (REDIST_REGS, 0), (REDIST_REGS, 4), (REDIST_REGS, 8)}
    anything = {(NR_IRQS, attr) for attr in range(9)} | {(LEVEL_INFO, attr) for attr in range(9)}
    if release == "7.3":
        anything |= {(MAINT_IRQ, attr) for attr in range(9)}
    assert there == addresses | registers | anything | {(CTRL, INIT), (CTRL, SAVE_PENDING)}


def test_attributes_of_version_2(on_v2: Machine) -> None:
    gic = on_v2.create(V2)
    on_v2.vcpu()
    there = {(group, attr) for group in range(12) for attr in range(4) if on_v2.has(gic, group, attr) == 0}
    numbers = {(NR_IRQS, attr) for attr in range(4)}
    assert there == {(ADDR, V2_DIST), (ADDR, V2_CPU), (DIST_REGS, 0), (CPU_REGS, 0), (CTRL, INIT)} | numbers


def test_unknown_groups(on: Machine, gic: int) -> None:
    for group in (CPU_REGS, 8, 10, 99):
        assert on.attribute(gic, SET, group, 0, BAD) == "ENXIO"
        assert on.attribute(gic, GET, group, 0, BAD) == "ENXIO"
    assert on.attribute(gic, GET, CTRL, INIT, BAD) == "ENXIO"
    assert on.attribute(gic, SET, CTRL, 7, BAD) == "ENXIO"


# ------------------------------------------------------------------------------------------------ addresses


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


# ------------------------------------------------------------------------------------------------ registers


def test_registers_of_an_idle_vgic(release: str, on: Machine) -> None:
    gic = initialised(on, vcpus=2)
    revision = 3 if release in SINCE_6_1 else 2
    known = {
        0x0: 0x50,
        0x4: 0x0048_0007,
        0x8: 0x4B00_043B | revision << 12,
        0xC: 0,
        0x10: 0xFFFF_FFFF,
        # Of private interrupts there is nothing in the distributor; SPIs are of group 1, and edge-triggered.
        0x80: 0,
        0x84: 0xFFFF_FFFF,
        0x104: 0,
        0x420: 0,
        0xC00: 0,
        0xC08: 0xAAAA_AAAA,
        0x6100: 0,
        0xFFE8: 0x3B,
    }
    assert {offset: on.get(gic, DIST_REGS, offset, 4) for offset in known} == known
    redistributor = {
        0x0: 6 if revision == 3 else 0,
        0x4: 0x4B00_043B,
        0x8: 0x100,
        0xC: 1,
        0x70: 0,
        0x78: 0x580,
        0xFFE8: 0x3B,
        0x1_0080: 0xFFFF_FFFF,
        0x1_0100: 0xFFFF,
        0x1_0C00: 0xAAAA_AAAA,
        0x1_0C04: 0,
    }
    assert {offset: on.get(gic, REDIST_REGS, 1 << 32 | offset, 4) for offset in redistributor} == redistributor


def test_its_shows_in_the_registers(on: Machine) -> None:
    gic = on.create(V3)
    on.create(ITS)
    on.init(on.vcpu())
    on.attribute(gic, SET, CTRL, INIT)
    assert on.get(gic, DIST_REGS, 4, 4) == 0x007A_0007
    assert on.get(gic, REDIST_REGS, 0x70, 4) == 0x580
    typer = on.get(gic, REDIST_REGS, 8, 4)
    assert isinstance(typer, int)
    assert typer & 1


def test_what_is_not_there_reads_as_zero(on: Machine) -> None:
    gic = initialised(on)
    # No register, one of interrupts that the VM does not have, odd offsets; and what Linux's own search misses.
    for group, offset in ((DIST_REGS, 0x14), (DIST_REGS, 0x80 + 32), (DIST_REGS, 1), (REDIST_REGS, 0x10)):
        assert on.has(gic, group, offset) == "ENXIO"
        assert on.get(gic, group, offset, 4) == 0
        assert on.put(gic, group, offset, 0xFFFF_FFFF, 4) == 0
        assert on.get(gic, group, offset, 4) == 0
    assert on.attribute(gic, SET, DIST_REGS, 0x14, BAD) == "EFAULT"


@pytest.mark.parametrize("table", [V3_REDISTRIBUTOR, V3_REDISTRIBUTOR_3])
def test_search_finds_all_but_the_one_out_of_order(table: tuple[object, ...]) -> None:
    missed = [it.offset for it in table if search(table, it.offset) is not it]  # type: ignore[attr-defined, arg-type]
    assert missed == [0x10]


def test_order_of_checks_of_registers(release: str, on: Machine) -> None:
    gic = on.create(V3)
    assert on.attribute(gic, SET, DIST_REGS, 0x80, BAD) == ("EINVAL" if release in SINCE_6_1 else "EFAULT")
    assert on.attribute(gic, GET, DIST_REGS, 0x80, BAD) == "EINVAL"
    on.vcpu(4)
    assert on.attribute(gic, SET, DIST_REGS, 0x80, BAD) == "EFAULT"
    assert on.put(gic, DIST_REGS, 0x80, 0, 4) == "EBUSY"
    # A system register's value is read last since 6.1.
    assert on.attribute(gic, SET, CPU_SYSREGS, 0xC230, BAD) == ("EBUSY" if release in SINCE_6_1 else "EFAULT")
    early = [on.get(gic, DIST_REGS, offset, 4) for offset in (0x8, 0xC)]
    assert early == ([0x4B00_343B, 0] if release == "7.3" else ["EBUSY"] * 2)
    assert on.attribute(gic, SET, CTRL, INIT) == 0
    assert on.attribute(gic, GET, DIST_REGS, 0x80, BAD) == "EFAULT"
    assert [on.get(gic, REDIST_REGS, 5 << 32, 4), on.has(gic, REDIST_REGS, 5 << 32)] == ["EINVAL"] * 2


def test_vcpus_have_affinities_once_they_are_initialised(on: Machine) -> None:
    gic = on.create(V3)
    vcpus = [on.vcpu(number) for number in (0, 0x12)]
    assert on.has(gic, REDIST_REGS, 0x102 << 32) == "EINVAL"
    assert [on.init(vcpu) for vcpu in vcpus] == [0, 0]
    assert on.has(gic, REDIST_REGS, 0x102 << 32) == 0
    assert on.attribute(gic, SET, CTRL, INIT) == 0
    assert on.get(gic, REDIST_REGS, 0x102 << 32 | 0xC, 4) == 0x102


@pytest.mark.parametrize(
    ("value", "before_6_1", "since_6_1"),
    [
        (0x4B00_243B, 0, 0),
        (0x4B00_343B, "EINVAL", 0),
        (0x4B00_143B, "EINVAL", "EINVAL"),
        (0x4B00_443B, "EINVAL", "EINVAL"),
        (0x4A00_243B, "EINVAL", "EINVAL"),
        (0, "EINVAL", "EINVAL"),
    ],
)
def test_implementation_that_is_written(
    value: int, before_6_1: str | int, since_6_1: str | int, release: str, on: Machine
) -> None:
    gic = initialised(on)
    expected = since_6_1 if release in SINCE_6_1 else before_6_1
    assert on.put(gic, DIST_REGS, 8, value, 4) == expected
    if expected == 0:
        assert on.get(gic, DIST_REGS, 8, 4) == value


def test_second_type_register_can_be_written_as_it_is(release: str, on: Machine) -> None:
    gic = initialised(on)
    assert on.put(gic, DIST_REGS, 0xC, 0, 4) == 0
    assert on.put(gic, DIST_REGS, 0xC, 0x100, 4) == ("EBUSY" if release == "7.3" else "EINVAL")


def test_registers_keep_what_they_can(on: Machine) -> None:
    gic = initialised(on)
    written = {
        0x0: (0xFFFF_FFFF, 0x52),
        0x84: (0x1234_5678, 0x1234_5678),
        0x104: (0x0000_00F0, 0x0000_00F0),
        0x204: (0xF000_000F, 0xF000_000F),
        0x304: (0x1, 0x1),
        0x420: (0xFFFF_FFFF, 0xF8F8_F8F8),
        0xC08: (0x0000_00FF, 0x0000_00AA),
        0x6100: (0xFFFF_FFFF, 0x00FF_FFFF),
        0x6104: (0xFFFF_FFFF, 0),
    }
    for offset, (value, _) in written.items():
        assert on.put(gic, DIST_REGS, offset, value, 4) == 0
    assert {offset: on.get(gic, DIST_REGS, offset, 4) for offset in written} == {
        offset: found for offset, (_, found) in written.items()
    }
    assert on.put(gic, DIST_REGS, 0x184, 0x30, 4) == 0
    assert on.get(gic, DIST_REGS, 0x104, 4) == 0xC0
    assert on.put(gic, DIST_REGS, 0x384, 0x1, 4) == 0
    assert on.get(gic, DIST_REGS, 0x304, 4) == 0


def test_levels_of_lines(on: Machine) -> None:
    gic = initialised(on)
    assert [on.get(gic, LEVEL_INFO, attr, 4) for attr in (0, 32, 1, 1 << 10)] == [0, 0, "EINVAL", "EINVAL"]
    assert on.has(gic, LEVEL_INFO, 1 << 10) == "ENXIO"
    assert on.put(gic, LEVEL_INFO, 0, 0xFFFF_FFFF, 4) == 0
    # SGIs have no line.
    assert on.get(gic, LEVEL_INFO, 0, 4) == 0xFFFF_0000
    assert on.ask_struct(on.fd, 0x4008AE61, "=II", 2 << 24 | 20, 0) == 0
    assert on.get(gic, LEVEL_INFO, 0, 4) == 0xFFEF_0000


def test_line_that_rises_leaves_an_edge_pending(on: Machine) -> None:
    gic = initialised(on)
    vgic = on.backend._descriptors.get(on.fd).vm.vgic
    for irq, level in ((40, True), (40, False), (41, False), (20, True)):
        vgic.line_changed(None if irq > 31 else vgic.vm.vcpus[0], irq, level=level)
    assert on.get(gic, DIST_REGS, 0x204, 4) == 1 << 8
    assert on.get(gic, REDIST_REGS, 0x1_0200, 4) == 0


def test_system_registers(release: str, on: Machine) -> None:
    gic = initialised(on)
    pmr, bpr0, bpr1, ctlr, sre, ap1r1 = 0xC230, 0xC643, 0xC663, 0xC664, 0xC665, 0xC649
    known = {pmr: 0, bpr0: 0, bpr1: 0, ctlr: 0x8C00, sre: 7, ap1r1: "EINVAL"}
    assert {number: on.get(gic, CPU_SYSREGS, number) for number in known} == known
    assert on.put(gic, CPU_SYSREGS, pmr, 0x1FF) == 0
    assert on.get(gic, CPU_SYSREGS, pmr) == 0xFF
    assert on.put(gic, CPU_SYSREGS, sre, 6) == "EINVAL"
    assert [on.put(gic, CPU_SYSREGS, ctlr, value) for value in (0x8C01, 0xC00, 0x8D00)] == [0, "EINVAL", "EINVAL"]
    assert on.put(gic, CPU_SYSREGS, bpr0, 5) == 0
    assert on.get(gic, CPU_SYSREGS, bpr1) == 6
    unknown = on.attribute(gic, SET, CPU_SYSREGS, 0xFFFF, BAD)
    assert unknown == "EFAULT"
    assert on.put(gic, CPU_SYSREGS, 0xFFFF, 0) == ("ENOENT" if release in SINCE_6_1 else "ENXIO")


def test_maintenance_interrupt(release: str, on: Machine, gic: int) -> None:
    if release != "7.3":
        assert on.put(gic, MAINT_IRQ, 0, 25, 4) == "ENXIO"
        return
    assert on.get(gic, MAINT_IRQ, 0, 4) == 0
    assert [on.put(gic, MAINT_IRQ, 0, number, 4) for number in (15, 32, 25)] == ["EINVAL", "EINVAL", 0]
    assert on.get(gic, MAINT_IRQ, 3, 4) == 25
    assert on.attribute(gic, SET, CTRL, INIT) == 0
    assert on.put(gic, MAINT_IRQ, 0, 15, 4) == "EBUSY"
    assert on.attribute(gic, SET, MAINT_IRQ, 0, BAD) == "EFAULT"


# ------------------------------------------------------------------------------------------------ version 2


def test_registers_of_version_2_initialise_it(release: str, on_v2: Machine) -> None:
    gic = on_v2.create(V2)
    assert on_v2.get(gic, DIST_REGS, 0, 4) == "EINVAL"
    for number in (0, 3):
        on_v2.vcpu(number)
    assert on_v2.get(gic, NR_IRQS, 0, 4) == 32
    assert on_v2.get(gic, DIST_REGS, 4, 4) == 0x27
    assert on_v2.get(gic, NR_IRQS, 0, 4) == 256
    assert on_v2.get(gic, CPU_REGS, 0xFC, 4) == 0x04B2_043B
    assert on_v2.get(gic, DIST_REGS, 3 << 32 | 0x800, 4) == (0x0808_0808 if release == "7.3" else 0x0202_0202)
    assert [on_v2.get(gic, CPU_REGS, number << 32, 4) for number in (1, 3, 0x103)] == ["EINVAL", 0, 0]
    assert on_v2.has(gic, CPU_REGS, 0x1000) == (0 if release == "7.3" else "ENXIO")


def test_groups_of_version_2_can_be_written_by_who_knows(on_v2: Machine) -> None:
    gic = initialised(on_v2, kind=V2)
    assert on_v2.put(gic, DIST_REGS, 0x84, 0xFF, 4) == 0
    assert on_v2.get(gic, DIST_REGS, 0x84, 4) == 0
    identity = on_v2.get(gic, DIST_REGS, 8, 4)
    assert isinstance(identity, int)
    assert on_v2.put(gic, DIST_REGS, 8, identity, 4) == 0
    assert on_v2.put(gic, DIST_REGS, 0x84, 0xFF, 4) == 0
    assert on_v2.get(gic, DIST_REGS, 0x84, 4) == 0xFF


def test_sgis_of_version_2_have_senders(on_v2: Machine) -> None:
    gic = initialised(on_v2, vcpus=2, kind=V2)
    # To all others, SGI 5, from vCPU 0.
    assert on_v2.put(gic, DIST_REGS, 0xF00, 1 << 24 | 5, 4) == 0
    assert on_v2.get(gic, DIST_REGS, 1 << 32 | 0xF24, 4) == 0x100
    assert on_v2.get(gic, DIST_REGS, 1 << 32 | 0x200, 4) == 1 << 5
    assert on_v2.get(gic, DIST_REGS, 0x200, 4) == 0
    assert on_v2.put(gic, DIST_REGS, 1 << 32 | 0xF14, 0x100, 4) == 0
    assert on_v2.get(gic, DIST_REGS, 1 << 32 | 0x200, 4) == 0


def test_unset_addresses_of_version_2(on_v2: Machine) -> None:
    gic = on_v2.create(V2)
    assert [on_v2.get(gic, ADDR, kind) for kind in (V2_DIST, V2_CPU)] == [UNSET, UNSET]
