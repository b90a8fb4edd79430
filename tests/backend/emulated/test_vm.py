# SPDX-License-Identifier: Apache-2.0
"""The descriptor of an emulated VM through its seam."""

from __future__ import annotations

from errno import EINVAL, EIO
from typing import Any

import pytest

from tests.forking import in_child, needs_fork

from .asking import (
    KVM_CHECK_EXTENSION,
    KVM_CREATE_VM,
    KVM_GET_API_VERSION,
    KVM_GET_VCPU_MMAP_SIZE,
    KVM_TRACES,
    OF_THE_HOST,
    PROTECTED,
    RELEASES,
    SPECIFIED,
    capability_rows,
    kernel,
)

# What the device knows, a VM does not (kernel-ipa-spec 1.3): the request, and the last release that knows it.
SYSTEM_REQUESTS = [
    (KVM_GET_API_VERSION, "7.3"),
    (KVM_CREATE_VM, "7.3"),
    (KVM_GET_VCPU_MMAP_SIZE, "7.3"),
    *((trace, "6.1") for trace in KVM_TRACES),
]


# --- dispatch is by kind of descriptor, then by number ---


@pytest.mark.parametrize("release", RELEASES)
@pytest.mark.parametrize(("request_number", "last"), SYSTEM_REQUESTS)
def test_dispatch_is_by_kind_of_descriptor(request_number: int, last: str, release: str) -> None:
    known = RELEASES.index(release) <= RELEASES.index(last)
    with kernel(release) as opened:
        vm = opened.create(0)
        of_the_device = opened.create(0) if request_number == KVM_CREATE_VM else opened.ask(request_number)
        assert (of_the_device != -EINVAL) == known
        assert opened.backend.ioctl(vm, request_number, 0) == -EINVAL


@pytest.mark.parametrize("release", RELEASES)
def test_one_number_on_two_kinds_of_descriptor_is_two_requests(release: str) -> None:
    # kernel-ipa-spec 9: MSI_DEVID can be asked of a VM alone.
    with kernel(release) as opened:
        assert opened.ask(KVM_CHECK_EXTENSION, 131) == -EINVAL
        assert opened.on_vm(KVM_CHECK_EXTENSION, 131, machine_type=0) == 0


def test_request_on_a_vm_makes_no_vm() -> None:
    with kernel() as opened:
        vm = opened.create()
        before = len(list(opened.backend._descriptors.files()))
        assert opened.backend.ioctl(vm, KVM_CREATE_VM, 40) == -EINVAL
        assert len(list(opened.backend._descriptors.files())) == before


@pytest.mark.parametrize("release", RELEASES)
@pytest.mark.parametrize("request_number", [0, 0x5401, 0xAE02, 0xAEFF, 0xC008AE68])
def test_unknown_request_is_einval_and_not_enotty(request_number: int, release: str) -> None:
    with kernel(release) as opened:
        assert opened.on_vm(request_number, machine_type=0) == -EINVAL


# --- the VM belongs to the process that made it ---


@needs_fork
@pytest.mark.parametrize(
    ("request_number", "argument"),
    [(KVM_CHECK_EXTENSION, 165), (KVM_CHECK_EXTENSION, 0), (0x5401, 0), (KVM_CREATE_VM, 1)],
)
def test_every_request_of_a_child_process_is_eio(request_number: int, argument: int) -> None:
    # kernel-ipa-spec 1.3: before anything else
    with kernel() as opened:
        vm = opened.create()
        assert in_child(lambda: opened.backend.ioctl(vm, request_number, argument)) == -EIO


@needs_fork
def test_parent_keeps_the_vm_that_a_child_closed() -> None:
    def close_it() -> int:
        opened.backend.close(vm)
        return opened.backend.ioctl(vm, KVM_CHECK_EXTENSION, 165)

    with kernel() as opened:
        vm = opened.create()
        in_child(close_it)
        assert opened.backend.ioctl(vm, KVM_CHECK_EXTENSION, 165) == 48


@needs_fork
def test_vm_made_by_a_child_is_the_childs() -> None:
    with kernel() as opened:
        assert in_child(lambda: opened.on_vm(KVM_CHECK_EXTENSION, 165)) == 48


# --- capabilities (kernel-ipa-spec 9) ---


@pytest.mark.parametrize(("number", "release", "value"), capability_rows())
def test_capability_has_its_value_in_the_release(number: int, release: str, value: int) -> None:
    with kernel(release) as opened:
        assert opened.on_vm(KVM_CHECK_EXTENSION, number) == value


@pytest.mark.parametrize("release", SPECIFIED)
def test_capability_that_is_in_no_table_is_0(release: str) -> None:
    tabled = {number for number, _, _ in capability_rows()} | OF_THE_HOST
    with kernel(release) as opened:
        vm = opened.create()
        answers = {number: opened.backend.ioctl(vm, KVM_CHECK_EXTENSION, number) for number in range(400)}
    assert {number: answer for number, answer in answers.items() if answer and number not in tabled} == {}


@pytest.mark.parametrize("release", RELEASES[1:])
@pytest.mark.parametrize("machine_type", [0, 32, 41, 44])
def test_limit_is_the_hosts_whatever_the_vms_size(machine_type: int, release: str) -> None:
    # kernel-ipa-spec 1.5
    with kernel(release, 4) as opened:
        assert opened.on_vm(KVM_CHECK_EXTENSION, 165, machine_type) == 44


@pytest.mark.parametrize("release", SPECIFIED)
def test_msi_devid_is_0_without_an_its(release: str) -> None:
    with kernel(release) as opened:
        assert opened.on_vm(KVM_CHECK_EXTENSION, 131) == 0


@pytest.mark.parametrize("release", SPECIFIED)
@pytest.mark.parametrize(("fwb", "dic"), [(False, False), (True, False), (False, True), (True, True)])
def test_cacheable_device_mappings_need_fwb_and_dic(fwb: bool, dic: bool, release: str) -> None:
    with kernel(release, fwb=fwb, dic=dic) as opened:
        assert opened.on_vm(KVM_CHECK_EXTENSION, 243) == int(release == "7.3" and fwb and dic)


# kernel-ipa-spec 9: the short list, which reaches the architecture and is answered; the rest of what reaches it is 0.
SHORT_LIST = {0, 9, 66, 87, 102, 128, 131, 165, 171, 172}
ANSWERED_BEFORE = {
    3,
    10,
    15,
    16,
    21,
    25,
    30,
    32,
    77,
    89,
    98,
    105,
    122,
    162,
    168,
    182,
    203,
    215,
    223,
    225,
    231,
    234,
    244,
}
EVERYTHING: dict[str, Any] = {
    "mode": "protected",
    "id_aa64pfr0_el1": 0x110000021,
    "id_aa64pfr1_el1": 0x200,
    "id_aa64dfr0_el1": 0x406,
    "id_aa64isar1_el1": 0x01000010,
    "dic": True,
}


def test_protected_vm_shows_a_short_list_and_what_is_not_the_architectures() -> None:
    with kernel("7.3", **EVERYTHING) as opened:
        plain, protected = opened.create(40), opened.create(PROTECTED | 40)
        for number in range(400):
            expected = 0
            if number in SHORT_LIST | ANSWERED_BEFORE | {40}:
                expected = opened.backend.ioctl(plain, KVM_CHECK_EXTENSION, number)
            assert (number, opened.backend.ioctl(protected, KVM_CHECK_EXTENSION, number)) == (number, expected)


@pytest.mark.parametrize("number", [14, 70, 126, 158, 170, 177, 245])
def test_vm_that_is_not_protected_hides_nothing_on_the_same_host(number: int) -> None:
    with kernel("7.3", **EVERYTHING) as opened:
        assert opened.on_vm(KVM_CHECK_EXTENSION, number, 40) == 1
        assert opened.on_vm(KVM_CHECK_EXTENSION, number, PROTECTED | 40) == 0


# --- stage 2 ---


@pytest.mark.parametrize("machine_type", [0, 32, 39, 48])
def test_register_and_shape_are_of_one_size(machine_type: int) -> None:
    with kernel() as opened:
        stage2 = opened.backend.stage2(opened.create(machine_type))
    assert stage2.vtcr_el2.ipa_bits == stage2.geometry.ipa_bits == (machine_type or 40)
    assert (stage2.vtcr_el2["SL0"], stage2.geometry.page_size) == (stage2.geometry.sl0, 4096)


def test_device_has_no_stage_2() -> None:
    with kernel() as opened, pytest.raises(TypeError, match="only a VM"):
        opened.backend.stage2(opened.system)
