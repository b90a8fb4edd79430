# SPDX-License-Identifier: Apache-2.0
"""The operations of a trace, and their JSON."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Final

from kvmipa.abi import REQUESTS, request_name
from kvmipa.trace.values import as_json, from_json

if TYPE_CHECKING:
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


@dataclass(frozen=True)
class Map:
    """Map anonymous memory: size in bytes, protection "rw", "ro" or "none". The address is a multiple of 2 MiB."""

    name: str
    size: int
    protection: str = "rw"

    def as_json(self) -> dict[str, Any]:
        """The line as an object."""
        return {"map": self.name, "size": as_json(self.size), "protection": self.protection}


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


Operation = Begin | Open | EventFd | Close | Map | Protect | Unmap | Write | Ioctl


def operation_from_json(line: dict[str, Any]) -> Operation:
    """The operation of a line; ValueError for a verb that there is not."""
    verb = next(iter(line), "")
    if verb == "ioctl":
        request = line["ioctl"]
        return Ioctl(
            line["on"],
            int(request, 16) if request.startswith("0x") else request,
            from_json(line.get("argument", 0)),
            line.get("new"),
            line.get("no_descriptor", False),
        )
    name = line.get(verb, "")
    if verb in _OF_A_NAME:
        return _OF_A_NAME[verb](name)
    if verb == "map":
        size = from_json(line["size"])
        assert isinstance(size, int)
        return Map(name, size, line["protection"])
    if verb == "protect":
        return Protect(name, line["protection"])
    if verb == "write":
        data = from_json(line["data"])
        assert not isinstance(data, (int, str))
        return Write(name, data)
    raise ValueError(f"no operation is called {verb!r}")


_OF_A_NAME: Final[dict[str, type[Begin | Open | EventFd | Close | Unmap]]] = {
    kind.verb: kind for kind in (Begin, Open, EventFd, Close, Unmap)
}
