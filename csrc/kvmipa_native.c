/* SPDX-License-Identifier: Apache-2.0 */
/* clock_gettime(), sigaction(), MAP_SHARED and syscall() in strict C11. */
#define _GNU_SOURCE

#include "kvmipa_native.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
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

long kvmipa_mmap(int fd, size_t size, unsigned long offset)
{
    void *address = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, (off_t)offset);

    return address == MAP_FAILED ? -(long)errno : (long)(intptr_t)address;
}

void kvmipa_munmap(void *address, size_t size)
{
    munmap(address, size);
}

/* To ask for it is a system call. */
static _Thread_local uint32_t thread_number;

static void forget_thread(void)
{
    thread_number = 0;
}

/* The thread that forks has another number in the child. */
__attribute__((constructor)) static void see_forks(void)
{
    pthread_atfork(NULL, NULL, forget_thread);
}

static uint32_t this_thread(void)
{
    if (!thread_number)
        thread_number = (uint32_t)syscall(SYS_gettid);
    return thread_number;
}

static void let_through(int signal)
{
    sigset_t signals;

    sigemptyset(&signals);
    sigaddset(&signals, signal);
    pthread_sigmask(SIG_UNBLOCK, &signals, NULL);
}

/* The bytes of an access's data that the guest did not store are an earlier exit's. */
static void clear_what_was_not_stored(struct kvmipa_exit_mmio *mmio)
{
    size_t stored = mmio->is_write ? mmio->len : 0;

    if (stored < sizeof(mmio->data)) {
        uint64_t data;

        /* As numbers, on machines that are little-endian, as all are that the backend is for: no calls. */
        memcpy(&data, mmio->data, sizeof(data));
        data &= (UINT64_C(1) << 8 * stored) - 1;
        memcpy(mmio->data, &data, sizeof(data));
    }
}

long kvmipa_run(struct kvmipa_turn *turn)
{
    struct kvmipa_run *run = (void *)(uintptr_t)turn->area;
    struct kvmipa_exit_mmio *mmio = (void *)run->exit;
    uint32_t me = this_thread(), last = __atomic_load_n(&turn->holder, __ATOMIC_RELAXED);
    int fd;

    if (last & KVMIPA_TAKEN || !__atomic_compare_exchange_n(&turn->holder, &last, me | KVMIPA_TAKEN, 0,
                                                            __ATOMIC_ACQUIRE, __ATOMIC_RELAXED))
        return -EALREADY;
    if (last != me)
        let_through(turn->signal);
    /* The other halves of this are in kvmipa_kick(), and where Python ends the turns. */
    __atomic_thread_fence(__ATOMIC_SEQ_CST);
    fd = __atomic_load_n(&turn->fd, __ATOMIC_RELAXED);
    /* Before the area is looked at, which may be there no more. */
    if (fd < 0)
        return fd;
    if (turn->open)
        return -EINPROGRESS;
    /* What KVM_RUN does not look at says whether there is a new exit (kvm_handle_mmio_return). */
    mmio->len = 0;
    if (run->exit_reason != KVM_EXIT_MMIO)
        run->exit_reason = KVM_EXIT_UNKNOWN;
    if (ioctl(fd, KVM_RUN, 0ul) < 0)
        return -(long)errno;
    if (run->exit_reason == KVM_EXIT_MMIO)
        clear_what_was_not_stored(mmio);
    return (long)run->exit_reason;
}

static void come_back(int signal)
{
    (void)signal;
}

long kvmipa_catch(int signal)
{
    struct sigaction action = {.sa_handler = come_back, .sa_flags = SA_RESTART}, now;

    if (sigaction(signal, NULL, &now) < 0)
        return -(long)errno;
    if (now.sa_flags & SA_SIGINFO)
        return 0;
    if (now.sa_handler == SIG_IGN)
        return -EBUSY;
    if (now.sa_handler == SIG_DFL && sigaction(signal, &action, NULL) < 0)
        return -(long)errno;
    return 0;
}

long kvmipa_kick(const struct kvmipa_turn *turn)
{
    uint32_t holder;
    long result;

    __atomic_thread_fence(__ATOMIC_SEQ_CST);
    holder = __atomic_load_n(&turn->holder, __ATOMIC_RELAXED);
    if (!(holder & KVMIPA_TAKEN))
        return 0;
    result = syscall(SYS_tgkill, (long)getpid(), (long)(holder & ~KVMIPA_TAKEN), (long)turn->signal);
    return result < 0 && errno != ESRCH ? -(long)errno : 0;
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
    KVMIPA_SMCCC_ACTIONS(RENAMED)
    KVMIPA_ARM64_CONSTANTS(RENAMED)
    KVMIPA_CAPABILITIES(NUMBER)
    KVMIPA_LAYOUTS(SIZE, OFFSET)
    KVMIPA_ARM64_LAYOUTS(SIZE, OFFSET)
    KVMIPA_LATER_LAYOUTS(SIZE, OFFSET)
    KVMIPA_LATER_ARM64_LAYOUTS(SIZE, OFFSET)
    KVMIPA_OWN_LAYOUTS(SIZE, OFFSET)
    {NULL, 0},
};
