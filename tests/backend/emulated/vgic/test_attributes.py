# SPDX-License-Identifier: Apache-2.0
"""Which attributes the vGICs of the emulated kernel have in every release (kernel-device-spec 2.0)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.device_asking import (
    ADDR,
    BAD,
    CPU_REGS,
    CTRL,
    DIST,
    DIST_REGS,
    GET,
    INIT,
    LEVEL_INFO,
    MAINT_IRQ,
    NR_IRQS,
    REDIST,
    REDIST_REGS,
    REGION,
    SAVE_PENDING,
    SET,
    V2,
    V2_CPU,
    V2_DIST,
)

if TYPE_CHECKING:
    from tests.device_asking import Machine


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
