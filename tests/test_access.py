# SPDX-License-Identifier: Apache-2.0
"""What Access takes for an access."""

from __future__ import annotations

from typing import Any

import pytest

from kvmipa.access import Access


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("ipa", value) for value in (1.0, "1", None)),
        *(("va", value) for value in (1.0, "1")),
        *((name, value) for name in ("size", "from_el", "stage1_level") for value in (1.0, "1", b"1")),
    ],
)
def test_what_is_no_int_is_a_type_error(name: str, value: Any) -> None:
    with pytest.raises(TypeError, match=f"(?i)^{name} is an int, not {type(value).__name__}"):
        Access(0x1000)._replace(**{name: value}).check()


@pytest.mark.parametrize(
    ("name", "value"),
    [("ipa", -1), ("va", 1 << 64), ("size", 3), ("from_el", 2), ("stage1_level", 4), ("stage1_level", -1)],
)
def test_what_no_guest_does_is_a_value_error(name: str, value: Any) -> None:
    with pytest.raises(ValueError, match=r"IPA|VA|bytes|EL2|level"):
        Access(0x1000)._replace(**{name: value}).check()


def test_what_a_guest_does_is_taken() -> None:
    for access in (
        Access(0),
        Access(0xFF8),
        Access(0, "store", 1),
        Access(0, stage1_level=None),
        Access(0, va=1 << 63),
    ):
        access.check()
