# SPDX-License-Identifier: Apache-2.0
"""What debugfs shows of a VM's stage 2; runs in the guest: ``python3 -m ci.lab.ptdump_recorder PATH HEADER``.

A vCPU accesses memory, and after each step the dump of its VM's tables is read (tests/data/ptdump/README.md says what
is in the files). PATH is the beginning of their names. HEADER is a JSON object of what only the outside knows.
"""

from __future__ import annotations

import ctypes
import json
import os
import platform
import sys
import traceback
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import kvmipa
from ci.lab.ptdump_guest import BLOCK, CODE, MAILBOX, MIB, PAGE, Guest, Steps
from kvmipa import abi

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

SIZES: Final = (32, 36, 40, 44, 48, 52)
# The sizes of which it is also dumped what requests do to the tables.
FOLLOWED: Final = (40, 52)
# The VM of which many pages are mapped, after how many stores that is dumped, and the VM of one block.
MANY_BITS: Final = 40
PAGES: Final = 400
DUMPED_AFTER: Final = (16, 24, 32, 64)
BLOCK_BITS: Final = 40

ALIGNED: Final = 0x4000_0000
MISALIGNED: Final = 0x5000_0000
READONLY: Final = 0x6000_0000
FRESH: Final = 0x7000_0000
LOGGED: Final = 0x8000_0000
HUGETLB: Final = 0x9000_0000
NOWHERE: Final = 0xA000_0000
_POOL: Final = Path("/sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages")
_THP: Final = Path("/sys/kernel/mm/transparent_hugepage")
NOTE: Final = (
    "Each access is preceded by loads of mmio_mailbox and mmio_mailbox + 8, which exit and map nothing; code runs at "
    "0x10000. The .txt is stage2_page_tables after all accesses."
)


# ---------------------------------------------------------------------------------------------- what is dumped


def every_kind_of_memory(header: dict[str, Any], ipa_bits: int) -> tuple[dict[str, Any], str]:
    """A VM with memory of each kind, and accesses of each kind: what is known of it, and the dump after all of them."""
    guest = Guest(ipa_bits)
    before = guest.files()
    has_hugetlb = _add_slots(guest)
    smaps_before = guest.smaps()
    guest.create_vcpu()
    created = guest.dump()
    guest.start()
    started = guest.dump()
    for operation, address in _accesses(1 << ipa_bits, has_hugetlb=has_hugetlb):
        guest.access(operation, address)
    accesses, after, smaps_after = list(guest.log), guest.files(), guest.smaps()
    later = _requests(guest) if ipa_bits in FOLLOWED else None
    for slot in guest.slots:
        slot["smaps_before_vcpu"] = smaps_before.get(slot["slot"])
        slot["smaps_after_accesses"] = smaps_after.get(slot["slot"])
    found = {
        **header,
        "ipa": ipa_bits,
        "release": platform.release(),
        "version": platform.version(),
        "page_size": PAGE,
        "block_size": BLOCK,
        "thp_enabled": _read(_THP / "enabled"),
        "use_zero_page": _read(_THP / "use_zero_page"),
        "thp_sizes": {path.parent.name: _read(path) for path in sorted(_THP.glob("hugepages-*/enabled"))},
        "vcpus": 1,
        "mmio_mailbox": hex(MAILBOX),
        "ipa_range": after["ipa_range"],
        "stage2_levels": after["stage2_levels"],
        "slots": guest.slots,
        "accesses": accesses,
        "vcpu_starts_at": hex(CODE),
        "note": NOTE,
        "dump_before_slots": before,
        "dump_with_slots_and_vcpu": created,
        "dump_after_first_instruction": started,
    }
    return found | ({} if later is None else {"later": later}), after["stage2_page_tables"]


def _read(path: Path) -> str:
    return path.read_text().strip()


def _add_slots(guest: Guest) -> bool:
    """Slots 0 to 7; whether there is hugetlb's memory among them."""
    guest.add_code()
    alike = "aligned alike, populated"
    aligned = guest.add_memory(ALIGNED, 8 * MIB, alike)
    misaligned = guest.add_memory(MISALIGNED, 4 * MIB, "hva and gpa not aligned alike, populated", phase=PAGE)
    guest.add_memory(READONLY, 4 * MIB, f"KVM_MEM_READONLY, {alike}", flags=abi.KVM_MEM_READONLY)
    guest.add_memory(FRESH, 8 * MIB, "aligned alike, not populated", populated=False)
    guest.add_memory(LOGGED, 4 * MIB, f"KVM_MEM_LOG_DIRTY_PAGES, {alike}", flags=abi.KVM_MEM_LOG_DIRTY_PAGES)
    has_hugetlb = guest.add_hugetlb(HUGETLB, 4 * MIB, "hugetlb pages of 2 MiB, aligned alike")
    guest.add_memory((1 << guest.ipa_bits) - 4 * MIB, 4 * MIB, f"the last 4 MiB, {alike}")
    guest.write_return(aligned, 4 * MIB + 0x2_0000)
    guest.write_return(misaligned, 2 * MIB + 0x2_0000)
    return has_hugetlb


def _accesses(top: int, *, has_hugetlb: bool) -> Iterator[tuple[str, int]]:
    yield "store", ALIGNED
    yield "load", ALIGNED + 2 * MIB + 0x3_0000
    yield "exec", ALIGNED + 4 * MIB + 0x2_0000
    yield "store", MISALIGNED
    yield "store", MISALIGNED + PAGE
    yield "load", MISALIGNED + 5 * PAGE
    yield "exec", MISALIGNED + 2 * MIB + 0x2_0000
    yield "load", READONLY
    yield "load", READONLY + 2 * MIB + 0x1_0000
    yield "store", READONLY + 0x1_0000
    yield "load", FRESH + 0x1_0000
    yield "store", FRESH + 2 * MIB + 0x2_0000
    yield "store", FRESH + 6 * MIB
    yield "load", LOGGED
    yield "store", LOGGED + 0x1_0000
    yield "store", LOGGED + 2 * MIB + 0x2_0000
    yield "load", LOGGED + 0x1_0000
    if has_hugetlb:
        yield "store", HUGETLB + 0x1_0000
        yield "load", HUGETLB + 2 * MIB
    yield "store", top - PAGE
    yield "load", top - 4 * MIB
    yield "store", NOWHERE
    yield "load", 0x0A00_0000


def _requests(guest: Guest) -> list[dict[str, Any]]:
    """What the host's requests do to the tables."""
    steps = Steps(guest)
    aligned, misaligned, fresh = 1, 2, 4
    steps.set_flags(aligned, abi.KVM_MEM_LOG_DIRTY_PAGES)
    steps.access("store", ALIGNED)
    steps.access("load", ALIGNED + 2 * MIB + 0x3_0000)
    steps.access("store", ALIGNED + 2 * MIB + 0x3_0000)
    steps.get_dirty_log(aligned)
    steps.set_flags(aligned, 0)
    steps.access("store", ALIGNED)
    guest.discard(fresh)
    steps.after(madvise_dontneed_slot=fresh)
    guest.delete(misaligned)
    steps.after(delete_slot=misaligned)
    return steps.taken


def many_pages(header: dict[str, Any], ipa_bits: int) -> dict[str, Any]:
    """Every second page of a slot, with dumps that grow past the first buffer of a seq_file."""
    guest = Guest(ipa_bits)
    guest.add_code()
    guest.add_memory(ALIGNED, PAGES * 2 * PAGE, "hva and gpa not aligned alike", phase=PAGE)
    guest.create_vcpu()
    guest.start()
    dumps = {}
    for number in range(PAGES):
        guest.access("store", ALIGNED + 2 * number * PAGE)
        if number + 1 in DUMPED_AFTER:
            dumps[number + 1] = guest.dump()
    return {
        **header,
        "ipa": ipa_bits,
        "page_size": PAGE,
        "release": platform.release(),
        "accesses": f"stores to every second page from {ALIGNED:#x}, the hva one page off alignment; code at {CODE:#x}",
        "stores": PAGES,
        "dump_after_stores": dumps,
    }


def one_block(header: dict[str, Any], ipa_bits: int) -> dict[str, Any]:
    """A slot of one block, in one transparent huge page."""
    guest = Guest(ipa_bits)
    guest.add_code()
    hva = guest.libc.area(BLOCK, BLOCK)
    # One byte, and all of it is there.
    ctypes.memset(hva, 0x5A, 1)
    slot = guest.add(LOGGED, BLOCK, hva, what="one transparent huge page", populated=True)
    guest.slots[slot]["smaps_before_vcpu"] = guest.smaps()[slot]
    guest.create_vcpu()
    guest.start()
    steps = Steps(guest)
    steps.access("load", LOGGED + 5 * PAGE)
    # A table behind the block's, so that 6.12, which leaves out the last range, shows the block.
    steps.access("store", MAILBOX + 0x10_0000)
    steps.access("store", LOGGED + 6 * PAGE)
    steps.set_flags(slot, abi.KVM_MEM_LOG_DIRTY_PAGES)
    steps.access("store", LOGGED + 7 * PAGE)
    steps.access("load", LOGGED + 9 * PAGE)
    steps.get_dirty_log(slot)
    steps.set_flags(slot, 0)
    steps.access("store", LOGGED + 8 * PAGE)
    files = guest.files()
    return {
        **header,
        "ipa": ipa_bits,
        "page_size": PAGE,
        "block_size": BLOCK,
        "release": platform.release(),
        "thp_enabled": _read(_THP / "enabled"),
        "ipa_range": files["ipa_range"],
        "stage2_levels": files["stage2_levels"],
        "slots": guest.slots,
        "steps": steps.taken,
    }


# ---------------------------------------------------------------------------------------------- the files


def record(path: str, header: dict[str, Any], limit: int) -> None:
    """Write all of them."""
    if _POOL.exists():
        _POOL.write_text("4")
    for ipa_bits in (size for size in SIZES if size <= limit):
        _apart(partial(_write_every_kind, f"{path}__{ipa_bits}", header, ipa_bits))
    _apart(lambda: _write(f"{path}__{MANY_BITS}__many", many_pages(header, MANY_BITS)))
    # Once for a kernel: on the CPU that has all sizes.
    if limit == SIZES[-1]:
        _apart(lambda: _write(f"{path}__{BLOCK_BITS}__block", one_block(header, BLOCK_BITS)))


def _apart(work: Callable[[], None]) -> None:
    """Do it in a process of its own, whose memory nothing has touched yet, and which leaves none behind."""
    process = os.fork()
    if process == 0:
        try:
            work()
            os._exit(0)
        except BaseException:
            traceback.print_exc()
            os._exit(1)
    _, status = os.waitpid(process, 0)
    if status:
        raise SystemExit(f"a VM's dumps were not taken (wait status {status})")


def _write_every_kind(path: str, header: dict[str, Any], ipa_bits: int) -> None:
    found, text = every_kind_of_memory(header, ipa_bits)
    Path(f"{path}.txt").write_text(text)
    _write(path, found)


def _write(path: str, found: dict[str, Any]) -> None:
    Path(f"{path}.json").write_text(json.dumps(found, indent=1) + "\n")


def main(path: str, header_text: str) -> None:
    """Take the dumps, and write them."""
    lab = json.loads(header_text)["lab"]
    with kvmipa.open("native") as kvm:
        limit = kvm.host_ipa_limit or 40
    record(path, {"kernel": lab["kernel"], "cpu": lab["cpu"]}, limit)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
