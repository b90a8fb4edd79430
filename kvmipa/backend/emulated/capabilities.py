# SPDX-License-Identifier: Apache-2.0
"""What KVM_CHECK_EXTENSION answers on the emulated kernel, for every capability that arm64 has (kernel-ipa-spec 9)."""

from __future__ import annotations

from dataclasses import dataclass
from errno import EINVAL
from functools import lru_cache
from typing import TYPE_CHECKING, Final

from kvmipa import abi
from kvmipa.backend.emulated.release import has_come
from kvmipa.backend.emulated.vgic.limits import KVM_MAX_VCPUS, MAX_VCPUS
from kvmipa.id_registers import field

if TYPE_CHECKING:
    from collections.abc import Callable

    from kvmipa.backend.emulated.host import HostProfile
    from kvmipa.backend.emulated.vm import VirtualMachine

    # The answer on a host; the flag says whether a VM is asked.
    Answer = Callable[[HostProfile, bool], int]

# Block sizes that stage 2 can map, or-ed (kernel-ipa-spec 6).
BLOCK_SIZES: Final = {4096: 0x40201000, 16384: 0x02004000, 65536: 0x20010000}


@dataclass(frozen=True)
class Row:
    """From which release on a capability has an answer: a number, or what the host makes of it."""

    since: tuple[int, int]
    answer: int | Answer


def _feature(register: str, name: str, least: int = 1) -> Answer:
    """1 where a field of an ID register is at least this."""
    attribute = register.lower()
    return lambda host, _vm: int(field(register, name, getattr(host, attribute)) >= least)


def _count(name: str) -> Answer:
    """A number of breakpoints or watchpoints: the field holds one less."""
    return lambda host, _vm: field("ID_AA64DFR0_EL1", name, host.id_aa64dfr0_el1) + 1


def _max_vcpus(host: HostProfile, _vm: bool) -> int:
    """By the host's GIC; without one, KVM_MAX_VCPUS (kvm_arm_default_max_vcpus in arch/arm64/kvm/arm.c)."""
    return MAX_VCPUS[host.gic] if host.gic else KVM_MAX_VCPUS


def _nr_vcpus(host: HostProfile, vm: bool) -> int:
    return min(host.cpus, _max_vcpus(host, vm))


def _vgic(host: HostProfile, _vm: bool) -> int:
    return int(host.gic is not None)


def _pmu(host: HostProfile, _vm: bool) -> int:
    """ID_AA64DFR0_EL1.PMUVer: 0 is none, 15 a PMU that is not the architecture's."""
    return int(0 < field("ID_AA64DFR0_EL1", "PMUVer", host.id_aa64dfr0_el1) < 15)


def _pointer_authentication(host: HostProfile, _vm: bool) -> int:
    """Addresses and generic data can be signed."""
    return int(bool(_algorithms(host, "AP") and _algorithms(host, "GP")))


def _pointer_authentication_by_one_algorithm(host: HostProfile, _vm: bool) -> int:
    """Addresses and generic data can be signed by the same algorithm, and by no other."""
    address = _algorithms(host, "AP")
    return int(len(address) == 1 and address == _algorithms(host, "GP"))


def _algorithms(host: HostProfile, prefix: str) -> set[str]:
    fields_ = {"A": ("ID_AA64ISAR1_EL1", "A"), "I": ("ID_AA64ISAR1_EL1", "I"), "3": ("ID_AA64ISAR2_EL1", "A3")}
    return {
        algorithm
        for algorithm, (register, suffix) in fields_.items()
        if field(register, prefix + suffix, getattr(host, register.lower()))
    }


def _needs_vm(answer: Answer) -> Answer:
    """On the system descriptor the kernel answers a negative number, which the ioctl turns into an error."""
    return lambda host, vm: answer(host, vm) if vm else -EINVAL


def _unless_pkvm(answer: Answer) -> Answer:
    """0 on a pKVM host, for every VM and on the system descriptor too (kvm_pkvm_ext_allowed)."""
    return lambda host, vm: 0 if host.pkvm else answer(host, vm)


_mte: Final = _feature("ID_AA64PFR1_EL1", "MTE", 2)


def _block_sizes(host: HostProfile, _vm: bool) -> int:
    return BLOCK_SIZES[host.page_size]


# The first release is the one whose header first has the capability, where the recordings (5.10, 6.1, 6.12, 7.3) do
# not tell it.
ROWS: Final[dict[int, tuple[Row, ...]]] = {
    abi.KVM_CAP_IRQCHIP: (Row((4, 19), _vgic),),
    abi.KVM_CAP_USER_MEMORY: (Row((4, 19), 1),),
    abi.KVM_CAP_NR_VCPUS: (Row((4, 19), lambda host, _vm: host.cpus), Row((6, 1), _nr_vcpus)),
    abi.KVM_CAP_NR_MEMSLOTS: (Row((4, 19), 512), Row((5, 11), 32767)),
    abi.KVM_CAP_MP_STATE: (Row((4, 19), 1),),
    abi.KVM_CAP_COALESCED_MMIO: (Row((4, 19), 1),),
    abi.KVM_CAP_SYNC_MMU: (Row((4, 19), 1),),
    abi.KVM_CAP_DESTROY_MEMORY_REGION_WORKS: (Row((4, 19), 1),),
    abi.KVM_CAP_SET_GUEST_DEBUG: (Row((4, 19), 1),),
    abi.KVM_CAP_IRQ_ROUTING: (Row((4, 19), 4096),),
    abi.KVM_CAP_JOIN_MEMORY_REGIONS_WORKS: (Row((4, 19), 1),),
    abi.KVM_CAP_IRQFD: (Row((4, 19), 1),),
    abi.KVM_CAP_IOEVENTFD: (Row((4, 19), 1),),
    abi.KVM_CAP_INTERNAL_ERROR_DATA: (Row((4, 19), 1),),
    abi.KVM_CAP_VCPU_EVENTS: (Row((4, 19), 1),),
    abi.KVM_CAP_MAX_VCPUS: (Row((4, 19), _max_vcpus),),
    abi.KVM_CAP_ONE_REG: (Row((4, 19), 1),),
    abi.KVM_CAP_SIGNAL_MSI: (Row((4, 19), 1),),
    abi.KVM_CAP_READONLY_MEM: (Row((4, 19), 1),),
    abi.KVM_CAP_IRQFD_RESAMPLE: (Row((4, 19), 1),),
    abi.KVM_CAP_ARM_PSCI: (Row((4, 19), 1),),
    abi.KVM_CAP_ARM_SET_DEVICE_ADDR: (Row((4, 19), 1),),
    abi.KVM_CAP_DEVICE_CTRL: (Row((4, 19), 1),),
    abi.KVM_CAP_ARM_EL1_32BIT: (Row((4, 19), _feature("ID_AA64PFR0_EL1", "EL1", 2)),),
    abi.KVM_CAP_ENABLE_CAP_VM: (Row((4, 19), 1),),
    abi.KVM_CAP_ARM_PSCI_0_2: (Row((4, 19), 1),),
    abi.KVM_CAP_CHECK_EXTENSION_VM: (Row((4, 19), 1),),
    abi.KVM_CAP_GUEST_DEBUG_HW_BPS: (Row((4, 19), _count("BRPs")),),
    abi.KVM_CAP_GUEST_DEBUG_HW_WPS: (Row((4, 19), _count("WRPs")),),
    abi.KVM_CAP_IOEVENTFD_ANY_LENGTH: (Row((4, 19), 1),),
    abi.KVM_CAP_ARM_PMU_V3: (Row((4, 19), _pmu),),
    abi.KVM_CAP_VCPU_ATTRIBUTES: (Row((4, 19), 1),),
    abi.KVM_CAP_MAX_VCPU_ID: (Row((4, 19), _max_vcpus),),
    abi.KVM_CAP_MSI_DEVID: (Row((4, 19), _needs_vm(lambda _host, _vm: 0)),),
    abi.KVM_CAP_IMMEDIATE_EXIT: (Row((4, 19), 1),),
    abi.KVM_CAP_ARM_USER_IRQ: (Row((4, 19), 1),),
    abi.KVM_CAP_ARM_INJECT_SERROR_ESR: (Row((4, 19), _feature("ID_AA64PFR0_EL1", "RAS")),),
    abi.KVM_CAP_COALESCED_PIO: (Row((4, 20), 1),),
    abi.KVM_CAP_ARM_VM_IPA_SIZE: (Row((4, 20), lambda host, _vm: host.ipa_limit or 0),),
    abi.KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2: (Row((5, 2), 1), Row((5, 8), 3)),
    abi.KVM_CAP_ARM_SVE: (Row((5, 2), _feature("ID_AA64PFR0_EL1", "SVE")),),
    abi.KVM_CAP_ARM_PTRAUTH_ADDRESS: (
        Row((5, 2), _pointer_authentication),
        Row((6, 12), _pointer_authentication_by_one_algorithm),
    ),
    abi.KVM_CAP_ARM_PTRAUTH_GENERIC: (
        Row((5, 2), _pointer_authentication),
        Row((6, 12), _pointer_authentication_by_one_algorithm),
    ),
    abi.KVM_CAP_ARM_IRQ_LINE_LAYOUT_2: (Row((5, 4), 1),),
    abi.KVM_CAP_ARM_NISV_TO_USER: (Row((5, 5), 1),),
    abi.KVM_CAP_ARM_INJECT_EXT_DABT: (Row((5, 5), 1),),
    abi.KVM_CAP_HALT_POLL: (Row((5, 6), 1),),
    abi.KVM_CAP_STEAL_TIME: (Row((5, 10), 1),),
    abi.KVM_CAP_SET_GUEST_DEBUG2: (Row((5, 13), 0x30003),),
    abi.KVM_CAP_PTP_KVM: (Row((5, 13), 1),),
    abi.KVM_CAP_BINARY_STATS_FD: (Row((5, 14), 1),),
    abi.KVM_CAP_ARM_MTE: (Row((5, 14), _mte), Row((7, 3), _unless_pkvm(_mte))),
    abi.KVM_CAP_SYSTEM_EVENT_DATA: (Row((5, 19), 1),),
    abi.KVM_CAP_ARM_SYSTEM_SUSPEND: (Row((5, 19), 1),),
    abi.KVM_CAP_DIRTY_LOG_RING_ACQ_REL: (Row((6, 2), 1 << 20),),
    abi.KVM_CAP_DIRTY_LOG_RING_WITH_BITMAP: (Row((6, 2), 1),),
    abi.KVM_CAP_COUNTER_OFFSET: (Row((6, 4), 1),),
    abi.KVM_CAP_ARM_EAGER_SPLIT_CHUNK_SIZE: (Row((6, 5), 0),),
    abi.KVM_CAP_ARM_SUPPORTED_BLOCK_SIZES: (Row((6, 5), _block_sizes), Row((7, 3), _unless_pkvm(_block_sizes))),
    abi.KVM_CAP_ARM_SUPPORTED_REG_MASK_RANGES: (Row((6, 7), 1),),
    abi.KVM_CAP_USER_MEMORY2: (Row((6, 8), 1),),
    abi.KVM_CAP_GUEST_MEMFD: (Row((7, 3), 1),),
    abi.KVM_CAP_ARM_WRITABLE_IMP_ID_REGS: (Row((7, 3), 1),),
    abi.KVM_CAP_ARM_EL2: (Row((7, 3), lambda host, _vm: int(host.effective_mode == "nested")),),
    # Also needs ID_AA64MMFR4_EL1.E2H0 to leave NV1 in, as it does wherever it is 0 (and a CPU that is no Apple M2).
    abi.KVM_CAP_ARM_EL2_E2H0: (Row((7, 3), lambda host, _vm: int(host.effective_mode == "nested")),),
    abi.KVM_CAP_ARM_CACHEABLE_PFNMAP_SUPPORTED: (Row((7, 3), _needs_vm(lambda host, _vm: int(host.fwb and host.dic))),),
    abi.KVM_CAP_GUEST_MEMFD_FLAGS: (Row((7, 3), 3),),
    abi.KVM_CAP_ARM_SEA_TO_USER: (Row((7, 3), 1),),
    abi.KVM_CAP_ARM_PMU_V3_STRICT: (Row((7, 3), _pmu),),
}

# What virt/kvm answers before the architecture is asked (kvm_vm_ioctl_check_extension_generic).
_OF_VIRT: Final = frozenset(
    (
        abi.KVM_CAP_USER_MEMORY,
        abi.KVM_CAP_USER_MEMORY2,
        abi.KVM_CAP_SYNC_MMU,
        abi.KVM_CAP_DESTROY_MEMORY_REGION_WORKS,
        abi.KVM_CAP_JOIN_MEMORY_REGIONS_WORKS,
        abi.KVM_CAP_INTERNAL_ERROR_DATA,
        abi.KVM_CAP_SIGNAL_MSI,
        abi.KVM_CAP_IRQFD,
        abi.KVM_CAP_IOEVENTFD_ANY_LENGTH,
        abi.KVM_CAP_CHECK_EXTENSION_VM,
        abi.KVM_CAP_ENABLE_CAP_VM,
        abi.KVM_CAP_HALT_POLL,
        abi.KVM_CAP_COALESCED_MMIO,
        abi.KVM_CAP_COALESCED_PIO,
        abi.KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2,
        abi.KVM_CAP_IRQ_ROUTING,
        abi.KVM_CAP_NR_MEMSLOTS,
        abi.KVM_CAP_DIRTY_LOG_RING_ACQ_REL,
        abi.KVM_CAP_DIRTY_LOG_RING_WITH_BITMAP,
        abi.KVM_CAP_BINARY_STATS_FD,
        abi.KVM_CAP_SYSTEM_EVENT_DATA,
        abi.KVM_CAP_DEVICE_CTRL,
        abi.KVM_CAP_GUEST_MEMFD,
        abi.KVM_CAP_GUEST_MEMFD_FLAGS,
    )
)

# What is left of the architecture's for a protected VM, and what no VM of a pKVM host has (kvm_pkvm_ext_allowed).
_OF_PROTECTED_VMS: Final = frozenset(
    (
        abi.KVM_CAP_IRQCHIP,
        abi.KVM_CAP_ARM_PSCI,
        abi.KVM_CAP_ARM_PSCI_0_2,
        abi.KVM_CAP_NR_VCPUS,
        abi.KVM_CAP_MAX_VCPUS,
        abi.KVM_CAP_MAX_VCPU_ID,
        abi.KVM_CAP_MSI_DEVID,
        abi.KVM_CAP_ARM_VM_IPA_SIZE,
        abi.KVM_CAP_ARM_PTRAUTH_ADDRESS,
        abi.KVM_CAP_ARM_PTRAUTH_GENERIC,
    )
)
_OF_NO_PKVM_VM: Final = frozenset(
    (abi.KVM_CAP_ARM_MTE, abi.KVM_CAP_ARM_EAGER_SPLIT_CHUNK_SIZE, abi.KVM_CAP_ARM_SUPPORTED_BLOCK_SIZES)
)


def pkvm_allows(cap: int, *, protected: bool) -> bool:
    """Whether the architecture's part of a pKVM host lets a VM have a capability (kvm_pkvm_ext_allowed, 7.3)."""
    return cap in _OF_PROTECTED_VMS if protected else cap not in _OF_NO_PKVM_VM


def known_to(release: str, cap: int) -> bool:
    """Whether a release has a capability."""
    return has_come(ROWS[cap][0].since, release)


# What a VM answers by its own state, where its release and pKVM let it answer at all (kernel-ipa-spec 9): a vGICv2 has
# 8 vCPUs on a host of 512 too, MSIs need a device id as soon as there is an ITS.
OF_THE_VM: Final[dict[int, Callable[[VirtualMachine], int]]] = {
    abi.KVM_CAP_MAX_VCPUS: lambda vm: vm.max_vcpus,
    abi.KVM_CAP_MAX_VCPU_ID: lambda vm: vm.max_vcpus,
    abi.KVM_CAP_MSI_DEVID: lambda vm: int(bool(vm.itses)),
    abi.KVM_CAP_ARM_EAGER_SPLIT_CHUNK_SIZE: lambda vm: vm.eager_split_chunk,
}


# Nobody changes what it returns: who opens /dev/kvm often, as a conformance run does, has it from the cache.
@lru_cache(maxsize=64)
def answers(host: HostProfile, *, on_vm: bool, protected: bool = False) -> dict[int, int]:
    """Capability -> what KVM_CHECK_EXTENSION answers: -errno where it cannot be asked here; all others answer 0."""
    found = {}
    for cap, rows in ROWS.items():
        if protected and cap not in _OF_VIRT and not pkvm_allows(cap, protected=True):
            continue
        for row in rows:
            if has_come(row.since, host.release):
                found[cap] = row.answer if isinstance(row.answer, int) else row.answer(host, on_vm)
    return found
