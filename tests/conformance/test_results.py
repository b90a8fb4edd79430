# SPDX-License-Identifier: Apache-2.0
"""Reports as JSON: of the schema that is shipped, and refused where they are something else."""

from __future__ import annotations

import json
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import pytest

import kvmipa.conformance
from kvmipa.conformance.results import FORMAT, ClaimResult, Machine, Mismatch, Report
from tests.conformance.reports.samples import EVERY, MIXED
from tests.requirements import need

SCHEMA = json.loads(Path(kvmipa.conformance.__file__).with_name("report.schema.json").read_text(encoding="utf-8"))


def as_read(report: Report) -> Any:
    """Its JSON, read again."""
    return json.loads(json.dumps(report.as_json()))


def valid(found: Any) -> bool:
    """By the schema."""
    checks: bool = need("jsonschema").Draft202012Validator(SCHEMA).is_valid(found)
    return checks


@pytest.mark.parametrize("report", EVERY.values(), ids=EVERY)
def test_report_is_of_the_schema(report: Report) -> None:
    need("jsonschema").Draft202012Validator.check_schema(SCHEMA)
    assert valid(as_read(report))


@pytest.mark.parametrize("report", EVERY.values(), ids=EVERY)
def test_report_comes_back_as_it_was(report: Report) -> None:
    assert Report.of_json(as_read(report)) == report


def test_schema_has_every_field_and_no_other() -> None:
    def described(name: str) -> set[str]:
        return set(SCHEMA["$defs"][name]["properties"])

    assert described("machine") == {field.name for field in fields(Machine)}
    assert described("result") == {field.name for field in fields(ClaimResult)}
    assert described("mismatch") == {field.name for field in fields(Mismatch)}
    assert set(SCHEMA["properties"]) - {"kvmipa_report", "schema"} == {field.name for field in fields(Report)}
    assert SCHEMA["properties"]["kvmipa_report"]["const"] == FORMAT


@pytest.mark.parametrize("required", SCHEMA["required"])
def test_schema_refuses_a_report_without(required: str) -> None:
    found = as_read(MIXED)
    del found[required]
    assert not valid(found)


@pytest.mark.parametrize(
    ("where", "value"),
    [
        (("kvmipa_report",), 2),
        (("machine", "reality"), "MAYBE"),
        (("machine", "page_size"), 4),
        (("machine", "sizes"), [256]),
        (("results", 0, "status"), "ok"),
        (("results", 1, "mismatches"), []),
        (("results", 2, "reason"), ""),
        (("results", 0, "name"), "No Name"),
    ],
)
def test_schema_refuses(where: tuple[Any, ...], value: object) -> None:
    found = as_read(MIXED)
    *path, last = where
    inside = found
    for part in path:
        inside = inside[part]
    inside[last] = value
    assert not valid(found)


@pytest.mark.parametrize("version", [0, 2, "1", None, [1]])
def test_other_format_is_refused_and_named(version: object) -> None:
    found = as_read(MIXED) | {"kvmipa_report": version}
    with pytest.raises(
        ValueError, match="not a report of kvmipa conform" if version is None else "this kvmipa reads format 1"
    ):
        Report.of_json(found)


@pytest.mark.parametrize("found", [{}, [], "text", 7, None, {"kvmipa_trace": 1}])
def test_what_is_no_report_is_refused(found: Any) -> None:
    with pytest.raises(ValueError, match="not a report of kvmipa conform"):
        Report.of_json(found)


@pytest.mark.parametrize("lost", ["machine", "results", "version", "started"])
def test_report_that_is_not_whole_is_refused(lost: str) -> None:
    found = as_read(MIXED)
    del found[lost]
    with pytest.raises(ValueError, match=f"not whole: '{lost}'"):
        Report.of_json(found)


def test_what_a_later_kvmipa_adds_is_left_out() -> None:
    found = as_read(MIXED)
    found["later"] = found["machine"]["later"] = found["results"][0]["later"] = 1
    assert Report.of_json(found) == MIXED
    assert valid(found)


def test_report_of_before_fields_were_added_is_read() -> None:
    found = as_read(MIXED)
    del found["missing"], found["machine"]["cpu_set"], found["results"][1]["rests_on"]
    found["results"][1]["mismatches"][0].pop("after")
    read = Report.of_json(found)
    assert (read.missing, read.machine.cpu_set, read.results[1].rests_on) == ((), "", ())


def test_where_a_mismatch_was_noticed_is_no_part_of_what_it_is() -> None:
    one = Mismatch("a", "b", "c", after=1)
    assert one == Mismatch("a", "b", "c", after=2)
    assert asdict(one)["after"] == 1
