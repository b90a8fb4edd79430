/* SPDX-License-Identifier: Apache-2.0 */
/* Nanoseconds of one KVM_CHECK_EXTENSION in a plain loop: check_extension CALLS. */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <time.h>

int main(int argc, char **argv)
{
    long calls = argc > 1 ? atol(argv[1]) : 100000;
    int fd = open("/dev/kvm", O_RDWR | O_CLOEXEC);
    struct timespec start, end;

    if (fd < 0) {
        perror("/dev/kvm");
        return 1;
    }
    clock_gettime(CLOCK_MONOTONIC, &start);
    for (long i = 0; i < calls; i++)
        if (ioctl(fd, 0xae03, 3ul) < 0)
            return 1;
    clock_gettime(CLOCK_MONOTONIC, &end);
    printf("%f\n", ((end.tv_sec - start.tv_sec) * 1e9 + (end.tv_nsec - start.tv_nsec)) / calls);
    return 0;
}
