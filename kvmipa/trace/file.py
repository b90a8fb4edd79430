# SPDX-License-Identifier: Apache-2.0
"""Traces with their results: taking them, their files, and replaying them on another kernel."""

from __future__ import annotations

import gzip
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from kvmipa import json_lines
from kvmipa.backend import DEVICE
from kvmipa.errno_names import errno_name, errno_of
from kvmipa.recording import profile_as_json, profile_from_json
from kvmipa.trace.arena import NOTHING_WRITTEN
from kvmipa.trace.operations import Begin, Operation, operation_from_json
from kvmipa.trace.session import NEW, Result, Session

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from pathlib import Path

    from kvmipa.backend import Backend
    from kvmipa.backend.emulated.host import HostProfile

_KIND: Final = "kvmipa_trace"
FORMAT: Final = 1

_SEPARATORS: Final = (",", ":")

# Operations on the process alone succeed, or the trace is at an end.
_ALWAYS_0: Final = ("begin", "close", "map", "protect", "unmap", "write", "mmap", "note")


class Step(NamedTuple):
    """An operation and what came of it."""

    operation: Operation
    result: Result


@dataclass(frozen=True)
class Trace:
    """A header and its steps."""

    header: Mapping[str, Any]
    steps: tuple[Step, ...]

    @property
    def profile(self) -> HostProfile:
        """The host that answered; what this kvmipa's HostProfile has no field for is left out."""
        from kvmipa.backend.emulated.host import HostProfile

        known = HostProfile.__dataclass_fields__
        return profile_from_json({name: value for name, value in self.header["profile"].items() if name in known})

    @property
    def operations(self) -> tuple[Operation, ...]:
        """The operations without their results."""
        return tuple(step.operation for step in self.steps)

    def text(self) -> str:
        """The JSON lines."""
        return header_line(self.header) + "".join(map(line_of, self.steps))

    @classmethod
    def of_text(cls, text: str | Iterable[str]) -> Trace:
        """The inverse of text(); ValueError where it is no trace of this format."""
        header, lines = json_lines.read(text.splitlines() if isinstance(text, str) else text, _KIND, FORMAT)
        del header[_KIND]
        return cls(header, tuple(map(step_from_json, lines)))

    def write(self, path: Path) -> None:
        """Write a file; compressed where its name ends in .gz, the same bytes each time."""
        data = self.text().encode()
        path.write_bytes(gzip.compress(data, mtime=0) if path.suffix == ".gz" else data)

    @classmethod
    def read(cls, path: Path) -> Trace:
        """Read a file that write() wrote."""
        data = path.read_bytes()
        return cls.of_text((gzip.decompress(data) if path.suffix == ".gz" else data).decode())


class Difference(NamedTuple):
    """A step that another kernel answers differently: its number from 0, the part it is in, and the answer."""

    number: int
    part: str
    step: Step
    answer: Result

    def __str__(self) -> str:
        """The line of the trace, and the other answer."""
        answered = _result_as_json(self.answer)
        return f"{self.part or 'trace'}, step {self.number}: {json.dumps(_as_json(self.step))}, but now {answered}"


def header_line(header: Mapping[str, Any]) -> str:
    """The first line of a file."""
    return json_lines.text(({_KIND: FORMAT, **header},), _SEPARATORS)


def line_of(step: Step) -> str:
    r"""A step's line of a file.

    >>> from kvmipa.trace import Open, Result
    >>> line_of(Step(Open("kvm"), Result(-2, {})))
    '{"open":"kvm","result":"ENOENT"}\n'
    """
    return json_lines.text((_as_json(step),), _SEPARATORS)


def run(operations: Iterable[Operation], backend: Backend, header: Mapping[str, Any] | None = None) -> Trace:
    """Do the operations on a kernel.

    The header gets the profile of the emulated host; of a real one the caller knows it (HostProfile.of).
    """
    profile = {} if backend.profile is None else {"profile": profile_as_json(backend.profile)}
    with Session(backend) as session:
        steps = tuple(Step(operation, session.do(operation)) for operation in operations)
    return Trace({**profile, **(header or {})}, steps)


def replay(trace: Trace, backend: Backend, device: str = DEVICE) -> Iterator[Difference]:
    """Every step that this kernel answers differently.

    Raises ValueError, with the number of the step's line in a file, for what cannot be done.
    """
    part = ""
    with Session(backend, device) as session:
        for number, step in enumerate(trace.steps):
            if isinstance(step.operation, Begin):
                part = step.operation.name
            try:
                answer = session.do(step.operation)
            except ValueError as error:
                raise ValueError(f"line {number + 2}: {error}") from error
            if answer != step.result:
                yield Difference(number, part, step, answer)


def _as_json(step: Step) -> dict[str, Any]:
    line = step.operation.as_json()
    if step.result == (0, {}) and next(iter(line)) in _ALWAYS_0:
        return line
    return line | _result_as_json(step.result)


def _result_as_json(result: Result) -> dict[str, Any]:
    value = result.value
    if isinstance(value, int) and value < 0:
        value = errno_name(-value)
    return {"result": value} | ({"wrote": result.wrote} if result.wrote else {})


def step_from_json(line: dict[str, Any]) -> Step:
    """The step of a line as an object; ValueError, TypeError or KeyError where it is none."""
    value = line.get("result", 0)
    if isinstance(value, str) and value != NEW:
        value = -errno_of(value)
    wrote = line.get("wrote", NOTHING_WRITTEN)
    if not isinstance(value, (int, str)) or not isinstance(wrote, dict):
        raise TypeError(f"no result: {value!r}" if isinstance(wrote, dict) else f"nothing that was written: {wrote!r}")
    return Step(operation_from_json(line), Result(value, wrote))
