# SPDX-License-Identifier: Apache-2.0
"""Which release behaves how: the version table of the specification, against the rows of data that stand for it."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import fields

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvmipa.backend.emulated.release import CHANGES, Behaviour, Change, behaviour, parse

from .asking import RELEASES

# Behaviour -> the first of RELEASES that has it, in the last point release of its line; the section beside it.
VERSION_TABLE = {
    "ipa_size": "4.20",  # 0.1, 1.5
    "rejects_unsupported_default": "5.4",  # 0.1, 0.2
    "host_independent_limit": "5.10",  # 0.1, 1.4
    "checks_stage2_granule": "5.10",  # 0.1, 1.4
    "accepts_new_stage2_granules": "5.10",  # 0.2
    "caps_at_48_without_lpa2": "5.10",  # 0.1, 0.2
    "mode_protected": "6.1",  # 1.1
    "mode_none": "6.1",  # 1.1
    "descriptor_first": "6.1",  # 0.1, 2.4
    "ha_is_optional": "6.1",  # 0.1, 3.1
    "mode_nested": "6.12",  # 1.8
    "pkvm_ignores_size": "6.12",  # 0.1, 1.7
    "lpa2": "6.12",  # 0.1, 1.4
    "wide_4k_16k_kernels": "6.12",  # 3.3
    "forgets_trace_requests": "6.12",  # 1.3
    "protected_type": "7.3",  # 0.1, 2.1
    "pkvm_reserves_vms": "7.3",  # 2.3
    "nested_needs_gicv3": "7.3",  # as real kernels of 6.12 and 7.3 did
    "injects_out_of_range": "6.1",  # 5.2
    "esr_of_64_bits": "6.1",  # 5.3
    "esr_is_unsigned": "6.12",  # 5.3
    "names_walk_level": "7.3",  # 5.3
    "irq_line_names_vcpu_by_id": "6.12",  # 4.8
    "ppi_goes_to_vcpu_found": "6.12",  # 4.8
    "vcpu_index_is_checked": "6.1",  # as real kernels did
    "irq_line_readies_vgic_first": "7.3",  # 4.8
    "irqfd_is_exclusive": "7.3",  # as real kernels did
    "copy_tags_is_bounded": "6.12",  # 4.9
    "coalesced_ring_fills_up": "6.12",  # as real kernels did
    "writes_more_id_registers": "7.3",  # 4.9
    "pkvm_filters_requests": "7.3",  # 3.5
    "slot_may_end_at_limit": "5.4",  # 0.2
    "allows_readonly_mappings": "5.10",  # 4.4
    "mte_by_mapping": "6.12",  # 4.4
    "pkvm_shares_pages": "7.3",  # as real kernels did
    "data_page_is_mixed": "7.3",  # as real kernels did
    "refuses_cached_frames": "7.3",  # 4.4
    "device_range_includes_size": "6.1",  # device-spec 2.3, 2.5, 2.7
    "removes_failed_redistributors": "6.1",  # device-spec 2.5, step 9
    "vgic_get_address_only_writes": "6.1",  # device-spec 2.6
    "legacy_address_is_v2_only": "6.1",  # device-spec 1.5
    "legacy_address_ignores_upper_half": "6.1",  # device-spec 1.5
    "vfio_ends_with_descriptor": "6.1",  # as real kernels did
    "vgic_needs_host_first": "6.1",  # device-spec 1.2
    "vgic_finds_vcpu_first": "6.1",  # device-spec 2.8
    "vgic_sysregs_are_found_late": "6.1",  # device-spec 2.8
    "vgic_revision_3": "6.1",  # device-spec 2.8
    "gicr_typer_tells_last": "6.1",  # as real kernels did
    "save_pending_needs_init": "6.1",  # device-spec 2.8
    "max_vcpus_of_vm": "6.1",  # device-spec 4.1, step 2
    "pmu_is_chosen": "6.1",  # device-spec 3.1
    "vcpu_id_has_64_bits": "6.12",  # device-spec 4.1
    "vcpu_features_of_vm": "6.12",  # device-spec 4.2
    "timer_ppis_of_vm": "6.12",  # device-spec 3.2
    "preferred_target_is_generic": "6.12",  # device-spec 4.2
    "pmu_type_is_10": "6.12",  # as real kernels did
    "vcpu_id_is_looked_up_first": "7.3",  # device-spec 4.1, step 3
    "el2_and_strict_pmu_features": "7.3",  # device-spec 4.2
    "pmu_counters_are_chosen": "7.3",  # device-spec 3.1
    "vgic_registers_before_init": "7.3",  # device-spec 2.8
    "vgic_maintenance_irq": "7.3",  # device-spec 2.8
    "vgic_v2_targets_by_id": "7.3",  # as real kernels did
    "vgic_v2_deactivate": "7.3",  # as real kernels did
    "emulated_instructions_step": "6.1",  # as real kernels did
    "failed_run_kills": "6.1",  # device-spec 2.9
    "mmio_loads_are_extended": "7.3",  # as real kernels did
    "run_flags": "6.1",  # device-spec 5.4
    "pmu_needs_init": "6.1",  # device-spec 2.9
    "smc_is_a_call": "6.12",  # device-spec 5.1
    "system_events_have_data": "6.1",  # device-spec 5.2
    "its_knows_its_controls": "7.3",  # device-spec 2.7
    "destroys_by_blocks": "7.3",  # 0.1, 6
    "psci_checks_affinity": "6.1",  # device-spec 5.2
    "trng_service": "6.1",  # device-spec 5.3
    "vendor_service": "6.1",  # device-spec 5.3
    "hides_absent_pmu": "6.1",  # as real kernels did
    "csv3_is_free": "6.1",  # as real kernels did
    "exceptions_wait_for_run": "6.1",  # as real kernels did
    "aarch32_truncates_all": "6.1",  # as real kernels did
    "loads_registers_early": "6.1",  # as real kernels did
    "mp_state_suspended": "6.1",  # device-spec 4.6
    "hypercall_bitmaps": "6.1",  # device-spec 4.5
    "psci_1_1": "6.1",  # device-spec 4.5
    "reads_register_value_first": "6.1",  # device-spec 4.5
    "physical_timer_registers": "6.12",  # device-spec 4.5
    "id_registers_of_vm": "6.12",  # device-spec 4.5
    "caches_are_made_up": "6.12",  # as real kernels did
    "events_need_initialisation": "6.1",  # as real kernels did
    "init_keeps_serror": "6.12",  # as real kernels did
    "events_move_pc": "7.3",  # as real kernels did
    "aborts_tell_length": "7.3",  # as real kernels did
    "vendor_bitmap_2": "7.3",  # device-spec 4.5
    "psci_1_3": "7.3",  # device-spec 4.5
    "timers_are_registers": "7.3",  # device-spec 4.5
    "pmu_bits_are_values": "7.3",  # as real kernels did
    "el1_width_of_vm": "6.1",  # device-spec 4.2
    "pfnmap_blocks": "6.1",  # 5.5
    "blocks_on_permission_fault": "6.1",  # 5.5
    "remaps_other_sizes": "6.1",  # 5.5
    "device_blocks": "6.12",  # 5.5
    "device_normal_nc": "6.12",  # 5.5
    "cacheable_pfnmap": "7.3",  # 5.5
    "dumps_whole_space": "7.3",  # 8.1
    "clears_dirty_log": "5.4",  # device-spec 4.9
    "filters_calls": "6.12",  # device-spec 3.5
    "os_lock_is_kept": "6.1",  # as real kernels did
    "pmcr_of_vm": "6.12",  # as real kernels did
    "pmu_slots_register": "7.3",  # as real kernels did
    "permission_registers": "6.12",  # as real kernels did
    "registers_need_features": "7.3",  # as real kernels did
    "invariants_are_in_order": "7.3",  # as real kernels did
    "sctlr2_register": "7.3",  # as real kernels did
    "sve_and_ptrauth_features": "5.4",  # device-spec 4.2
}

# kernel-ipa-spec 0.2: a fix, a release without it, releases of the same line or later ones with it.
POINT_RELEASES = [
    ("rejects_unsupported_default", "4.20.17", ("5.4.250", "5.10.262", "6.1.192", "6.12.117", "7.3.4")),
    ("rejects_unsupported_default", "5.10.0", ("5.10.262", "5.12")),
    ("rejects_unsupported_default", "5.4.0", ("5.4.250",)),
    ("slot_may_end_at_limit", "5.10.0", ("5.10.262", "5.12")),
    ("slot_may_end_at_limit", "5.4.0", ("5.4.250",)),
    ("caps_at_48_without_lpa2", "5.10.0", ("5.10.223", "5.10.262", "5.15", "6.1.192")),
    ("events_need_initialisation", "6.1.176", ("6.1.192", "6.12.117")),
    ("accepts_new_stage2_granules", "5.10.0", ("5.10.262", "5.12", "6.1.192")),
]


def has(release: str, name: str) -> bool:
    found = getattr(behaviour(release), name)
    assert isinstance(found, bool)
    return found


@pytest.mark.parametrize("release", RELEASES)
@pytest.mark.parametrize(("name", "first"), VERSION_TABLE.items())
def test_behaviour_is_the_version_tables(name: str, first: str, release: str) -> None:
    assert has(release, name) == (RELEASES.index(release) >= RELEASES.index(first))


def test_version_table_has_every_behaviour() -> None:
    assert {field.name for field in fields(Behaviour)} == set(VERSION_TABLE)


def test_every_behaviour_has_one_row() -> None:
    assert Counter(change.name for change in CHANGES) == Counter(field.name for field in fields(Behaviour))


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.name)
def test_row_names_a_section_or_the_kernels_it_was_seen_on(change: Change) -> None:
    section = re.match(r"((kernel-ipa|kernel-device|device)-spec )?\d\.\d+(, (\d\.\d+|step \d))*: \S", change.source)
    kernels = re.search(r"\b\d\.\d+\.\d+\b", change.source)
    assert section or kernels, change.source


@pytest.mark.parametrize(("name", "without", "with_it"), POINT_RELEASES)
def test_point_release_brings_a_fix(name: str, without: str, with_it: tuple[str, ...]) -> None:
    assert not has(without, name)
    assert all(has(release, name) for release in with_it)


@pytest.mark.parametrize("name", VERSION_TABLE)
def test_what_came_stays(name: str) -> None:
    seen = [has(release, name) for release in RELEASES]
    assert seen == sorted(seen)


@pytest.mark.parametrize("line", ["5.4", "5.10"])
def test_release_without_a_point_is_the_last_of_its_line(line: str) -> None:
    assert behaviour(line) == behaviour(f"{line}.999")
    assert behaviour(line) != behaviour(f"{line}.0")


@given(st.sampled_from(RELEASES), st.integers(0, 400))
def test_later_point_releases_lose_nothing(line: str, point: int) -> None:
    for field in fields(Behaviour):
        assert has(f"{line}.{point}", field.name) <= has(f"{line}.{point + 1}", field.name)


@pytest.mark.parametrize(
    ("release", "numbers"),
    [
        ("4.19.0", (4, 19, 0)),
        # A distribution's ABI number is no point release: Debian's 5.10.0-32 is 5.10.223.
        ("5.10.0-32-arm64", parse("5.10")),
        ("6.8.0-31-generic", parse("6.8")),
        ("5.10.0-rc3", (5, 10, 0)),
        ("5.10.223", (5, 10, 223)),
        ("6.1.192", (6, 1, 192)),
        ("6.12.117+deb13-arm64-16k", (6, 12, 117)),
        ("7.3.4-lab", (7, 3, 4)),
    ],
)
def test_release_is_read_from_what_kernels_call_themselves(release: str, numbers: tuple[int, int, int]) -> None:
    assert parse(release) == numbers


@pytest.mark.parametrize(
    ("release", "line"), [("4.19", (4, 19)), ("6.12", (6, 12)), ("7.3", (7, 3)), ("7.3-rc1", (7, 3))]
)
def test_line_is_read_without_a_point_release(release: str, line: tuple[int, int]) -> None:
    assert parse(release)[:2] == line


@pytest.mark.parametrize("release", ["", "6", "6.", ".12", "linux", "v6.12", " 6.12", "6-12", "-6.12", "six.twelve"])
def test_what_is_no_release_is_refused(release: str) -> None:
    with pytest.raises(ValueError, match="is not a kernel release"):
        parse(release)


@pytest.mark.parametrize("release", [None, 6.12, 6, (6, 12), b"6.12"])
def test_what_is_no_text_is_refused(release: object) -> None:
    with pytest.raises((ValueError, TypeError)):
        parse(release)  # type: ignore[arg-type]


@pytest.mark.parametrize("release", ["2.6.32", "3.10.0", "4.9.337", "4.18", "4.18.99", "7.4", "7.10", "8.0"])
def test_release_outside_4_19_to_7_3_is_refused(release: str) -> None:
    with pytest.raises(ValueError, match=r"4\.19 to 7\.3"):
        parse(release)
