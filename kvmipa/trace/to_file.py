# SPDX-License-Identifier: Apache-2.0
"""Traces of every program that opens a KVM, in files: what the environment's KVMIPA_TRACE has kvmipa.open() do."""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from dataclasses import replace
from itertools import count
from typing import TYPE_CHECKING, Any, Final

from kvmipa import errors
from kvmipa.recording import profile_as_json
from kvmipa.system import Kvm
from kvmipa.trace.file import header_line, line_of
from kvmipa.trace.host_registers import registers_of
from kvmipa.trace.recorder import TracingBackend

if TYPE_CHECKING:
    from collections.abc import Iterator

    from kvmipa.trace.file import Step

#: The environment's variable: where the trace goes.
VARIABLE: Final = "KVMIPA_TRACE"

#: Operations after which a trace ends: some hundred megabytes.
LIMIT: Final = 1_000_000

#: Files of one name, at most.
_FILES: Final = 10_000


def names(path: str) -> Iterator[str]:
    """The files that a path stands for: itself is the first, and each further trace has a number.

    >>> found = names("trace.jsonl")
    >>> next(found), next(found)
    ('trace.jsonl', 'trace.jsonl.2')
    """
    yield path
    for number in count(2):
        yield f"{path}.{number}"


def traced(kvm: Kvm, path: str) -> Kvm:
    """The same KVM, opened again with a trace of it in the next file that is not there yet.

    Raises OSError where no file can be made.
    """
    with kvm:
        file = _TraceFile(path, _header_of(kvm))
        backend, device = kvm._backend, kvm.device
    return Kvm(TracingBackend(backend, file.keep, LIMIT), device)


def _header_of(kvm: Kvm) -> dict[str, Any]:
    """What is known of the host. Its profile takes a VM and a vCPU, for a moment, where it is a real one."""
    from kvmipa import __version__
    from kvmipa.backend.emulated.host import HostProfile

    header: dict[str, Any] = {"kvmipa": __version__, "backend": kvm.backend}
    profile = kvm._backend.profile
    if profile is None and kvm.is_arm64:
        with suppress(errors.KvmError):
            profile = replace(HostProfile.of(kvm), registers=registers_of(kvm))
    if profile is not None:
        header["profile"] = profile_as_json(profile)
    if kvm.backend == "native":
        uname = os.uname()
        header["kernel"] = f"{uname.sysname} {uname.release} {uname.machine}"
    return header


class _TraceFile:
    """A file of a trace. Each line is written at once: whoever kills the program has what was done until then."""

    _fd = -1

    def __init__(self, path: str, header: dict[str, Any]) -> None:
        self._fd, self._name = _claim(path)
        self._write(header_line(header))

    def keep(self, step: Step) -> None:
        """Write a step."""
        if self._fd >= 0:
            self._write(line_of(step))

    def _write(self, line: str) -> None:
        data = line.encode()
        try:
            while data:
                data = data[os.write(self._fd, data) :]
        except OSError as error:
            # The program is not to suffer from it.
            print(f"kvmipa: {self._name}: {error.strerror}: the trace ends here", file=sys.stderr)
            self.close()

    def close(self) -> None:
        """Write no more."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            with suppress(OSError):
                os.close(fd)

    def __del__(self) -> None:
        """Nobody traces any more."""
        self.close()


def _claim(path: str) -> tuple[int, str]:
    """A new file; other processes may be about to make theirs."""
    for _, name in zip(range(_FILES), names(path), strict=False):
        try:
            return os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC, 0o666), name
        except FileExistsError:
            continue
        except OSError as error:
            raise OSError(error.errno, f"{error.strerror} (the environment's {VARIABLE})", name) from None
    raise OSError(f"{path}: there are {_FILES} traces of that name already (the environment's {VARIABLE})")
