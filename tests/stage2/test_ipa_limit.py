# SPDX-License-Identifier: Apache-2.0
"""The host's IPA limit: the specification's tables, and its reference functions written anew and compared.

The second half holds the comparison: a small model of the kernel, made from kernel-ipa-spec Appendix B without looking
at kvmipa, and random hosts and machine types on which the two must agree.
"""

from __future__ import annotations

from dataclasses import dataclass
from errno import EINVAL
from typing import Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from kvmipa import HostProfile, abi
from kvmipa.backend.emulated import EmulatedBackend
from kvmipa.machine_type import Verdict
from kvmipa.stage2.ipa_limit import legacy_ipa_limit

from .registers import GRANULE_2_LSB, GRANULE_LSB, PAGE_SIZES, mmfr0, mmfr0_lpa2

K4, K16, K64 = PAGE_SIZES
MODERN = ("5.10", "6.1", "6.12", "7.3")
SINCE_LPA2 = ("6.12", "7.3")
LEGACY = ("4.20", "5.4")

# kernel-ipa-spec 1.4, "Resulting limit": PARange -> 4K/16K without LPA2, with LPA2, 64K; PA is CONFIG_ARM64_PA_BITS.
PA = "PA"
LIMITS = [
    (0, 32, 32, 32),
    (1, 36, 36, 36),
    (2, 40, 40, 40),
    (3, 42, 42, 42),
    (4, 44, 44, 44),
    (5, 48, 48, 48),
    (6, 48, 52, 52),
    *[(reserved, 48, PA, PA) for reserved in range(7, 16)],
]


def limit_of(register: int, page_size: int = K4, release: str = "6.12", **more: Any) -> int | None:
    return HostProfile(release=release, page_size=page_size, id_aa64mmfr0_el1=register, **more).ipa_limit


@pytest.mark.parametrize("release", MODERN)
@pytest.mark.parametrize("page_size", [K4, K16])
@pytest.mark.parametrize(("parange", "expected"), [(row[0], row[1]) for row in LIMITS])
def test_limit_of_4k_and_16k_stops_at_48_without_lpa2(
    parange: int, expected: int, page_size: int, release: str
) -> None:
    assert limit_of(mmfr0(parange, page_size), page_size, release) == expected


@pytest.mark.parametrize("release", SINCE_LPA2)
@pytest.mark.parametrize("pa_bits", [48, 52])
@pytest.mark.parametrize("page_size", [K4, K16])
@pytest.mark.parametrize(("parange", "expected"), [(row[0], row[2]) for row in LIMITS])
def test_limit_of_4k_and_16k_reaches_52_with_lpa2(
    parange: int, expected: int | str, page_size: int, pa_bits: int, release: str
) -> None:
    wanted = pa_bits if expected == PA else expected
    assert limit_of(mmfr0_lpa2(parange, page_size), page_size, release, pa_bits=pa_bits) == wanted


@pytest.mark.parametrize("release", ["5.10", "6.1"])
@pytest.mark.parametrize("page_size", [K4, K16])
def test_lpa2_counts_for_nothing_before_6_8(page_size: int, release: str) -> None:
    host = HostProfile(release=release, page_size=page_size, id_aa64mmfr0_el1=mmfr0_lpa2(6, page_size))
    assert (host.lpa2, host.ipa_limit) == (False, 48)


@pytest.mark.parametrize("release", MODERN)
@pytest.mark.parametrize("pa_bits", [48, 52])
@pytest.mark.parametrize(("parange", "expected"), [(row[0], row[3]) for row in LIMITS])
def test_limit_of_64k_is_the_cpus_and_the_kernels_for_reserved_values(
    parange: int, expected: int | str, pa_bits: int, release: str
) -> None:
    # 64K with a 48-bit kernel over-reports: PARange 6 is 52 whatever CONFIG_ARM64_PA_BITS.
    wanted = pa_bits if expected == PA else expected
    assert limit_of(mmfr0(parange, K64), K64, release, pa_bits=pa_bits) == wanted


@pytest.mark.parametrize("va_bits", [39, 48, 52])
def test_host_address_sizes_do_not_bound_the_limit_since_5_10(va_bits: int) -> None:
    assert limit_of(mmfr0_lpa2(6, K4), pa_bits=48, va_bits=va_bits) == 52


def test_4k_reports_52_before_the_fix_that_caps_it() -> None:
    # kernel-ipa-spec 0.2: "4K/16K with PARange=52 report 52 although unusable"
    assert limit_of(mmfr0(6), release="5.10.0") == 52
    assert limit_of(mmfr0(6), release="5.10.262") == 48


# kernel-ipa-spec 1.4: the values of TGRANx_2 with which KVM starts.
STARTS = {0: True, 1: False, **dict.fromkeys(range(2, 8), True), **dict.fromkeys(range(8, 16), False)}


@pytest.mark.parametrize("release", MODERN)
@pytest.mark.parametrize("page_size", PAGE_SIZES)
@pytest.mark.parametrize(("value", "starts"), STARTS.items())
def test_kvm_starts_by_the_stage_2_granule(value: int, starts: bool, page_size: int, release: str) -> None:
    host = HostProfile(release=release, page_size=page_size, id_aa64mmfr0_el1=mmfr0(4, page_size, granule_2=value))
    assert (host.starts_kvm, host.ipa_limit) == (starts, 44 if starts else None)


@pytest.mark.parametrize("value", range(3, 8))
def test_newer_granule_values_stop_kvm_before_the_fix(value: int) -> None:
    # kernel-ipa-spec 0.2
    assert limit_of(mmfr0(4, granule_2=value), release="5.10.0") is None


@pytest.mark.parametrize("value", range(16))
@pytest.mark.parametrize("release", ["4.19", *LEGACY])
def test_stage_2_granule_was_not_read_before_5_10(release: str, value: int) -> None:
    # kernel-ipa-spec 1.4: "returns nothing, so it cannot make KVM fail"
    assert HostProfile(release=release, id_aa64mmfr0_el1=mmfr0(4, granule_2=value)).starts_kvm


@pytest.mark.parametrize("page_size", PAGE_SIZES)
def test_granules_of_other_page_sizes_do_not_matter(page_size: int) -> None:
    others = sum(1 << lsb for size, lsb in GRANULE_2_LSB.items() if size != page_size)
    others |= sum(0xF << lsb for size, lsb in GRANULE_LSB.items() if size != page_size)
    assert limit_of(mmfr0(4, page_size) | others, page_size) == 44


@pytest.mark.parametrize("release", SINCE_LPA2)
@pytest.mark.parametrize(("page_size", "stage1"), [(K4, 1), (K16, 2), (K64, None)])
def test_lpa2_needs_exact_values_at_both_stages(page_size: int, stage1: int | None, release: str) -> None:
    found = {
        (granule, granule_2)
        for granule in range(16)
        for granule_2 in range(16)
        if HostProfile(
            release=release,
            page_size=page_size,
            id_aa64mmfr0_el1=mmfr0(6, page_size, granule=granule, granule_2=granule_2),
        ).lpa2
    }
    assert found == ({(stage1, 3)} if stage1 else set())


@pytest.mark.parametrize("parange", range(16))
def test_lpa2_is_independent_of_parange(parange: int) -> None:
    assert HostProfile(id_aa64mmfr0_el1=mmfr0_lpa2(parange, K4), pa_bits=48, va_bits=39).lpa2


# kernel-ipa-spec 1.4, the 4.20-era table: host configuration -> va_max.
VA_MAX = [
    (K4, 39, 43),
    (K4, 48, 52),
    (K16, 36, 40),
    (K16, 47, 51),
    (K16, 48, 62),
    (K64, 42, 46),
    (K64, 48, 59),
    (K64, 52, 59),
]


@pytest.mark.parametrize(("page_size", "va_bits", "va_max"), VA_MAX)
def test_host_page_tables_bound_the_old_limit(page_size: int, va_bits: int, va_max: int) -> None:
    # A kernel of 64 PA bits does not exist; it leaves the bound by the host's levels alone.
    assert legacy_ipa_limit(mmfr0(7, page_size), page_size, pa_bits=64, va_bits=va_bits) == va_max


@pytest.mark.parametrize("release", LEGACY)
@pytest.mark.parametrize(
    ("page_size", "pa_bits", "va_bits", "parange", "expected"),
    [
        (K4, 48, 39, 5, 43),
        (K4, 48, 39, 4, 43),
        (K4, 48, 39, 3, 42),
        (K4, 48, 48, 5, 48),
        (K4, 48, 48, 6, 48),
        (K4, 48, 48, 0, 32),
        (K16, 48, 36, 5, 40),
        (K16, 48, 47, 6, 48),
        (K64, 48, 42, 6, 46),
        (K64, 48, 48, 6, 48),
        (K64, 52, 48, 6, 52),
        (K64, 52, 52, 6, 52),
        (K64, 52, 48, 5, 48),
    ],
)
def test_old_limit_is_the_least_of_cpu_pa_and_va(
    page_size: int, pa_bits: int, va_bits: int, parange: int, expected: int, release: str
) -> None:
    register = mmfr0(parange, page_size)
    assert limit_of(register, page_size, release, pa_bits=pa_bits, va_bits=va_bits) == expected


@pytest.mark.parametrize("release", LEGACY)
@pytest.mark.parametrize(
    ("parange", "expected"),
    [(8, 32), (9, 36), (10, 40), (11, 42), (12, 44), (13, 48), (14, 52), (15, 52), (7, 52)],
)
def test_old_kernels_read_three_bits_of_parange(parange: int, expected: int, release: str) -> None:
    assert limit_of(mmfr0(parange, K64), K64, release, pa_bits=52, va_bits=48) == expected


# --- the reference model ---


@dataclass(frozen=True)
class Host:
    """A host in the terms of kernel-ipa-spec Appendix A."""

    kernel: tuple[int, int]
    page_size: int
    parange: int
    granule: int
    granule_2: int
    vmid_bits: int
    pa_bits: int
    mode: str
    hw_afdbm: bool
    ac03_cpu_38: bool
    noise: int

    @property
    def protected(self) -> bool:
        return self.mode == "protected" and self.kernel > (5, 10)

    def profile(self) -> HostProfile:
        """The same host for kvmipa; every bit that must not matter is noise."""
        register, register1 = self.noise, self.noise
        for lsb, value in (
            (0, self.parange),
            (GRANULE_LSB[self.page_size], self.granule),
            (GRANULE_2_LSB[self.page_size], self.granule_2),
        ):
            register = register & ~(0xF << lsb) | value << lsb
        return HostProfile(
            release=f"{self.kernel[0]}.{self.kernel[1]}",
            page_size=self.page_size,
            id_aa64mmfr0_el1=register,
            id_aa64mmfr1_el1=register1 & ~0xF0 | self.vmid_bits << 4,
            pa_bits=self.pa_bits,
            mode=self.mode,
            hw_afdbm=self.hw_afdbm,
            errata=frozenset({"AC03_CPU_38"} if self.ac03_cpu_38 else ()),
        )


def model_lpa2(host: Host) -> bool:
    """52 bits on small pages: both stages say so, in so many words, to a kernel that listens."""
    wanted = {K4: (1, 3), K16: (2, 3)}.get(host.page_size)
    return host.kernel >= (6, 8) and (host.granule, host.granule_2) == wanted


def model_limit(host: Host) -> int | None:
    """Bits, or None where KVM does not start."""
    if host.mode == "none" and host.kernel >= (6, 1):
        return None
    if host.granule_2 == 1 or host.granule_2 > 7:
        return None
    small_pages_alone = host.page_size != K64 and not model_lpa2(host)
    steps = [32, 36, 40, 42, 44, 48, 52]
    step = min(host.parange, 5) if small_pages_alone else host.parange
    return steps[step] if step < len(steps) else host.pa_bits


def model_create(host: Host, machine_type: int) -> int:
    """The VM's bits, or -errno."""
    limit = model_limit(host)
    assert limit is not None
    meaningful = [*range(8)] + ([31] if host.kernel >= (7, 3) else [])
    if any(machine_type >> bit & 1 for bit in range(64) if bit not in meaningful):
        return -EINVAL
    size = machine_type % 256
    if host.protected and host.kernel >= (6, 12):
        bits = limit
    elif size == 0:
        if limit < 40:
            return -EINVAL
        bits = 40
    elif 32 <= size <= limit:
        bits = size
    else:
        return -EINVAL
    return -EINVAL if machine_type >> 31 & 1 and not host.protected else bits


def model_vtcr(host: Host, ipa_bits: int) -> int:
    """The register, put together from the shape that the fewest levels with up to 16 tables at the top give."""
    page_shift = {K4: 12, K16: 14, K64: 16}[host.page_size]
    per_level = page_shift - 3
    levels = 2
    while page_shift + per_level * levels + 4 < ipa_bits:
        levels += 1
    sl0 = (2 if host.page_size == K4 else 3) - (4 - levels)
    wide = model_lpa2(host) or (host.page_size == K64 and host.pa_bits == 52)
    value = 0x80003500 + (64 - ipa_bits) + (sl0 << 6)
    value += {K4: 0, K64: 1 << 14, K16: 2 << 14}[host.page_size]
    value += min(host.parange, 6 if wide else 5) << 16
    if host.vmid_bits == 2:
        value += 1 << 19
    if host.kernel < (6, 1) or (host.hw_afdbm and not host.ac03_cpu_38):
        value += 1 << 21
    if model_lpa2(host):
        value += 1 << 32
    return value


def model_vtcr_of_vm(host: Host, ipa_bits: int) -> int:
    """The register that a VM runs with: under pKVM the host's own, whose input size is the clamped PARange (1.7)."""
    clamped = host.page_size == K64 and host.pa_bits == 48 and host.parange >= 6
    if host.protected and host.kernel >= (6, 12) and clamped:
        return model_vtcr(host, 48)
    return model_vtcr(host, ipa_bits)


# Hosts have many dimensions, and descriptors are opened: more examples than usual, and no watch on the time of one.
MANY = settings(max_examples=150, deadline=None)


@st.composite
def hosts(draw: st.DrawFn) -> Host:
    kernel = draw(st.sampled_from([(5, 10), (6, 1), (6, 12), (7, 3)]))
    page_size = draw(st.sampled_from(PAGE_SIZES))
    pa_choices = [48, 52] if page_size == K64 or kernel >= (6, 12) else [48]
    # As often as not a CPU with LPA2, or with all but one value of it.
    near_lpa2 = st.sampled_from([(1, 3), (2, 3), (1, 2), (2, 2), (0, 3), (1, 0)])
    granule, granule_2 = draw(near_lpa2 | st.tuples(st.integers(0, 15), st.integers(0, 15)))
    return Host(
        kernel=kernel,
        page_size=page_size,
        parange=draw(st.integers(0, 15)),
        granule=granule,
        granule_2=granule_2,
        vmid_bits=draw(st.sampled_from([0, 2]) | st.integers(0, 15)),
        pa_bits=draw(st.sampled_from(pa_choices)),
        mode=draw(st.sampled_from(["vhe", "nvhe", "protected", "nested", "none"])),
        hw_afdbm=draw(st.booleans()),
        ac03_cpu_38=draw(st.booleans()),
        noise=draw(st.integers(0, (1 << 64) - 1)),
    )


@st.composite
def machine_types(draw: st.DrawFn, limit: int) -> int:
    """Any 64-bit argument, mostly one near a boundary."""
    boundaries = [0, 1, 31, 32, 33, 39, 40, 41, 52, 53, 255, limit - 1, limit, limit + 1]
    size = draw(st.sampled_from(boundaries) | st.integers(0, 255))
    above = draw(st.sampled_from([0, 0, 1 << 31, "bit", "any"]))
    if above == "bit":
        above = 1 << draw(st.integers(8, 63))
    elif above == "any":
        above = draw(st.integers(0, (1 << 56) - 1)) << 8
    assert isinstance(above, int)
    return size | above


@st.composite
def hosts_that_start(draw: st.DrawFn) -> tuple[Host, int]:
    """A host that has a KVM, and its limit."""
    host = draw(hosts())
    limit = model_limit(host)
    assume(limit is not None)
    assert limit is not None
    return host, limit


@MANY
@given(hosts())
def test_limit_is_the_reference_models(host: Host) -> None:
    assert host.profile().ipa_limit == model_limit(host)


@MANY
@given(hosts())
def test_device_is_there_where_the_reference_model_has_a_limit(host: Host) -> None:
    kernel = EmulatedBackend(host.profile())
    fd = kernel.open("/dev/kvm")
    kernel.close(fd)
    assert (fd >= 0) == (model_limit(host) is not None)


@MANY
@given(st.data())
def test_machine_type_is_judged_as_by_the_reference_model(data: st.DataObject) -> None:
    host, limit = data.draw(hosts_that_start())
    machine_type = data.draw(machine_types(limit))
    expected = model_create(host, machine_type)
    rules = host.profile().type_rules
    accepted = rules.judge(machine_type) is Verdict.ACCEPTED
    assert accepted == (expected >= 0)
    if accepted:
        assert rules.ipa_bits(machine_type) == expected


@MANY
@given(st.data())
def test_vm_is_created_as_by_the_reference_model(data: st.DataObject) -> None:
    host, limit = data.draw(hosts_that_start())
    machine_type = data.draw(machine_types(limit))
    expected = model_create(host, machine_type)
    kernel = EmulatedBackend(host.profile())
    system = kernel.open("/dev/kvm")
    try:
        assert kernel.ioctl(system, abi.KVM_CHECK_EXTENSION, 165) == limit
        vm = kernel.ioctl(system, abi.KVM_CREATE_VM, machine_type)
        if expected < 0:
            assert vm == expected
            return
        assert vm >= 0
        assert int(kernel.stage2(vm).vtcr_el2) == model_vtcr_of_vm(host, expected)
        kernel.close(vm)
    finally:
        kernel.close(system)


@MANY
@given(st.data())
def test_register_is_the_reference_models(data: st.DataObject) -> None:
    host, limit = data.draw(hosts_that_start())
    ipa_bits = data.draw(st.sampled_from([32, 40, limit]) | st.integers(32, limit))
    assume(ipa_bits <= limit)
    if host.profile().type_rules.size_ignored and ipa_bits != limit:
        with pytest.raises(ValueError, match="gives every VM its limit"):
            host.profile().vtcr_el2(ipa_bits)
        return
    assert hex(host.profile().vtcr_el2(ipa_bits)) == hex(model_vtcr_of_vm(host, ipa_bits))
