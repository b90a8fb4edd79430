# SPDX-License-Identifier: Apache-2.0
"""KVM_GET_ONE_REG and the like on hosts that no recording has; tests/test_registers_recorded.py has the others."""

from __future__ import annotations

import mmap
from struct import pack
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ci.lab.register_recorder import CORE, DEMUX, FIRMWARE, PSCI, PSTATE, SVE, SVE_STATE, SYSTEM, VECTOR_LENGTHS, Vcpu
from kvmipa import HostProfile, abi
from kvmipa.access import Access
from kvmipa.backend.emulated import EmulatedBackend
from kvmipa.backend.emulated.feature_registers import SYSREG
from kvmipa.buffers import address_of
from kvmipa.registers import Reg
from kvmipa.system_registers import number_of
from tests.backend.emulated.asking import RELEASES, host

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

# With AArch32 at EL0, and its debug registers, SVE and RAS; with AArch64 only.
ABLE = {"id_aa64pfr0_el1": 0x11_1000_0222, "id_aa64dfr0_el1": 0x1030_5609}
ID_DFR0_EL1 = {0x6030_0000_0013_C00A: 0x6}
AARCH64_ONLY = {"id_aa64pfr0_el1": 0x1111}
U64 = (1 << 64) - 1


def id_of(name: str) -> int:
    return SYSTEM | number_of(name)


@pytest.fixture
def make() -> Iterator[Callable[..., Vcpu]]:
    """A vCPU of a host, initialised with these features."""
    made = []

    def one(profile: HostProfile, features: int = PSCI) -> Vcpu:
        # 4.19 has no sizes.
        made.append(Vcpu(EmulatedBackend(profile), machine_type=0 if profile.release == "4.19" else 32))
        assert made[-1].init(features) == 0
        return made[-1]

    yield one
    for vcpu in made:
        vcpu.close()


# ------------------------------------------------------------------------------------------------ lists


@pytest.mark.parametrize("release", RELEASES)
def test_every_listed_register_can_be_read_and_written_back(release: str, make: Callable[..., Vcpu]) -> None:
    vcpu = make(host(release, **ABLE, registers=ID_DFR0_EL1))
    registers = vcpu.registers()
    assert len(registers) == len(set(registers))
    for register in registers:
        value = vcpu.get(register)
        assert isinstance(value, int), hex(register)
        assert vcpu.set(register, value) == 0, hex(register)


@pytest.mark.parametrize("release", RELEASES)
def test_nothing_is_listed_that_has_no_name(release: str, make: Callable[..., Vcpu]) -> None:
    nameless = {it for it in make(host(release, **ABLE)).registers() if Reg(it).name.startswith("0x")}
    assert nameless == set()


@pytest.mark.parametrize(
    ("release", "as_of"), [("4.19", "5.10"), ("5.15", "5.10"), ("6.6", "6.1"), ("6.18", "6.12"), ("6.12", "6.12")]
)
def test_release_in_between_has_the_registers_of_the_earlier_one(
    release: str, as_of: str, make: Callable[..., Vcpu]
) -> None:
    assert make(host(release, **ABLE)).registers() == make(host(as_of, **ABLE)).registers()


def test_memory_tags_have_registers(make: Callable[..., Vcpu]) -> None:
    profile = host("6.12", id_aa64pfr1_el1=0x200)
    vcpu = Vcpu(EmulatedBackend(profile), abi.KVM_CAP_ARM_MTE)
    assert (vcpu.enabled, vcpu.init(PSCI)) == (0, 0)
    tags = {id_of(name) for name in ("RGSR_EL1", "GCR_EL1", "TFSR_EL1", "TFSRE0_EL1")}
    assert set(vcpu.registers()) - set(make(profile).registers()) == tags
    assert (vcpu.get(id_of("ID_AA64PFR1_EL1")), make(profile).get(id_of("ID_AA64PFR1_EL1"))) == (0x200, 0)
    vcpu.close()


# ------------------------------------------------------------------------------------------------ what a host says


def test_identification_comes_from_the_profile(make: Callable[..., Vcpu]) -> None:
    vcpu = make(host("6.12", **AARCH64_ONLY, midr_el1=0x410F_D490, fwb=True, dic=True))
    names = ("MIDR_EL1", "ID_AA64MMFR0_EL1", "ID_AA64MMFR2_EL1", "CTR_EL0", "MPIDR_EL1")
    assert [vcpu.get(id_of(name)) for name in names] == [
        *(0x410F_D490, 0x1125, 1 << 40, 0xA444_C004),
        0x8000_0305,
    ]


def test_register_of_the_profile_comes_before_its_field(make: Callable[..., Vcpu]) -> None:
    registers = {id_of("ID_AA64MMFR0_EL1"): 0x1122, FIRMWARE | 1: 2, id_of("ACTLR_EL1"): 5}
    vcpu = make(host("6.12", registers=registers))
    assert [vcpu.get(register) for register in registers] == [0x1122, 2, 5]


@pytest.mark.parametrize(
    ("dic", "idc", "clidr"), [(0, 0, 0x920_0003), (1, 0, 0x920_0002), (0, 1, 0x200_0021), (1, 1, 0x100_0004)]
)
def test_caches_are_as_few_as_can_be(dic: int, idc: int, clidr: int, make: Callable[..., Vcpu]) -> None:
    ctr = 0x8444_C004 | dic << 29 | idc << 28
    assert make(host("6.12", registers={id_of("CTR_EL0"): ctr})).get(id_of("CLIDR_EL1")) == clidr


@pytest.mark.parametrize("release", ["5.10", "6.1"])
def test_caches_are_the_hosts(release: str, make: Callable[..., Vcpu]) -> None:
    registers = {id_of("CLIDR_EL1"): 0xA20_0023, DEMUX | 0: 0x701F_E00A, DEMUX | 1: 0x201F_E012, DEMUX | 2: 0x70FF_E07A}
    vcpu = make(host(release, registers=registers))
    assert [it for it in vcpu.registers() if it & ~0xFF == DEMUX] == [DEMUX, DEMUX | 1, DEMUX | 2]
    assert [vcpu.set(DEMUX | 1, value) for value in (0x201F_E012, 0x201F_E013)] == [0, "EINVAL"]
    assert vcpu.get(DEMUX | 3) == "ENOENT"


@pytest.mark.parametrize("release", RELEASES)
def test_host_without_aarch32(release: str, make: Callable[..., Vcpu]) -> None:
    vcpu = make(host(release, **AARCH64_ONLY))
    assert vcpu.set(PSTATE, 0x10) == "EINVAL"
    # Since the registers can be written they are taken for what they were.
    taken = 0 if release in {"6.12", "7.3"} else "EINVAL"
    assert vcpu.set(id_of("ID_ISAR0_EL1"), 5) == taken
    assert vcpu.get(id_of("ID_ISAR0_EL1")) == 0


# ------------------------------------------------------------------------------------------------ ID registers


@pytest.mark.parametrize("release", RELEASES)
def test_parange_can_be_lowered_since_6_12(release: str, make: Callable[..., Vcpu]) -> None:
    vcpu = make(host(release, parange=5))
    register = id_of("ID_AA64MMFR0_EL1")
    results = [vcpu.set(register, 0x1120 | parange) for parange in (6, 5, 4, 0)]
    lower = 0 if release in {"6.12", "7.3"} else "EINVAL"
    assert results == ["EINVAL", 0, lower, lower]
    assert vcpu.get(register) == (0x1120 if lower == 0 else 0x1125)


def test_vcpus_that_come_later_have_what_was_chosen(make: Callable[..., Vcpu]) -> None:
    vcpu = make(host("6.12"))
    register = id_of("ID_AA64MMFR0_EL1")
    vcpu.set(register, 0x1122)
    other = vcpu.another()
    other.init(PSCI)
    assert other.get(register) == 0x1122
    other.close()


@settings(deadline=None)
@given(value=st.integers(0, U64), release=st.sampled_from(["6.12", "7.3"]))
def test_what_is_accepted_is_there_and_what_is_refused_is_not(value: int, release: str) -> None:
    vcpu = Vcpu(EmulatedBackend(host(release, **ABLE)))
    vcpu.init(PSCI)
    register = SYSREG | 0xC020
    before = vcpu.get(register)
    result = vcpu.set(register, value)
    assert vcpu.get(register) == (value if result == 0 else before)
    vcpu.close()


# ------------------------------------------------------------------------------------------------ values


@settings(deadline=None)
@given(value=st.integers(0, U64), index=st.integers(0, 30))
def test_general_register_keeps_its_value(value: int, index: int) -> None:
    vcpu = Vcpu(EmulatedBackend(host()))
    vcpu.init(PSCI)
    register = CORE | abi.KVM_REG_SIZE_U64 | 2 * index
    assert (vcpu.set(register, value), vcpu.get(register)) == (0, value)
    vcpu.close()


def test_vectors_are_the_low_parts_of_sves(make: Callable[..., Vcpu]) -> None:
    profile = host("6.12", **ABLE, registers={VECTOR_LENGTHS: 0b11})
    vcpu = make(profile, PSCI | SVE)
    assert vcpu.get(SVE_STATE | abi.KVM_REG_SIZE_U2048) == "EPERM"
    assert [vcpu.set(VECTOR_LENGTHS, value) for value in (0b111, 0, 0b10, 0b11)] == ["EINVAL", "EINVAL", "EINVAL", 0]
    vcpu.ask(abi.KVM_ARM_VCPU_FINALIZE, b"\4\0\0\0")
    z31 = SVE_STATE | abi.KVM_REG_SIZE_U2048 | 31 << 5
    assert vcpu.set(z31, (1 << 2048) - 1) == 0
    # Of a vector of 256 bits there is no more.
    assert vcpu.get(z31) == (1 << 256) - 1
    assert vcpu.get(CORE | abi.KVM_REG_SIZE_U128 | 84) == "EINVAL"


def test_counter_goes_on_from_where_it_is_set(make: Callable[..., Vcpu]) -> None:
    vcpu = make(host("6.12"))
    count, control = SYSTEM | 0xDF1A, SYSTEM | 0xDF19
    compare = SYSTEM | 0xDF02
    vcpu.set(count, 1 << 40)
    first, second = vcpu.get(count), vcpu.get(count)
    assert isinstance(first, int)
    assert isinstance(second, int)
    assert 1 << 40 <= first <= second < 1 << 41
    found = []
    for value in (1 << 39, 1 << 41):
        vcpu.set(compare, value)
        found.append(vcpu.get(control))
    assert found == [4, 0]


@pytest.mark.parametrize(("fwb", "mapped"), [(True, 1), (False, 0)])
def test_second_initialisation_has_memory_mapped_anew_without_s2fwb(
    fwb: bool, mapped: int, make: Callable[..., Vcpu]
) -> None:
    vcpu = make(host("6.12", fwb=fwb))
    backend: Any = vcpu.backend
    memory = mmap.mmap(-1, mmap.PAGESIZE)
    region = bytearray(pack("=IIQQQ", 0, 0, 0, mmap.PAGESIZE, address_of(memory)))
    assert backend.ioctl_buffer(vcpu.vm, abi.KVM_SET_USER_MEMORY_REGION, region) == 0
    backend.access(vcpu.vm, Access(0))
    assert vcpu.run() == "EINTR"
    vcpu.init(PSCI)
    assert len(list(backend.stage2(vcpu.vm).mappings())) == mapped


# ------------------------------------------------------------------------------------------------ firmware


@pytest.mark.parametrize(
    ("index", "level", "taken"),
    [
        (1, 2, {0, 1, 2}),
        (1, 0, {0}),
        (2, 0, {0, 1}),
        (2, 2, {0, 1}),
        (2, 3, {0, 1, 2, 3, 0x12}),
        (3, 1, {0, 1}),
    ],
)
def test_workarounds_that_user_space_may_say_there_are(
    index: int, level: int, taken: set[int], make: Callable[..., Vcpu]
) -> None:
    vcpu = make(host("6.12", registers={FIRMWARE | index: level}))
    assert {value for value in range(0x40) if vcpu.set(FIRMWARE | index, value) == 0} == taken
    assert vcpu.get(FIRMWARE | index) == level


@pytest.mark.parametrize("release", RELEASES)
def test_psci_version_is_the_vms(release: str, make: Callable[..., Vcpu]) -> None:
    vcpu = make(host(release))
    first = {"6.1": 0x10001, "6.12": 0x10001, "7.3": 0x10003}.get(release, 0x10000)
    assert vcpu.get(FIRMWARE) == first
    other = vcpu.another()
    other.init(PSCI)
    assert [vcpu.set(FIRMWARE, value) for value in (1, 2)] == ["EINVAL", 0]
    assert other.get(FIRMWARE) == 2
    other.close()
