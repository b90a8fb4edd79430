# SPDX-License-Identifier: Apache-2.0
"""A VM of each size that waits to be looked at; runs in the guest: ``python3 -m ci.lab.stage2_sampler FILE HEADER``.

Each VM's code touches some pages in a known order, says who it is in registers, and spins. Whoever looks through the
gdb stub of the emulated machine, ci.lab.stage2_samples, lets it go on, and the next VM comes: nothing depends on time.

FILE takes JSON lines: a header, then what each VM was made of. HEADER is a JSON object of what only the outside knows;
its "left_out" has sizes, and names of slots, that are not to be tried.
"""

from __future__ import annotations

import json
import mmap
import platform
import signal
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import kvmipa
from ci.lab.guest_memory import huge_flags, smaps
from ci.lab.raw_vcpu import PC, Kernel, RawVcpu, RawVm
from kvmipa import abi
from kvmipa.buffers import address_of
from kvmipa.recording import profile_as_json

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

FORMAT: Final = 1

#: x19 of a VM that spins; x20 is its machine type, and x21 is 0 until it may go on.
MAGIC: Final = 0x6B76_6D69_7061_3A29

CODE: Final = 0x10000
DEVICE_WINDOW: Final = 0x1000_0000
READONLY: Final = 0x1800_0000
BLOCKS: Final = 0x2000_0000
SHIFTED: Final = 0x3000_0000
LOGGED: Final = 0x3800_0000
GIGANTIC: Final = 0x4000_0000
#: Nothing is there: a store ends the VM's run.
EXIT: Final = 0x0

# QEMU's machine "virt": 32 virtio transports of 512 bytes, nobody's as long as no driver of theirs is loaded.
_DEVICE_ADDRESS: Final = 0x0A00_0000

# A VM that nobody lets go on within so many seconds ends this program.
_PATIENCE: Final = 120


# ---------------------------------------------------------------------------------------------- what a VM is made of


@dataclass(frozen=True)
class Slot:
    """A memslot.

    host_mapping: how the host's own tables map its memory: "pages", "blocks" (of level 2, transparent huge pages),
    "hugetlb" (a page of 1G), or "device".
    """

    name: str
    gpa: int
    size: int
    flags: int = 0
    host_mapping: str = "pages"


@dataclass(frozen=True)
class Access:
    """What the guest's code does at an address: "load", "store" or "fetch"."""

    kind: str
    ipa: int


def block_size(page_size: int) -> int:
    """Bytes that one entry of a level 2 table maps."""
    return page_size * (page_size // 8)


def slots(ipa_bits: int, page_size: int) -> list[Slot]:
    """The memory of a VM of this size: low, in the middle, up to the last page; each kind that KVM maps otherwise."""
    block = block_size(page_size)
    return [
        Slot("code", CODE, page_size),
        Slot("device", DEVICE_WINDOW, page_size, host_mapping="device"),
        Slot("readonly", READONLY, 2 * page_size, abi.KVM_MEM_READONLY),
        Slot("blocks", BLOCKS, 3 * block, host_mapping="blocks"),
        # Its address in the guest and its address in the host differ modulo the block's size.
        Slot("shifted", SHIFTED + page_size, block, host_mapping="blocks"),
        Slot("logged", LOGGED, block, abi.KVM_MEM_LOG_DIRTY_PAGES, host_mapping="blocks"),
        Slot("gigantic", GIGANTIC, 1 << 30, host_mapping="hugetlb"),
        Slot("middle", 1 << ipa_bits - 1, page_size),
        Slot("top", (1 << ipa_bits) - 4 * page_size, 4 * page_size),
    ]


def accesses(ipa_bits: int, page_size: int) -> list[Access]:
    """What the guest's code does, in this order; it is fetched itself first."""
    page, block = page_size, block_size(page_size)
    top = (1 << ipa_bits) - 4 * page
    order = [
        ("fetch", CODE),
        ("store", top + 3 * page),
        ("load", top),
        ("fetch", top + page),
        *(("store", top + 2 * page), ("fetch", top + 2 * page)),
        ("load", 1 << ipa_bits - 1),
        ("store", BLOCKS),
        ("fetch", BLOCKS + block),
        *(("store", BLOCKS + 2 * block), ("fetch", BLOCKS + 2 * block + page)),
        *(("store", SHIFTED + page), ("fetch", SHIFTED + 2 * page)),
        *(("load", READONLY), ("fetch", READONLY + page)),
        ("store", GIGANTIC + 0x1234_8000),
        # With 4K pages and no level 1 the host's 1G becomes 512 blocks. On a permission fault 6.1, 6.12 and 7.3 map all
        # of it anew, leave as they are the blocks that would differ in permissions only, and the guest faults for ever.
        # 5.10 gives the permission.
        *([] if page == 4096 and ipa_bits < 35 else [("fetch", GIGANTIC + 0x2345_C000)]),
        *(("load", LOGGED), ("store", LOGGED + page), ("fetch", LOGGED + 2 * page)),
        *(("load", LOGGED + 3 * page), ("store", LOGGED + 3 * page)),
        ("load", DEVICE_WINDOW),
    ]
    return [Access(kind, ipa) for kind, ipa in order]


# ---------------------------------------------------------------------------------------------- the guest's code

# A64 instructions (Arm ARM C6): x0 is the address, x1 what is loaded or stored, w1 its lower half.
_LOAD_WORD: Final = 0xB9400001
_STORE: Final = 0xF9000001
_CALL: Final = 0xD63F0000
_RETURN: Final = 0xD65F03C0
_WHILE_X21_IS_ZERO: Final = 0xB4000015
_BRANCH_TO_SELF: Final = 0x14000000


def code(order: Iterable[Access], machine_type: int) -> bytes:
    """The program: the accesses, the marks, the wait, and the store that ends it."""
    program: list[int] = []
    for access in order:
        if access.ipa == CODE:
            continue
        # A store leaves the first instruction of its page alone, which may be fetched later.
        program += _move(0, access.ipa + (8 if access.kind == "store" else 0))
        program += {"load": [_LOAD_WORD], "store": [_STORE], "fetch": [_CALL]}[access.kind]
    program += [*_move(21, 0), *_move(20, machine_type), *_move(19, MAGIC), _WHILE_X21_IS_ZERO]
    program += [*_move(0, EXIT), _STORE, _BRANCH_TO_SELF]
    return b"".join(word.to_bytes(4, "little") for word in program)


def _move(register: int, value: int) -> list[int]:
    """MOVZ and MOVK of all 64 bits."""
    movz, movk = 0xD2800000, 0xF2800000
    parts = [(value >> 16 * n & 0xFFFF) << 5 | n << 21 | register for n in range(4)]
    return [movz | parts[0], *(movk | part for part in parts[1:])]


# ---------------------------------------------------------------------------------------------- the host's memory


class Memory:
    """The memory behind the slots: one piece for each, which all VMs share one after the other."""

    def __init__(self, page_size: int, left_out: Sequence[int | str] = ()) -> None:
        block = block_size(page_size)
        self._page_size = page_size
        self._maps: list[mmap.mmap] = []
        blocks = self._anonymous(6 * block)
        blocks.madvise(mmap.MADV_HUGEPAGE)
        first = -address_of(blocks) % block
        self._places: dict[str, tuple[mmap.mmap, int]] = {
            "blocks": (blocks, first),
            "shifted": (blocks, first + 3 * block),
            "logged": (blocks, first + 4 * block),
        }
        for name, pages in {"code": 1, "readonly": 2, "middle": 1, "top": 4}.items():
            self._places[name] = (self._anonymous(pages * page_size), 0)
        self._places["gigantic"] = (mmap.mmap(-1, 1 << 30, flags=huge_flags(1 << 30)), 0)
        device = _device_memory(page_size)
        if device is not None:
            self._places["device"] = (device, 0)
        self._left_out = left_out
        self._fill(5, first, block, blocks)

    def _anonymous(self, size: int) -> mmap.mmap:
        made = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        for offset in range(0, size, self._page_size) if size < 1 << 20 else ():
            made[offset] = 0
        return made

    def _fill(self, count: int, first: int, block: int, blocks: mmap.mmap) -> None:
        """Touch each block, and have the host say that it maps them as such."""
        for number in range(count):
            blocks[first + number * block] = 0
        huge = smaps(address_of(blocks))["AnonHugePages"] << 10
        if huge != count * block:
            raise SystemExit(f"the host maps {huge} bytes by blocks, not {count * block}")

    def __contains__(self, name: str) -> bool:
        """Whether this host has memory of that kind, and it is to be tried."""
        return name in self._places and name not in self._left_out

    def address(self, name: str) -> int:
        """The address in this process."""
        place, offset = self._places[name]
        return address_of(place) + offset

    def write(self, name: str, offset: int, data: bytes) -> None:
        """Write into a piece."""
        place, start = self._places[name]
        place[start + offset : start + offset + len(data)] = data


def _device_memory(page_size: int) -> mmap.mmap | None:
    """A page of the machine's devices, through /dev/mem; None where the kernel does not give it."""
    try:
        with Path("/dev/mem").open("r+b", buffering=0) as file:
            return mmap.mmap(file.fileno(), page_size, offset=_DEVICE_ADDRESS)
    except OSError as error:
        print(f"no device memory: {error}", file=sys.stderr)
        return None


# ---------------------------------------------------------------------------------------------- the VMs


def run_vm(kernel: Kernel, memory: Memory, machine_type: int, page_size: int) -> dict[str, Any]:
    """Make a VM, run it until it has been looked at, and close it; what it was made of."""
    ipa_bits = machine_type or 40
    present = [slot for slot in slots(ipa_bits, page_size) if slot.name in memory]
    order = [access for access in accesses(ipa_bits, page_size) if any(_holds(slot, access.ipa) for slot in present)]
    _write_programs(memory, present, order, machine_type)
    vm = RawVm(kernel, machine_type)
    for number, slot in enumerate(present):
        vm.set_region(number, slot.gpa, slot.size, memory.address(slot.name), slot.flags)
    vcpu = RawVcpu(vm)
    vcpu.set_register(PC, CODE)
    _run_to_the_end(vcpu)
    vcpu.close()
    vm.close()
    return _as_json(machine_type, present, order, memory)


def _holds(slot: Slot, ipa: int) -> bool:
    return slot.gpa <= ipa < slot.gpa + slot.size


def _write_programs(memory: Memory, present: Sequence[Slot], order: Sequence[Access], machine_type: int) -> None:
    """The program, and a return at each address that it calls."""
    memory.write("code", 0, code(order, machine_type))
    for access in order:
        slot = next(slot for slot in present if _holds(slot, access.ipa))
        if slot.host_mapping != "device" and access.ipa != CODE:
            memory.write(slot.name, access.ipa - slot.gpa, _RETURN.to_bytes(4, "little"))


def _run_to_the_end(vcpu: RawVcpu) -> None:
    signal.alarm(_PATIENCE)
    exit_ = vcpu.run_to_mmio()
    signal.alarm(0)
    if exit_.address != EXIT:
        raise SystemExit(f"the VM came back with an access to {exit_.address:#x}")


def _as_json(machine_type: int, present: Sequence[Slot], order: Sequence[Access], memory: Memory) -> dict[str, Any]:
    return {
        "machine_type": machine_type,
        "ipa_bits": machine_type or 40,
        "slots": [
            {
                "name": slot.name,
                "gpa": hex(slot.gpa),
                "size": hex(slot.size),
                "flags": slot.flags,
                # Where block mappings are possible depends on no more of the address than this.
                "hva_phase": hex(memory.address(slot.name) % (1 << 30)),
                "host_mapping": slot.host_mapping,
            }
            for slot in present
        ],
        "accesses": [[access.kind, hex(access.ipa)] for access in order],
    }


def observations(left_out: Sequence[int | str]) -> Iterator[dict[str, Any]]:
    """What the guest knows of the host, then each VM in the order of its size."""
    with kvmipa.open("native") as kvm:
        profile = kvmipa.HostProfile.of(kvm)
        limit = kvm.host_ipa_limit or 40
    yield {"release": platform.release(), "kernel": platform.version(), "profile": profile_as_json(profile)}
    kernel, memory = Kernel(), Memory(profile.page_size, left_out)
    for machine_type in (0, *range(32, limit + 1)):
        if machine_type not in left_out:
            yield run_vm(kernel, memory, machine_type, profile.page_size)


def main(path: str, header_text: str) -> None:
    """Run the VMs, and write what they were made of."""
    header = {"kvmipa_stage2_samples": FORMAT, **json.loads(header_text)}
    with Path(path).open("w") as file:
        for number, seen in enumerate(observations(header["left_out"])):
            line = header | seen if number == 0 else seen
            file.write(json.dumps(line) + "\n")
            file.flush()


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
