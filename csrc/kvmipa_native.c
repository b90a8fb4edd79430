/* SPDX-License-Identifier: Apache-2.0 */
/* clock_gettime() in strict C11. */
#define _POSIX_C_SOURCE 200809L

#include "kvmipa_native.h"

#include <errno.h>
#include <stddef.h>
#include <sys/ioctl.h>
#include <time.h>
#include <unistd.h>

#include "kvm_abi.h"

long kvmipa_ioctl(int fd, unsigned long request, unsigned long argument)
{
    int result = ioctl(fd, request, argument);

    return result < 0 ? -(long)errno : result;
}

long kvmipa_ioctl_buffer(int fd, unsigned long request, void *argument)
{
    int result = ioctl(fd, request, argument);

    return result < 0 ? -(long)errno : result;
}

static unsigned long now_ns(void)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return (unsigned long)now.tv_sec * 1000000000ul + (unsigned long)now.tv_nsec;
}

size_t kvmipa_sweep_machine_types(int fd, const unsigned long *types, size_t count, int *results,
                                  unsigned long budget_ns)
{
    unsigned long start = now_ns();
    size_t done;

    for (done = 0; done < count; done++) {
        long vm = kvmipa_ioctl(fd, KVM_CREATE_VM, types[done]);

        if (vm == -EINTR)
            break;
        results[done] = vm < 0 ? (int)-vm : 0;
        if (vm < 0)
            continue;
        close((int)vm);
        /* Only what was made takes time. */
        if (now_ns() - start >= budget_ns)
            return done + 1;
    }
    return done;
}

#define REQUEST(name, direction, number, argument) {#name, name},
#define NUMBER(name, value) {#name, name},
#define RENAMED(name, value) {#name, KVMIPA_##name},
#define SIZE(type) {#type, sizeof(struct kvmipa_##type)},
#define OFFSET(type, field) {#type "." #field, offsetof(struct kvmipa_##type, field)},

const struct kvmipa_fact kvmipa_facts[] = {
    KVMIPA_REQUESTS(REQUEST)
    KVMIPA_CONSTANTS(NUMBER)
    KVMIPA_DEVICE_TYPES(RENAMED)
    KVMIPA_CAPABILITIES(NUMBER)
    KVMIPA_LAYOUTS(SIZE, OFFSET)
    KVMIPA_ARM64_LAYOUTS(SIZE, OFFSET)
    KVMIPA_LATER_LAYOUTS(SIZE, OFFSET)
    KVMIPA_LATER_ARM64_LAYOUTS(SIZE, OFFSET)
    SIZE(user_trace_setup) OFFSET(user_trace_setup, buf_size) OFFSET(user_trace_setup, buf_nr)
    {NULL, 0},
};
