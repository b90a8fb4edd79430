# SPDX-License-Identifier: Apache-2.0
"""The CPU of one vCPU: it runs the guest until KVM_RUN has something to return.

Unicorn executes until something is to be seen to: a page that stage 1 or stage 2 does not give (aborts), an exception
(traps), WFI (halt), or somebody who wants it to stop (kick). Each of these is dealt with at the instruction: as the
guest's own exception, as an exit to user space, or by going on.
"""

from __future__ import annotations

from errno import EINTR
from threading import get_ident
from typing import TYPE_CHECKING, Any

from kvmipa import abi
from kvmipa.backend.emulated.cpu import aborts, debug, exceptions, halt, instructions, signals, sys_regs, traps
from kvmipa.backend.emulated.cpu.engine import FETCH, Engine, raised
from kvmipa.backend.emulated.cpu.kick import Kicks
from kvmipa.backend.emulated.cpu.mmio import Mmio
from kvmipa.backend.emulated.cpu.run_area import RunArea, exit_of_full_ring
from kvmipa.backend.emulated.cpu.translation import Translation
from kvmipa.backend.emulated.dirty_ring import is_full

if TYPE_CHECKING:
    from collections.abc import Callable

    from kvmipa.backend.emulated.vcpu import Vcpu


class Processor:
    """A vCPU's CPU. Its engine, and the translation for it, are made when it first enters the guest.

    area, kicks, mmio: what it shares with user space, with other threads, and the exit that is to be completed.
    result: an exit that a call of the guest has prepared. halts: it is to wait as with WFI. refused: a page and the
    kind of access for which Unicorn has stopped; exception_number: the exception, by Unicorn's number. is_emulated: KVM
    did what the instruction was for.
    """

    engine: Engine
    translation: Translation

    def __init__(self, vcpu: Vcpu, area: memoryview) -> None:
        self.vcpu = vcpu
        self.vm = vcpu.vm
        self.area = RunArea(area)
        self.kicks = Kicks()
        self.mmio = Mmio(self)
        self.has_engine = False
        self._last_thread: int | None = None
        self.result: int | None = None
        self.halts = False
        self.refused: tuple[int, int] | None = None
        self.exception_number: int | None = None
        self.is_emulated = False
        # Of the last time that Unicorn executed: whether it did, with what result, from where, and how.
        self._has_executed = False
        self._code_of_stop = 0
        self._start = 0
        self._single_step = False
        self._saved: Any = None
        self._is_saved = False
        # Registers as they were at an instruction that turned out to be undefined.
        self._undefined: Any = None

    # -------------------------------------------------------------------------------------------- KVM_RUN

    def enter(self) -> None:
        """KVM_RUN begins: from here on a kick ends it."""
        self.kicks.kicked = False
        self.kicks.thread = get_ident()

    def leave(self) -> None:
        """KVM_RUN ends."""
        self.kicks.thread = None

    def run(self) -> int:
        """Run the guest until KVM_RUN has something to return: the exit reason, or -errno. It has been entered."""
        if not self.has_engine:
            self._make_engine()
        thread = self.kicks.thread
        if thread != self._last_thread:
            self._last_thread = thread
            signals.runs_in(thread, self.kicks)
        file = self.vcpu.registers
        if file.live is not self.engine:
            self.engine.take(file)
            self.kicks.stale = self.kicks.stale_code = True
            self.translation.registers_taken()
        while True:
            result = self._step()
            if raised:
                self._raise()
            if result is not None:
                return result

    def _make_engine(self) -> None:
        self.engine = self.kicks.engine = Engine(self)
        self.translation = Translation(self.vcpu, self.engine)
        self.has_engine = True

    @staticmethod
    def _raise() -> None:
        """Raise what a signal handler of this thread raised while Unicorn was about to call back."""
        error = raised.pop(get_ident(), None)
        if error is not None:
            raise error

    def _step(self) -> int | None:
        vcpu = self.vcpu
        if vcpu.mp_state or vcpu.boot is not None or self.halts:
            result = halt.wait(self)
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

    def _execute(self, start: int) -> None:
        """Let Unicorn execute, until it stops; start: where from."""
        engine, kicks = self.engine, self.kicks
        self.refused = self.exception_number = None
        kicks.asked_to_stop = self.is_emulated = False
        self._code_of_stop = 0
        # From here on whoever wants it to stop tries until it has.
        kicks.in_guest = True
        try:
            if kicks.kicked:
                kicks.asked_to_stop = True
                return
            if kicks.stale:
                self._flush()
            if kicks.stale_code or engine.pc_was_set:
                kicks.stale_code = engine.pc_was_set = False
                engine.forget_code()
            self._start = start
            self._has_executed = True
            self._code_of_stop = engine.run(1 if self._single_step else 0)
        except BaseException as error:
            # A signal handler's, which run() raises once this is dealt with.
            kicks.asked_to_stop = True
            raised.setdefault(get_ident(), error)
        finally:
            kicks.in_guest = False

    def _flush(self) -> None:
        self.kicks.stale = False
        self.translation.flush()

    def _deal(self) -> int | None:
        """See to what Unicorn stopped for; after a failure it is done again."""
        result, kicks = None, self.kicks
        if self._undefined is not None:
            self._undo()
        elif self.refused is not None:
            result = self.ring_exit() or aborts.handle(self, *self.refused)
        elif self.exception_number is not None:
            result = traps.handle(self, self.exception_number)
        elif self._code_of_stop:
            raise RuntimeError(f"Unicorn stopped at {self.engine.pc:#x} with error {self._code_of_stop}")
        elif not kicks.asked_to_stop:
            halt.halt_behind(self, self._start if self._single_step else self.engine.pc - instructions.SIZE)
        if result is not None:
            return result
        if kicks.kicked:
            return self.interrupted()
        return debug.stepped(self) if self._single_step and not kicks.asked_to_stop else None

    def _undo(self) -> None:
        """An instruction that was found to be undefined while Unicorn was at it."""
        self.engine.restore(self._undefined)
        self.kicks.stale = True
        # So that it is no instruction that was executed.
        self.exception_number = traps.UNDEFINED
        self.is_emulated = False
        self.take(exceptions.UNKNOWN, self.engine.pc)
        self._undefined = None

    # -------------------------------------------------------------------------------------------- what it comes to

    def save(self) -> None:
        """What follows changes registers: if a signal handler raises in between, it is done again."""
        if not self._is_saved:
            self._saved = self.engine.snapshot(self._saved)
            self._is_saved = True

    def take(self, esr: int, pc: int, far: int | None = None) -> None:
        """Have the guest take an exception, see exceptions.take()."""
        self.save()
        exceptions.take(self.engine, esr, pc=pc, far=far, has_pan=bool(sys_regs.pan_version(self.vcpu)))

    def skip(self) -> None:
        """KVM has done what the instruction is for: the guest goes on behind it (kvm_incr_pc)."""
        self.engine.pc += instructions.SIZE
        self.is_emulated = True

    def interrupted(self) -> int:
        """KVM_RUN gives up for a signal."""
        self.kicks.kicked = False
        self.vcpu.counters.count("signal_exits")
        self.area.reason = abi.KVM_EXIT_INTR
        return -EINTR

    def ring_exit(self) -> int | None:
        """The exit for a full dirty ring, if it is: the access is made when the ring has room again."""
        return exit_of_full_ring(self.area) if self.vm.dirty_ring_size and is_full(self.vcpu) else None

    def completion_exit(self) -> int | None:
        """The exit that the completion of an MMIO exit is, if it is."""
        return debug.completion(self)

    # -------------------------------------------------------------------------------------------- Guest

    def fill(self, va: int, kind: int, result: Any, /) -> bool:
        """See Guest."""
        if self._undefined is not None:
            return False
        found: bool = self._in_callback(self._fill, va, kind, result)
        return found

    def _fill(self, va: int, kind: int, result: Any) -> bool:
        found = self.translation.page(va, kind)
        if found is None or (self.vm.dirty_ring_size and is_full(self.vcpu)):
            self.refused = va, kind
            return False
        if kind == FETCH:
            self.translation.executes(va, found[0])
        result.paddr, result.perms = found
        return True

    def _in_callback(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """Do what a callback is for, with the VM's lock: no callback takes it otherwise.

        Whoever has it and waits for this CPU to leave the guest (Kicks.forget_translations) waits no longer once this
        waits for the lock: what the CPU knew by then is forgotten before it goes on.
        """
        kicks = self.kicks
        kicks.in_callback = True
        with self.vm.lock:
            try:
                return function(*arguments)
            finally:
                if kicks.stale:
                    self._flush_in_guest()
                kicks.in_callback = False

    def _flush_in_guest(self) -> None:
        """Forget translations in a callback, and leave the guest: code jumps within its page without asking for it."""
        self._flush()
        if not self._single_step:
            self.kicks.asked_to_stop = True
            self.engine.stop()

    def exception(self, number: int, /) -> None:
        """See Guest."""
        self.exception_number = number

    def system(self, register: int, instruction: Any, /) -> int:
        """See Guest."""
        if self._undefined is not None:
            return 1
        done: int = self._in_callback(sys_regs.instruction, self, register, instruction)
        if done and self._undefined is None:
            self.is_emulated = True
        return done

    def stage1_written(self) -> None:
        """See Guest."""
        self.translation.stage1_changes()
        self.kicks.stale = True

    def undefine(self) -> None:
        """In a callback: the instruction is undefined, and nothing behind it has happened."""
        self._undefined = self.engine.snapshot()
        # Unicorn goes on to the end of its block: no memory is to be had from here on.
        self.engine.forget_translations()
        self.engine.stop()

    # -------------------------------------------------------------------------------------------- its descriptor

    def kick(self) -> None:
        """Have the KVM_RUN that is in progress return EINTR; it has left the guest then."""
        self.kicks.kick()

    def forget_translations(self) -> None:
        """Stage 2 has changed: what it has of it is not used any more, when this returns. The VM's lock is held."""
        self.kicks.forget_translations()

    def drop_mmio(self) -> None:
        """An MMIO exit is not to be completed."""
        self.mmio.drop()

    def give_back(self) -> None:
        """Put the registers back into their file: somebody is about to change all of them."""
        if self.has_engine and self.vcpu.registers.live is self.engine:
            self.engine.give_back(self.vcpu.registers)

    def close(self) -> None:
        """The descriptor is closed, and nobody runs the vCPU any more."""
        signals.closed(self.kicks)
        if self.has_engine:
            self.has_engine = False
            self.vcpu.registers.live = None
            self.engine.close()
