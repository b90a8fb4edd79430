# SPDX-License-Identifier: Apache-2.0
"""Process 1 of the guest: runs one command and sends what came of it to the host.

It starts under emulation, where an import takes as long as a hundred on hardware: it uses little of the library.
"""

# ruff: noqa: PTH103, PTH110, PTH123, SIM105

from __future__ import annotations

import ctypes
import marshal
import os
import select
import signal
import sys
import termios
import time

from ci.lab import channel

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any, NoReturn

MOUNTS = (
    ("proc", "/proc", "proc"),
    ("sysfs", "/sys", "sysfs"),
    ("devtmpfs", "/dev", "devtmpfs"),
    ("debugfs", "/sys/kernel/debug", "debugfs"),
    ("tmpfs", "/tmp", "tmpfs"),  # noqa: S108
    ("tmpfs", "/out", "tmpfs"),
    ("tmpfs", "/dev/shm", "tmpfs"),  # noqa: S108
    ("devpts", "/dev/pts", "devpts"),
)
_JOB = "/lab/job"
_OUT = "/out"
# include/uapi/linux/reboot.h: LINUX_REBOOT_CMD_POWER_OFF
_POWER_OFF = 0x4321FEDC
_GRACE = 5.0


def main() -> None:
    """Do the job; power off whatever happens, since there is nothing to return to."""
    libc = ctypes.CDLL(None, use_errno=True)
    try:
        _mount(libc)
        job = _read_job()
        descriptor, sender = _open_channel(job["channel"])
        sender.send(channel.HELLO, repr(_hello()).encode())
        status, timed_out = _run(job, sender)
        count = _send_files(sender)
        result = {"exit_status": status, "timed_out": timed_out, "files": count, "uptime": time.monotonic()}
        sender.send(channel.RESULT, repr(result).encode())
        termios.tcdrain(descriptor)
    except BaseException as error:
        sys.excepthook(type(error), error, error.__traceback__)
    finally:
        os.sync()
        libc.reboot(_POWER_OFF)


def _mount(libc: ctypes.CDLL) -> None:
    for source, target, kind in MOUNTS:
        os.makedirs(target, exist_ok=True)
        if libc.mount(source.encode(), target.encode(), kind.encode(), 0, None):
            # A small kernel may lack debugfs or devpts; a command that needs one says so itself.
            print(f"init: {target}: {os.strerror(ctypes.get_errno())}", file=sys.stderr)


def _read_job() -> dict[str, Any]:
    """The job as the host left it: format 2 of marshal is read by every Python 3, and in no time."""
    with open(_JOB, "rb") as file:
        job: dict[str, Any] = marshal.load(file)
    return job


def _hello() -> dict[str, object]:
    system = os.uname()
    return {
        "uptime": time.monotonic(),
        "release": system.release,
        "version": system.version,
        "machine": system.machine,
        "cpus": os.cpu_count(),
        "kvm": os.path.exists("/dev/kvm"),
    }


# ---------------------------------------------------------------------------------------------- the channel


def _open_channel(wanted: str) -> tuple[int, channel.Sender]:
    """The port if the kernel drives it (or it is asked for), else the console."""
    if wanted == "port" or (wanted == "auto" and _port_works()):
        descriptor = os.open("/dev/ttyS0", os.O_RDWR | os.O_NOCTTY)
        _make_raw(descriptor)
        return descriptor, channel.Sender(lambda data: _write(descriptor, data))
    descriptor = os.open("/dev/console", os.O_WRONLY | os.O_NOCTTY)
    _quieten_kernel()
    return descriptor, channel.Sender(lambda data: _write(descriptor, data), console=True)


def _port_works() -> bool:
    """The driver makes nodes also for ports that are not there; their type is 0."""
    try:
        with open("/sys/class/tty/ttyS0/type") as file:
            return file.read().strip() != "0"
    except OSError:
        return False


def _make_raw(descriptor: int) -> None:
    settings = termios.tcgetattr(descriptor)
    settings[0] = settings[1] = settings[3] = 0
    settings[2] = termios.CS8 | termios.CREAD | termios.CLOCAL | termios.B115200
    settings[4] = settings[5] = termios.B115200
    termios.tcsetattr(descriptor, termios.TCSANOW, settings)


def _quieten_kernel() -> None:
    """Keep the kernel's messages out of the frames' lines, but for emergencies."""
    try:
        with open("/proc/sys/kernel/printk", "w") as file:
            file.write("1")
    except OSError:
        pass


def _write(descriptor: int, data: bytes) -> None:
    while data:
        data = data[os.write(descriptor, data) :]


# ---------------------------------------------------------------------------------------------- the command


def _run(job: dict[str, Any], sender: channel.Sender) -> tuple[int, bool]:
    """Run the command, send its output while it runs; its exit status, and whether its time was up."""
    outputs = {}
    ends = []
    for kind in (channel.STDOUT, channel.STDERR):
        reading, writing = os.pipe()
        outputs[reading] = kind
        ends.append(writing)
    process = os.fork()
    if process == 0:
        _exec(job, *ends)
    for end in ends:
        os.close(end)
    status, timed_out = _attend(process, outputs, sender, job["deadline"])
    code = os.waitstatus_to_exitcode(status)
    return (128 - code if code < 0 else code), timed_out


def _exec(job: dict[str, Any], stdout: int, stderr: int) -> NoReturn:
    """Become the command, or end: what a child raised would reach main(), which would power off the machine."""
    status = 127
    try:
        os.setsid()
        os.dup2(os.open("/dev/null", os.O_RDONLY), 0)
        os.dup2(stdout, 1)
        os.dup2(stderr, 2)
        os.chdir(job["cwd"])
        os.execvpe(job["argv"][0], job["argv"], job["env"])
    except BaseException as error:
        status = 126 if isinstance(error, PermissionError) else 127
        reason = error.strerror if isinstance(error, OSError) else f"{type(error).__name__}: {error}"
        os.write(2, f"init: {job['argv'][0]}: {reason}\n".encode(errors="backslashreplace"))
    finally:
        os._exit(status)


def _attend(process: int, outputs: dict[int, bytes], sender: channel.Sender, deadline: float) -> tuple[int, bool]:
    """Forward output until the command has ended and what it wrote is read."""
    poll = select.poll()
    for reading in outputs:
        poll.register(reading, select.POLLIN)
    timed_out = False
    status = None
    while True:
        # A child of the command may hold the pipes open for ever: the command's own end is what counts.
        if status is None:
            status = _reap(process)
        forwarded = _forward(poll, outputs, sender, 0 if status is not None else 50)
        if status is not None and not forwarded:
            return status, timed_out
        now = time.monotonic()
        if now > deadline:
            # SIGABRT first: a Python with its fault handler on shows then where it was.
            _signal(process, signal.SIGKILL if timed_out else signal.SIGABRT)
            timed_out = True
            deadline = now + _GRACE


def _reap(process: int) -> int | None:
    """The command's wait status if it has ended; orphans are reaped beside."""
    while True:
        try:
            ended, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return None
        if ended == process:
            return status
        if ended == 0:
            return None


def _forward(poll: select.poll, outputs: dict[int, bytes], sender: channel.Sender, wait: int) -> bool:
    forwarded = False
    for reading, _events in poll.poll(wait):
        data = os.read(reading, 1 << 16)
        if data:
            sender.send(outputs[reading], data)
            forwarded = True
        else:
            poll.unregister(reading)
    return forwarded


def _signal(process: int, number: int) -> None:
    try:
        os.killpg(process, number)
    except ProcessLookupError:
        pass


# ---------------------------------------------------------------------------------------------- the files


def _files(directory: str) -> Iterator[str]:
    for entry in sorted(os.scandir(directory), key=lambda entry: entry.name):
        if entry.is_dir(follow_symlinks=False):
            yield from _files(entry.path)
        elif entry.is_file(follow_symlinks=False):
            yield entry.path


def _send_files(sender: channel.Sender) -> int:
    """Send what the command left in /out; the number of files."""
    count = 0
    for path in _files(_OUT):
        with open(path, "rb") as file:
            sender.send_file(path[len(_OUT) + 1 :], file.read())
        count += 1
    return count
