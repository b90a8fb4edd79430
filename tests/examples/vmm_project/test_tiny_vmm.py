# SPDX-License-Identifier: Apache-2.0
"""The VMM on whatever host there is, and its error paths."""

from __future__ import annotations

from errno import EACCES, EINTR, ENOMEM
from typing import TYPE_CHECKING

import pytest
import tiny_vmm

from kvmipa import errors

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from kvmipa import HostProfile, Kvm
    from kvmipa.fault_injection import Faults


@pytest.fixture
def machine(kvm: Kvm) -> Iterator[Callable[..., tiny_vmm.Machine]]:
    """Makes machines, and closes them."""
    made = []

    def make(message: str = "hi", needed: int = 32) -> tiny_vmm.Machine:
        made.append(tiny_vmm.Machine(kvm, message, needed))
        return made[-1]

    yield make
    for one in made:
        one.close()


# ------------------------------------------------------------------------------------------------ on every host


@pytest.mark.usefixtures("kvm_backend")
def test_guest_says_what_it_is_to_say() -> None:
    assert tiny_vmm.main("hello\n") == "hello\n"


def test_size_is_one_that_the_host_has(kvm: Kvm, kvm_host: HostProfile, machine: Callable[..., object]) -> None:
    machine()
    size = tiny_vmm.size_for(kvm.host_ipa_limit, 32)
    assert size is None or size <= (kvm_host.ipa_limit or 40)


@pytest.mark.kvm_min_ipa_bits(48)
def test_guest_can_be_large(machine: Callable[..., tiny_vmm.Machine]) -> None:
    assert machine("large", needed=48).run() == "large"


# ------------------------------------------------------------------------------------------------ error paths


def test_limit_is_what_the_user_is_told(kvm_faults: Faults) -> None:
    kvm_faults.limit_ipa(36)
    assert tiny_vmm.main(needed=36) == "hello\n"
    assert tiny_vmm.main(needed=40) == "tiny-vmm: this host's VMs have up to 36 bits, the guest needs 40\n"


@pytest.mark.kvm_min_ipa_bits(40)
def test_kernel_without_sizes_has_the_default(kvm_faults: Faults) -> None:
    kvm_faults.hide_capability("KVM_CAP_ARM_VM_IPA_SIZE")
    assert tiny_vmm.main(needed=40) == "hello\n"
    assert tiny_vmm.main(needed=42) == "tiny-vmm: this kernel's VMs have 40 bits, the guest needs 42\n"


@pytest.mark.kvm_min_ipa_bits(40)
def test_small_vm_is_made_where_there_is_no_memory_for_a_large_one(kvm: Kvm, kvm_faults: Faults) -> None:
    kvm_faults.fail("KVM_CREATE_VM", ENOMEM, when=lambda call: call.argument > 36)
    with tiny_vmm.create_vm(kvm, 36) as vm:
        assert kvm.ignores_size or vm.ipa_bits == 36
    assert [one.call.argument for one in kvm_faults.injected] == [40]


def test_no_memory_at_all_is_what_the_user_is_told(kvm_faults: Faults) -> None:
    kvm_faults.fail("KVM_CREATE_VM", ENOMEM)
    assert tiny_vmm.main() == "tiny-vmm: this machine has no memory left for a VM\n"


def test_signals_do_not_end_the_guest(kvm_faults: Faults, machine: Callable[..., tiny_vmm.Machine]) -> None:
    kvm_faults.fail("KVM_RUN", EINTR, times=3)
    kvm_faults.fail("KVM_RUN", EINTR, nth=5)
    assert machine("hello").run() == "hello"
    assert len(kvm_faults.injected) == 4


def test_machine_that_cannot_be_made_leaves_nothing_open(
    kvm: Kvm, kvm_faults: Faults, monkeypatch: pytest.MonkeyPatch
) -> None:
    with tiny_vmm.create_vm(kvm, 32) as vm:
        monkeypatch.setattr(tiny_vmm, "create_vm", lambda _kvm, _needed: vm)
        kvm_faults.fail("KVM_SET_USER_MEMORY_REGION", ENOMEM, when=lambda call: call.fields["slot"] == 1)
        with pytest.raises(errors.KvmError, match="ENOMEM"):
            tiny_vmm.Machine(kvm, "never")
        assert vm.closed


def test_permission_is_what_the_user_is_told(kvm_faults: Faults) -> None:
    kvm_faults.fail("open", EACCES)
    assert tiny_vmm.main() == "tiny-vmm: you may not use KVM here; are you in the group kvm?\n"
