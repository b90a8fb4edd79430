# SPDX-License-Identifier: Apache-2.0
"""What comes out of a guest while it runs, from its first line to its result or the report that there is none."""

from __future__ import annotations

import ast
import time
import zlib
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, BinaryIO

from ci.lab import channel
from ci.lab.errors import GuestTimeoutError, LabError
from ci.lab.listener import Listener, put

if TYPE_CHECKING:
    from collections.abc import Mapping

# The guest gives its command up at the timeout; the host gives the guest up this much later.
_GUEST_GRACE = 15.0
# From the result to the end of QEMU.
_POWER_OFF_GRACE = 5.0
_LAST_LINES = 15


@dataclass(frozen=True, slots=True)
class GuestResult:
    """What came of a command."""

    exit_status: int
    timed_out: bool
    out_dir: Path | None
    files: tuple[str, ...]
    #: Wall time from the start of QEMU.
    seconds_to_init: float
    seconds_total: float
    console_path: Path
    #: What the guest's init saw: release, version, machine, cpus, kvm, uptime.
    guest: Mapping[str, Any]


@dataclass(slots=True)
class Conversation:
    """One guest while it runs."""

    listener: Listener
    log_path: Path
    timeout: float
    out_dir: Path | None
    guest: dict[str, Any] | None = None
    result: dict[str, Any] | None = None
    files: list[str] = field(default_factory=list)
    seconds_to_init: float = 0.0
    corrupt: channel.CorruptError | None = None
    _log: BinaryIO | None = None
    _started: float = 0.0
    _deadline: float = 0.0
    _port: channel.PortReader = field(default_factory=channel.PortReader)
    _console: channel.ConsoleReader = field(default_factory=channel.ConsoleReader)
    _file: _IncomingFile | None = None

    def start(self, log: BinaryIO) -> None:
        self._log = log
        self._started = time.monotonic()
        self._deadline = self._started + self.timeout + _GUEST_GRACE

    def deadline(self) -> float:
        return self._deadline

    def on_console(self, data: bytes) -> None:
        assert self._log is not None
        try:
            for item in self._console.feed(data):
                if isinstance(item, bytes):
                    put(self._log, item)
                    self.listener.kernel(item)
                else:
                    self._frame(*item)
        except channel.CorruptError as error:
            self._give_up(error)

    def on_port(self, data: bytes) -> None:
        try:
            for kind, payload in self._port.feed(data):
                self._frame(kind, payload)
        except channel.CorruptError as error:
            self._give_up(error)

    def _give_up(self, error: channel.CorruptError) -> None:
        self.corrupt = self.corrupt or error
        self._deadline = 0.0

    def _frame(self, kind: bytes, payload: bytes) -> None:
        if kind == channel.STDOUT:
            self.listener.stdout(payload)
        elif kind == channel.STDERR:
            self.listener.stderr(payload)
        elif kind == channel.HELLO:
            self.guest = _literal(payload)
            self.seconds_to_init = time.monotonic() - self._started
            self.listener.begin()
        elif kind == channel.FILE:
            self._end_file()
            self._file = _IncomingFile(payload.decode("utf-8", "surrogateescape"), self.out_dir)
            self.files.append(self._file.path)
        elif kind == channel.DATA and self._file is not None:
            self._file.data(payload)
        elif kind == channel.RESULT:
            self._end_file()
            self.result = _literal(payload)
            self._deadline = time.monotonic() + _POWER_OFF_GRACE
            self.listener.end()
        else:
            raise channel.CorruptError(f"a frame of kind {kind!r} out of place")

    def _end_file(self) -> None:
        if self._file is not None:
            self._file.end()
            self._file = None

    def finish(self, ended: bool) -> GuestResult:
        """The result, or the error that there is none."""
        total = time.monotonic() - self._started
        if self.corrupt is not None:
            raise LabError(self._report(f"what the guest sent is corrupt: {self.corrupt}"))
        if self.result is None or self.guest is None:
            if ended:
                raise LabError(self._report("the guest stopped before it sent a result"))
            raise GuestTimeoutError(self._report(f"no result within {total:.0f} s"))
        if self.result["files"] != len(self.files):
            raise LabError(self._report(f"{self.result['files']} files were sent, {len(self.files)} arrived"))
        return GuestResult(
            exit_status=self.result["exit_status"],
            timed_out=self.result["timed_out"],
            out_dir=self.out_dir,
            files=tuple(self.files),
            seconds_to_init=self.seconds_to_init,
            seconds_total=total,
            console_path=self.log_path,
            guest=self.guest,
        )

    def _report(self, what: str) -> str:
        """What went wrong, how far the guest came, and its last words."""
        console = self.log_path.read_bytes() + self._console.rest()
        if self.guest is not None:
            stage = f"init started after {self.seconds_to_init:.1f} s and the command was running"
        elif console.strip():
            stage = "the kernel wrote to its console, init was not reached"
        else:
            stage = "no output at all: the kernel did not start, or hung before its console (try --append earlycon)"
        if self._port.pending:
            stage += f"; {self._port.pending} bytes of an unfinished message had arrived"
        lines = console.decode(errors="replace").splitlines()
        # A panic is said twice, the second time as "---[ end Kernel panic - ... ]---".
        panics = [line for line in lines if "Kernel panic" in line and "end Kernel panic" not in line]
        panic = [f"the kernel gave up: {line}" for line in panics]
        last = [f"  | {line}" for line in lines[-_LAST_LINES:]]
        return "\n".join([what, *panic, f"how far it came: {stage}", f"console: {self.log_path}", *last])


def _literal(payload: bytes) -> dict[str, Any]:
    try:
        value = ast.literal_eval(payload.decode())
    except (ValueError, SyntaxError) as error:
        raise channel.CorruptError(f"a message that cannot be read: {payload!r}") from error
    return dict(value)


class _IncomingFile:
    """One of the files from /out."""

    def __init__(self, path: str, directory: Path | None) -> None:
        parts = PurePosixPath(path).parts
        if not parts or parts[0] == "/" or ".." in parts:
            raise channel.CorruptError(f"a file called {path!r}")
        self.path = path
        self._target = directory.joinpath(*parts) if directory else None
        self._inflate = zlib.decompressobj()
        self._parts: list[bytes] = []

    def data(self, payload: bytes) -> None:
        try:
            self._parts.append(self._inflate.decompress(payload))
        except zlib.error as error:
            raise channel.CorruptError(f"{self.path}: {error}") from error

    def end(self) -> None:
        if not self._inflate.eof:
            raise channel.CorruptError(f"{self.path} is cut off")
        if self._target is not None:
            self._target.parent.mkdir(parents=True, exist_ok=True)
            temporary = self._target.with_name(f".{self._target.name}.part")
            temporary.write_bytes(b"".join(self._parts))
            temporary.replace(self._target)
