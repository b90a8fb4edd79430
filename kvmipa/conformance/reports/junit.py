# SPDX-License-Identifier: Apache-2.0
"""A report as JUnit XML: a test suite for the machine, with what it is as properties, and a test case for each claim.

The classname and the name of a case together are the claim's name, as in KTAP: kvmipa.machine_type and valid_sizes.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final
from xml.etree import ElementTree as Xml

from kvmipa.conformance.reports import words
from kvmipa.conformance.reports.system_calls import before
from kvmipa.conformance.results import FAIL, SKIP

if TYPE_CHECKING:
    from kvmipa.conformance.results import ClaimResult, Report

# What XML 1.0 has no way to say.
_NO_CHARACTER: Final = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def junit(report: Report) -> str:
    """The whole report."""
    machine = report.machine
    numbers = {
        "tests": str(len(report.results) + len(report.missing)),
        "failures": str(report.count(FAIL)),
        "errors": str(len(report.missing)),
        "skipped": str(report.count(SKIP)),
        "time": f"{report.seconds:.3f}",
    }
    suites = Xml.Element("testsuites", numbers)
    suite = Xml.SubElement(
        suites, "testsuite", name=f"{words.PREFIX} conform", hostname=_clean(machine.host), timestamp=report.started
    )
    suite.attrib.update(numbers)
    properties = Xml.SubElement(suite, "properties")
    for name, value in _properties(report):
        Xml.SubElement(properties, "property", name=name, value=_clean(value))
    for result in report.results:
        _case(suite, report, result)
    for name in report.missing:
        case = _named(suite, name)
        Xml.SubElement(case, "error", message="the run was interrupted before this was checked", type="interrupted")
    Xml.indent(suites)
    return '<?xml version="1.0" encoding="utf-8"?>\n' + Xml.tostring(suites, encoding="unicode") + "\n"


def _properties(report: Report) -> list[tuple[str, str]]:
    said = [(name.replace(" ", "_").lower(), value) for name, value in words.facts(report.machine)]
    return [
        ("reality", report.machine.reality),
        ("host", report.machine.host),
        ("kvmipa", report.version),
        *said,
        ("complete", "no" if report.missing else "yes"),
    ]


def _named(suite: Xml.Element, name: str) -> Xml.Element:
    head, _, last = name.rpartition(".")
    return Xml.SubElement(suite, "testcase", classname=f"{words.PREFIX}.{head}".rstrip("."), name=last)


def _case(suite: Xml.Element, report: Report, result: ClaimResult) -> None:
    case = _named(suite, result.name)
    case.set("time", f"{result.seconds:.4f}")
    properties = Xml.SubElement(case, "properties")
    for name in ("id", "kind", "text", "source"):
        Xml.SubElement(properties, "property", name=name, value=_clean(getattr(result, name)))
    if result.status == SKIP:
        Xml.SubElement(case, "skipped", message=_clean(result.reason), type="skip")
    if result.status == FAIL:
        _failure(case, report, result)


def _failure(case: Xml.Element, report: Report, result: ClaimResult) -> None:
    # What most viewers show of a failure is its message.
    differences = [words.difference(one) for one in result.mismatches]
    message = differences[0] + (f"; and {len(differences) - 1} more" if len(differences) > 1 else "")
    failure = Xml.SubElement(case, "failure", message=_clean(message), type=result.kind)
    said = [f"{result.id}: {result.text} ({result.source})", *differences]
    if result.trace:
        said += before(result.mismatches[: words.MISMATCHES], result)
        said.append(f"to run them again: {words.replay(report, result)}")
        Xml.SubElement(case, "system-out").text = _clean(result.trace)
    failure.text = _clean("\n".join(said))


def _clean(text: str) -> str:
    return _NO_CHARACTER.sub("\ufffd", text)
