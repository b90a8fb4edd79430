# SPDX-License-Identifier: Apache-2.0
"""The shape as a picture: text and SVG."""

from __future__ import annotations

from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvmipa.stage2.geometry import Geometry
from kvmipa.stage2.picture import TEXT_WIDTH, fields, picture, svg
from kvmipa.stage2.vtcr import Vtcr, vtcr_el2

from .registers import PAGE_SIZES

SVG = "{http://www.w3.org/2000/svg}"
shapes = st.builds(Geometry, page_size=st.sampled_from(PAGE_SIZES), ipa_bits=st.integers(32, 52))


def register(shape: Geometry) -> Vtcr:
    return vtcr_el2(shape, ps=5, vmid_16bit=True, ha=True, ds=False)


@given(shapes)
def test_fields_cut_the_ipa_without_gap_or_overlap(shape: Geometry) -> None:
    parts = fields(shape)
    bits = [bit for part in parts for bit in range(part.high, part.low - 1, -1)]
    assert bits == list(range(shape.ipa_bits - 1, -1, -1))
    assert [part.level for part in parts] == [*range(shape.start_level, 4), None]
    assert [part.bits for part in parts[:-1]] == [shape.index_bits(level) for level in range(shape.start_level, 4)]


@given(shapes)
def test_text_fits_a_terminal_and_is_ascii(shape: Geometry) -> None:
    lines = picture(shape, register(shape)).splitlines()
    assert max(map(len, lines)) <= TEXT_WIDTH
    assert "".join(lines).isascii()
    box = [line for line in lines if line.startswith(("+", "|"))]
    assert len({len(line) for line in box}) == 1


def test_text() -> None:
    shape = Geometry(4096, 33)
    assert picture(shape, Vtcr(0x802D355F)) == (
        "IPA          33 bits (8 GiB), 4K pages, 2 levels from level 2\n"
        "start level  8 tables side by side (32 KiB), 4096 entries in use\n"
        "\n"
        "  level 2        level 3        offset\n"
        "+--------------+--------------+--------------+\n"
        "| IPA[32:21]   | IPA[20:12]   | IPA[11:0]    |\n"
        "| 12 bits      | 9 bits       | 12 bits      |\n"
        "| 4096 entries | 512 entries  | 4096 bytes   |\n"
        "| of 2 MiB     | of 4 KiB     |              |\n"
        "+--------------+--------------+--------------+\n"
        "\n"
        "VTCR_EL2     0x00000000802d355f\n"
        "  T0SZ       31  33 bits of IPA\n"
        "  SL0         1  the walk starts at level 2\n"
        "  IRGN0       1  table walks, inner: write-back\n"
        "  ORGN0       1  table walks, outer: write-back\n"
        "  SH0         3  table walks: inner shareable\n"
        "  TG0         0  4K pages\n"
        "  PS          5  output addresses of 48 bits\n"
        "  VS          1  VMIDs of 16 bits\n"
        "  HA          1  hardware sets access flags: yes\n"
        "  DS          0  52-bit descriptors (LPA2): no"
    )


def test_text_without_a_register() -> None:
    assert "VTCR" not in picture(Geometry(65536, 42))
    assert "one table (64 KiB), 8192 entries in use" in picture(Geometry(65536, 42))


@given(shapes)
def test_svg_is_xml_that_needs_nothing_else(shape: Geometry) -> None:
    text = svg(shape, register(shape))
    root = ElementTree.fromstring(text)
    assert root.tag == f"{SVG}svg"
    assert "href" not in text
    assert "url(" not in text
    assert "@import" not in text


@given(shapes)
def test_svg_says_what_it_shows(shape: Geometry) -> None:
    root = ElementTree.fromstring(svg(shape, register(shape)))
    named = {element.get("id"): element.text or "" for element in root.iter() if element.get("id")}
    assert root.get("role") == "img"
    assert set((root.get("aria-labelledby") or "").split()) == set(named)
    assert f"{shape.ipa_bits} IPA bits" in named["title"]
    words = " ".join(element.text or "" for element in root.iter(f"{SVG}text"))
    for part in fields(shape):
        assert f"IPA[{part.range}]" in words
        assert f"IPA[{part.range}]" in named["desc"]
    assert f"0x{register(shape).value:016x}" in words


@given(shapes)
def test_svg_draws_within_its_frame(shape: Geometry) -> None:
    root = ElementTree.fromstring(svg(shape, register(shape)))
    _, _, width, height = map(float, (root.get("viewBox") or "").split())
    for box in root.iter(f"{SVG}rect"):
        x, y, wide, high = (float(box.get(name) or 0) for name in ("x", "y", "width", "height"))
        assert 0 <= x <= x + wide <= width
        assert 0 <= y <= y + high <= height
    assert all(0 < float(text.get("y") or 0) < height for text in root.iter(f"{SVG}text"))


@given(shapes)
def test_svg_draws_the_bits_to_scale(shape: Geometry) -> None:
    root = ElementTree.fromstring(svg(shape))
    widths = [float(box.get("width") or 0) for box in root.iter(f"{SVG}rect") if box.get("height") == "34"]
    assert [round(width / sum(widths) * shape.ipa_bits) for width in widths] == [part.bits for part in fields(shape)]


@pytest.mark.parametrize("scheme", ["color-scheme: dark", "text {"])
def test_svg_has_colours_for_light_and_dark(scheme: str) -> None:
    assert scheme in svg(Geometry(4096, 40))
