# SPDX-License-Identifier: Apache-2.0
"""KVM_CHECK_EXTENSION on the system's and on a VM's descriptor: every test runs on each kernel there is."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from kvmipa import HostProfile, abi, errors
from kvmipa.backend.emulated.release import parse
from tests.backend.emulated.asking import KVM_CHECK_EXTENSION, PROTECTED, SPECIFIED
from tests.backend.emulated.vm_asking import emulated, state

if TYPE_CHECKING:
    from kvmipa import Kvm, Vm

# Only a VM can say (kernel-ipa-spec 9); 243 since 7.3, before it is unknown.
OF_THE_VM_ONLY = {abi.KVM_CAP_MSI_DEVID, abi.KVM_CAP_ARM_CACHEABLE_PFNMAP_SUPPORTED}

BLOCK_SIZES = abi.KVM_CAP_ARM_SUPPORTED_BLOCK_SIZES
CHUNK_SIZE = abi.KVM_CAP_ARM_EAGER_SPLIT_CHUNK_SIZE


def test_new_vm_answers_as_the_system_does(kvm: Kvm, vm: Vm) -> None:
    caps = [cap for cap in range(300) if cap not in OF_THE_VM_ONLY]
    assert {cap: vm.check_extension(cap) for cap in caps} == {cap: kvm.check_extension(cap) for cap in caps}


def test_what_only_a_vm_knows_is_asked_of_it(kvm: Kvm, vm: Vm) -> None:
    with pytest.raises(errors.CapabilityNeedsVmError):
        kvm.check_extension(abi.KVM_CAP_MSI_DEVID)
    # It has no ITS.
    assert vm.check_extension(abi.KVM_CAP_MSI_DEVID) == 0


def test_capability_is_64_bits_for_the_vm_too(vm: Vm) -> None:
    assert vm.check_extension(1 << 32 | abi.KVM_CAP_USER_MEMORY) == 0


def test_chunk_size_is_the_vms_own(kvm: Kvm, vm: Vm) -> None:
    sizes = vm.check_extension(BLOCK_SIZES)
    if not sizes:
        with pytest.raises(errors.CapabilityNotEnableableError):
            vm.enable_cap(CHUNK_SIZE, kvm.page_size or 0)
        return
    for size in [1 << bit for bit in range(64) if sizes >> bit & 1]:
        vm.enable_cap(CHUNK_SIZE, size)
        assert (vm.check_extension(CHUNK_SIZE), kvm.check_extension(CHUNK_SIZE)) == (size, 0)
    vm.enable_cap(CHUNK_SIZE, 0)
    assert vm.check_extension(CHUNK_SIZE) == 0


@pytest.mark.native
def test_real_kernel_that_is_new_enough_has_what_its_release_brought(kvm: Kvm) -> None:
    release = parse(os.uname().release)[:2]
    assert bool(kvm.check_extension(abi.KVM_CAP_COUNTER_OFFSET)) == (release >= (6, 4))


@pytest.mark.parametrize("release", SPECIFIED)
def test_vgic_and_its_change_what_the_vm_answers(release: str) -> None:
    with emulated(release) as vm:
        vcpus = [abi.KVM_CAP_MAX_VCPUS, abi.KVM_CAP_MAX_VCPU_ID]
        assert [vm.value(KVM_CHECK_EXTENSION, cap) for cap in vcpus] == [512, 512]
        state(vm).max_vcpus = 8
        assert [vm.value(KVM_CHECK_EXTENSION, cap) for cap in vcpus] == [8, 8]
        assert vm.value(KVM_CHECK_EXTENSION, abi.KVM_CAP_MSI_DEVID) == 0
        assert vm.device(abi.KVM_DEV_TYPE_ARM_VGIC_ITS) >= 0
        assert vm.value(KVM_CHECK_EXTENSION, abi.KVM_CAP_MSI_DEVID) == 1


@pytest.mark.parametrize(("release", "size"), [("6.12", 4096), ("7.3", 0)])
def test_pkvm_has_no_block_sizes_to_split_since_7_3(release: str, size: int) -> None:
    with emulated(release, mode="protected") as vm:
        vm.enable(CHUNK_SIZE, 4096)
        assert vm.value(KVM_CHECK_EXTENSION, CHUNK_SIZE) == size


def test_protected_vm_answers_what_7_3_4_does() -> None:
    # Asked of a protected VM of Debian's 7.3.4 on QEMU's max, every number below 300.
    seen = {0, 3, 9, 10, 15, 16, 21, 25, 30, 32, 40, 66, 77, 87, 89, 98, 102, 105, 122, 128, 162, 165, 168, 171, 172}
    seen |= {182, 203, 215, 223, 225, 231, 234, 244}
    preset = HostProfile.preset("qemu-max-7.3-4k")
    registers = {name: getattr(preset, name) for name in HostProfile.__dataclass_fields__ if name.startswith("id_aa64")}
    with emulated("7.3", 40 | PROTECTED, mode="protected", **registers) as vm:
        assert {cap for cap in range(300) if vm.value(KVM_CHECK_EXTENSION, cap)} == seen


@pytest.mark.parametrize(
    ("release", "mode", "answer"), [("7.3", "nested", 1), ("7.3", "vhe", 0), ("6.12", "nested", 0)]
)
def test_guests_with_an_el2_may_be_without_vhe(release: str, mode: str, answer: int) -> None:
    with emulated(release, mode=mode) as vm:
        assert vm.value(KVM_CHECK_EXTENSION, abi.KVM_CAP_ARM_EL2_E2H0) == answer
