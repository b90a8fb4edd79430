# SPDX-License-Identifier: Apache-2.0
"""The text of debugfs stage2_page_tables: as arch/arm64/kvm/ptdump.c of 6.12 and 7.3 would write it, and read back."""

from __future__ import annotations

import re
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kvmipa.stage2 import Stage2
from kvmipa.stage2.dump import LINUX_6_12, LINUX_7_3, Run, Style, parse, text
from kvmipa.stage2.geometry import Geometry
from kvmipa.stage2.vtcr import Vtcr

from .hosts import Vm, vms

STYLES = pytest.mark.parametrize("style", [LINUX_6_12, LINUX_7_3], ids=["6.12", "7.3"])


def some_vm() -> Vm:
    """Two data pages, one of them only read so far, a code page behind them, and an executable block."""
    vm = Vm(4096, 40)
    data, code = vm.form.attributes(executable=False), vm.form.attributes()
    vm.tables.map(0x10000, 0x4000_0000, 0x1000, data)
    vm.tables.map(0x11000, 0x5000_5000, 0x1000, data)
    vm.tables.map(0x12000, 0x4000_0000, 0x1000, vm.form.attributes(writable=False, executable=False, accessed=False))
    vm.tables.map(0x13000, 0x4000_0000, 0x1000, code)
    vm.tables.map(0x4000_0000, 0x8000_0000, 0x20_0000, code)
    return vm


BEGINNING = (
    "---[ Guest IPA ]---\n"
    "0x0000000000000000-0x0000000000010000          64K 3\n"
    "0x0000000000010000-0x0000000000012000           8K 3   R W {nx} AF    \n"
    "0x0000000000012000-0x0000000000013000           4K 3   R   {nx}       \n"
    "0x0000000000013000-0x0000000000014000           4K 3   R W {x} AF    \n"
    "0x0000000000014000-0x0000000000200000        1968K 3\n"
    "0x0000000000200000-0x0000000040000000        1022M 2\n"
    "0x0000000040000000-0x0000000040200000           2M 2   R W {x} AF BLK\n"
    "0x0000000040200000-0x0000000080000000        1022M 2\n"
)
END = "0x0000000080000000-0x0000010000000000        1022G 1\n"


def test_text_of_6_12_leaves_the_last_run_out() -> None:
    vm = some_vm()
    assert text(vm.tables.spans(), 1 << 40, LINUX_6_12) == BEGINNING.format(nx="X", x=" ")


def test_text_of_7_3_has_the_last_run() -> None:
    vm = some_vm()
    assert text(vm.tables.spans(), 1 << 40, LINUX_7_3) == BEGINNING.format(nx="PXNUXN", x="px ux ") + END


@pytest.mark.parametrize(("xn", "word"), [(0, "px ux "), (1, "PXNux "), (2, "PXNUXN"), (3, "px UXN")])
def test_each_of_the_four_execute_permissions_of_7_3(xn: int, word: str) -> None:
    assert LINUX_7_3.attributes(0x7FF | xn << 53) == f"   R W {word} AF    "


def test_empty_vm() -> None:
    empty = Stage2(Vtcr(0x80023559), Geometry(4096, 39))
    assert Stage2(Vtcr(0x80023559), Geometry(4096, 39), style=LINUX_6_12).dump() == "---[ Guest IPA ]---\n"
    assert empty.dump() == "---[ Guest IPA ]---\n0x0000000000000000-0x0000008000000000         512G 1\n"
    vm = Vm(4096, 39)
    assert text(vm.tables.spans(), 1 << 39, LINUX_7_3) == empty.dump()


def test_last_page_of_the_space_is_the_last_run() -> None:
    vm = Vm(4096, 32)
    vm.tables.map((1 << 32) - 4096, 0x4000_0000, 4096, vm.form.attributes())
    last = "0x00000000fffff000-0x0000000100000000           4K 3   R W px ux  AF    \n"
    assert text(vm.tables.spans(), 1 << 32, LINUX_7_3).endswith(last)
    assert text(vm.tables.spans(), 1 << 32, LINUX_6_12).endswith("2044K 3\n")


def test_runs_go_on_across_tables_and_physical_gaps() -> None:
    vm = Vm(4096, 40)
    for ipa in range(0x1F_E000, 0x20_2000, 0x1000):
        vm.tables.map(ipa, 0x4000_0000, 0x1000, vm.form.attributes())
    assert [(run.start, run.end) for run in parse(text(vm.tables.spans(), 1 << 40, LINUX_7_3)) if run.mapped] == [
        (0x1F_E000, 0x20_2000)
    ]


@settings(max_examples=40, deadline=None)
@given(vms(), st.data())
def test_runs_tile_the_space_and_say_what_the_walk_says(vm: Vm, data: st.DataObject) -> None:
    pages = st.integers(0, (1 << vm.ipa_bits) // vm.page_size - 1)
    for page in data.draw(st.lists(pages, max_size=6)):
        size = data.draw(st.sampled_from([vm.page_size, vm.block]))
        executable = data.draw(st.booleans())
        vm.tables.map(page * vm.page_size & -size, 0, size, vm.form.attributes(executable=executable))
    runs = parse(text(vm.tables.spans(), 1 << vm.ipa_bits, LINUX_7_3))
    assert (runs[0].start, runs[-1].end) == (0, 1 << vm.ipa_bits)
    for run, following in pairwise(runs):
        assert run.end == following.start
        assert (run.level, run.attributes) != (following.level, following.attributes)
    for run in runs:
        for ipa in (run.start, run.end - vm.page_size):
            found = vm.walk(ipa)
            assert found.level == run.level
            assert hasattr(found, "pa") == run.mapped
            if run.mapped:
                assert ("BLK" in run.attributes) == (run.level < 3)
                assert ("PXNUXN" in run.attributes) == (not getattr(found, "executable", None))


def test_dump_is_read_back() -> None:
    runs = parse(BEGINNING.format(nx="PXNUXN", x="px ux ") + END)
    assert runs[1] == Run(0x10000, 0x12000, 3, ("R", "W", "PXNUXN", "AF"))
    assert runs[6] == Run(0x4000_0000, 0x4020_0000, 2, ("R", "W", "px", "ux", "AF", "BLK"))
    assert (len(runs), [run.mapped for run in runs].count(True)) == (9, 4)


@pytest.mark.parametrize(
    "line",
    [
        "0x0-0x1000 4Q 3",
        "0x0-0x1000-0x2000 4K 3",
        "0x0000000000000000-0x0000000000010000          64M 3",
        "0x0000000000000000-0x0000000000010000          64K",
        "VTCR: 0x0000000000000000",
    ],
)
def test_line_of_something_else_is_an_error(line: str) -> None:
    with pytest.raises(ValueError, match=re.escape(line)):
        parse(f"---[ Guest IPA ]---\n{line}\n")


@STYLES
def test_text_without_spaces_at_line_ends_is_read_too(style: Style) -> None:
    whole = text(some_vm().tables.spans(), 1 << 40, style)
    assert parse("\n".join(line.rstrip() for line in whole.splitlines())) == parse(whole)
