# SPDX-License-Identifier: Apache-2.0
"""``kvmipa report``: show and compare saved reports."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace

    from kvmipa.cli.output import Output
    from kvmipa.conformance.results import Report

# Forms of one report: the module in kvmipa.conformance.reports of that name has a function of that name.
FORMS: Final = {
    "text": "plain text, as kvmipa conform prints it; this is the default",
    "ktap": "KTAP 1, as kselftest and KernelCI read it",
    "junit": "JUnit XML, which every CI reads",
    "kcidb": "JSON as KernelCI's database takes it",
    "html": "one self-contained HTML file",
}

_DESCRIPTION: Final = "Show a report that kvmipa conform has saved, in any form, or compare several of them."

_EPILOG: Final = """\
examples:
  kvmipa conform --report pi5.json                        run and save
  kvmipa report show pi5.json                             read it again
  kvmipa report show pi5.json --html --output pi5.html    as a page for a browser
  kvmipa report compare pi4.json pi5.json                 what differs between two machines
"""

_SHOW_EPILOG: Final = """\
exit status:
  0  shown, whatever the report says
  1  it cannot be written
  2  not a report, or not a whole one

examples:
  kvmipa report show pi5.json
  kvmipa report show pi5.json --ktap | prove -e cat -
  kvmipa report show pi5.json --html --output pi5.html
"""

_COMPARE_DESCRIPTION: Final = """\
Put reports side by side: the matrix machine x claim, and what differs. That is a claim that came out differently,
failed differently or is not in all of them; and of the machines the IPA limit, page size, PARange, KVM's mode, the GIC
and the machine types accepted. Names, kernels and times are shown and not compared.
"""

_COMPARE_EPILOG: Final = """\
exit status:
  0  nothing differs
  1  something differs
  2  not a report, fewer than two, or the same file twice
  5  nothing differs, but the page could not be written

examples:
  kvmipa report compare before.json after.json             did the new kernel change anything?
  kvmipa report compare boards/ --html boards.html         every .json of a directory, as a page
  kvmipa report compare --all pi4.json pi5.json m1.json    also the claims that came out the same
  kvmipa --json report compare pi4.json pi5.json           for programs
"""


def add_parser(commands: Any, common: ArgumentParser) -> None:
    """Declare the command."""
    parser = commands.add_parser(
        "report",
        parents=[common],
        help="show and compare saved reports",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    actions = parser.add_subparsers(title="actions", metavar="ACTION", required=True)
    _add_show(actions, common)
    _add_compare(actions, common)


def _add_show(actions: Any, common: ArgumentParser) -> None:
    parser = actions.add_parser(
        "show",
        parents=[common],
        help="a saved report in any form",
        description="Show a report that kvmipa conform has saved as JSON.",
        epilog=_SHOW_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("file", metavar="FILE", help="the report")
    forms = parser.add_mutually_exclusive_group()
    for form, what in FORMS.items():
        forms.add_argument(f"--{form}", dest="form", action="store_const", const=form, help=what)
    parser.add_argument("--kcidb-origin", metavar="NAME", default="kvmipa", help="who submits it (kvmipa)")
    parser.add_argument("--kcidb-build", metavar="ID", help="the build in KernelCI's database that the machine runs")
    parser.add_argument("--output", "-o", metavar="FILE", help="write it there instead of on standard output")
    parser.set_defaults(run=show, form=None)


def _add_compare(actions: Any, common: ArgumentParser) -> None:
    parser = actions.add_parser(
        "compare",
        parents=[common],
        help="what differs between reports",
        description=_COMPARE_DESCRIPTION,
        epilog=_COMPARE_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("files", metavar="FILE", nargs="+", help="reports, or directories of them")
    parser.add_argument("--all", action="store_true", help="show every claim, not only those that came out differently")
    parser.add_argument("--html", metavar="FILE", help="write the whole matrix as an HTML file too")
    parser.set_defaults(run=compare)


def show(arguments: Namespace, output: Output) -> int:
    """One report in the form that was asked for."""
    from kvmipa.cli import UsageError
    from kvmipa.cli.conform import STDOUT
    from kvmipa.cli.files import write_text
    from kvmipa.conformance.saved import read_report

    if output.as_json and arguments.form is not None:
        raise UsageError(f"--json and --{arguments.form} are two forms: there is one at a time")
    report = read_report(arguments.file)
    if output.as_json:
        import json

        from kvmipa.cli.output import SCHEMA

        shown = json.dumps({"schema": SCHEMA, **report.as_json()}, indent=2)
    else:
        shown = form_of(report, arguments)
    if arguments.output in (None, STDOUT):
        print(shown.rstrip("\n"))
    else:
        write_text(arguments.output, shown.rstrip("\n") + "\n")
    return 0


def form_of(report: Report, arguments: Namespace) -> str:
    """A report in the form that was asked for, of FORMS."""
    from importlib import import_module

    form = arguments.form or "text"
    own = {"origin": arguments.kcidb_origin, "build_id": arguments.kcidb_build} if form == "kcidb" else {}
    written: str = getattr(import_module(f"kvmipa.conformance.reports.{form}"), form)(report, **own)
    return written


def compare(arguments: Namespace, output: Output) -> int:
    """What differs, as text or JSON, and as a page where one was asked for."""
    from kvmipa.cli import UsageError
    from kvmipa.cli.conform import NOT_WRITTEN
    from kvmipa.cli.files import write_text
    from kvmipa.conformance import compare as comparing
    from kvmipa.conformance.reports.matrix_text import comparison_text
    from kvmipa.conformance.saved import read_report, report_files

    files = report_files(arguments.files)
    if len(files) < 2:
        raise UsageError(f"{files[0]} is one report: a comparison takes two or more")
    reports = [read_report(file) for file in files]
    named = [
        f"{label}, incomplete" if report.missing else label
        for label, report in zip(comparing.labels(reports, files), reports, strict=True)
    ]
    found = comparing.compare(map(comparing.Run, named, reports))
    output.result(
        {"command": "report compare", "files": files, **comparing.as_json(found)},
        comparison_text(found, everything=arguments.all),
    )
    if arguments.html is not None:
        from kvmipa.conformance.reports.html_matrix import matrix_html

        # Not raised: with --json there would be two objects on standard output.
        try:
            write_text(arguments.html, matrix_html(found))
        except OSError as error:
            print(f"kvmipa: {error}", file=sys.stderr)
            return NOT_WRITTEN if found.same else 1
    return 0 if found.same else 1
