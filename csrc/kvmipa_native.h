/* SPDX-License-Identifier: Apache-2.0 */
/* What the native backend calls: system calls that return -errno where they fail. Nothing keeps state. */
#ifndef KVMIPA_NATIVE_H
#define KVMIPA_NATIVE_H

#include <stddef.h>

/*
 * ioctl(fd, request, argument), the argument by value.
 *
 * It is an unsigned long because KVM looks at all 64 bits of a machine type: an int would sign-extend bit 31
 * (KVM_VM_TYPE_ARM_PROTECTED) into reserved bits. It is always passed, also where it is 0: KVM_GET_API_VERSION refuses
 * whatever else happens to be in the register. No retry: EINTR is the caller's to judge.
 */
long kvmipa_ioctl(int fd, unsigned long request, unsigned long argument);

/* The same with a pointer to the request's struct. */
long kvmipa_ioctl_buffer(int fd, unsigned long request, void *argument);

/*
 * Creates a VM of each machine type and closes it at once: results[i] = 0, or the errno of KVM_CREATE_VM.
 *
 * Returns how many types were done. Fewer than count: budget_ns nanoseconds were over when a VM was closed, or
 * KVM_CREATE_VM answered EINTR. Either way the caller should let its signal handlers and its user have their turn, and
 * go on from there: on Linux 7.3 the close of one large VM takes a good part of a second. How often EINTR is tried again
 * is the caller's to bound.
 */
size_t kvmipa_sweep_machine_types(int fd, const unsigned long *types, size_t count, int *results,
                                  unsigned long budget_ns);

/* The ABI as the compiler sees it, for the test that compares it with Python's table; ends with a null name. */
struct kvmipa_fact {
    const char *name; /* "KVM_CREATE_VM", or "vcpu_init.features" with its offset, "vcpu_init" with its size */
    unsigned long value;
};
extern const struct kvmipa_fact kvmipa_facts[];

/* Whether kvm_abi_check.c had the kernel's headers to compare with. */
extern const int kvmipa_checked_against_kernel_headers;

#endif
