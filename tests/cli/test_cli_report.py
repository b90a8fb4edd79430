# SPDX-License-Identifier: Apache-2.0
"""``kvmipa report``."""

from __future__ import annotations

import json
from dataclasses import replace
from errno import EACCES
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree as Xml

import pytest

from kvmipa.conformance.results import Report
from tests.conformance.sample_reports import NAMES, report, result, save

if TYPE_CHECKING:
    from pathlib import Path

    from tests.cli.conftest import Command

# ------------------------------------------------------------------------------------------------ show


def test_a_report_is_shown_as_text(kvmipa: Command, tmp_path: Path) -> None:
    shown = kvmipa("report", "show", save(tmp_path / "a.json", report(failed=NAMES[1])))
    assert (shown.status, shown.err) == (0, "")
    assert shown.out.startswith("EMULATED  some-board-6.12")
    assert NAMES[1] in shown.out


def test_a_report_is_shown_in_every_form(kvmipa: Command, tmp_path: Path) -> None:
    saved = report(failed=NAMES[1])
    name = save(tmp_path / "a.json", saved)
    forms = {form: kvmipa("report", "show", name, f"--{form}").out for form in ("ktap", "junit", "html", "kcidb")}
    assert forms["ktap"].startswith("KTAP version 1\n")
    assert Xml.fromstring(forms["junit"]).tag == "testsuites"
    assert forms["html"].startswith("<!DOCTYPE html>")
    assert "tests" in json.loads(forms["kcidb"])
    assert kvmipa("report", "show", name, "--text").out == kvmipa("report", "show", name).out
    assert Report.of_json(kvmipa("--json", "report", "show", name).json) == saved


def test_kcidb_has_the_names_that_are_given(kvmipa: Command, tmp_path: Path) -> None:
    name = save(tmp_path / "a.json", report())
    shown = kvmipa("report", "show", name, "--kcidb", "--kcidb-origin", "my_lab", "--kcidb-build", "maestro:1")
    assert {test["build_id"] for test in json.loads(shown.out)["tests"]} == {"maestro:1"}
    assert kvmipa("report", "show", name, "--kcidb", "--kcidb-origin", "My Lab").status == 2


def test_a_form_goes_to_a_file(kvmipa: Command, tmp_path: Path) -> None:
    name = save(tmp_path / "a.json", report())
    target = tmp_path / "new" / "a.html"
    shown = kvmipa("report", "show", name, "--html", "--output", str(target))
    assert (shown.status, shown.out, shown.err) == (0, "", "")
    assert target.read_text(encoding="utf-8").startswith("<!DOCTYPE html>")


def test_a_dash_is_standard_output(kvmipa: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    name = save(tmp_path / "a.json", report())
    assert kvmipa("report", "show", name, "--output", "-").out == kvmipa("report", "show", name).out
    assert [file.name for file in tmp_path.iterdir()] == ["a.json"]


def test_a_file_that_cannot_be_written_is_an_error_that_names_it(kvmipa: Command, tmp_path: Path) -> None:
    name = save(tmp_path / "a.json", report())
    shown = kvmipa("report", "show", name, "--html", "--output", f"{name}/a.html")
    assert shown.status == 1
    assert f"cannot write {name}/a.html: " in shown.err


def test_one_form_at_a_time(kvmipa: Command, tmp_path: Path) -> None:
    name = save(tmp_path / "a.json", report())
    assert kvmipa("report", "show", name, "--html", "--ktap").status == 2
    shown = kvmipa("report", "show", name, "--json", "--html")
    assert (shown.status, shown.json["error"]["class"]) == (2, "UsageError")
    assert kvmipa("report").status == 2
    assert kvmipa("report", "show").status == 2


# ------------------------------------------------------------------------------------------------ files that are none


def without(*path: str) -> str:
    """A report's JSON without one of its values."""
    found: Any = report().as_json()
    inside = found
    for key in path[:-1]:
        inside = inside[key]
    del inside[path[-1]]
    return json.dumps(found)


def changed(**changes: Any) -> str:
    """A report's JSON with other values."""
    return json.dumps(report().as_json() | changes)


WHOLE = json.dumps(report().as_json())
MACHINE = report().as_json()["machine"]
RESULTS = report().as_json()["results"]

BAD = {
    "empty": ("", "the file is empty"),
    "blank": (" \n", "the file is empty"),
    "cut off": (WHOLE[: len(WHOLE) // 2], "the file was cut off"),
    "cut off in a string": (WHOLE[: WHOLE.index("some-board") + 4], "the file was cut off"),
    "without its last brace": (WHOLE[:-1], "the file was cut off"),
    "broken": (WHOLE.replace(":", ";", 1), "broken JSON, line 1, column"),
    "two in one": (WHOLE + WHOLE, "broken JSON"),
    "text": ("EMULATED  some-board", "not JSON"),
    "a page": ("<!DOCTYPE html>", "not JSON"),
    "a number": ("17", "not a report of kvmipa conform"),
    "a list": ("[1, 2]", "not a report of kvmipa conform"),
    "another object": ('{"command": "probe"}', "not a report of kvmipa conform"),
    "format 2": (changed(kvmipa_report=2), "a report of format 2; this kvmipa reads format 1"),
    "format 0": (changed(kvmipa_report=0), "a report of format 0"),
    "no machine": (without("machine"), "'machine'"),
    "no results": (without("results"), "'results'"),
    "no limit": (without("machine", "host_ipa_limit"), "host_ipa_limit"),
    "a machine that is a string": (changed(machine="pi"), "not whole"),
    "results that are strings": (changed(results=["C1"]), "not whole"),
    "results that are a number": (changed(results=5), "not whole"),
    "a page size that is a string": (changed(machine=MACHINE | {"page_size": "4K"}), "machine.page_size is '4K'"),
    "a limit that is a list": (changed(machine=MACHINE | {"host_ipa_limit": [1]}), "machine.host_ipa_limit is (1,)"),
    "sizes that are strings": (changed(machine=MACHINE | {"sizes": ["a"]}), "machine.sizes"),
    "sizes that are a number": (changed(machine=MACHINE | {"sizes": 3}), "machine.sizes"),
    "a number for true": (changed(machine=MACHINE | {"cpus": True}), "machine.cpus is True"),
    "another status": (changed(results=[RESULTS[0] | {"status": "xfail"}]), "status 'xfail'"),
    "a status that is a list": (changed(results=[RESULTS[0] | {"status": []}]), "status"),
    "a claim twice": (changed(results=[RESULTS[0], RESULTS[0]]), "is in it twice"),
    "a mismatch that is a string": (changed(results=[RESULTS[0] | {"mismatches": ["a"]}]), "not whole"),
    "sizes that are true": (changed(machine=MACHINE | {"sizes": [True]}), "machine.sizes is (True,)"),
    "seconds that are no number": (changed(seconds=float("nan")), "seconds is nan"),
    "seconds without end": (WHOLE.replace('"seconds": ', '"seconds": 1e999, "was": ', 1), "seconds is inf"),
    "a number of thousands of digits": (WHOLE.replace('"cpus": ', f'"cpus": {"9" * 5000}, "was": '), "of digits"),
    "half of a surrogate pair": (changed(machine=MACHINE | {"model": "\ud800"}), "machine.model is '\\ud800'"),
    "a call's number that is an object": (
        changed(results=[RESULTS[0] | {"mismatches": [{"what": "a", "expected": "b", "came": "c", "after": {}}]}]),
        "a mismatch's after is {}",
    ),
    "seconds that are a string": (changed(seconds="1"), "seconds is '1'"),
    "missing that is a number": (changed(missing=5), "not whole"),
    "missing that has numbers": (changed(missing=[5]), "missing"),
    "rests on a number": (changed(results=[RESULTS[0] | {"rests_on": [1]}]), "rests_on"),
    "nested too deeply": ("[" * 100_000, "not JSON"),
}


@pytest.mark.parametrize("kind", BAD)
def test_what_is_no_report_is_refused_and_named(kind: str, kvmipa: Command, tmp_path: Path) -> None:
    content, why = BAD[kind]
    bad = tmp_path / "bad.json"
    bad.write_text(content, encoding="utf-8")
    shown = kvmipa("report", "show", str(bad))
    assert (shown.status, shown.out) == (2, "")
    assert shown.err.startswith(f"kvmipa: {bad}: ")
    assert why in shown.err
    compared = kvmipa("--json", "report", "compare", save(tmp_path / "good.json", report()), str(bad))
    assert compared.status == 2
    assert str(bad) in compared.json["error"]["message"]


def test_files_that_cannot_be_read_are_refused_and_named(kvmipa: Command, tmp_path: Path) -> None:
    (tmp_path / "bytes.json").write_bytes(b"\x80\x81{")
    for name, why in (("none.json", "No such file"), ("bytes.json", "not JSON"), (".", "Is a directory"), ("a\0", "")):
        shown = kvmipa("report", "show", f"{tmp_path}/{name}")
        assert shown.status == 2
        assert why in shown.err


def test_names_that_lead_nowhere_are_refused(kvmipa: Command, tmp_path: Path) -> None:
    good = save(tmp_path / "good.json", report())
    loop = tmp_path / "loop.json"
    loop.symlink_to(loop)
    for name, why in (("", "a file without a name"), (str(loop), "Too many levels of symbolic links")):
        for words in (("show", name), ("compare", good, name)):
            shown = kvmipa("report", *words)
            assert (shown.status, shown.out) == (2, "")
            assert why in shown.err


def test_directory_that_cannot_be_read_is_not_an_empty_one(
    kvmipa: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save(tmp_path / "a.json", report())

    def denied(_: object) -> None:
        raise PermissionError(EACCES, "Permission denied")

    monkeypatch.setattr(type(tmp_path), "iterdir", denied)
    shown = kvmipa("report", "compare", str(tmp_path))
    assert (shown.status, shown.err) == (2, f"kvmipa: {tmp_path}: Permission denied\n")


def test_what_a_later_kvmipa_adds_to_the_format_is_left_out(kvmipa: Command, tmp_path: Path) -> None:
    path = tmp_path / "later.json"
    path.write_text(changed(new=1, machine=MACHINE | {"new": 2}, results=[RESULTS[0] | {"new": 3}]), encoding="utf-8")
    assert kvmipa("report", "show", str(path)).status == 0


# ------------------------------------------------------------------------------------------------ compare


def test_reports_that_agree_are_the_same(kvmipa: Command, tmp_path: Path) -> None:
    names = [save(tmp_path / name, report(host=name)) for name in ("a.json", "b.json")]
    shown = kvmipa("report", "compare", *names)
    assert (shown.status, shown.err) == (0, "")
    assert "The machines do not differ in what KVM says." in shown.out
    assert "All 4 claims came out the same." in shown.out
    assert kvmipa("--json", "report", "compare", *names).json["same"] is True


def test_what_differs_is_shown_in_text_json_and_html(kvmipa: Command, tmp_path: Path) -> None:
    names = [
        save(tmp_path / "a.json", report(host="a")),
        save(tmp_path / "b.json", report(host="b", failed=NAMES[1], host_ipa_limit=40)),
        save(tmp_path / "c.json", report(host="c", claims=(result(NAMES[0]), result("new.claim")))),
    ]
    page = tmp_path / "page.html"
    shown = kvmipa("report", "compare", *names, "--html", str(page))
    assert (shown.status, shown.err) == (1, "")
    assert "host IPA limit          44 bits  40 bits  44 bits" in shown.out
    assert "C2   machine_type.valid_sizes  pass  FAIL  -" in shown.out
    assert "C99  new.claim                 -     -     pass" in shown.out
    assert "1 of 5 claims came out the same." in shown.out
    assert "new.claim" in page.read_text(encoding="utf-8")
    found = kvmipa("--json", "report", "compare", *names).json
    assert found["files"] == names
    assert found["differing_facts"] == ["host_ipa_limit"]
    assert "new.claim" in found["differing_claims"]


def test_every_claim_is_shown_where_that_is_asked(kvmipa: Command, tmp_path: Path) -> None:
    names = [save(tmp_path / name, report(host=name)) for name in ("a.json", "b.json")]
    shown = kvmipa("report", "compare", "--all", *names)
    assert all(name in shown.out for name in NAMES)


def test_a_directory_stands_for_the_reports_in_it(kvmipa: Command, tmp_path: Path) -> None:
    for name in ("b", "a", "c"):
        save(tmp_path / f"{name}.json", report(host=name))
    (tmp_path / "notes.txt").write_text("not a report")
    found = kvmipa("--json", "report", "compare", str(tmp_path)).json
    assert [machine["label"] for machine in found["machines"]] == ["a", "b", "c"]
    empty = tmp_path / "empty"
    empty.mkdir()
    shown = kvmipa("report", "compare", str(empty))
    assert (shown.status, shown.err) == (2, f"kvmipa: {empty}: a directory without .json files\n")


def test_one_report_is_no_comparison_and_neither_is_one_twice(kvmipa: Command, tmp_path: Path) -> None:
    name = save(tmp_path / "a.json", report())
    link = tmp_path / "link.json"
    link.symlink_to(name)
    assert kvmipa("report", "compare", name).err.endswith("is one report: a comparison takes two or more\n")
    assert kvmipa("report", "compare", name, name).err == f"kvmipa: {name}: named twice\n"
    assert kvmipa("report", "compare", name, str(link)).err == f"kvmipa: {link}: the same file as {name}\n"
    assert kvmipa("report", "compare", name, str(tmp_path)).status == 2
    assert kvmipa("report", "compare").status == 2


def test_a_page_that_cannot_be_written_loses_no_comparison(kvmipa: Command, tmp_path: Path) -> None:
    names = [save(tmp_path / name, report(host=name)) for name in ("a.json", "b.json")]
    shown = kvmipa("report", "compare", *names, "--html", f"{names[0]}/page.html")
    assert shown.status == 5
    assert "All 4 claims" in shown.out
    assert "cannot write" in shown.err
    assert kvmipa("--json", "report", "compare", *names, "--html", f"{names[0]}/page.html").json["same"] is True


def test_an_interrupted_run_is_marked(kvmipa: Command, tmp_path: Path) -> None:
    whole = save(tmp_path / "a.json", report(host="a"))
    part = save(tmp_path / "b.json", replace(report(host="b", claims=report().results[:2]), missing=NAMES[2:]))
    shown = kvmipa("report", "compare", whole, part)
    assert shown.status == 1
    assert "b, incomplete" in shown.out
