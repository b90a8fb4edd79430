# SPDX-License-Identifier: Apache-2.0
"""One run of QEMU: its command line, its two streams, its end."""

from __future__ import annotations

import contextlib
import os
import selectors
import subprocess
import tempfile
import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, BinaryIO

from ci.lab import programs
from ci.lab.errors import LabError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from ci.lab.config import Machine


#: Set when the lab is to end: every run ends then, also those in threads, which a signal's exception does not reach.
STOPPING = threading.Event()


@dataclass(frozen=True, slots=True)
class Boot:
    """What QEMU is to start."""

    cpu: str
    image: Path
    initrd: Path
    append: str
    memory: int
    smp: int
    gdb_port: int | None = None


def arguments(machine: Machine, boot: Boot, console: int, port: int) -> list[str]:
    """The command line; the guest's console and second serial port go to these file descriptors."""
    program = programs.find(machine.qemu, machine.qemu_package)
    gdb = [] if boot.gdb_port is None else ["-gdb", f"tcp:127.0.0.1:{boot.gdb_port}"]
    return [
        program,
        *("-nodefaults", "-no-user-config", "-no-reboot", "-display", "none"),
        *("-machine", machine.machine, "-accel", machine.accel),
        *("-cpu", boot.cpu, "-smp", str(boot.smp), "-m", str(boot.memory)),
        *("-chardev", f"file,id=console,path=/dev/fd/{console}", "-serial", "chardev:console"),
        *("-chardev", f"file,id=port,path=/dev/fd/{port}", "-device", "pci-serial,chardev=port"),
        *("-kernel", str(boot.image), "-initrd", str(boot.initrd), "-append", boot.append),
        *gdb,
    ]


def run(
    machine: Machine,
    boot: Boot,
    *,
    on_console: Callable[[bytes], None],
    on_port: Callable[[bytes], None],
    deadline: Callable[[], float],
) -> bool:
    """Run QEMU until it ends, True, or until the deadline (of time.monotonic) has passed and it was killed, False."""
    with _pipe() as (console, console_end), _pipe() as (port, port_end), tempfile.TemporaryFile() as errors:
        ends = (console_end.fileno(), port_end.fileno())
        process = subprocess.Popen(
            arguments(machine, boot, *ends),
            pass_fds=ends,
            stdin=subprocess.DEVNULL,
            stdout=errors,
            stderr=subprocess.STDOUT,
        )
        try:
            console_end.close()
            port_end.close()
            ended = _pump({console.fileno(): on_console, port.fileno(): on_port}, deadline)
            if ended:
                process.wait()
        finally:
            # Whatever happened: no guest outlives its run.
            process.kill()
            process.wait()
        if ended and process.returncode:
            errors.seek(0)
            raise LabError(
                f"QEMU ended with status {process.returncode}: {errors.read().decode(errors='replace').strip()}"
            )
    return ended


@contextlib.contextmanager
def _pipe() -> Iterator[tuple[BinaryIO, BinaryIO]]:
    """Both ends as files: they can be closed twice; a descriptor's number may be another thread's by then."""
    reading, writing = os.pipe()
    with os.fdopen(reading, "rb", buffering=0) as reader, os.fdopen(writing, "wb", buffering=0) as writer:
        yield reader, writer


def _pump(streams: dict[int, Callable[[bytes], None]], deadline: Callable[[], float]) -> bool:
    """Hand over what arrives until all streams have ended, or the deadline has passed."""
    with selectors.DefaultSelector() as selector:
        for stream, callback in streams.items():
            selector.register(stream, selectors.EVENT_READ, callback)
        while selector.get_map():
            if STOPPING.is_set():
                raise LabError("QEMU was ended, since the lab is to end")
            left = deadline() - time.monotonic()
            if left <= 0:
                return False
            for key, _ in selector.select(min(left, 1.0)):
                if data := os.read(key.fd, 1 << 16):
                    key.data(data)
                else:
                    selector.unregister(key.fd)
    return True
