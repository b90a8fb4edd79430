# SPDX-License-Identifier: Apache-2.0
"""Saboteurs of claims about what a guest sees: they change parts of the emulated kernel, while it answers a request."""

from __future__ import annotations

from contextlib import contextmanager
from errno import EFAULT, EIO
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from kvmipa.access import Aborted, Access, Mapped, MmioExit, NisvExit, Retried, RunFailed
from kvmipa.backend.emulated import faults
from kvmipa.backend.emulated.behind import Behind
from kvmipa.backend.emulated.cpu import instructions, mmio, stage1, sys_regs
from kvmipa.backend.emulated.cpu.translation import Translation
from kvmipa.backend.emulated.dirty_log import DirtyBitmap
from kvmipa.backend.emulated.stage2_mmu import Stage2Mmu
from kvmipa.payload.program import NOWHERE, SLOT_SIZE
from kvmipa.stage2 import mapping
from kvmipa.stage2.mapping import pmd_size
from kvmipa.system_registers import number_of
from tests.conformance.sabotage import Sabotage, Saboteur

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from kvmipa.access import Result
    from kvmipa.backend import Backend
    from kvmipa.backend.emulated.cpu.instructions import Transfer
    from kvmipa.backend.emulated.memslots import Slot
    from kvmipa.stage2 import Stage2
    from kvmipa.stage2.debugfs import ShownStage2
    from kvmipa.turn import Turn


class Change(NamedTuple):
    """A part of the emulated kernel and what takes its place."""

    owner: Any
    name: str
    instead: Any


class Inside(Saboteur):
    """Has parts of the emulated kernel changed whenever it answers, and at no other time."""

    def __init__(self, behind: Backend, changes: tuple[Change, ...]) -> None:
        super().__init__(behind)
        self._changes = changes

    @contextmanager
    def _changed(self) -> Iterator[None]:
        before = [change._replace(instead=change.owner.__dict__[change.name]) for change in self._changes]
        try:
            for owner, name, instead in self._changes:
                setattr(owner, name, instead)
            yield
        finally:
            for owner, name, instead in before:
                setattr(owner, name, instead)

    def ioctl_buffer(self, fd: int, request: int, buffer: bytearray, /) -> int:
        """See Backend."""
        with self._changed():
            return super().ioctl_buffer(fd, request, buffer)

    def runner(self, fd: int, area: memoryview, turn: Turn, /) -> Callable[[], int]:
        """See Backend."""
        run = super().runner(fd, area, turn)

        def changed_run() -> int:
            with self._changed():
                return run()

        return changed_run

    def stage2(self, fd: int, /) -> Stage2 | ShownStage2:
        """See Backend."""
        with self._changed():
            return super().stage2(fd)


def inside(owner: Any, name: str, instead: Any, *more: Change) -> Callable[[Backend], Backend]:
    """A part that is changed, and more of them."""
    return lambda behind: Inside(behind, (Change(owner, name, instead), *more))


# The parts as they are, for what takes their places.
_read_register = sys_regs._read
_untranslated = Translation.untranslated
_access = faults.access
_not_memory = faults._not_memory
_mmio = faults._mmio
_inject = faults._inject
_exit = mmio.Mmio.exit
_loaded = instructions.Transfer.loaded
_mark = DirtyBitmap.mark
_fault = Stage2Mmu.fault
_mapping_size = mapping.mapping_size


# ------------------------------------------------------------------------------------------------ the guest's space

_MMFR0: Final = number_of("ID_AA64MMFR0_EL1")


def size_in_parange(vcpu: Any, asked: int, register: Any) -> int | None:
    """ID_AA64MMFR0_EL1 has no larger PARange than a small VM needs; KVM_GET_ONE_REG has another."""
    found = _read_register(vcpu, asked, register)
    if asked != _MMFR0 or found is None or vcpu.vm.ipa_bits > 32:
        return found
    return found & ~0xF


def without_upper_bits(self: Any, va: int) -> stage1.Translated | None:
    """An address beyond the space is the one below."""
    found: stage1.Translated | None = _untranslated(self, va)
    return found and found._replace(ipa=found.ipa & self._vm.ipa_size - 1)


def not_the_last_page(vm: Any, what: Access) -> Result:
    """The end of the space is not memory."""
    if vm.ipa_size - vm.profile.page_size <= what.ipa < vm.ipa_size:
        return _not_memory(vm, what, None)
    return _access(vm, what)


def no_fetch_at_the_top(vm: Any, what: Access) -> Result:
    """In the last slot nothing is executed."""
    if what.fetch and vm.ipa_size - SLOT_SIZE <= what.ipa < vm.ipa_size:
        return Aborted(0x8600_000F, what.far)
    return _access(vm, what)


# ------------------------------------------------------------------------------------------------ read-only slots


def written_through(vm: Any, what: Access) -> Result:
    """A store to a read-only slot is one to its memory."""
    slot = vm.memslots.find(what.ipa >> vm.page_shift)
    if slot is None or not slot.readonly or what.kind != "store":
        return _access(vm, what)
    found = vm.mmu.tables.entry(what.ipa)
    hva = what.ipa + slot.userspace_addr - slot.guest_phys_addr
    leaf = found or vm.mmu.fault(slot, what._replace(kind="load"), None)[3:5]
    return Mapped(what.ipa, 0, hva, leaf[0], leaf[1] | 1 << 7, faulted=False)


def page_of_a_store(self: Any, found: MmioExit, transfer: Transfer) -> int | None:
    """Of a store to a read-only slot only the page is told."""
    if found.is_write and self._cpu.vm.memslots.find(found.phys_addr >> self._cpu.vm.page_shift) is not None:
        found = found._replace(phys_addr=found.phys_addr & ~0xFFF)
    result: int | None = _exit(self, found, transfer)
    return result


def hangs_at_a_store(vm: Any, what: Access, slot: Slot | None) -> Result:
    """A store to a read-only slot is tried for ever."""
    return Retried() if slot is not None and what.kind == "store" else _not_memory(vm, what, slot)


def walk_is_mmio(vm: Any, what: Access, slot: Slot | None) -> Result:
    """What the walker would write to a read-only slot exits as MMIO."""
    return MmioExit(what.ipa, 8, is_write=True) if what.updates else _not_memory(vm, what, slot)


def walk_is_written_through(vm: Any, what: Access) -> Result:
    """The walker writes to read-only slots."""
    return _access(vm, what._replace(updates=False))


# ------------------------------------------------------------------------------------------------ dirty pages


def one_is_lost(self: DirtyBitmap, page: int) -> None:
    """The last page of a word is never dirty."""
    if page != 63:
        _mark(self, page)


def neighbour_too(self: DirtyBitmap, page: int) -> None:
    """With a page the next one is dirty."""
    _mark(self, page)
    _mark(self, page + 1)


def stays(self: DirtyBitmap) -> DirtyBitmap:
    """Reading the log does not clear it."""
    return self


def loads_too(self: Any, slot: Slot, what: Access, leaf: Any) -> Any:
    """A page is dirty when it is loaded from."""
    slot.mark_dirty(what.ipa >> self._vm.page_shift)
    return _fault(self, slot, what, leaf)


# ------------------------------------------------------------------------------------------------ no memory


def described(vm: Any, what: Access) -> Result:
    """An access that the CPU does not describe fails as another one."""
    found = _mmio(vm, what)
    return RunFailed(EFAULT) if found.__class__ is RunFailed else found


def always_to_user(vm: Any, what: Access) -> Result:
    """KVM_CAP_ARM_NISV_TO_USER need not be enabled."""
    found = _mmio(vm, what)
    return NisvExit(0x46, what.ipa) if found.__class__ is RunFailed else found


def never_to_user(vm: Any, what: Access) -> Result:
    """KVM_CAP_ARM_NISV_TO_USER has no effect."""
    found = _mmio(vm, what)
    return RunFailed(38) if found.__class__ is NisvExit else found


def to_user_from_elsewhere(vm: Any, what: Access) -> Result:
    """KVM_EXIT_ARM_NISV has another address."""
    found = _mmio(vm, what)
    return found._replace(fault_ipa=0) if isinstance(found, NisvExit) else found


def half_of_it(self: Any, found: MmioExit, transfer: Transfer) -> int | None:
    """An access of 8 bytes is told as one of 4."""
    if found.phys_addr >> 28 == NOWHERE >> 28:
        found = found._replace(size=min(found.size, 4))
    result: int | None = _exit(self, found, transfer)
    return result


def without_its_upper_byte(self: Transfer, value: int, *, extends: bool = True) -> int:
    """A register of 8 bytes gets 7 of an answer."""
    return _loaded(self, value, extends=extends) & (1 << 56) - 1


def always_extended(self: Transfer, value: int, *, extends: bool = True) -> int:
    """The sign of an answer is extended, as in 7.3."""
    del extends
    return _loaded(self, value)


def never_extended(self: Transfer, value: int, *, extends: bool = True) -> int:
    """The sign of an answer is not extended, as before 7.3."""
    del extends
    return _loaded(self, value, extends=False)


def out_of_range_is_mmio(vm: Any, what: Access) -> Result:
    """An access beyond the space is user space's, as in 5.10."""
    return _not_memory(vm, what, None)


def always_an_external_abort(vm: Any, what: Access) -> Result:
    """An access beyond the limit is an external abort too."""
    return _inject(vm, what, 0x10, what.far)


def without_the_address(vm: Any, what: Access, fsc: int, far: int) -> Aborted:
    """A fetch from nowhere does not say from where."""
    found = _inject(vm, what, fsc, far)
    return found._replace(far_el1=0) if what.fetch else found


def all_ones(vm: Any, what: Access, fsc: int, far: int) -> Aborted:
    """ESR_EL1 of a fetch is as in 6.1."""
    found = _inject(vm, what, fsc, far)
    return found._replace(esr_el1=found.esr_el1 | 0xFFFF_FFFF << 32) if what.fetch else found


def another_error(vm: Any, what: Access, errno: int) -> Result:
    """Memory that the process does not have is an I/O error."""
    del vm, what, errno
    return RunFailed(EIO)


# ------------------------------------------------------------------------------------------------ blocks


def only_pages(backing: Any, *_rest: Any, **_named: Any) -> int:
    """Everything is mapped page by page."""
    size: int = backing.page_size
    return size


def blocks_everywhere(backing: Any, *rest: Any, **named: Any) -> int:
    """Memory of huge pages is mapped by blocks, wherever it is."""
    if backing.host_size >= pmd_size(backing.page_size):
        return pmd_size(backing.page_size)
    return _mapping_size(backing, *rest, **named)


def may_be_blocks(self: Behind, logging: bool) -> None:
    """Whatever a slot's addresses, it is looked at whether it has huge pages."""
    self.logging = logging
    self.pages_only = logging


_V7_3: Final = "qemu-max-7.3-4k"
# Its limit is below its PARange.
_V6_1: Final = "qemu-max-6.1-4k"

SABOTAGES: Final = (
    Sabotage("C8g", "PARange in a small VM's guest is its size", inside(sys_regs, "_read", size_in_parange)),
    Sabotage("C9", "2^N is 0 again", inside(Translation, "untranslated", without_upper_bits)),
    Sabotage("C9", "the last page is not reached", inside(faults, "access", not_the_last_page)),
    Sabotage("C9", "no instruction is fetched at the top", inside(faults, "access", no_fetch_at_the_top)),
    Sabotage("C13", "stores go to the memory of a read-only slot", inside(faults, "access", written_through)),
    Sabotage("C13", "a store's address is its page's", inside(mmio.Mmio, "exit", page_of_a_store)),
    Sabotage("C13w", "the walker's writes exit as MMIO", inside(faults, "_not_memory", walk_is_mmio)),
    Sabotage("C13w", "the walker's writes go through", inside(faults, "access", walk_is_written_through)),
    Sabotage("C14", "a page is missing", inside(DirtyBitmap, "mark", one_is_lost)),
    Sabotage("C14", "there is one too many", inside(DirtyBitmap, "mark", neighbour_too)),
    Sabotage("C14", "reading it does not clear it", inside(DirtyBitmap, "take", stays)),
    Sabotage("C14", "loads make pages dirty", inside(Stage2Mmu, "fault", loads_too)),
    Sabotage("C14", "later writes are missed", inside(Stage2Mmu, "dirty_pages_taken", lambda *_: None)),
    Sabotage("C14", "pages are not watched from the first", inside(Stage2Mmu, "logging_started", lambda *_: None)),
    Sabotage("C15", "the errno is another", inside(faults, "_mmio", described)),
    Sabotage("C15", "it exits without being asked to", inside(faults, "_mmio", always_to_user)),
    Sabotage("C15", "it does not exit", inside(faults, "_mmio", never_to_user)),
    Sabotage("C15", "it exits with another address", inside(faults, "_mmio", to_user_from_elsewhere)),
    Sabotage("C18", "there are only pages", inside(mapping, "mapping_size", only_pages)),
    Sabotage(
        "C18",
        "there are blocks everywhere",
        inside(mapping, "mapping_size", blocks_everywhere, Change(Behind, "log", may_be_blocks)),
    ),
    Sabotage("G1", "8 bytes exit as 4", inside(mmio.Mmio, "exit", half_of_it)),
    Sabotage("G1", "answers lose a byte", inside(instructions.Transfer, "loaded", without_its_upper_byte)),
    Sabotage("IG1", "6.12 does as 5.10", inside(faults, "_out_of_range", out_of_range_is_mmio)),
    Sabotage("IG1", "the limit does not matter", inside(faults, "_out_of_range", always_an_external_abort), _V6_1),
    Sabotage("IG2", "the guest is not told the address", inside(faults, "_inject", without_the_address)),
    Sabotage("IG2", "6.12 does as 6.1", inside(faults, "_inject", all_ones)),
    Sabotage("IG3", "the errno is another", inside(faults, "_failed", another_error)),
    Sabotage("IG4", "6.12 does as 7.3", inside(instructions.Transfer, "loaded", always_extended)),
    Sabotage("IG4", "7.3 does as 6.12", inside(instructions.Transfer, "loaded", never_extended), _V7_3),
)
