# SPDX-License-Identifier: Apache-2.0
"""Recordings: what one kernel answered, as JSON lines, and how to ask another one the same.

The first line is the header: the kernel, the machine, how it was taken, and the host profile. Each line after it is an
observation: the descriptor, the ioctl by name, its argument, and its result.
"""

from __future__ import annotations

import os
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import IO, TYPE_CHECKING, Any, Final

from kvmipa import abi, json_lines
from kvmipa.backend import DEVICE
from kvmipa.errno_names import errno_name, errno_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from kvmipa.backend import Backend
    from kvmipa.backend.emulated.host import HostProfile

_KIND: Final = "kvmipa_recording"
FORMAT: Final = 1


@dataclass(frozen=True)
class Observation:
    """One ioctl with its argument by value, and what came back: the result, or -errno.

    ioctl: the request's name, or its number in hexadecimal. machine_type: asked on a VM of that type; None: on the
    system descriptor. no_descriptor: asked while the process could have no further descriptor. Of a KVM_CREATE_VM that
    succeeded the result is 0: descriptor numbers are the process's own, and the VM is closed at once.
    """

    ioctl: str
    argument: int = 0
    machine_type: int | None = None
    no_descriptor: bool = False
    result: int | None = None

    @property
    def request(self) -> int:
        """The request's number."""
        return abi.REQUESTS[self.ioctl] if self.ioctl in abi.REQUESTS else int(self.ioctl, 16)

    def as_json(self) -> dict[str, Any]:
        """The line as an object; 64-bit numbers as hexadecimal strings, failures as the errno's name."""
        line: dict[str, Any] = {"fd": "system" if self.machine_type is None else "vm"}
        if self.machine_type is not None:
            line["machine_type"] = hex(self.machine_type)
        line |= {"ioctl": self.ioctl, "argument": hex(self.argument)}
        if self.no_descriptor:
            line["no_descriptor"] = True
        result = self.result
        if result is None:
            raise ValueError(f"{self} was not asked yet")
        line["result"] = result if result >= 0 else errno_name(-result)
        return line

    @classmethod
    def from_json(cls, line: dict[str, Any]) -> Observation:
        """The inverse of as_json()."""
        result = line["result"]
        return cls(
            ioctl=line["ioctl"],
            argument=int(line["argument"], 16),
            machine_type=int(line["machine_type"], 16) if line["fd"] == "vm" else None,
            no_descriptor=line.get("no_descriptor", False),
            result=result if isinstance(result, int) else -errno_of(result),
        )


@dataclass(frozen=True)
class Recording:
    """A header and its observations."""

    header: dict[str, Any]
    observations: tuple[Observation, ...]

    @property
    def profile(self) -> HostProfile:
        """The host that was recorded."""
        return profile_from_json(self.header["profile"])

    def write(self, file: IO[str]) -> None:
        """Write as JSON lines."""
        file.write(json_lines.text((self.header, *(observation.as_json() for observation in self.observations))))

    @classmethod
    def read(cls, file: Iterable[str]) -> Recording:
        """Read JSON lines; ValueError where the format is another one."""
        header, lines = json_lines.read(file, _KIND, FORMAT)
        return cls(header, tuple(map(Observation.from_json, lines)))


def profile_as_json(profile: HostProfile) -> dict[str, Any]:
    """A profile as an object: registers as hexadecimal strings, errata as a list; without more registers if none are.

    >>> from kvmipa import HostProfile
    >>> profile = HostProfile(registers={0x603000000013C000: 0x411FD070})
    >>> profile_as_json(profile)["registers"], profile_from_json(profile_as_json(profile)) == profile
    ({'0x603000000013c000': '0x411fd070'}, True)
    """
    found: dict[str, Any] = {}
    for name in profile.__dataclass_fields__:
        value = getattr(profile, name)
        if name == "registers":
            if value:
                found[name] = {hex(register): hex(content) for register, content in value.items()}
            continue
        if name.endswith("_el1"):
            value = hex(value)
        found[name] = sorted(value) if isinstance(value, frozenset) else value
    return found


def profile_from_json(found: dict[str, Any]) -> HostProfile:
    """The inverse of profile_as_json()."""
    from kvmipa.backend.emulated.host import HostProfile

    fields = {
        name: int(value, 16) if name.endswith("_el1") and isinstance(value, str) else value
        for name, value in found.items()
    }
    registers = {int(register, 16): int(content, 16) for register, content in found.get("registers", {}).items()}
    return HostProfile(**fields | {"errata": frozenset(found.get("errata", ())), "registers": registers})


class Session:
    """An open KVM device that observations are asked of; a context manager."""

    def __init__(self, backend: Backend, device: str = DEVICE) -> None:
        self._backend = backend
        self._system = backend.open(device)
        if self._system < 0:
            raise OSError(-self._system, os.strerror(-self._system), device)
        self._vm: tuple[int, int] | None = None

    def ask(self, observation: Observation) -> int:
        """The result, or -errno, that this kernel gives."""
        fd = self._system if observation.machine_type is None else self._vm_of(observation.machine_type)
        if fd < 0:
            return fd
        if not observation.no_descriptor:
            return self._send(fd, observation)
        with no_free_descriptor():
            return self._send(fd, observation)

    def _send(self, fd: int, observation: Observation) -> int:
        result = self._backend.ioctl(fd, observation.request, observation.argument)
        if observation.ioctl == "KVM_CREATE_VM" and fd == self._system and result >= 0:
            self._backend.close(result)
            return 0
        return result

    def _vm_of(self, machine_type: int) -> int:
        """A VM of this type; the last one is kept, for the next observation mostly wants it too."""
        if self._vm is None or self._vm[0] != machine_type:
            self._close_vm()
            fd = self._backend.ioctl(self._system, abi.KVM_CREATE_VM, machine_type)
            if fd < 0:
                return fd
            self._vm = (machine_type, fd)
        return self._vm[1]

    def _close_vm(self) -> None:
        if self._vm is not None:
            self._backend.close(self._vm[1])
            self._vm = None

    def __enter__(self) -> Session:
        """The session."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close what is open."""
        self._close_vm()
        self._backend.close(self._system)


@contextmanager
def no_free_descriptor() -> Iterator[None]:
    """Lower RLIMIT_NOFILE so that the process can open nothing more."""
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    lowest_free = os.open(os.devnull, os.O_RDONLY)
    os.close(lowest_free)
    resource.setrlimit(resource.RLIMIT_NOFILE, (lowest_free, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def record(backend: Backend, questions: Iterable[Observation]) -> Iterator[Observation]:
    """Each question with this kernel's answer."""
    with Session(backend) as session:
        for question in questions:
            yield replace(question, result=session.ask(question))


def differences(recording: Recording, backend: Backend) -> Iterator[tuple[Observation, int]]:
    """Every observation that another kernel answers differently, with its answer."""
    with Session(backend) as session:
        for observation in recording.observations:
            answer = session.ask(observation)
            if answer != observation.result:
                yield observation, answer
