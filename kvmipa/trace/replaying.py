# SPDX-License-Identifier: Apache-2.0
"""A trace on another kernel, and what it answers differently in words."""

from __future__ import annotations

import errno
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from kvmipa.errno_names import errno_name
from kvmipa.trace.file import line_of
from kvmipa.trace.operations import EventFd, Ioctl, MapRunArea, Open, Run
from kvmipa.trace.reading import NotATraceError
from kvmipa.trace.session import NEW, Result, Session

if TYPE_CHECKING:
    from kvmipa.backend import Backend
    from kvmipa.trace.file import Step
    from kvmipa.trace.operations import Operation
    from kvmipa.trace.reading import Loaded


# Letters of what was written, and of a call, that are shown.
_LONG: Final = 64
_LONG_CALL: Final = 160


@dataclass(frozen=True)
class Difference:
    """A step that was answered differently. line: in the file; call: the step as text; words: both answers."""

    line: int
    step: Step
    answer: Result
    call: str
    words: str

    def as_json(self) -> dict[str, Any]:
        """The difference as an object."""
        return {
            "line": self.line,
            "call": self.call,
            "expected": {"result": _result(self.step.result), "wrote": self.step.result.wrote},
            "came": {"result": _result(self.answer), "wrote": self.answer.wrote},
        }


@dataclass
class Outcome:
    """What came of a replay. consequences: differences only because what they work on was not made."""

    differences: list[Difference] = field(default_factory=list)
    consequences: int = 0


def replay(loaded: Loaded, backend: Backend, device: str) -> Outcome:
    """Do all of it. Raises NotATraceError, with the line, for what cannot be done."""
    outcome = Outcome()
    lost: set[str] = set()
    with Session(backend, device) as session:
        for line, step in zip(loaded.lines, loaded.trace.steps, strict=True):
            try:
                answer = session.do(step.operation)
            except (ValueError, TypeError, OverflowError) as error:
                raise NotATraceError(f"line {line}: {error}") from None
            except OSError as error:
                # This process has no more memory or descriptors.
                raise OSError(error.errno, f"line {line}: {error.strerror}") from None
            expected = step.result
            if loaded.of_strace:
                # A log does not have what was written.
                answer = answer._replace(wrote=expected.wrote)
            if answer == expected:
                continue
            is_consequence = answer.value == -errno.EBADF and _works_on(step.operation) in lost
            if expected.value == NEW and answer.value != NEW:
                lost.add(_makes(step.operation))
            if is_consequence:
                outcome.consequences += 1
            else:
                outcome.differences.append(_difference(line, step, answer))
    return outcome


def _makes(operation: Operation) -> str:
    if isinstance(operation, Ioctl):
        return operation.new or ""
    return operation.name if isinstance(operation, (Open, EventFd)) else ""


def _works_on(operation: Operation) -> str:
    if isinstance(operation, Ioctl):
        return str(operation.on)
    return operation.vcpu if isinstance(operation, (Run, MapRunArea)) else ""


def _difference(line: int, step: Step, answer: Result) -> Difference:
    from kvmipa.conformance.reports.system_calls import calls

    call = _short(calls("{}\n" + line_of(step._replace(result=Result(step.result.value, {}))))[0], _LONG_CALL)
    return Difference(line, step, answer, call, _words(step.result, answer))


def _words(expected: Result, came: Result) -> str:
    """Both answers.

    >>> _words(Result("new", {}), Result(-22, {})), _words(Result(12, {}), Result(13, {}))
    ('it made a descriptor, and here it fails with EINVAL', 'it returned 12, and here it returns 13')
    """
    if expected.value == came.value:
        if "exit" in expected.wrote or "exit" in came.wrote:
            return f"the exit was {_exit(expected)}, and here it is {_exit(came)}"
        return f"it wrote {_wrote(expected)}, and here it writes {_wrote(came)}"
    return f"it {_past(expected.value)}, and here it {_present(came.value)}{_beside(came)}"


def _past(value: int | str) -> str:
    if value == NEW:
        return "made a descriptor"
    return f"failed with {_name(value)}" if isinstance(value, int) and value < 0 else f"returned {value}"


def _present(value: int | str) -> str:
    if value == NEW:
        return "makes a descriptor"
    return f"fails with {_name(value)}" if isinstance(value, int) and value < 0 else f"returns {value}"


def _beside(came: Result) -> str:
    return f" ({_exit(came)})" if "exit" in came.wrote else ""


def _name(value: int) -> str:
    return errno_name(-value)


def _result(result: Result) -> int | str:
    value = result.value
    return _name(value) if isinstance(value, int) and value < 0 else value


def _exit(result: Result) -> str:
    found = result.wrote.get("exit", "none")
    if not isinstance(found, dict):
        return str(found)
    fields = ", ".join(f"{name}={value}" for name, value in found.items() if name != "kind")
    return f"{found.get('kind')}({fields})"


def _wrote(result: Result) -> str:
    found = ", ".join(f"{_short(str(what), _LONG)} to buffer {where}" for where, what in result.wrote.items())
    return found or "nothing"


def _short(text: str, length: int) -> str:
    return text if len(text) <= length else text[:length] + "..."
