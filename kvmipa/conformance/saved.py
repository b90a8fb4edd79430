# SPDX-License-Identifier: Apache-2.0
"""Reports that were saved as JSON."""

from __future__ import annotations

import json
import math
import os
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Final

from kvmipa.conformance.results import FAIL, PASS, SKIP, Report

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    _Type = type | tuple[type, ...]

# A report is some tens of KiB, with traces some hundred; what is beyond that is no report.
_MAX_SIZE: Final = 64 << 20


class ReportError(ValueError):
    """A file that is no report, or no whole one; its name is in the message."""


def read_report(path: str) -> Report:
    """The report that a file has; ReportError, which names the file and says what is wrong with it."""
    _check_name(path)
    try:
        with Path(path).open("rb") as file:
            raw = file.read(_MAX_SIZE + 1)
    except (OSError, ValueError) as error:
        # ValueError: a name with a zero byte.
        raise ReportError(f"{path}: {getattr(error, 'strerror', None) or error}") from None
    if not raw.strip():
        raise ReportError(f"{path}: the file is empty")
    if len(raw) > _MAX_SIZE:
        raise ReportError(f"{path}: larger than {_MAX_SIZE >> 20} MiB, and no report is")
    try:
        found = json.loads(raw)
    except (UnicodeDecodeError, RecursionError):
        raise ReportError(f"{path}: not JSON; reports are saved by kvmipa conform --report or --json") from None
    except json.JSONDecodeError as error:
        raise ReportError(f"{path}: {_broken(raw, error)}") from None
    except ValueError:
        # Python's limit: int() of more digits takes long.
        raise ReportError(f"{path}: a number in it has thousands of digits") from None
    try:
        report = Report.of_json(found)
        _check(report)
    except ValueError as error:
        raise ReportError(f"{path}: {error}") from None
    return report


def _check_name(path: str) -> None:
    if not path:
        raise ReportError("a file without a name")


def _broken(raw: bytes, error: json.JSONDecodeError) -> str:
    if not raw.lstrip().startswith((b"{", b"[")):
        return "not JSON; reports are saved by kvmipa conform --report or --json"
    if error.pos >= len(error.doc.rstrip()) or "Unterminated string" in error.msg:
        return f"the JSON ends in the middle (line {error.lineno}): the file was cut off"
    return f"broken JSON, line {error.lineno}, column {error.colno}: {error.msg}"


# What fields of a report are compared, counted and shown as.
_MACHINE_TYPES: Final[Mapping[str, _Type]] = {
    "reality": str,
    "host": str,
    "model": str,
    "kernel": str,
    "architecture": str,
    "cpus": int,
    "cpu": str,
    "page_size": int,
    "parange_bits": (int, type(None)),
    "host_ipa_limit": (int, type(None)),
    "mode": str,
    "gic": (str, type(None)),
    "source": str,
    "cpu_set": str,
    "transparent_hugepages": str,
}
_RESULT_TYPES: Final[Mapping[str, _Type]] = {
    "id": str,
    "name": str,
    "kind": str,
    "text": str,
    "source": str,
    "reason": str,
    "observations": int,
    "seconds": (int, float),
    "trace": (str, type(None)),
    "how": str,
}
_MISMATCH_TYPES: Final[Mapping[str, _Type]] = {"what": str, "expected": str, "came": str, "after": (int, type(None))}


def _check(report: Report) -> None:
    """ValueError where a value is of a type that a report never has: somebody else wrote or changed it."""
    _check_types("the report's ", report, {"version": str, "started": str, "seconds": (int, float)})
    _check_types("machine.", report.machine, _MACHINE_TYPES)
    _check_all("machine.sizes", report.machine.sizes, int)
    _check_all("missing", report.missing, str)
    for result in report.results:
        _check_types("a claim's ", result, _RESULT_TYPES)
        _check_all("a claim's rests_on", result.rests_on, str)
        if result.status not in (PASS, FAIL, SKIP):
            raise ValueError(f"claim {result.id} has the status {result.status!r}, not {PASS}, {FAIL} or {SKIP}")
        for one in result.mismatches:
            _check_types("a mismatch's ", one, _MISMATCH_TYPES)
    names = Counter(result.name for result in report.results)
    twice = sorted(name for name, count in names.items() if count > 1)
    if twice:
        raise ValueError(f"claim {twice[0]} is in it twice")


def _check_types(of: str, holder: object, types: Mapping[str, _Type]) -> None:
    for name, kind in types.items():
        value = getattr(holder, name)
        if not _is(value, kind):
            raise ValueError(f"{of}{name} is {value!a:.60}")


def _check_all(of: str, values: object, kind: type) -> None:
    if not isinstance(values, tuple) or not all(_is(value, kind) for value in values):
        raise ValueError(f"{of} is {values!a:.60}")


def _is(value: object, kind: type | tuple[type, ...]) -> bool:
    """Whether a value is of a type, and can be shown and written again as JSON.

    Python reads more: NaN and 1e999 as numbers, half of a surrogate pair as text; and its True is an int.
    """
    if not isinstance(value, kind) or isinstance(value, bool):
        return False
    if isinstance(value, str):
        return not any("\ud800" <= letter <= "\udfff" for letter in value)
    return not isinstance(value, float) or math.isfinite(value)


def report_files(words: Iterable[str]) -> list[str]:
    """The files that words name: a directory stands for the .json files in it, by name.

    Raises ReportError for a directory without one or that cannot be read, and for a file that is named twice.
    """
    found: list[str] = []
    for word in words:
        _check_name(word)
        path = Path(word)
        if path.is_dir():
            inside = _inside(path)
            if not inside:
                raise ReportError(f"{word}: a directory without .json files")
            found += inside
        else:
            found.append(word)
    seen: dict[str, str] = {}
    for name in found:
        real = os.path.realpath(name)
        if real in seen:
            raise ReportError(
                f"{name}: the same file as {seen[real]}" if name != seen[real] else f"{name}: named twice"
            )
        seen[real] = name
    return found


def _inside(directory: Path) -> list[str]:
    try:
        return sorted(str(file) for file in directory.iterdir() if file.suffix == ".json")
    except OSError as error:
        raise ReportError(f"{directory}: {error.strerror}") from None
