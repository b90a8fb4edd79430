# SPDX-License-Identifier: Apache-2.0
"""Kvm: what the system descriptor answers, and the VMs that it makes. Every test runs on each kernel there is."""

from __future__ import annotations

import errno
import os
import warnings
from typing import TYPE_CHECKING

import pytest

import kvmipa
from kvmipa import abi, errors
from kvmipa.machine_type import PROTECTED_BIT
from kvmipa.recording import no_free_descriptor

if TYPE_CHECKING:
    from kvmipa import Kvm

LOW_TYPES = range(0x200)


@pytest.fixture
def honours_size(ignores_size: bool) -> None:
    """Skip where pKVM gives every VM the limit: no size is refused there."""
    if ignores_size:
        pytest.skip("this pKVM host accepts every size (kernel-ipa-spec 1.7)")


def test_api_version_is_12(kvm: Kvm) -> None:
    assert kvm.api_version == abi.KVM_API_VERSION == 12


def test_limit_is_what_the_capability_says(kvm: Kvm) -> None:
    assert kvm.host_ipa_limit == kvm.check_extension(abi.KVM_CAP_ARM_VM_IPA_SIZE)


def test_page_size_is_half_of_the_run_area(kvm: Kvm, backend_name: str) -> None:
    assert kvm.page_size in (4096, 16384, 65536)
    if backend_name == "native":
        assert kvm.page_size == os.sysconf("SC_PAGE_SIZE")


def test_profile_read_off_the_host_has_its_limit(kvm: Kvm) -> None:
    assert kvmipa.HostProfile.of(kvm).ipa_limit == kvm.host_ipa_limit


@pytest.mark.usefixtures("honours_size")
def test_accepted_types_are_the_default_and_32_to_the_limit(kvm: Kvm, limit: int) -> None:
    accepted = [size for size, failed in zip(LOW_TYPES, kvm.probe_machine_types(LOW_TYPES), strict=True) if not failed]
    default = [0] if limit >= 40 else []
    assert accepted == [*default, *range(32, limit + 1)]


def test_refused_types_are_einval(kvm: Kvm) -> None:
    assert set(kvm.probe_machine_types(LOW_TYPES)) == {0, errno.EINVAL}


@pytest.mark.parametrize("bit", [*range(8, 31), *range(32, 64)])
def test_reserved_bit_is_refused_by_its_cause(kvm: Kvm, limit: int, bit: int) -> None:
    with pytest.raises(errors.ReservedTypeBitsError, match=f"bit {bit} has no meaning") as caught:
        kvm.create_vm_raw(1 << bit | min(limit, 40))
    assert caught.value.errno == errno.EINVAL


def test_all_64_bits_reach_the_kernel(kvm: Kvm, limit: int) -> None:
    good = min(limit, 40)
    assert kvm.probe_machine_types([good, good | 1 << 32, good | 1 << 63]) == [0, errno.EINVAL, errno.EINVAL]


@pytest.mark.usefixtures("honours_size")
@pytest.mark.parametrize("bits", [1, 12, 31])
def test_size_below_32_is_refused_by_its_cause(kvm: Kvm, bits: int) -> None:
    with pytest.raises(errors.IpaSizeTooSmallError) as caught:
        kvm.create_vm(bits)
    assert (caught.value.errno, caught.value.argument) == (errno.EINVAL, bits)


@pytest.mark.usefixtures("honours_size")
@pytest.mark.parametrize("above", [1, 2, 100])
def test_size_above_the_limit_is_refused_by_its_cause(kvm: Kvm, limit: int, above: int) -> None:
    with pytest.raises(errors.IpaSizeTooLargeError) as caught:
        kvm.create_vm(limit + above)
    assert str(limit) in caught.value.available
    assert caught.value.errno == errno.EINVAL


@pytest.mark.parametrize("size", [256, 256 + 40, 511])
def test_size_beyond_the_low_byte_never_reaches_the_kernel(kvm: Kvm, size: int) -> None:
    with pytest.raises(errors.InvalidIpaSizeError, match="does not fit") as caught:
        kvm.create_vm(size)
    assert caught.value.ioctl is None


def test_protected_vm_without_pkvm_is_refused_by_its_cause(kvm: Kvm, limit: int) -> None:
    if kvmipa.HostProfile.of(kvm).pkvm:
        pytest.skip("this host runs pKVM")
    with pytest.raises(errors.ProtectedUnsupportedError, match="pKVM") as caught:
        kvm.create_vm(min(limit, 40), protected=True)
    assert caught.value.argument == PROTECTED_BIT | min(limit, 40)


def test_default_vm_has_40_bits(kvm: Kvm, limit: int) -> None:
    if limit < 40:
        with pytest.raises(errors.DefaultIpaSizeUnsupportedError):
            kvm.create_vm()
        return
    with kvm.create_vm() as vm:
        assert vm.ipa_bits == 40


def test_every_odd_size_is_a_size(kvm: Kvm, limit: int) -> None:
    for bits in range(33, min(limit, 41), 2):
        with kvm.create_vm(bits) as vm:
            assert vm.ipa_bits == bits


def test_capability_unknown_to_everybody_is_0(kvm: Kvm) -> None:
    assert kvm.check_extension(100_000) == 0


def test_capability_numbers_have_64_bits(kvm: Kvm) -> None:
    assert kvm.check_extension(abi.KVM_CAP_ARM_VM_IPA_SIZE | 1 << 32) == 0


def test_capability_that_needs_a_vm_says_so(kvm: Kvm, limit: int) -> None:
    with pytest.raises(errors.CapabilityNeedsVmError, match="KVM_CAP_MSI_DEVID") as caught:
        kvm.check_extension(abi.KVM_CAP_MSI_DEVID)
    assert caught.value.errno == errno.EINVAL
    with kvm.create_vm(min(limit, 40)) as vm:
        assert vm.check_extension(abi.KVM_CAP_MSI_DEVID) in (0, 1)


def test_descriptors_used_up_is_an_error_of_its_own(kvm: Kvm, limit: int) -> None:
    with no_free_descriptor(), pytest.raises(errors.DescriptorLimitError, match="ulimit") as caught:
        kvm.create_vm(min(limit, 40))
    assert caught.value.errno == errno.EMFILE


def test_close_ends_a_handle_and_twice_is_fine(backend_name: str) -> None:
    kvm = kvmipa.open(backend_name)
    kvm.close()
    kvm.close()
    assert kvm.closed
    assert "closed" in repr(kvm)


@pytest.mark.parametrize(
    "use",
    [
        lambda kvm: kvm.fileno(),
        lambda kvm: kvm.check_extension(165),
        lambda kvm: kvm.create_vm(40),
        lambda kvm: kvm.create_vm_raw(40),
        lambda kvm: kvm.probe_machine_types([40]),
        lambda kvm: kvm.__enter__(),
    ],
)
def test_closed_handle_says_that_it_is_closed(backend_name: str, use: object) -> None:
    kvm = kvmipa.open(backend_name)
    kvm.close()
    with pytest.raises(errors.ClosedError, match="closed") as caught:
        use(kvm)  # type: ignore[operator]
    assert caught.value.errno == errno.EBADF


def test_exception_in_the_with_block_closes(backend_name: str) -> None:
    with pytest.raises(RuntimeError), kvmipa.open(backend_name) as kvm:
        raise RuntimeError
    assert kvm.closed


def test_forgotten_handle_is_closed_with_a_warning(backend_name: str) -> None:
    kvm = kvmipa.open(backend_name)
    fd = kvm.fileno()
    with pytest.warns(ResourceWarning, match="unclosed"):
        del kvm
    with pytest.raises(OSError, match=os.strerror(errno.EBADF)):
        os.fstat(fd)


def test_two_handles_do_not_know_each_other(backend_name: str) -> None:
    with kvmipa.open(backend_name) as one, kvmipa.open(backend_name) as other:
        assert one.fileno() != other.fileno()
        one.close()
        assert other.check_extension(abi.KVM_CAP_USER_MEMORY) == 1


def test_descriptors_are_not_inherited_by_other_programs(kvm: Kvm, limit: int) -> None:
    with kvm.create_vm(min(limit, 40)) as vm:
        assert not os.get_inheritable(kvm.fileno())
        assert not os.get_inheritable(vm.fileno())


def test_forgotten_handle_is_closed_even_where_warnings_are_errors(backend_name: str) -> None:
    kvm = kvmipa.open(backend_name)
    fd = kvm.fileno()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(ResourceWarning):
            kvm.__del__()
    with pytest.raises(OSError, match=os.strerror(errno.EBADF)):
        os.fstat(fd)


def test_descriptor_that_somebody_else_closed_does_not_hide_the_blocks_own_error(backend_name: str) -> None:
    def close_and_fail(fd: int) -> None:
        os.close(fd)
        raise RuntimeError

    with pytest.raises(RuntimeError), kvmipa.open(backend_name) as kvm:
        close_and_fail(kvm.fileno())


def test_request_has_32_bits(kvm: Kvm) -> None:
    # The system call's parameter is an unsigned int.
    assert kvm._ioctl(kvm.fileno(), 1 << 32 | abi.KVM_GET_API_VERSION, 0) == 12


def test_vm_is_given_the_limit_where_the_host_ignores_sizes(kvm: Kvm, limit: int, ignores_size: bool) -> None:
    assert kvm.ignores_size is ignores_size
    with kvm.create_vm(32) as vm:
        assert vm.ipa_bits == 32
        assert vm.geometry.ipa_bits == (limit if ignores_size else 32)


def test_shape_is_known_after_the_kvm_was_closed(backend_name: str, ignores_size: bool, limit: int) -> None:
    with kvmipa.open(backend_name) as kvm:
        vm = kvm.create_vm(33)
    with vm:
        assert vm.geometry.ipa_bits == (limit if ignores_size else 33)
