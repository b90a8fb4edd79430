# SPDX-License-Identifier: Apache-2.0
"""Memory tags, filtered calls, the counter's offset and writable bits of ID registers, on every kernel there is."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

import pytest

from kvmipa import GuestMemory, Reg, SmcccAction, abi, errors
from tests.device_asking import release_of
from tests.guests import CODE, HVC, SPIN, GuestMachine

if TYPE_CHECKING:
    from collections.abc import Callable

    from kvmipa import Kvm, Vm

#: A function id of a hypervisor's own.
VENDOR = 0x8600_0000


# ------------------------------------------------------------------------------------------------ memory tags


def test_tags_of_a_vm_without_them(vm: Vm) -> None:
    with pytest.raises(errors.MemoryTagsOffError) as caught:
        vm.read_memory_tags(0, vm.page_size)
    assert (caught.value.errno, caught.value.ioctl) == (errno.EINVAL, "KVM_ARM_MTE_COPY_TAGS")


@pytest.mark.parametrize(
    "ask", [lambda vm: vm.read_memory_tags(0, 1 << 31), lambda vm: vm.write_memory_tags(0, bytes(1 << 27))]
)
def test_tags_of_more_than_a_request_can_copy(vm: Vm, ask: Callable[[Vm], object]) -> None:
    with pytest.raises(OverflowError, match="size=2147483648 does not fit 31 bits"):
        ask(vm)


@pytest.mark.emulated
def test_tags_of_two_pages(kvm: Kvm) -> None:
    import kvmipa

    page = 4096
    with (
        kvmipa.open(kvm.backend, host=kvmipa.HostProfile("6.12", id_aa64pfr1_el1=0x200)) as other,
        other.create_vm(36) as vm,
        GuestMemory(4 * page) as memory,
    ):
        vm.enable_cap(abi.KVM_CAP_ARM_MTE)
        slot = vm.add_memory(CODE, memory)
        tags = bytes(number % 16 for number in range(512))
        vm.write_memory_tags(CODE, tags)
        assert vm.read_memory_tags(CODE, 2 * page) == tags
        assert vm.read_memory_tags(CODE + 2 * page, page) == bytes(256)
        assert vm.read_memory_tags(CODE, 0) == b""
        for ipa, size in ((CODE + 16, page), (CODE, 16)):
            with pytest.raises(errors.MemoryTagsRangeError, match="whole pages") as misaligned:
                vm.read_memory_tags(ipa, size)
            assert misaligned.value.errno == errno.EINVAL
        with pytest.raises(errors.MemoryTagsRangeError, match=hex(CODE + 4 * page)) as missing:
            vm.read_memory_tags(CODE + 3 * page, 2 * page)
        assert missing.value.errno == errno.EFAULT
        slot.set_logging(True)
        with pytest.raises(errors.MemoryTagsLoggedError) as logged:
            vm.write_memory_tags(CODE, tags)
        assert logged.value.errno == errno.EBUSY
        slot.delete()


# ------------------------------------------------------------------------------------------------ filtered calls


@pytest.fixture
def filtering(kvm: Kvm, vm: Vm) -> Vm:
    """A VM whose kernel filters calls."""
    if release_of(kvm) < (6, 4):
        pytest.skip("this kernel filters no calls")
    return vm


def test_kernel_without_a_filter_says_so(kvm: Kvm, vm: Vm) -> None:
    if release_of(kvm) >= (6, 4):
        return
    with pytest.raises(errors.NotSupportedError):
        vm.set_smccc_filter(VENDOR, 1, SmcccAction.DENY)


def test_each_function_has_one_action(filtering: Vm) -> None:
    filtering.set_smccc_filter(VENDOR, 16, SmcccAction.FORWARD)
    filtering.set_smccc_filter(VENDOR + 16, 1, SmcccAction.DENY)
    for first, count in ((VENDOR + 15, 1), (0x8000_0001, 1), (0xBFFF_FFFF, 2)):
        with pytest.raises(errors.SmcccRangeTakenError) as taken:
            filtering.set_smccc_filter(first, count, SmcccAction.HANDLE)
        assert taken.value.errno == errno.EEXIST
    for first, count in ((VENDOR + 32, 0), (0xFFFF_FFFF, 2)):
        with pytest.raises(errors.SmcccRangeError) as wrong:
            filtering.set_smccc_filter(first, count, SmcccAction.DENY)
        assert wrong.value.errno == errno.EINVAL
    with pytest.raises(ValueError, match="3 is not a valid SmcccAction"):
        filtering.set_smccc_filter(VENDOR + 64, 1, 3)  # type: ignore[arg-type]


def test_filter_comes_before_the_first_run(kvm: Kvm, filtering: Vm) -> None:
    with GuestMachine(kvm) as machine:
        machine.vm.set_smccc_filter(VENDOR, 1, SmcccAction.FORWARD)
        vcpu = machine.vcpu([HVC, SPIN])
        vcpu.regs.x[0] = VENDOR
        assert type(vcpu.run(timeout=60)).__name__ == "Hypercall"
        with pytest.raises(errors.VcpuHasRunError) as caught:
            machine.vm.set_smccc_filter(VENDOR + 1, 1, SmcccAction.DENY)
        assert caught.value.errno == errno.EBUSY


# ------------------------------------------------------------------------------------------------ the others


def test_counter_offset(kvm: Kvm, vm: Vm) -> None:
    if not vm.check_extension(abi.KVM_CAP_COUNTER_OFFSET):
        with pytest.raises(errors.NotSupportedError, match="no KVM_ARM_SET_COUNTER_OFFSET"):
            vm.set_counter_offset(0)
        return
    vm.set_counter_offset((1 << 64) - 1)
    with pytest.raises(OverflowError, match="counter_offset=-1 does not fit 64 bits"):
        vm.set_counter_offset(-1)


def test_writable_masks(vm: Vm) -> None:
    if not vm.check_extension(abi.KVM_CAP_ARM_SUPPORTED_REG_MASK_RANGES):
        with pytest.raises(errors.NotSupportedError, match="no KVM_ARM_GET_REG_WRITABLE_MASKS"):
            vm.writable_masks()
        return
    masks = vm.writable_masks()
    # ID_AA64MMFR0_EL1: PARange may be lowered; TGRAN4, 16 and 64 are in bits 31:20, and their stage-2 fields above.
    assert masks[Reg.ID_AA64MMFR0_EL1] & 0xF == 0xF
    assert all(mask for mask in masks.values())
    assert {type(register) for register in masks} == {Reg}


@pytest.mark.parametrize("ask", [lambda vm: vm.set_counter_offset(0), lambda vm: vm.writable_masks()])
def test_closed_vm(vm: Vm, ask: object) -> None:
    vm.close()
    with pytest.raises(errors.ClosedError):
        ask(vm)  # type: ignore[operator]
    with pytest.raises(errors.ClosedError):
        vm.set_smccc_filter(VENDOR, 1, SmcccAction.DENY)
    with pytest.raises(errors.ClosedError):
        vm.read_memory_tags(0, 0)
