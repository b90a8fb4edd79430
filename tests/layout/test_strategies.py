# SPDX-License-Identifier: Apache-2.0
"""kvmipa.layout.strategies: what each VMM chooses (peers 1.0 to 1.6)."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kvmipa.layout import DEVICE, STRATEGIES, Choice, LayoutError, MemoryMap, Question, Region, qemu_virt
from kvmipa.layout.planning import bits_for
from tests.layout.maps import GIB, PAGE_SIZES, ram

OWN_MAP = [name for name, strategy in STRATEGIES.items() if strategy.own_map]


def choose(name: str, gib: int, limit: int | None) -> Choice:
    return STRATEGIES[name].choose(Question(ram(gib), limit))


def places(choice: Choice) -> dict[str, int]:
    return {region.name: region.base // GIB for region in choice.memory_map.regions}


# The vectors of peers 1.3.
def test_qemu_drops_the_pcie_window_that_does_not_fit() -> None:
    choice = choose("qemu-virt", 1000, 40)
    assert (choice.ipa_bits, choice.machine_type, choice.dropped) == (40, 0x28, ("pcie-window",))
    assert choice.note == "without pcie-window"


def test_qemu_refuses_memory_beyond_the_limit() -> None:
    choice = choose("qemu-virt", 1024, 40)
    assert (choice.ipa_bits, choice.machine_type) == (None, None)
    assert choice.problem == "addressing is limited to 40 bits, but memory exceeds it by 1 GiB"


def test_qemu_needs_41_bits_for_1024_gib() -> None:
    choice = choose("qemu-virt", 1024, 44)
    assert (choice.ipa_bits, choice.dropped) == (41, ())
    assert places(choice)["pcie-window"] == 1536


@pytest.mark.parametrize(
    ("without", "bits"),
    [
        ((), 40),
        (("pcie-window",), 39),
        (("pcie-window", "ecam"), 39),  # the redistributors are at 256 GiB still
        (("pcie-window", "ecam", "redistributors"), 32),
    ],
)
def test_qemu_without_high_regions(without: tuple[str, ...], bits: int) -> None:
    assert qemu_virt(Question(ram(1), 48), without=without).ipa_bits == bits


@pytest.mark.parametrize(("limit", "bits"), [(36, 32), (38, 32), (39, 39), (40, 40), (52, 40)])
def test_qemu_drops_what_a_small_limit_has_no_room_for(limit: int, bits: int) -> None:
    choice = choose("qemu-virt", 1, limit)
    assert (choice.ipa_bits, choice.works) == (bits, True)


@pytest.mark.parametrize(("gib", "works"), [(3, True), (4, False)])
def test_qemu_without_highmem_has_32_bits(gib: int, works: bool) -> None:
    choice = choose("qemu-virt-highmem-off", gib, 48)
    assert (choice.works, choice.ipa_bits) == (works, 32 if works else None)


def test_qemu_passes_type_0_where_the_kernel_has_no_choice() -> None:
    choice = choose("qemu-virt", 1000, None)
    assert (choice.ipa_bits, choice.machine_type) == (40, 0)
    assert choose("qemu-virt", 1024, None).problem is not None


@pytest.mark.parametrize(("gib", "bits"), [(1, 32), (2, 32), (3, 33), (6, 33), (30, 35), (31, 36), (1500, 41)])
def test_kvmtool_takes_odd_sizes_too(gib: int, bits: int) -> None:
    assert choose("kvmtool", gib, 48).ipa_bits == bits


def test_kvmtool_says_needed_and_available() -> None:
    assert choose("kvmtool", 63, 36).problem == "memory too large: needs 37 bits, 36 available"
    assert choose("kvmtool", 62, 36).works
    assert choose("kvmtool", 62, None).machine_type == 0


@pytest.mark.parametrize("limit", [32, 36, 40, 48, 52])
@pytest.mark.parametrize("name", ["host-maximum", "crosvm", "cloud-hypervisor", "firecracker"])
def test_these_take_the_hosts_maximum(name: str, limit: int) -> None:
    assert choose(name, 1, limit).ipa_bits == limit


def test_host_maximum_fails_late() -> None:
    choice = choose("host-maximum", 64, 36)
    assert choice.ipa_bits == 36
    assert choice.problem == "ram ends 1 GiB beyond 2^36: KVM refuses its slot (EFAULT)"
    window = MemoryMap([*ram(1).regions, Region("window", 64 * GIB, GIB, DEVICE)])
    choice = STRATEGIES["host-maximum"].choose(Question(window, 36))
    assert choice.problem == "window ends 1 GiB beyond 2^36: the guest cannot reach it"


def test_crosvm_panics_where_ram_leaves_no_room_for_its_window() -> None:
    assert choose("crosvm", 61, 36).works
    assert "panics: its addresses end at 0x1000000000" in str(choose("crosvm", 62, 36).problem)


def test_cloud_hypervisor_uses_46_bits_at_most_and_keeps_64_kib() -> None:
    assert choose("cloud-hypervisor", 62, 36).works
    assert "beyond the 2^36 less 64 KiB" in str(choose("cloud-hypervisor", 63, 36).problem)
    assert "beyond the 2^46 less 64 KiB" in str(choose("cloud-hypervisor", 1 << 16, 52).problem)
    assert places(choose("cloud-hypervisor", 8, 48)) == {"low devices": 0, "ram": 1, "ram, the rest": 4}


def test_firecracker_goes_on_behind_its_mmio() -> None:
    assert places(choose("firecracker", 300, 40)) == {"low devices": 0, "ram": 2, "mmio64": 256, "ram, the rest": 512}
    assert choose("firecracker", 1, 36).note == "its 64-bit MMIO (256 to 512 GiB) is out of reach"
    assert choose("firecracker", 300, 39).problem == (
        "ram, the rest ends 46 GiB beyond 2^39: KVM refuses its slot (EFAULT)"
    )


@pytest.mark.parametrize(
    ("gib", "limit", "bits", "problem"),
    [
        (1, 48, 40, None),
        (1, None, 40, None),
        (1, 36, None, "KVM refuses type 0 (EINVAL): it means 40 bits, and the limit is 36"),
        (1024, 48, 40, "ram ends 1 GiB beyond 2^40: KVM refuses its slot (EFAULT)"),
    ],
)
def test_default(gib: int, limit: int | None, bits: int | None, problem: str | None) -> None:
    choice = choose("default", gib, limit)
    assert (choice.ipa_bits, choice.problem) == (bits, problem)
    assert choice.machine_type == (None if bits is None else 0)


@settings(max_examples=40)
@given(
    st.sampled_from(sorted(STRATEGIES)),
    st.one_of(st.none(), st.integers(32, 52)),
    st.sampled_from(PAGE_SIZES),
    st.integers(1, 1 << 50),
)
def test_what_works_is_within_the_size_that_is_chosen(name: str, limit: int | None, page_size: int, size: int) -> None:
    question = Question(MemoryMap([Region("ram", GIB, -(-size // page_size) * page_size)]), limit, page_size)
    choice = STRATEGIES[name].choose(question)
    assert choice.works or choice.problem
    assert (choice.ipa_bits is None) == (choice.machine_type is None)
    if choice.ipa_bits is not None:
        assert 32 <= choice.ipa_bits <= question.available_bits
    if choice.works:
        memory = [region for region in choice.memory_map.regions if region.is_slot]
        assert sum(region.size for region in memory) == question.ram_size
        assert choice.ipa_bits is not None
        assert bits_for(max(region.end for region in memory)) <= choice.ipa_bits


@settings(max_examples=40)
@given(st.sampled_from(sorted(STRATEGIES)), st.one_of(st.none(), st.integers(32, 52)), st.sampled_from(PAGE_SIZES))
def test_largest_ram_works_and_one_page_more_does_not(name: str, limit: int | None, page_size: int) -> None:
    strategy = STRATEGIES[name]
    largest = strategy.largest_ram(limit, page_size)

    def works(size: int) -> bool:
        return strategy.choose(Question(MemoryMap([Region("ram", GIB, size)]), limit, page_size)).works

    assert not largest or works(largest)
    assert not works(largest + page_size)


def test_only_three_rules_take_the_users_map_as_it_is() -> None:
    assert set(STRATEGIES) - set(OWN_MAP) == {"minimum", "default", "host-maximum"}
    moved = MemoryMap([Region("ram", 4 * GIB, GIB), Region("uart", 0x9000000, 4096, DEVICE)])
    for name, strategy in STRATEGIES.items():
        there = moved.regions[1] in strategy.choose(Question(moved, 44)).memory_map.regions
        assert there != strategy.own_map, name


@pytest.mark.parametrize("name", OWN_MAP)
def test_map_without_ram_is_no_question_for_a_rule_about_ram(name: str) -> None:
    only_device = MemoryMap([Region("uart", 0, 4096, DEVICE)])
    assert "the map has no RAM" in str(STRATEGIES[name].choose(Question(only_device, 40)).problem)


@pytest.mark.parametrize("name", sorted(STRATEGIES))
def test_absurd_amount_of_ram_is_an_answer_and_no_crash(name: str) -> None:
    absurd = MemoryMap([Region("ram", 0, (1 << 64) - 65536)])
    assert not STRATEGIES[name].choose(Question(absurd, 52)).works


def test_bad_limits_and_pages_are_refused_by_every_strategy() -> None:
    for strategy in STRATEGIES.values():
        with pytest.raises(LayoutError, match="32 to 52"):
            strategy.choose(Question(ram(1), 31))
        with pytest.raises(LayoutError, match="arm64 has"):
            strategy.choose(Question(ram(1), 40, 8192))


def test_every_strategy_says_where_its_rule_is_from() -> None:
    for name, strategy in STRATEGIES.items():
        assert strategy.name == name
        assert strategy.used_by
        assert strategy.rule
        assert strategy.source
