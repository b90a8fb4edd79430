# SPDX-License-Identifier: Apache-2.0
"""Claims about what the IPA size of a VM does: the space that it takes memory in, and the CPU that it has."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Final

from kvmipa.conformance.claim import IMPLEMENTATION, Claim
from kvmipa.conformance.target import OK
from kvmipa.id_registers import PARANGE_BITS, field
from kvmipa.machine_type import DEFAULT_IPA_BITS, MIN_IPA_BITS

if TYPE_CHECKING:
    from collections.abc import Iterable

    from kvmipa.conformance.target import Target
    from kvmipa.vm import Vm

# Sizes that PARange has; and the default first, in case that not all are affordable.
_NAMED_SIZES: Final = (DEFAULT_IPA_BITS, *PARANGE_BITS.values())
_OTHER_SIZES: Final = tuple(size for size in range(33, 52) if size not in PARANGE_BITS.values())


def _expect_space(on: Target, vm: Vm, name: str) -> None:
    """Memory up to the end of the VM's space, and none beyond; the errno is the implementation's."""
    page_size = on.facts.profile.page_size
    bits = on.space_bits(vm)
    end = 1 << bits
    # Before Linux 5.12 a slot had to end before the space does.
    last = end - (page_size if on.facts.has("slot_may_end_at_limit") else 2 * page_size)
    where = f"the space of {name}, 2^{bits}"
    # A number for each: what is taken by mistake must not be why the next one is refused.
    for slot, start, size, what in (
        (2, end, page_size, "a page behind the end"),
        (3, 2 * end, page_size, "a page at twice the end"),
        (4, end - page_size, 2 * page_size, "two pages, one of them behind the end"),
    ):
        set_slot = partial(vm.set_user_memory_region, slot, start, size, 0)
        on.expect_error(f"memory at {start:#x}, {what} of {where}", set_slot)
    for slot, start, what in ((0, 0, "the first page"), (1, last, "the last page")):
        set_slot = partial(vm.set_user_memory_region, slot, start, page_size, 0)
        on.expect_answer(f"memory at {start:#x}, {what} of {where}", OK, set_slot)


def _default_size(on: Target) -> None:
    limit = on.kvm.host_ipa_limit
    if limit is not None and limit < DEFAULT_IPA_BITS and not on.facts.ignores_size:
        on.skip(f"this host has no VMs of the default size, its limit is {limit} bits")
    with on.kvm.create_vm_raw(0) as vm:
        _expect_space(on, vm, "a VM of type 0")


def _expect_sizes(on: Target, sizes: Iterable[int]) -> None:
    for size in on.affordable_sizes(sizes):
        with on.kvm.create_vm_raw(size) as vm:
            _expect_space(on, vm, f"a VM of {size} bits")


def _sizes(on: Target) -> None:
    _expect_sizes(on, _NAMED_SIZES)


def _odd_sizes(on: Target) -> None:
    limit = on.require_sizes()
    if limit == MIN_IPA_BITS:
        on.skip("this host has VMs of 32 bits only")
    _expect_sizes(on, _OTHER_SIZES)


def _parange(on: Target) -> None:
    host = field("ID_AA64MMFR0_EL1", "PARange", on.facts.profile.id_aa64mmfr0_el1)
    for size in on.affordable_sizes((MIN_IPA_BITS, DEFAULT_IPA_BITS, 36, 37, 44, 48, on.require_sizes())):
        with on.kvm.create_vm_raw(size) as vm, vm.create_vcpu() as vcpu:
            vcpu.init()
            came = field("ID_AA64MMFR0_EL1", "PARange", vcpu.regs.id_aa64mmfr0_el1)
            on.expect(f"ID_AA64MMFR0_EL1.PARange of a vCPU in a VM of {size} bits", host, came)


CLAIMS: Final = (
    Claim(
        id="C3",
        name="machine_type.default_size",
        text="A VM of type 0 has 40 bits of guest physical address space.",
        source="api.rst 4.2; kernel-ipa-spec 2.2, 10 (C3)",
        how="Memory can be set up to 2^40 and not beyond; on a pKVM host that ignores the size, up to its limit.",
        since="4.19",
        rests_on=("C4", "C5"),
        check=_default_size,
    ),
    Claim(
        id="C4",
        name="machine_type.size",
        text="Where the host has KVM_CAP_ARM_VM_IPA_SIZE, the machine type says in bits 7:0 how many bits the VM's "
        "guest physical addresses have.",
        source="api.rst 4.2; kernel-ipa-spec 2.2, 4.2 (step 20), 10 (C4)",
        how="In VMs of 32, 36, 40, 42, 44, 48 and 52 bits memory can be set up to 2^N and not beyond; on a pKVM host "
        "that ignores the size, up to its limit.",
        rests_on=("C5", "C6"),
        check=_sizes,
    ),
    Claim(
        id="C8",
        name="machine_type.parange",
        text="The size does not change ID_AA64MMFR0_EL1.PARange of the VM's CPUs, which is the host's.",
        source="api.rst 4.2; kernel-ipa-spec 7, 10 (C8)",
        how="KVM_GET_ONE_REG of it in VMs of several sizes.",
        rests_on=("C5", "C6"),
        check=_parange,
    ),
    Claim(
        id="I6",
        name="machine_type.any_size",
        text="Sizes that no CPU's PARange has, such as 33 or 51 bits, are made exactly.",
        source="kvm_init_ipa_range; kernel-ipa-spec 2.2",
        how="In VMs of those sizes memory can be set up to 2^N and not beyond.",
        kind=IMPLEMENTATION,
        rests_on=("C4", "C5", "C6"),
        check=_odd_sizes,
    ),
)
