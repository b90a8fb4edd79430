# SPDX-License-Identifier: Apache-2.0
"""PSTATE behind an exception, and its vector: one answer for the CPU and for KVM (Arm ARM, AArch64.TakeException)."""

from __future__ import annotations

import pytest

from kvmipa.backend.emulated.exception_entry import entered, vector

SPAN, DSSBS = 1 << 23, 1 << 44
NZCV, DIT, PAN, SSBS = 0xF << 28, 1 << 24, 1 << 22, 1 << 12
GONE = {"SS": 1 << 21, "IL": 1 << 20, "UAO": 1 << 23, "BTYPE": 3 << 10, "SSBS": SSBS}
EL1H_MASKED = 0x3C5


@pytest.mark.parametrize("bits", [NZCV, DIT, PAN, NZCV | DIT | PAN], ids=hex)
def test_flags_stay(bits: int) -> None:
    assert entered(bits, SPAN) == EL1H_MASKED | bits


@pytest.mark.parametrize("name", GONE)
def test_others_go(name: str) -> None:
    assert entered(GONE[name] | 0x5, SPAN) == EL1H_MASKED


def test_pan_is_set_unless_span_is() -> None:
    assert entered(0, 0) == EL1H_MASKED | PAN
    assert entered(0, 0, has_pan=False) == EL1H_MASKED
    assert entered(PAN, 0, has_pan=False) == EL1H_MASKED | PAN


def test_ssbs_is_what_sctlr_says() -> None:
    assert entered(0, SPAN | DSSBS) == EL1H_MASKED | SSBS


@pytest.mark.parametrize(("pstate", "offset"), [(0x3C4, 0), (0x3C5, 0x200), (0x3C0, 0x400)])
def test_the_vector_is_that_of_where_it_comes_from(pstate: int, offset: int) -> None:
    assert vector(pstate) == offset
