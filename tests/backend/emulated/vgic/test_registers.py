# SPDX-License-Identifier: Apache-2.0
"""Registers of the emulated kernel's vGICs in every release (kernel-device-spec 2.8)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from kvmipa.backend.emulated.vgic.redistributor_registers import V3_REDISTRIBUTOR, V3_REDISTRIBUTOR_3
from kvmipa.backend.emulated.vgic.register_table import search
from tests.backend.emulated.machines import SINCE_6_1, initialised
from tests.device_asking import (
    BAD,
    CPU_REGS,
    CPU_SYSREGS,
    CTRL,
    DIST_REGS,
    GET,
    INIT,
    ITS,
    LEVEL_INFO,
    NR_IRQS,
    REDIST_REGS,
    SET,
    V2,
    V3,
)

if TYPE_CHECKING:
    from tests.device_asking import Machine


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


def test_redistributors_have_private_interrupts_only(on: Machine) -> None:
    gic = initialised(on)
    ends = {0x80: 4, 0x100: 4, 0x200: 4, 0x300: 4, 0x400: 32, 0xC00: 8, 0xD00: 4}
    for offset, length in ends.items():
        found = [on.has(gic, REDIST_REGS, 0x1_0000 + offset + at) for at in (0, length - 4, length)]
        assert (offset, found) == (offset, [0, 0, "ENXIO"])


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
