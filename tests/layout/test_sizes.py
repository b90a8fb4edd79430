# SPDX-License-Identifier: Apache-2.0
"""kvmipa.layout.sizes: what people write, and what they must not."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvmipa.layout import LayoutError, amount_text, parse_size, short_text
from kvmipa.machine_type import size_text


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("0", 0),
        ("65536", 65536),
        ("64K", 64 << 10),
        ("512M", 512 << 20),
        ("64G", 64 << 30),
        ("64g", 64 << 30),
        ("2TiB", 2 << 40),
        ("2 tib", 2 << 40),
        ("1P", 1 << 50),
        ("16E", 1 << 64),
        ("1.5G", 3 << 29),
        ("0.5K", 512),
        ("1_000M", 1000 << 20),
        ("  4K ", 4096),
        ("100 bytes", 100),
        ("100B", 100),
        ("0x40000000", 1 << 30),
        ("0X4000_0000", 1 << 30),
        ("0x1e", 30),
        (4096, 4096),
    ],
)
def test_size_is_understood(text: str | int, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("64Q", "no unit 'Q'; there are K, M, G, T, P or E"),
        ("64KiX", "no unit 'KiX'"),
        ("1e9", "no unit 'e9'"),
        ("64GB", "write G or GiB"),
        ("64 gb", "write G or GiB"),
        ("0x10G", "no hexadecimal number; one with 0x has no unit"),
        ("0x", "no hexadecimal number"),
        ("0x\uff11", "no hexadecimal number"),
        ("", "no number"),
        ("G", "no number"),
        (".5G", "no number"),
        ("5.G", "no number"),
        ("1.2.3G", "no number"),
        ("_1", "no number"),
        ("9" * 5000, "no number"),
        ("\u0663", "no number"),
        ("-1G", "is negative"),
        ("1.5", "not a whole number of bytes"),
        ("0.3K", "not a whole number of bytes"),
        (1.5, "is wanted"),
        (True, "is wanted"),
        (None, "is wanted"),
        (["1G"], "is wanted"),
    ],
)
def test_what_is_no_size_is_refused_with_the_reason(text: object, why: str) -> None:
    with pytest.raises(LayoutError, match=r"^--ram ") as caught:
        parse_size(text, "--ram")  # type: ignore[arg-type]
    assert why in str(caught.value)


@given(st.integers(1, 1 << 64))
def test_text_of_a_size_is_read_back(size: int) -> None:
    assert parse_size(size_text(size)) == size
    assert parse_size(amount_text(size).partition(" (")[0]) == size


@given(st.integers(1, 1 << 64))
def test_short_text_never_says_more_than_there_is(size: int) -> None:
    said = short_text(size)
    if not said.startswith("~"):
        assert parse_size(said) == size
        return
    number, unit = said[1:].split()
    tenths, scale = int(number.replace(".", "")), parse_size(f"1{unit}")
    assert tenths * scale <= size * 10 < (tenths + 1) * scale
