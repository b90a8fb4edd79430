# SPDX-License-Identifier: Apache-2.0
"""KTAP, as the kernel's own parser and Linaro's read it."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from kvmipa.conformance.reports.ktap import ktap
from tests.conformance.reports.samples import ALL_SKIPPED, EVERY, FAILED, INCOMPLETE, MIXED, REAL, of

if TYPE_CHECKING:
    from kvmipa.conformance.results import Report


@pytest.mark.parametrize("report", EVERY.values(), ids=EVERY)
def test_shape(report: Report) -> None:
    first, *lines = ktap(report).splitlines()
    assert first == "KTAP version 1"
    assert lines[-1].startswith("# Totals: pass:")
    results = [line for line in lines if not line.startswith("#")]
    assert results[0] == f"1..{len(report.results) + len(report.missing)}"
    assert len(results) == 1 + len(report.results)
    for number, line in enumerate(results[1:], 1):
        assert re.fullmatch(rf"(not )?ok {number} kvmipa(\.[a-z0-9_]+)+( # SKIP)?", line)


def test_results() -> None:
    lines = ktap(MIXED).splitlines()
    assert "ok 1 kvmipa.system.api_version" in lines
    assert "not ok 2 kvmipa.machine_type.valid_sizes" in lines
    assert "ok 3 kvmipa.pkvm.size_ignored # SKIP" in lines
    assert lines[-1] == "# Totals: pass:1 fail:1 xfail:0 xpass:0 skip:1 error:0"


def test_reasons_stand_before_the_result() -> None:
    lines = ktap(MIXED).splitlines()
    skip = lines.index("ok 3 kvmipa.pkvm.size_ignored # SKIP")
    assert lines[skip - 1].endswith(": skipped: no pKVM # here")
    fail = lines.index("not ok 2 kvmipa.machine_type.valid_sizes")
    assert "# ioctl(kvm, KVM_CREATE_VM, 53) = vm0" in lines[:fail]
    assert lines[fail - 1].endswith("kvmipa replay DIR/C2.trace")
    assert any(line.startswith("# KVM_CREATE_VM(53): expected EINVAL, came ok") for line in lines[:fail])


def test_header_says_on_what() -> None:
    header = ktap(REAL).partition("\n1..")[0].splitlines()
    assert header[1].startswith("# REAL  /dev/kvm: Linux 6.12.117+deb13-arm64")
    assert "# ipa_limit=44 page_size=4096 mode=vhe" in header
    assert "# ipa_sizes=0,32..44" in header
    assert "# CPU set: 0..3" in header


def test_names_are_the_same_on_every_machine() -> None:
    def names(report: Report) -> list[str]:
        return re.findall(r"^(?:not )?ok \d+ (\S+)", ktap(report), re.MULTILINE)

    assert names(of(*MIXED.results, reality="REAL", host="/dev/kvm", mode="protected")) == names(MIXED)


# ------------------------------------------------------------------------------------------------ others' parsers


def linaro(text: str) -> dict[str, str]:
    """What Linaro's parser finds: results anywhere in a line; a name is all behind the number, made harmless."""
    found = {}
    for line in text.splitlines():
        if "# selftests: " in line:
            raise AssertionError("it would take that for the name of the test")
        match = re.match(r"^.*?(not ok|ok) \d{1,5} (.*?)$", line)
        if match:
            status = "fail" if match[1] == "not ok" else "skip" if "# SKIP" in match[2] else "pass"
            name = re.sub("# SKIP", "", match[2]) if status == "skip" else match[2]
            found[re.sub(r"(^_|_$)", "", re.sub(r"[^A-Za-z0-9_-]+", "_", name))] = status
    return found


def test_linaros_parser_finds_the_results_and_nothing_else() -> None:
    assert linaro(ktap(MIXED)) == {
        "kvmipa_system_api_version": "pass",
        "kvmipa_machine_type_valid_sizes": "fail",
        "kvmipa_pkvm_size_ignored": "skip",
    }


def linux_source() -> Path:
    """A tree of the kernel's source: KVMIPA_LINUX_SOURCE, or what the lab has."""
    named = os.environ.get("KVMIPA_LINUX_SOURCE")
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    trees = [Path(named)] if named else sorted(cache.glob("kvmipa-lab/sources/linux-source-*"))
    found = [tree for tree in trees if tree.joinpath("tools/testing/kunit/kunit_parser.py").is_file()]
    if named and not found:
        pytest.fail(f"KVMIPA_LINUX_SOURCE is {named}, which has no tools/testing/kunit/kunit_parser.py")
    if not found:
        pytest.skip("there is no source of the kernel here (KVMIPA_LINUX_SOURCE), which has a parser of KTAP")
    return found[0]


# It prints what it finds as it goes; the last line is ours.
_PROGRAM = """
import inspect, json, sys
sys.path.insert(0, sys.argv[1])
import kunit_parser, kunit_printer
takes_printer = len(inspect.signature(kunit_parser.parse_run_tests).parameters) > 1
arguments = [kunit_printer.Printer()] if takes_printer else []
test = kunit_parser.parse_run_tests(sys.stdin.read().splitlines(), *arguments)
names = {one.name: one.status.name for one in test.subtests}
print(json.dumps({"counts": vars(test.counts), "names": names}))
"""


def kunit(text: str) -> dict[str, dict[str, Any]]:
    """What the kernel's parser finds."""
    tool = linux_source() / "tools/testing/kunit"
    run = subprocess.run(
        [sys.executable, "-B", "-c", _PROGRAM, str(tool)], input=text, capture_output=True, text=True, check=True
    )
    found: dict[str, dict[str, Any]] = json.loads(run.stdout.splitlines()[-1])
    return found


def test_kernels_parser_finds_the_results() -> None:
    found = kunit(ktap(MIXED))
    assert found["names"] == {
        "kvmipa.system.api_version": "SUCCESS",
        "kvmipa.machine_type.valid_sizes": "FAILURE",
        "kvmipa.pkvm.size_ignored": "SKIPPED",
    }
    assert found["counts"] == {"passed": 1, "failed": 1, "crashed": 0, "skipped": 1, "errors": 0}


@pytest.mark.parametrize("report", [ALL_SKIPPED, REAL], ids=["skipped", "real"])
def test_kernels_parser_has_nothing_to_complain_of(report: Report) -> None:
    counts = kunit(ktap(report))["counts"]
    assert (counts["failed"], counts["crashed"], counts["errors"]) == (0, 0, 0)


def test_kernels_parser_sees_that_a_report_is_not_whole() -> None:
    counts = kunit(ktap(INCOMPLETE))["counts"]
    assert counts["passed"] == 1
    assert counts["errors"] or counts["crashed"]


def test_text_of_several_lines_stays_a_comment() -> None:
    said = ktap(of(replace(FAILED, text="one\nnot ok 9 two\n1..7")))
    assert [line for line in said.splitlines() if not line.startswith("#")] == [
        "KTAP version 1",
        "1..1",
        "not ok 1 kvmipa.machine_type.valid_sizes",
    ]
