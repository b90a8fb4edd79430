# SPDX-License-Identifier: Apache-2.0
"""The stage-2 MMU of an emulated VM: its tables, and what slots and faults make of them (arch/arm64/kvm/mmu.c)."""

from __future__ import annotations

from dataclasses import fields
from errno import EFAULT, ENOEXEC
from itertools import groupby
from typing import TYPE_CHECKING, Final

from kvmipa._abi_table import KVM_DIRTY_LOG_INITIALLY_SET, KVM_MEM_LOG_DIRTY_PAGES
from kvmipa.access import Mapped, Retried
from kvmipa.backend.emulated.behind import Behind
from kvmipa.backend.emulated.dirty_ring import mark_written
from kvmipa.id_registers import PARANGE_BITS
from kvmipa.stage2 import Stage2, dump, mapping
from kvmipa.stage2.descriptors import ACCESS_FLAG, S2AP_READ, S2AP_WRITE, TABLE_OR_PAGE, XN, Format
from kvmipa.stage2.geometry import LAST_LEVEL, Geometry
from kvmipa.stage2.ipa_limit import parange_bits
from kvmipa.stage2.memory import PhysicalMemory
from kvmipa.stage2.tables import Tables
from kvmipa.stage2.walk import Fault, Translation, walk

if TYPE_CHECKING:
    from collections.abc import Iterable

    from kvmipa.access import Access
    from kvmipa.backend.emulated.address_space import Mapping
    from kvmipa.backend.emulated.memslots import Slot
    from kvmipa.backend.emulated.release import Behaviour
    from kvmipa.backend.emulated.vm import VirtualMachine

    # A leaf is a pair of its level and its descriptor here: guests touch many pages.
    Leaf = tuple[int, int]

# Bits 56:55 of a leaf are software's. pKVM keeps there whose a page is: this one is borrowed from the host, as all
# memory of a VM that is not a protected one (seen in tables of real VMs, tests/data/stage2_samples).
_BORROWED: Final = 2 << 55

# Pages that have their dirty bits in one word.
_WORD_BITS: Final = 64

# What every page of a protected VM allows (pkvm_mem_abort).
_EVERYTHING: Final = (mapping.PROTECTED.writable, mapping.PROTECTED.executable)


def mapping_rules(behaviour: Behaviour) -> mapping.Rules:
    """How a release maps what guests touch: its rows of release.py."""
    return mapping.Rules(**{rule.name: getattr(behaviour, rule.name) for rule in fields(mapping.Rules)})


class Stage2Mmu:
    """Tables, and the memory that they are in. Whoever calls it holds the VM's lock."""

    def __init__(self, vm: VirtualMachine) -> None:
        profile = vm.profile
        self._vm = vm
        # As the CPU itself understands it; reserved values as the largest that there was.
        self.cpu_pa_bits = PARANGE_BITS.get(profile.id_aa64mmfr0_el1 & 0xF, 52)
        self.register = profile.stage2_register(vm.ipa_bits)
        # A pKVM host may run the guest with another size than it answers for (kernel-ipa-spec 1.7).
        self.geometry = Geometry(profile.page_size, self.register.ipa_bits)
        self.memory = PhysicalMemory(profile.page_size, parange_bits(self.register["PS"], 52))
        self.format = Format(profile.page_size, lpa2=profile.lpa2, fwb=profile.fwb)
        self.tables = Tables(self.geometry, self.format, self.memory)
        self._rules = mapping_rules(vm.behaviour)
        self._shares_pages = profile.pkvm and vm.behaviour.pkvm_shares_pages and not vm.protected
        self._protected = vm.protected
        self._dic = profile.dic
        self._page_size = profile.page_size
        self._pmd_size = mapping.pmd_size(profile.page_size)
        self._offset_masks = [(1 << self.geometry.shift(level)) - 1 for level in range(LAST_LEVEL + 1)]
        self._behind: dict[int, Behind] = {}
        self._attributes = {
            (writable, executable): self._attributes_of(mapping.Permissions(True, writable, executable))
            for writable in (False, True)
            for executable in (False, True)
        }

    # Whether a device's memory is cached in the process, which 7.3 also looks at, nobody can tell from outside.
    def _attributes_of(self, allowed: mapping.Permissions, *, device: bool = False) -> int:
        found = self.format.attributes(
            readable=allowed.readable,
            writable=allowed.writable,
            executable=allowed.executable,
            memory_type=mapping.memory_type(device=device, rules=self._rules),
        )
        return found | _BORROWED if self._shares_pages else found

    # ------------------------------------------------------------------------------------------ looking

    @staticmethod
    def allows(leaf: Leaf, what: Access) -> bool:
        """Whether a leaf allows an access; the walker reads."""
        descriptor = leaf[1]
        if not descriptor & ACCESS_FLAG:
            return False
        if what.fetch:
            return not descriptor & XN
        return bool(descriptor & (S2AP_WRITE if what.write else S2AP_READ))

    def mapped(self, slot: Slot, ipa: int, leaf: Leaf, *, faulted: bool) -> Mapped:
        """The result of an access that a leaf translates."""
        level, descriptor = leaf
        offset = self._offset_masks[level]
        pa = self.format.address(descriptor) & ~offset | ipa & offset
        return Mapped(ipa, pa, ipa + slot.userspace_addr - slot.guest_phys_addr, level, descriptor, faulted)

    def walk(self, ipa: int, kind: str) -> Translation | Fault:
        """Translate as the hardware does."""
        return walk(self.memory.read64, self.tables.vttbr_el2, self.register, ipa, fwb=self.format.fwb, kind=kind)

    def view(self) -> Stage2:
        """What Vm.stage2 shows."""
        style = dump.LINUX_7_3 if self._vm.behaviour.dumps_whole_space else dump.LINUX_6_12
        return Stage2(self.register, self.geometry, self.tables, style, self._vm.lock)

    # ------------------------------------------------------------------------------------------ faults

    def fault(self, slot: Slot, what: Access, leaf: Leaf | None) -> Mapped | Retried | int:
        """Map what a guest touches, or allow it more of a leaf that is there; else the errno of user_mem_abort.

        EFAULT: the process has no such memory; ENOEXEC: a fetch from a device, for which the guest gets an abort.
        """
        ipa, write = what.ipa, what.write
        if ipa >= self.tables.ipa_size:
            # What a pKVM host answers for and the guest's registers do not reach (kernel-ipa-spec 1.7).
            return Retried()
        if leaf is not None and not leaf[1] & ACCESS_FLAG:
            self.tables.set_access_flag(ipa)
            leaf = leaf[0], leaf[1] | ACCESS_FLAG
            if self.allows(leaf, what):
                return self.mapped(slot, ipa, leaf, faulted=True)
        behind = self._behind_of(slot)
        hva = ipa + behind.delta
        found = behind.mapping(hva, write=write)
        if found is None:
            self._drop(behind)
            return EFAULT
        if found.device:
            return self._fault_on_device(slot, behind, found, what, leaf)
        size = self._page_size if behind.pages_only and leaf is None else self._size(behind, found, hva, leaf)
        if self._protected:
            allowed = _EVERYTHING
        else:
            allowed = (
                not slot.readonly and (write or (not behind.logging and behind.is_writable(found, hva, size))),
                what.fetch or self._dic,
            )
        if leaf is None and size == self._page_size:
            new: Leaf | None = self._map_page(ipa, hva, self._attributes[allowed])
        else:
            new = self._map(what, hva, size, allowed, leaf, logging=behind.logging)
        if new is None:
            return Retried()
        if write:
            behind.note_written(hva)
        if allowed[0] and slot.flags & KVM_MEM_LOG_DIRTY_PAGES:
            # What is mapped to be written counts as written, and of a block the first page: without a bitmap a dirty
            # ring has more pages and fewer than were written (user_mem_abort; seen in 6.12.117 and 7.3.4).
            mark_written(self._vm, slot, (ipa & -size) >> self._vm.page_shift)
        return self.mapped(slot, ipa, new, faulted=True)

    def _fault_on_device(
        self, slot: Slot, behind: Behind, found: Mapping, what: Access, leaf: Leaf | None
    ) -> Mapped | Retried | int:
        """Memory that the kernel does not have in its own map: no cache, no execution, no dirty log."""
        allowed = mapping.permissions(
            mapping.Access(what.write, what.fetch), host_writable=found.writable and not slot.readonly, device=True
        )
        if allowed is None:
            return ENOEXEC
        hva = what.ipa + behind.delta
        if leaf is not None:
            self.tables.relax_permissions(what.ipa, readable=True, writable=allowed.writable)
        else:
            size = self._size(behind, found, hva, leaf)
            attributes = self._attributes_of(allowed, device=True)
            self.tables.map(what.ipa & -size, self.memory.frame(hva & -size, size), size, attributes)
        new = self.tables.entry(what.ipa)
        return Retried() if new is None else self.mapped(slot, what.ipa, new, faulted=True)

    def is_there(self, slot: Slot, ipa: int) -> bool:
        """Whether the process still has the memory that a leaf maps: an MMU notifier would have dropped the leaf."""
        behind = self._behind.get(slot.slot_id)
        return behind is None or behind.is_there(ipa + behind.delta)

    def _drop(self, behind: Behind) -> None:
        """Unmap what the process was seen to have unmapped."""
        gone, behind.gone = behind.gone, []
        for start, end in gone:
            self.memory_gone(start, end - start)

    def _behind_of(self, slot: Slot) -> Behind:
        behind = self._behind.get(slot.slot_id)
        if behind is None or behind.slot is not slot:
            behind = self._behind[slot.slot_id] = Behind(slot, self._page_size, self._vm.profile.thp)
        elif behind.logging != slot.is_logging:
            behind.log(slot.is_logging)
        return behind

    def _map_page(self, ipa: int, hva: int, attributes: int) -> Leaf:
        frame = self.memory.frame(hva & -self._page_size)
        descriptor = self.format.place(frame) | attributes | TABLE_OR_PAGE
        self.tables.map_page(ipa, descriptor)
        return LAST_LEVEL, descriptor

    def _size(self, behind: Behind, found: Mapping, hva: int, leaf: Leaf | None) -> int:
        slot = behind.slot
        backing = mapping.Backing(
            ipa=slot.guest_phys_addr,
            hva=slot.userspace_addr,
            size=slot.memory_size,
            page_size=self._page_size,
            vma_size=found.hugetlb_size,
            host_size=behind.host_size(found, hva),
            logging=behind.logging,
            pfnmap="pf" in found.flags,
            device=found.device,
            guest_memfd=slot.is_guest_memfd,
        )
        return mapping.mapping_size(
            backing,
            hva,
            self._rules,
            fault_block=self._offset_masks[leaf[0]] + 1 if leaf else 0,
            protected=self._protected,
            pkvm=self._shares_pages,
        )

    def _map(
        self, what: Access, hva: int, size: int, allowed: tuple[bool, bool], leaf: Leaf | None, *, logging: bool
    ) -> Leaf | None:
        """Map a block, or change what is there; None where that leaves the guest with the same fault."""
        ipa = what.ipa
        if leaf is not None and (
            size == self._offset_masks[leaf[0]] + 1
            or (not self._rules.remaps_other_sizes and not (logging and what.write))
        ):
            writable, executable = allowed
            self.tables.relax_permissions(ipa, readable=True, writable=writable, executable=executable)
        else:
            frame = self.memory.frame(hva & -size, size)
            self.tables.map(ipa & -size, frame, size, self._attributes[allowed])
        new = self.tables.entry(ipa)
        return new if new is not None and self.allows(new, what) else None

    # ------------------------------------------------------------------------------------------ slots

    def slot_gone(self, slot: Slot) -> None:
        """Unmap a slot that is deleted or moved (kvm_arch_flush_shadow_memslot)."""
        self._behind.pop(slot.slot_id, None)
        self._unmap(slot.guest_phys_addr, slot.memory_size)

    def memory_gone(self, hva: int, size: int) -> None:
        """The process has unmapped or discarded memory: unmap what VMs have of it (kvm_mmu_unmap_gfn_range).

        Bytes; rounded to pages. Nobody calls it for what the process does behind kvmipa's back.
        """
        start, end = hva & -self._page_size, hva + size + self._page_size - 1 & -self._page_size
        for slot in self._vm.memslots:
            first, last = max(start, slot.userspace_addr), min(end, slot.userspace_addr + slot.memory_size)
            if first < last and not slot.is_guest_memfd:
                self._unmap(slot.guest_phys_addr + first - slot.userspace_addr, last - first)
                if slot.slot_id in self._behind:
                    self._behind[slot.slot_id].forget(first, last)
        self.memory.release_frames(start, end - start)

    def unmap_slots(self) -> None:
        """Have every page of the VM faulted in again (stage2_unmap_vm)."""
        for slot in self._vm.memslots:
            self._unmap(slot.guest_phys_addr, slot.memory_size)

    def _unmap(self, ipa: int, size: int) -> None:
        end = min(ipa + size, self.tables.ipa_size)
        if ipa < end:
            self.tables.unmap(ipa, end - ipa)
            self._vm.translations_changed()

    def logging_started(self, slot: Slot) -> None:
        """Write-protect a slot, and split its blocks where that was asked for (kvm_arch_commit_memory_region)."""
        end = min(slot.guest_phys_addr + slot.memory_size, self.tables.ipa_size)
        if slot.guest_phys_addr < end:
            self._protect(slot.guest_phys_addr, end, splits=True)

    def dirty_pages_taken(self, slot: Slot, pages: Iterable[int]) -> None:
        """Write-protect pages (numbers within the slot, in order) whose dirty bits user space has taken.

        The kernel does so from the first to the last bit that was set in a word; it splits blocks only where all pages
        were dirty at first, which kept logging_started() from it (kvm_arch_mmu_enable_log_dirty_pt_masked).
        """
        splits = bool(self._vm.manual_dirty_log_protect & KVM_DIRTY_LOG_INITIALLY_SET)
        for _, word in groupby(pages, lambda page: page // _WORD_BITS):
            in_word = list(word)
            first, last = in_word[0], in_word[-1]
            start = slot.guest_phys_addr + first * self._page_size
            end = min(slot.guest_phys_addr + (last + 1) * self._page_size, self.tables.ipa_size)
            if start < end:
                self._protect(start, end, splits=splits)

    def _protect(self, start: int, end: int, *, splits: bool) -> None:
        self.tables.write_protect(start, end - start)
        self._vm.translations_changed()
        chunk = self._vm.eager_split_chunk
        if splits and chunk:
            self.tables.split(start, end - start, whole=chunk >= mapping.pud_size(self._page_size))
