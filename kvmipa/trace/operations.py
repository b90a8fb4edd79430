# SPDX-License-Identifier: Apache-2.0
"""The operations of a trace, and their JSON."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Final

from kvmipa.abi import REQUESTS, request_name
from kvmipa.trace.values import as_json, from_json

if TYPE_CHECKING:
    from collections.abc import Callable

    from kvmipa.trace.values import Bytes, Data, Struct, Value


@dataclass(frozen=True)
class _OfAName:
    """An operation of which its name is all that there is; verb: the key of its line."""

    verb: ClassVar[str]

    name: str

    def as_json(self) -> dict[str, Any]:
        """The line as an object."""
        return {self.verb: self.name}


class Begin(_OfAName):
    """Close and unmap everything: a new start, with a name of its own."""

    verb = "begin"


@dataclass(frozen=True)
class Open(_OfAName):
    """Open the KVM device under a name."""

    verb = "open"

    name: str = "kvm"


class EventFd(_OfAName):
    """Make an eventfd."""

    verb = "eventfd"


class Close(_OfAName):
    """Close a descriptor; nothing where the name stands for none."""

    verb = "close"


class Unmap(_OfAName):
    """Unmap memory; nothing where the name stands for none."""

    verb = "unmap"


class Note(_OfAName):
    """Nothing to do: what whoever took the trace has to say, above all what is not in it."""

    verb = "note"


@dataclass(frozen=True)
class Map:
    """Map anonymous memory: size in bytes, protection "rw", "ro" or "none". The address is a multiple of 2 MiB.

    room: bytes of user space behind it that have to stay free.
    """

    name: str
    size: int
    protection: str = "rw"
    room: int = 0

    def as_json(self) -> dict[str, Any]:
        """The line as an object."""
        line = {"map": self.name, "size": as_json(self.size), "protection": self.protection}
        return line | ({"room": as_json(self.room)} if self.room else {})


@dataclass(frozen=True)
class Protect:
    """Change the protection of mapped memory."""

    name: str
    protection: str

    def as_json(self) -> dict[str, Any]:
        """The line as an object."""
        return {"protect": self.name, "protection": self.protection}


@dataclass(frozen=True)
class Write:
    """Write to an area: where as a symbol."""

    where: str
    data: Struct | Bytes | Data

    def as_json(self) -> dict[str, Any]:
        """The line as an object."""
        return {"write": self.where, "data": as_json(self.data)}


@dataclass(frozen=True)
class Ioctl:
    """An ioctl on a descriptor by name or number; new names the descriptor that it may make.

    request is a number, or a name of kvmipa.abi. no_descriptor: while the process can have no further one.

    >>> Ioctl("vm0", 0xae41, 1, new="vcpu1").as_json()
    {'ioctl': 'KVM_CREATE_VCPU', 'on': 'vm0', 'argument': 1, 'new': 'vcpu1'}
    """

    on: str | int
    request: str | int
    argument: Value = 0
    new: str | None = None
    no_descriptor: bool = False

    @property
    def number(self) -> int:
        """The request's number."""
        return self.request if isinstance(self.request, int) else REQUESTS[self.request]

    def as_json(self) -> dict[str, Any]:
        """The line as an object."""
        request = request_name(self.request) if isinstance(self.request, int) else self.request
        line: dict[str, Any] = {"ioctl": request, "on": self.on}
        if self.argument != 0:
            line["argument"] = as_json(self.argument)
        if self.new:
            line["new"] = self.new
        if self.no_descriptor:
            line["no_descriptor"] = True
        return line


@dataclass(frozen=True)
class MapRunArea:
    """Map what a vCPU shares with user space: so many pages of the kernel's, from a page on."""

    vcpu: str
    pages: int = 2
    first: int = 0

    def as_json(self) -> dict[str, Any]:
        """The line as an object."""
        line: dict[str, Any] = {"mmap": self.vcpu, "pages": self.pages}
        return line | ({"first": self.first} if self.first else {})


@dataclass(frozen=True)
class Run:
    """KVM_RUN of a vCPU whose run area is mapped.

    before: offset -> the bytes that user space put there since the last one. interrupted: seconds after which somebody
    ended it, where that was no exit of the guest's.
    """

    vcpu: str
    before: dict[int, bytes] = field(default_factory=dict)
    interrupted: float | None = None

    def as_json(self) -> dict[str, Any]:
        """The line as an object."""
        line: dict[str, Any] = {"run": self.vcpu}
        if self.before:
            line["before"] = {str(offset): content.hex() for offset, content in self.before.items()}
        return line | ({} if self.interrupted is None else {"interrupted": self.interrupted})

    @classmethod
    def from_json(cls, line: dict[str, Any]) -> Run:
        """The inverse of as_json()."""
        before = {int(offset): bytes.fromhex(content) for offset, content in line.get("before", {}).items()}
        return cls(line["run"], before, line.get("interrupted"))


Operation = Begin | Open | EventFd | Close | Map | Protect | Unmap | Write | Ioctl | MapRunArea | Run | Note


def operation_from_json(line: dict[str, Any]) -> Operation:
    """The operation of a line; ValueError for a verb that there is not."""
    verb = next(iter(line), "")
    if verb in _OF_A_NAME:
        return _OF_A_NAME[verb](line[verb])
    if verb not in _FROM_JSON:
        raise ValueError(f"no operation is called {verb!r}")
    return _FROM_JSON[verb](line)


def _ioctl(line: dict[str, Any]) -> Ioctl:
    request = line["ioctl"]
    return Ioctl(
        line["on"],
        int(request, 16) if isinstance(request, str) and request.startswith("0x") else request,
        from_json(line.get("argument", 0)),
        line.get("new"),
        line.get("no_descriptor", False),
    )


def _write(line: dict[str, Any]) -> Write:
    data = from_json(line["data"])
    if isinstance(data, (int, str)):
        raise TypeError(f"data is what lies in a buffer, not {data!r}")
    return Write(line["write"], data)


def _number(found: Any) -> int:
    number = from_json(found)
    if not isinstance(number, int):
        raise TypeError(f"a number, not {found!r}")
    return number


_FROM_JSON: Final[dict[str, Callable[[dict[str, Any]], Operation]]] = {
    "ioctl": _ioctl,
    "map": lambda line: Map(line["map"], _number(line["size"]), line["protection"], _number(line.get("room", 0))),
    "protect": lambda line: Protect(line["protect"], line["protection"]),
    "write": _write,
    "mmap": lambda line: MapRunArea(line["mmap"], line["pages"], line.get("first", 0)),
    "run": Run.from_json,
}

_OF_A_NAME: Final[dict[str, type[Begin | Open | EventFd | Close | Unmap | Note]]] = {
    kind.verb: kind for kind in (Begin, Open, EventFd, Close, Unmap, Note)
}
