# SPDX-License-Identifier: Apache-2.0
"""``kvmipa conform``: check what KVM promises about the IPA size, and report."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace
    from collections.abc import Iterable, Iterator, Sequence

    from kvmipa.cli.output import Output
    from kvmipa.conformance.claim import Claim
    from kvmipa.conformance.results import Report

STDOUT: Final = "-"
KINDS: Final = ("contract", "implementation", "all")

# kselftest's exit status where every test was skipped, tools/testing/selftests/kselftest.h KSFT_SKIP.
ALL_SKIPPED: Final = 4
NOT_WRITTEN: Final = 5

_WIDTH: Final = 100

_DESCRIPTION: Final = """\
Check what the kernel's API document promises about the IPA size of VMs on arm64, one claim after the other, on this
machine's KVM or on an emulated one. A claim passes, fails, or is skipped with the reason. What failed is shown with
what was expected, what came, and the system calls, which kvmipa replay does again.
"""

_EPILOG: Final = """\
Where FILE is absent or "-" the form is on standard output, instead of the text; there is room for one. The text is
always shown: where standard output has another form and a file could not be written, on standard error.

exit status:
  0  no claim failed; some may have been skipped
  1  a claim failed, or the machine could not be looked at
  2  wrong usage
  3  the backend that was asked for is not available here (kvmipa doctor says why)
  4  everything was skipped (as kselftest has it)
  5  no claim failed, but a report could not be written
  130  interrupted (Ctrl-C): what was checked until then is reported, and marked incomplete

examples:
  kvmipa conform                                     everything, on this machine
  kvmipa conform --report pi5.json --html pi5.html   the same, and two files to pass on
  kvmipa conform --list                              what is checked, and where it is promised
  kvmipa conform --claim C5 machine_type.            one claim, and those whose names begin so
  kvmipa conform --no-guest --ktap                   nothing that runs a guest; for kselftest, KernelCI, LAVA
  kvmipa --host raspberry-pi-4 conform               an emulated machine
  kvmipa --host all conform                          every emulated machine with every release, side by side
"""

# Forms beside the text: the module in kvmipa.conformance.reports of that name has a function of that name.
FORMS: Final = {
    "ktap": "KTAP 1, as kselftest and KernelCI read it",
    "junit": "JUnit XML, which every CI reads",
    "html": "one self-contained HTML file",
    "kcidb": "JSON as KernelCI's database takes it",
}


def add_parser(commands: Any, common: ArgumentParser) -> None:
    """Declare the command."""
    parser = commands.add_parser(
        "conform",
        parents=[common],
        help="check what KVM promises about the IPA size, and report",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    which = parser.add_argument_group("which claims")
    which.add_argument(
        "--claim",
        metavar="CLAIM",
        nargs="+",
        action="extend",
        help='an id (C5), a name (machine_type.valid_sizes) or what names begin with ("machine_type.")',
    )
    which.add_argument(
        "--kind", choices=KINDS, default="all", help="what is documented, what kernels do beside that, or both"
    )
    which.add_argument("--no-guest", action="store_true", help="none of those that run a guest")
    which.add_argument("--list", action="store_true", help="show the claims and do nothing")
    reports = parser.add_argument_group("reports")
    reports.add_argument("--report", metavar="FILE", help="the JSON report, which kvmipa report shows and compares")
    for form, what in FORMS.items():
        reports.add_argument(f"--{form}", metavar="FILE", nargs="?", const=STDOUT, help=what)
    reports.add_argument("--kcidb-origin", metavar="NAME", default="kvmipa", help="who submits it (kvmipa)")
    reports.add_argument("--kcidb-build", metavar="ID", help="the build in KernelCI's database that the machine runs")
    reports.add_argument("--traces", metavar="DIR", help="a trace for kvmipa replay of every claim that fails")
    many = parser.add_argument_group("several hosts", "--host all, or --host with a list: apple-m1,raspberry-pi-4@5.10")
    many.add_argument("--jobs", "-j", metavar="N", type=int, help="how many hosts at once (as many as there are CPUs)")
    parser.set_defaults(run=run)


def run(arguments: Namespace, output: Output) -> int:
    """List the claims, or check them and report."""
    from kvmipa.conformance.claims import CLAIMS

    claims = select(CLAIMS, arguments.claim, arguments.kind, guest=not arguments.no_guest)
    if arguments.list:
        output.result({"command": "conform", "claims": [_described(claim) for claim in claims]}, _list(claims))
        return 0
    if arguments.host is not None and (arguments.host == "all" or "," in arguments.host):
        return _run_many(arguments, output, claims)
    return _run_one(arguments, claims)


def _run_one(arguments: Namespace, claims: Sequence[Claim]) -> int:
    from kvmipa.cli import UsageError
    from kvmipa.cli.conform_reports import Reports
    from kvmipa.cli.conform_watching import checked
    from kvmipa.cli.opening import open_kvm

    if arguments.jobs is not None:
        raise UsageError("--jobs: of several hosts (--host all, or a list)")
    reports = Reports(arguments)
    with open_kvm(arguments) as kvm:
        report = checked(kvm, claims)
    return status(report, written=reports.give(report))


def _run_many(arguments: Namespace, output: Output, claims: Sequence[Claim]) -> int:
    from kvmipa.cli import UsageError
    from kvmipa.cli.conform_many import conform_many

    of_one = [f"--{form}" for form in ("ktap", "junit", "kcidb", "traces") if getattr(arguments, form) is not None]
    if of_one:
        raise UsageError(
            f"{', '.join(of_one)}: of one host; --host has several. --report DIR and --html FILE are of all"
        )
    if arguments.html == STDOUT:
        raise UsageError("--html: name a FILE, for the text of several hosts is on standard output")
    ids = [claim.id for claim in claims]
    return conform_many(
        output, arguments.host, claims=ids, jobs=arguments.jobs, reports=arguments.report, html=arguments.html
    )


def status(report: Report, *, written: bool) -> int:
    """The exit status that a report stands for."""
    from kvmipa.cli import INTERRUPTED, NO, YES
    from kvmipa.conformance.results import FAIL, SKIP

    if report.missing:
        return INTERRUPTED
    if report.count(FAIL):
        return NO
    if not written:
        return NOT_WRITTEN
    return ALL_SKIPPED if report.count(SKIP) == len(report.results) else YES


# ------------------------------------------------------------------------------------------------ which claims


def select(claims: Iterable[Claim], words: Sequence[str] | None, kind: str, *, guest: bool) -> list[Claim]:
    """The claims that were asked for, in their own order; UsageError where a word stands for none, or none is left."""
    from kvmipa.cli import UsageError

    every = list(claims)
    for word in words or ():
        if not any(_matches(claim, word) for claim in every):
            raise UsageError(f"no claim is called {word!r}{_near(every, word)}; kvmipa conform --list shows them")
    left = [
        claim
        for claim in every
        if (not words or any(_matches(claim, word) for word in words))
        and kind in ("all", claim.kind)
        and (guest or not claim.guest)
    ]
    if not left:
        raise UsageError("no claim is left: --claim, --kind and --no-guest together leave none")
    return left


def _matches(claim: Claim, word: str) -> bool:
    """Whether a word stands for a claim: its id, its name, or the first parts of its name."""
    return word.lower() == claim.id.lower() or f"{claim.name}.".startswith(f"{word.rstrip('.')}.")


def _near(claims: Iterable[Claim], word: str) -> str:
    from difflib import get_close_matches

    names = {name.lower(): name for claim in claims for name in _words(claim)}
    near = [names[name] for name in get_close_matches(word.lower(), names, n=3)]
    return f"; did you mean {' or '.join(near)}?" if near else ""


def _words(claim: Claim) -> Iterator[str]:
    """What may be written for a claim."""
    yield claim.id
    yield claim.name
    yield claim.name.rpartition(".")[0]
    yield claim.name.rpartition(".")[2]


def _described(claim: Claim) -> dict[str, Any]:
    fields = ("id", "name", "kind", "guest", "text", "how", "source", "since", "rests_on")
    return {field: getattr(claim, field) for field in fields}


def _list(claims: Iterable[Claim]) -> str:
    from textwrap import fill

    parts = []
    for claim in claims:
        guest = ", runs a guest" if claim.guest else ""
        text = fill(claim.text, _WIDTH, initial_indent="  ", subsequent_indent="  ")
        about = (("tested", claim.how), ("source", claim.source), ("since", f"Linux {claim.since}"))
        lines = (
            fill(said, _WIDTH, initial_indent=f"  {name:<6}  ", subsequent_indent=" " * 10) for name, said in about
        )
        parts.append("\n".join((f"{claim.id}  {claim.name}  ({claim.kind}{guest})", text, *lines)))
    return "\n\n".join(parts)
