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

struct kvmipa_userspace_memory_region {
    uint32_t slot;
    uint32_t flags;
    uint64_t guest_phys_addr;
    uint64_t memory_size;
    uint64_t userspace_addr;
};

struct kvmipa_userspace_memory_region2 {
    uint32_t slot;
    uint32_t flags;
    uint64_t guest_phys_addr;
    uint64_t memory_size;
    uint64_t userspace_addr;
    uint64_t guest_memfd_offset;
    uint32_t guest_memfd;
    uint32_t pad1;
    uint64_t pad2[14];
};

struct kvmipa_dirty_log {
    uint32_t slot;
    uint32_t padding1;
    uint64_t dirty_bitmap;
};

struct kvmipa_clear_dirty_log {
    uint32_t slot;
    uint32_t num_pages;
    uint64_t first_page;
    uint64_t dirty_bitmap;
};

struct kvmipa_create_guest_memfd {
    uint64_t size;
    uint64_t flags;
    uint64_t reserved[6];
};

struct kvmipa_enable_cap {
    uint32_t cap;
    uint32_t flags;
    uint64_t args[4];
    uint8_t pad[64];
};

struct kvmipa_create_device {
    uint32_t type;
    uint32_t fd;
    uint32_t flags;
};

struct kvmipa_device_attr {
    uint32_t flags;
    uint32_t group;
    uint64_t attr;
    uint64_t addr;
};

struct kvmipa_arm_device_addr {
    uint64_t id;
    uint64_t addr;
};

struct kvmipa_irq_level {
    uint32_t irq;
    uint32_t level;
};

struct kvmipa_irqfd {
    uint32_t fd;
    uint32_t gsi;
    uint32_t flags;
    uint32_t resamplefd;
    uint8_t pad[16];
};

struct kvmipa_ioeventfd {
    uint64_t datamatch;
    uint64_t addr;
    uint32_t len;
    int32_t fd;
    uint32_t flags;
    uint8_t pad[36];
};

/* The entries follow it. */
struct kvmipa_irq_routing {
    uint32_t nr;
    uint32_t flags;
};

/* The kernel's union of what an entry says, as its size. */
struct kvmipa_irq_routing_entry {
    uint32_t gsi;
    uint32_t type;
    uint32_t flags;
    uint32_t pad;
    uint32_t u[8];
};

struct kvmipa_msi {
    uint32_t address_lo;
    uint32_t address_hi;
    uint32_t data;
    uint32_t flags;
    uint32_t devid;
    uint8_t pad[12];
};

struct kvmipa_coalesced_mmio_zone {
    uint64_t addr;
    uint32_t size;
    uint32_t pio;
};

struct kvmipa_arm_copy_mte_tags {
    uint64_t guest_ipa;
    uint64_t length;
    uint64_t addr;
    uint64_t flags;
    uint64_t reserved[2];
};

struct kvmipa_arm_counter_offset {
    uint64_t counter_offset;
    uint64_t reserved;
};

struct kvmipa_reg_mask_range {
    uint64_t addr;
    uint32_t range;
    uint32_t reserved[13];
};

struct kvmipa_smccc_filter {
    uint32_t base;
    uint32_t nr_functions;
    uint8_t action;
    uint8_t pad[15];
};

struct kvmipa_mp_state {
    uint32_t mp_state;
};

struct kvmipa_vcpu_events {
    uint8_t serror_pending;
    uint8_t serror_has_esr;
    uint8_t ext_dabt_pending;
    uint8_t pad[5];
    uint64_t serror_esr;
    uint32_t reserved[12];
};

/* The registers are arm64's struct kvm_guest_debug_arch. */
struct kvmipa_guest_debug {
    uint32_t control;
    uint32_t pad;
    uint64_t dbg_bcr[16];
    uint64_t dbg_bvr[16];
    uint64_t dbg_wcr[16];
    uint64_t dbg_wvr[16];
};

/* The signals follow it. */
struct kvmipa_signal_mask {
    uint32_t len;
};

/* The ids follow it. */
struct kvmipa_reg_list {
    uint64_t n;
};

/* What KVM_RUN shares with user space. exit: the kernel's union, one of the structs exit_ below; s: registers. */
struct kvmipa_run {
    uint8_t request_interrupt_window;
    uint8_t immediate_exit;
    uint8_t padding1[6];
    uint32_t exit_reason;
    uint8_t ready_for_interrupt_injection;
    uint8_t if_flag;
    uint16_t flags;
    uint64_t cr8;
    uint64_t apic_base;
    uint8_t exit[256];
    uint64_t kvm_valid_regs;
    uint64_t kvm_dirty_regs;
    uint64_t device_irq_level;
    uint8_t s[2040];
};

struct kvmipa_exit_unknown {
    uint64_t hardware_exit_reason;
};

struct kvmipa_exit_hypercall {
    uint64_t nr;
    uint64_t args[6];
    uint64_t ret;
    uint64_t flags;
};

struct kvmipa_exit_debug {
    uint32_t hsr;
    uint32_t hsr_high;
    uint64_t far;
};

struct kvmipa_exit_mmio {
    uint64_t phys_addr;
    uint8_t data[8];
    uint32_t len;
    uint8_t is_write;
    uint8_t pad[3];
};

struct kvmipa_exit_fail_entry {
    uint64_t hardware_entry_failure_reason;
    uint32_t cpu;
    uint32_t pad;
};

struct kvmipa_exit_internal {
    uint32_t suberror;
    uint32_t ndata;
    uint64_t data[16];
};

struct kvmipa_exit_system_event {
    uint32_t type;
    uint32_t ndata;
    uint64_t data[16];
};

struct kvmipa_exit_arm_nisv {
    uint64_t esr_iss;
    uint64_t fault_ipa;
};

struct kvmipa_exit_memory_fault {
    uint64_t flags;
    uint64_t gpa;
    uint64_t size;
};

struct kvmipa_exit_arm_sea {
    uint64_t flags;
    uint64_t esr;
    uint64_t gva;
    uint64_t gpa;
};

/* On the second page that a vCPU's descriptor maps; the entries follow it. */
struct kvmipa_coalesced_mmio_ring {
    uint32_t first;
    uint32_t last;
};

struct kvmipa_coalesced_mmio {
    uint64_t phys_addr;
    uint32_t len;
    uint32_t pio;
    uint8_t data[8];
};

struct kvmipa_dirty_gfn {
    uint32_t flags;
    uint32_t slot;
    uint64_t offset;
};

struct kvmipa_stats_header {
    uint32_t flags;
    uint32_t name_size;
    uint32_t num_desc;
    uint32_t id_offset;
    uint32_t desc_offset;
    uint32_t data_offset;
};

/* Its name follows it. */
struct kvmipa_stats_desc {
    uint32_t flags;
    int16_t exponent;
    uint16_t size;
    uint32_t offset;
    uint32_t bucket_size;
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
    X(KVM_GET_DIRTY_LOG, IOW, 0x42, struct kvmipa_dirty_log) \
    X(KVM_SET_USER_MEMORY_REGION, IOW, 0x46, struct kvmipa_userspace_memory_region) \
    X(KVM_SET_USER_MEMORY_REGION2, IOW, 0x49, struct kvmipa_userspace_memory_region2) \
    X(KVM_CREATE_IRQCHIP, IO, 0x60, void) \
    X(KVM_IRQ_LINE, IOW, 0x61, struct kvmipa_irq_level) \
    X(KVM_IRQ_LINE_STATUS, IOWR, 0x67, struct kvmipa_irq_level) \
    X(KVM_REGISTER_COALESCED_MMIO, IOW, 0x67, struct kvmipa_coalesced_mmio_zone) \
    X(KVM_UNREGISTER_COALESCED_MMIO, IOW, 0x68, struct kvmipa_coalesced_mmio_zone) \
    X(KVM_SET_GSI_ROUTING, IOW, 0x6a, struct kvmipa_irq_routing) \
    X(KVM_IRQFD, IOW, 0x76, struct kvmipa_irqfd) \
    X(KVM_IOEVENTFD, IOW, 0x79, struct kvmipa_ioeventfd) \
    X(KVM_RUN, IO, 0x80, void) \
    X(KVM_SET_SIGNAL_MASK, IOW, 0x8b, struct kvmipa_signal_mask) \
    X(KVM_GET_MP_STATE, IOR, 0x98, struct kvmipa_mp_state) \
    X(KVM_SET_MP_STATE, IOW, 0x99, struct kvmipa_mp_state) \
    X(KVM_SET_GUEST_DEBUG, IOW, 0x9b, struct kvmipa_guest_debug) \
    X(KVM_GET_VCPU_EVENTS, IOR, 0x9f, struct kvmipa_vcpu_events) \
    X(KVM_SET_VCPU_EVENTS, IOW, 0xa0, struct kvmipa_vcpu_events) \
    X(KVM_ENABLE_CAP, IOW, 0xa3, struct kvmipa_enable_cap) \
    X(KVM_SIGNAL_MSI, IOW, 0xa5, struct kvmipa_msi) \
    X(KVM_GET_ONE_REG, IOW, 0xab, struct kvmipa_one_reg) \
    X(KVM_ARM_SET_DEVICE_ADDR, IOW, 0xab, struct kvmipa_arm_device_addr) \
    X(KVM_SET_ONE_REG, IOW, 0xac, struct kvmipa_one_reg) \
    X(KVM_ARM_VCPU_INIT, IOW, 0xae, struct kvmipa_vcpu_init) \
    X(KVM_ARM_PREFERRED_TARGET, IOR, 0xaf, struct kvmipa_vcpu_init) \
    X(KVM_GET_REG_LIST, IOWR, 0xb0, struct kvmipa_reg_list) \
    X(KVM_ARM_MTE_COPY_TAGS, IOR, 0xb4, struct kvmipa_arm_copy_mte_tags) \
    X(KVM_ARM_SET_COUNTER_OFFSET, IOW, 0xb5, struct kvmipa_arm_counter_offset) \
    X(KVM_ARM_GET_REG_WRITABLE_MASKS, IOR, 0xb6, struct kvmipa_reg_mask_range) \
    X(KVM_CLEAR_DIRTY_LOG, IOWR, 0xc0, struct kvmipa_clear_dirty_log) \
    X(KVM_ARM_VCPU_FINALIZE, IOW, 0xc2, int) \
    X(KVM_RESET_DIRTY_RINGS, IO, 0xc7, void) \
    X(KVM_GET_STATS_FD, IO, 0xce, void) \
    X(KVM_CREATE_GUEST_MEMFD, IOWR, 0xd4, struct kvmipa_create_guest_memfd) \
    X(KVM_CREATE_DEVICE, IOWR, 0xe0, struct kvmipa_create_device) \
    X(KVM_SET_DEVICE_ATTR, IOW, 0xe1, struct kvmipa_device_attr) \
    X(KVM_GET_DEVICE_ATTR, IOW, 0xe2, struct kvmipa_device_attr) \
    X(KVM_HAS_DEVICE_ATTR, IOW, 0xe3, struct kvmipa_device_attr)

/* --- constants: X(name, value); KVM_VGIC_V3_RDIST_* and VGIC_ADDR_UNDEF are of headers that the kernel keeps --- */
#define KVMIPA_CONSTANTS(X) \
    X(KVM_API_VERSION, 12) \
    X(KVM_VM_TYPE_ARM_IPA_SIZE_MASK, 0xff) \
    X(KVM_VM_TYPE_ARM_PROTECTED, 0x80000000) \
    X(KVM_MEM_LOG_DIRTY_PAGES, 1) \
    X(KVM_MEM_READONLY, 2) \
    X(KVM_MEM_GUEST_MEMFD, 4) \
    X(KVM_DIRTY_LOG_MANUAL_PROTECT_ENABLE, 1) \
    X(KVM_DIRTY_LOG_INITIALLY_SET, 2) \
    X(GUEST_MEMFD_FLAG_MMAP, 1) \
    X(GUEST_MEMFD_FLAG_INIT_SHARED, 2) \
    X(KVM_CREATE_DEVICE_TEST, 1) \
    X(KVM_DEV_ARM_VGIC_GRP_ADDR, 0) \
    X(KVM_DEV_ARM_VGIC_GRP_DIST_REGS, 1) \
    X(KVM_DEV_ARM_VGIC_GRP_CPU_REGS, 2) \
    X(KVM_DEV_ARM_VGIC_GRP_NR_IRQS, 3) \
    X(KVM_DEV_ARM_VGIC_GRP_CTRL, 4) \
    X(KVM_DEV_ARM_VGIC_GRP_REDIST_REGS, 5) \
    X(KVM_DEV_ARM_VGIC_GRP_CPU_SYSREGS, 6) \
    X(KVM_DEV_ARM_VGIC_GRP_LEVEL_INFO, 7) \
    X(KVM_DEV_ARM_VGIC_GRP_ITS_REGS, 8) \
    X(KVM_DEV_ARM_VGIC_GRP_MAINT_IRQ, 9) \
    X(KVM_DEV_ARM_VGIC_CTRL_INIT, 0) \
    X(KVM_DEV_ARM_ITS_SAVE_TABLES, 1) \
    X(KVM_DEV_ARM_ITS_RESTORE_TABLES, 2) \
    X(KVM_DEV_ARM_VGIC_SAVE_PENDING_TABLES, 3) \
    X(KVM_DEV_ARM_ITS_CTRL_RESET, 4) \
    X(KVM_VGIC_V2_ADDR_TYPE_DIST, 0) \
    X(KVM_VGIC_V2_ADDR_TYPE_CPU, 1) \
    X(KVM_VGIC_V3_ADDR_TYPE_DIST, 2) \
    X(KVM_VGIC_V3_ADDR_TYPE_REDIST, 3) \
    X(KVM_VGIC_ITS_ADDR_TYPE, 4) \
    X(KVM_VGIC_V3_ADDR_TYPE_REDIST_REGION, 5) \
    X(KVM_VGIC_V3_RDIST_INDEX_MASK, 0xfff) \
    X(KVM_VGIC_V3_RDIST_FLAGS_MASK, 0xf000) \
    X(KVM_VGIC_V3_RDIST_BASE_MASK, 0x000fffffffff0000) \
    X(KVM_VGIC_V3_RDIST_COUNT_MASK, 0xfff0000000000000) \
    X(KVM_VGIC_V3_RDIST_COUNT_SHIFT, 52) \
    X(VGIC_ADDR_UNDEF, 0xffffffffffffffff) \
    X(KVM_DEV_VFIO_FILE, 1) \
    X(KVM_DEV_VFIO_FILE_ADD, 1) \
    X(KVM_DEV_VFIO_FILE_DEL, 2) \
    X(KVM_ARM_VCPU_PMU_V3_CTRL, 0) \
    X(KVM_ARM_VCPU_PMU_V3_IRQ, 0) \
    X(KVM_ARM_VCPU_PMU_V3_INIT, 1) \
    X(KVM_ARM_VCPU_PMU_V3_FILTER, 2) \
    X(KVM_ARM_VCPU_PMU_V3_SET_PMU, 3) \
    X(KVM_ARM_VCPU_PMU_V3_SET_NR_COUNTERS, 4) \
    X(KVM_ARM_VCPU_TIMER_CTRL, 1) \
    X(KVM_ARM_VCPU_PVTIME_CTRL, 2) \
    X(KVM_ARM_VCPU_PVTIME_IPA, 0) \
    X(KVM_ARM_VM_SMCCC_CTRL, 0) \
    X(KVM_ARM_VM_SMCCC_FILTER, 0) \
    X(KVM_ARM_VCPU_POWER_OFF, 0) \
    X(KVM_ARM_VCPU_EL1_32BIT, 1) \
    X(KVM_ARM_VCPU_PSCI_0_2, 2) \
    X(KVM_ARM_VCPU_PMU_V3, 3) \
    X(KVM_ARM_VCPU_SVE, 4) \
    X(KVM_ARM_VCPU_PTRAUTH_ADDRESS, 5) \
    X(KVM_ARM_VCPU_PTRAUTH_GENERIC, 6) \
    X(KVM_ARM_VCPU_HAS_EL2, 7) \
    X(KVM_ARM_VCPU_HAS_EL2_E2H0, 8) \
    X(KVM_ARM_VCPU_PMU_V3_STRICT, 9) \
    X(KVM_EXIT_UNKNOWN, 0) \
    X(KVM_EXIT_HYPERCALL, 3) \
    X(KVM_EXIT_DEBUG, 4) \
    X(KVM_EXIT_MMIO, 6) \
    X(KVM_EXIT_FAIL_ENTRY, 9) \
    X(KVM_EXIT_INTR, 10) \
    X(KVM_EXIT_INTERNAL_ERROR, 17) \
    X(KVM_EXIT_SYSTEM_EVENT, 24) \
    X(KVM_EXIT_ARM_NISV, 28) \
    X(KVM_EXIT_DIRTY_RING_FULL, 31) \
    X(KVM_EXIT_MEMORY_FAULT, 39) \
    X(KVM_EXIT_ARM_SEA, 41) \
    X(KVM_EXIT_ARM_LDST64B, 42) \
    X(KVM_HYPERCALL_EXIT_SMC, 1) \
    X(KVM_HYPERCALL_EXIT_16BIT, 2) \
    X(KVM_DEBUG_ARCH_HSR_HIGH_VALID, 1) \
    X(KVM_MEMORY_EXIT_FLAG_PRIVATE, 8) \
    X(KVM_EXIT_ARM_SEA_FLAG_GPA_VALID, 1) \
    X(KVM_SYSTEM_EVENT_SHUTDOWN, 1) \
    X(KVM_SYSTEM_EVENT_RESET, 2) \
    X(KVM_SYSTEM_EVENT_CRASH, 3) \
    X(KVM_SYSTEM_EVENT_WAKEUP, 4) \
    X(KVM_SYSTEM_EVENT_SUSPEND, 5) \
    X(KVM_MP_STATE_RUNNABLE, 0) \
    X(KVM_MP_STATE_STOPPED, 5) \
    X(KVM_MP_STATE_SUSPENDED, 10) \
    X(KVM_GUESTDBG_ENABLE, 1) \
    X(KVM_GUESTDBG_SINGLESTEP, 2) \
    X(KVM_GUESTDBG_USE_SW_BP, 0x10000) \
    X(KVM_GUESTDBG_USE_HW, 0x20000) \
    X(KVM_ARM_IRQ_TYPE_CPU, 0) \
    X(KVM_ARM_IRQ_TYPE_SPI, 1) \
    X(KVM_ARM_IRQ_TYPE_PPI, 2) \
    X(KVM_IRQFD_FLAG_DEASSIGN, 1) \
    X(KVM_IRQFD_FLAG_RESAMPLE, 2) \
    X(KVM_IOEVENTFD_FLAG_DATAMATCH, 1) \
    X(KVM_IOEVENTFD_FLAG_PIO, 2) \
    X(KVM_IOEVENTFD_FLAG_DEASSIGN, 4) \
    X(KVM_IRQ_ROUTING_IRQCHIP, 1) \
    X(KVM_IRQ_ROUTING_MSI, 2) \
    X(KVM_MSI_VALID_DEVID, 1) \
    X(KVM_DIRTY_GFN_F_DIRTY, 1) \
    X(KVM_DIRTY_GFN_F_RESET, 2) \
    X(KVM_ARM_TAGS_TO_GUEST, 0) \
    X(KVM_ARM_TAGS_FROM_GUEST, 1) \
    X(KVM_STATS_TYPE_MASK, 0xf) \
    X(KVM_STATS_TYPE_CUMULATIVE, 0) \
    X(KVM_STATS_TYPE_INSTANT, 1) \
    X(KVM_STATS_TYPE_PEAK, 2) \
    X(KVM_STATS_TYPE_LINEAR_HIST, 3) \
    X(KVM_STATS_TYPE_LOG_HIST, 4) \
    X(KVM_STATS_UNIT_MASK, 0xf0) \
    X(KVM_STATS_UNIT_NONE, 0) \
    X(KVM_STATS_UNIT_BYTES, 0x10) \
    X(KVM_STATS_UNIT_SECONDS, 0x20) \
    X(KVM_STATS_UNIT_CYCLES, 0x30) \
    X(KVM_STATS_UNIT_BOOLEAN, 0x40) \
    X(KVM_STATS_BASE_MASK, 0xf00) \
    X(KVM_STATS_BASE_POW10, 0) \
    X(KVM_STATS_BASE_POW2, 0x100) \
    X(KVM_REG_ARM64, 0x6000000000000000) \
    X(KVM_REG_SIZE_MASK, 0x00f0000000000000) \
    X(KVM_REG_SIZE_U32, 0x0020000000000000) \
    X(KVM_REG_SIZE_U64, 0x0030000000000000) \
    X(KVM_REG_SIZE_U128, 0x0040000000000000) \
    X(KVM_REG_SIZE_U256, 0x0050000000000000) \
    X(KVM_REG_SIZE_U512, 0x0060000000000000) \
    X(KVM_REG_SIZE_U2048, 0x0080000000000000) \
    X(KVM_REG_ARM_COPROC_MASK, 0x000000000fff0000) \
    X(KVM_REG_ARM_CORE, 0x100000) \
    X(KVM_REG_ARM_DEMUX, 0x110000) \
    X(KVM_REG_ARM64_SYSREG, 0x130000) \
    X(KVM_REG_ARM_FW, 0x140000) \
    X(KVM_REG_ARM64_SVE, 0x150000) \
    X(KVM_REG_ARM_FW_FEAT_BMAP, 0x160000)

/* --- constants that the kernel's headers have as enumerators: ours have another name in C, or they would clash --- */
#define KVMIPA_DEVICE_TYPES(X) \
    X(KVM_DEV_TYPE_VFIO, 4) \
    X(KVM_DEV_TYPE_ARM_VGIC_V2, 5) \
    X(KVM_DEV_TYPE_ARM_VGIC_V3, 7) \
    X(KVM_DEV_TYPE_ARM_VGIC_ITS, 8)

/* --- the same, in arm64's headers, since 6.4 --- */
#define KVMIPA_SMCCC_ACTIONS(X) \
    X(KVM_SMCCC_FILTER_HANDLE, 0) \
    X(KVM_SMCCC_FILTER_DENY, 1) \
    X(KVM_SMCCC_FILTER_FWD_TO_USER, 2)

/* --- arm64's value of what each architecture has a value for: with names of our own in C, too --- */
#define KVMIPA_ARM64_CONSTANTS(X) \
    X(KVM_COALESCED_MMIO_PAGE_OFFSET, 1) \
    X(KVM_DIRTY_LOG_PAGE_OFFSET, 64)

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

/*
 * --- layouts: SIZE(struct), OFFSET(struct, field) ---
 * In three parts, as kernel headers have them: every architecture; arm64; the ones that headers before 6.8 lack.
 */
#define KVMIPA_LAYOUTS(SIZE, OFFSET) \
    SIZE(one_reg) OFFSET(one_reg, id) OFFSET(one_reg, addr) \
    SIZE(userspace_memory_region) OFFSET(userspace_memory_region, slot) OFFSET(userspace_memory_region, flags) \
    OFFSET(userspace_memory_region, guest_phys_addr) OFFSET(userspace_memory_region, memory_size) \
    OFFSET(userspace_memory_region, userspace_addr) \
    SIZE(dirty_log) OFFSET(dirty_log, slot) OFFSET(dirty_log, padding1) OFFSET(dirty_log, dirty_bitmap) \
    SIZE(clear_dirty_log) OFFSET(clear_dirty_log, slot) OFFSET(clear_dirty_log, num_pages) \
    OFFSET(clear_dirty_log, first_page) OFFSET(clear_dirty_log, dirty_bitmap) \
    SIZE(enable_cap) OFFSET(enable_cap, cap) OFFSET(enable_cap, flags) OFFSET(enable_cap, args) \
    OFFSET(enable_cap, pad) \
    SIZE(create_device) OFFSET(create_device, type) OFFSET(create_device, fd) OFFSET(create_device, flags) \
    SIZE(device_attr) OFFSET(device_attr, flags) OFFSET(device_attr, group) OFFSET(device_attr, attr) \
    OFFSET(device_attr, addr) \
    SIZE(irq_level) OFFSET(irq_level, irq) OFFSET(irq_level, level) \
    SIZE(irqfd) OFFSET(irqfd, fd) OFFSET(irqfd, gsi) OFFSET(irqfd, flags) OFFSET(irqfd, resamplefd) OFFSET(irqfd, pad) \
    SIZE(ioeventfd) OFFSET(ioeventfd, datamatch) OFFSET(ioeventfd, addr) OFFSET(ioeventfd, len) OFFSET(ioeventfd, fd) \
    OFFSET(ioeventfd, flags) OFFSET(ioeventfd, pad) \
    SIZE(irq_routing) OFFSET(irq_routing, nr) OFFSET(irq_routing, flags) \
    SIZE(irq_routing_entry) OFFSET(irq_routing_entry, gsi) OFFSET(irq_routing_entry, type) \
    OFFSET(irq_routing_entry, flags) OFFSET(irq_routing_entry, pad) OFFSET(irq_routing_entry, u) \
    SIZE(msi) OFFSET(msi, address_lo) OFFSET(msi, address_hi) OFFSET(msi, data) OFFSET(msi, flags) OFFSET(msi, devid) \
    OFFSET(msi, pad) \
    SIZE(coalesced_mmio_zone) OFFSET(coalesced_mmio_zone, addr) OFFSET(coalesced_mmio_zone, size) \
    OFFSET(coalesced_mmio_zone, pio) \
    SIZE(mp_state) OFFSET(mp_state, mp_state) SIZE(signal_mask) OFFSET(signal_mask, len) \
    SIZE(reg_list) OFFSET(reg_list, n) \
    OFFSET(run, immediate_exit) OFFSET(run, exit_reason) OFFSET(run, ready_for_interrupt_injection) \
    OFFSET(run, if_flag) OFFSET(run, flags) OFFSET(run, kvm_valid_regs) OFFSET(run, kvm_dirty_regs) \
    SIZE(coalesced_mmio_ring) OFFSET(coalesced_mmio_ring, first) OFFSET(coalesced_mmio_ring, last) \
    SIZE(coalesced_mmio) OFFSET(coalesced_mmio, phys_addr) OFFSET(coalesced_mmio, len) OFFSET(coalesced_mmio, pio) \
    OFFSET(coalesced_mmio, data)

#define KVMIPA_ARM64_LAYOUTS(SIZE, OFFSET) \
    SIZE(vcpu_init) OFFSET(vcpu_init, target) OFFSET(vcpu_init, features) \
    SIZE(arm_device_addr) OFFSET(arm_device_addr, id) OFFSET(arm_device_addr, addr) \
    SIZE(arm_copy_mte_tags) OFFSET(arm_copy_mte_tags, guest_ipa) OFFSET(arm_copy_mte_tags, length) \
    OFFSET(arm_copy_mte_tags, addr) OFFSET(arm_copy_mte_tags, flags) OFFSET(arm_copy_mte_tags, reserved) \
    SIZE(run) SIZE(guest_debug) OFFSET(guest_debug, control) OFFSET(guest_debug, pad) SIZE(vcpu_events)

#define KVMIPA_LATER_LAYOUTS(SIZE, OFFSET) \
    SIZE(userspace_memory_region2) OFFSET(userspace_memory_region2, slot) OFFSET(userspace_memory_region2, flags) \
    OFFSET(userspace_memory_region2, guest_phys_addr) OFFSET(userspace_memory_region2, memory_size) \
    OFFSET(userspace_memory_region2, userspace_addr) OFFSET(userspace_memory_region2, guest_memfd_offset) \
    OFFSET(userspace_memory_region2, guest_memfd) OFFSET(userspace_memory_region2, pad1) \
    OFFSET(userspace_memory_region2, pad2) \
    SIZE(dirty_gfn) OFFSET(dirty_gfn, flags) OFFSET(dirty_gfn, slot) OFFSET(dirty_gfn, offset) \
    SIZE(stats_header) OFFSET(stats_header, flags) OFFSET(stats_header, name_size) OFFSET(stats_header, num_desc) \
    OFFSET(stats_header, id_offset) OFFSET(stats_header, desc_offset) OFFSET(stats_header, data_offset) \
    SIZE(stats_desc) OFFSET(stats_desc, flags) OFFSET(stats_desc, exponent) OFFSET(stats_desc, size) \
    OFFSET(stats_desc, offset) OFFSET(stats_desc, bucket_size) \
    SIZE(create_guest_memfd) OFFSET(create_guest_memfd, size) OFFSET(create_guest_memfd, flags) \
    OFFSET(create_guest_memfd, reserved)

#define KVMIPA_LATER_ARM64_LAYOUTS(SIZE, OFFSET) \
    SIZE(arm_counter_offset) OFFSET(arm_counter_offset, counter_offset) OFFSET(arm_counter_offset, reserved) \
    SIZE(reg_mask_range) OFFSET(reg_mask_range, addr) OFFSET(reg_mask_range, range) OFFSET(reg_mask_range, reserved) \
    SIZE(smccc_filter) OFFSET(smccc_filter, base) OFFSET(smccc_filter, nr_functions) OFFSET(smccc_filter, action) \
    OFFSET(smccc_filter, pad)

/* Those that the kernel's headers have under no name, or in an unnamed union. */
#define KVMIPA_OWN_LAYOUTS(SIZE, OFFSET) \
    SIZE(exit_unknown) OFFSET(exit_unknown, hardware_exit_reason) SIZE(exit_hypercall) \
    OFFSET(exit_hypercall, nr) OFFSET(exit_hypercall, args) OFFSET(exit_hypercall, ret) \
    OFFSET(exit_hypercall, flags) SIZE(exit_debug) OFFSET(exit_debug, hsr) OFFSET(exit_debug, hsr_high) \
    OFFSET(exit_debug, far) SIZE(exit_mmio) OFFSET(exit_mmio, phys_addr) OFFSET(exit_mmio, data) \
    OFFSET(exit_mmio, len) OFFSET(exit_mmio, is_write) OFFSET(exit_mmio, pad) SIZE(exit_fail_entry) \
    OFFSET(exit_fail_entry, hardware_entry_failure_reason) OFFSET(exit_fail_entry, cpu) OFFSET(exit_fail_entry, pad) SIZE(exit_internal) \
    OFFSET(exit_internal, suberror) OFFSET(exit_internal, ndata) OFFSET(exit_internal, data) \
    SIZE(exit_system_event) OFFSET(exit_system_event, type) OFFSET(exit_system_event, ndata) \
    OFFSET(exit_system_event, data) SIZE(exit_arm_nisv) OFFSET(exit_arm_nisv, esr_iss) \
    OFFSET(exit_arm_nisv, fault_ipa) SIZE(exit_memory_fault) OFFSET(exit_memory_fault, flags) \
    OFFSET(exit_memory_fault, gpa) OFFSET(exit_memory_fault, size) SIZE(exit_arm_sea) \
    OFFSET(exit_arm_sea, flags) OFFSET(exit_arm_sea, esr) OFFSET(exit_arm_sea, gva) OFFSET(exit_arm_sea, gpa) \
    SIZE(user_trace_setup) OFFSET(user_trace_setup, buf_size) OFFSET(user_trace_setup, buf_nr) \
    OFFSET(run, request_interrupt_window) OFFSET(run, padding1) OFFSET(run, cr8) OFFSET(run, apic_base) \
    OFFSET(run, exit) OFFSET(run, device_irq_level) OFFSET(run, s) OFFSET(vcpu_events, serror_pending) \
    OFFSET(vcpu_events, serror_has_esr) OFFSET(vcpu_events, ext_dabt_pending) OFFSET(vcpu_events, pad) \
    OFFSET(vcpu_events, serror_esr) OFFSET(vcpu_events, reserved) OFFSET(guest_debug, dbg_bcr) \
    OFFSET(guest_debug, dbg_bvr) OFFSET(guest_debug, dbg_wcr) OFFSET(guest_debug, dbg_wvr)

/*
 * What KVM_RUN's union holds: EXIT(exit, field), the kernel's struct kvm_run.exit.field. Headers before 5.18 have
 * system_event without ndata, and those before 6.8 no memory_fault.
 */
#define KVMIPA_EXITS(EXIT) \
    EXIT(hypercall, nr) EXIT(hypercall, args) EXIT(hypercall, ret) \
    EXIT(mmio, phys_addr) EXIT(mmio, data) EXIT(mmio, len) EXIT(mmio, is_write) \
    EXIT(fail_entry, hardware_entry_failure_reason) EXIT(internal, suberror) EXIT(internal, ndata) \
    EXIT(internal, data) EXIT(system_event, type) EXIT(arm_nisv, esr_iss) EXIT(arm_nisv, fault_ipa)
#define KVMIPA_LATER_EXITS(EXIT) \
    EXIT(hypercall, flags) EXIT(system_event, ndata) EXIT(system_event, data) \
    EXIT(memory_fault, flags) EXIT(memory_fault, gpa) EXIT(memory_fault, size)
#define KVMIPA_REQUEST_ENUMERATOR(name, direction, number, argument) name = KVMIPA_##direction(number, argument),
#define KVMIPA_ENUMERATOR(name, value) name = value,
#define KVMIPA_RENAMED_ENUMERATOR(name, value) KVMIPA_##name = value,
enum kvmipa_abi {
    KVMIPA_REQUESTS(KVMIPA_REQUEST_ENUMERATOR)
    KVMIPA_CONSTANTS(KVMIPA_ENUMERATOR)
    KVMIPA_DEVICE_TYPES(KVMIPA_RENAMED_ENUMERATOR)
    KVMIPA_SMCCC_ACTIONS(KVMIPA_RENAMED_ENUMERATOR)
    KVMIPA_ARM64_CONSTANTS(KVMIPA_RENAMED_ENUMERATOR)
    KVMIPA_CAPABILITIES(KVMIPA_ENUMERATOR)
};

#endif
