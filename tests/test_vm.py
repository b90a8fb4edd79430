# SPDX-License-Identifier: Apache-2.0
"""Vm: one virtual machine. Every test runs on each kernel there is."""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING

import pytest

import kvmipa
from kvmipa import abi, errors
from kvmipa.stage2 import Stage2

if TYPE_CHECKING:
    from collections.abc import Iterator

    from kvmipa import Kvm, Vm


@pytest.fixture
def vm(kvm: Kvm, limit: int) -> Iterator[Vm]:
    """A VM of 40 bits, or of the limit where that is less."""
    with kvm.create_vm(min(limit, 40)) as created:
        yield created


def test_limit_is_the_hosts_whatever_the_vms_size(kvm: Kvm, limit: int) -> None:
    for bits in (32, limit if limit <= 44 else 44):
        with kvm.create_vm(bits) as vm:
            assert vm.check_extension(abi.KVM_CAP_ARM_VM_IPA_SIZE) == limit


def test_vm_outlives_the_kvm_that_made_it(backend_name: str) -> None:
    kvm = kvmipa.open(backend_name)
    with kvm.create_vm(32) as vm:
        kvm.close()
        assert vm.check_extension(abi.KVM_CAP_CHECK_EXTENSION_VM) == 1


def test_geometry_is_of_the_hosts_pages_and_the_size_that_the_vm_was_given(
    kvm: Kvm, vm: Vm, limit: int, ignores_size: bool
) -> None:
    given = limit if ignores_size else vm.ipa_bits
    assert (vm.geometry.page_size, vm.geometry.ipa_bits) == (kvm.page_size, given)


def test_closed_vm_says_that_it_is_closed(vm: Vm) -> None:
    vm.close()
    vm.close()
    with pytest.raises(errors.ClosedError, match="Vm is closed"):
        vm.check_extension(abi.KVM_CAP_USER_MEMORY)
    with pytest.raises(errors.ClosedError):
        vm.fileno()
    assert repr(vm).endswith("closed>")


def test_repr_shows_size_and_descriptor(vm: Vm, backend_name: str) -> None:
    assert repr(vm) == f"<kvmipa.Vm {backend_name} ipa_bits={vm.ipa_bits} fd={vm.fileno()}>"


def test_child_process_may_not_use_the_vm(vm: Vm) -> None:
    child = os.fork()
    if child == 0:
        try:
            vm.check_extension(abi.KVM_CAP_USER_MEMORY)
            os._exit(1)
        except errors.OtherProcessError as error:
            os._exit(0 if error.errno == errno.EIO else 2)
        except BaseException:
            os._exit(3)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 0
    assert vm.check_extension(abi.KVM_CAP_USER_MEMORY) == 1


@pytest.mark.native
def test_real_kernel_does_not_show_its_tables(vm: Vm) -> None:
    with pytest.raises(errors.NotSupportedError, match="emulated backend"):
        vm.stage2  # noqa: B018


@pytest.mark.emulated
def test_emulated_kernel_shows_register_and_shape(vm: Vm, limit: int, ignores_size: bool) -> None:
    assert isinstance(vm.stage2, Stage2)
    assert vm.stage2.vtcr_el2.ipa_bits == (limit if ignores_size else vm.ipa_bits)
    assert vm.stage2.geometry == vm.geometry
