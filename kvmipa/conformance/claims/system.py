# SPDX-License-Identifier: Apache-2.0
"""Claims about /dev/kvm itself, and about what can be asked of it and of a VM."""

from __future__ import annotations

import mmap
from functools import partial
from typing import TYPE_CHECKING, Final

from kvmipa import abi
from kvmipa.abi import KVM_API_VERSION, KVM_GET_API_VERSION, KVM_GET_VCPU_MMAP_SIZE
from kvmipa.conformance.claim import IMPLEMENTATION, Claim
from kvmipa.conformance.target import OK, answered, number
from kvmipa.id_registers import PARANGE_BITS, field
from kvmipa.machine_type import MAX_IPA_BITS, MIN_IPA_BITS

if TYPE_CHECKING:
    from kvmipa.conformance.target import Target

# Of KVM's own type, and of no release: _IO(KVMIO, 0x1f) and _IO(KVMIO, 0xfe).
_UNKNOWN: Final = (0xAE1F, 0xAEFE)


def _api_version(on: Target) -> None:
    fd = on.kvm.fileno()
    on.expect("KVM_GET_API_VERSION", KVM_API_VERSION, on.kvm._ioctl(fd, KVM_GET_API_VERSION, 0))
    refused = on.kvm._ioctl(fd, KVM_GET_API_VERSION, 1)
    on.expect("KVM_GET_API_VERSION with an argument of 1", "EINVAL", answered(refused))


def _mmap_size(on: Target) -> None:
    page_size = mmap.PAGESIZE if on.facts.real else on.facts.profile.page_size
    fd = on.kvm.fileno()
    on.expect("KVM_GET_VCPU_MMAP_SIZE", 2 * page_size, on.kvm._ioctl(fd, KVM_GET_VCPU_MMAP_SIZE, 0))
    refused = on.kvm._ioctl(fd, KVM_GET_VCPU_MMAP_SIZE, 1)
    on.expect("KVM_GET_VCPU_MMAP_SIZE with an argument of 1", "EINVAL", answered(refused))


def _unknown_requests(on: Target) -> None:
    with on.small_vm() as vm:
        for handle, name in ((on.kvm, "/dev/kvm"), (vm, "a VM")):
            for request in _UNKNOWN:
                came = answered(handle._ioctl(handle.fileno(), request, 0))
                on.expect(f"request {request:#x}, which is none, of {name}", "EINVAL", came)


# ------------------------------------------------------------------------------------------------ capabilities

# What a VM answers as the system descriptor does: those that are about the machine, and the slots.
_ALIKE: Final = (
    "KVM_CAP_USER_MEMORY",
    "KVM_CAP_NR_MEMSLOTS",
    "KVM_CAP_ONE_REG",
    "KVM_CAP_READONLY_MEM",
    "KVM_CAP_ARM_PSCI_0_2",
    "KVM_CAP_CHECK_EXTENSION_VM",
)


def _vm_answers(on: Target) -> None:
    on.expect("KVM_CAP_CHECK_EXTENSION_VM", 1, on.kvm.check_extension(abi.KVM_CAP_CHECK_EXTENSION_VM))
    with on.small_vm() as vm, on.small_vm() as other:
        for name in _ALIKE:
            cap = getattr(abi, name)
            on.expect(f"{name} of a VM", on.kvm.check_extension(cap), vm.check_extension(cap))
        # Of the system descriptor it is an error (I1 below), for it depends on the VM.
        msi = abi.KVM_CAP_MSI_DEVID
        if on.facts.profile.gic != "v3":
            on.expect("KVM_CAP_MSI_DEVID of a VM without an ITS", 0, number(lambda: vm.check_extension(msi)))
            return
        with vm.create_device("vgic-its"):
            on.expect("KVM_CAP_MSI_DEVID of a VM with an ITS", 1, number(lambda: vm.check_extension(msi)))
            on.expect("KVM_CAP_MSI_DEVID of one without", 0, number(lambda: other.check_extension(msi)))


def _needs_vm(on: Target) -> None:
    caps = [("KVM_CAP_MSI_DEVID", abi.KVM_CAP_MSI_DEVID)]
    if on.facts.has("cacheable_pfnmap"):
        caps.append(("KVM_CAP_ARM_CACHEABLE_PFNMAP_SUPPORTED", abi.KVM_CAP_ARM_CACHEABLE_PFNMAP_SUPPORTED))
    for name, cap in caps:
        on.expect_answer(f"{name} of /dev/kvm", "EINVAL", partial(on.kvm.check_extension, cap))
        with on.small_vm() as vm:
            on.expect_answer(f"{name} of a VM", OK, partial(vm.check_extension, cap))


# ------------------------------------------------------------------------------------------------ eager splitting


def _eager_split(on: Target) -> None:
    from kvmipa.backend.emulated.capabilities import answers

    cap, page_size = abi.KVM_CAP_ARM_EAGER_SPLIT_CHUNK_SIZE, on.facts.profile.page_size
    sizes = answers(on.facts.profile, on_vm=True).get(abi.KVM_CAP_ARM_SUPPORTED_BLOCK_SIZES, 0)
    if not sizes:
        on.skip("a pKVM host has no eager splitting since Linux 7.3 (kernel-ipa-spec 1.7)")
    blocks = [1 << bit for bit in range(sizes.bit_length()) if sizes >> bit & 1]
    with on.small_vm() as vm:
        supported = number(lambda: vm.check_extension(abi.KVM_CAP_ARM_SUPPORTED_BLOCK_SIZES))
        on.expect("KVM_CAP_ARM_SUPPORTED_BLOCK_SIZES", sizes, supported)
        on.expect("KVM_CAP_ARM_EAGER_SPLIT_CHUNK_SIZE of a new VM", 0, number(lambda: vm.check_extension(cap)))
        for size in (*blocks, 0):
            on.expect_answer(f"enabling it with {size:#x}", OK, partial(vm.enable_cap, cap, size))
            on.expect(f"it, enabled with {size:#x}", size, number(lambda: vm.check_extension(cap)))
        for size in (2 * page_size, 3 * page_size, page_size | blocks[-1], page_size // 2):
            on.expect_error(f"enabling it with {size:#x}", partial(vm.enable_cap, cap, size))
        on.expect("it, after that", 0, number(lambda: vm.check_extension(cap)))
        vm.set_user_memory_region(0, 0, page_size, 0)
        on.expect_error("enabling it with a memory slot there", lambda: vm.enable_cap(cap, blocks[0]))
        on.expect("it, after that", 0, number(lambda: vm.check_extension(cap)))


# ------------------------------------------------------------------------------------------------ the limit


def _same_limit(on: Target) -> None:
    limit = on.require_sizes()
    cap = abi.KVM_CAP_ARM_VM_IPA_SIZE
    on.expect("KVM_CAP_ARM_VM_IPA_SIZE of /dev/kvm is one of 32 to 52", True, MIN_IPA_BITS <= limit <= MAX_IPA_BITS)
    for size in on.affordable_sizes((MIN_IPA_BITS, 40)):
        with on.kvm.create_vm(size) as vm:
            came = number(partial(vm.check_extension, cap))
            on.expect(f"KVM_CAP_ARM_VM_IPA_SIZE of a VM of {size} bits", limit, came)
    if on.facts.ignores_size:
        return
    if on.affordable_sizes([limit]):
        on.expect_answer(f"KVM_CREATE_VM of {limit} bits, which it says", OK, lambda: on.kvm.create_vm_raw(limit))
    on.expect_error(f"KVM_CREATE_VM of {limit + 1} bits", lambda: on.kvm.create_vm_raw(limit + 1))


def _computed_limit(on: Target) -> None:
    limit = on.require_sizes()
    profile = on.facts.profile
    parange = field("ID_AA64MMFR0_EL1", "PARange", profile.id_aa64mmfr0_el1)
    decisive = not on.facts.has("host_independent_limit") or parange not in PARANGE_BITS
    if on.facts.real and decisive and (profile.pa_bits is None or profile.va_bits is None):
        on.skip("it depends on the kernel's configuration, which is not to be found")
    on.expect(f"the limit with PARange {parange} and pages of {profile.page_size >> 10}K", profile.ipa_limit, limit)


CLAIMS: Final = (
    Claim(
        id="C1",
        name="system.api_version",
        text="The API version is 12, and a program may rely on the basic ioctls that come with it.",
        source="api.rst 4.1; kernel-ipa-spec 1.3",
        how="KVM_GET_API_VERSION is asked, with no argument and with one.",
        since="4.19",
        check=_api_version,
    ),
    Claim(
        id="C6",
        name="system.ipa_limit",
        text="KVM_CAP_ARM_VM_IPA_SIZE is the largest IPA size of a VM on this host, whichever descriptor is asked.",
        source="api.rst 4.2; kernel-ipa-spec 1.5, 10 (C6)",
        how="/dev/kvm and VMs of several sizes are asked; a VM of that size can be made (where destroying it does not "
        "take long), and one of a bit more cannot, unless a pKVM host ignores the size.",
        check=_same_limit,
    ),
    Claim(
        id="C16",
        name="system.vm_capabilities",
        text="With KVM_CAP_CHECK_EXTENSION_VM a VM can be asked for capabilities, and its answer is its own.",
        source="api.rst 4.4; kernel-ipa-spec 9, 10 (C16)",
        how="VMs are asked for capabilities of the machine, and where the host has a GICv3 for KVM_CAP_MSI_DEVID, "
        "which the one with an ITS has and the one without has not.",
        since="4.19",
        check=_vm_answers,
    ),
    Claim(
        id="C17",
        name="system.eager_split_chunk_size",
        text="KVM_CAP_ARM_EAGER_SPLIT_CHUNK_SIZE is 0 at first, takes 0 or one of the supported block sizes, and "
        "only while a VM has no memory.",
        source="api.rst 7 (KVM_CAP_ARM_EAGER_SPLIT_CHUNK_SIZE); kernel-ipa-spec 9, 10 (C17)",
        how="It is enabled with every block size and with others, without and with a memory slot, and read each time.",
        since="6.5",
        rests_on=("C2",),
        check=_eager_split,
    ),
    Claim(
        id="I1",
        name="system.capability_of_vm",
        text="What depends on the VM cannot be asked of /dev/kvm: KVM_CHECK_EXTENSION fails with EINVAL there.",
        source="kvm_vm_ioctl_check_extension; kernel-ipa-spec 9",
        how="KVM_CAP_MSI_DEVID, and since Linux 7.3 KVM_CAP_ARM_CACHEABLE_PFNMAP_SUPPORTED, of /dev/kvm and of a VM.",
        kind=IMPLEMENTATION,
        since="4.19",
        rests_on=("C16",),
        check=_needs_vm,
    ),
    Claim(
        id="I2",
        name="system.computed_limit",
        text="The limit is what the CPUs' PARange has; with 4K and 16K pages 48 bits at most, or 52 with LPA2 at both "
        "stages since Linux 6.8; before 5.10 the kernel's own address sizes are limits too.",
        source="kvm_set_ipa_limit; kernel-ipa-spec 1.4",
        how="The capability is compared with what comes of ID_AA64MMFR0_EL1, page size and release.",
        kind=IMPLEMENTATION,
        rests_on=("C6",),
        check=_computed_limit,
    ),
    Claim(
        id="I3",
        name="system.vcpu_mmap_size",
        text="A vCPU's shared area has two pages, the second one for coalesced MMIO.",
        source="kvm_dev_ioctl; kernel-ipa-spec 1.3",
        how="KVM_GET_VCPU_MMAP_SIZE is asked, with no argument and with one, which is EINVAL.",
        kind=IMPLEMENTATION,
        since="4.19",
        check=_mmap_size,
    ),
    Claim(
        id="I4",
        name="system.unknown_requests",
        text="A request that KVM does not know is EINVAL on arm64, of /dev/kvm and of a VM; not ENOTTY.",
        source="kvm_arch_dev_ioctl, kvm_arch_vm_ioctl; kernel-ipa-spec 1.3",
        how="Requests of KVM's type with numbers that it has not given are sent.",
        kind=IMPLEMENTATION,
        since="4.19",
        check=_unknown_requests,
    ),
)
