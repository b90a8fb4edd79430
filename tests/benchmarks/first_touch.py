# SPDX-License-Identifier: Apache-2.0
"""Stage-2 faults of the emulated kernel through the public API: the first touch of pages, and what one costs."""

from __future__ import annotations

import mmap
import platform
import time
import tracemalloc
from ctypes import addressof, c_char

import kvmipa
from tests.benchmarks.timing import interleave, report

PAGES = 200_000
REPEATS = 5
PAGE = 4096
BLOCK = 2 << 20
GPA = 1 << 30


def touched(address: int, release: str, kind: str, *, again: bool = False) -> float:
    """CPU seconds of an access to a page of a new VM; again: to one that was touched before."""
    with kvmipa.open("emulated", host=kvmipa.HostProfile(release)) as kvm, kvm.create_vm(40) as vm:
        # One page off, so that there are no blocks.
        vm.set_user_memory_region(0, GPA, PAGES * PAGE, address + PAGE)
        access = vm.access
        pages = range(GPA, GPA + PAGES * PAGE, PAGE)
        for ipa in pages if again else ():
            access(ipa, kind)
        start = time.process_time()
        for ipa in pages:
            access(ipa, kind)
        return (time.process_time() - start) / PAGES


def bytes_per_page(address: int) -> float:
    """Memory that a mapped page takes, its share of the tables included."""
    tracemalloc.start()
    with kvmipa.open("emulated") as kvm, kvm.create_vm(40) as vm:
        vm.set_user_memory_region(0, GPA, PAGES * PAGE, address + PAGE)
        before, _ = tracemalloc.get_traced_memory()
        for ipa in range(GPA, GPA + PAGES * PAGE, PAGE):
            vm.access(ipa, "store")
        after, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return (after - before) / PAGES


def main() -> None:
    """Measure and report; nothing is written to the memory behind the slot, which takes none therefore."""
    area = mmap.mmap(-1, PAGES * PAGE + 2 * BLOCK, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    start = addressof(c_char.from_buffer(area))
    address = start + -start % BLOCK
    figures = interleave(
        {
            "first store to a page, 6.12": lambda: touched(address, "6.12", "store"),
            "first store to a page, 7.3": lambda: touched(address, "7.3", "store"),
            "first load of a page, 6.12": lambda: touched(address, "6.12", "load"),
            "another store, 6.12": lambda: touched(address, "6.12", "store", again=True),
        },
        REPEATS,
    )
    print(f"Vm.access() on the emulated kernel, {PAGES} pages of CPU time, Python {platform.python_version()}")
    report(figures, "us", 1e6, "first store to a page, 6.12")
    print(f"{bytes_per_page(address):.1f} bytes for each mapped page")


if __name__ == "__main__":
    main()
