# SPDX-License-Identifier: Apache-2.0
"""Stage-2 descriptors: the specification's examples bit by bit, and what holds for every format."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvmipa.stage2.descriptors import LEAF_LEVELS, TABLE_OR_PAGE, Format, Leaf, MemoryType, Table

from .registers import PAGE_SIZES

FORMATS = [
    Format(page_size, lpa2=lpa2, fwb=fwb)
    for page_size in PAGE_SIZES
    for lpa2 in (False, True)
    for fwb in (False, True)
    if not (lpa2 and page_size == 65536)
]
XN = 1 << 54

formats = st.sampled_from(FORMATS)


@st.composite
def leaves(draw: st.DrawFn) -> tuple[Format, Leaf]:
    form = draw(formats)
    level = draw(st.sampled_from(LEAF_LEVELS[form.page_size]))
    shift = form.shift(level)
    return form, Leaf(
        draw(st.integers(0, (1 << form.address_bits - shift) - 1)) << shift,
        level,
        draw(st.booleans()),
        draw(st.booleans()),
        draw(st.booleans()),
        draw(st.sampled_from(MemoryType)),
        draw(st.booleans()),
        form.shareability,
    )


# kernel-ipa-spec 5.6, the examples: LPA2, FWB, level, executable, memory type, low bits; [run] on real kernels but the
# device page.
EXAMPLES = [
    (False, False, 3, True, MemoryType.NORMAL, 0x7FF),
    (False, True, 3, True, MemoryType.NORMAL, 0x7DB),
    (True, False, 3, True, MemoryType.NORMAL, 0x4FF),
    (True, True, 3, True, MemoryType.NORMAL, 0x4DB),
    (False, False, 2, True, MemoryType.NORMAL, 0x7FD),
    (False, True, 2, True, MemoryType.NORMAL, 0x7D9),
    (True, True, 2, True, MemoryType.NORMAL, 0x4D9),
    (False, True, 3, False, MemoryType.NORMAL, 0x7DB | XN),
    (True, True, 3, False, MemoryType.NORMAL, 0x4DB | XN),
    (False, False, 3, False, MemoryType.DEVICE, 0x7C7 | XN),
    (False, True, 3, False, MemoryType.NORMAL_NC, 0x7D7 | XN),
]


@pytest.mark.parametrize(("lpa2", "fwb", "level", "executable", "memory_type", "bits"), EXAMPLES)
def test_examples_of_the_specification(
    lpa2: bool, fwb: bool, level: int, executable: bool, memory_type: MemoryType, bits: int
) -> None:
    form = Format(4096, lpa2=lpa2, fwb=fwb)
    leaf = Leaf(1 << 30, level, executable=executable, memory_type=memory_type, shareability=form.shareability)
    assert form.encode_leaf(leaf) == 1 << 30 | bits


@pytest.mark.parametrize(
    ("leaf", "bit"),
    [
        (Leaf(0, 3, readable=False), 6),
        (Leaf(0, 3, writable=False), 7),
        (Leaf(0, 3, accessed=False), 10),
    ],
)
def test_what_is_missing_clears_its_bit(leaf: Leaf, bit: int) -> None:
    assert Format(4096).encode_leaf(leaf) == 0x7FF & ~(1 << bit)


@pytest.mark.parametrize(
    ("form", "address", "placed"),
    [
        (Format(4096), 0xFFFF_FFFF_F000, 0xFFFF_FFFF_F000),
        (Format(4096, lpa2=True), 0xF_FFFF_FFFF_F000, 0x3_FFFF_FFFF_F300),
        (Format(16384, lpa2=True), 0x8_0000_0000_4000, 0x4200),
        (Format(16384, lpa2=True), 0x3_0000_0000_4000, 0x3_0000_0000_4000),
        (Format(65536), 0xA_0000_0001_0000, 0x1_A000),
    ],
)
def test_high_address_bits_have_their_place(form: Format, address: int, placed: int) -> None:
    assert form.encode_table(address) == placed | 3
    assert form.decode(placed | 3, 1) == Table(address)


@given(leaves())
def test_every_leaf_comes_back(case: tuple[Format, Leaf]) -> None:
    form, leaf = case
    assert form.decode(form.encode_leaf(leaf), leaf.level) == leaf


@given(formats, st.data())
def test_every_table_comes_back(form: Format, data: st.DataObject) -> None:
    address = data.draw(st.integers(0, (1 << form.address_bits) // form.page_size - 1)) * form.page_size
    assert form.decode(form.encode_table(address), data.draw(st.integers(0, 2))) == Table(address)


@given(leaves())
def test_page_is_address_attributes_and_a_bit(case: tuple[Format, Leaf]) -> None:
    form, leaf = case
    attributes = form.attributes(
        readable=leaf.readable,
        writable=leaf.writable,
        executable=leaf.executable,
        memory_type=leaf.memory_type,
        accessed=leaf.accessed,
    )
    page = TABLE_OR_PAGE if leaf.level == 3 else 0
    assert form.encode_leaf(leaf) == form.place(leaf.output_address) | attributes | page
    assert form.address(form.encode_leaf(leaf)) & -1 << form.shift(leaf.level) == leaf.output_address


@given(leaves())
def test_bits_that_kvm_never_sets_are_clear(case: tuple[Format, Leaf]) -> None:
    # kernel-ipa-spec 5.6: contiguous, DBM, software bits, XN[0] and what is above are 0 for an ordinary VM.
    form, leaf = case
    assert not form.encode_leaf(leaf) & (0xFF << 55 | 1 << 53 | 1 << 52 | 1 << 51 | 1 << 50)


@pytest.mark.parametrize("level", [0, 1, 2, 3])
@pytest.mark.parametrize("form", FORMATS, ids=str)
def test_nothing_is_mapped_by_zero(form: Format, level: int) -> None:
    assert form.decode(0, level) is None
    assert form.decode(0x40000000, level) is None


def test_reserved_descriptor_of_the_last_level_maps_nothing() -> None:
    assert Format(4096).decode(0x400007FD, 3) is None


def test_memattr_that_kvm_never_writes_is_an_error() -> None:
    with pytest.raises(ValueError, match="MemAttr 0x6"):
        Format(4096).decode(0x7DB, 3)


@pytest.mark.parametrize("level", [-1, 0, 4])
def test_level_without_leaves_is_refused(level: int) -> None:
    with pytest.raises(ValueError, match="level"):
        Format(4096).encode_leaf(Leaf(0, level))


@pytest.mark.parametrize("page_size", [16384, 65536])
def test_level_1_blocks_are_for_4k_only(page_size: int) -> None:
    with pytest.raises(ValueError, match="level 1"):
        Format(page_size).encode_leaf(Leaf(0, 1))


@pytest.mark.parametrize("address", [0x800, 1 << 48, -4096])
def test_address_that_does_not_fit_is_refused(address: int) -> None:
    with pytest.raises(ValueError, match="address"):
        Format(4096).encode_leaf(Leaf(address, 3))
    with pytest.raises(ValueError, match="address"):
        Format(4096).encode_table(address)


def test_block_is_aligned_to_what_it_maps() -> None:
    with pytest.raises(ValueError, match="0x200000"):
        Format(4096).encode_leaf(Leaf(0x1000, 2))


def test_shareability_is_the_formats() -> None:
    with pytest.raises(ValueError, match="shareability"):
        Format(4096, lpa2=True).encode_leaf(Leaf(0, 3))


@pytest.mark.parametrize(("page_size", "lpa2"), [(8192, False), (65536, True)])
def test_format_of_no_host_is_refused(page_size: int, lpa2: bool) -> None:
    with pytest.raises(ValueError, match="page"):
        Format(page_size, lpa2=lpa2)
