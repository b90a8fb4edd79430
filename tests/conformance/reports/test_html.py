# SPDX-License-Identifier: Apache-2.0
"""The pages: whole, self-contained, readable by those who do not see colours, and safe whatever a report says."""

from __future__ import annotations

import re
from dataclasses import replace
from html.parser import HTMLParser
from typing import TYPE_CHECKING, Any

import pytest

from kvmipa.conformance.compare import Run, compare
from kvmipa.conformance.reports.html import html
from kvmipa.conformance.reports.html_matrix import matrix_html
from kvmipa.conformance.reports.html_page import _COLOURS, _DARK
from kvmipa.conformance.results import FAIL, PASS, SKIP, Mismatch
from tests.conformance.sample_reports import MACHINE, NAMES, report, result

if TYPE_CHECKING:
    from kvmipa.conformance.results import Report

_VOID = {"meta", "br", "rect", "path", "link", "img"}


class Page(HTMLParser):
    """A page's elements, text and ids; it fails where tags do not match."""

    def __init__(self, source: str) -> None:
        super().__init__()
        self.source = source
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.text = ""
        self._open: list[str] = []
        self.feed(source)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs
        if tag not in _VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data

    def values(self, name: str) -> list[str | None]:
        """Of all attributes with a name."""
        return [value for key, value in self.attributes if key == name]


def many() -> str:
    runs = [Run(f"host {n}", report(kernel="5.10" if n % 2 else "6.12")) for n in range(9)]
    runs[3] = Run("host 3", report(kernel="5.10", failed=NAMES[1]))
    # The same claim in another way.
    otherwise = tuple(result(name, FAIL if name == NAMES[1] else PASS, came="EPERM") for name in NAMES)
    runs[5] = Run("host 5", report(kernel="5.10", claims=otherwise))
    return matrix_html(compare([*runs, Run("broken", None, "the process ended")]))


def few() -> str:
    other = report(failed=NAMES[1], skipped=NAMES[3], host_ipa_limit=40)
    return matrix_html(compare([Run("one", report()), Run("two", other)]))


PAGES = {
    "one": lambda: html(report(failed=NAMES[1], skipped=NAMES[3])),
    "few": few,
    "many": many,
}


@pytest.mark.parametrize("name", PAGES)
def test_a_page_needs_nothing_else(name: str) -> None:
    page = Page(PAGES[name]())
    assert page.source.startswith("<!DOCTYPE html>\n")
    assert not {"script", "link", "img", "iframe", "object", "embed", "form", "base"} & set(page.tags)
    assert not page.values("src")
    assert all(value and value.startswith("#") for value in page.values("href"))
    assert "url(" not in page.source
    assert "@import" not in page.source
    # The only address is the name of a language.
    assert set(re.findall(r"https?://[^\"<> ]+", page.source)) <= {"http://www.w3.org/2000/svg"}
    assert any(value == "default-src 'none'; style-src 'unsafe-inline'" for value in page.values("content"))


@pytest.mark.parametrize("name", PAGES)
def test_links_lead_somewhere_and_ids_are_unique(name: str) -> None:
    page = Page(PAGES[name]())
    ids = page.values("id")
    assert len(ids) == len(set(ids))
    assert {f"#{one}" for one in ids} >= set(page.values("href"))
    for labels in page.values("aria-labelledby"):
        assert set((labels or "").split()) <= set(ids)


@pytest.mark.parametrize("name", PAGES)
def test_a_status_is_a_sign_and_not_only_a_colour(name: str) -> None:
    shown = Page(PAGES[name]()).text
    assert "✓" in shown
    assert "✗" in shown


def test_a_page_says_first_whether_the_host_is_real() -> None:
    for reality in ("REAL", "EMULATED"):
        page = Page(html(report(reality=reality, host="/dev/kvm", model="A Board")))
        body = page.source.partition("<body")[2]
        assert f">{reality}</span>" in body[:200]
        assert "A Board" in body[:400]


def test_a_failure_has_what_was_expected_what_came_and_the_trace() -> None:
    page = Page(html(report(failed=NAMES[1])))
    assert "1 of 4 claims that were checked do not hold." in page.text
    assert "KVM_CREATE_VM(53)EINVALok" in page.text
    assert '{"kvmipa_trace": 1}' in page.text
    assert "failure-0" in page.values("id")


def test_counts_and_reasons_are_shown() -> None:
    shown = Page(html(report(skipped=NAMES[3]))).text
    assert "All 3 claims that were checked hold." in shown
    assert "Skipped: not on this host" in shown
    assert "21answers compared" in shown
    assert "No claim could be checked here." in Page(html(report(claims=()))).text


def test_an_interrupted_run_does_not_look_whole() -> None:
    shown = html(replace(report(), missing=("memory.beyond",)))
    assert '<p class="verdict skip">' in shown
    assert "1 more were not checked: memory.beyond." in shown


@pytest.mark.parametrize(
    ("sizes", "limit", "page_size", "pictures"),
    [
        ((0, *range(32, 53)), 52, 4096, ["52 bits, the limit", "43 bits", "34 bits", "40 bits, the default"]),
        (tuple(range(32, 37)), 36, 16384, ["36 bits, the limit"]),
        ((0, 40), None, 65536, ["40 bits, the default"]),
        ((), 40, 4096, []),
    ],
)
def test_stage_2_is_pictured_for_each_shape(
    sizes: tuple[int, ...], limit: int | None, page_size: int, pictures: list[str]
) -> None:
    page = html(report(sizes=sizes, host_ipa_limit=limit, page_size=page_size))
    shown = re.findall(r"<details(?: open)?><summary>(\d+ bits[^<]*)</summary>", page)
    assert shown[:1] == pictures[:1]
    assert set(pictures) <= set(shown) or not pictures
    assert len(re.findall(r'<svg xmlns="[^"]+"', page)) == len(shown)
    # The picture's own style is for pages of its own.
    assert page.count("<style>") == 1


def test_the_bar_has_every_type_of_eight_bits() -> None:
    page = html(report(sizes=(0, 32, 255)))
    assert page.count('<rect class="on"') == 3
    assert page.count('<rect class="off"') == 253
    assert "Machine types 0 to 255; accepted: 0, 32, 255" in page


EVIL = "\"'><script>alert(1)</script><img src=x onerror=alert(1)>&\u2028</style></pre></title>"


def evil_report() -> Report:
    """A report with markup wherever it has text."""
    texts: dict[str, Any] = dict.fromkeys(("id", "name", "kind", "text", "source", "reason", "trace", "how"), EVIL)
    evil = (
        replace(result(EVIL, FAIL), **texts, mismatches=(Mismatch(EVIL, EVIL, EVIL),), rests_on=(EVIL,)),
        replace(result(EVIL, PASS), **(texts | {"name": EVIL + "2"})),
        replace(result(EVIL, SKIP), **(texts | {"name": EVIL + "3"})),
    )
    machine: dict[str, Any] = {name: EVIL for name, value in vars(MACHINE).items() if isinstance(value, str)}
    return replace(report(claims=evil, **machine), version=EVIL, started=EVIL, missing=(EVIL,))


@pytest.mark.parametrize("count", [1, 2, 9])
def test_what_a_report_says_is_never_markup(count: int) -> None:
    evil = evil_report()
    made = matrix_html(compare([Run(EVIL, evil)] * count + [Run(EVIL, None, EVIL)])) if count > 1 else html(evil)
    page = Page(made)
    assert not {"script", "img"} & set(page.tags)
    assert not [name for name, _ in page.attributes if name.startswith("on")]
    assert made.count("</style>") == 1
    assert made.count("</title>") - made.count("<title") == 0
    assert "alert(1)" in page.text


@pytest.mark.parametrize(
    "machine",
    [
        {"page_size": -1},
        {"page_size": 12345},
        {"host_ipa_limit": 1 << 40},
        {"parange_bits": -7},
        {"sizes": tuple(range(-5, 300))},
        {"cpus": 10**30},
    ],
)
def test_numbers_that_no_machine_has_make_a_page_too(machine: dict[str, Any]) -> None:
    Page(html(report(**machine)))
    Page(matrix_html(compare([Run("a", report()), Run("b", report(**machine))])))


def test_few_machines_are_side_by_side_with_what_differs_framed() -> None:
    page = Page(few())
    assert "1 claim fails on 1 of 2 machines. 2 claims came out differently." in page.text
    assert "The machines differ in: host IPA limit." in page.text
    assert page.source.count('<td class="fact differs">') == 2
    assert page.source.count('<td class="said differs">') == 4


def test_many_machines_are_rows_in_groups_of_their_release() -> None:
    page = Page(many())
    assert "Linux 5.10: 4 machines" in page.text
    assert "Linux 6.12: 5 machines" in page.text
    assert "14 passed, 2 failed" in page.text
    assert page.text.index("Linux 5.10: 4") < page.text.index("host 1") < page.text.index("Linux 6.12: 5")
    assert "the process ended" in page.text


def test_reasons_for_skipping_are_told_once() -> None:
    page = Page(matrix_html(compare([Run(f"host {n}", report(skipped=NAMES[3])) for n in range(50)])))
    assert page.text.count("not on this host") == 1
    assert "not on this host50" in page.text.replace("\n", "")


def test_a_failure_that_many_machines_have_is_shown_once_and_the_rest_folded_away() -> None:
    page = matrix_html(compare([Run(f"host {n}", report(failed=NAMES[1])) for n in range(50)]))
    assert page.count('class="failure"') == 1
    assert "<summary>and 42 more</summary>" in page


# ------------------------------------------------------------------------------------------------ colours


def luminance(colour: str) -> float:
    """Of WCAG 2."""
    parts = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    red, green, blue = (part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def contrast(one: str, other: str) -> float:
    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("scheme", [_COLOURS, _DARK], ids=["light", "dark"])
def test_text_has_a_contrast_of_4_5_at_least(scheme: str) -> None:
    colours = dict(re.findall(r"--([a-z-]+): (#[0-9a-f]{6})", scheme))
    on_paper = [(name, back) for name in ("text", "quiet", "link") for back in ("paper", "panel")]
    statuses = [(name, f"{name}-back") for name in ("pass", "fail", "skip")]
    in_pictures = [("text", "bits"), ("text", "page")]
    for front, back in (*on_paper, *statuses, *in_pictures):
        assert contrast(colours[front], colours[back]) >= 4.5, (front, back)
