# SPDX-License-Identifier: Apache-2.0
"""Logs of strace as traces: what a VMM asked of /dev/kvm, as far as a log shows it.

``strace -f -o LOG -e trace=openat,ioctl,close,mmap,dup,eventfd2 VMM ...``, with or without -t, -tt, -ttt, -r, -T, -y,
-yy. strace decodes the arguments of a few of KVM's requests (src/kvm.c) and shows of the others that they have an
address: those are left out, and counted. So are the runs of vCPUs: no log has the guest's registers and memory. All
threads and processes of a log are taken for one process.
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, NamedTuple

from kvmipa.abi import (
    CAPABILITIES,
    KVM_ARM_PREFERRED_TARGET,
    KVM_CHECK_EXTENSION,
    KVM_CREATE_VCPU,
    KVM_CREATE_VM,
    KVM_GET_VCPU_MMAP_SIZE,
    KVM_MEM_GUEST_MEMFD,
    KVM_MEM_LOG_DIRTY_PAGES,
    KVM_MEM_READONLY,
    KVM_SET_USER_MEMORY_REGION,
    REQUESTS,
    request_name,
)
from kvmipa.backend import DEVICE
from kvmipa.errno_names import errno_of
from kvmipa.trace.areas import ALIGNMENT, LIMIT
from kvmipa.trace.arena import NOTHING_WRITTEN
from kvmipa.trace.file import Step, Trace
from kvmipa.trace.operations import Close, EventFd, Ioctl, Map, MapRunArea, Open
from kvmipa.trace.session import NEW, Result
from kvmipa.trace.values import struct

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from kvmipa.trace.operations import Operation
    from kvmipa.trace.values import Value

# Who: -f writes the number of the thread, in brackets on a terminal. When: -t, -tt, -ttt and -r.
_WHO: Final = r" *(?:\[pid +(?P<pid>\d+)\] +|(?P<thread>\d+) +)?"
_WHEN: Final = r"(?:(?:\d\d:\d\d:\d\d(?:\.\d+)?|\d+\.\d+) +|\(\+ *\d+\.\d+\) +)?"
_LINE: Final = re.compile(_WHO + _WHEN + r"(?P<rest>\S.*)")
_CALL: Final = re.compile(r"(?P<name>\w+)\((?P<arguments>.*)\) += (?P<result>.*)", re.DOTALL)
_UNFINISHED: Final = " <unfinished ...>"
_RESUMED: Final = re.compile(r"<\.\.\. (?P<name>\w+) resumed>,? ?(?P<rest>.*)")
_LOOKS_LIKE: Final = re.compile(
    r"^" + _WHO + _WHEN + r"(?:execve|openat|open|ioctl|mmap|close|clone3?|brk|read)\(.* = ", re.MULTILINE
)

# -y and -yy: what is behind a descriptor.
_DECORATION: Final = re.compile(r"(?<=[0-9])<[^<>]*>")
_FAILED: Final = re.compile(r"-1 (E[A-Z0-9]+)\b")
_NUMBER: Final = re.compile(r"-?(?:0x[0-9a-fA-F]+|\d+)")
_IOC: Final = re.compile(r"_IOC\(([\w|]+), (0x[0-9a-f]+|\d+), (0x[0-9a-f]+|\d+), (0x[0-9a-f]+|\d+)\)")
_DIRECTIONS: Final = {"_IOC_NONE": 0, "_IOC_WRITE": 1, "_IOC_READ": 2}
_COMMENT: Final = re.compile(r" ?/\*[^*]*\*/")

_FLAGS: Final = {
    "KVM_MEM_LOG_DIRTY_PAGES": KVM_MEM_LOG_DIRTY_PAGES,
    "KVM_MEM_READONLY": KVM_MEM_READONLY,
    "KVM_MEM_GUEST_MEMFD": KVM_MEM_GUEST_MEMFD,
}

# Capabilities that VMMs ask for and kvmipa has no name for (include/uapi/linux/kvm.h).
_MORE_CAPABILITIES: Final = {
    **CAPABILITIES,
    "KVM_CAP_IRQ_INJECT_STATUS": 26,
    "KVM_CAP_VM_ATTRIBUTES": 101,
    "KVM_CAP_NESTED_STATE": 157,
}
_KVM: Final = 0xAE
_TAKES_ADDRESS: Final = 0xC000_0000
_MAKES: Final = {KVM_CREATE_VM: "vm", KVM_CREATE_VCPU: "vcpu", REQUESTS["KVM_GET_STATS_FD"]: "stats"}
# Their argument is room for an answer.
_ANSWERS: Final = {KVM_ARM_PREFERRED_TARGET: "vcpu_init", REQUESTS["KVM_GET_MP_STATE"]: "mp_state"}

_DONE: Final = Result(0, NOTHING_WRITTEN)


@dataclass(frozen=True)
class Log:
    """What could be read of a log. lines: where each step is in it; skipped: what could not, and how often."""

    trace: Trace
    lines: tuple[int, ...]
    skipped: Counter[str]


class Call(NamedTuple):
    """A system call of a log, on one of its lines. result: what it returned, or -errno."""

    line: int
    name: str
    arguments: list[str]
    result: int


def is_log(text: str) -> bool:
    """Whether it looks like what strace writes.

    >>> is_log('[pid   12] 10:00:00.000001 ioctl(7</dev/kvm>, KVM_GET_API_VERSION, 0) = 12 <0.000010>')
    True
    >>> is_log('{"kvmipa_trace":1}')
    False
    """
    return not text.startswith("{") and _LOOKS_LIKE.search(text) is not None


def read(text: str) -> Log:
    r"""The trace of a log.

    >>> log = read('openat(AT_FDCWD, "/dev/kvm", O_RDWR) = 7\nioctl(7, KVM_CREATE_VM, 0x28) = -1 EINVAL (Invalid ...)')
    >>> print(log.trace.text().splitlines()[-1], log.lines)
    {"ioctl":"KVM_CREATE_VM","on":"kvm","argument":40,"result":"EINVAL"} (1, 2)
    """
    reader = _Reader()
    for call in calls(text, reader.skipped):
        reader.take(call)
    trace = Trace({"of": "a log of strace"}, tuple(reader.steps))
    return Log(trace, tuple(reader.lines), reader.skipped)


def calls(text: str, skipped: Counter[str]) -> Iterator[Call]:
    """The system calls that ended, in the order in which they did; what was cut off is counted."""
    unfinished: dict[str, str] = {}
    for number, line in enumerate(text.splitlines(), start=1):
        found = _LINE.match(line)
        if found is None:
            continue
        who, rest = found["pid"] or found["thread"] or "", found["rest"]
        if rest.endswith(_UNFINISHED):
            unfinished[who] = rest.removesuffix(_UNFINISHED)
            continue
        resumed = _RESUMED.match(rest)
        if resumed is not None:
            rest = unfinished.pop(who, f"{resumed['name']}(") + resumed["rest"]
        call = _CALL.match(rest)
        if call is None:
            if re.match(r"(?:openat|open|ioctl|close)\(", rest):
                skipped["lines that end in the middle"] += 1
            continue
        result = _result(call["result"])
        if result is not None:
            yield Call(number, call["name"], _split(_DECORATION.sub("", call["arguments"])), result)


def _result(text: str) -> int | None:
    """What a call returned; None where it did not return."""
    failed = _FAILED.match(text)
    if failed:
        try:
            return -errno_of(failed[1])
        except ValueError:
            return None
    number = _NUMBER.match(text)
    return int(number[0], 0) if number else None


def _split(text: str) -> list[str]:
    """The arguments of a call.

    >>> _split('8, KVM_SET_USER_MEMORY_REGION, {slot=0, flags=0}')
    ['8', 'KVM_SET_USER_MEMORY_REGION', '{slot=0, flags=0}']
    """
    found, depth, start, quoted = [], 0, 0, False
    for at, letter in enumerate(text):
        if letter == '"' and text[at - 1 : at] != "\\":
            quoted = not quoted
        elif quoted:
            continue
        elif letter in "{[(":
            depth += 1
        elif letter in "}])":
            depth -= 1
        elif letter == "," and not depth:
            found.append(text[start:at].strip())
            start = at + 1
    return [*found, text[start:].strip()]


def _number(text: str, names: dict[str, int] | None = None) -> int | None:
    """A number, or a name of the table, or several of them with | between; None for what is neither."""
    value = 0
    for part in _COMMENT.sub("", text).split("|"):
        word = part.strip()
        if _NUMBER.fullmatch(word):
            value |= int(word, 0)
        elif names and word in names:
            value |= names[word]
        else:
            return None
    return value


def _request(text: str) -> int | None:
    """The number of a request, by its name or as _IOC() has it."""
    found = _IOC.search(text)
    if found:
        direction = sum(_DIRECTIONS.get(word, 0) for word in found[1].split("|"))
        kind, number, size = (int(part, 0) for part in found.groups()[1:])
        return direction << 30 | size << 16 | kind << 8 | number
    # On arm64 two names have one number: "KVM_ARM_SET_DEVICE_ADDR or KVM_GET_ONE_REG".
    for word in re.findall(r"KVM_\w+", text):
        if word in REQUESTS:
            return REQUESTS[word]
    return _number(text)


@dataclass
class _Area:
    name: str
    start: int
    end: int


@dataclass
class _Reader:
    """The process of a log."""

    steps: list[Step] = field(default_factory=list)
    lines: list[int] = field(default_factory=list)
    skipped: Counter[str] = field(default_factory=Counter)
    _names: dict[int, str] = field(default_factory=dict)
    _used: Counter[str] = field(default_factory=Counter)
    _areas: list[_Area] = field(default_factory=list)
    _page_size: int = 4096

    def take(self, call: Call) -> None:
        """One more system call."""
        take = _TAKERS.get(call.name)
        if take is not None:
            take(self, call)

    def _note(self, call: Call, operation: Operation, result: Result = _DONE) -> None:
        self.steps.append(Step(operation, result))
        self.lines.append(call.line)

    def _new(self, kind: str, fd: int) -> str:
        number = self._used[kind]
        self._used[kind] += 1
        name = "kvm" if kind == "kvm" and not number else f"{kind}{number}"
        self._names[fd] = name
        return name

    def _fd(self, text: str) -> int:
        found = _NUMBER.match(text)
        return int(found[0], 0) if found else -1

    # -------------------------------------------------------------------------------------------- descriptors

    def open(self, call: Call) -> None:
        """A file is opened."""
        is_kvm = f'"{DEVICE}"' in call.arguments
        if call.result < 0:
            if is_kvm:
                self._note(call, Open("kvm"), Result(call.result, NOTHING_WRITTEN))
            return
        self._forget(call, call.result)
        if is_kvm:
            self._note(call, Open(self._new("kvm", call.result)), Result(NEW, NOTHING_WRITTEN))

    def close(self, call: Call) -> None:
        """A descriptor is closed."""
        if call.result == 0:
            self._forget(call, self._fd(call.arguments[0]))

    def _forget(self, call: Call, fd: int) -> None:
        """A number stands for nothing, or for something else, from now on."""
        name = self._names.pop(fd, None)
        if name is not None and name not in self._names.values():
            self._note(call, Close(name))

    def duplicate(self, call: Call) -> None:
        """What dup(2), dup2(2), dup3(2) did, and fcntl(2) where it does the same."""
        if call.result < 0 or (call.name == "fcntl" and not call.arguments[1].startswith("F_DUPFD")):
            return
        name = self._names.get(self._fd(call.arguments[0]))
        if call.result != self._fd(call.arguments[0]):
            self._forget(call, call.result)
        if name is not None:
            self._names[call.result] = name

    def eventfd(self, call: Call) -> None:
        """What eventfd2(2) did."""
        if call.result >= 0:
            self._forget(call, call.result)
            self._note(call, EventFd(self._new("eventfd", call.result)), Result(NEW, NOTHING_WRITTEN))

    def map(self, call: Call) -> None:
        """What mmap(2) did, of a vCPU."""
        if len(call.arguments) < 6:
            return
        name = self._names.get(self._fd(call.arguments[4]), "")
        size, offset = _number(call.arguments[1]), _number(call.arguments[5])
        if name.startswith("vcpu") and size and offset is not None and not size % self._page_size:
            result = Result(min(call.result, 0), NOTHING_WRITTEN)
            self._note(call, MapRunArea(name, size // self._page_size, offset // self._page_size), result)

    # -------------------------------------------------------------------------------------------- ioctls

    def ioctl(self, call: Call) -> None:
        """A request."""
        if len(call.arguments) < 2:
            return
        on, request = self._names.get(self._fd(call.arguments[0])), _request(call.arguments[1])
        if request is None or request >> 8 & 0xFF != _KVM:
            if "KVM_" in call.arguments[1]:
                self.skipped[f"{call.arguments[1]}: a request that kvmipa does not know"] += 1
            return
        shown = _COMMENT.sub("", call.arguments[1])
        if on is None:
            self.skipped[f"{shown} on a descriptor whose making is not in the log"] += 1
            return
        argument = self._argument(call, request, ", ".join(call.arguments[2:]) or "0")
        if argument is None:
            return
        name = next((word for word in re.findall(r"KVM_\w+", shown) if word in REQUESTS), None)
        new = None
        result = Result(call.result, NOTHING_WRITTEN)
        if request in _MAKES and call.result >= 0:
            self._forget(call, call.result)
            new, result = self._new(_MAKES[request], call.result), Result(NEW, NOTHING_WRITTEN)
        if request == KVM_GET_VCPU_MMAP_SIZE and call.result > 0:
            # Of arm64: the run area and the ring of coalesced MMIO (kernel-ipa-spec 1.3).
            self._page_size = call.result // 2
        self._note(call, Ioctl(on, name or request, argument, new), result)

    def _argument(self, call: Call, request: int, text: str) -> Value | None:
        """The argument; None where the log does not have it, which is counted."""
        if request == REQUESTS["KVM_RUN"]:
            self.skipped["KVM_RUN: a log has no registers and no memory"] += 1
            return None
        if request == KVM_SET_USER_MEMORY_REGION and text.startswith("{"):
            return self._region(call, text)
        if request in _ANSWERS and not text.startswith("NULL"):
            return struct(_ANSWERS[request])
        if request & _TAKES_ADDRESS:
            shown = _COMMENT.sub("", call.arguments[1])
            shown = request_name(request) if shown.startswith("_IOC") else shown
            self.skipped[f"{shown}: strace does not show the argument"] += 1
            return None
        value = _number(text, _MORE_CAPABILITIES if request == KVM_CHECK_EXTENSION else None)
        if value is None:
            self.skipped[f"{call.arguments[1]}({text}): an argument that kvmipa does not know"] += 1
            return None
        return value & (1 << 64) - 1

    def _region(self, call: Call, text: str) -> Value | None:
        fields: dict[str, int] = {}
        for part in _split(text.strip("{}")):
            name, _, value = part.partition("=")
            number = _number(value, _FLAGS)
            if number is None:
                self.skipped[f"KVM_SET_USER_MEMORY_REGION with {part}"] += 1
                return None
            fields[name] = number
        size, address = fields.get("memory_size", 0), fields.pop("userspace_addr", 0)
        values: dict[str, Value] = {name: number for name, number in fields.items() if number}
        values["userspace_addr"] = self._place(call, address, size)
        try:
            return struct("userspace_memory_region", **values)
        except ValueError as error:
            self.skipped[f"KVM_SET_USER_MEMORY_REGION: {error}"] += 1
            return None

    def _place(self, call: Call, address: int, size: int) -> Value:
        """The VMM's memory: what lies in an area that there is, or a new one as large as the slot."""
        if not address:
            return "null"
        for area in self._areas:
            if area.start <= address and address + size <= area.end:
                return f"{area.name}+{address - area.start:#x}"
        if not size:
            return "unmapped"
        name, start = f"mem{len(self._areas)}", address // ALIGNMENT * ALIGNMENT
        self._areas.append(_Area(name, start, address + size))
        length = address + size - start
        left = LIMIT - sum(area.end - area.start for area in self._areas[:-1])
        # No guest runs: what matters is where it lies.
        mapped = length if length <= left else min(ALIGNMENT, max(left, 1))
        self._note(call, Map(name, mapped, "rw", length - mapped))
        return f"{name}+{address - start:#x}"


_TAKERS: Final[dict[str, Callable[[_Reader, Call], None]]] = {
    "open": _Reader.open,
    "openat": _Reader.open,
    "close": _Reader.close,
    "dup": _Reader.duplicate,
    "dup2": _Reader.duplicate,
    "dup3": _Reader.duplicate,
    "fcntl": _Reader.duplicate,
    "eventfd2": _Reader.eventfd,
    "eventfd": _Reader.eventfd,
    "mmap": _Reader.map,
    "ioctl": _Reader.ioctl,
}
