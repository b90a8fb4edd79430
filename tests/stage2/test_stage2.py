# SPDX-License-Identifier: Apache-2.0
"""Stage2: what Vm.stage2 shows."""

from __future__ import annotations

import sys
import timeit
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest

from kvmipa.stage2 import Stage2
from kvmipa.stage2.descriptors import Leaf
from kvmipa.stage2.dump import LINUX_6_12, Style
from kvmipa.stage2.geometry import Geometry
from kvmipa.stage2.vtcr import Vtcr
from kvmipa.stage2.walk import Fault, FaultKind, Translation

from .hosts import Vm

if TYPE_CHECKING:
    from collections.abc import Iterator

EMPTY = Stage2(Vtcr(0x80023558), Geometry(4096, 40))


def view(vm: Vm, style: Style | None = None) -> Stage2:
    return Stage2(vm.vtcr, vm.tables.geometry, vm.tables, style)


def test_shape_is_the_geometrys() -> None:
    assert (EMPTY.levels, EMPTY.concatenated_tables, EMPTY.table_pages) == (3, 2, 2)


def test_nothing_is_mapped_without_tables() -> None:
    assert list(EMPTY.mappings()) == []
    assert EMPTY.translate(0x1000) == Fault(FaultKind.TRANSLATION, 1)
    assert EMPTY.translate(1 << 40) == Fault(FaultKind.TRANSLATION, 0)


@pytest.mark.parametrize("address", [-1, 1 << 64])
def test_what_is_no_address_is_refused(address: int) -> None:
    with pytest.raises(ValueError, match="64 bits"):
        EMPTY.translate(address)


def test_tables_are_looked_at_under_the_vms_lock() -> None:
    vm, held = Vm(4096, 40), []

    @contextmanager
    def lock() -> Iterator[None]:
        held.append(True)
        yield

    seen = Stage2(vm.vtcr, vm.tables.geometry, vm.tables, lock=lock())
    seen.translate(0)
    assert held == [True]


@pytest.mark.parametrize("fwb", [False, True])
def test_what_is_mapped_later_shows(fwb: bool) -> None:
    vm = Vm(4096, 40, fwb=fwb)
    seen = view(vm)
    vm.tables.map(0x5000, 0x4000_0000, 0x2000, vm.form.attributes(executable=False))
    leaf = Leaf(0x4000_0000, 3, executable=False)
    assert next(seen.mappings()) == (0x5000, leaf)
    assert [ipa for ipa, _ in seen.mappings(0x6000, 0x1000)] == [0x6000]
    assert seen.table_pages == 4
    found = seen.translate(0x5123, "store")
    assert isinstance(found, Translation)
    assert (found.pa, found.memory) == (0x4000_0123, "Normal Write-back")
    assert seen.translate(0x5123, "fetch") == Fault(FaultKind.PERMISSION, 3)


def test_dump_speaks_the_words_of_the_vms_kernel() -> None:
    vm = Vm(4096, 40)
    vm.tables.map(0, 0x4000_0000, 0x1000, vm.form.attributes())
    assert "px ux " not in view(vm, LINUX_6_12).dump()
    assert "px ux " in view(vm).dump()


def test_text_has_shape_register_and_tables() -> None:
    vm = Vm(4096, 40)
    text = str(view(vm))
    assert text.startswith("IPA          40 bits (1 TiB), 4K pages, 3 levels from level 1\n")
    assert f"VTCR_EL2     {vm.vtcr.value:#018x}" in text
    assert text.endswith("\ntables       2 pages in use")
    assert str(view(Vm(4096, 39))).endswith("1 page in use")
    assert EMPTY.svg().startswith("<svg ")


def test_views_of_the_same_register_and_shape_are_equal() -> None:
    assert view(Vm(4096, 40)) == view(Vm(4096, 40))
    assert view(Vm(4096, 40)) != view(Vm(4096, 41))


def test_view_is_cheap() -> None:
    register, shape = Vtcr(0x80023558), Geometry(4096, 40)
    assert min(timeit.repeat(lambda: Stage2(register, shape), number=1000, repeat=5)) < 0.5
    assert sys.getsizeof(EMPTY) < 200
