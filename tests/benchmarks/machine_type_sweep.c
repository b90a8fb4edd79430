/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Seconds of creating and closing a VM of each machine type: machine_type_sweep FIRST LAST.
 *
 * The second sweep is timed: the first pays for page faults and, under emulation, for the translation of the code.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <time.h>
#include <unistd.h>

static int sweep(int fd, unsigned long first, unsigned long last)
{
    int accepted = 0;

    for (unsigned long type = first; type <= last; type++) {
        int vm;

        do
            vm = ioctl(fd, 0xae01, type);
        while (vm < 0 && errno == EINTR);
        if (vm >= 0) {
            close(vm);
            accepted++;
        }
    }
    return accepted;
}

int main(int argc, char **argv)
{
    unsigned long first = argc > 1 ? strtoul(argv[1], NULL, 0) : 0;
    unsigned long last = argc > 2 ? strtoul(argv[2], NULL, 0) : 0xff;
    int fd = open("/dev/kvm", O_RDWR | O_CLOEXEC);
    int accepted;
    struct timespec start, end;

    if (fd < 0) {
        perror("/dev/kvm");
        return 1;
    }
    sweep(fd, first, last);
    clock_gettime(CLOCK_MONOTONIC, &start);
    accepted = sweep(fd, first, last);
    clock_gettime(CLOCK_MONOTONIC, &end);
    printf("%f %d\n", (end.tv_sec - start.tv_sec) + (end.tv_nsec - start.tv_nsec) * 1e-9, accepted);
    return 0;
}
