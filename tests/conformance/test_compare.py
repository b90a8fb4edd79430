# SPDX-License-Identifier: Apache-2.0
"""What differs between reports."""

from __future__ import annotations

from dataclasses import replace

from kvmipa.conformance.compare import ABSENT, Run, as_json, compare, failures, labels
from kvmipa.conformance.reports.matrix_text import comparison_text
from kvmipa.conformance.results import FAIL, PASS, SKIP
from tests.conformance.sample_reports import NAMES, report, result


def test_reports_that_agree_are_the_same_whatever_the_machine_is_called() -> None:
    other = report(host="another", model="another", kernel="7.3", cpus=1, source="elsewhere", reality="REAL")
    found = compare([Run("a", report()), Run("b", replace(other, seconds=9.0, started="2027-01-01T00:00:00+00:00"))])
    assert found.same
    assert not found.differing_claims
    assert not found.differing_facts
    assert [claim.statuses for claim in found.claims] == [(PASS, PASS)] * len(NAMES)


def test_a_claim_that_comes_out_otherwise_differs() -> None:
    found = compare([Run("a", report(skipped=NAMES[3])), Run("b", report(failed=NAMES[1], skipped=NAMES[3]))])
    assert not found.same
    assert [(claim.name, claim.statuses) for claim in found.differing_claims] == [(NAMES[1], (PASS, FAIL))]


def test_a_claim_that_is_skipped_on_one_machine_differs_and_the_reason_does_not_matter() -> None:
    with_reason = [result(NAMES[0], SKIP, reason=reason) for reason in ("no guest here", "no pKVM")]
    assert compare([Run("a", report(skipped=NAMES[2])), Run("b", report())]).differing_claims
    assert compare([Run(one.reason, report(claims=(one,))) for one in with_reason]).same


def test_a_claim_that_fails_with_another_answer_differs() -> None:
    runs = [Run(came, report(claims=(result(NAMES[1], FAIL, came=came),))) for came in ("ok", "EPERM")]
    assert [claim.name for claim in compare(runs).differing_claims] == [NAMES[1]]
    assert compare([runs[0], runs[0]]).same


def test_a_claim_that_only_one_report_has_differs() -> None:
    found = compare([Run("a", report()), Run("b", report(claims=(*report().results[:3], result("new.claim"))))])
    assert {claim.name: claim.statuses for claim in found.differing_claims} == {
        NAMES[3]: (PASS, ABSENT),
        "new.claim": (ABSENT, PASS),
    }


def test_what_kvm_says_of_the_machines_is_compared() -> None:
    other = report(
        host_ipa_limit=40, page_size=16384, sizes=(0, *range(32, 41)), gic=None, mode="nvhe", parange_bits=40
    )
    found = compare([Run("a", report()), Run("b", other)])
    assert {fact.field for fact in found.differing_facts} == {
        "host_ipa_limit",
        "page_size",
        "sizes",
        "gic",
        "mode",
        "parange_bits",
    }
    assert not found.same
    assert not found.differing_claims


def test_a_machine_without_a_report_is_not_the_same_as_one_with_and_hides_no_agreement() -> None:
    found = compare([Run("a", report()), Run("b", None, "KVM does not start")])
    assert not found.same
    assert not found.differing_claims
    assert not found.differing_facts
    assert "KVM does not start" in comparison_text(found)


def test_a_failure_is_told_once_for_all_machines_that_have_it() -> None:
    same = report(failed=NAMES[1])
    other = report(claims=(result(NAMES[1], FAIL, came="EPERM"),))
    found = failures(compare([Run("a", same), Run("b", report()), Run("c", same), Run("d", other)]))
    assert [(failure.claim.name, failure.positions) for failure in found] == [(NAMES[1], (0, 2)), (NAMES[1], (3,))]


def test_releases_are_in_their_order() -> None:
    kernels = ("6.12.117+deb13-arm64 #1 SMP", "5.10", "6.2", "6.12", "4.19")
    found = compare([Run(kernel, report(kernel=kernel)) for kernel in kernels])
    assert list(found.by_release().items()) == [("4.19", [4]), ("5.10", [1]), ("6.2", [2]), ("6.12", [0, 3])]


def test_labels_tell_reports_apart() -> None:
    one, other, third = report(host="a"), report(host="b"), report(host="b", kernel="7.3")
    assert labels([one, other], ["1", "2"]) == ["a", "b"]
    assert labels([one, other, third], ["1", "2", "3"]) == ["a", "b (6.12)", "b (7.3)"]
    assert labels([other, other], ["1", "2"]) == ["b (6.12) (1)", "b (6.12) (2)"]


def test_text_shows_what_differs_and_counts_the_rest() -> None:
    found = compare([Run("first", report()), Run("second", report(failed=NAMES[1], host_ipa_limit=None))])
    shown = comparison_text(found)
    assert "host IPA limit          44 bits  -" in shown
    assert f"C2  {NAMES[1]}  pass  FAIL" in shown
    assert "3 of 4 claims came out the same." in shown
    assert "expected  EINVAL\n    came      ok\n  on 1 of 2: second" in shown
    assert NAMES[0] not in shown
    assert NAMES[0] in comparison_text(found, everything=True)


def test_json_has_every_status_and_the_names_of_what_differs() -> None:
    found = as_json(compare([Run("a", report()), Run("b", report(failed=NAMES[1], mode="nvhe"))]))
    assert found["differing_facts"] == ["mode"]
    assert found["differing_claims"] == [NAMES[1]]
    assert [machine["fail"] for machine in found["machines"]] == [0, 1]
    assert found["claims"][1]["statuses"] == ["pass", "fail"]
    assert found["same"] is False
