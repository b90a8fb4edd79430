# SPDX-License-Identifier: Apache-2.0
"""Where the reports of one run go. What was measured is shown somewhere, whatever cannot be written."""

from __future__ import annotations

import json
import os
import sys
from contextlib import suppress
from importlib import import_module
from typing import TYPE_CHECKING, Final, TextIO

from kvmipa.cli import UsageError, _abandon_standard_output
from kvmipa.cli.conform import FORMS, STDOUT
from kvmipa.cli.files import obstacle, write_text
from kvmipa.cli.output import SCHEMA
from kvmipa.conformance.reports.kcidb import check_ids

if TYPE_CHECKING:
    from argparse import Namespace
    from collections.abc import Callable

    from kvmipa.conformance.results import Report

_TEXT: Final = "text"
_JSON: Final = "report"

# Names that shells give standard output; replacing what they lead to would lose what else is written there.
_STDOUT_NAMES: Final = (STDOUT, "/dev/stdout", "/dev/fd/1", "/proc/self/fd/1")


class Reports:
    """The forms that were asked for; UsageError where two are to go to the same place.

    Where a file can be seen not to be writable there is a warning, and the run goes on: its report is shown at the end.
    """

    def __init__(self, arguments: Namespace) -> None:
        asked = {form: getattr(arguments, form) for form in (_JSON, *FORMS) if getattr(arguments, form) is not None}
        printed = [f"--{form}" for form, place in asked.items() if place in _STDOUT_NAMES]
        if arguments.json:
            printed.insert(0, "--json")
        if len(printed) > 1:
            raise UsageError(f"{' and '.join(printed)} cannot all be on standard output: name a FILE for all but one")
        self._files = {form: place for form, place in asked.items() if place not in _STDOUT_NAMES}
        self._printed = printed[0].removeprefix("--").replace("json", _JSON) if printed else _TEXT
        self._traces: str | None = arguments.traces
        self._own = {"kcidb": {"origin": arguments.kcidb_origin, "build_id": arguments.kcidb_build}}
        if arguments.kcidb is not None:
            check_ids(**self._own["kcidb"])
        self._check()

    def _check(self) -> None:
        reals: dict[str, str] = {}
        for form, place in (*self._files.items(), *((("traces", self._traces),) if self._traces is not None else ())):
            if not place or "\0" in place:
                raise UsageError(f"--{form}: {place!r} is no name of a file")
            other = reals.setdefault(os.path.realpath(place), form)
            if other != form:
                raise UsageError(f"--{other} and --{form} go to the same file, {place}")
            hindrance = obstacle(f"{place}/trace" if form == "traces" else place)
            if hindrance:
                _say(f"kvmipa: warning: --{form} {place}: {hindrance}; the checks are run, and shown here")

    def give(self, report: Report) -> bool:
        """Print the one form and write the others; whether everything could be written."""
        printed = self._try("standard output", lambda: _print(self._in_form(report, self._printed), sys.stdout))
        written = printed
        for form, place in self._files.items():
            written &= self._try(f"--{form} {place}", lambda: write_text(place, self._in_form(report, form)))  # noqa: B023
        for result in report.results if self._traces is not None else ():
            if result.trace:
                place = f"{self._traces}/{result.id}.trace"
                written &= self._try(place, lambda: write_text(place, result.trace or ""))  # noqa: B023
        if not written and not (printed and self._printed == _TEXT):
            with suppress(OSError):
                _print(self._in_form(report, _TEXT), sys.stderr)
        return written

    def _in_form(self, report: Report, form: str) -> str:
        """A report in one form, with a line end."""
        if form == _JSON:
            return json.dumps({"schema": SCHEMA, "command": "conform", **report.as_json()}, indent=2) + "\n"
        if form == _TEXT and self._printed == _TEXT and sys.stdout is not None and sys.stdout.isatty():
            shown = _on_terminal(report)
            if shown:
                return shown
        module = import_module(f"kvmipa.conformance.reports.{form}")
        made: str = getattr(module, form)(report, **self._own.get(form, {}))
        return made.rstrip("\n") + "\n"

    @staticmethod
    def _try(what: str, act: Callable[[], None]) -> bool:
        """Whether it is done. An error of whatever kind must not take the other reports with it."""
        try:
            act()
        except BrokenPipeError:
            # A pager or head went away; main() would take that for the end of the command.
            _abandon_standard_output()
        except OSError as error:
            if what == "standard output":
                _abandon_standard_output()
                _say(f"kvmipa: {what}: {error.strerror}")
            else:
                _say(f"kvmipa: {error}")
            return False
        except Exception as error:
            _say(f"kvmipa: {what} cannot be made: {type(error).__name__}: {error}")
            return False
        return True


def _on_terminal(report: Report) -> str:
    """The report for a terminal; "" where rich is not installed."""
    try:
        from kvmipa.conformance.reports.terminal import terminal
    except ImportError:
        return ""
    return terminal(report)


def _print(text: str, stream: TextIO | None) -> None:
    if stream is None:
        raise OSError(0, "there is none")
    try:
        stream.write(text)
    except UnicodeEncodeError:
        # A board's name on a terminal that has no such letters.
        stream.write(text.encode(stream.encoding, "backslashreplace").decode(stream.encoding))
    stream.flush()


def _say(line: str) -> None:
    with suppress(OSError):
        print(line, file=sys.stderr)
