/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The KVM ABI that kvmipa speaks: request numbers, capability numbers, constants and structs, each declared once, here.
 *
 * The extension compiles this file; csrc/abi_table.py reads it and writes kvmipa/_abi_table.py, which is what Python
 * uses (no compiler, no parsing at import). csrc/kvm_abi_check.c compares every number and layout below with the
 * kernel's own headers where the compiler has them.
 *
 * The kernel's headers are deliberately not included: they may be older than the names below, may lack the arm64
 * structs (on x86), or may be absent. So the structs have names of our own: struct kvmipa_X stands for struct kvm_X.
 *
 * Source of the facts: include/uapi/linux/kvm.h and arch/arm64/include/uapi/asm/kvm.h.
 */
#ifndef KVMIPA_KVM_ABI_H
#define KVMIPA_KVM_ABI_H

#include <stdint.h>

/* --- structs: one field a line, fixed-width types only (abi_table.py reads these) --- */

struct kvmipa_vcpu_init {
    uint32_t target;
    uint32_t features[7];
};

struct kvmipa_one_reg {
    uint64_t id;
    uint64_t addr;
};

/* KVM_TRACE_ENABLE died in 2.6.31, but 5.10 and 6.1 still answer it with an errno of its own. */
struct kvmipa_user_trace_setup {
    uint32_t buf_size;
    uint32_t buf_nr;
};

/*
 * --- requests ---
 * X(name, direction, number, argument): direction and number as in _IO, _IOR, _IOW, _IOWR of type KVMIO (0xAE).
 * An argument "void" means that the argument is the value itself, not a pointer.
 */
#define KVMIPA_REQUESTS(X) \
    X(KVM_GET_API_VERSION, IO, 0x00, void) \
    X(KVM_CREATE_VM, IO, 0x01, void) \
    X(KVM_CHECK_EXTENSION, IO, 0x03, void) \
    X(KVM_GET_VCPU_MMAP_SIZE, IO, 0x04, void) \
    X(KVM_TRACE_ENABLE, IOW, 0x06, struct kvmipa_user_trace_setup) \
    X(KVM_TRACE_PAUSE, IO, 0x07, void) \
    X(KVM_TRACE_DISABLE, IO, 0x08, void) \
    X(KVM_CREATE_VCPU, IO, 0x41, void) \
    X(KVM_GET_ONE_REG, IOW, 0xab, struct kvmipa_one_reg) \
    X(KVM_ARM_VCPU_INIT, IOW, 0xae, struct kvmipa_vcpu_init) \
    X(KVM_ARM_PREFERRED_TARGET, IOR, 0xaf, struct kvmipa_vcpu_init)

/* --- constants: X(name, value) --- */
#define KVMIPA_CONSTANTS(X) \
    X(KVM_API_VERSION, 12) \
    X(KVM_VM_TYPE_ARM_IPA_SIZE_MASK, 0xff) \
    X(KVM_VM_TYPE_ARM_PROTECTED, 0x80000000) \
    X(KVM_ARM_VCPU_PMU_V3, 3) \
    X(KVM_ARM_VCPU_SVE, 4) \
    X(KVM_ARM_VCPU_PTRAUTH_ADDRESS, 5) \
    X(KVM_ARM_VCPU_PTRAUTH_GENERIC, 6) \
    X(KVM_REG_ARM64, 0x6000000000000000) \
    X(KVM_REG_ARM64_SYSREG, 0x130000) \
    X(KVM_REG_SIZE_U64, 0x30000000000000)

/* --- capabilities: X(name, value) --- */
#define KVMIPA_CAPABILITIES(X) \
    X(KVM_CAP_IRQCHIP, 0) \
    X(KVM_CAP_USER_MEMORY, 3) \
    X(KVM_CAP_NR_VCPUS, 9) \
    X(KVM_CAP_NR_MEMSLOTS, 10) \
    X(KVM_CAP_MP_STATE, 14) \
    X(KVM_CAP_COALESCED_MMIO, 15) \
    X(KVM_CAP_SYNC_MMU, 16) \
    X(KVM_CAP_DESTROY_MEMORY_REGION_WORKS, 21) \
    X(KVM_CAP_SET_GUEST_DEBUG, 23) \
    X(KVM_CAP_IRQ_ROUTING, 25) \
    X(KVM_CAP_JOIN_MEMORY_REGIONS_WORKS, 30) \
    X(KVM_CAP_IRQFD, 32) \
    X(KVM_CAP_IOEVENTFD, 36) \
    X(KVM_CAP_INTERNAL_ERROR_DATA, 40) \
    X(KVM_CAP_VCPU_EVENTS, 41) \
    X(KVM_CAP_MAX_VCPUS, 66) \
    X(KVM_CAP_ONE_REG, 70) \
    X(KVM_CAP_SIGNAL_MSI, 77) \
    X(KVM_CAP_READONLY_MEM, 81) \
    X(KVM_CAP_IRQFD_RESAMPLE, 82) \
    X(KVM_CAP_ARM_PSCI, 87) \
    X(KVM_CAP_ARM_SET_DEVICE_ADDR, 88) \
    X(KVM_CAP_DEVICE_CTRL, 89) \
    X(KVM_CAP_ARM_EL1_32BIT, 93) \
    X(KVM_CAP_ENABLE_CAP_VM, 98) \
    X(KVM_CAP_ARM_PSCI_0_2, 102) \
    X(KVM_CAP_CHECK_EXTENSION_VM, 105) \
    X(KVM_CAP_MULTI_ADDRESS_SPACE, 118) \
    X(KVM_CAP_GUEST_DEBUG_HW_BPS, 119) \
    X(KVM_CAP_GUEST_DEBUG_HW_WPS, 120) \
    X(KVM_CAP_IOEVENTFD_ANY_LENGTH, 122) \
    X(KVM_CAP_ARM_PMU_V3, 126) \
    X(KVM_CAP_VCPU_ATTRIBUTES, 127) \
    X(KVM_CAP_MAX_VCPU_ID, 128) \
    X(KVM_CAP_MSI_DEVID, 131) \
    X(KVM_CAP_IMMEDIATE_EXIT, 136) \
    X(KVM_CAP_ARM_USER_IRQ, 144) \
    X(KVM_CAP_ARM_INJECT_SERROR_ESR, 158) \
    X(KVM_CAP_COALESCED_PIO, 162) \
    X(KVM_CAP_ARM_VM_IPA_SIZE, 165) \
    X(KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2, 168) \
    X(KVM_CAP_ARM_SVE, 170) \
    X(KVM_CAP_ARM_PTRAUTH_ADDRESS, 171) \
    X(KVM_CAP_ARM_PTRAUTH_GENERIC, 172) \
    X(KVM_CAP_ARM_IRQ_LINE_LAYOUT_2, 174) \
    X(KVM_CAP_ARM_NISV_TO_USER, 177) \
    X(KVM_CAP_ARM_INJECT_EXT_DABT, 178) \
    X(KVM_CAP_HALT_POLL, 182) \
    X(KVM_CAP_STEAL_TIME, 187) \
    X(KVM_CAP_SET_GUEST_DEBUG2, 195) \
    X(KVM_CAP_PTP_KVM, 198) \
    X(KVM_CAP_BINARY_STATS_FD, 203) \
    X(KVM_CAP_ARM_MTE, 205) \
    X(KVM_CAP_SYSTEM_EVENT_DATA, 215) \
    X(KVM_CAP_ARM_SYSTEM_SUSPEND, 216) \
    X(KVM_CAP_DIRTY_LOG_RING_ACQ_REL, 223) \
    X(KVM_CAP_DIRTY_LOG_RING_WITH_BITMAP, 225) \
    X(KVM_CAP_COUNTER_OFFSET, 227) \
    X(KVM_CAP_ARM_EAGER_SPLIT_CHUNK_SIZE, 228) \
    X(KVM_CAP_ARM_SUPPORTED_BLOCK_SIZES, 229) \
    X(KVM_CAP_ARM_SUPPORTED_REG_MASK_RANGES, 230) \
    X(KVM_CAP_USER_MEMORY2, 231) \
    X(KVM_CAP_MEMORY_FAULT_INFO, 232) \
    X(KVM_CAP_MEMORY_ATTRIBUTES, 233) \
    X(KVM_CAP_GUEST_MEMFD, 234) \
    X(KVM_CAP_ARM_WRITABLE_IMP_ID_REGS, 239) \
    X(KVM_CAP_ARM_EL2, 240) \
    X(KVM_CAP_ARM_EL2_E2H0, 241) \
    X(KVM_CAP_ARM_CACHEABLE_PFNMAP_SUPPORTED, 243) \
    X(KVM_CAP_GUEST_MEMFD_FLAGS, 244) \
    X(KVM_CAP_ARM_SEA_TO_USER, 245) \
    X(KVM_CAP_ARM_PMU_V3_STRICT, 251)

/* The encoding of asm-generic/ioctl.h, which arm64 and x86 share: direction 31:30, size 29:16, type 15:8, number 7:0. */
#define KVMIPA_IOC(direction, number, size) ((direction) << 30 | (unsigned long)(size) << 16 | 0xae00ul | (number))
#define KVMIPA_IO(number, argument) KVMIPA_IOC(0ul, number, 0)
#define KVMIPA_IOW(number, argument) KVMIPA_IOC(1ul, number, sizeof(argument))
#define KVMIPA_IOR(number, argument) KVMIPA_IOC(2ul, number, sizeof(argument))
#define KVMIPA_IOWR(number, argument) KVMIPA_IOC(3ul, number, sizeof(argument))

#define KVMIPA_REQUEST_ENUMERATOR(name, direction, number, argument) name = KVMIPA_##direction(number, argument),
#define KVMIPA_ENUMERATOR(name, value) name = value,
enum kvmipa_abi {
    KVMIPA_REQUESTS(KVMIPA_REQUEST_ENUMERATOR)
    KVMIPA_CONSTANTS(KVMIPA_ENUMERATOR)
    KVMIPA_CAPABILITIES(KVMIPA_ENUMERATOR)
};

#endif
