/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Compares kvm_abi.h with the kernel's own headers at compile time, where the compiler has them.
 *
 * Headers older than a name must still compile. kvm_abi.h declares each name as an enumerator; a header that knows the
 * name defines a macro over it. So below, the name is the header's value where it has one, and ours where it has not.
 */
#include "kvm_abi.h"

#include <stddef.h>

#include "kvmipa_native.h"

#if defined(__has_include) && !defined(KVMIPA_NO_KERNEL_HEADERS)
#if __has_include(<linux/kvm.h>)
#define HAVE_KERNEL_HEADERS 1
#endif
#endif

#ifdef HAVE_KERNEL_HEADERS

#include <linux/kvm.h>

#define NUMBER(name, value) _Static_assert((unsigned long)(name) == (value), #name);
KVMIPA_CONSTANTS(NUMBER)
KVMIPA_DEVICE_TYPES(NUMBER)
KVMIPA_CAPABILITIES(NUMBER)
/* The enumerators came with the attribute, which is a macro. */
#ifdef KVM_ARM_VM_SMCCC_FILTER
KVMIPA_SMCCC_ACTIONS(NUMBER)
#endif

/* A request's macro names its struct, and the headers of another architecture do not declare arm64's. */
#define VALUE_IO(name, text, number, argument) _Static_assert((unsigned long)(name) == KVMIPA_IO(number, argument), text);
#ifdef __aarch64__
#define VALUE_IOW(name, text, number, argument) _Static_assert((unsigned long)(name) == KVMIPA_IOW(number, argument), text);
#define VALUE_IOR(name, text, number, argument) _Static_assert((unsigned long)(name) == KVMIPA_IOR(number, argument), text);
#define VALUE_IOWR(name, text, number, argument) _Static_assert((unsigned long)(name) == KVMIPA_IOWR(number, argument), text);
#else
#define VALUE_IOW(name, text, number, argument)
#define VALUE_IOR(name, text, number, argument)
#define VALUE_IOWR(name, text, number, argument)
#endif
#define REQUEST(name, direction, number, argument) VALUE_##direction(name, #name, number, argument)
KVMIPA_REQUESTS(REQUEST)

#define SIZE(type) _Static_assert(sizeof(struct kvmipa_##type) == sizeof(struct kvm_##type), #type);
#define OFFSET(type, field) \
    _Static_assert(offsetof(struct kvmipa_##type, field) == offsetof(struct kvm_##type, field), #type "." #field);
KVMIPA_LAYOUTS(SIZE, OFFSET)
#ifdef __aarch64__
KVMIPA_ARM64_LAYOUTS(SIZE, OFFSET)
#endif
/* The structs came with the request of 6.8; the last of arm64's own came before it. */
#ifdef KVM_SET_USER_MEMORY_REGION2
KVMIPA_LATER_LAYOUTS(SIZE, OFFSET)
#ifdef __aarch64__
/* This one has no prefix. */
#define kvm_reg_mask_range reg_mask_range
KVMIPA_LATER_ARM64_LAYOUTS(SIZE, OFFSET)
#endif
#endif

/* The kernel's union has no name; each of its structs begins where it does. */
#define EXIT(exit_, field) \
    _Static_assert(offsetof(struct kvmipa_run, exit) + offsetof(struct kvmipa_exit_##exit_, field) == \
                       offsetof(struct kvm_run, exit_.field), "run." #exit_ "." #field);
KVMIPA_EXITS(EXIT)
#ifdef KVM_SET_USER_MEMORY_REGION2
KVMIPA_LATER_EXITS(EXIT)
#endif
#ifdef __aarch64__
_Static_assert(offsetof(struct kvmipa_run, exit) == offsetof(struct kvm_run, debug.arch.hsr), "run.debug.arch.hsr");
_Static_assert(offsetof(struct kvmipa_run, exit) + offsetof(struct kvmipa_exit_debug, far) ==
                   offsetof(struct kvm_run, debug.arch.far), "run.debug.arch.far");
#ifdef KVM_COALESCED_MMIO_PAGE_OFFSET
NUMBER(KVM_COALESCED_MMIO_PAGE_OFFSET, (unsigned long)KVMIPA_KVM_COALESCED_MMIO_PAGE_OFFSET)
#endif
/* Headers from before arm64 had dirty rings say 0. */
#if defined(KVM_DIRTY_LOG_PAGE_OFFSET) && KVM_DIRTY_LOG_PAGE_OFFSET
NUMBER(KVM_DIRTY_LOG_PAGE_OFFSET, (unsigned long)KVMIPA_KVM_DIRTY_LOG_PAGE_OFFSET)
#endif
#endif

const int kvmipa_checked_against_kernel_headers = 1;

#else

const int kvmipa_checked_against_kernel_headers = 0;

#endif
