# SPDX-License-Identifier: Apache-2.0
"""Claims about KVM_CREATE_VM: which machine types make a VM, and what a new VM has."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Final

from kvmipa import abi
from kvmipa.conformance.claim import IMPLEMENTATION, Claim
from kvmipa.conformance.target import AN_ERROR, OK
from kvmipa.machine_type import DEFAULT_IPA_BITS, MIN_IPA_BITS, PROTECTED_BIT, SIZE_MASK

if TYPE_CHECKING:
    from kvmipa.conformance.target import Target

_SLOTS: Final = range(8)
_VCPUS: Final = (0, 5)
_RESERVED: Final = range(8, 64)


def _new_vm(on: Target) -> None:
    with on.small_vm() as vm:
        last = vm.check_extension(abi.KVM_CAP_NR_MEMSLOTS) - 1
        for slot in (*_SLOTS, last):
            on.expect_error(
                f"deleting slot {slot}, which a new VM has not",
                partial(vm.set_user_memory_region, slot, 0, 0, 0),
            )
        for number in _VCPUS:
            what = f"KVM_CREATE_VCPU {number}, which a new VM has not"
            on.expect_answer(what, OK, partial(vm.create_vcpu, number))
        on.expect_error("KVM_CREATE_VCPU 0, which the VM has", vm.create_vcpu)


# ------------------------------------------------------------------------------------------------ sizes


def _valid_sizes(on: Target) -> None:
    limit = on.require_sizes()
    if on.facts.ignores_size:
        accepted = set(range(SIZE_MASK + 1))
    else:
        accepted = set(range(MIN_IPA_BITS, limit + 1)) | ({0} if limit >= DEFAULT_IPA_BITS else set())
    # 0 where the limit is less is the claim about the implicit size.
    important = (MIN_IPA_BITS - 1, MIN_IPA_BITS, limit, limit + 1, SIZE_MASK, 0, 1)
    asked = dict.fromkeys((*important, *range(SIZE_MASK + 1)))
    if limit < DEFAULT_IPA_BITS and not on.facts.ignores_size:
        del asked[0]
    types = on.facts.affordable(asked, lambda size: (size or DEFAULT_IPA_BITS) if size in accepted else 0, limit)
    on.expect_types({size: OK if size in accepted else AN_ERROR for size in types}, str)


def _implicit_size(on: Target) -> None:
    limit = on.require_sizes()
    if on.facts.ignores_size:
        on.skip("a pKVM host gives every VM its limit, whatever its type says")
    if limit >= DEFAULT_IPA_BITS:
        on.skip(f"this host has the implicit size of 40 bits, its limit is {limit}")
    if not on.facts.has("rejects_unsupported_default"):
        on.skip("before Linux 5.12, 5.10.24 and 5.4.106 such a VM is made all the same (commit 7d717558dd5e)")
    what = f"KVM_CREATE_VM of machine type 0, which is 40 bits, where the limit is {limit}"
    on.expect_error(what, lambda: on.kvm.create_vm_raw(0))


# ------------------------------------------------------------------------------------------------ other bits


def _reserved_bits(on: Target) -> None:
    types = [base | 1 << bit for base in (0, _good_type(on)) for bit in _RESERVED]
    types += [1 << 63 | 1 << 8, (1 << 64) - 1, (1 << 64) - 1 & ~SIZE_MASK]
    if _has_protected_vms(on):
        # That is a request for a protected VM, and known.
        types = [one for one in types if one & ~SIZE_MASK != PROTECTED_BIT]
    on.expect_types(dict.fromkeys(types, AN_ERROR))


def _good_type(on: Target) -> int:
    return MIN_IPA_BITS if on.facts.has("ipa_size") else 0


def _has_protected_vms(on: Target) -> bool:
    return on.facts.has("protected_type") and on.facts.profile.pkvm


def _protected(on: Target) -> None:
    if not _has_protected_vms(on):
        on.skip("protected VMs need a pKVM host and Linux 7.3")
    what = "KVM_CREATE_VM with bit 31, the request for a protected VM"
    on.expect_answer(what, OK, lambda: on.kvm.create_vm_raw(PROTECTED_BIT | MIN_IPA_BITS))


# ------------------------------------------------------------------------------------------------ errno


def _errno(on: Target) -> None:
    refused: list[int] = [1 << bit | _good_type(on) for bit in (8, 30, 31, 32, 63)]
    if _has_protected_vms(on):
        refused.remove(PROTECTED_BIT | MIN_IPA_BITS)
    limit = on.kvm.host_ipa_limit
    if limit is not None and not on.facts.ignores_size:
        refused += [1, MIN_IPA_BITS - 1, limit + 1, SIZE_MASK]
        if limit < DEFAULT_IPA_BITS and on.facts.has("rejects_unsupported_default"):
            refused.append(0)
    elif limit is None:
        refused += [1, MIN_IPA_BITS, DEFAULT_IPA_BITS]
    on.expect_types(dict.fromkeys(refused, "EINVAL"))


CLAIMS: Final = (
    Claim(
        id="C2",
        name="vm.empty",
        text="KVM_CREATE_VM makes an empty VM, in which there is neither a vCPU nor a memory slot.",
        source="api.rst 4.2; kernel-ipa-spec 10 (C2)",
        how="There is no slot to delete, and vCPUs 0 and 5 can be made, the same one only once.",
        since="4.19",
        rests_on=("C11d",),
        check=_new_vm,
    ),
    Claim(
        id="C5",
        name="machine_type.valid_sizes",
        text="The size is 0, or a number of bits from 32 to the host's limit; a VM of any other cannot be made.",
        source="api.rst 4.2; of pKVM since 6.2 kernel-ipa-spec 1.7; kernel-ipa-spec 2.2, 10 (C5)",
        how="KVM_CREATE_VM with each of 0 to 255, left out where destroying the VMs takes long; a pKVM host that "
        "ignores the size takes them all.",
        rests_on=("C6",),
        check=_valid_sizes,
    ),
    Claim(
        id="C7",
        name="machine_type.implicit_size",
        text="A VM of the implicit size, 40 bits, cannot be made where the host's limit is below that.",
        source="api.rst 4.2; kernel-ipa-spec 2.2, 10 (C7)",
        how="KVM_CREATE_VM with type 0 on a host of less than 40 bits.",
        rests_on=("C6",),
        check=_implicit_size,
    ),
    Claim(
        id="C10",
        name="machine_type.reserved_bits",
        text="Bits of the machine type above the size are not to be used: with one of them set no VM is made.",
        source="api.rst 4.2; kernel-ipa-spec 2.2, 10 (C10)",
        how="KVM_CREATE_VM with each of bits 8 to 63, alone and with a valid size; bit 31 not where it has a meaning, "
        "on pKVM hosts since Linux 7.3.",
        since="4.19",
        check=_reserved_bits,
    ),
    Claim(
        id="C10p",
        name="machine_type.protected_vm",
        text="On a pKVM host bit 31 asks for a protected VM, since Linux 7.3.",
        source="pkvm.rst; kernel-ipa-spec 2.1, 2.3",
        how="KVM_CREATE_VM with it; the kernel notes once that protected VMs are experimental, and is tainted.",
        since="7.3",
        check=_protected,
    ),
    Claim(
        id="I5",
        name="machine_type.errno",
        text="KVM_CREATE_VM refuses a machine type with EINVAL, whatever it is that is wrong with it.",
        source="kvm_arm_setup_stage2, kvm_init_ipa_range; kernel-ipa-spec 2.3",
        how="Sizes that are too small and too large, and other bits, are asked for.",
        kind=IMPLEMENTATION,
        since="4.19",
        rests_on=("C5", "C7", "C10"),
        check=_errno,
    ),
)
