/* SPDX-License-Identifier: Apache-2.0 */
/* What the native backend calls: system calls that return -errno where they fail. Nothing keeps state, but for the number of each thread. */
#ifndef KVMIPA_NATIVE_H
#define KVMIPA_NATIVE_H

#include <stddef.h>
#include <stdint.h>

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

/* mmap(), shared, to read and to write: the address, or -errno. User space has no address that is negative. */
long kvmipa_mmap(int fd, size_t size, unsigned long offset);
void kvmipa_munmap(void *address, size_t size);

/*
 * Who runs a vCPU: memory of the caller's, for one run area. holder: the number of the thread that is at KVM_RUN, until it
 * has read what the exit is, with KVMIPA_TAKEN; or of the one that was there last, without. Linux's numbers have 22 bits
 * (PID_MAX_LIMIT), and so a turn is given back by one byte: those are what Python writes fastest. open: whether an exit is
 * there that has to be dealt with before the vCPU runs on. fd: the vCPU's descriptor, or -errno, which it is for whoever
 * comes late: where it was closed, or is another process's. signal: what the thread is called back by. area: the address
 * of its struct kvm_run. All in one, because each argument costs.
 */
#define KVMIPA_TAKEN UINT32_C(0x1000000)

struct kvmipa_turn {
    uint32_t holder;
    uint8_t open;
    uint8_t pad[3]; /* the first one is Python's */
    int32_t fd;
    int32_t signal;
    uint64_t area;
};

/*
 * KVM_RUN: exit_reason, or -errno. What else there is to know of an exit the caller reads in the area, and then clears
 * KVMIPA_TAKEN. Of an MMIO exit's data, the bytes that were not stored are cleared: as a number, it is what was stored.
 * As long as there is no new exit, exit_reason is KVM_EXIT_UNKNOWN, or KVM_EXIT_MMIO with a len of 0.
 *
 * -EALREADY: another thread is at it. -EINPROGRESS: turn->open. Of that, and of a turn->fd that is an errno, it is the
 * caller's turn nevertheless. No retry: the caller's signal handlers and its other threads are to have their turn at
 * -EINTR. A thread that did not run the vCPU last unblocks the signal: threads inherit what is blocked, and programs with
 * threads block all that they can.
 */
long kvmipa_run(struct kvmipa_turn *turn);

/*
 * Has a signal whose action is the default one (to end the process) interrupt what a thread does, and nothing else.
 *
 * A handler that is there already stays: it interrupts as well. -EBUSY where the signal is ignored, and so would
 * interrupt nothing. SA_RESTART: KVM_RUN gives up for every signal that has a handler and is never restarted
 * (kvm_arch_vcpu_ioctl_run), but a kick may be late, and is not to disturb another system call.
 */
long kvmipa_catch(int signal);

/*
 * Sends the signal to the thread whose turn it is, if there is one. The caller has set immediate_exit before: a thread
 * either sees that or is seen here.
 */
long kvmipa_kick(const struct kvmipa_turn *turn);

/* The ABI as the compiler sees it, for the test that compares it with Python's table; ends with a null name. */
struct kvmipa_fact {
    const char *name; /* "KVM_CREATE_VM", or "vcpu_init.features" with its offset, "vcpu_init" with its size */
    unsigned long value;
};
extern const struct kvmipa_fact kvmipa_facts[];

/* Whether kvm_abi_check.c had the kernel's headers to compare with. */
extern const int kvmipa_checked_against_kernel_headers;

#endif
