# SPDX-License-Identifier: Apache-2.0
"""Where the guest's addresses lead: stage 1 by its own tables, stage 2 by the VM's, and its code's words.

Unicorn's TLB is filled from here (its hook UC_HOOK_TLB_FILL), page by page.
"""

from __future__ import annotations

from errno import EFAULT
from typing import TYPE_CHECKING, Any, Final, Literal

from kvmipa import abi
from kvmipa.access import Access, Mapped, RunFailed
from kvmipa.backend.emulated import faults
from kvmipa.backend.emulated.cpu import instructions, stage1, sys_regs
from kvmipa.backend.emulated.cpu.engine import FETCH, KINDS, PAGE
from kvmipa.backend.emulated.cpu.registers import (
    PSTATE_PAN,
    SCTLR_E0E,
    SCTLR_EE,
    SCTLR_EL1,
    TCR_EL1,
    TTBR0_EL1,
    TTBR1_EL1,
)
from kvmipa.backend.emulated.user_memory import is_readable, read, write
from kvmipa.stage2.descriptors import S2AP_WRITE, XN

if TYPE_CHECKING:
    from kvmipa.access import Result
    from kvmipa.backend.emulated.cpu.engine import Engine
    from kvmipa.backend.emulated.vcpu import Vcpu

# What Unicorn may do with a page (uc_prot).
_READ, _WRITE, _EXECUTE = 1, 2, 4

# What is asked for of a page as such: a word that the CPU describes.
_WORD: Final = 8

_new: Final[Any] = tuple.__new__


class WalkEndedError(Exception):
    """A stage-1 table is not to be read."""

    def __init__(self, result: Result) -> None:
        super().__init__(result)
        self.result = result


class Translation:
    """Both stages for one CPU. Whoever calls it holds the VM's lock, but for the words of code."""

    def __init__(self, vcpu: Vcpu, engine: Engine) -> None:
        self._vcpu = vcpu
        self._vm = vcpu.vm
        self._engine = engine
        # Pages of code: virtual address -> the words that are there.
        self._code: dict[int, Any] = {}
        self._registers: stage1.Registers | None = None
        self._is_identity = False
        self._features: stage1.Features | None = None

    def registers_taken(self) -> None:
        """The engine has other registers, and perhaps the VM another CPU."""
        self._features = None
        self.stage1_changes()

    def stage1_changes(self) -> None:
        """The guest writes SCTLR_EL1 or the like."""
        self._registers = None
        self._is_identity = False

    def flush(self) -> None:
        """Have every page asked for again."""
        self._code.clear()
        self._engine.forget_translations()

    # -------------------------------------------------------------------------------------------- pages

    def page(self, va: int, kind: int) -> tuple[int, int] | None:
        """Where a page is in this process, and what the guest may do with it; None: nothing that is memory."""
        vm, name = self._vm, KINDS[kind]
        el, translated = 1, self.untranslated(va)
        if translated is None:
            el = self._engine.el
            try:
                translated = self.translate(va, name, el, self._level(el, name))
            except (stage1.Stage1FaultError, WalkEndedError):
                return None
        if vm.memslots.find(translated.ipa >> vm.page_shift) is None:
            return None
        reached = self.access(behind_stage1(translated, name, va, el, _WORD, described=True))
        if not isinstance(reached, Mapped):
            return None
        allowed = _READ if translated.readable else 0
        if translated.writable and reached.descriptor & S2AP_WRITE:
            allowed |= _WRITE
        if translated.executable and not reached.descriptor & XN:
            allowed |= _EXECUTE
        return reached.hva, allowed

    def _level(self, el: int, kind: str) -> int:
        """The exception level that an access counts as: LDTR and STTR are EL0's."""
        if el and kind != "fetch":
            transfer = instructions.decode(self.word_now())
            if transfer is not None and transfer.unprivileged:
                return 0
        return el

    # -------------------------------------------------------------------------------------------- code

    def executes(self, page: int, hva: int) -> None:
        """A page of code is given to Unicorn: its words are looked at there."""
        self._code[page] = self._engine.words_at(hva)

    def word_now(self) -> int:
        """In a callback: the instruction."""
        return self.word(self._engine.pc_now)

    def word(self, pc: int) -> int:
        """The instruction at an address that the guest executes; 0 where it is not to be had."""
        page = pc & -PAGE
        found = self._code.get(page)
        if found is None:
            # In a callback it is held.
            with self._vm.lock:
                place = self.page(page, FETCH)
                if place is None:
                    return 0
                found = self._code[page] = self._engine.words_at(place[0])
        return int(found[(pc - page) // instructions.SIZE])

    # -------------------------------------------------------------------------------------------- stage 2

    def access(self, what: Access) -> Result:
        """What comes of an access to an IPA."""
        vm = self._vm
        vm.running = self._vcpu
        try:
            found = faults.access(vm, what)
        finally:
            vm.running = None
        if isinstance(found, Mapped) and found.faulted:
            self._vcpu.counters.count("exits")
        if found.__class__ is Mapped and abi.KVM_CAP_GUEST_MEMFD in vm.answers:
            slot = vm.memslots.find(what.ipa >> vm.page_shift)
            if slot is not None and slot.is_guest_memfd and not is_readable(found[2]):
                return RunFailed(EFAULT)
        return found

    # -------------------------------------------------------------------------------------------- stage 1

    @property
    def is_big_endian(self) -> bool:
        """Whether the guest's data is (kvm_vcpu_is_be)."""
        sctlr = (self._registers or self._stage1()).sctlr
        if not sctlr & (SCTLR_EE | SCTLR_E0E):
            return False
        return bool(sctlr & (SCTLR_EE if self._engine.el else SCTLR_E0E))

    def untranslated(self, va: int) -> stage1.Translated | None:
        """Where stage 1 leads with the MMU off; None where there is more to it."""
        if not self._is_identity and not self._stage1().is_identity:
            return None
        found: stage1.Translated = _new(stage1.Translated, (va, None, True, True, True))
        return found

    def translate(self, va: int, kind: str, el: int, translates_as: int, *, uses_pan: bool = True) -> stage1.Translated:
        """Stage 1 of an address, at an exception level or as another. Raises Stage1FaultError and WalkEndedError.

        uses_pan: it goes by PSTATE.PAN, as every access does.
        """
        registers = self._stage1()
        if self._features is None:
            self._features = sys_regs.stage1_features(self._vcpu)
        pan = bool(uses_pan and translates_as and kind != "fetch" and self._engine.pstate & PSTATE_PAN)

        order: Literal["big", "little"] = "big" if registers.sctlr & SCTLR_EE else "little"

        def place_of(ipa: int, level: int, *, updates: bool) -> int:
            walk = "fetch-walk" if kind == "fetch" else "walk"
            reached = self.access(Access(ipa, walk, 8, True, va, el, max(level, 0), updates))
            if not isinstance(reached, Mapped):
                raise WalkEndedError(reached)
            return reached.hva

        def read_table(ipa: int, level: int) -> int:
            return int.from_bytes(read(place_of(ipa, level, updates=False), 8), order)

        def write_table(ipa: int, level: int, descriptor: int) -> None:
            write(place_of(ipa, level, updates=True), descriptor.to_bytes(8, order))

        return stage1.translate(
            registers, self._features, read_table, va, el=translates_as, kind=kind, pan=pan, write=write_table
        )

    def translated(self, va: int, kind: str, el: int, *, uses_pan: bool) -> stage1.Translated | Result | int:
        """Stage 1 of an address, for AT: where it leads, what ended the walk, or the fault status code."""
        try:
            return self.translate(va, kind, self._engine.el, el, uses_pan=uses_pan)
        except stage1.Stage1FaultError as fault:
            return fault.fsc
        except WalkEndedError as ended:
            return ended.result

    def _stage1(self) -> stage1.Registers:
        found = self._registers
        if found is None:
            of = self._engine.system
            found = self._registers = stage1.Registers(
                of(SCTLR_EL1) or 0, of(TCR_EL1) or 0, of(TTBR0_EL1) or 0, of(TTBR1_EL1) or 0
            )
            self._is_identity = found.is_identity
        return found


def behind_stage1(translated: stage1.Translated, kind: str, va: int, el: int, size: int, *, described: bool) -> Access:
    """The access that stage 1 makes of an instruction's."""
    ipa, level = translated.ipa, translated.level
    if level is None:
        return Access(ipa, kind, size, described, None if ipa == va else va, el)
    return Access(ipa, kind, size, described, va, el, max(level, 0))
