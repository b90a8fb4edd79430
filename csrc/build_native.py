# SPDX-License-Identifier: Apache-2.0
"""The cffi builder of ``kvmipa._native``; setup.py names it in ``cffi_modules``."""

from cffi import FFI

CDEF = """
long kvmipa_ioctl(int fd, unsigned long request, unsigned long argument);
long kvmipa_ioctl_buffer(int fd, unsigned long request, void *argument);
size_t kvmipa_sweep_machine_types(int fd, const unsigned long *types, size_t count, int *results,
                                  unsigned long budget_ns);
long kvmipa_mmap(int fd, size_t size, unsigned long offset);
void kvmipa_munmap(void *address, size_t size);
struct kvmipa_turn { uint32_t holder; uint8_t open; uint8_t pad[3]; int32_t fd, signal; uint64_t area; };
long kvmipa_run(struct kvmipa_turn *turn);
long kvmipa_catch(int signal);
long kvmipa_kick(const struct kvmipa_turn *turn);
struct kvmipa_fact { const char *name; unsigned long value; };
extern const struct kvmipa_fact kvmipa_facts[];
extern const int kvmipa_checked_against_kernel_headers;
"""

ffibuilder = FFI()
ffibuilder.cdef(CDEF)
# Paths are relative to setup.py. The builder itself is in depends so that it gets into the sdist.
ffibuilder.set_source(
    "kvmipa._native",
    '#include "kvmipa_native.h"',
    sources=["csrc/kvmipa_native.c", "csrc/kvm_abi_check.c"],
    include_dirs=["csrc"],
    depends=[
        "csrc/build_native.py",
        "csrc/abi_table.py",
        "csrc/kvm_abi.h",
        "csrc/kvmipa_native.h",
    ],
    extra_compile_args=["-std=c11", "-O2", "-Wall", "-Wextra"],
)
