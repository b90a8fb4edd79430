# SPDX-License-Identifier: Apache-2.0
"""One Unicorn engine: how it is set up so that it translates nothing itself, and its registers.

Its "physical" address of a byte is the byte's address in this process: the whole address space is one mapping of its
own to itself, so that guest memory is shared by pointer. What a guest reaches is decided by the translations that a
Guest gives, page by page.
"""

from __future__ import annotations

from functools import lru_cache
from threading import get_ident
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Protocol
from weakref import ref

from kvmipa.backend.emulated.cpu.library import library
from kvmipa.backend.emulated.cpu.registers import KEPT, SCR_EL3, SPSR_EL1, STAGE1, TPIDR_EL1, U64
from kvmipa.backend.emulated.register_file import SPSRS, VECTORS
from kvmipa.system_registers import encoding

if TYPE_CHECKING:
    from collections.abc import Callable

    from kvmipa.backend.emulated.cpu.library import Library
    from kvmipa.backend.emulated.register_file import Core, RegisterFile

# Kinds of accesses, as Unicorn numbers them (UC_MEM_READ, ...).
FETCH: Final = 18
KINDS: Final = {16: "load", 17: "store", FETCH: "fetch"}

PAGE: Final = 4096

# Addresses of a process on 64-bit Linux and macOS, but for the first pages.
_FIRST: Final = 0x10000
_END: Final = 1 << 47

# PSTATE: M[3:2] is the exception level, M[0] SPSel.
_EL: Final = 0xC
_SPSEL: Final = 0x1

_SCR_RW: Final = 1 << 10

_KEPT: Final = frozenset(KEPT)


class Guest(Protocol):
    """Who answers an engine while it runs."""

    def fill(self, va: int, kind: int, result: Any, /) -> bool:
        """Where a page is: write paddr and perms into the result; False: the instruction is not to be executed."""
        ...

    def exception(self, number: int, /) -> None:
        """The CPU takes an exception: it has been stopped."""
        ...

    def system(self, register: int, instruction: Any, /) -> int:
        """MRS, MSR, SYS: 1 where it is done, 0 where Unicorn shall do it."""
        ...

    def stage1_written(self) -> None:
        """Somebody else than the guest has changed a register of STAGE1."""
        ...


# What a signal handler raised while a callback was about to run: thread -> exception. The run ends, and raises it.
raised: Final[dict[int, BaseException]] = {}


class _Callbacks(NamedTuple):
    """One of each kind for all engines; an engine's handle tells them whose it is."""

    fill: Any
    interrupt: Any
    system: Any


@lru_cache(maxsize=1)
def _callbacks() -> _Callbacks:
    found = library()
    from_handle, stop = found.ffi.from_handle, found.lib.uc_emu_stop

    def fill(engine: Any, va: int, kind: int, result: Any, data: Any) -> bool:
        guest: Guest = from_handle(data)()
        return guest.fill(va, kind, result)

    def interrupt(engine: Any, number: int, data: Any) -> None:
        stop(engine)
        guest: Guest = from_handle(data)()
        guest.exception(number)

    def system(engine: Any, register: int, instruction: Any, data: Any) -> int:
        guest: Guest = from_handle(data)()
        return guest.system(register, instruction)

    def again(function: Callable[..., Any], refusal: Any) -> Callable[..., Any]:
        """A signal handler raised in the callback: keep that, end the run, and do what the callback was for."""
        count = function.__code__.co_argcount

        def onerror(_kind: Any, error: BaseException, trace: Any) -> Any:
            arguments = [trace.tb_frame.f_locals[name] for name in function.__code__.co_varnames[:count]]
            raised.setdefault(get_ident(), error)
            try:
                return function(*arguments)
            except BaseException:
                return refusal
            finally:
                stop(arguments[0])

        return onerror

    make = found.ffi.callback
    return _Callbacks(
        make("tlb_fill", fill, error=False, onerror=again(fill, False)),
        make("interrupt", interrupt, onerror=again(interrupt, None)),
        make("system_instruction", system, error=0, onerror=again(system, 0)),
    )


class Engine:
    """A CPU with its registers. It is one thread's at a time, but for stop().

    pc: where it goes on; pc_was_set: user space has changed it. The registers are its own from take() to give_back().
    """

    def __init__(self, guest: Guest) -> None:
        self._library = found = library()
        self._lib = lib = found.lib
        ffi = found.ffi
        place = ffi.new("uc_engine **")
        found.check(lib.uc_open(found.general.UC_ARCH_ARM64, 0, place))
        self._guest = ref(guest)
        self._handle = ffi.new_handle(self._guest)
        self.uc: Any = ffi.gc(place[0], lib.uc_close)
        found.control(self.uc, "CPU_MODEL", ffi.cast("int", found.arm64.UC_CPU_ARM64_MAX))
        found.control(self.uc, "UC_PAGE_SIZE", ffi.cast("uint32_t", PAGE))
        found.control(self.uc, "TLB_TYPE", ffi.cast("int", found.general.UC_TLB_VIRTUAL))
        # No address ends a run.
        found.control(self.uc, "UC_USE_EXITS", ffi.cast("int", 1))
        everything = found.general.UC_PROT_ALL
        found.check(lib.uc_mem_map_ptr(self.uc, _FIRST, _END - _FIRST, everything, ffi.cast("void *", _FIRST)))
        self._add_hooks(ffi)
        self._names = _register_names(found)
        self._x_names = _x_names(found)
        self._value = ffi.new("uint64_t *")
        self._word = ffi.new("uint32_t *")
        self._vector = ffi.new("uint64_t[2]")
        self._system = ffi.new("uc_arm64_cp_reg *")
        self._start = lib.uc_emu_start
        self._read = lib.uc_reg_read
        self._write = lib.uc_reg_write
        self._pc_name = self._names["pc"]
        self._pstate_name = self._names["pstate"]
        self._cp_name = found.arm64.UC_ARM64_REG_CP_REG
        # None: Unicorn has to be asked. What it has is right at any moment, also when a signal handler raises.
        self._pc: int | None = None
        self.pc_was_set = False
        # EL1 is of 64 bits: otherwise it takes a return to EL1 for an illegal one.
        self.set_system(SCR_EL3, _SCR_RW)

    def _add_hooks(self, ffi: Any) -> None:
        general, arm64, callbacks = self._library.general, self._library.arm64, _callbacks()
        place = ffi.new("uc_hook *")
        # From 1 to 0: everywhere.
        add = (self._handle, ffi.cast("uint64_t", 1), ffi.cast("uint64_t", 0))
        check, hook = self._library.check, self._lib.uc_hook_add
        check(hook(self.uc, place, general.UC_HOOK_TLB_FILL, callbacks.fill, *add))
        check(hook(self.uc, place, general.UC_HOOK_INTR, callbacks.interrupt, *add))
        for kind in (arm64.UC_ARM64_INS_MRS, arm64.UC_ARM64_INS_MSR, arm64.UC_ARM64_INS_SYS):
            check(hook(self.uc, place, general.UC_HOOK_INSN, callbacks.system, *add, ffi.cast("int", kind)))

    def close(self) -> None:
        """Give its memory back; it cannot be used any more."""
        self._library.ffi.release(self.uc)
        self.uc = None

    # -------------------------------------------------------------------------------------------- running

    def run(self, count: int = 0) -> int:
        """Execute from pc on, so many instructions or until something is to be seen to: Unicorn's error, or 0."""
        start, self._pc = self.pc, None
        code: int = self._start(self.uc, start, 0, 0, count)
        return code

    def stop(self) -> None:
        """Have run() come back, from any thread; without effect where it is not executing yet."""
        if self.uc is not None:
            self._lib.uc_emu_stop(self.uc)

    def words_at(self, address: int) -> Any:
        """The words of a page of code that is being executed, as they are."""
        return self._library.ffi.cast("uint32_t *", address)

    @property
    def pc(self) -> int:
        """Where it goes on."""
        found = self._pc
        if found is None:
            found = self._pc = self.pc_now
        return found

    @pc.setter
    def pc(self, value: int) -> None:
        self._pc = None
        self._value[0] = value & U64
        self._write(self.uc, self._pc_name, self._value)

    @property
    def pc_now(self) -> int:
        """PC in a callback."""
        self._read(self.uc, self._pc_name, self._value)
        return int(self._value[0])

    def forget_translations(self) -> None:
        """Have every page asked for again."""
        self._library.control(self.uc, "TLB_FLUSH")

    def forget_code(self) -> None:
        """Have every instruction looked at again."""
        self._library.control(self.uc, "TB_FLUSH")

    def snapshot(self, place: Any = None) -> Any:
        """Everything that is in its registers, for restore(); also in a callback. place: of an older one."""
        if place is None:
            found = self._library.ffi.new("void **")
            self._library.check(self._lib.uc_context_alloc(self.uc, found))
            place = self._library.ffi.gc(found[0], self._lib.uc_context_free)
        self._library.check(self._lib.uc_context_save(self.uc, place))
        return place

    def restore(self, snapshot: Any) -> None:
        """Put the registers back as they were."""
        self._pc = None
        self._library.check(self._lib.uc_context_restore(self.uc, snapshot))

    # -------------------------------------------------------------------------------------------- registers

    def x(self, register: int) -> int:
        """X0 to X30."""
        self._read(self.uc, self._x_names[register], self._value)
        return int(self._value[0])

    def set_x(self, register: int, value: int) -> None:
        """Write X0 to X30; 31 is XZR."""
        if register < len(self._x_names):
            self._value[0] = value
            self._write(self.uc, self._x_names[register], self._value)

    @property
    def sp(self) -> int:
        """The stack pointer in use."""
        return self._core("sp")

    @property
    def pstate(self) -> int:
        """PSTATE as SPSR_ELx has it."""
        self._read(self.uc, self._pstate_name, self._word)
        return int(self._word[0])

    @pstate.setter
    def pstate(self, value: int) -> None:
        before = self.pstate
        now, then = _stack_of(before), _stack_of(value)
        if now != then:
            # Unicorn does not see to the stack pointer, of which each has its own.
            self._set_core(now, self._core("sp"))
            self._set_core("sp", self._core(then))
        self._word[0] = value
        self._write(self.uc, self._pstate_name, self._word)
        # It looks at PSTATE again when a system register is written.
        self.set_system(TPIDR_EL1, self.system(TPIDR_EL1) or 0)

    @property
    def el(self) -> int:
        """The exception level, 0 or 1."""
        return (self.pstate & _EL) >> 2

    def _core(self, name: str) -> int:
        self._read(self.uc, self._names[name], self._value)
        return int(self._value[0])

    def _set_core(self, name: str, value: int) -> None:
        self._value[0] = value
        self._write(self.uc, self._names[name], self._value)

    def system(self, register: int) -> int | None:
        """A system register by its number; None: Unicorn has none of this number."""
        self._name_system(register)
        if self._read(self.uc, self._cp_name, self._system):
            return None
        return int(self._system.val)

    def set_system(self, register: int, value: int) -> None:
        """Write a system register that Unicorn has."""
        self._name_system(register)
        self._system.val = value
        self._write(self.uc, self._cp_name, self._system)

    def _name_system(self, register: int) -> None:
        asked = self._system
        asked.op0, asked.op1, asked.crn, asked.crm, asked.op2 = encoding(register)

    # -------------------------------------------------------------------------------------------- LiveRegisters

    def read_core(self, register: Core, /) -> int:
        """See LiveRegisters."""
        if isinstance(register, int):
            return self.x(register)
        if register in VECTORS:
            self._read(self.uc, self._names[register], self._vector)
            return int(self._vector[0] | self._vector[1] << 64)
        if register in {"pc", "pstate"}:
            return self.pc if register == "pc" else self.pstate
        if register in SPSRS:
            return (self.system(SPSR_EL1) or 0) if register == "spsr0" else self._other_spsr[SPSRS[register]]
        return self._word_of(register) if register in _WORDS else self._core(self._place_of(register))

    def _word_of(self, register: str) -> int:
        self._read(self.uc, self._names[register], self._word)
        return int(self._word[0])

    def _place_of(self, register: str) -> str:
        """Where a core register is at present: the stack pointer in use has a place of its own."""
        return "sp" if register == _stack_of(self.pstate) else register

    def write_core(self, register: Core, value: int, /) -> None:
        """See LiveRegisters."""
        if isinstance(register, int):
            self.set_x(register, value)
        elif register == "pc":
            self.pc = value
            self.pc_was_set = True
        elif register == "pstate":
            self.pstate = value
        elif register in VECTORS:
            self._vector[0], self._vector[1] = value & U64, value >> 64
            self._write(self.uc, self._names[register], self._vector)
        elif register == "spsr0":
            self.set_system(SPSR_EL1, value)
        elif register in SPSRS:
            self._other_spsr[SPSRS[register]] = value
        elif register in _WORDS:
            self._word[0] = value
            self._write(self.uc, self._names[register], self._word)
        else:
            self._set_core(register, value)
            if register == _stack_of(self.pstate):
                self._set_core("sp", value)

    def read_system(self, register: int, /) -> int | None:
        """See LiveRegisters."""
        return self.system(register) if register in _KEPT else None

    def write_system(self, register: int, value: int, /) -> bool:
        """See LiveRegisters."""
        if register not in _KEPT:
            return False
        self.set_system(register, value)
        guest = self._guest() if register in STAGE1 else None
        if guest is not None:
            guest.stage1_written()
        return True

    def take(self, file: RegisterFile) -> None:
        """Take the registers over from a file."""
        self._other_spsr = list(file.spsr)
        self.pstate = file.pstate
        for register, value in enumerate(file.x):
            self.set_x(register, value)
        for name in ("sp_el0", "pc", "sp_el1", "elr_el1", "fpsr", "fpcr", "spsr0"):
            self.write_core(name, file.read_core(name))
        for index, value in enumerate(file.v):
            self.write_core(f"v{index}", value)
        for register in KEPT:
            self.set_system(register, file.system.get(register, 0))
        file.live = self

    def give_back(self, file: RegisterFile) -> None:
        """Put the registers back into their file."""
        file.live = None
        file.x[:] = [self.x(register) for register in range(31)]
        file.v[:] = [self.read_core(f"v{index}") for index in range(32)]
        file.spsr[:] = [self.read_core(f"spsr{index}") for index in range(5)]
        for name in ("sp_el0", "pc", "pstate", "sp_el1", "elr_el1", "fpsr", "fpcr"):
            setattr(file, name, self.read_core(name))
        for register in KEPT:
            file.system[register] = self.system(register) or 0


def _stack_of(pstate: int) -> str:
    return "sp_el1" if pstate & _EL and pstate & _SPSEL else "sp_el0"


@lru_cache(maxsize=1)
def _register_names(found: Library) -> dict[str, int]:
    """Unicorn's numbers of core registers that are no Xn."""
    named = {name: getattr(found.arm64, f"UC_ARM64_REG_{name.upper()}") for name in _NAMED}
    return named | {name: found.arm64.UC_ARM64_REG_Q0 + index for name, index in VECTORS.items()}


_WORDS: Final = ("fpsr", "fpcr")
_NAMED: Final = ("pc", "pstate", "sp", "sp_el0", "sp_el1", "elr_el1", "fpsr", "fpcr", "nzcv")


@lru_cache(maxsize=1)
def _x_names(found: Library) -> tuple[int, ...]:
    arm64 = found.arm64
    return (*range(arm64.UC_ARM64_REG_X0, arm64.UC_ARM64_REG_X0 + 29), arm64.UC_ARM64_REG_X29, arm64.UC_ARM64_REG_X30)
