# SPDX-License-Identifier: Apache-2.0
"""The rules of VMMs by name, so that a user sees what each would make of some RAM on some host.

Most have a memory map of their own, and take only the amount of RAM from the user's; "minimum", "default" and
"host-maximum" are about the user's map as it is.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

from kvmipa.layout import rules
from kvmipa.layout.errors import LayoutError
from kvmipa.layout.planning import check_limit
from kvmipa.layout.regions import RAM, MemoryMap, Region
from kvmipa.layout.rules import Choice, Question

if TYPE_CHECKING:
    from collections.abc import Callable

# RAM that is larger than any host can hold.
_TOO_MUCH: Final = 1 << 53


@dataclass(frozen=True)
class Strategy:
    """A rule with a name.

    used_by: who chooses so; rule: in a sentence; source: where it was read. own_map: only the amount of RAM counts, and
    not where the user has it, for the VMM has a memory map of its own.
    """

    name: str
    used_by: str
    rule: str
    source: str
    rule_function: Callable[[Question], Choice]
    own_map: bool = False

    def choose(self, question: Question) -> Choice:
        """What it chooses; LayoutError for a limit or pages that no arm64 host has."""
        check_limit(question.limit)
        question.memory_map.check_pages(question.page_size)
        try:
            return _with_last_page(self.rule_function(question), question)
        except LayoutError as error:  # no RAM, or so much that it ends beyond 64 bits where this rule puts it
            return Choice(None, None, question.memory_map, str(error))

    def largest_ram(self, limit: int | None, page_size: int = 4096, *, last_page: bool = True) -> int:
        """The most RAM, in bytes, with which it works: one page more does not. 0: none does.

        Of a rule that takes the map as it is: RAM from 1 GiB on, and nothing else. Looked for by asking the rule.

        >>> STRATEGIES["qemu-virt"].largest_ram(36) >> 30, STRATEGIES["kvmtool"].largest_ram(36) >> 30
        (63, 62)
        """

        def works(pages: int) -> bool:
            memory_map = MemoryMap([Region("ram", rules.VIRT_RAM_BASE, pages * page_size, RAM)])
            return self.choose(Question(memory_map, limit, page_size, last_page)).works

        fits, does_not = 0, _TOO_MUCH // page_size
        while does_not - fits > 1:
            middle = (fits + does_not) // 2
            fits, does_not = (middle, does_not) if works(middle) else (fits, middle)
        return fits * page_size


def _with_last_page(choice: Choice, question: Question) -> Choice:
    """No VMM knows of kernels that take no slot in the last page of a VM's addresses."""
    if question.last_page or choice.ipa_bits is None or choice.problem:
        return choice
    space = 1 << choice.ipa_bits
    if all(region.end < space for region in choice.memory_map.slots):
        return choice
    return replace(choice, problem=f"this kernel (before March 2021) refuses a slot that ends at 2^{choice.ipa_bits}")


STRATEGIES: Final[dict[str, Strategy]] = {
    strategy.name: strategy
    for strategy in (
        Strategy(
            "minimum",
            "kvmipa; what the kernel's API document recommends",
            "the smallest size that holds the map as it is given, 32 bits at least",
            "Documentation/virt/kvm/api.rst, KVM_CREATE_VM",
            rules.minimum,
        ),
        Strategy(
            "qemu-virt",
            "QEMU, machine virt",
            "RAM from 1 GiB, high device regions above it as far as they fit; the smallest size that holds that",
            "peers 1.3; hw/arm/virt.c",
            rules.qemu_virt,
            own_map=True,
        ),
        Strategy(
            "qemu-virt-highmem-off",
            "QEMU, machine virt with highmem=off",
            "the same with a limit of 32 bits",
            "peers 1.3; hw/arm/virt.c",
            lambda question: rules.qemu_virt(question, highmem=False),
            own_map=True,
        ),
        Strategy(
            "kvmtool",
            "kvmtool",
            "RAM from 2 GiB, all devices below; the smallest size that holds that, 32 bits at least",
            "peers 1.2; arm/aarch64/kvm.c",
            rules.kvmtool,
            own_map=True,
        ),
        Strategy(
            "host-maximum",
            "kvm-ioctls and what is built on it",
            "the host's limit, whatever the map; what is beyond fails later",
            "peers 1.1; kvm-ioctls/src/ioctls/system.rs",
            rules.host_maximum,
        ),
        Strategy(
            "crosvm",
            "crosvm",
            "the host's limit; RAM from 2 GiB, a PCI window from its end to the end of the addresses",
            "peers 1.4; aarch64/src/lib.rs",
            rules.crosvm,
            own_map=True,
        ),
        Strategy(
            "cloud-hypervisor",
            "Cloud Hypervisor",
            "the host's limit; RAM from 1 GiB around a gap below 4 GiB, in 46 bits at most",
            "peers 1.5; arch/src/aarch64/mod.rs",
            rules.cloud_hypervisor,
            own_map=True,
        ),
        Strategy(
            "firecracker",
            "Firecracker",
            "the host's limit; RAM from 2 GiB around 64-bit MMIO at 256 to 512 GiB, never compared to the limit",
            "peers 1.6; src/vmm/src/arch/aarch64/layout.rs",
            rules.firecracker,
            own_map=True,
        ),
        Strategy(
            "default",
            "gVisor, hyperlight, most scripts",
            "type 0, which is 40 bits; refused where the limit is below that",
            "peers 1.0, 1.12",
            rules.default,
        ),
    )
}
