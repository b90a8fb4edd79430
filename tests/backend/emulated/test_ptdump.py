# SPDX-License-Identifier: Apache-2.0
"""The emulated stage 2 against debugfs of real kernels, of VMs whose vCPU had accessed memory (tests/data/ptdump).

Each file is replayed: the same slots over memory of this process, the same accesses, the same requests in between.
"""

from __future__ import annotations

import ctypes
import json
import mmap
import re
from dataclasses import dataclass, field, replace
from pathlib import Path
from struct import Struct
from typing import TYPE_CHECKING, Any

import pytest

import kvmipa
from kvmipa import abi
from kvmipa.access import Mapped, MmioExit
from kvmipa.backend.emulated import address_space
from kvmipa.buffers import address_of
from kvmipa.recording import profile_from_json
from kvmipa.stage2 import dump

if TYPE_CHECKING:
    from collections.abc import Iterator

    from kvmipa import HostProfile, Vm
    from kvmipa.backend.emulated.address_space import Mapping
    from kvmipa.backend.emulated.stage2_mmu import Stage2Mmu

DATA = Path(__file__).parents[2] / "data"
RECORDED = sorted((DATA / "ptdump").glob("*.json"))
KINDS = {"load": "load", "store": "store", "exec": "fetch"}
CODE = 0x10000
MAILBOX = 0x900_0000
REGION = Struct(abi.STRUCTS["userspace_memory_region"][0])
DIRTY_LOG = Struct(abi.STRUCTS["dirty_log"][0])

# What test_ptdump has to find, so that data that is lost does not pass unnoticed.
SIZES = {"cortex-a57": {32, 36, 40, 44}, "max": {32, 36, 40, 44, 48, 52}}


def files(suffix: str = "") -> list[Any]:
    found = [path for path in RECORDED if path.stem.count("__") == 2 + bool(suffix) and path.stem.endswith(suffix)]
    return [pytest.param(path, id=path.stem) for path in found]


def machine(recorded: dict[str, Any]) -> HostProfile:
    """The host: the lab's own kernels run on the CPUs whose registers were recorded with others."""
    kernel, cpu = recorded["kernel"], recorded["cpu"]
    places = (
        DATA / "recordings" / f"{kernel}__{cpu}.jsonl",
        DATA / "stage2_samples" / f"{kernel.removesuffix('-lab')}__{cpu}.jsonl",
    )
    path = next(place for place in places if place.exists())
    with path.open() as lines:
        profile = profile_from_json(json.loads(next(lines))["profile"])
    enabled = re.search(r"\[(\w+)\]", recorded.get("thp_enabled", "[always]"))
    assert enabled
    assert profile.page_size == recorded["page_size"]
    return replace(profile, release=recorded["release"], thp=enabled[1])


class Memory:
    """Anonymous memory of this process at the place within a block that the recorded one had."""

    def __init__(self, size: int, offset: int, block: int, populated_by: int = 0) -> None:
        # Without swap reserved for it: a block of 512 MiB is mostly never touched.
        flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | getattr(mmap, "MAP_NORESERVE", 0)
        self._map = mmap.mmap(-1, size + 2 * block, flags=flags)
        start = ctypes.addressof(ctypes.c_char.from_buffer(self._map))
        self._first = -start % block + offset
        self.address, self.size = start + self._first, size
        for position in range(self._first, self._first + size, populated_by) if populated_by else ():
            self._map[position] = 1

    def discard(self) -> None:
        """madvise(MADV_DONTNEED)."""
        self._map.madvise(mmap.MADV_DONTNEED, self._first, self.size)


@dataclass
class Slot:
    gpa: int
    memory: Memory
    # Bytes of its pages, where the recorded memory was hugetlb's.
    hugetlb: int = 0


@dataclass
class Replay:
    """A VM of the emulation that goes through what a recorded one went through."""

    vm: Vm
    recorded: dict[str, Any]
    slots: dict[int, Slot] = field(default_factory=dict)

    @property
    def mmu(self) -> Stage2Mmu:
        return self.vm._backend._vm(self.vm.fileno()).mmu  # type: ignore[attr-defined, no-any-return]

    @property
    def dump(self) -> str:
        return self.vm.stage2.dump()

    def add_slots(self) -> None:
        for slot in self.recorded["slots"]:
            memory = Memory(
                int(slot["size"], 16),
                int(slot["hva_offset_in_block"], 16),
                self.recorded["block_size"],
                self.recorded["page_size"] if slot["populated"] else 0,
            )
            kernel_page = slot.get("smaps_before_vcpu", {}).get("KernelPageSize", 0) << 10
            hugetlb = kernel_page if kernel_page > self.recorded["page_size"] else 0
            self.slots[slot["slot"]] = Slot(int(slot["gpa"], 16), memory, hugetlb)
            self.set_region(slot["slot"], slot["flags"])

    def set_region(self, number: int, flags: int, *, delete: bool = False) -> None:
        slot = self.slots[number]
        size = 0 if delete else slot.memory.size
        region = bytearray(REGION.pack(number, flags, slot.gpa, size, slot.memory.address))
        assert self.vm._backend.ioctl_buffer(self.vm.fileno(), abi.KVM_SET_USER_MEMORY_REGION, region) == 0

    def backing(self, start: int, end: int, block_size: int) -> tuple[Mapping, ...]:
        """As address_space.backing(), but the system's pool of huge pages was not empty."""
        found = REAL_BACKING(start, end, block_size)
        for slot in self.slots.values():
            if slot.memory.address == start and slot.hugetlb:
                return tuple(one._replace(flags=one.flags | {"ht"}, page_size=slot.hugetlb) for one in found)
        return found

    def run_code(self) -> None:
        assert isinstance(self.vm.access(CODE, "fetch"), Mapped)

    def access(self, what: dict[str, Any]) -> None:
        """An access of the guest's program, which has asked the mailbox for it."""
        for register in (0, 8):
            assert self.vm.access(MAILBOX + register, "load") == MmioExit(MAILBOX + register, 8, False)
        result = self.vm.access(int(what["gpa"], 16), KINDS[what["op"]])
        if "mmio_exit" in what:
            seen = what["mmio_exit"]
            assert result == MmioExit(int(seen["phys_addr"], 16), seen["len"], bool(seen["is_write"]))
        else:
            assert isinstance(result, Mapped)
        self.run_code()

    def act(self, action: dict[str, Any]) -> None:
        """A step between two dumps."""
        if "access" in action:
            self.access(action["access"])
        elif "set_slot_flags" in action:
            self.set_region(*action["set_slot_flags"])
        elif "get_dirty_log" in action:
            assert self.dirty_pages(action["get_dirty_log"]) == action["dirty_pages"]
        elif "madvise_dontneed_slot" in action:
            memory = self.slots[action["madvise_dontneed_slot"]].memory
            memory.discard()
            self.mmu.memory_gone(memory.address, memory.size)
        else:
            self.set_region(action["delete_slot"], 0, delete=True)

    def dirty_pages(self, number: int) -> list[int]:
        pages = self.slots[number].memory.size // self.recorded["page_size"]
        bitmap = bytearray(-(-pages // 64) * 8)
        argument = bytearray(DIRTY_LOG.pack(number, 0, address_of(bitmap)))
        assert self.vm._backend.ioctl_buffer(self.vm.fileno(), abi.KVM_GET_DIRTY_LOG, argument) == 0
        bits = int.from_bytes(bitmap, "little")
        return [page for page in range(pages) if bits >> page & 1]


REAL_BACKING = address_space.backing


@pytest.fixture
def replay(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Replay]:
    recorded = json.loads(request.param.read_text())
    with kvmipa.open("emulated", host=machine(recorded)) as kvm, kvm.create_vm(recorded["ipa"]) as vm:
        found = Replay(vm, recorded)
        monkeypatch.setattr(address_space, "backing", found.backing)
        yield found


@pytest.mark.parametrize("replay", files(), indirect=True)
def test_the_dump_is_the_real_kernels_after_every_access_and_request(
    replay: Replay, request: pytest.FixtureRequest
) -> None:
    recorded = replay.recorded
    before = recorded["dump_before_slots"]
    assert f"{replay.vm.ipa_bits}\n" == before["ipa_range"] == recorded["ipa_range"]
    assert f"{replay.vm.stage2.geometry.levels}\n" == before["stage2_levels"] == recorded["stage2_levels"]
    assert replay.dump == before["stage2_page_tables"]
    replay.add_slots()
    assert replay.dump == recorded["dump_with_slots_and_vcpu"]
    replay.run_code()
    assert replay.dump == recorded["dump_after_first_instruction"]
    for access in recorded["accesses"]:
        replay.access(access)
    text = (DATA / "ptdump" / f"{request.node.callspec.id}.txt").read_text()
    assert replay.dump == text
    for step in recorded.get("later", ()):
        replay.act(step["action"])
        assert replay.dump == step["dump"], step["action"]


@pytest.mark.parametrize("replay", files("block"), indirect=True)
def test_a_block_is_split_and_put_together_again_as_by_the_real_kernel(replay: Replay) -> None:
    replay.add_slots()
    replay.run_code()
    for step in replay.recorded["steps"]:
        replay.act(step["action"])
        assert replay.dump == step["dump"], step["action"]


@pytest.mark.parametrize("replay", files("many"), indirect=True)
def test_many_separate_pages_are_the_real_kernels_runs(replay: Replay) -> None:
    """Runs are compared: Linux 6.12 makes a long dump twice, with one parser state and without its title."""
    recorded = replay.recorded
    page, block = recorded["page_size"], recorded["page_size"] ** 2 // 8
    gpa = 0x4000_0000
    replay.slots[0] = Slot(CODE, Memory(0x10000, CODE % block, block, page))
    replay.slots[1] = Slot(gpa, Memory(2 * recorded["stores"] * page, page, block, page))
    for number in replay.slots:
        replay.set_region(number, 0)
    replay.run_code()
    compared = 0
    for store in range(recorded["stores"]):
        replay.access({"op": "store", "gpa": hex(gpa + 2 * store * page)})
        text = recorded["dump_after_stores"].get(str(store + 1))
        if text is not None:
            assert dump.parse(replay.dump) == runs(text)
            compared += 1
    assert compared == len(recorded["dump_after_stores"])


def runs(text: str) -> list[dump.Run]:
    """Those of a dump, without the one that 6.12 has left over from the first time."""
    lines = text.splitlines()
    if lines[0] != dump.HEADER:
        assert re.match(r"0x[0-9a-f]{16}-0x0{16} ", lines[0])
        del lines[0]
    return dump.parse("\n".join(lines))


def test_all_recorded_sizes_are_there() -> None:
    for kernel in ("6.12-lab", "6.12-64k-lab"):
        for cpu, sizes in SIZES.items():
            for size in sizes:
                assert (DATA / "ptdump" / f"{kernel}__{cpu}__{size}.json") in RECORDED
            assert (DATA / "ptdump" / f"{kernel}__{cpu}__40__many.json") in RECORDED
        assert (DATA / "ptdump" / f"{kernel}__max__40__block.json") in RECORDED
