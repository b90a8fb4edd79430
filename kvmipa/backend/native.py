# SPDX-License-Identifier: Apache-2.0
"""The real kernel: the compiled extension on /dev/kvm."""

from __future__ import annotations

import errno
import os
import sys
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from kvmipa import errors
from kvmipa.backend import check_buffer
from kvmipa.kick_signal import KICK_SIGNAL

if TYPE_CHECKING:
    from array import array
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from kvmipa.access import Access, Result
    from kvmipa.stage2.debugfs import ShownStage2
    from kvmipa.turn import Turn

# After so long a sweep comes back to Python, for Ctrl-C and for progress.
SWEEP_BUDGET_NS: Final = 100_000_000

# Where every VM has a directory.
DEBUGFS: Final = "/sys/kernel/debug/kvm"

try:
    from kvmipa import _native

    _import_failure: ImportError | None = None
except ImportError as failure:
    _import_failure = failure


def why_missing() -> str | None:
    """Why the extension is not there, in words; None where it is."""
    if _import_failure is None:
        return None
    reason = _recorded("missing")
    if reason:
        return f"it was not compiled when kvmipa was installed: {reason}"
    return f"it cannot be imported: {_import_failure}"


def how_to_get_it() -> str:
    """What to do about a missing extension."""
    return _recorded("fix") or (
        "install a C compiler and Python's headers (Debian: apt install gcc python3-dev), then: "
        "KVMIPA_NATIVE=require pip install --force-reinstall --no-cache-dir --no-deps kvmipa"
    )


def _recorded(what: str) -> str | None:
    """What setup.py left in the package where it built no extension: "missing" is why, "fix" is what to do."""
    import json
    from pathlib import Path

    try:
        status = json.loads(Path(__file__).parents[1].joinpath("_native_status.json").read_text())
    except (OSError, ValueError):
        return None
    found = status.get(what)
    return found if isinstance(found, str) else None


class NativeBackend:
    """System calls of this process on the running kernel.

    Raises NativeMissingError where kvmipa was installed without its extension.
    """

    name = "native"
    profile = None

    def __init__(self) -> None:
        if sys.maxsize < 1 << 32:
            raise errors.BackendUnavailableError(
                errno.ENODEV,
                cause="this is a 32-bit program, and KVM on arm64 refuses those",
                asked="the native backend",
                available="the emulated backend",
                fix="use a 64-bit Python",
            )
        missing = why_missing()
        if missing:
            raise errors.NativeMissingError(
                errno.ENOSYS,
                cause=f"kvmipa's compiled extension is missing: {missing}",
                asked="the native backend",
                available="the emulated backend",
                fix=how_to_get_it(),
            )
        self._ffi: Any = _native.ffi
        self._lib = _native.lib
        # Bound once and called as they are: a Python function between would cost as much as the system call.
        self.ioctl = _native.lib.kvmipa_ioctl

    def open(self, path: str, /) -> int:
        """See Backend."""
        try:
            return os.open(path, os.O_RDWR | os.O_CLOEXEC)
        except OSError as failure:
            return -(failure.errno or errno.EIO)

    def ioctl_buffer(self, fd: int, request: int, buffer: bytearray, /) -> int:
        """See Backend."""
        check_buffer(request, buffer)
        return self._lib.kvmipa_ioctl_buffer(fd, request, self._ffi.from_buffer(buffer))

    def close(self, fd: int, /) -> None:
        """See Backend."""
        with suppress(OSError):
            os.close(fd)

    def mmap(self, fd: int, size: int, offset: int = 0, /) -> memoryview | int:
        """See Backend."""
        lib = self._lib
        address = lib.kvmipa_mmap(fd, size, offset)
        if address < 0:
            return address
        # Python's mmap would keep a duplicate of the descriptor.
        mapped = self._ffi.gc(self._ffi.cast("void *", address), lambda start: lib.kvmipa_munmap(start, size))
        return memoryview(self._ffi.buffer(mapped, size))

    def runner(self, fd: int, area: memoryview, turn: Turn, /) -> Callable[[], int]:
        """See Backend."""
        result = self._lib.kvmipa_catch(KICK_SIGNAL)
        if result < 0:
            from kvmipa.causes.run import signal_taken_error

            raise signal_taken_error(-result, KICK_SIGNAL)
        content = self._ffi.from_buffer("struct kvmipa_turn *", turn)
        content.signal, content.fd = KICK_SIGNAL, fd
        content.area = self._ffi.cast("uintptr_t", self._ffi.from_buffer(area))
        return partial(self._lib.kvmipa_run, content)

    def kick(self, _fd: int, turn: Turn, /) -> int:
        """See Backend."""
        return self._lib.kvmipa_kick(self._ffi.from_buffer("struct kvmipa_turn *", turn))

    def sweep_machine_types(self, fd: int, types: array[int], /) -> Sequence[int]:
        """See Backend."""
        count = len(types)
        results = self._ffi.new("int[]", count)
        done = self._lib.kvmipa_sweep_machine_types(
            fd, self._ffi.from_buffer("unsigned long[]", types), count, results, SWEEP_BUDGET_NS
        )
        found: list[int] = self._ffi.unpack(results, done)
        return found

    def access(self, _fd: int, _what: Access, /) -> Result:
        """See Backend."""
        raise errors.NotSupportedError(
            errno.EOPNOTSUPP,
            cause="on the real kernel only a guest's own instruction makes an access",
            asked="an access without a vCPU",
            available="vCPUs that run code which makes it",
            fix="use the emulated backend",
        )

    def stage2(self, fd: int, /) -> ShownStage2:
        """See Backend. What debugfs shows, for root, on kernels with CONFIG_PTDUMP_STAGE2_DEBUGFS (since 6.12)."""
        directory = _debugfs_directory(fd)
        try:
            ipa_bits, levels = (int((directory / name).read_text()) for name in ("ipa_range", "stage2_levels"))
        except OSError as failure:
            raise errors.NotSupportedError(
                errno.EOPNOTSUPP,
                cause=f"this kernel does not show a VM's stage 2 here: {failure}",
                asked="the stage 2 of a VM of the native backend",
                available="Vm.geometry, the shape that its size has on this host",
                fix="use the emulated backend; or a kernel with CONFIG_PTDUMP_STAGE2_DEBUGFS (Linux 6.12 or later), as "
                "root, with debugfs mounted",
            ) from None
        from mmap import PAGESIZE

        from kvmipa.stage2.debugfs import ShownStage2
        from kvmipa.stage2.geometry import Geometry

        geometry = Geometry(PAGESIZE, ipa_bits)
        if geometry.levels != levels:
            raise AssertionError(f"{directory}: {levels} levels for {ipa_bits} bits, not {geometry.levels}")
        return ShownStage2(geometry, (directory / "stage2_page_tables").read_text)


def _debugfs_directory(fd: int) -> Path:
    """The directory of a VM: named for the thread that made it and for its first descriptor (kernel-ipa-spec 8.1)."""
    from pathlib import Path

    root = Path(DEBUGFS)
    threads = sorted(Path("/proc/self/task").iterdir()) if Path("/proc/self/task").is_dir() else []
    for thread in threads:
        if (root / f"{thread.name}-{fd}").is_dir():
            return root / f"{thread.name}-{fd}"
    # Its thread may have ended, or be known by another number in this container.
    found = sorted(root.glob(f"*-{fd}")) if os.access(root, os.R_OK) else []
    return found[0] if len(found) == 1 else root / f"{os.getpid()}-{fd}"
