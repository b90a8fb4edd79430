# SPDX-License-Identifier: Apache-2.0
"""The model of stage 2 against VTCR_EL2 and tables that ci/lab read out of real kernels' VMs, bit for bit."""

from __future__ import annotations

import json
from bisect import bisect_right
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from kvmipa import abi
from kvmipa.backend.emulated.release import behaviour
from kvmipa.backend.emulated.stage2_mmu import mapping_rules
from kvmipa.recording import profile_from_json
from kvmipa.stage2 import mapping
from kvmipa.stage2.descriptors import ACCESS_FLAG, TABLE_OR_PAGE, Format, Leaf, MemoryType, Table
from kvmipa.stage2.geometry import LAST_LEVEL, Geometry
from kvmipa.stage2.ipa_limit import parange_bits
from kvmipa.stage2.memory import PhysicalMemory
from kvmipa.stage2.tables import Tables
from kvmipa.stage2.vtcr import Vtcr
from kvmipa.stage2.walk import Fault, FaultKind, Translation, walk

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from kvmipa import HostProfile

FILES = sorted((Path(__file__).parents[1] / "data" / "stage2_samples").glob("*.jsonl"))

# Kernel, CPU and what it gives: VMs of every size from 32 bits to the limit. QEMU 7.2 runs no VM of 52 bits with 16K.
EXPECTED = {
    ("5.10", "cortex-a53"): 40,
    ("5.10", "max"): 48,
    ("6.1", "cortex-a57"): 44,
    ("6.1", "max"): 48,
    ("6.12", "cortex-a57"): 44,
    ("6.12", "max"): 52,
    ("6.12", "max-nolpa2"): 48,
    ("6.12-16k", "cortex-a76"): 40,
    ("6.12-16k", "max"): 51,
    ("7.3", "cortex-a57"): 44,
    ("7.3", "max"): 52,
    ("7.3-16k", "max"): 51,
}

# Descriptor bits 58:55 are software's (Arm ARM D8.3). pKVM of 7.3 keeps in 56:55 whose a page is: 2 is borrowed from
# the host, which all memory of a VM is that is not a protected one.
SOFTWARE = 0xF << 55
BORROWED = 2 << 55

GIGANTIC = 1 << 30


@dataclass(frozen=True)
class Slot:
    name: str
    gpa: int
    size: int
    flags: int
    hva: int  # modulo 1 GiB as it was; above that, each slot has its own
    host_mapping: str


@dataclass(frozen=True)
class Entry:
    ipa: int
    level: int
    descriptor: int


@dataclass(frozen=True)
class Sample:
    """One VM of a real kernel."""

    header: dict[str, Any]
    profile: HostProfile
    machine_type: int
    ipa_bits: int
    vtcr: int
    vttbr: int
    slots: tuple[Slot, ...]
    accesses: tuple[tuple[str, int], ...]
    tables: tuple[Entry, ...]
    leaves: tuple[Entry, ...]

    @property
    def geometry(self) -> Geometry:
        """The shape of the tables that the VM has: pKVM may give it another size than was asked for."""
        return Geometry(self.profile.page_size, Vtcr(self.vtcr).ipa_bits)

    @property
    def form(self) -> Format:
        return Format(self.profile.page_size, lpa2=self.profile.lpa2, fwb=self.profile.fwb)

    @property
    def fwb(self) -> bool:
        return self.profile.fwb

    @property
    def software_bits(self) -> int:
        """Those of every leaf."""
        return BORROWED if self.profile.pkvm and self.profile.behaviour.protected_type else 0

    def slot_of(self, ipa: int) -> Slot:
        return next(slot for slot in self.slots if slot.gpa <= ipa < slot.gpa + slot.size)

    def leaf_of(self, ipa: int) -> Entry:
        return self.leaves[bisect_right([leaf.ipa for leaf in self.leaves], ipa) - 1]


def entries_of(lines: list[list[Any]], page_size: int) -> Iterator[Entry]:
    """IPA, level, descriptor, and where entries follow one another in memory too, their number."""
    for ipa, level, descriptor, *number in lines:
        size = 1 << Geometry(page_size, 40).shift(level)
        for step in range(0, (number or [1])[0] * size, size):
            yield Entry(int(ipa, 16) + step, level, int(descriptor, 16) + step)


@lru_cache
def samples_in(path: Path) -> list[Sample]:
    header, *vms = map(json.loads, path.read_text().splitlines())
    assert header["kvmipa_stage2_samples"] == 1
    profile = profile_from_json(header["profile"])
    return [
        Sample(
            header,
            profile,
            vm["machine_type"],
            vm["ipa_bits"],
            int(vm["vtcr_el2"], 16),
            int(vm["vttbr_el2"], 16),
            tuple(
                Slot(
                    slot["name"],
                    int(slot["gpa"], 16),
                    int(slot["size"], 16),
                    slot["flags"],
                    (number << 30) + int(slot["hva_phase"], 16),
                    slot["host_mapping"],
                )
                for number, slot in enumerate(vm["slots"], 1)
            ),
            tuple((kind, int(ipa, 16)) for kind, ipa in vm["accesses"]),
            tuple(entries_of(vm["tables"], profile.page_size)),
            tuple(entries_of(vm["leaves"], profile.page_size)),
        )
        for vm in vms
    ]


def all_samples() -> Iterator[Sample]:
    for path in FILES:
        yield from samples_in(path)


def every_sample(check: Callable[[Sample], None]) -> Callable[[Path], None]:
    """A test for each file; a failure shows as its last line of output which VM it is about.

    A test for each VM would be thousands, whose collection takes a guest of the lab longer than all its tests.
    """

    def test(path: Path) -> None:
        for sample in samples_in(path):
            print(path.stem, "type", sample.machine_type)
            check(sample)

    test.__name__, test.__doc__ = check.__name__, check.__doc__
    return pytest.mark.parametrize("path", FILES, ids=[path.stem for path in FILES])(test)


def test_samples_are_of_every_size_of_every_configuration() -> None:
    found: dict[tuple[str, str], list[int]] = {}
    for sample in all_samples():
        lab = sample.header["lab"]
        if lab["mode"] == "default":
            found.setdefault((lab["kernel"], lab["cpu"]), []).append(sample.machine_type)
    assert found == {names: [0, *range(32, largest + 1)] for names, largest in EXPECTED.items()} | {
        names: types for names, types in found.items() if names not in EXPECTED
    }


# ---------------------------------------------------------------------------------------------- the registers


@every_sample
def test_profile_gives_the_register_that_the_kernel_ran_with(sample: Sample) -> None:
    profile = sample.profile
    # pKVM gives every VM the limit (kernel-ipa-spec 1.7).
    given = profile.ipa_limit if profile.type_rules.size_ignored else sample.ipa_bits
    assert given is not None
    assert hex(profile.vtcr_el2(given)) == hex(sample.vtcr)


@every_sample
def test_tables_have_the_geometry_that_is_computed(sample: Sample) -> None:
    geometry = sample.geometry
    assert Vtcr(sample.vtcr)["SL0"] == geometry.sl0
    upper = [entry for entry in (*sample.tables, *sample.leaves) if entry.level == geometry.start_level]
    assert min(entry.level for entry in (*sample.tables, *sample.leaves)) == geometry.start_level
    last = max(entry.ipa for entry in upper) >> geometry.shift(geometry.start_level)
    if not sample.profile.type_rules.size_ignored:
        # The last page is mapped: through the last entry of the last table.
        assert last == geometry.entries - 1
        assert last >> geometry.table_bits == geometry.concatenated_tables - 1


@every_sample
def test_base_is_aligned_to_all_tables_of_the_start_level(sample: Sample) -> None:
    assert (sample.vttbr & 0xFFFF_FFFF_FFFE) % sample.geometry.pgd_size == 0


# ---------------------------------------------------------------------------------------------- the descriptors


@every_sample
def test_every_leaf_is_encoded_again_to_the_same_bits(sample: Sample) -> None:
    form = sample.form
    for entry in sample.leaves:
        leaf = form.decode(entry.descriptor, entry.level)
        assert isinstance(leaf, Leaf), hex(entry.descriptor)
        assert hex(form.encode_leaf(leaf) | sample.software_bits) == hex(entry.descriptor)


@every_sample
def test_every_table_descriptor_is_encoded_again_to_the_same_bits(sample: Sample) -> None:
    form = sample.form
    for entry in sample.tables:
        table = form.decode(entry.descriptor, entry.level)
        assert isinstance(table, Table), hex(entry.descriptor)
        assert hex(form.encode_table(table.address)) == hex(entry.descriptor)


@every_sample
def test_there_is_no_table_but_those_that_leaves_need(sample: Sample) -> None:
    geometry = sample.geometry
    needed = {
        (leaf.ipa >> geometry.shift(level) << geometry.shift(level), level)
        for leaf in sample.leaves
        for level in range(geometry.start_level, leaf.level)
    }
    assert {(table.ipa, table.level) for table in sample.tables} == needed
    assert len({table.descriptor for table in sample.tables}) == len(sample.tables)


# ---------------------------------------------------------------------------------------------- the walk


def memory_of(sample: Sample) -> Callable[[int], int]:
    """Reads of the physical memory that holds the tables; zero wherever no descriptor was."""
    geometry, form = sample.geometry, sample.form
    start = sample.vttbr & 0xFFFF_FFFF_FFFE
    tables = {(entry.ipa, entry.level): form.address(entry.descriptor) for entry in sample.tables}
    words: dict[int, int] = {}
    for entry in (*sample.tables, *sample.leaves):
        index = entry.ipa >> geometry.shift(entry.level)
        base = start
        if entry.level > geometry.start_level:
            above = geometry.shift(entry.level - 1)
            base = tables[entry.ipa >> above << above, entry.level - 1]
            index &= (1 << geometry.table_bits) - 1
        words[base + 8 * index] = entry.descriptor
    return lambda pa: words.get(pa, 0)


def walked(sample: Sample, ipa: int, kind: str) -> Translation | Fault:
    return walk(memory_of(sample), sample.vttbr, sample.vtcr, ipa, fwb=sample.fwb, kind=kind)


@every_sample
def test_walk_of_the_real_tables_leads_every_access_to_its_leaf(sample: Sample) -> None:
    for kind, ipa in sample.accesses:
        found = walked(sample, ipa, kind)
        assert isinstance(found, Translation), (kind, hex(ipa), found)
        leaf = sample.leaf_of(ipa)
        assert (found.descriptor, found.level) == (leaf.descriptor, leaf.level)
        size = 1 << sample.geometry.shift(leaf.level)
        assert found.pa == (sample.form.address(leaf.descriptor) & -size) | (ipa & size - 1)
        assert found.block_size == size


@every_sample
def test_walk_ends_where_the_ipa_space_does(sample: Sample) -> None:
    end = 1 << sample.geometry.ipa_bits
    assert walked(sample, end, "load") == Fault(FaultKind.TRANSLATION, 0)
    if not sample.profile.type_rules.size_ignored:
        assert isinstance(walked(sample, end - 1, "load"), Translation)


@every_sample
def test_walk_refuses_what_the_kernel_did_not_allow(sample: Sample) -> None:
    slots = {slot.name: slot.gpa for slot in sample.slots}
    assert walked(sample, slots["readonly"], "store") == Fault(FaultKind.PERMISSION, LAST_LEVEL)
    assert walked(sample, slots["readonly"], "fetch") == Fault(FaultKind.PERMISSION, LAST_LEVEL)
    assert walked(sample, slots["logged"], "store") == Fault(FaultKind.PERMISSION, LAST_LEVEL)
    assert walked(sample, slots["blocks"], "fetch") == Fault(FaultKind.PERMISSION, LAST_LEVEL - 1)
    if "device" in slots:
        assert walked(sample, slots["device"], "fetch") == Fault(FaultKind.PERMISSION, LAST_LEVEL)


def test_only_pkvm_gives_guests_no_device_memory() -> None:
    """KVM_RUN is EINVAL there, so the samples are without."""
    without = {sample.header["lab"]["mode"] for sample in all_samples() if "device" in sample.header["left_out"]}
    assert without == {"protected"}
    for sample in all_samples():
        has_device = "device" in {slot.name for slot in sample.slots}
        assert has_device is ("device" not in sample.header["left_out"])


# ---------------------------------------------------------------------------------------------- the faults, replayed


class Host:
    """What KVM's fault handler does (user_mem_abort), put together from the model's parts."""

    def __init__(self, sample: Sample) -> None:
        self.sample = sample
        self.form = sample.form
        self.memory = PhysicalMemory(sample.profile.page_size, parange_bits(Vtcr(sample.vtcr)["PS"], 52))
        self.tables = Tables(sample.geometry, self.form, self.memory)
        # Of pKVM since 7.3, for VMs that are not protected too.
        self.no_gigantic = bool(sample.software_bits)
        self.rules = mapping_rules(behaviour(sample.header["lab"]["kernel"].partition("-")[0]))

    def access(self, kind: str, ipa: int) -> None:
        """Do what the guest did: fault until it is allowed."""
        found = walk(self.memory.read64, self.tables.vttbr_el2, self.sample.vtcr, ipa, fwb=self.sample.fwb, kind=kind)
        if isinstance(found, Fault):
            assert found.kind in (FaultKind.TRANSLATION, FaultKind.PERMISSION)
            self._fault(kind, ipa)

    def _fault(self, kind: str, ipa: int) -> None:
        sample, page = self.sample, self.sample.profile.page_size
        slot = sample.slot_of(ipa)
        hva = slot.hva + ipa - slot.gpa
        old = self.tables.lookup(ipa)
        old_size = 0 if old is None else 1 << sample.geometry.shift(old.level)
        device, logging = slot.host_mapping == "device", bool(slot.flags & abi.KVM_MEM_LOG_DIRTY_PAGES)
        backing = mapping.Backing(
            ipa=slot.gpa,
            hva=slot.hva,
            size=slot.size,
            page_size=page,
            vma_size=GIGANTIC if slot.host_mapping == "hugetlb" else page,
            host_size=mapping.pmd_size(page) if slot.host_mapping == "blocks" else page,
            logging=logging,
            pfnmap=device,
            device=device,
        )
        size = mapping.mapping_size(backing, hva, self.rules, fault_block=old_size, pkvm=self.no_gigantic)
        allowed = mapping.permissions(
            mapping.Access(write=kind == "store", fetch=kind == "fetch"),
            host_writable=not slot.flags & abi.KVM_MEM_READONLY,
            logging=logging,
            device=device,
            dic=sample.profile.dic,
        )
        assert allowed is not None
        if old_size == size:
            self.tables.relax_permissions(
                ipa, readable=allowed.readable, writable=allowed.writable, executable=allowed.executable
            )
            return
        attributes = self.form.attributes(
            readable=allowed.readable,
            writable=allowed.writable,
            executable=allowed.executable,
            memory_type=mapping.memory_type(device=device, rules=self.rules),
        )
        self.tables.map(ipa & -size, self.memory.frame(hva & -size, size), size, attributes)


def attributes_of(form: Format, entries: Iterator[tuple[int, int, int]]) -> list[tuple[str, int, str]]:
    """IPA, level and attributes: where memory is, and when it was looked at for accesses, is the host's own affair."""
    return [
        (hex(ipa), level, hex(descriptor & ~form.place(form.address(descriptor)) & ~(ACCESS_FLAG | SOFTWARE)))
        for ipa, level, descriptor in entries
    ]


@every_sample
def test_replayed_accesses_give_the_tables_of_the_real_kernel(sample: Sample) -> None:
    host = Host(sample)
    for kind, ipa in sample.accesses:
        host.access(kind, ipa)
    real = ((leaf.ipa, leaf.level, leaf.descriptor) for leaf in sample.leaves)
    assert attributes_of(host.form, host.tables.descriptors()) == attributes_of(host.form, real)
    assert host.tables.table_pages == sample.geometry.concatenated_tables + len(sample.tables)


@every_sample
def test_memory_and_leaf_have_the_same_phase(sample: Sample) -> None:
    """An address in the guest is its address in the host's memory modulo what the leaf maps."""
    for entry in sample.leaves:
        leaf = sample.form.decode(entry.descriptor, entry.level)
        assert isinstance(leaf, Leaf)
        slot = sample.slot_of(entry.ipa)
        size = 1 << sample.geometry.shift(entry.level)
        assert entry.ipa % size == leaf.output_address % size == 0
        block = {"blocks": mapping.pmd_size(sample.profile.page_size), "hugetlb": GIGANTIC}.get(slot.host_mapping)
        if block:
            assert leaf.output_address % block == (slot.hva + entry.ipa - slot.gpa) % block


# ---------------------------------------------------------------------------------------------- what the samples hold


@lru_cache(maxsize=1)
def kinds_of_leaves() -> set[tuple[Any, ...]]:
    """Level, whether a page, permissions and memory type of every leaf in the samples."""
    found = set()
    for sample in all_samples():
        for entry in sample.leaves:
            leaf = sample.form.decode(entry.descriptor, entry.level)
            assert isinstance(leaf, Leaf)
            page = bool(entry.descriptor & TABLE_OR_PAGE)
            found.add((leaf.level, page, leaf.readable, leaf.writable, leaf.executable, leaf.memory_type))
    return found


def test_samples_hold_every_kind_of_leaf() -> None:
    pages = {(writable, executable) for level, page, _, writable, executable, _ in kinds_of_leaves() if page}
    blocks = {(writable, executable) for level, page, _, writable, executable, _ in kinds_of_leaves() if not page}
    assert pages == {(True, True), (True, False), (False, True), (False, False)}
    assert blocks == {(True, True), (True, False)}
    assert {kind for *_, kind in kinds_of_leaves()} == {MemoryType.NORMAL, MemoryType.DEVICE}
    assert {(level, page) for level, page, *_ in kinds_of_leaves()} == {(1, False), (2, False), (3, True)}
