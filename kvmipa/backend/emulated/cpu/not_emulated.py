# SPDX-License-Identifier: Apache-2.0
"""What a guest on the emulated CPU does not get, and what it gets instead: one table, for the documentation too."""

from __future__ import annotations

from typing import Final, NamedTuple


class Lack(NamedTuple):
    """Something that a real CPU or kernel does. instead: what happens here. source: of the real thing."""

    what: str
    instead: str
    source: str


TABLE: Final = (
    Lack(
        "interrupts reach the guest (vGIC, KVM_IRQ_LINE, irqfd, MSI)",
        "none does; WFI ends only with a kick, a signal or an abort that user space injects",
        "kernel-device-spec 4.8, 5.4",
    ),
    Lack(
        "the guest reads and writes the frames of its vGIC and ITS",
        "each access is an MMIO exit, as without a vGIC; a GICv3's system registers are undefined",
        "kernel-device-spec 2",
    ),
    Lack("timers fire", "their registers hold what is written; the counters count", "kernel-device-spec 3.2"),
    Lack("the PMU counts", "its registers hold what is written", "kernel-device-spec 3.1"),
    Lack("stolen time is written to its structure", "the guest's call finds it, and it stays as it is", "pvtime.c"),
    Lack("SErrors that user space injects are taken", "they stay pending", "kernel-device-spec 4.6"),
    Lack(
        "SVE registers are the vCPU's own, and the instructions undefined without the feature",
        "SVE instructions work on registers that KVM_GET_ONE_REG does not show beyond V0 to V31",
        "Arm ARM, CPACR_EL1.ZEN",
    ),
    Lack(
        "floating point and SIMD trap where CPACR_EL1.FPEN says so",
        "they always work",
        "Arm ARM, CPACR_EL1.FPEN",
    ),
    Lack("EL1 of 32 bits, and EL2", "KVM_RUN is EINVAL with KVM_EXIT_FAIL_ENTRY", "kernel-device-spec 4.2"),
    Lack("EL0 of 32 bits", "the guest goes on in AArch64 state", "Arm ARM, PSTATE.nRW"),
    Lack(
        "cache maintenance by address goes through stage 2",
        "it has no effect, and takes no fault, as in QEMU (DC ZVA is a store)",
        "kernel-ipa-spec 5.3",
    ),
    Lack(
        "accesses to Device memory are aligned, as all are with the MMU off",
        "unaligned ones work, as in QEMU before 9.1",
        "Arm ARM, AArch64.MemSingle",
    ),
    Lack(
        "an SP that is not a multiple of 16 is a fault where SCTLR_EL1.SA or SA0 says so",
        "it works, as in QEMU",
        "Arm ARM, CheckSPAlignment",
    ),
    Lack(
        "an illegal exception return sets PSTATE.IL, and the next instruction is a fault",
        "the guest goes on at ELR_EL1 in EL1",
        "Arm ARM, AArch64.ExceptionReturn",
    ),
    Lack(
        "exclusives and atomics of vCPUs that run at once are atomic",
        "each vCPU's are so for itself",
        "Arm ARM, B2.9",
    ),
    Lack(
        "TLBI and IC of one vCPU are complete for the others with the next DSB",
        "the others stop using what they had a moment later",
        "Arm ARM, D8.16",
    ),
    Lack("hardware sets the dirty state of stage 1", "it faults", "Arm ARM, TCR_EL1.HD"),
    Lack(
        "hardware breakpoints and watchpoints (KVM_GUESTDBG_USE_HW)",
        "they never match",
        "kernel-device-spec 5.4",
    ),
    Lack(
        "memory of a guest_memfd is the file's",
        "it is what userspace_addr points to, and KVM_RUN is EFAULT where that is nothing",
        "Documentation/virt/kvm/api.rst 4.142",
    ),
    Lack(
        "memory that the process unmaps behind kvmipa's back is EFAULT",
        "it is until the guest has touched a page; unmapping that ends the process (GuestMemory cannot be unmapped "
        "while a slot has it)",
        "kernel-ipa-spec 5.3, case (a')",
    ),
    Lack(
        "code that the process writes over code that has run is seen, as a rule",
        "after the PC was set, or KVM_ARM_VCPU_INIT; what the guest itself writes is seen at once",
        "Arm ARM, IC IVAU",
    ),
    Lack("KVM_SET_SIGNAL_MASK", "the mask is kept, and changes nothing", "kernel-device-spec 4.6"),
    Lack("PTP time by SMCCC (86000001)", "NOT_SUPPORTED", "kernel-device-spec 5.3"),
)
