# SPDX-License-Identifier: Apache-2.0
"""Vm.enable_cap and its errors: every test that takes a VM runs on each kernel there is."""

from __future__ import annotations

from errno import E2BIG
from typing import TYPE_CHECKING, Any

import pytest

from kvmipa import abi, errors
from kvmipa.causes.enabling import ENABLEABLE
from tests.backend.emulated.vm_asking import KVM_CREATE_VCPU, memory, of
from tests.forking import assert_belongs_to_this_process, needs_fork

if TYPE_CHECKING:
    from kvmipa import Kvm, Vm

RING = abi.KVM_CAP_DIRTY_LOG_RING_ACQ_REL
RING_BITMAP = abi.KVM_CAP_DIRTY_LOG_RING_WITH_BITMAP
CHUNK_SIZE = abi.KVM_CAP_ARM_EAGER_SPLIT_CHUNK_SIZE
MANUAL = abi.KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2


@pytest.fixture
def ring(vm: Vm) -> int:
    """The largest dirty ring, in bytes; kernels before 6.2 have none on arm64."""
    most = vm.check_extension(RING)
    if not most:
        pytest.skip("this kernel has no dirty rings")
    return most


def test_what_every_kernel_has_is_enabled(vm: Vm) -> None:
    vm.enable_cap(abi.KVM_CAP_ARM_NISV_TO_USER)
    vm.enable_cap(abi.KVM_CAP_HALT_POLL, 200_000)
    for value in (1, vm.check_extension(MANUAL), 0):
        vm.enable_cap(MANUAL, value)


@pytest.mark.parametrize("cap", [abi.KVM_CAP_USER_MEMORY, abi.KVM_CAP_ARM_VM_IPA_SIZE, 999])
def test_what_is_no_switch_is_named(vm: Vm, cap: int) -> None:
    with pytest.raises(errors.CapabilityNotEnableableError, match="cannot be enabled") as caught:
        vm.enable_cap(cap)
    assert "KVM_CAP_ARM_NISV_TO_USER" in caught.value.available


def test_what_this_kernel_or_host_does_not_have_is_named(vm: Vm) -> None:
    absent = [cap for cap, known in ENABLEABLE.items() if not vm.check_extension(known.offered or cap)]
    for cap in absent:
        with pytest.raises(errors.CapabilityNotEnableableError, match="not there"):
            vm.enable_cap(cap)


@pytest.mark.parametrize(
    ("cap", "value"),
    [(MANUAL, 2), (MANUAL, 1 << 63), (abi.KVM_CAP_HALT_POLL, 1 << 32), (CHUNK_SIZE, 3), (RING, 3), (RING, 0)],
)
def test_argument_that_it_does_not_take_is_named(vm: Vm, cap: int, value: int) -> None:
    if not vm.check_extension(ENABLEABLE[cap].offered or cap):
        pytest.skip("this kernel does not have it")
    with pytest.raises(errors.InvalidCapabilityArgumentError, match="does not take this argument") as caught:
        vm.enable_cap(cap, value)
    assert caught.value.asked.endswith(f"with {value:#x}")


def test_flags_are_named(vm: Vm) -> None:
    with pytest.raises(errors.InvalidCapabilityArgumentError, match="these flags"):
        vm.enable_cap(MANUAL, 1, flags=4)


def test_ring_that_is_too_large_has_the_kernels_errno(vm: Vm, ring: int) -> None:
    with pytest.raises(errors.InvalidCapabilityArgumentError) as caught:
        vm.enable_cap(RING, 2 * ring)
    assert caught.value.errno == E2BIG


def test_ring_is_enabled_once(vm: Vm, ring: int) -> None:
    vm.enable_cap(RING, ring)
    with pytest.raises(errors.AlreadyEnabledError):
        vm.enable_cap(RING, ring)


def test_bitmap_comes_after_the_ring(vm: Vm, ring: int) -> None:
    with pytest.raises(errors.NeedsOtherCapabilityError, match="KVM_CAP_DIRTY_LOG_RING_ACQ_REL first"):
        vm.enable_cap(RING_BITMAP)
    vm.enable_cap(RING, ring)
    vm.enable_cap(RING_BITMAP)


def test_memory_makes_it_too_late(kvm: Kvm, vm: Vm) -> None:
    size = kvm.page_size or 0
    if not vm.check_extension(abi.KVM_CAP_ARM_SUPPORTED_BLOCK_SIZES):
        pytest.skip("this kernel splits nothing eagerly")
    with memory() as at:
        assert of(vm).slot(at) == 0
        with pytest.raises(errors.TooLateToEnableError, match="memory slot"):
            vm.enable_cap(CHUNK_SIZE, size)
        assert of(vm).slot(at, size=0) == 0
        vm.enable_cap(CHUNK_SIZE, size)


def test_vcpu_makes_it_too_late(vm: Vm, ring: int) -> None:
    vcpu = of(vm).value(KVM_CREATE_VCPU)
    assert vcpu >= 0
    with pytest.raises(errors.TooLateToEnableError, match="vCPU"):
        vm.enable_cap(RING, ring)
    vm._backend.close(vcpu)


def test_closed_vm_says_that_it_is_closed(vm: Vm) -> None:
    vm.close()
    with pytest.raises(errors.ClosedError):
        vm.enable_cap(MANUAL, 1)


@needs_fork
def test_child_process_may_not_enable(vm: Vm) -> None:
    assert_belongs_to_this_process(lambda: vm.enable_cap(MANUAL, 1))


@pytest.mark.parametrize(
    ("args", "flags", "kind"),
    [
        ((MANUAL, 1, 2, 3, 4, 5), 0, TypeError),
        ((MANUAL, 1.5), 0, TypeError),
        ((MANUAL, "1"), 0, TypeError),
        ((MANUAL, -1), 0, OverflowError),
        ((MANUAL, 1 << 64), 0, OverflowError),
        ((-1,), 0, OverflowError),
        ((1 << 32,), 0, OverflowError),
        ((MANUAL,), 1 << 32, OverflowError),
    ],
)
def test_what_does_not_fit_is_not_sent(vm: Vm, args: tuple[Any, ...], flags: int, kind: type[Exception]) -> None:
    with pytest.raises(kind):
        vm.enable_cap(*args, flags=flags)
