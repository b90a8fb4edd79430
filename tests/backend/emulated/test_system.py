# SPDX-License-Identifier: Apache-2.0
"""The emulated /dev/kvm through its seam: opening it, what it answers, and which VMs it makes."""

from __future__ import annotations

import os
from array import array
from errno import EBADF, EINVAL, EMFILE, ENOENT, ENOMEM, ENOTTY, EOPNOTSUPP
from pathlib import Path
from typing import Any

import pytest

from kvmipa.backend.emulated import EmulatedBackend
from kvmipa.recording import no_free_descriptor
from tests.forking import in_child, needs_fork

from .asking import (
    KVM_CHECK_EXTENSION,
    KVM_CREATE_VM,
    KVM_GET_API_VERSION,
    KVM_GET_ONE_REG,
    KVM_GET_VCPU_MMAP_SIZE,
    KVM_TRACES,
    OF_THE_HOST,
    PROTECTED,
    RELEASES,
    SPECIFIED,
    capability_rows,
    host,
    kernel,
    needs_rlimit,
)

WITH_SIZES = tuple(release for release in RELEASES if release != "4.19")
K4, K16, K64 = 4096, 16384, 65536

# pKVM, and sizes honoured or not (kernel-ipa-spec 1.7).
PKVM: dict[str, Any] = {"mode": "protected"}
IGNORE_SIZE = ("6.12", "7.3")


# --- opening ---


@pytest.mark.parametrize("path", ["/dev/kvm2", "/dev/null", "", "kvm"])
def test_machine_has_no_other_device(path: str) -> None:
    assert EmulatedBackend(host()).open(path) == -ENOENT


@pytest.mark.parametrize("cause", [{"mode": "none"}, {"id_aa64mmfr0_el1": 5 | 1 << 40}], ids=str)
def test_device_is_not_there_where_kvm_does_not_start(cause: dict[str, Any]) -> None:
    # kernel-ipa-spec 1.1
    assert EmulatedBackend(host(**cause)).open("/dev/kvm") == -ENOENT


@pytest.mark.parametrize("release", ["4.19", "4.20", "5.4", "5.10"])
def test_old_kernels_start_whatever_the_mode_says(release: str) -> None:
    with kernel(release, mode="none") as opened:
        assert opened.ask(KVM_GET_API_VERSION) == 12


@needs_rlimit
def test_opening_without_a_free_descriptor_is_emfile() -> None:
    with no_free_descriptor():
        assert EmulatedBackend(host()).open("/dev/kvm") == -EMFILE


# --- requests (kernel-ipa-spec 1.3) ---


@pytest.mark.parametrize("release", RELEASES)
def test_api_version_is_12(release: str) -> None:
    with kernel(release) as opened:
        assert opened.ask(KVM_GET_API_VERSION) == 12


@pytest.mark.parametrize("release", RELEASES)
@pytest.mark.parametrize("page_size", [K4, K16, K64])
def test_run_area_is_two_pages(page_size: int, release: str) -> None:
    with kernel(release, page_size=page_size) as opened:
        assert opened.ask(KVM_GET_VCPU_MMAP_SIZE) == 2 * page_size


@pytest.mark.parametrize("argument", [1, 12, 1 << 32, (1 << 64) - 1])
@pytest.mark.parametrize("request_number", [KVM_GET_API_VERSION, KVM_GET_VCPU_MMAP_SIZE])
def test_argument_that_must_be_0_is_checked_whole(request_number: int, argument: int) -> None:
    with kernel() as opened:
        assert opened.ask(request_number, argument) == -EINVAL


@pytest.mark.parametrize("release", RELEASES)
@pytest.mark.parametrize("request_number", [0, 0x5401, 0xAE02, 0xAE05, 0xAEFF, 0xC008AE67, KVM_GET_ONE_REG])
def test_unknown_request_is_einval_and_not_enotty(request_number: int, release: str) -> None:
    with kernel(release) as opened:
        assert opened.ask(request_number) == -EINVAL


@pytest.mark.parametrize("request_number", KVM_TRACES)
@pytest.mark.parametrize(
    ("release", "error"), [("5.10", EOPNOTSUPP), ("6.1", EOPNOTSUPP), ("6.12", EINVAL), ("7.3", EINVAL)]
)
def test_obsolete_trace_requests_have_an_error_of_their_own_until_6_1(
    release: str, error: int, request_number: int
) -> None:
    with kernel(release) as opened:
        assert opened.ask(request_number) == -error


@pytest.mark.parametrize("argument", [-1, 1 << 64])
def test_argument_of_more_than_64_bits_never_reaches_the_kernel(argument: int) -> None:
    with kernel() as opened, pytest.raises(OverflowError):
        opened.ask(KVM_CREATE_VM, argument)


@pytest.mark.parametrize("argument", ["40", 40.0, None])
def test_argument_that_is_no_int_is_a_type_error(argument: Any) -> None:
    with kernel() as opened, pytest.raises(TypeError):
        opened.ask(KVM_CREATE_VM, argument)


def test_subclass_of_int_is_an_int() -> None:
    class Bits(int):
        pass

    with kernel() as opened:
        assert opened.result(Bits(40)) == 0
        assert opened.result(Bits(31)) == -EINVAL


# --- machine types (kernel-ipa-spec 2.2, 2.3) ---


@pytest.mark.parametrize("release", WITH_SIZES)
@pytest.mark.parametrize(("parange", "limit"), [(2, 40), (3, 42), (4, 44), (5, 48)])
def test_types_0_and_32_to_the_limit_are_accepted_and_no_other(parange: int, limit: int, release: str) -> None:
    with kernel(release, parange) as opened:
        accepted = [size for size in range(512) if opened.result(size) == 0]
    assert accepted == [0, *range(32, limit + 1)]


@pytest.mark.parametrize("release", SPECIFIED)
@pytest.mark.parametrize(("parange", "limit"), [(0, 32), (1, 36)])
def test_type_0_is_refused_where_the_limit_is_below_40(parange: int, limit: int, release: str) -> None:
    with kernel(release, parange) as opened:
        accepted = [size for size in range(512) if opened.result(size) == 0]
    assert accepted == list(range(32, limit + 1))


@pytest.mark.parametrize(
    ("release", "result"),
    [("4.20", 0), ("5.4.0", 0), ("5.10.0", 0), ("5.4", -EINVAL), ("5.10", -EINVAL), ("5.10.262", -EINVAL)],
)
def test_type_0_below_40_was_accepted_before_the_fix(release: str, result: int) -> None:
    # kernel-ipa-spec 0.1, 0.2
    with kernel(release, 1) as opened:
        assert opened.result(0) == result
        assert opened.result(40) == -EINVAL


def test_kernel_without_sizes_takes_type_0_alone() -> None:
    with kernel("4.19") as opened:
        assert opened.result(0) == 0
        refused = [*range(1, 256), *(1 << bit for bit in range(8, 64))]
        assert {opened.result(machine_type) for machine_type in refused} == {-EINVAL}


@pytest.mark.parametrize("release", WITH_SIZES)
@pytest.mark.parametrize("size", [0, 32, 40])
def test_every_bit_from_8_to_63_is_refused(size: int, release: str) -> None:
    with kernel(release) as opened:
        assert opened.result(size) == 0
        assert {opened.result(size | 1 << bit) for bit in range(8, 64)} == {-EINVAL}


def test_all_ones_are_refused() -> None:
    with kernel() as opened:
        assert opened.result((1 << 64) - 1) == -EINVAL


@pytest.mark.parametrize("release", RELEASES)
def test_default_vm_has_40_bits(release: str) -> None:
    with kernel(release) as opened:
        assert opened.backend.stage2(opened.create(0)).vtcr_el2.ipa_bits == 40


@pytest.mark.parametrize("release", WITH_SIZES)
def test_vm_has_the_bits_that_were_asked_for(release: str) -> None:
    with kernel(release) as opened:
        assert [opened.backend.stage2(opened.create(bits)).vtcr_el2.ipa_bits for bits in range(32, 49)] == list(
            range(32, 49)
        )


# --- pKVM (kernel-ipa-spec 1.7, 2.3) ---


@pytest.mark.parametrize("release", IGNORE_SIZE)
@pytest.mark.parametrize("parange", [0, 1, 4, 5])
def test_pkvm_accepts_every_size_and_gives_the_limit(parange: int, release: str) -> None:
    with kernel(release, parange, **PKVM) as opened:
        assert {opened.result(size) for size in range(256)} == {0}
        limit = opened.ask(KVM_CHECK_EXTENSION, 165)
        sizes = [opened.backend.stage2(opened.create(size)).vtcr_el2.ipa_bits for size in (0, 1, 31, 32, 40, 64, 255)]
    assert sizes == [limit] * 7


@pytest.mark.parametrize("release", IGNORE_SIZE)
def test_pkvm_still_refuses_reserved_bits(release: str) -> None:
    with kernel(release, **PKVM) as opened:
        reserved = [bit for bit in range(8, 64) if bit != 31]
        assert {opened.result(40 | 1 << bit) for bit in reserved} == {-EINVAL}


def test_pkvm_of_6_1_honours_sizes() -> None:
    with kernel("6.1", **PKVM) as opened:
        accepted = [size for size in range(256) if opened.result(size) == 0]
    assert accepted == [0, *range(32, 49)]


@pytest.mark.parametrize("release", RELEASES)
@pytest.mark.parametrize("mode", ["vhe", "protected"])
@pytest.mark.parametrize("size", [0, 32, 40])
def test_protected_vm_needs_pkvm_and_7_3(size: int, mode: str, release: str) -> None:
    expected = 0 if (mode, release) == ("protected", "7.3") else -EINVAL
    with kernel(release, mode=mode) as opened:
        assert opened.result(PROTECTED | size) == expected


def test_pkvm_of_7_3_has_room_for_255_vms() -> None:
    with kernel("7.3", **PKVM) as opened:
        vms = [opened.create(size | (size & 1) << 31) for size in range(255)]
        assert min(vms) >= 0
        assert opened.create() == -ENOMEM
        assert opened.create(1 << 40) == -EINVAL
        opened.backend.close(vms[7])
        assert opened.create() >= 0
        assert opened.create(PROTECTED) == -ENOMEM


@pytest.mark.parametrize(("release", "more"), [("6.12", PKVM), ("7.3", {})])
def test_other_kernels_do_not_count_their_vms(release: str, more: dict[str, Any]) -> None:
    with kernel(release, **more) as opened:
        assert min(opened.create() for _ in range(260)) >= 0


def test_two_machines_count_their_vms_apart() -> None:
    with kernel("7.3", **PKVM) as full, kernel("7.3", **PKVM) as other:
        for _ in range(255):
            full.create()
        assert full.create() == -ENOMEM
        assert other.create() >= 0


def test_devices_opened_twice_share_the_room_for_vms() -> None:
    with kernel("7.3", **PKVM) as opened:
        for _ in range(255):
            opened.create()
        again = opened.backend.open("/dev/kvm")
        assert opened.backend.ioctl(again, KVM_CREATE_VM, 40) == -ENOMEM
        opened.backend.close(again)


def test_no_room_leaves_no_descriptor() -> None:
    with kernel("7.3", **PKVM) as opened:
        for _ in range(255):
            opened.create()
        lowest = os.dup(0)
        os.close(lowest)
        assert opened.create() == -ENOMEM
        after = os.dup(0)
        os.close(after)
        assert after == lowest


# --- descriptors (kernel-ipa-spec 0.1, 2.4) ---


@needs_rlimit
@pytest.mark.parametrize("release", RELEASES)
def test_good_type_without_a_free_descriptor_is_emfile(release: str) -> None:
    with kernel(release) as opened, no_free_descriptor():
        assert opened.create(0) == -EMFILE


@needs_rlimit
@pytest.mark.parametrize(("release", "error"), [("5.10", EINVAL), ("6.1", EMFILE), ("6.12", EMFILE), ("7.3", EMFILE)])
@pytest.mark.parametrize("machine_type", [1, 31, 49, 1 << 40, PROTECTED | 40])
def test_bad_type_without_a_free_descriptor_is_einval_until_5_10(machine_type: int, release: str, error: int) -> None:
    with kernel(release) as opened, no_free_descriptor():
        assert opened.create(machine_type) == -error


@needs_rlimit
def test_descriptors_come_before_room_for_vms() -> None:
    with kernel("7.3", **PKVM) as opened:
        for _ in range(255):
            opened.create()
        with no_free_descriptor():
            assert opened.create() == -EMFILE


@pytest.mark.parametrize("release", RELEASES)
def test_refused_type_leaves_no_descriptor(release: str) -> None:
    with kernel(release) as opened:
        first = opened.create(0)
        opened.backend.close(first)
        assert {opened.create(1 << 40) for _ in range(50)} == {-EINVAL}
        assert opened.create(0) == first


def test_vm_has_the_lowest_free_descriptor_for_itself_alone() -> None:
    fcntl = pytest.importorskip("fcntl", reason="needs fcntl(2)")
    with kernel() as opened:
        lowest = os.dup(0)
        os.close(lowest)
        vm = opened.create()
        assert vm == lowest
        assert not os.get_inheritable(vm)
        assert fcntl.fcntl(vm, fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDWR


def test_descriptor_that_is_closed_is_bad() -> None:
    with kernel() as opened:
        vm = opened.create()
        opened.backend.close(vm)
        assert opened.backend.ioctl(vm, KVM_CHECK_EXTENSION, 165) == -EBADF
        opened.backend.close(opened.system)
        assert opened.ask(KVM_GET_API_VERSION) == -EBADF


@pytest.mark.parametrize("fd", [-1, 1 << 20])
def test_descriptor_that_is_not_the_kernels_is_bad(fd: int) -> None:
    with kernel() as opened:
        assert opened.backend.ioctl(fd, KVM_GET_API_VERSION, 0) == -EBADF


def test_descriptor_of_another_kernel_is_no_kvm_and_closing_it_does_nothing() -> None:
    with kernel() as one, kernel() as other:
        assert one.backend.ioctl(other.system, KVM_GET_API_VERSION, 0) == -ENOTTY
        one.backend.close(other.system)
        assert other.ask(KVM_GET_API_VERSION) == 12


def test_closing_twice_closes_no_one_elses_descriptor() -> None:
    with kernel() as opened:
        vm = opened.create()
        opened.backend.close(vm)
        reader, writer = os.pipe()
        opened.backend.close(vm)
        assert reader == vm
        os.fstat(reader)
        os.close(reader)
        os.close(writer)


def test_vm_outlives_the_device() -> None:
    with kernel() as opened:
        vm = opened.create()
        opened.backend.close(opened.system)
        assert opened.backend.ioctl(vm, KVM_CHECK_EXTENSION, 165) == 48


@needs_fork
def test_child_process_may_use_the_device() -> None:
    # kernel-ipa-spec 1.3: only the VM's descriptor looks at the process.
    with kernel() as opened:
        assert in_child(lambda: opened.ask(KVM_GET_API_VERSION)) == 12
        assert in_child(lambda: opened.on_vm(KVM_CHECK_EXTENSION, 165)) == 48


def test_sweep_gives_the_errors_of_single_creations() -> None:
    types = [*range(300), 1 << 31, 1 << 63, (1 << 64) - 1]
    with kernel(parange=4) as opened:
        one_by_one = [-opened.result(machine_type) for machine_type in types]
        assert list(opened.backend.sweep_machine_types(opened.system, array("Q", types))) == one_by_one


# --- capabilities (kernel-ipa-spec 9) ---


@pytest.mark.parametrize(("number", "release", "value"), capability_rows())
def test_capability_has_its_value_in_the_release(number: int, release: str, value: int) -> None:
    with kernel(release) as opened:
        assert opened.ask(KVM_CHECK_EXTENSION, number) == value


@pytest.mark.parametrize("release", SPECIFIED)
def test_capability_that_is_in_no_table_is_0(release: str) -> None:
    tabled = {number for number, _, _ in capability_rows()} | OF_THE_HOST
    with kernel(release) as opened:
        unknown = [number for number in range(400) if number not in tabled and opened.ask(KVM_CHECK_EXTENSION, number)]
        assert unknown == []
        assert opened.ask(KVM_CHECK_EXTENSION, 165 | 1 << 32) == 0
        assert opened.ask(KVM_CHECK_EXTENSION, (1 << 64) - 1) == 0


@pytest.mark.parametrize("release", WITH_SIZES)
@pytest.mark.parametrize(("parange", "limit"), [(0, 32), (1, 36), (2, 40), (3, 42), (4, 44), (5, 48), (6, 48)])
def test_capability_165_is_the_limit(parange: int, limit: int, release: str) -> None:
    with kernel(release, parange) as opened:
        assert opened.ask(KVM_CHECK_EXTENSION, 165) == limit


def test_capability_165_is_0_before_4_20() -> None:
    # kernel-ipa-spec 1.5
    with kernel("4.19") as opened:
        assert opened.ask(KVM_CHECK_EXTENSION, 165) == 0


@pytest.mark.parametrize(
    ("number", "releases"), [(131, SPECIFIED), (243, ("7.3",))], ids=["MSI_DEVID", "CACHEABLE_PFNMAP"]
)
def test_capability_that_needs_a_vm_is_an_error_here(number: int, releases: tuple[str, ...]) -> None:
    for release in SPECIFIED:
        with kernel(release) as opened:
            assert opened.ask(KVM_CHECK_EXTENSION, number) == (-EINVAL if release in releases else 0)


# Number -> a host without it, a host with it, and its value there; the first release that knows it.
OF_THE_MACHINE: list[tuple[int, dict[str, Any], dict[str, Any], int, str]] = [
    (0, {"gic": None}, {"gic": "v2"}, 1, "5.10"),
    (93, {"id_aa64pfr0_el1": 0x11}, {"id_aa64pfr0_el1": 0x21}, 1, "5.10"),
    (126, {"id_aa64dfr0_el1": 0x006}, {"id_aa64dfr0_el1": 0x406}, 1, "5.10"),
    (126, {"id_aa64dfr0_el1": 0xF06}, {"id_aa64dfr0_el1": 0x106}, 1, "5.10"),
    (158, {"id_aa64pfr0_el1": 0x11}, {"id_aa64pfr0_el1": 0x10000011}, 1, "5.10"),
    (170, {"id_aa64pfr0_el1": 0x11}, {"id_aa64pfr0_el1": 0x100000011}, 1, "5.10"),
    (171, {"id_aa64isar1_el1": 0x10}, {"id_aa64isar1_el1": 0x01000010}, 1, "5.10"),
    (172, {"id_aa64isar1_el1": 0x01000000}, {"id_aa64isar1_el1": 0x10000100}, 1, "5.10"),
    (205, {"id_aa64pfr1_el1": 0x100}, {"id_aa64pfr1_el1": 0x200}, 1, "6.1"),
    (229, {}, {}, 0x40201000, "6.12"),
    (240, {"mode": "vhe"}, {"mode": "nested"}, 1, "7.3"),
    (251, {"id_aa64dfr0_el1": 0x006}, {"id_aa64dfr0_el1": 0x406}, 1, "7.3"),
]


@pytest.mark.parametrize("release", SPECIFIED)
@pytest.mark.parametrize(("number", "without", "having", "value", "first"), OF_THE_MACHINE)
def test_capability_of_the_machine_is_there_where_the_machine_has_it(
    number: int, without: dict[str, Any], having: dict[str, Any], value: int, first: str, release: str
) -> None:
    known = SPECIFIED.index(release) >= SPECIFIED.index(first)
    with kernel(release, **having) as opened:
        assert opened.capability(number) == ((value, value) if known else (0, 0))
    if without != having:
        with kernel(release, **without) as opened:
            assert opened.capability(number) == (0, 0)


@pytest.mark.parametrize("release", SPECIFIED)
def test_two_signing_algorithms_are_too_many_since_6_12(release: str) -> None:
    # kernel-ipa-spec 9: "6.12+: exactly one algorithm, address and generic alike"
    both, mixed = {"id_aa64isar1_el1": 0x11000110}, {"id_aa64isar1_el1": 0x10000010}
    expected = 1 if release in ("5.10", "6.1") else 0
    for registers in (both, mixed):
        with kernel(release, **registers) as opened:
            assert [opened.ask(KVM_CHECK_EXTENSION, number) for number in (171, 172)] == [expected, expected]


@pytest.mark.parametrize("release", SPECIFIED)
@pytest.mark.parametrize(("field", "count"), [(0, 1), (5, 6), (15, 16)])
def test_breakpoints_and_watchpoints_are_counted(field: int, count: int, release: str) -> None:
    with kernel(release, id_aa64dfr0_el1=field << 12 | (15 - field) << 20) as opened:
        assert opened.ask(KVM_CHECK_EXTENSION, 119) == count
        assert opened.ask(KVM_CHECK_EXTENSION, 120) == 17 - count


@pytest.mark.parametrize("release", SPECIFIED)
@pytest.mark.parametrize(("gic", "most"), [("v3", 512), ("v2", 8), (None, 512)])
def test_gic_bounds_the_number_of_vcpus(gic: str | None, most: int, release: str) -> None:
    with kernel(release, gic=gic) as opened:
        assert {opened.capability(number) for number in (66, 128)} == {(most, most)}


@pytest.mark.parametrize(
    ("release", "gic", "cpus", "value"),
    [
        ("5.10", "v3", 4, 4),
        ("6.1", "v3", 4, 4),
        ("7.3", "v3", 512, 512),
        # 5.10 says what is online, 6.1 what of it a VM can have.
        ("5.10", "v2", 16, 16),
        ("6.1", "v2", 16, 8),
        ("6.12", "v2", 16, 8),
        ("7.3", "v2", 16, 8),
        ("5.10", "v3", 600, 600),
        ("6.12", "v3", 600, 512),
    ],
)
def test_recommended_vcpus_are_the_online_cpus(release: str, gic: str, cpus: int, value: int) -> None:
    with kernel(release, gic=gic, cpus=cpus) as opened:
        assert opened.capability(9) == (value, value)


@pytest.mark.parametrize(("page_size", "value"), [(K4, 0x40201000), (K16, 0x02004000), (K64, 0x20010000)])
def test_block_sizes_are_the_page_sizes_own(page_size: int, value: int) -> None:
    # kernel-ipa-spec 6
    with kernel(page_size=page_size) as opened:
        assert opened.capability(229) == (value, value)


@pytest.mark.parametrize("number", [205, 228, 229])
def test_pkvm_of_7_3_hides_three_capabilities_from_everyone(number: int) -> None:
    # kernel-ipa-spec 1.7
    with kernel("7.3", id_aa64pfr1_el1=0x200, **PKVM) as opened:
        assert opened.capability(number) == (0, 0)


@pytest.mark.parametrize(("release", "number", "value"), [("6.12", 229, 0x40201000), ("6.12", 205, 1), ("6.1", 205, 1)])
def test_pkvm_before_7_3_hides_them_not(release: str, number: int, value: int) -> None:
    with kernel(release, id_aa64pfr1_el1=0x200, **PKVM) as opened:
        assert opened.capability(number) == (value, value)


def test_descriptor_of_something_else_is_not_a_kvm() -> None:
    with kernel() as opened, Path(os.devnull).open("rb") as other:
        assert opened.backend.ioctl(other.fileno(), KVM_CREATE_VM, 40) == -ENOTTY
        assert opened.backend.ioctl_buffer(other.fileno(), 0xC00CAEE0, bytearray(12)) == -ENOTTY
        assert opened.backend.ioctl(1 << 20, KVM_CREATE_VM, 40) == -EBADF
