# SPDX-License-Identifier: Apache-2.0
"""Unicorn's C library, called through cffi: exits are many, and Unicorn's own binding costs more than they do.

cffi also catches what a signal handler raises while a callback begins (its onerror), which ctypes would print and lose.
"""

from __future__ import annotations

import errno
import re
from functools import lru_cache
from importlib import import_module
from typing import Any, Final

from kvmipa import errors

_DECLARATIONS: Final = """
typedef struct uc_struct uc_engine;
typedef size_t uc_hook;
typedef struct { uint64_t paddr; uint32_t perms; } uc_tlb_entry;
typedef struct { uint32_t crn, crm, op0, op1, op2; uint64_t val; } uc_arm64_cp_reg;
typedef bool (*tlb_fill)(uc_engine *, uint64_t, int, uc_tlb_entry *, void *);
typedef void (*interrupt)(uc_engine *, uint32_t, void *);
typedef uint32_t (*system_instruction)(uc_engine *, int, const uc_arm64_cp_reg *, void *);
int uc_open(int, int, uc_engine **);
int uc_close(uc_engine *);
int uc_emu_start(uc_engine *, uint64_t, uint64_t, uint64_t, size_t);
int uc_emu_stop(uc_engine *);
int uc_reg_read(uc_engine *, int, void *);
int uc_reg_write(uc_engine *, int, const void *);
int uc_mem_map_ptr(uc_engine *, uint64_t, uint64_t, uint32_t, void *);
int uc_hook_add(uc_engine *, uc_hook *, int, void *, void *, uint64_t, uint64_t, ...);
int uc_context_alloc(uc_engine *, void **);
int uc_context_save(uc_engine *, void *);
int uc_context_restore(uc_engine *, void *);
int uc_context_free(void *);
int uc_ctl(uc_engine *, int, ...);
const char *uc_strerror(int);
"""

# unicorn.h: UC_CTL_WRITE(type, number of arguments).
_WRITES: Final = 1 << 30

# The interface that is declared above.
OLDEST: Final = (2, 1, 4)


class Library:
    """The library, cffi's ``ffi`` for it, and Unicorn's tables of constants."""

    def __init__(self, unicorn: Any, constants: Any) -> None:
        from cffi import FFI

        self.ffi: Any = FFI()
        self.ffi.cdef(_DECLARATIONS)
        # The binding has searched for it and loaded it; the same file again is the same library.
        self.lib: Any = self.ffi.dlopen(_path_of(unicorn))
        self.general = unicorn.unicorn_const
        self.arm64 = constants

    def check(self, code: int) -> None:
        """RuntimeError for an error of a call that does not fail."""
        if code:
            raise RuntimeError(f"Unicorn: {self.ffi.string(self.lib.uc_strerror(code))!r}")

    def control(self, engine: Any, control: str, *arguments: Any) -> None:
        """uc_ctl() with a control that sets something; arguments: of cffi, for a variadic function."""
        number = getattr(self.general, f"UC_CTL_{control}") | len(arguments) << 26 | _WRITES
        self.check(self.lib.uc_ctl(engine, number, *arguments))


def _path_of(unicorn: Any) -> str:
    """The file that the binding has loaded."""
    path: str = import_module(f"{unicorn.Uc.__module__}").uclib._name
    return path


@lru_cache(maxsize=1)
def library() -> Library:
    """The library, loaded when a vCPU first runs.

    Raises NotSupportedError where it is not installed, or is another version than kvmipa knows.
    """
    try:
        from unicorn import arm64_const

        unicorn: Any = import_module("unicorn")
    except ImportError as failure:
        raise _missing(f"guests run on the Unicorn engine, which is not installed: {failure}") from None
    if not OLDEST <= _numbers(unicorn.__version__) < (3,):
        raise _missing(f"the Unicorn engine that is installed is {unicorn.__version__}")
    return Library(unicorn, arm64_const)


def _numbers(version: str) -> tuple[int, ...]:
    """Of a version as a tuple.

    >>> _numbers("2.1.4"), _numbers("2.2.0rc1")
    ((2, 1, 4), (2, 2, 0))
    """
    return tuple(int(digits) for digits in re.findall(r"\d+", version)[:3])


def _missing(cause: str) -> errors.NotSupportedError:
    return errors.NotSupportedError(
        errno.ENOSYS,
        cause=cause,
        asked="KVM_RUN on the emulated backend",
        available="everything of the emulated kernel but KVM_RUN; accesses without a CPU (Vm.access)",
        fix="pip install 'kvmipa[cpu]'",
    )
