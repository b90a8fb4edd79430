# SPDX-License-Identifier: Apache-2.0
"""The CPU of one vCPU: what it runs, and what comes of everything that Unicorn cannot do by itself.

Unicorn executes until something is to be seen to: a page that stage 1 or stage 2 does not give, an exception, WFI, or
somebody who wants it to stop. Each of these is dealt with here, at the instruction: as the guest's own exception, as an
exit to user space, or by going on.
"""

from __future__ import annotations

from errno import EFAULT, EINTR
from struct import Struct
from threading import Event, get_ident
from time import sleep
from typing import TYPE_CHECKING, Any, Final

from kvmipa import abi
from kvmipa.access import Aborted, Access, Mapped, MmioExit, NisvExit, Retried, RunFailed, Skipped
from kvmipa.backend.emulated import faults
from kvmipa.backend.emulated.cpu import calls, exceptions, instructions, signals, stage1, system
from kvmipa.backend.emulated.cpu.engine import KINDS, PAGE, Engine, raised
from kvmipa.backend.emulated.cpu.registers import SCTLR_EL1, TCR_EL1, TTBR0_EL1, TTBR1_EL1
from kvmipa.backend.emulated.dirty_ring import is_full
from kvmipa.backend.emulated.user_memory import is_readable, read_number
from kvmipa.stage2.descriptors import S2AP_WRITE, XN

if TYPE_CHECKING:
    from collections.abc import Callable

    from kvmipa.access import Result
    from kvmipa.backend.emulated.cpu.instructions import Transfer
    from kvmipa.backend.emulated.vcpu import Vcpu

_PAGE_MASK: Final = -PAGE
# Of an address: its page, without the tag.
_IN_PAGE: Final = (1 << 56) - PAGE
_FETCH: Final = 18
_INSTRUCTION: Final = 4

# What Unicorn may do with a page (uc_prot).
_READ, _WRITE, _EXECUTE = 1, 2, 4

# PSTATE.PAN.
_PAN: Final = 1 << 22

# Unicorn's numbers of exceptions (target/arm/cpu.h: EXCP_*).
_UNDEFINED, _SVC, _PREFETCH_ABORT, _DATA_ABORT, _BRK, _HVC, _SMC = 1, 2, 3, 4, 7, 11, 13

# How often somebody who wants a CPU to stop tries, in seconds: it may not have started yet.
_PAUSE: Final = 0.00005

# Where things are in struct kvm_run (kernel-device-spec 7).
_EXIT_REASON: Final = 8
_FLAGS: Final = 14
_UNION: Final = 32
_put_reason: Final = Struct("=I").pack_into
_put_flags: Final = Struct("=H").pack_into
_put_mmio: Final = Struct("=QQIB").pack_into
_get_data: Final = Struct("=Q").unpack_from
_NISV: Final = Struct(abi.STRUCTS["exit_arm_nisv"][0])
_DEBUG: Final = Struct("=II")

# ESR_EL2 of a software step, and of BRK.
_STEP: Final = 0xCA00_0022
_ISV: Final = 1 << 24
_BREAKPOINT: Final = 0x3C << 26 | 1 << 25

_MMIO: Final = abi.KVM_EXIT_MMIO
_DATA_AT: Final = _UNION + 8


_new: Final[Any] = tuple.__new__


class _WalkEndedError(Exception):
    """A stage-1 table is not to be read."""

    def __init__(self, result: Result) -> None:
        super().__init__(result)
        self.result = result


class Processor:
    """A vCPU's CPU. Its engine is made when it first enters the guest.

    result: an exit that a call of the guest has prepared. halts: it is to wait as with WFI. kicked: KVM_RUN is to
    return EINTR. thread: the one that is in KVM_RUN.
    """

    engine: Engine

    def __init__(self, vcpu: Vcpu, area: memoryview) -> None:
        self.vcpu = vcpu
        self.vm = vcpu.vm
        self._area = area
        self.has_engine = False
        self.result: int | None = None
        self.halts = False
        self.kicked = False
        self.thread: int | None = None
        self._last_thread: int | None = None
        self._wake = Event()
        # In Unicorn's hands, where it may use translations and code that it has seen; in a callback it looks at stale
        # before it goes on.
        self._in_guest = False
        self._in_callback = False
        self._asked_to_stop = False
        self._stale = True
        self._stale_code = False
        self._refused: tuple[int, int] | None = None
        self._exception: int | None = None
        # Of the last time that Unicorn executed: whether it did, with what result, from where, and how.
        self._has_executed = False
        self._code_of_stop = 0
        self._start = 0
        self._single_step = False
        # KVM did what the instruction was for.
        self._is_emulated = False
        self._saved: Any = None
        self._is_saved = False
        # Registers as they were at an instruction that turned out to be undefined.
        self._undefined: Any = None
        self._transfer: Transfer | None = None
        self._behind: int | None = None
        # Pages of code: virtual address -> the words that are there.
        self._code: dict[int, Any] = {}
        self._stage1: stage1.Registers | None = None
        self._is_identity = False
        self._features: stage1.Features | None = None

    # -------------------------------------------------------------------------------------------- running

    def enter(self) -> None:
        """KVM_RUN begins: from here on a kick ends it."""
        self.kicked = False
        self.thread = get_ident()

    def run(self) -> int:
        """Run the guest until KVM_RUN has something to return: the exit reason, or -errno. thread is set."""
        if not self.has_engine:
            self.engine = Engine(self)
            self.has_engine = True
        if self.thread != self._last_thread:
            self._last_thread = self.thread
            signals.runs_in(self.thread, self)
        file = self.vcpu.registers
        if file.live is not self.engine:
            self.engine.take(file)
            self._stale = self._stale_code = True
            self._features = None
            self.stage1_changes()
        while True:
            result = self._step()
            if raised:
                self._raise()
            if result is not None:
                return result

    @staticmethod
    def _raise() -> None:
        """Raise what a signal handler of this thread raised while Unicorn was about to call back."""
        error = raised.pop(get_ident(), None)
        if error is not None:
            raise error

    def _step(self) -> int | None:
        vcpu = self.vcpu
        if vcpu.mp_state or vcpu.boot is not None or self.halts:
            result = self._wait()
            if result is not None:
                return result
        self._single_step = vcpu.debug_control.single_step
        self._has_executed = self._is_saved = False
        try:
            self._execute(self.engine.pc)
            return self._deal()
        except BaseException as error:
            if not self._has_executed:
                raise
            # A signal handler's: what the guest did is dealt with first, from where that began.
            raised.setdefault(get_ident(), error)
            if self._is_saved:
                self.engine.restore(self._saved)
            return self._deal()

    def _deal(self) -> int | None:
        """See to what Unicorn stopped for; after a failure it is done again."""
        result = None
        if self._undefined is not None:
            self._undo()
        elif self._refused is not None:
            result = self._ring_exit() or self._fault(*self._refused)
        elif self._exception is not None:
            result = self._taken(self._exception)
        elif self._code_of_stop:
            raise RuntimeError(f"Unicorn stopped at {self.engine.pc:#x} with error {self._code_of_stop}")
        elif not self._asked_to_stop:
            self._stopped_by_itself()
        if result is not None:
            return result
        if self.kicked:
            return self.interrupted()
        return self._stepped() if self._single_step and not self._asked_to_stop else None

    def _stepped(self) -> int | None:
        """One instruction is done, or has led to an exception; what KVM did for the guest is a step since 6.1."""
        if self.halts:
            result = self._wait()
            if result is not None:
                return result
        if self._is_emulated and not self.vm.behaviour.emulated_instructions_step:
            return None
        executed = not self._is_emulated and self._exception is None and self._refused is None
        return self.debug_exit(_STEP | _ISV if executed else _STEP)

    def completion_steps(self) -> int | None:
        """The exit that the completion of an MMIO exit is, where user space goes step by step."""
        if self.vcpu.debug_control.single_step and self.vm.behaviour.emulated_instructions_step:
            return self.debug_exit(_STEP)
        return None

    def save(self) -> None:
        """What follows changes registers: if a signal handler raises in between, it is done again."""
        if not self._is_saved:
            self._saved = self.engine.snapshot(self._saved)
            self._is_saved = True

    def _undo(self) -> None:
        """An instruction that was found to be undefined while Unicorn was at it."""
        self.engine.restore(self._undefined)
        self._stale = True
        # So that it is no instruction that was executed.
        self._exception = _UNDEFINED
        self._is_emulated = False
        self._take(exceptions.UNKNOWN, self.engine.pc)
        self._undefined = None

    def _execute(self, start: int) -> None:
        """Let Unicorn execute, until it stops; start: where from."""
        engine = self.engine
        self._refused = self._exception = None
        self._asked_to_stop = self._is_emulated = False
        self._code_of_stop = 0
        # From here on whoever wants it to stop tries until it has.
        self._in_guest = True
        try:
            if self.kicked:
                self._asked_to_stop = True
                return
            if self._stale:
                self._flush()
            if self._stale_code or engine.pc_was_set:
                self._stale_code = engine.pc_was_set = False
                engine.forget_code()
            self._start = start
            self._has_executed = True
            self._code_of_stop = engine.run(1 if self._single_step else 0)
        except BaseException as error:
            # A signal handler's, which run() raises once this is dealt with.
            self._asked_to_stop = True
            raised.setdefault(get_ident(), error)
        finally:
            self._in_guest = False

    def _flush(self) -> None:
        self._stale = False
        self._code.clear()
        self.engine.forget_translations()

    def _stopped_by_itself(self) -> None:
        """Behind WFI, or after so many instructions."""
        last = self._start if self._single_step else self.engine.pc - _INSTRUCTION
        if self._word(last) == instructions.WFI:
            self.halts = self._is_emulated = True
            self.vcpu.counters.count("wfi_exit_stat")

    def _wait(self) -> int | None:
        """Sleep while the vCPU is stopped, suspended or in WFI, of which only a kick ends the latter."""
        vcpu = self.vcpu
        while True:
            self._wake.clear()
            if self.kicked:
                self.halts = False
                return self.interrupted()
            if vcpu.boot is not None and not vcpu.mp_state:
                self._boot(*vcpu.boot)
            if not vcpu.mp_state and not (self.halts and not vcpu.exception_pending):
                self.halts = False
                return None
            try:
                self._wake.wait()
            except BaseException:
                # A signal handler's: WFI is over.
                self.halts = False
                raise

    def _boot(self, pc: int, context: int) -> None:
        """PSCI CPU_ON has found this vCPU: reset, with the entry point (kvm_reset_vcpu)."""
        from kvmipa.backend.emulated import vcpu_registers

        vcpu = self.vcpu
        with self.vm.lock:
            self.engine.give_back(vcpu.registers)
            vcpu.boot = None
            vcpu_registers.reset(vcpu, again=True)
            vcpu.registers.pc, vcpu.registers.x[0] = pc, context
        self.engine.take(vcpu.registers)
        self.halts = False
        self.stage1_changes()
        self._stale = True

    def complete(self) -> bool:
        """Finish the instruction of an MMIO exit: its register, and behind it (kvm_handle_mmio_return).

        False: an abort is pending instead.
        """
        transfer = self._transfer
        if transfer is None or self.vcpu.exception_pending:
            self.drop_mmio()
            return False
        if not transfer.store:
            extends = not transfer.signed or self.vm.behaviour.mmio_loads_are_extended
            value = transfer.loaded(_get_data(self._area, _DATA_AT)[0], extends=extends)
            self.engine.set_x(transfer.register, value)
        # Once, also if a signal handler raises in between, and it is done again.
        if self._behind is None:
            self._behind = self.engine.pc + _INSTRUCTION
        self.engine.pc = self._behind
        self.drop_mmio()
        return True

    def drop_mmio(self) -> None:
        """An MMIO exit is not to be completed, or is."""
        self._transfer = self._behind = None

    @property
    def completes(self) -> bool:
        """Whether an MMIO exit is open."""
        return self._transfer is not None

    # -------------------------------------------------------------------------------------------- other threads

    def interrupt_guest(self) -> None:
        """Have it look again at what it is to do; it goes on by itself. It may still be in the guest for a moment."""
        self._asked_to_stop = True
        if self._in_guest:
            self.engine.stop()
        self.wake()

    def wake(self) -> None:
        """Have it look whether it still has to wait."""
        self._wake.set()

    def kick(self) -> None:
        """Have the KVM_RUN that is in progress return EINTR; it has left the guest then."""
        if self.thread is not None:
            self.kicked = True
            self.wake()
            self._stop_until(lambda: not self.kicked)

    def _stop_until(self, done: Callable[[], bool]) -> None:
        while self._in_guest and not done():
            self._asked_to_stop = True
            self.engine.stop()
            if self.thread == get_ident():
                return
            sleep(_PAUSE)

    def forget_translations(self) -> None:
        """Translations have changed: what it has of them is not used any more, when this returns.

        The VM's lock is held: a callback that waits for it has them looked at after it.
        """
        self._stale = True
        if self._in_guest:
            self._stop_until(lambda: self._in_callback or not self._stale)

    def translations_stale(self) -> None:
        """Another vCPU has invalidated translations of stage 1: they are asked for anew as soon as it can be had."""
        self._stale = True
        if self._in_guest:
            self.interrupt_guest()

    def forget_code(self) -> None:
        """Code has changed, or may have."""
        self._stale_code = True
        if self._in_guest:
            self.interrupt_guest()

    def close(self) -> None:
        """The descriptor is closed, and nobody runs the vCPU any more."""
        signals.closed(self)
        if self.has_engine:
            self.has_engine = False
            self.vcpu.registers.live = None
            self.engine.close()

    def give_back(self) -> None:
        """Put the registers back into their file: somebody is about to change all of them."""
        if self.has_engine and self.vcpu.registers.live is self.engine:
            self.engine.give_back(self.vcpu.registers)

    # -------------------------------------------------------------------------------------------- exits

    def exit(self, reason: int, layout: Struct, *fields: int) -> int:
        """Write an exit into the run area: its reason."""
        layout.pack_into(self._area, _UNION, *fields)
        _put_reason(self._area, _EXIT_REASON, reason)
        return reason

    def interrupted(self) -> int:
        """KVM_RUN gives up for a signal."""
        self.kicked = False
        self.vcpu.counters.count("signal_exits")
        _put_reason(self._area, _EXIT_REASON, abi.KVM_EXIT_INTR)
        return -EINTR

    def debug_exit(self, syndrome: int) -> int:
        """KVM_EXIT_DEBUG, with flags since 6.1: the syndrome's upper half counts."""
        if self.vm.behaviour.run_flags:
            _put_flags(self._area, _FLAGS, 1)
        return self.exit(abi.KVM_EXIT_DEBUG, _DEBUG, syndrome, 0)

    def _mmio(self, found: MmioExit, transfer: Transfer) -> int | None:
        address, size, is_write = found
        value = 0
        if is_write:
            value = self._stored(transfer)
            vm = self.vm
            if "io_events" in vm.__dict__:
                with vm.lock:
                    taken = vm.io_events.write(address, size, value.to_bytes(8, "little")[:size])
                if taken:
                    self.vcpu.counters.count("mmio_exit_kernel")
                    self.engine.pc += _INSTRUCTION
                    self._is_emulated = True
                    return None
        self._transfer, self._behind = transfer, None
        self.vcpu.counters.count("mmio_exit_user")
        area = self._area
        _put_mmio(area, _UNION, address, value, size, is_write)
        _put_reason(area, _EXIT_REASON, _MMIO)
        return _MMIO

    def _ring_exit(self) -> int | None:
        """KVM_EXIT_DIRTY_RING_FULL, if it is: the access is made when the ring has room again."""
        if not (self.vm.dirty_ring_size and is_full(self.vcpu)):
            return None
        _put_reason(self._area, _EXIT_REASON, abi.KVM_EXIT_DIRTY_RING_FULL)
        return abi.KVM_EXIT_DIRTY_RING_FULL

    def _stored(self, transfer: Transfer) -> int:
        if transfer.register == instructions.XZR:
            return 0
        return self.engine.x(transfer.register) & (1 << 8 * transfer.size) - 1

    # -------------------------------------------------------------------------------------------- pages

    def fill(self, va: int, kind: int, result: Any, /) -> bool:
        """See Guest."""
        if self._undefined is not None:
            return False
        self._in_callback = True
        with self.vm.lock:
            try:
                found = self._page(va, kind)
                if self._stale:
                    self._flush()
            finally:
                self._in_callback = False
            if found is None or (self.vm.dirty_ring_size and is_full(self.vcpu)):
                self._refused = va, kind
                return False
            if kind == _FETCH:
                self._code[va] = self.engine.words_at(found[0])
        result.paddr, result.perms = found
        return True

    def _page(self, va: int, kind: int) -> tuple[int, int] | None:
        """Where a page is in this process, and what the guest may do with it; None: nothing that is memory."""
        vm, name = self.vm, KINDS[kind]
        el, translated = 1, self._untranslated(va)
        if translated is None:
            el = self.engine.el
            try:
                translated = self._translate(va, name, el, self._level(el, name))
            except (stage1.Stage1FaultError, _WalkEndedError):
                return None
        if vm.memslots.find(translated.ipa >> vm.page_shift) is None:
            return None
        reached = self._access(_what(translated, name, va, el, 8, described=True))
        if not isinstance(reached, Mapped):
            return None
        allowed = _READ if translated.readable else 0
        if translated.writable and reached.descriptor & S2AP_WRITE:
            allowed |= _WRITE
        if translated.executable and not reached.descriptor & XN:
            allowed |= _EXECUTE
        return reached.hva, allowed

    def _access(self, what: Access) -> Result:
        vm = self.vm
        vm.running = self.vcpu
        try:
            found = faults.access(vm, what)
        finally:
            vm.running = None
        if isinstance(found, Mapped) and found.faulted:
            self.vcpu.counters.count("exits")
        if found.__class__ is Mapped and abi.KVM_CAP_GUEST_MEMFD in vm.answers:
            slot = vm.memslots.find(what.ipa >> vm.page_shift)
            if slot is not None and slot.is_guest_memfd and not is_readable(found[2]):
                return RunFailed(EFAULT)
        return found

    def _registers(self) -> stage1.Registers:
        found = self._stage1
        if found is None:
            read = self.engine.system
            found = self._stage1 = stage1.Registers(
                read(SCTLR_EL1) or 0, read(TCR_EL1) or 0, read(TTBR0_EL1) or 0, read(TTBR1_EL1) or 0
            )
            self._is_identity = found.is_identity
        return found

    def stage1_changes(self) -> None:
        """The guest writes SCTLR_EL1 or the like."""
        self._stage1 = None
        self._is_identity = False

    def _untranslated(self, va: int) -> stage1.Translated | None:
        """Where stage 1 leads with the MMU off; None where there is more to it."""
        if not self._is_identity and not self._registers().is_identity:
            return None
        found: stage1.Translated = _new(stage1.Translated, (va, None, True, True, True))
        return found

    def _level(self, el: int, kind: str) -> int:
        """The exception level that an access counts as: LDTR and STTR are EL0's."""
        if el and kind != "fetch":
            transfer = instructions.decode(self._word(self.engine.pc_now))
            if transfer is not None and transfer.unprivileged:
                return 0
        return el

    def _translate(self, va: int, kind: str, el: int, translates_as: int) -> stage1.Translated:
        registers = self._registers()
        if self._features is None:
            self._features = system.stage1_features(self.vcpu)
        pan = bool(translates_as and kind != "fetch" and self.engine.pstate & _PAN)

        def read(ipa: int, level: int) -> int:
            walk = "fetch-walk" if kind == "fetch" else "walk"
            reached = self._access(Access(ipa, walk, 8, True, va, el, max(level, 0)))
            if not isinstance(reached, Mapped):
                raise _WalkEndedError(reached)
            return read_number(reached.hva, 8)

        return stage1.translate(registers, self._features, read, va, el=translates_as, kind=kind, pan=pan)

    def translated(self, va: int, kind: str, el: int) -> stage1.Translated | Result | int:
        """Stage 1 of an address, for AT: where it leads, what ended the walk, or the fault status code."""
        with self.vm.lock:
            try:
                return self._translate(va, kind, self.engine.el, el)
            except stage1.Stage1FaultError as fault:
                return fault.fsc
            except _WalkEndedError as ended:
                return ended.result

    def word_now(self) -> int:
        """In a callback: the instruction."""
        return self._word(self.engine.pc_now)

    def _word(self, pc: int) -> int:
        """The instruction at an address that the guest executes."""
        page = pc & _PAGE_MASK
        found = self._code.get(page)
        if found is None:
            with self.vm.lock:
                place = self._page(page, _FETCH)
            if place is None:
                return 0
            found = self._code[page] = self.engine.words_at(place[0])
        return int(found[(pc - page) // _INSTRUCTION])

    # -------------------------------------------------------------------------------------------- faults

    def _fault(self, page: int, number: int) -> int | None:
        """A page that is not to be had: what comes of the access, exactly."""
        engine, kind = self.engine, KINDS[number]
        pc = engine.pc
        va, size, described, unprivileged = page, 8, False, False
        transfer = None
        if number == _FETCH:
            if pc & _PAGE_MASK == page:
                va = pc
        else:
            transfer = instructions.decode(self._word(pc))
            if transfer is not None:
                size, described, unprivileged = transfer.size, transfer.described, transfer.unprivileged
                address = transfer.address(engine, pc)
                # Where it is in the next page, the first one was memory.
                if not (address ^ page) & _IN_PAGE:
                    va = address
        with self.vm.lock:
            found = self._outcome(va, kind, min(size, 8), described=described, unprivileged=unprivileged)
        if not isinstance(found, Aborted) or not found.by_cpu:
            self.vcpu.has_trapped, self.vcpu.last_far = True, va
        if found.__class__ is MmioExit:
            assert transfer is not None
            return self._mmio(found, transfer)
        return self._come_to(found)

    def _outcome(self, va: int, kind: str, size: int, *, described: bool, unprivileged: bool) -> Result:
        """What comes of an access; the exception level only matters to a guest that takes an abort."""
        translated = self._untranslated(va)
        if translated is not None:
            found = self._access(Access(va, kind, size, described))
            if not isinstance(found, Aborted) or self.engine.el:
                return found
        el = self.engine.el
        if translated is None:
            try:
                translated = self._translate(va, kind, el, 0 if unprivileged else el)
            except stage1.Stage1FaultError as fault:
                esr = exceptions.cpu_abort(el, fault.fsc, fetch=kind == "fetch", write=kind == "store")
                return Aborted(esr, va, by_cpu=True)
            except _WalkEndedError as ended:
                return ended.result
        return self._access(_what(translated, kind, va, el, size, described=described))

    def _come_to(self, found: Result) -> int | None:
        match found:
            case Mapped() | Retried() | MmioExit():
                return None
            case NisvExit(esr_iss, fault_ipa):
                return self.exit(abi.KVM_EXIT_ARM_NISV, _NISV, esr_iss, fault_ipa)
            case RunFailed(errno):
                return -errno
            case Skipped():
                self.engine.pc += _INSTRUCTION
                self._is_emulated = True
                return None
            case Aborted(esr, far):
                self._take(esr, self.engine.pc, far)
                return None

    def _take(self, esr: int, pc: int, far: int | None = None) -> None:
        self.save()
        exceptions.take(self.engine, esr, pc=pc, far=far, has_pan=system.has_pan(self.vcpu))

    # -------------------------------------------------------------------------------------------- exceptions

    def exception(self, number: int, /) -> None:
        """See Guest."""
        self._exception = number

    def system(self, register: int, instruction: Any, /) -> int:
        """See Guest."""
        if self._undefined is not None:
            return 1
        done = system.instruction(self, register, instruction)
        if done and self._undefined is None:
            self._is_emulated = True
        return done

    def undefine(self) -> None:
        """In a callback: the instruction is undefined, and nothing behind it has happened."""
        self._undefined = self.engine.snapshot()
        # Unicorn goes on to the end of its block: no memory is to be had from here on.
        self.engine.forget_translations()
        self.engine.stop()

    def _taken(self, number: int) -> int | None:
        engine = self.engine
        pc = engine.pc
        if number == _SVC:
            word = self._word(pc - _INSTRUCTION)
            self._take(exceptions.SVC | word >> 5 & 0xFFFF, pc)
        elif number == _SMC:
            self.save()
            self._trapped()
            self.vcpu.counters.count("hvc_exit_stat")
            return calls.smc(self, self._word(pc - _INSTRUCTION) >> 5 & 0xFFFF)
        elif number == _BRK:
            immediate = self._word(pc) >> 5 & 0xFFFF
            if self.vcpu.debug_control.software_breakpoints:
                return self.debug_exit(_BREAKPOINT | immediate)
            self._take(exceptions.BRK | immediate, pc)
        elif number == _DATA_ABORT:
            self._misaligned(pc)
        else:
            return self._undefined_at(self._word(pc))
        return None

    def _trapped(self) -> None:
        """KVM has seen an instruction of 32 bits, and does what it is for."""
        self._is_emulated = True
        self.vcpu.has_trapped = True

    def _misaligned(self, pc: int) -> None:
        engine = self.engine
        transfer = instructions.decode(self._word(pc))
        far, write = 0, False
        if transfer is not None:
            far = transfer.address(engine, pc)
            write = transfer.store
        self._take(exceptions.alignment_fault(engine.el, write=write), pc, far)

    def _undefined_at(self, word: int) -> int | None:
        """What Unicorn does not know, or traps; HVC is among it."""
        engine = self.engine
        pc, el = engine.pc, engine.el
        if pc % _INSTRUCTION:
            self._take(exceptions.PC_ALIGNMENT, pc, pc)
            return None
        call = instructions.call(word)
        self.save()
        if call is not None and call[0] == "hvc" and el:
            engine.pc = pc + _INSTRUCTION
            self._trapped()
            self.vcpu.counters.count("hvc_exit_stat")
            return calls.hvc(self)
        if call is not None and call[0] == "smc" and el:
            engine.pc = pc + _INSTRUCTION
            self._trapped()
            return calls.smc(self, call[1])
        if system.emulate(self, word):
            engine.pc = pc + _INSTRUCTION
            self._is_emulated = True
        else:
            self._take(system.syndrome_of_undefined(word, el), pc)
        return None


def _what(translated: stage1.Translated, kind: str, va: int, el: int, size: int, *, described: bool) -> Access:
    """The access that stage 1 makes of an instruction's."""
    ipa, level = translated.ipa, translated.level
    if level is None:
        return Access(ipa, kind, size, described, None if ipa == va else va, el)
    return Access(ipa, kind, size, described, va, el, max(level, 0))
