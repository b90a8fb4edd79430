# SPDX-License-Identifier: Apache-2.0
"""Boot a kernel, run one command in it, and take home what came of it."""

from __future__ import annotations

import json
import os
import shutil
import sys
import tempfile
import time
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO

from ci.lab import channel, config, cpio, kernel, qemu, root, wheel
from ci.lab.cache import Cache
from ci.lab.config import Configuration, Lab
from ci.lab.cpio import Entry, Tree
from ci.lab.errors import GuestTimeout, LabError

# The guest gives its command up at the timeout; the host gives the guest up this much later.
_GUEST_GRACE = 15.0
# From the result to the end of QEMU.
_POWER_OFF_GRACE = 5.0
_KEPT_LOGS = 50
_IGNORED = frozenset({"__pycache__", ".pytest_cache", ".hypothesis"})


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


class Listener:
    """Shows what a guest says while it says it; this one shows nothing."""

    def kernel(self, text: bytes) -> None:
        """The kernel's console said this."""

    def stdout(self, data: bytes) -> None:
        """The command wrote this to its standard output."""

    def stderr(self, data: bytes) -> None:
        """The command wrote this to its standard error."""


class Terminal(Listener):
    """Passes the command's output on; the kernel's lines go to stderr with a mark before them."""

    def __init__(self, *, console: bool = True) -> None:
        self._console = console
        self._at_line_start = True

    def kernel(self, text: bytes) -> None:
        if not self._console:
            return
        for line in text.splitlines(keepends=True):
            prefix = b"kernel| " if self._at_line_start else b""
            self._at_line_start = line.endswith(b"\n")
            _put(sys.stderr.buffer, prefix + line)

    def stdout(self, data: bytes) -> None:
        _put(sys.stdout.buffer, data)

    def stderr(self, data: bytes) -> None:
        _put(sys.stderr.buffer, data)


def _put(stream: BinaryIO, data: bytes) -> None:
    stream.write(data)
    stream.flush()


def run_in_guest(
    configuration: Configuration,
    command: Sequence[str],
    *,
    files: Mapping[str, Path] | None = None,
    wheel_file: Path | None = None,
    env: Mapping[str, str] | None = None,
    cwd: str | None = None,
    memory: int | None = None,
    smp: int | None = None,
    timeout: float | None = None,
    append: str = "",
    out_dir: Path | None = None,
    gdb_port: int | None = None,
    channel_kind: str = "auto",
    listener: Listener | None = None,
    lab: Lab | None = None,
    cache: Cache | None = None,
) -> GuestResult:
    """Boot this configuration, run the command in it, and power it off.

    `files` maps paths in the guest to files or directories here; `wheel_file` is installed in the guest. Files that the
    command leaves in /out arrive in `out_dir`. A kernel and a root filesystem that are not in the cache are made first.
    A command that fails is no error; a guest that does not come to its end is (LabError, GuestTimeout).
    """
    lab = lab or config.load()
    cache = cache or Cache()
    machine = lab.machine
    fetched = kernel.fetch(lab, cache, configuration.kernel)
    guest_root = root.build(lab, cache)
    timeout = timeout or machine.timeout
    job = {
        "argv": list(command),
        "cwd": cwd or lab.guest.work_dir,
        "env": {**lab.guest.env, **(env or {})},
        "channel": channel_kind,
        "deadline": timeout,
    }
    overlay = _overlay(lab, fetched, guest_root, job, files or {}, wheel_file)
    words = (machine.append, configuration.mode.append, append)
    with cache.slot(machine.slots), tempfile.TemporaryDirectory(prefix="kvmipa-lab-") as scratch:
        boot = qemu.Boot(
            cpu=configuration.cpu.qemu,
            image=fetched.image,
            initrd=_initrd(guest_root, overlay, Path(scratch)),
            append=" ".join(word for word in words if word),
            memory=memory or machine.memory,
            smp=smp or machine.smp,
            gdb_port=gdb_port,
        )
        run = _Run(listener or Listener(), _log_path(cache, configuration), timeout, out_dir)
        with run.log_path.open("wb") as log:
            run.start(log)
            ended = qemu.run(machine, boot, on_console=run.on_console, on_port=run.on_port, deadline=run.deadline)
    return run.finish(ended)


# ---------------------------------------------------------------------------------------------- what goes in


def _overlay(
    lab: Lab,
    fetched: kernel.FetchedKernel,
    guest_root: root.GuestRoot,
    job: Mapping[str, Any],
    files: Mapping[str, Path],
    wheel_file: Path | None,
) -> Tree:
    """Everything in the guest that belongs to this run alone."""
    tree = _init(lab)
    for name in lab.guest.files:
        tree |= _copied(wheel.SOURCE / name, f"{lab.guest.work_dir}/{name}", missing_ok=True)
    for guest_path, host_path in files.items():
        tree |= _copied(host_path, guest_path)
    if wheel_file is not None:
        tree |= wheel.installed(wheel_file, guest_root)
    if guest_root.compiles_here:
        tree |= root.bytecode(tree)
    tree[f"boot/config-{fetched.release}"] = Entry.file(fetched.config.read_bytes())
    tree["lab/job.json"] = Entry.file(json.dumps(job).encode())
    tree[lab.guest.work_dir.strip("/")] = Entry.directory()
    tree[str(job["cwd"]).strip("/")] = Entry.directory()
    return tree


def _init(lab: Lab) -> Tree:
    """The guest's init and the modules of the lab that it imports."""
    start = (
        "#!/usr/bin/python3 -ISBu\n"
        "import sys\n"
        "sys.path.insert(0, '/lab')\n"
        "from ci.lab import guest_init\n"
        "guest_init.main()\n"
    )
    here = Path(__file__).parent
    return {
        "init": Entry.file(start.encode(), 0o755),
        "lab/ci/__init__.py": Entry.file(b""),
        "lab/ci/lab/__init__.py": Entry.file(b""),
        "lab/ci/lab/channel.py": Entry.file((here / "channel.py").read_bytes()),
        "lab/ci/lab/guest_init.py": Entry.file((here / "guest_init.py").read_bytes()),
    }


def _copied(source: Path, guest_path: str, *, missing_ok: bool = False) -> Tree:
    """A file or a directory of this machine, by its paths in the guest."""
    target = guest_path.strip("/")
    if source.is_file():
        return {target: Entry.file(source.read_bytes(), 0o755 if os.access(source, os.X_OK) else 0o644)}
    if source.is_dir():
        tree: Tree = {target: Entry.directory()}
        for child in source.iterdir():
            if child.name not in _IGNORED and not child.name.endswith(".so"):
                tree |= _copied(child, f"{target}/{child.name}")
        return tree
    if missing_ok:
        return {}
    raise LabError(f"{source} does not exist, and was to be copied to {guest_path}")


def _initrd(guest_root: root.GuestRoot, overlay: Tree, directory: Path) -> Path:
    """One file for QEMU: Linux unpacks archives that follow one another as if they were one."""
    path = directory / "initrd.cpio"
    with path.open("wb") as file:
        with guest_root.archive.open("rb") as base:
            shutil.copyfileobj(base, file, 1 << 20)
        cpio.write(file, overlay)
    return path


def _log_path(cache: Cache, configuration: Configuration) -> Path:
    directory = cache.directory("logs")
    old = sorted(directory.glob("*.log"), key=lambda path: path.stat().st_mtime)
    for path in old[:-_KEPT_LOGS]:
        path.unlink(missing_ok=True)
    return directory / f"{configuration.name}-{time.strftime('%Y%m%dT%H%M%S')}-{os.getpid()}.log"


# ---------------------------------------------------------------------------------------------- what comes out


@dataclass(slots=True)
class _Run:
    """One guest while it runs."""

    listener: Listener
    log_path: Path
    timeout: float
    out_dir: Path | None
    guest: dict[str, Any] | None = None
    result: dict[str, Any] | None = None
    files: list[str] = field(default_factory=list)
    seconds_to_init: float = 0.0
    corrupt: channel.Corrupt | None = None
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
                    _put(self._log, item)
                    self.listener.kernel(item)
                else:
                    self._frame(*item)
        except channel.Corrupt as error:
            self._give_up(error)

    def on_port(self, data: bytes) -> None:
        try:
            for kind, payload in self._port.feed(data):
                self._frame(kind, payload)
        except channel.Corrupt as error:
            self._give_up(error)

    def _give_up(self, error: channel.Corrupt) -> None:
        self.corrupt = self.corrupt or error
        self._deadline = 0.0

    def _frame(self, kind: bytes, payload: bytes) -> None:
        if kind == channel.STDOUT:
            self.listener.stdout(payload)
        elif kind == channel.STDERR:
            self.listener.stderr(payload)
        elif kind == channel.HELLO:
            self.guest = json.loads(payload)
            self.seconds_to_init = time.monotonic() - self._started
        elif kind == channel.FILE:
            self._end_file()
            self._file = _IncomingFile(payload.decode("utf-8", "surrogateescape"), self.out_dir)
            self.files.append(self._file.path)
        elif kind == channel.DATA and self._file is not None:
            self._file.data(payload)
        elif kind == channel.RESULT:
            self._end_file()
            self.result = json.loads(payload)
            self._deadline = time.monotonic() + _POWER_OFF_GRACE
        else:
            raise channel.Corrupt(f"a frame of kind {kind!r} out of place")

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
            raise GuestTimeout(self._report(f"no result within {total:.0f} s"))
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
        last = [f"  | {line}" for line in console.decode(errors="replace").splitlines()[-15:]]
        return "\n".join([what, f"how far it came: {stage}", f"console: {self.log_path}", *last])


class _IncomingFile:
    """One of the files from /out."""

    def __init__(self, path: str, directory: Path | None) -> None:
        parts = PurePosixPath(path).parts
        if not parts or parts[0] == "/" or ".." in parts:
            raise channel.Corrupt(f"a file called {path!r}")
        self.path = path
        self._target = directory.joinpath(*parts) if directory else None
        self._inflate = zlib.decompressobj()
        self._parts: list[bytes] = []

    def data(self, payload: bytes) -> None:
        try:
            self._parts.append(self._inflate.decompress(payload))
        except zlib.error as error:
            raise channel.Corrupt(f"{self.path}: {error}") from error

    def end(self) -> None:
        if not self._inflate.eof:
            raise channel.Corrupt(f"{self.path} is cut off")
        if self._target is not None:
            self._target.parent.mkdir(parents=True, exist_ok=True)
            temporary = self._target.with_name(f".{self._target.name}.part")
            temporary.write_bytes(b"".join(self._parts))
            temporary.replace(self._target)


def parse_copies(copies: Iterable[str]) -> dict[str, Path]:
    """``HOST:GUEST`` as run_in_guest takes it."""
    files = {}
    for copy in copies:
        host, colon, guest = copy.rpartition(":")
        if not colon or not host or not guest.startswith("/"):
            raise LabError(f"--copy {copy}: expected HOST:GUEST, with an absolute path in the guest")
        files[guest] = Path(host)
    return files
