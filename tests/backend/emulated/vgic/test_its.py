# SPDX-License-Identifier: Apache-2.0
"""The ITS of the emulated kernel (kernel-device-spec 2.7)."""

from __future__ import annotations

import pytest

from tests.device_asking import ADDR, BAD, CTRL, GET, ITS, ITS_ADDR, ITS_REGS, SET, UNSET, V3, Machine

CTLR, IIDR, TYPER, CBASER, CWRITER, CREADR, DEVICES, COLLECTIONS = 0, 4, 8, 0x80, 0x88, 0x90, 0x100, 0x108
VALID = 1 << 63


@pytest.fixture
def its(on: Machine) -> int:
    """Its ITS."""
    return on.create(ITS)


def test_attributes(on: Machine, its: int) -> None:
    there = {(group, attr) for group in range(8) for attr in range(10) if on.has(its, group, attr) == 0}
    assert there == {(ADDR, ITS_ADDR), (CTRL, 0), (CTRL, 1), (CTRL, 2), (CTRL, 4)}
    for group in (1, 3, 7, 9):
        assert on.attribute(its, SET, group, 0, BAD) == on.attribute(its, GET, group, 0, BAD) == "ENXIO"
    assert on.attribute(its, GET, CTRL, 0, BAD) == "ENXIO"


def test_address(release: str, on: Machine, its: int) -> None:
    assert on.get(its, ADDR, ITS_ADDR) == UNSET
    assert on.attribute(its, SET, ADDR, ITS_ADDR, BAD) == "EFAULT"
    old = release not in {"6.1", "6.12", "7.3"}
    assert on.address(its, ITS_ADDR, on.size + 0x1000) == ("E2BIG" if old else "EINVAL")
    assert on.address(its, ITS_ADDR, on.size - 0x1_0000) == (0 if old else "E2BIG")
    # Others' frames are nobody's business.
    second = on.create(ITS)
    on.create(V3)
    assert on.address(second, ITS_ADDR, on.size - 0x2_0000) == 0


def test_controls(release: str, on: Machine, its: int) -> None:
    assert [on.attribute(its, SET, CTRL, attr) for attr in (0, 1, 2, 4)] == [0] * 4
    assert [on.attribute(its, SET, CTRL, attr) for attr in (3, 1 << 32)] == ["ENXIO" if release == "7.3" else 0] * 2


def test_registers_need_an_address_and_their_alignment(on: Machine, its: int) -> None:
    assert on.get(its, ITS_REGS, TYPER) == "ENXIO"
    assert [on.has(its, ITS_REGS, offset) for offset in (TYPER, 0x84, 0x20, 0x2)] == [0, "EINVAL", "ENXIO", "EINVAL"]
    on.address(its, ITS_ADDR, 0x800_0000)
    assert [on.get(its, ITS_REGS, offset) for offset in (0x84, 0x20)] == ["EINVAL", "ENXIO"]
    assert on.attribute(its, SET, ITS_REGS, 0x84, BAD) == "EFAULT"
    assert on.attribute(its, GET, ITS_REGS, TYPER, BAD) == "EFAULT"


def test_registers_of_an_idle_its(on: Machine, its: int) -> None:
    on.address(its, ITS_ADDR, 0x800_0000)
    known = {
        CTLR: 1 << 31,
        IIDR: 0x4B00_043B,
        TYPER: 0x1_EF71,
        CBASER: 0,
        CWRITER: 0,
        CREADR: 0,
        DEVICES: 0x1907_0000_0000_0600,
        COLLECTIONS: 0x1C07_0000_0000_0600,
        0x110: 0,
        0xFFE8: 0x3B,
    }
    assert {offset: on.get(its, ITS_REGS, offset) for offset in known} == known


def test_its_is_enabled_with_its_tables_only(on: Machine, its: int) -> None:
    on.address(its, ITS_ADDR, 0x800_0000)
    assert on.put(its, ITS_REGS, CTLR, 1) == 0
    assert on.get(its, ITS_REGS, CTLR) == 1 << 31
    for offset in (CBASER, DEVICES, COLLECTIONS):
        assert on.put(its, ITS_REGS, offset, VALID | 0x10_0000) == 0
    assert on.put(its, ITS_REGS, CTLR, 1) == 0
    assert on.get(its, ITS_REGS, CTLR) == 1 << 31 | 1
    assert on.put(its, ITS_REGS, DEVICES, 0) == 0
    devices = on.get(its, ITS_REGS, DEVICES)
    assert isinstance(devices, int)
    assert devices & VALID
    assert on.put(its, ITS_REGS, CREADR, 0) == "EBUSY"
    assert on.attribute(its, SET, CTRL, 4) == 0
    assert on.get(its, ITS_REGS, CTLR) == 1 << 31
    assert on.get(its, ITS_REGS, DEVICES) == devices & ~VALID


def test_queue_has_an_end(on: Machine, its: int) -> None:
    on.address(its, ITS_ADDR, 0x800_0000)
    assert [on.put(its, ITS_REGS, CREADR, value) for value in (0xFE0, 0x1000)] == [0, "EINVAL"]
    assert on.put(its, ITS_REGS, CWRITER, 0x1000) == 0
    assert [on.get(its, ITS_REGS, offset) for offset in (CWRITER, CREADR)] == [0, 0xFE0]


def test_other_layouts_of_tables_are_refused(on: Machine, its: int) -> None:
    on.address(its, ITS_ADDR, 0x800_0000)
    assert [on.put(its, ITS_REGS, IIDR, value) for value in (0x4B00_043B, 0x4B00_143B, 0)] == [0, "EINVAL", 0]
