# SPDX-License-Identifier: Apache-2.0
"""What differs between kernel releases, as data: one row for each change of behaviour."""

from __future__ import annotations

import re
from dataclasses import dataclass, field, fields
from functools import lru_cache
from typing import Any, Final

OLDEST: Final = (4, 19)
NEWEST: Final = (7, 3)

# 4.20 was followed by 5.0, and so on.
LAST_MINOR: Final = {4: 20, 5: 19, 6: 19, 7: 3}

# A release named without its point release means the last one of its stable line.
LAST_POINT_RELEASE: Final = 1 << 30


# What a release is compared with stands in two places: a row here, and a capability's (capabilities.py). It is compared
# in has_come() alone.
@dataclass(frozen=True)
class Change:
    """A change of behaviour: since which release, and from which point release the older stable lines have it too."""

    name: str
    since: tuple[int, int]
    source: str
    backports: tuple[tuple[int, int, int], ...] = ()

    def applies(self, release: str) -> bool:
        """Whether a release has it."""
        return has_come(self.since, release, self.backports)


def _since(line: tuple[int, int], source: str, backports: tuple[tuple[int, int, int], ...] = ()) -> Any:
    """A field of Behaviour: the release that brought it, and where that is from."""
    return field(metadata={"since": line, "source": source, "backports": backports})


# Where a source says "between": the row holds the earliest release in which the change was read in a tree; the ones in
# between are not verified. Recordings of real kernels (tests/data) confirm the rows for 5.10, 6.1, 6.12 and 7.3.
@dataclass(frozen=True)
class Behaviour:
    """Which changes a release has: a field for each, with its row."""

    ipa_size: bool = _since((4, 20), "kernel-ipa-spec 0.1: KVM_CAP_ARM_VM_IPA_SIZE and sizes in the machine type")
    host_independent_limit: bool = _since(
        (5, 10), "1.4: stage 2 has its own page-table code, no clamp by host VA and PA"
    )
    checks_stage2_granule: bool = _since(
        (5, 10), "1.4: TGran*_2 read when KVM starts; first release between 5.5 and 5.10"
    )
    accepts_new_stage2_granules: bool = _since(
        (5, 12), "0.2: TGran*_2 values 3..7 are usable too [unverified: first release]", backports=((5, 10, 24),)
    )
    rejects_unsupported_default: bool = _since(
        (5, 12),
        "0.2: commit 7d717558dd5e, March 2021; point releases of the stable lines from the changelogs [list]",
        backports=((5, 4, 106), (5, 10, 24)),
    )
    caps_at_48_without_lpa2: bool = _since(
        (5, 15),
        "0.2: 4K and 16K stop at 48 bits; in 5.10.262 and 5.10.223, first point release unverified",
        backports=((5, 10, 223),),
    )
    mode_protected: bool = _since(
        (6, 1), "1.1: kvm-arm.mode does not exist in 5.10; first release in between unverified"
    )
    mode_none: bool = _since((6, 1), "1.1: as mode_protected")
    mode_nested: bool = _since((6, 12), "1.8: first release in between unverified")
    descriptor_first: bool = _since(
        (6, 1), "2.4: the descriptor is reserved before the VM is built; between 5.10 and 6.1"
    )
    ha_is_optional: bool = _since((6, 1), "3.1: VTCR_EL2.HA only with CONFIG_ARM64_HW_AFDBM and without AC03_CPU_38")
    pkvm_ignores_size: bool = _since((6, 2), "1.7: every VM of a pKVM host gets its limit; read in 6.12")
    lpa2: bool = _since((6, 8), "1.4: 52 bits with 4K and 16K pages; merged for 6.8, read in 6.12")
    wide_4k_16k_kernels: bool = _since((6, 9), "3.3: CONFIG_ARM64_PA_BITS_52 with 4K and 16K pages; read in 6.12")
    forgets_trace_requests: bool = _since((6, 12), "1.3: KVM_TRACE_* are unknown requests; between 6.1 and 6.12")
    protected_type: bool = _since((7, 3), "2.1: KVM_VM_TYPE_ARM_PROTECTED; after 6.12, read in 7.3")
    nested_needs_gicv3: bool = _since(
        (7, 3),
        "kvm-arm.mode=nested with a GICv2: 7.3.4 says 'NV support requires GICv3' and has no /dev/kvm; 6.12.117 starts",
    )
    injects_out_of_range: bool = _since(
        (6, 1),
        "5.2: a translation fault beyond the IPA space is the guest's; 5.18 or 5.19 [unverified], not in 5.10.262",
    )
    esr_of_64_bits: bool = _since((6, 1), "5.3: inject_abt64 puts ESR_EL1 together in 64 bits; between 5.10 and 6.1")
    esr_is_unsigned: bool = _since((6, 12), "5.3: and no longer sign-extends it; between 6.1 and 6.12")
    names_walk_level: bool = _since((7, 3), "5.3: an abort on a stage-1 walk says its level; read in 7.3")
    pkvm_reserves_vms: bool = _since((7, 3), "2.3: a pKVM host has room for 255 VMs; read in 7.3")
    irq_line_names_vcpu_by_id: bool = _since((6, 12), "4.8: 5.10 and 6.1 count by creation; read in 6.12")
    ppi_goes_to_vcpu_found: bool = _since(
        (6, 12), "4.8: kvm_vgic_inject_irq takes a vCPU; before, an index, for which KVM_IRQ_LINE passes the vCPU's id"
    )
    vcpu_index_is_checked: bool = _since(
        (6, 1),
        "kvm_get_vcpu refuses an index of no vCPU, which 5.10.223 takes for 0; seen in 6.1, point release unverified",
    )
    irq_line_readies_vgic_first: bool = _since((7, 3), "4.8: before the number is looked at; read in 7.3")
    irqfd_is_exclusive: bool = _since((7, 3), "an eventfd has one irqfd in all VMs, not one in each; seen in 7.3.4")
    copy_tags_is_bounded: bool = _since((6, 12), "4.9: INT_MAX, and no writing while pages are logged")
    writes_more_id_registers: bool = _since((7, 3), "4.9: writable bits of ID registers; seen in 7.3.4")
    pkvm_filters_requests: bool = _since((7, 3), "3.5: kvm_pkvm_ioctl_allowed; read in 7.3")
    slot_may_end_at_limit: bool = _since(
        (5, 12),
        "0.2: commit 262b003d059c, March 2021, of one series with 7d717558dd5e; point releases as of that one [list]",
        backports=((5, 4, 106), (5, 10, 24)),
    )
    allows_readonly_mappings: bool = _since(
        (5, 6),
        "4.4: a slot that is not read-only may be of memory that the process cannot write (before: EPERM); patch of "
        "December 2019 [list], first release unverified",
    )
    mte_by_mapping: bool = _since(
        (6, 2), "4.4: VM_MTE_ALLOWED instead of no VM_SHARED; read in 6.12, first release [list]"
    )
    pkvm_shares_pages: bool = _since(
        (7, 3),
        "a pKVM host keeps account of what it maps for VMs: no blocks of 1G, leaves marked as borrowed; seen in 7.3.4",
    )
    pfnmap_blocks: bool = _since((6, 1), "5.5: VM_PFNMAP memory is not always mapped by pages; between 5.10 and 6.1")
    blocks_on_permission_fault: bool = _since((6, 1), "5.5: step 4; between 5.10 and 6.1")
    remaps_other_sizes: bool = _since(
        (6, 1), "5.5: permissions alone are relaxed where the size is the leaf's; as the last"
    )
    device_blocks: bool = _since((6, 12), "5.5: device memory by blocks; between 6.1 and 6.12")
    device_normal_nc: bool = _since((6, 12), "5.5: device memory as Normal-NC; between 6.1 and 6.12")
    cacheable_pfnmap: bool = _since((7, 3), "5.5: cacheable VM_PFNMAP memory is ordinary; read in 7.3")
    dumps_whole_space: bool = _since(
        (7, 3), "8.1: stage2_page_tables with its last run, and both XN bits; seen in 7.3.4"
    )
    data_page_is_mixed: bool = _since((7, 3), "[vvar] is VM_MIXEDMAP, not VM_PFNMAP: smaps of 7.3.4, against 6.12.117")
    refuses_cached_frames: bool = _since((7, 3), "4.4: cached VM_PFNMAP memory needs FWB and DIC; read in 7.3")
    device_range_includes_size: bool = _since(
        (6, 1), "device-spec 2.3, 2.5, 2.7: whole frames are checked; between 5.10 and 6.1"
    )
    removes_failed_redistributors: bool = _since((6, 1), "device-spec 2.5: step 9; between 5.10 and 6.1")
    vgic_get_address_only_writes: bool = _since(
        (6, 1), "device-spec 2.6: KVM_GET_DEVICE_ATTR reads its value only for regions"
    )
    legacy_address_is_v2_only: bool = _since((6, 1), "device-spec 1.5: KVM_ARM_SET_DEVICE_ADDR; between 5.10 and 6.1")
    legacy_address_ignores_upper_half: bool = _since(
        (6, 1),
        "device-spec 1.5 is wrong for 5.10.223: bits 63:32 of the id are of the device's number, which is then not 0",
    )
    vfio_ends_with_descriptor: bool = _since(
        (6, 1), "closing kvm-vfio's makes room for another; seen in 6.1, not in 5.10.223"
    )
    vgic_needs_host_first: bool = _since((6, 1), "device-spec 1.2: ENODEV before EEXIST; between 5.10 and 6.1")
    vgic_finds_vcpu_first: bool = _since(
        (6, 1), "device-spec 2.8: the vCPU before the value of a register; between 5.10 and 6.1"
    )
    vgic_sysregs_are_found_late: bool = _since(
        (6, 1), "device-spec 2.8: ENOENT for unknown ICC registers; between 5.10 and 6.1"
    )
    vgic_revision_3: bool = _since(
        (6, 1), "device-spec 2.8: GICD_IIDR's revision can be chosen, and is 3; between 5.10 and 6.1"
    )
    gicr_typer_tells_last: bool = _since((6, 1), "GICR_TYPER.Last as an attribute; not in 5.10.223, read in 6.12")
    save_pending_needs_init: bool = _since((6, 1), "device-spec 2.8: ENXIO; between 5.10 and 6.1")
    max_vcpus_of_vm: bool = _since((6, 1), "device-spec 4.1, step 2: the VM's limit, not KVM's; between 5.10 and 6.1")
    el1_width_of_vm: bool = _since(
        (6, 1), "device-spec 4.2: the VM's first vCPU decides, not all that exist; seen in 6.1, not in 5.10.223"
    )
    pmu_is_chosen: bool = _since((6, 1), "device-spec 3.1: KVM_ARM_VCPU_PMU_V3_SET_PMU; between 5.10 and 6.1")
    vcpu_id_has_64_bits: bool = _since(
        (6, 12), "device-spec 4.1: the upper half is no longer dropped; between 6.1 and 6.12"
    )
    vcpu_features_of_vm: bool = _since((6, 12), "device-spec 4.2: all vCPUs have the same; between 6.1 and 6.12")
    timer_ppis_of_vm: bool = _since(
        (6, 4),
        "device-spec 3.2: and four timers; QEMU's update of its headers to 6.4-rc7 brings their attributes [list]",
    )
    preferred_target_is_generic: bool = _since(
        (6, 12), "device-spec 4.2: KVM_ARM_PREFERRED_TARGET; between 6.1 and 6.12, by kvmarm-6.6 in 6.6 [unverified]"
    )
    pmu_type_is_10: bool = _since(
        (6, 12),
        "an assumption on what else a kernel has: the first PMU's perf type is 8 in 6.1, 10 in 6.12.117 and 7.3.4",
    )
    vcpu_id_is_looked_up_first: bool = _since((7, 3), "device-spec 4.1, step 3: EEXIST; read in 7.3")
    sve_and_ptrauth_features: bool = _since((5, 2), "device-spec 4.2: bits 4 to 6, with SVE; first release [list]")
    el2_and_strict_pmu_features: bool = _since((7, 3), "device-spec 4.2: bits 7 to 9; read in 7.3")
    pmu_counters_are_chosen: bool = _since(
        (7, 3), "device-spec 3.1: KVM_ARM_VCPU_PMU_V3_SET_NR_COUNTERS and STRICT; read in 7.3"
    )
    vgic_registers_before_init: bool = _since((7, 3), "device-spec 2.8: GICD_IIDR and GICD_TYPER2; read in 7.3")
    vgic_maintenance_irq: bool = _since((7, 3), "device-spec 2.8: group 9; read in 7.3")
    vgic_v2_targets_by_id: bool = _since(
        (7, 3), "GICD_ITARGETSR0 to 7 name a vCPU by its id; seen in 7.3.4, not in 6.12"
    )
    vgic_v2_deactivate: bool = _since((7, 3), "GICC_DIR is a register of group 2; read in 7.3.4, not in 6.12")
    coalesced_ring_fills_up: bool = _since(
        (6, 12), "a ring of 4K takes 169 writes, not 85: coalesced_mmio_has_room(); seen in 6.12.117, 85 in 6.1"
    )
    physical_timer_registers: bool = _since(
        (6, 12), "device-spec 4.5: CNTP_CTL_EL0 and the like among a vCPU's registers; between 6.1 and 6.12"
    )
    hides_absent_pmu: bool = _since(
        (6, 1), "a vCPU without a PMU has none in its registers; seen in 6.1.176, not in 5.10.223"
    )
    csv3_is_free: bool = _since(
        (6, 1), "ID_AA64PFR0_EL1.CSV3 can be set to 0, as CSV2 before; seen in 6.1.176, not in 5.10.223"
    )
    id_registers_of_vm: bool = _since(
        (6, 12),
        "device-spec 4.5: ID registers are the VM's, and can be written; between 6.1 and 6.12, 6.4 to 6.7 [unverified]",
    )
    caches_are_made_up: bool = _since(
        (6, 12), "CCSIDR_EL1 and CLIDR_EL1 are not the host's; seen in 6.12.117, by 6.3 [unverified]"
    )
    events_need_initialisation: bool = _since(
        (6, 12),
        "4.3: KVM_GET_VCPU_EVENTS before KVM_ARM_VCPU_INIT is ENOEXEC; seen in 6.12.117 and 6.1.192, not in 6.1.176",
        backports=((6, 1, 192),),
    )
    mp_state_suspended: bool = _since((6, 1), "device-spec 4.6: KVM_MP_STATE_SUSPENDED; between 5.10 and 6.1")
    exceptions_wait_for_run: bool = _since(
        (6, 1), "an abort that user space injects moves the PC when the vCPU runs; seen in 6.1.176 and 6.12.117"
    )
    events_move_pc: bool = _since((7, 3), "but KVM_SET_VCPU_EVENTS moves it at once; seen in 7.3.4, as in 5.10.223")
    aborts_tell_length: bool = _since((7, 3), "ESR_EL1.IL of an abort that KVM_SET_VCPU_EVENTS injects; seen in 7.3.4")
    aarch32_truncates_all: bool = _since(
        (6, 1), "in AArch32 state X0 to X30 lose their upper halves; in 5.10.223 only those that the mode has"
    )
    hypercall_bitmaps: bool = _since((6, 1), "device-spec 4.5: KVM_REG_ARM_FW_FEAT_BMAP; between 5.10 and 6.1")
    vendor_bitmap_2: bool = _since((7, 3), "device-spec 4.5: KVM_REG_ARM_VENDOR_HYP_BMAP_2; read in 7.3")
    psci_1_1: bool = _since((6, 1), "device-spec 4.5: PSCI 1.1; between 5.10 and 6.1")
    psci_1_3: bool = _since((7, 3), "device-spec 4.5: PSCI 1.2 and 1.3; between 6.12 and 7.3")
    reads_register_value_first: bool = _since(
        (6, 1), "device-spec 4.5: KVM_SET_ONE_REG of a system register: EFAULT before ENOENT; between 5.10 and 6.1"
    )
    timers_are_registers: bool = _since(
        (7, 3), "device-spec 4.5: the timers' are system registers, and reset; seen in 7.3.4"
    )
    init_keeps_serror: bool = _since(
        (6, 12), "KVM_ARM_VCPU_INIT of a vCPU that has run leaves an SError pending; seen in 6.12.117, not in 6.1.176"
    )
    loads_registers_early: bool = _since(
        (6, 1), "KVM_RUN of a VHE host loads EL1's registers before it looks at immediate_exit; not seen in 5.10.223"
    )
    pmu_bits_are_values: bool = _since(
        (7, 3), "PMCNTENSET_EL0 and the like take what is written; 6.12.117 sets or clears bits, as a guest would"
    )
    failed_run_kills: bool = _since(
        (6, 1), "device-spec 2.9: kvm_vm_dead where the first run fails; between 5.10 and 6.1"
    )
    mmio_loads_are_extended: bool = _since(
        (7, 3),
        "a signed load that user space answers; before, vcpu_data_host_to_guest cuts the sign off; seen in 7.3.4",
    )
    emulated_instructions_step: bool = _since(
        (6, 1),
        "what KVM does for the guest is a single step (kvm_incr_pc clears PSTATE.SS); seen in 6.1.192, not 5.10.223",
    )
    run_flags: bool = _since((6, 1), "device-spec 5.4: kvm_run.flags is cleared, and 1 with KVM_EXIT_DEBUG")
    pmu_needs_init: bool = _since(
        (6, 1), "device-spec 2.9: a PMU that is not initialised is EINVAL; between 5.10 and 6.1"
    )
    smc_is_a_call: bool = _since(
        (6, 12), "device-spec 5.1: SMC #0 as HVC; between 6.1 and 6.12, by kvmarm-6.4 [unverified]"
    )
    system_events_have_data: bool = _since(
        (5, 19),
        "device-spec 5.2: ndata and data in kvm_run.system_event; in 6.1, not in 5.10; first release [unverified]",
    )
    clears_dirty_log: bool = _since(
        (5, 0), "device-spec 4.9: KVM_CLEAR_DIRTY_LOG; its capability is 5.2's, in place of one of 5.0 [list]"
    )
    filters_calls: bool = _since(
        (6, 4), "device-spec 3.5: KVM_ARM_VM_SMCCC_CTRL; by kvmarm-6.4, in QEMU's headers of 6.4-rc7 [list]"
    )
    os_lock_is_kept: bool = _since((6, 1), "OSLSR_EL1 is a vCPU's register; seen in 6.1.176, not in 5.10.223")
    pmcr_of_vm: bool = _since(
        (6, 12), "PMCR_EL0 and the events' masks are those of the VM's PMU; seen in 6.12.117, not in 6.1.176"
    )
    pmu_slots_register: bool = _since((7, 3), "PMMIR_EL1 is a vCPU's register; seen in 7.3.4, not in 6.12.117")
    permission_registers: bool = _since(
        (6, 12), "TCR2_EL1, PIR(E0)_EL1, POR_EL0, POR_EL1 and FPMR; seen in 6.12.117, not in 6.1.176"
    )
    registers_need_features: bool = _since(
        (7, 3), "TCR2_EL1 and PIR(E0)_EL1 only where the VM's ID registers have them; seen in 7.3.4, not in 6.12.117"
    )
    invariants_are_in_order: bool = _since(
        (7, 3), "KVM_GET_REG_LIST has MIDR_EL1 and the like by number, not first; seen in 7.3.4, not in 6.12.117"
    )
    sctlr2_register: bool = _since((7, 3), "SCTLR2_EL1 is a vCPU's register; seen in 7.3.4, not in 6.12.117")
    psci_checks_affinity: bool = _since(
        (5, 15),
        "device-spec 5.2: CPU_ON and AFFINITY_INFO refuse what is no affinity; seen in 6.1, not in 5.10.223; first "
        "release unverified [list]",
    )
    trng_service: bool = _since((5, 12), "device-spec 5.3: random numbers, a call of January 2021 [list]")
    vendor_service: bool = _since(
        (5, 13), "device-spec 5.3: KVM's own service, which came with PTP time; first release unverified [list]"
    )
    its_knows_its_controls: bool = _since((7, 3), "device-spec 2.7: ENXIO for unknown ones; read in 7.3")
    destroys_by_blocks: bool = _since(
        (7, 3), "0.1, 6: destroying a VM takes time that doubles with each bit of its size; seen in 7.3.4"
    )


CHANGES: Final = tuple(Change(row.name, **row.metadata) for row in fields(Behaviour))


def parse(release: str) -> tuple[int, int, int]:
    """The numbers of a release as uname or a package name gives it; what follows them is ignored.

    "5.10.0-32-arm64" is a distribution's name, with an ABI number where the point release would be: it stands for the
    last one of its stable line. Raises ValueError where it is no release from 4.19 to 7.3.

    >>> parse("6.12.117+deb13-arm64-16k"), parse("5.10.0"), parse("5.10.0-32-arm64") == parse("5.10")
    ((6, 12, 117), (5, 10, 0), True)
    """
    match = re.match(r"(\d+)\.(\d+)(?:\.(\d+)(-\d)?)?", release) if isinstance(release, str) else None
    if match is None:
        raise ValueError(f"{release!r} is not a kernel release such as '6.12' or '5.10.223'")
    line = int(match[1]), int(match[2])
    if not OLDEST <= line <= NEWEST or line[1] > LAST_MINOR[line[0]]:
        raise ValueError(f"kernel release {release!r}: kvmipa knows Linux 4.19 to 7.3")
    abi_name = match[3] == "0" and match[4]
    return (*line, int(match[3]) if match[3] and not abi_name else LAST_POINT_RELEASE)


def has_come(since: tuple[int, int], release: str, backports: tuple[tuple[int, int, int], ...] = ()) -> bool:
    """Whether a release has what came with another one, and with some point releases of older stable lines.

    >>> has_come((5, 12), "5.10"), has_come((5, 12), "6.1"), has_come((5, 12), "5.10.24", ((5, 10, 24),))
    (False, True, True)
    """
    line, point = _line_and_point(release)
    return line >= since or any(line == stable[:2] and point >= stable[2] for stable in backports)


@lru_cache(maxsize=64)
def _line_and_point(release: str) -> tuple[tuple[int, int], int]:
    major, minor, point = parse(release)
    return (major, minor), point


def nearest(release: str) -> str:
    """The release itself, or the newest one that kvmipa knows where it is newer than that.

    >>> nearest("6.12.117"), nearest("7.9.1")
    ('6.12.117', '7.3')
    """
    match = re.match(r"(\d+)\.(\d+)", release)
    if match and (int(match[1]), int(match[2])) > NEWEST:
        return ".".join(map(str, NEWEST))
    return release


@lru_cache(maxsize=64)
def behaviour(release: str) -> Behaviour:
    """The behaviour of a release.

    >>> behaviour("5.10").rejects_unsupported_default, behaviour("5.10.0").rejects_unsupported_default
    (True, False)
    """
    return Behaviour(**{change.name: change.applies(release) for change in CHANGES})
