# SPDX-License-Identifier: Apache-2.0
"""KVM_ENABLE_CAP of the emulated kernel, release by release (kernel-device-spec 4.7)."""

from __future__ import annotations

from errno import E2BIG, EFAULT, EINVAL

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.backend.emulated.asking import KVM_CHECK_EXTENSION, PROTECTED, SPECIFIED
from tests.backend.emulated.vm_asking import KVM_ENABLE_CAP, emulated, give_vcpus, memory, state

MANUAL, NISV, HALT_POLL, MTE, SUSPEND, RING, RING_BITMAP, EAGER, IMP_ID, SEA = (
    168, 177, 182, 205, 216, 223, 225, 228, 239, 245,
)  # fmt: skip
PAGE = 4096
WITH_MTE = {"id_aa64pfr1_el1": 0x200}

# Capability, an argument that it takes, the first of the four releases that has it.
FIRST = [
    (MANUAL, 1, "5.10"),
    (NISV, 0, "5.10"),
    (HALT_POLL, 0, "5.10"),
    (MTE, 0, "6.1"),
    (SUSPEND, 0, "6.1"),
    (RING, PAGE, "6.12"),
    (EAGER, PAGE, "6.12"),
    (IMP_ID, 0, "7.3"),
    (SEA, 0, "7.3"),
]


def releases_from(first: str) -> tuple[str, ...]:
    return SPECIFIED[SPECIFIED.index(first) :]


@pytest.mark.parametrize("release", SPECIFIED)
@pytest.mark.parametrize(("cap", "value", "first"), FIRST)
def test_capability_is_enabled_from_its_release_on_and_takes_no_flags(
    cap: int, value: int, first: str, release: str
) -> None:
    with emulated(release, **WITH_MTE) as vm:
        assert vm.enable(cap, value, flags=1) == (0 if cap == RING and release in releases_from(first) else -EINVAL)
    with emulated(release, **WITH_MTE) as vm:
        assert vm.enable(cap, value) == (0 if release in releases_from(first) else -EINVAL)


@pytest.mark.parametrize("release", SPECIFIED)
@pytest.mark.parametrize("cap", [0, 1, 98, 165, 192, 227, 240, 999, 0xFFFFFFFF])
def test_all_other_capabilities_cannot_be_enabled(cap: int, release: str) -> None:
    with emulated(release) as vm:
        assert vm.enable(cap, 65536) == -EINVAL


def test_bad_pointer_comes_first() -> None:
    with emulated() as vm:
        assert vm.value(KVM_ENABLE_CAP, 8) == -EFAULT


@pytest.mark.parametrize("value", [0, 1, 3])
def test_manual_dirty_log_protection_is_kept(value: int) -> None:
    with emulated() as vm:
        assert vm.enable(MANUAL, value) == 0
        assert state(vm).manual_dirty_log_protect == value
        assert vm.enable(MANUAL, 2) == -EINVAL
        assert state(vm).manual_dirty_log_protect == value


@pytest.mark.parametrize("value", [2, 4, 5, 1 << 63])
def test_initially_all_set_needs_manual_protection(value: int) -> None:
    with emulated() as vm:
        assert vm.enable(MANUAL, value) == -EINVAL


def test_before_5_8_there_was_no_initially_all_set() -> None:
    with emulated("5.4") as vm:
        assert (vm.enable(MANUAL, 1), vm.enable(MANUAL, 3)) == (0, -EINVAL)


def test_halt_poll_is_a_number_of_32_bits() -> None:
    with emulated() as vm:
        assert (vm.enable(HALT_POLL, 0xFFFFFFFF), vm.enable(HALT_POLL, 1 << 32)) == (0, -EINVAL)
        assert state(vm).halt_poll_ns == 0xFFFFFFFF


@given(st.integers(0, (1 << 64) - 1) | st.integers(0, 40).map(lambda bit: 1 << bit))
def test_ring_is_a_power_of_two_from_a_page_to_a_megabyte(value: int) -> None:
    size = value & 0xFFFFFFFF
    expected = 0 if size in {1 << bit for bit in range(12, 21)} else -EINVAL
    if size in {1 << bit for bit in range(21, 32)}:
        expected = -E2BIG
    with emulated() as vm:
        assert vm.enable(RING, value) == expected
        assert state(vm).dirty_ring_size == (0 if expected else size)


def test_ring_is_set_once_and_its_size_is_looked_at_first() -> None:
    with emulated() as vm:
        assert vm.enable(RING, 65536) == 0
        assert (vm.enable(RING, 65536), vm.enable(RING, 2 << 20)) == (-EINVAL, -E2BIG)
        assert state(vm).dirty_ring_size == 65536


@pytest.mark.parametrize(("cap", "value"), [(MTE, 0), (RING, PAGE), (IMP_ID, 0)])
def test_what_changes_vcpus_is_refused_once_there_is_one(cap: int, value: int) -> None:
    with emulated("7.3", **WITH_MTE) as vm:
        give_vcpus(vm, 0)
        assert vm.enable(cap, value) == -EINVAL
    with emulated("7.3", **WITH_MTE) as vm:
        give_vcpus(vm, 0)
        assert [vm.enable(cap) for cap in (NISV, SUSPEND, SEA, EAGER)] == [0, 0, 0, 0]


def test_ring_with_bitmap_needs_the_ring_and_no_memory() -> None:
    with emulated() as vm, memory() as at:
        assert vm.enable(RING_BITMAP) == -EINVAL
        vm.enable(RING, PAGE)
        assert vm.enable(RING_BITMAP, flags=1) == -EINVAL
        assert vm.enable(RING_BITMAP, 9) == 0
        assert state(vm).dirty_ring_with_bitmap
        assert vm.slot(at) == 0
        assert vm.enable(RING_BITMAP) == -EINVAL


@pytest.mark.parametrize(
    ("page_size", "sizes"),
    [(4096, {1 << 12, 1 << 21, 1 << 30}), (16384, {1 << 14, 1 << 25}), (65536, {1 << 16, 1 << 29})],
)
def test_eager_split_takes_the_block_sizes_of_the_granule(page_size: int, sizes: set[int]) -> None:
    with emulated(page_size=page_size, id_aa64mmfr0_el1=0x100125) as vm:
        taken = {1 << bit for bit in range(64) if vm.enable(EAGER, 1 << bit) == 0}
        assert taken == sizes
        assert vm.enable(EAGER, sum(sizes)) == -EINVAL
        assert vm.value(KVM_CHECK_EXTENSION, EAGER) == max(sizes)
        assert vm.enable(EAGER, 0) == 0
        assert vm.value(KVM_CHECK_EXTENSION, EAGER) == 0


def test_eager_split_is_chosen_while_there_is_no_memory() -> None:
    with emulated() as vm, memory() as at:
        vm.slot(at)
        assert (vm.enable(EAGER, PAGE), vm.enable(EAGER, 0)) == (-EINVAL, -EINVAL)
        vm.slot(at, size=0)
        assert vm.enable(EAGER, PAGE) == 0


def test_mte_needs_cpus_that_have_it() -> None:
    with emulated() as vm:
        assert vm.enable(MTE) == -EINVAL
        assert not state(vm).mte


@pytest.mark.parametrize(
    ("release", "machine_type", "enabled"),
    [
        ("6.12", 32, {MANUAL, NISV, HALT_POLL, MTE, SUSPEND, RING, EAGER}),
        ("7.3", 32, {MANUAL, NISV, HALT_POLL, SUSPEND, RING, IMP_ID, SEA}),
        ("7.3", 32 | PROTECTED, {MANUAL, HALT_POLL, RING}),
    ],
)
def test_pkvm_refuses_what_it_does_not_allow_since_7_3(release: str, machine_type: int, enabled: set[int]) -> None:
    with emulated(release, machine_type, mode="protected", **WITH_MTE) as vm:
        assert {cap for cap, value, _ in FIRST if vm.enable(cap, value) == 0} == enabled
        assert vm.enable(EAGER, 0) == (0 if EAGER in enabled else -EINVAL)
