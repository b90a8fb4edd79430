/* SPDX-License-Identifier: Apache-2.0 */
/*
 * MMIO exits per second of a plain loop: exits SECONDS.
 *
 * The guest stores to an address without memory and loads from there, for ever; every load is answered.
 */
#include <fcntl.h>
#include <linux/kvm.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <time.h>

#define CODE 0x40000000ul
#define DEVICE 0x10000000ul
#define EXITS_PER_LOOK 100

/* loop: str w0, [x1]; ldr w2, [x1]; b loop */
static const uint32_t code[] = {0xb9000020, 0xb9400022, 0x17fffffe};

static double now(void)
{
    struct timespec time;

    clock_gettime(CLOCK_MONOTONIC, &time);
    return time.tv_sec + time.tv_nsec * 1e-9;
}

static void must(int result, const char *what)
{
    if (result < 0) {
        perror(what);
        exit(1);
    }
}

static void set_register(int vcpu, uint64_t word, uint64_t value)
{
    struct kvm_one_reg reg = {.id = 0x6030000000100000ul + word, .addr = (uint64_t)(uintptr_t)&value};

    must(ioctl(vcpu, KVM_SET_ONE_REG, &reg), "KVM_SET_ONE_REG");
}

int main(int argc, char **argv)
{
    double seconds = argc > 1 ? atof(argv[1]) : 2, start;
    int kvm = open("/dev/kvm", O_RDWR | O_CLOEXEC), vm, vcpu, size;
    struct kvm_userspace_memory_region region = {.guest_phys_addr = CODE, .memory_size = 0x10000};
    struct kvm_vcpu_init target;
    struct kvm_run *run;
    void *memory = mmap(NULL, 0x10000, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    unsigned long exits = 0;
    uint32_t answer = 7, stored = 0;

    must(kvm, "/dev/kvm");
    must(vm = ioctl(kvm, KVM_CREATE_VM, 0ul), "KVM_CREATE_VM");
    memcpy(memory, code, sizeof(code));
    region.userspace_addr = (uint64_t)(uintptr_t)memory;
    must(ioctl(vm, KVM_SET_USER_MEMORY_REGION, &region), "KVM_SET_USER_MEMORY_REGION");
    must(vcpu = ioctl(vm, KVM_CREATE_VCPU, 0ul), "KVM_CREATE_VCPU");
    must(ioctl(vm, KVM_ARM_PREFERRED_TARGET, &target), "KVM_ARM_PREFERRED_TARGET");
    must(ioctl(vcpu, KVM_ARM_VCPU_INIT, &target), "KVM_ARM_VCPU_INIT");
    must(size = ioctl(kvm, KVM_GET_VCPU_MMAP_SIZE, 0ul), "KVM_GET_VCPU_MMAP_SIZE");
    run = mmap(NULL, (size_t)size, PROT_READ | PROT_WRITE, MAP_SHARED, vcpu, 0);
    set_register(vcpu, 2, DEVICE);
    set_register(vcpu, 64, CODE);
    /* The first exits pay for page faults and, under emulation, for the translation of the code. */
    for (start = now(); exits < 1000 || now() - start < seconds;) {
        if (exits == 1000)
            start = now();
        for (int i = 0; i < EXITS_PER_LOOK; i++, exits++) {
            must(ioctl(vcpu, KVM_RUN, 0ul), "KVM_RUN");
            if (run->exit_reason != KVM_EXIT_MMIO || run->mmio.phys_addr != DEVICE || run->mmio.len != 4)
                return 1;
            if (run->mmio.is_write)
                memcpy(&stored, run->mmio.data, 4);
            else
                memcpy(run->mmio.data, &answer, 4);
        }
    }
    printf("%f\n", (exits - 1000) / (now() - start));
    return stored != 0;
}
