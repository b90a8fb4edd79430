# SPDX-License-Identifier: Apache-2.0
"""Memory slots through the public API on the emulated kernel: setting, moving, deleting, among few and among many."""

from __future__ import annotations

import platform
from typing import TYPE_CHECKING

import kvmipa
from tests.benchmarks.timing import interleave, report, seconds_per_call

if TYPE_CHECKING:
    from collections.abc import Callable

    from kvmipa import Vm

CALLS = 5_000
REPEATS = 9
PAGE = 4096
MANY = 10_000


def set_and_delete(vm: Vm, slot: int) -> Callable[[], None]:
    """Two calls: a slot, and its deletion."""

    def work() -> None:
        vm.set_user_memory_region(slot, slot * PAGE, PAGE, 0x10000)
        vm.set_user_memory_region(slot, 0, 0, 0)

    return work


def move(vm: Vm, slot: int) -> Callable[[], None]:
    """Two calls: there and back."""
    vm.set_user_memory_region(slot, slot * PAGE, PAGE, 0x10000)

    def work() -> None:
        vm.set_user_memory_region(slot, 1 << 39, PAGE, 0x10000)
        vm.set_user_memory_region(slot, slot * PAGE, PAGE, 0x10000)

    return work


def main() -> None:
    """Measure and report; each figure is of one call."""
    with kvmipa.open("emulated") as kvm, kvm.create_vm(40) as few, kvm.create_vm(40) as many:
        for slot in range(MANY):
            many.set_user_memory_region(slot, slot * PAGE, PAGE, 0x10000)
        works = {
            "set and delete": set_and_delete(few, 0),
            "move": move(few, 1),
            f"set and delete, among {MANY} slots": set_and_delete(many, MANY),
            f"move, among {MANY} slots": move(many, MANY + 1),
        }
        figures = interleave(
            {name: lambda work=work: seconds_per_call(work, CALLS) / 2 for name, work in works.items()},  # type: ignore[misc]
            REPEATS,
        )
    print(f"KVM_SET_USER_MEMORY_REGION on the emulated kernel, Python {platform.python_version()}")
    report(figures, "us", 1e6, "set and delete")


if __name__ == "__main__":
    main()
