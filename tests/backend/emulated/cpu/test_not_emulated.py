# SPDX-License-Identifier: Apache-2.0
"""The table of what the emulated CPU lacks: nothing joins it or leaves it unnoticed, and some rows are shown."""

from __future__ import annotations

from pathlib import Path

import pytest

import kvmipa
from kvmipa import exits
from kvmipa.backend.emulated.cpu.not_emulated import TABLE
from tests.backend.emulated.cpu.guests import CODE, NO_ENGINE, NOWHERE, guest

LACKS = (
    "interrupts reach the guest",
    "the guest reads and writes the frames of its vGIC and ITS",
    "timers fire",
    "the PMU counts",
    "stolen time is written",
    "SErrors that user space injects are taken",
    "SVE registers are the vCPU's own",
    "floating point and SIMD trap",
    "EL1 of 32 bits, and EL2",
    "EL0 of 32 bits",
    "cache maintenance by address goes through stage 2",
    "accesses to Device memory are aligned",
    "an SP that is not a multiple of 16",
    "an illegal exception return",
    "exclusives and atomics of vCPUs that run at once",
    "TLBI and IC of one vCPU",
    "hardware sets the dirty state",
    "hardware breakpoints and watchpoints",
    "memory of a guest_memfd is the file's",
    "memory that the process unmaps behind kvmipa's back",
    "code that the process writes over code that has run",
    "KVM_SET_SIGNAL_MASK",
    "PTP time by SMCCC",
)


def test_the_table_is_what_it_was() -> None:
    for lack, begins in zip(TABLE, LACKS, strict=True):
        assert lack.what.startswith(begins)
        assert lack.instead
        assert lack.source


def run(code: tuple[int, ...], **registers: int) -> exits.Exit:
    pytest.importorskip("unicorn", reason=NO_ENGINE)
    with guest(code) as it:
        for name, value in registers.items():
            it.vcpu.set(name, value)
        return it.vcpu.run(timeout=10)


def test_an_interrupt_does_not_end_wfi() -> None:
    pytest.importorskip("unicorn", reason=NO_ENGINE)
    with guest((0xD503207F,)) as it:  # wfi
        it.vm.irq_line(kvmipa.IrqLine.cpu_irq(), True)
        assert isinstance(it.vcpu.run(timeout=0.05), exits.Interrupted)


def test_cache_maintenance_takes_no_fault() -> None:
    # dc civac, x0; str x1, [x2]
    found = run((0xD50B7E20, 0xF9000041), x0=1 << 41, x2=NOWHERE)
    assert isinstance(found, exits.Mmio)


def test_an_unaligned_load_works_with_the_mmu_off() -> None:
    # ldr x0, [x1]; str x0, [x2]
    found = run((0xF9400020, 0xF9000040), x1=CODE + 0x8001, x2=NOWHERE)
    assert isinstance(found, exits.Mmio)


def test_floating_point_does_not_trap() -> None:
    # fmov d0, x0; str x0, [x2]
    found = run((0x9E670000, 0xF9000040), x2=NOWHERE, cpacr_el1=0)
    assert isinstance(found, exits.Mmio)


def test_an_illegal_return_goes_on_in_el1() -> None:
    # eret; str x0, [x2]
    found = run((0xD69F03E0, 0xF9000040), x2=NOWHERE, spsr_el1=0x3CD, elr_el1=CODE + 4)
    assert isinstance(found, exits.Mmio)


def test_a_stack_pointer_need_not_be_aligned() -> None:
    # str x0, [sp]; str x0, [x2]
    found = run((0xF90003E0, 0xF9000040), x2=NOWHERE, sp_el1=CODE + 0x4004, sctlr_el1=0xC50078 | 1 << 3)
    assert isinstance(found, exits.Mmio)


def test_readme_shows_the_table() -> None:
    readme = Path(__file__).parents[4] / "README.md"
    if not readme.exists():
        pytest.skip("the README is not part of this installation")
    text = readme.read_text()
    assert [lack.what for lack in TABLE if f"| {lack.what} | {lack.instead} |\n" not in text] == []
