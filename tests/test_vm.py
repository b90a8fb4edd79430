# SPDX-License-Identifier: Apache-2.0
"""Vm: one virtual machine. Every test runs on each kernel there is."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

import pytest

import kvmipa
from kvmipa import Vm, abi, errors
from kvmipa.access import MmioExit
from kvmipa.stage2 import Stage2
from tests.forking import assert_belongs_to_this_process, needs_fork

if TYPE_CHECKING:
    from collections.abc import Callable

    from kvmipa import Kvm


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


@needs_fork
def test_child_process_may_not_use_the_vm(vm: Vm) -> None:
    assert_belongs_to_this_process(lambda: vm.check_extension(abi.KVM_CAP_USER_MEMORY))
    assert vm.check_extension(abi.KVM_CAP_USER_MEMORY) == 1


@needs_fork
@pytest.mark.emulated
def test_child_process_may_not_look_at_the_tables_nor_access_memory(vm: Vm) -> None:
    assert_belongs_to_this_process(lambda: vm.stage2)
    assert_belongs_to_this_process(lambda: vm.access(0))
    assert isinstance(vm.stage2, Stage2)
    assert vm.access(0x1000, "load", 4) == MmioExit(0x1000, 4, is_write=False)


class Refusing:
    """A backend whose own operations fail."""

    name = "refusing"

    def __init__(self, failure: OSError) -> None:
        self.failure = failure

    def ioctl(self, _fd: int, _request: int, _argument: int) -> int:
        return 0

    def close(self, _fd: int) -> None:
        """Nothing to close."""

    def stage2(self, _fd: int) -> None:
        raise self.failure

    def access(self, _fd: int, _what: object) -> None:
        raise self.failure


@pytest.mark.parametrize(
    ("failure", "kind"),
    [
        (OSError(errno.EIO, "words"), errors.OtherProcessError),
        (errors.NotSupportedError(errno.EOPNOTSUPP, cause="not here"), errors.NotSupportedError),
        (PermissionError(errno.EPERM, "words"), PermissionError),
    ],
)
def test_failure_of_a_backends_own_operation_has_its_cause(failure: OSError, kind: type[OSError]) -> None:
    with Vm(Refusing(failure), 0, 40, given_bits=lambda: 40, page_size=4096) as vm:  # type: ignore[arg-type]
        uses: dict[str, Callable[[], object]] = {"Vm.stage2": lambda: vm.stage2, "Vm.access()": lambda: vm.access(0)}
        for name, use in uses.items():
            with pytest.raises(kind) as caught:
                use()
            assert type(caught.value) is kind
            assert kind is not errors.OtherProcessError or f"{name} in another process" in str(caught.value)


@pytest.mark.native
def test_real_kernel_does_not_show_its_tables(vm: Vm) -> None:
    with pytest.raises(errors.NotSupportedError, match="emulated backend"):
        vm.stage2  # noqa: B018


@pytest.mark.emulated
def test_emulated_kernel_shows_register_and_shape(vm: Vm, limit: int, ignores_size: bool) -> None:
    assert isinstance(vm.stage2, Stage2)
    assert vm.stage2.vtcr_el2.ipa_bits == (limit if ignores_size else vm.ipa_bits)
    assert vm.stage2.geometry == vm.geometry
