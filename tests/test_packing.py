# SPDX-License-Identifier: Apache-2.0
"""Structs of a caller's numbers: what fits is packed as the struct module would, the rest is refused by name."""

from __future__ import annotations

from enum import IntEnum
from typing import Any

import pytest
from hypothesis import given, strategies

from kvmipa.packing import PackedStruct, unsigned


class Number(IntEnum):
    """An int that is not exactly an int."""

    SEVEN = 7


def test_struct_has_its_fields_in_order_and_zeros_behind() -> None:
    expected = bytes((168, 0, 0, 0, 5, 0, 0, 0, *(1, 0, 0, 0, 0, 0, 0, 0), *(2, 0, 0, 0, 0, 0, 0, 0), *[0] * 80))
    assert PackedStruct("enable_cap").pack(168, 5, 1, 2) == expected
    assert PackedStruct("create_device").pack(Number.SEVEN) == bytes((7, *[0] * 11))


@pytest.mark.parametrize(
    ("name", "values", "kind", "words"),
    [
        ("create_device", (-1, 0, 0), OverflowError, "type=-1 does not fit 32 bits"),
        ("create_device", (0, 0, 1 << 32), OverflowError, "flags=4294967296 does not fit 32 bits"),
        ("device_attr", (0, 0, 1 << 64, 0), OverflowError, "attr=18446744073709551616 does not fit 64 bits"),
        ("enable_cap", (0, 0, 0, 0, 0, -2), OverflowError, "args=-2 does not fit 64 bits"),
        ("userspace_memory_region2", (0, 0, 0, 0, 0, 0, 1 << 32), OverflowError, "guest_memfd=4294967296"),
        ("vcpu_init", (5, "a"), TypeError, "features is an int, not str"),
        ("vcpu_init", (None, 1), TypeError, "target is an int, not NoneType"),
        ("arm_device_addr", (0, 1.0), TypeError, "addr is an int, not float"),
    ],
)
def test_what_does_not_fit_is_refused_by_its_name(
    name: str, values: tuple[Any, ...], kind: type[Exception], words: str
) -> None:
    with pytest.raises(kind, match=words):
        PackedStruct(name).pack(*values)


@given(strategies.integers(1, 64), strategies.integers(-(1 << 70), 1 << 70))
def test_number_fits_its_bits_or_is_refused(bits: int, number: int) -> None:
    if 0 <= number < 1 << bits:
        assert unsigned("it", number, bits) == number
    else:
        with pytest.raises(OverflowError, match=f"it={number} does not fit {bits} bits"):
            unsigned("it", number, bits)
