# SPDX-License-Identifier: Apache-2.0
"""VTCR_EL2: the specification's test vectors, the values that real kernels ran with, and the register's fields."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvmipa import HostProfile, abi
from kvmipa.backend.emulated import EmulatedBackend
from kvmipa.stage2.vtcr import FIELDS, Vtcr

from .registers import mmfr0, mmfr0_lpa2, mmfr1


class Vector(NamedTuple):
    """A row of kernel-ipa-spec 3.4: the host, the VM's size, the register."""

    page_size: int
    ipa_bits: int
    register: int
    vmid_16bit: bool
    value: int
    releases: tuple[str, ...]
    more: dict[str, Any] = {}  # noqa: RUF012  shared by rows that only read it


K4, K16, K64 = 4096, 16384, 65536
ALL = ("5.10", "6.1", "6.12", "7.3")
SINCE_LPA2 = ("6.12", "7.3")
BEFORE_LPA2 = ("5.10", "6.1")
AC03 = {"errata": frozenset({"AC03_CPU_38"})}

VECTORS = [
    # 4K, "5, or >= 6 without LPA2"
    Vector(K4, 32, mmfr0(5), True, 0x00000000802D3520, ALL),
    Vector(K4, 32, mmfr0(6), True, 0x00000000802D3520, ALL),
    Vector(K4, 32, mmfr0(7), True, 0x00000000802D3520, ALL),
    Vector(K4, 32, mmfr0(15), True, 0x00000000802D3520, ALL),
    Vector(K4, 32, mmfr0_lpa2(6, K4), True, 0x00000000802D3520, BEFORE_LPA2),
    Vector(K4, 40, mmfr0(5), True, 0x00000000802D3558, ALL),
    Vector(K4, 40, mmfr0(6), True, 0x00000000802D3558, ALL),
    Vector(K4, 48, mmfr0(5), True, 0x00000000802D3590, ALL),
    Vector(K4, 48, mmfr0(6), True, 0x00000000802D3590, ALL),
    Vector(K4, 40, mmfr0(2), False, 0x0000000080223558, ALL),
    Vector(K4, 36, mmfr0(1), True, 0x000000008029355C, ALL),
    Vector(K4, 39, mmfr0(4), True, 0x00000000802C3559, ALL),
    Vector(K4, 44, mmfr0(4), False, 0x0000000080243594, ALL),
    Vector(K4, 43, mmfr0(5), True, 0x00000000802D3555, ALL),
    Vector(K4, 44, mmfr0(5), True, 0x00000000802D3594, ALL),
    Vector(K4, 48, mmfr0(5), True, 0x00000000800D3590, ("6.1", "6.12", "7.3"), AC03),
    Vector(K4, 48, mmfr0(5), True, 0x00000000800D3590, ("6.1", "6.12", "7.3"), {"hw_afdbm": False}),
    # kernel-ipa-spec 3.1: HA is always 1 up to 5.10.
    Vector(K4, 48, mmfr0(5), True, 0x00000000802D3590, ("5.4", "5.10"), AC03),
    Vector(K4, 48, mmfr0(5), True, 0x00000000802D3590, ("5.4", "5.10"), {"hw_afdbm": False}),
    Vector(K4, 40, mmfr0_lpa2(6, K4), True, 0x00000001802E3558, SINCE_LPA2),
    Vector(K4, 48, mmfr0_lpa2(6, K4), True, 0x00000001802E3590, SINCE_LPA2),
    Vector(K4, 52, mmfr0_lpa2(6, K4), True, 0x00000001802E358C, SINCE_LPA2),
    Vector(K4, 48, mmfr0_lpa2(5, K4), True, 0x00000001802D3590, SINCE_LPA2),
    # kernel-ipa-spec 3.3: 52 bits of output with LPA2 whatever the kernel's own PA size.
    Vector(K4, 52, mmfr0_lpa2(6, K4), True, 0x00000001802E358C, SINCE_LPA2, {"pa_bits": 48}),
    Vector(K16, 40, mmfr0(5, K16), True, 0x00000000802DB558, ALL),
    Vector(K16, 41, mmfr0(5, K16), True, 0x00000000802DB597, ALL),
    Vector(K16, 48, mmfr0(5, K16), True, 0x00000000802DB590, ALL),
    Vector(K16, 51, mmfr0_lpa2(6, K16), True, 0x00000001802EB58D, SINCE_LPA2),
    Vector(K16, 52, mmfr0_lpa2(6, K16), True, 0x00000001802EB5CC, SINCE_LPA2),
    Vector(K64, 32, mmfr0(5, K64), True, 0x00000000802D7560, ALL),
    Vector(K64, 40, mmfr0(5, K64), True, 0x00000000802D7558, ALL),
    Vector(K64, 46, mmfr0(5, K64), True, 0x00000000802D7552, ALL),
    Vector(K64, 47, mmfr0(5, K64), True, 0x00000000802D7591, ALL),
    Vector(K64, 48, mmfr0(5, K64), True, 0x00000000802D7590, ALL),
    Vector(K64, 52, mmfr0(6, K64), True, 0x00000000802E758C, ALL, {"pa_bits": 52}),
    Vector(K64, 52, mmfr0(6, K64), True, 0x00000000802D758C, ALL, {"pa_bits": 48}),
    # kernel-ipa-spec 3.3: PARange was read through three bits before 5.10, so 13 was 5 and 10 was 2.
    Vector(K4, 40, mmfr0(13), True, 0x00000000802D3558, ("4.20", "5.4")),
    Vector(K4, 40, mmfr0(10), True, 0x00000000802A3558, ("4.20", "5.4")),
]

# The registers of the CPUs in the table of seen values.
CPUS = {
    "parange-0": (0x1120, mmfr1(vmid_16bit=False)),
    "parange-1": (0x1121, mmfr1(vmid_16bit=False)),
    "parange-3": (0x1123, mmfr1(vmid_16bit=False)),
    "cortex-a53": (0x1122, mmfr1(vmid_16bit=False)),
    "cortex-a57": (0x1124, mmfr1(vmid_16bit=False)),
    "neoverse-n1": (0x101125, mmfr1(vmid_16bit=True)),
    "neoverse-v1": (0x101125, mmfr1(vmid_16bit=True)),
    "max": (0x32310201126, mmfr1(vmid_16bit=True)),
    "max-without-lpa2": (0x22200101126, mmfr1(vmid_16bit=True)),
}

# VTCR_EL2 as read from the CPU while a VM of the type ran on a Debian kernel under QEMU.
SEEN = Path(__file__).parents[1] / "data" / "vtcr_seen.csv"


def seen() -> list[dict[str, str]]:
    with SEEN.open(newline="") as file:
        return list(csv.DictReader(file))


def vector_cases() -> list[Any]:
    return [
        pytest.param(vector, release, id=f"{release}-{vector.page_size >> 10}K-{vector.ipa_bits}-{vector.value:#x}")
        for vector in VECTORS
        for release in vector.releases
    ]


def seen_name(row: dict[str, str]) -> str:
    return "-".join([row["release"], f"{int(row['page_size']) >> 10}K", row["cpu"], row["mode"], row["machine_type"]])


@pytest.mark.parametrize(("vector", "release"), vector_cases())
def test_register_is_the_specifications_vector(vector: Vector, release: str) -> None:
    host = HostProfile(
        release=release,
        page_size=vector.page_size,
        id_aa64mmfr0_el1=vector.register,
        id_aa64mmfr1_el1=mmfr1(vmid_16bit=vector.vmid_16bit),
        **vector.more,
    )
    assert hex(host.vtcr_el2(vector.ipa_bits)) == hex(vector.value)


@pytest.mark.parametrize("row", seen(), ids=seen_name)
def test_vm_runs_with_the_register_seen_on_a_real_kernel(row: dict[str, str]) -> None:
    register, vmid = CPUS[row["cpu"]]
    host = HostProfile(
        release=row["release"],
        page_size=int(row["page_size"]),
        id_aa64mmfr0_el1=register,
        id_aa64mmfr1_el1=vmid,
        mode=row["mode"],
    )
    kernel = EmulatedBackend(host)
    system = kernel.open("/dev/kvm")
    vm = kernel.ioctl(system, abi.KVM_CREATE_VM, int(row["machine_type"]))
    try:
        assert hex(int(kernel.stage2(vm).vtcr_el2)) == hex(int(row["vtcr_el2"], 16))
    finally:
        kernel.close(vm)
        kernel.close(system)


@pytest.mark.parametrize("vmid_bits", range(16))
def test_vs_is_set_by_16_bit_vmids_alone(vmid_bits: int) -> None:
    # kernel-ipa-spec 3.1: 1 if VMIDBits == 2, else 0.
    host = HostProfile(id_aa64mmfr1_el1=~0xF0 & (1 << 64) - 1 | vmid_bits << 4)
    assert Vtcr(host.vtcr_el2(40))["VS"] == (vmid_bits == 2)


@pytest.mark.parametrize("ipa_bits", [0, 31, 53, 255])
def test_size_that_the_host_does_not_make_has_no_register(ipa_bits: int) -> None:
    with pytest.raises(ValueError, match=f"not {ipa_bits}$"):
        HostProfile().vtcr_el2(ipa_bits)


def test_size_above_the_limit_has_no_register() -> None:
    host = HostProfile(id_aa64mmfr0_el1=mmfr0(4))
    with pytest.raises(ValueError, match="32 to 44 IPA bits, not 45"):
        host.vtcr_el2(45)


def test_default_above_the_limit_has_a_register_where_it_was_accepted() -> None:
    # kernel-ipa-spec 0.1: 4.20 makes a 40-bit VM on a 36-bit host.
    narrow = {"id_aa64mmfr0_el1": mmfr0(1)}
    assert Vtcr(HostProfile(release="4.20", **narrow).vtcr_el2(40)).ipa_bits == 40  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="32 to 36"):
        HostProfile(release="5.10", **narrow).vtcr_el2(40)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("name", "lsb", "width"),
    [
        ("T0SZ", 0, 6),
        ("SL0", 6, 2),
        ("IRGN0", 8, 2),
        ("ORGN0", 10, 2),
        ("SH0", 12, 2),
        ("TG0", 14, 2),
        ("PS", 16, 3),
        ("VS", 19, 1),
        ("HA", 21, 1),
        ("HD", 22, 1),
        ("NSW", 29, 1),
        ("NSA", 30, 1),
        ("RES1", 31, 1),
        ("DS", 32, 1),
        ("SL2", 33, 1),
    ],
)
def test_field_is_where_the_architecture_has_it(name: str, lsb: int, width: int) -> None:
    # kernel-ipa-spec 3.1
    ones = (1 << width) - 1
    assert Vtcr.encode(**{name: ones}).value == ones << lsb
    assert Vtcr((1 << 64) - 1)[name] == ones
    assert Vtcr(~(ones << lsb) & (1 << 64) - 1)[name] == 0


def test_there_are_no_other_fields() -> None:
    assert [name for name, _ in Vtcr(0).fields()] == list(FIELDS)
    assert len(FIELDS) == 15


@given(st.fixed_dictionaries({name: st.integers(0, (1 << width) - 1) for name, (_, width) in FIELDS.items()}))
def test_what_is_encoded_is_decoded(fields: dict[str, int]) -> None:
    assert dict(Vtcr.encode(**fields).fields()) == fields


@given(st.sampled_from(sorted(FIELDS)), st.integers(0, 1 << 10))
def test_value_too_wide_for_its_field_is_refused(name: str, above: int) -> None:
    width = FIELDS[name][1]
    with pytest.raises(ValueError, match=f"VTCR_EL2.{name} is {width} bits wide"):
        Vtcr.encode(**{name: (1 << width) + above})


@pytest.mark.parametrize("name", sorted(FIELDS))
def test_negative_value_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="does not fit"):
        Vtcr.encode(**{name: -1})


def test_unknown_field_is_a_key_error() -> None:
    with pytest.raises(KeyError, match="T1SZ"):
        Vtcr.encode(T1SZ=1)
    with pytest.raises(KeyError, match="T1SZ"):
        Vtcr(0)["T1SZ"]


def test_register_is_printed_with_its_64_bits_and_every_field() -> None:
    text = str(Vtcr(0x1802E358C))
    assert text.startswith("0x00000001802e358c T0SZ=12 SL0=2 ")
    assert "PS=6 VS=1 HA=1 HD=0" in text
    assert text.endswith("RES1=1 DS=1 SL2=0")


@given(st.integers(0, (1 << 64) - 1))
def test_size_of_the_vm_is_64_minus_t0sz(value: int) -> None:
    # kernel-ipa-spec 3: kvm_phys_shift
    assert Vtcr(value).ipa_bits == 64 - (value & 0x3F)
