# SPDX-License-Identifier: Apache-2.0
"""HostProfile: what it refuses, what it fills in, and what a host makes of its kernel."""

from __future__ import annotations

from dataclasses import FrozenInstanceError, replace
from typing import Any

import pytest

from kvmipa import HostProfile
from kvmipa.backend.emulated import EmulatedBackend
from kvmipa.stage2.vtcr import Vtcr

from .asking import RELEASES, host

K4, K16, K64 = 4096, 16384, 65536

BAD_VALUES: list[tuple[dict[str, Any], str]] = [
    ({"release": "8.0"}, "8.0"),
    ({"release": "six"}, "not a kernel release"),
    ({"page_size": 0}, "page_size=0"),
    ({"page_size": 8192}, "page_size=8192"),
    ({"page_size": 4}, "page_size=4"),
    ({"page_size": True}, "page_size=True"),
    ({"page_size": 4096.0}, "page_size=4096.0"),
    ({"page_size": "4096"}, "page_size='4096'"),
    ({"mode": "pkvm"}, "mode='pkvm'"),
    ({"mode": ""}, "mode=''"),
    ({"gic": "v4"}, "gic='v4'"),
    ({"gic": False}, "gic=False"),
    ({"id_aa64mmfr0_el1": -1}, "id_aa64mmfr0_el1"),
    ({"id_aa64mmfr0_el1": 1 << 64}, "id_aa64mmfr0_el1"),
    ({"id_aa64mmfr1_el1": 1 << 64}, "id_aa64mmfr1_el1"),
    ({"id_aa64pfr0_el1": -1}, "id_aa64pfr0_el1"),
    ({"cpus": 0}, "cpus"),
    ({"cpus": -2}, "cpus"),
    ({"pa_bits": 0}, "pa_bits=0"),
    ({"pa_bits": 48.0}, "pa_bits=48.0"),
    ({"pa_bits": 40}, "pa_bits=40"),
    ({"pa_bits": 56}, "pa_bits=56"),
    ({"va_bits": 47}, "va_bits=47"),
    ({"va_bits": 0}, "va_bits=0"),
    ({"page_size": K16, "va_bits": 39}, "va_bits=39"),
    ({"page_size": K64, "va_bits": 39}, "va_bits=39"),
    # kernel-ipa-spec 3.3: CONFIG_ARM64_PA_BITS_52 came with 64K pages alone.
    ({"release": "5.10", "pa_bits": 52}, "pa_bits=52"),
    ({"release": "6.1", "pa_bits": 52}, "pa_bits=52"),
    ({"release": "6.1", "page_size": K16, "pa_bits": 52}, "pa_bits=52"),
    ({"errata": frozenset({"AC03_CPU_39"})}, "AC03_CPU_39"),
    ({"errata": ["AC03_CPU_38", "other"]}, "other"),
    # A string is a collection of letters.
    ({"errata": "AC03_CPU_38"}, "errata"),
]

BAD_TYPES: list[tuple[dict[str, Any], str]] = [
    ({"id_aa64mmfr0_el1": "0x1124"}, "id_aa64mmfr0_el1 is an int"),
    ({"id_aa64mmfr0_el1": 4.0}, "id_aa64mmfr0_el1 is an int"),
    ({"id_aa64mmfr1_el1": None}, "id_aa64mmfr1_el1 is an int"),
    ({"id_aa64dfr0_el1": True}, "id_aa64dfr0_el1 is an int"),
    ({"cpus": "2"}, "cpus is an int"),
    ({"cpus": True}, "cpus is an int"),
    ({"hw_afdbm": "no"}, "hw_afdbm is True or False"),
    ({"fwb": None}, "fwb is True or False"),
    ({"dic": 1}, "dic is True or False"),
]


@pytest.mark.parametrize(("fields", "named"), BAD_VALUES, ids=str)
def test_value_of_no_machine_is_refused_by_name(fields: dict[str, Any], named: str) -> None:
    with pytest.raises(ValueError, match=named):
        HostProfile(**fields)


@pytest.mark.parametrize(("fields", "named"), BAD_TYPES, ids=str)
def test_value_of_another_type_is_refused_by_name(fields: dict[str, Any], named: str) -> None:
    with pytest.raises(TypeError, match=named):
        HostProfile(**fields)


def test_unknown_field_is_refused() -> None:
    with pytest.raises(TypeError, match="parange"):
        HostProfile(parange=5)  # type: ignore[call-arg]


def test_profile_cannot_be_changed() -> None:
    with pytest.raises(FrozenInstanceError):
        HostProfile().release = "6.1"  # type: ignore[misc]


def test_copy_with_another_field_is_checked_too() -> None:
    with pytest.raises(ValueError, match="page_size"):
        replace(HostProfile(), page_size=1)


def test_profiles_with_the_same_machine_are_equal_whatever_they_are_called() -> None:
    named = HostProfile(name="this", source="that")
    assert named == HostProfile()
    assert len({named, HostProfile()}) == 1


@pytest.mark.parametrize(
    ("release", "page_size", "pa_bits", "va_bits"),
    [
        ("5.10", K4, 48, 48),
        ("6.1", K4, 48, 48),
        ("6.1", K16, 48, 48),
        ("6.1", K64, 52, 48),
        ("6.12", K4, 52, 52),
        ("6.12", K16, 52, 52),
        ("7.3", K4, 52, 52),
        ("7.3", K16, 52, 52),
    ],
)
def test_address_sizes_left_open_are_the_usual_ones(release: str, page_size: int, pa_bits: int, va_bits: int) -> None:
    # kernel-ipa-spec Appendix A, "Reference settings of the kernels run"; 3.3.
    profile = HostProfile(release=release, page_size=page_size)
    assert (profile.config_pa_bits, profile.config_va_bits) == (pa_bits, va_bits)


@pytest.mark.parametrize("release", ["6.1", "6.12", "7.3"])
def test_mode_none_has_no_device_and_no_limit(release: str) -> None:
    profile = host(release, mode="none")
    assert (profile.starts_kvm, profile.ipa_limit) == (False, None)


def test_release_without_the_capability_has_a_device_but_no_limit() -> None:
    # kernel-ipa-spec 1.5
    profile = host("4.19")
    assert (profile.starts_kvm, profile.ipa_limit) == (True, None)


@pytest.mark.parametrize("page_size", [K4, K16, K64])
def test_cpu_without_the_stage_2_granule_has_no_limit(page_size: int) -> None:
    # kernel-ipa-spec 1.4: TGRANx_2 == 1
    register = 5 | 1 << {K4: 40, K16: 32, K64: 36}[page_size]
    assert host(page_size=page_size, id_aa64mmfr0_el1=register).ipa_limit is None


@pytest.mark.parametrize("mode", ["none", "vhe"])
def test_host_without_a_limit_has_no_register(mode: str) -> None:
    register = 5 | 1 << 40
    with pytest.raises(ValueError, match="no IPA sizes"):
        host(mode=mode, id_aa64mmfr0_el1=register).vtcr_el2(40)


# kernel-ipa-spec 1.1, 1.8: the releases in which kvm-arm.mode means something.
KNOWN_MODES = {"protected": ("6.1", "6.12", "7.3"), "none": ("6.1", "6.12", "7.3"), "nested": ("6.12", "7.3")}


@pytest.mark.parametrize("release", RELEASES)
@pytest.mark.parametrize("mode", KNOWN_MODES)
def test_mode_that_the_release_does_not_know_changes_nothing(mode: str, release: str) -> None:
    if release in KNOWN_MODES[mode]:
        assert host(release, mode=mode).effective_mode == mode
        return
    ignoring, plain = host(release, mode=mode), host(release)
    assert ignoring.effective_mode == "vhe"
    assert (ignoring.starts_kvm, ignoring.ipa_limit, ignoring.pkvm) == (True, plain.ipa_limit, False)
    assert ignoring.type_rules == plain.type_rules


@pytest.mark.parametrize("gic", ["v2", "v3"])
@pytest.mark.parametrize("release", ["5.10", "6.1", "6.12", "7.3"])
def test_nested_mode_of_7_3_needs_a_gicv3(release: str, gic: str) -> None:
    # Seen on 7.3.4 ("NV support requires GICv3") and 6.12.117.
    assert host(release, mode="nested", gic=gic).starts_kvm == ((release, gic) != ("7.3", "v2"))
    assert host(release, gic=gic).starts_kvm


@pytest.mark.parametrize("mode", ["vhe", "nvhe", "nested"])
@pytest.mark.parametrize("release", ["6.12", "7.3"])
def test_mode_does_not_change_limit_or_rules_without_pkvm(release: str, mode: str) -> None:
    assert host(release, mode=mode).ipa_limit == 48
    assert host(release, mode=mode).type_rules == host(release).type_rules


def test_pkvm_does_not_change_the_limit() -> None:
    # kernel-ipa-spec 1.7
    for parange in range(16):
        assert host(parange=parange, mode="protected").ipa_limit == host(parange=parange).ipa_limit


@pytest.mark.parametrize(("release", "ha"), [("4.20", 1), ("5.4", 1), ("5.10", 1), ("6.1", 0), ("6.12", 0), ("7.3", 0)])
@pytest.mark.parametrize("cause", [{"errata": frozenset({"AC03_CPU_38"})}, {"hw_afdbm": False}], ids=str)
def test_erratum_or_configuration_clears_ha_since_6_1(cause: dict[str, Any], release: str, ha: int) -> None:
    # kernel-ipa-spec 1.9, 3.1
    assert Vtcr(host(release, **cause).vtcr_el2(40))["HA"] == ha
    assert Vtcr(host(release).vtcr_el2(40))["HA"] == 1


def test_erratum_does_not_change_the_limit() -> None:
    # kernel-ipa-spec 1.9
    assert host(errata=frozenset({"AC03_CPU_38"})).ipa_limit == 48


def test_errata_may_be_any_collection() -> None:
    assert HostProfile(errata=["AC03_CPU_38"]).errata == frozenset({"AC03_CPU_38"})  # type: ignore[arg-type]


def test_there_are_presets() -> None:
    assert len(HostProfile.presets()) >= 3


@pytest.mark.parametrize("name", sorted(HostProfile.presets()))
def test_preset_says_what_it_is_and_where_its_numbers_are_from(name: str) -> None:
    profile = HostProfile.preset(name)
    assert profile.name == name
    assert len(profile.source) > 10


@pytest.mark.parametrize("name", sorted(HostProfile.presets()))
def test_preset_opens_and_has_its_limit(name: str) -> None:
    profile = HostProfile.preset(name)
    kernel = EmulatedBackend(profile)
    fd = kernel.open("/dev/kvm")
    if not profile.starts_kvm:
        assert (fd < 0, profile.ipa_limit) == (True, None)
        return
    try:
        assert kernel.ioctl(fd, 0xAE03, 165) == (profile.ipa_limit or 0)
    finally:
        kernel.close(fd)


def test_presets_cannot_be_changed() -> None:
    with pytest.raises(TypeError):
        HostProfile.presets()["mine"] = HostProfile()  # type: ignore[index]


def test_unknown_preset_is_answered_with_the_nearest_names() -> None:
    with pytest.raises(ValueError, match="raspberry-pi-4"):
        HostProfile.preset("rasberry-pi4")


def test_preset_whose_name_resembles_none_is_answered_with_some_names() -> None:
    with pytest.raises(ValueError, match="no host preset '0'; near: "):
        HostProfile.preset("0")


def test_machine_can_be_given_another_kernel() -> None:
    other = replace(HostProfile(), release="5.10")
    assert (other.config_pa_bits, other.config_va_bits, other.ipa_limit) == (48, 48, 48)


def test_pkvm_guest_runs_with_the_hosts_own_register() -> None:
    # kernel-ipa-spec 1.7: 64K pages, a 48-bit kernel on a 52-bit CPU: limit 52, but input size 48.
    profile = host("7.3", page_size=65536, pa_bits=48, parange=6, mode="protected")
    assert profile.ipa_limit == 52
    assert Vtcr(profile.vtcr_el2(52)).ipa_bits == 48
