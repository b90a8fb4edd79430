# SPDX-License-Identifier: Apache-2.0
"""Traces as users have them: kvmipa's own, compressed or not, cut off or not, and logs of strace."""

from __future__ import annotations

import json
import zlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from kvmipa.trace import strace
from kvmipa.trace.file import FORMAT, Trace, step_from_json
from kvmipa.trace.foreign import check
from kvmipa.trace.operations import Note
from kvmipa.trace.values import Bytes

if TYPE_CHECKING:
    from pathlib import Path

    from kvmipa.trace.file import Step
    from kvmipa.trace.values import Value

#: Bytes of a file, and of what comes of it when it is decompressed.
LARGEST: Final = 512 << 20

_GZIP: Final = b"\x1f\x8b"
_KIND: Final = "kvmipa_trace"
_SHOWN: Final = 60


class NotATraceError(ValueError):
    """A file that no trace can be read from; its name is in the message, and the line if it is one line."""


@dataclass(frozen=True)
class Loaded:
    """A trace and how it was read.

    lines: where each step is in the file. cut: why it is not whole, or empty. of_strace: whether it is a log of
    strace; skipped: what of that could not be read, and how often.
    """

    trace: Trace
    lines: tuple[int, ...]
    cut: str = ""
    of_strace: bool = False
    skipped: tuple[tuple[str, int], ...] = ()

    @property
    def notes(self) -> list[str]:
        """What the trace says that it lacks."""
        return [step.operation.name for step in self.trace.steps if isinstance(step.operation, Note)]


def load(path: Path) -> Loaded:
    """Read a file; of one that ends in the middle all that is whole.

    Raises NotATraceError; OSError where it cannot be opened.
    """
    try:
        with path.open("rb") as file:
            data = file.read(LARGEST + 1)
        return _load(data)
    except ValueError as error:
        # Also of a name with a zero byte.
        raise NotATraceError(f"{path}: {error}") from None


def _load(data: bytes) -> Loaded:
    cut = ""
    if data.startswith(_GZIP):
        data, cut = _decompress(data)
    if len(data) > LARGEST:
        raise ValueError(f"larger than {LARGEST >> 20} MiB")
    if not data.strip():
        raise ValueError("what could be decompressed of it is empty" if cut else "the file is empty")
    text = data.decode("utf-8", "replace")
    if strace.is_log(text):
        log = strace.read(text)
        return Loaded(log.trace, log.lines, cut, of_strace=True, skipped=tuple(log.skipped.items()))
    return _of_lines(text, cut)


def _decompress(data: bytes) -> tuple[bytes, str]:
    """The content, and why it is not whole."""
    decompressor = zlib.decompressobj(wbits=31)
    try:
        content = decompressor.decompress(data, LARGEST + 1)
    except zlib.error as error:
        raise ValueError(f"compressed, and damaged ({error})") from None
    return content, "" if decompressor.eof or len(content) > LARGEST else "the compressed file ends in the middle"


def _of_lines(text: str, cut: str) -> Loaded:
    rows = text.split("\n")
    header = _header(rows[0])
    steps: list[Step] = []
    lines: list[int] = []
    total = 0
    for number, row in enumerate(rows[1:], start=2):
        if not row.strip():
            continue
        try:
            line = json.loads(row)
        except (ValueError, RecursionError):
            # What is whole ends with a line feed.
            if number == len(rows):
                cut = cut or f"line {number}, the last one, ends in the middle"
                break
            raise ValueError(f"line {number} is not JSON: {_shown(row)}") from None
        step = _step(number, line)
        steps.append(step)
        lines.append(number)
        total += _data_size(getattr(step.operation, "data", None) or getattr(step.operation, "argument", None) or 0)
        if total > LARGEST:
            raise ValueError(f"line {number}: more than {LARGEST >> 20} MiB of data until here")
    return Loaded(Trace(header, tuple(steps)), tuple(lines), cut)


def _data_size(value: Value) -> int:
    if isinstance(value, tuple):
        return sum(map(_data_size, value))
    return value.size if isinstance(value, Bytes) else 0


def _header(row: str) -> dict[str, Any]:
    try:
        header = json.loads(row)
    except (ValueError, RecursionError):
        header = None
    if not isinstance(header, dict) or _KIND not in header:
        raise ValueError(f"no trace: {_what_else(row, header)}")
    version = header.pop(_KIND)
    if isinstance(version, int) and version > FORMAT:
        raise ValueError(f"a trace of format {version}, and this kvmipa reads format {FORMAT}: a newer one wrote it")
    if version != FORMAT:
        raise ValueError(f"a trace of format {version!r}, which there is not")
    if not isinstance(header.get("profile", {}), dict):
        raise ValueError("line 1: the profile is no object")
    return header


def _what_else(row: str, header: Any) -> str:
    if isinstance(header, dict) and "kvmipa_recording" in header:
        return "it is a recording of kvmipa's test data"
    if row.strip() == "{" or (isinstance(header, dict) and "results" in header):
        return "it may be a report; kvmipa conform --traces DIR writes the traces of what failed"
    return f"its first line has no {_KIND!r}, and no line is one of strace's: {_shown(row)}"


def _step(number: int, line: Any) -> Step:
    try:
        if not isinstance(line, dict):
            raise TypeError(f"no operation: {_shown(json.dumps(line))}")
        step = step_from_json(line)
        check(step.operation)
    except KeyError as error:
        raise ValueError(f"line {number}: {error} is missing, or unknown") from None
    except AttributeError:
        raise ValueError(f"line {number}: not as operations are written: {_shown(json.dumps(line))}") from None
    except (ValueError, TypeError, OverflowError, RecursionError) as error:
        raise ValueError(f"line {number}: {error}") from None
    return step


def _shown(row: str) -> str:
    return repr(row[:_SHOWN] + "..." if len(row) > _SHOWN else row)
