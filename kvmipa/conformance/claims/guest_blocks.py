# SPDX-License-Identifier: Apache-2.0
"""The claim about huge mappings: what a guest's memory is mapped by."""

from __future__ import annotations

import mmap
import re
from typing import TYPE_CHECKING, Final

from kvmipa.conformance.claim import Claim
from kvmipa.conformance.guest import came, machine, name
from kvmipa.errors import GuestMemoryError, NotSupportedError
from kvmipa.memory import GuestMemory
from kvmipa.payload.steps import at
from kvmipa.running_kernel import read_text
from kvmipa.stage2.dump import Run
from kvmipa.stage2.mapping import pmd_size

if TYPE_CHECKING:
    from collections.abc import Iterator

    from kvmipa.conformance.target import Target
    from kvmipa.vm import Vm

# Multiples of every block of level 2.
_ALIGNED: Final = 0x8000_0000
_SHIFTED: Final = 0xC000_0000
_BLOCK_LEVEL: Final = 2
_CONTENT: Final = 0xF1F2_F3F4_F5F6_F7F8

_VMA: Final = re.compile(r"^([0-9a-f]+)-([0-9a-f]+) .*(?:\n[A-Z].*)*?\nAnonHugePages: +(\d+) kB", re.MULTILINE)


def _blocks(on: Target) -> None:
    page_size = on.facts.profile.page_size
    size = pmd_size(page_size)
    with machine(on) as it:
        _require_oracle(on, it.vm)
        memory = _huge_memory(on, size)
        # The same distance from both, but for a page: user addresses and guest addresses differ in their low bits.
        it.vm.add_memory(_ALIGNED, memory, size=size)
        it.vm.add_memory(_SHIFTED + page_size, memory, offset=size, size=size)
        places = {_ALIGNED + page_size: _BLOCK_LEVEL, _SHIFTED + 2 * page_size: _BLOCK_LEVEL + 1}
        for outcome in it.told([at("ldr", place) for place in places]):
            place = outcome.step.command.x[1]
            on.expect(name(outcome), f"x0 = {_CONTENT:#x}", came(outcome))
            same = "equal to" if places[place] == _BLOCK_LEVEL else "unlike"
            what = f"what maps {place:#x}, whose low {size.bit_length() - 1} bits are {same} its user address's"
            on.expect(what, _of_level(places[place], page_size), _mapped(it.vm, place, page_size))


def _require_oracle(on: Target, vm: Vm) -> None:
    if on.facts.real and on.facts.profile.pkvm:
        on.skip("of a pKVM host debugfs shows no tables (kernel-ipa-spec 8.1)")
    try:
        vm.stage2.dump()
    except NotSupportedError as error:
        on.skip(f"stage 2 does not show: {error.cause}")


def _huge_memory(on: Target, size: int) -> GuestMemory:
    """Two transparent huge pages, with the content at the second page of each; skips the check where there are none."""
    try:
        memory = GuestMemory(2 * size, alignment=size)
    except GuestMemoryError as error:
        on.skip(f"there is no memory for two blocks of {size >> 20} MiB: {error.cause}")
    if not on.facts.real and on.facts.profile.thp == "always":
        return _filled(on, memory, size)
    try:
        memory._map.madvise(mmap.MADV_HUGEPAGE)  # type: ignore[union-attr]
    except (AttributeError, OSError) as error:
        on.skip(f"the system has no transparent huge pages: {error}")
    return _filled(on, memory, size)


def _filled(on: Target, memory: GuestMemory, size: int) -> GuestMemory:
    words = memory.buffer.cast("Q")
    for start in (0, size):
        words[(start + on.facts.profile.page_size) // 8] = _CONTENT
    if on.facts.real:
        huge = _huge_bytes(memory.address)
        if huge < 2 * size:
            on.skip(f"the system gave {huge >> 20} MiB of transparent huge pages, and not {2 * size >> 20}")
    elif on.facts.profile.thp == "never":
        on.skip("transparent huge pages are off")
    return memory


def _huge_bytes(address: int) -> int:
    """Bytes of transparent huge pages in the mapping of an address (/proc/self/smaps)."""
    for start, end, kilobytes in _VMA.findall(read_text("/proc/self/smaps") or ""):
        if int(start, 16) <= address < int(end, 16):
            return int(kilobytes) << 10
    return 0


def _mapped(vm: Vm, place: int, page_size: int) -> str:
    for level in _levels(vm, place, page_size):
        return _of_level(level, page_size)
    return "nothing"


def _levels(vm: Vm, place: int, page_size: int) -> Iterator[int]:
    """The level of what maps an IPA, from the kernel's listing or from the emulated tables."""
    for one in vm.stage2.mappings():
        if isinstance(one, Run):
            if one.start <= place < one.end:
                yield one.level
        elif one[0] == place & -_size_of(one[1].level, page_size):
            yield one[1].level


def _size_of(level: int, page_size: int) -> int:
    return pmd_size(page_size) if level == _BLOCK_LEVEL else page_size


def _of_level(level: int, page_size: int) -> str:
    size = _size_of(level, page_size)
    return f"a block of {size >> 20} MiB" if level == _BLOCK_LEVEL else f"a page of {size >> 10} KiB"


CLAIMS: Final = (
    Claim(
        id="C18",
        name="guest.huge_mappings",
        text="Where user address and guest address have the same low bits, of a block's size, memory in huge pages is "
        "mapped by blocks in stage 2 (21 bits, 2 MiB, with 4K pages; 25 with 16K, 29 with 64K).",
        source="api.rst 4.35; kernel-ipa-spec 5.5, 10 (C18)",
        how="A guest loads from two transparent huge pages, one with and one without that, and stage 2 is looked at.",
        since="4.19",
        guest=True,
        check=_blocks,
    ),
)
