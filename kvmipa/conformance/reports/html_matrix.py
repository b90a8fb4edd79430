# SPDX-License-Identifier: Apache-2.0
"""Several runs as one HTML file: the matrix machine x claim, and what differs.

A few machines are columns, so that they are read side by side; many are rows, in groups of their kernels' release,
below a summary of each claim by release.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Final

from kvmipa.conformance.compare import ABSENT, STATUSES, fact_text, failures
from kvmipa.conformance.reports.html import mismatch_table
from kvmipa.conformance.reports.html_page import SIGNS, WORDS, badge, counts, page, status, text
from kvmipa.conformance.results import FAIL, PASS, SKIP

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from kvmipa.conformance.compare import Claim, Comparison, Fact, Failure, Run

# More machines than that are rows.
_SIDE_BY_SIDE: Final = 6

# Names that are listed in full; of more, the rest is folded away.
_NAMED: Final = 8

_STYLE: Final = """\
.matrix { overflow: auto; max-height: 92vh; border: 1px solid var(--line); border-radius: .4rem;
  width: fit-content; max-width: 100% }
.matrix table { border-collapse: separate; border-spacing: 0; width: auto; font-size: .875rem }
.matrix th, .matrix td { padding: .2rem .45rem; border-right: 1px solid var(--line); white-space: nowrap }
.matrix td { text-align: center }
.matrix td.said, .matrix td.fact { text-align: left }
.matrix thead th { position: sticky; top: 0; z-index: 2; background: var(--panel); vertical-align: bottom }
.matrix tbody th { position: sticky; left: 0; z-index: 1; background: var(--paper); font-weight: 400 }
.matrix thead th:first-child { left: 0; z-index: 3 }
.matrix .group th { background: var(--panel); font-weight: 600; top: var(--head); z-index: 2 }
.matrix .group th:first-child { left: 0; z-index: 3 } .matrix .group span { position: sticky; left: 18rem }
.matrix .turned { height: var(--head); padding: .3rem .2rem; text-align: left }
.matrix .turned span { writing-mode: vertical-rl; transform: rotate(180deg); color: var(--text) }
.matrix tbody tr:hover td, .matrix tbody tr:hover th { box-shadow: inset 0 1px var(--link), inset 0 -1px var(--link) }
.matrix td.p { color: var(--pass); background: var(--pass-back) }
.matrix td.f { color: var(--fail); background: var(--fail-back); font-weight: 700 }
.matrix td.f a { color: inherit }
.matrix td.s { color: var(--skip); background: var(--skip-back) }
.matrix td.differs, .matrix th.differs { outline: 2px solid var(--link); outline-offset: -2px }
.matrix.few { max-height: none; width: auto } .matrix.few table { width: 100%; table-layout: fixed }
.matrix.few th, .matrix.few td { white-space: normal; padding: .4rem .6rem }
.matrix.few tbody th { min-width: 10rem; overflow-wrap: anywhere }
.legend > span { margin-right: 1rem }
.names { overflow-wrap: anywhere }
@media (max-width: 40rem) { .matrix tbody th { min-width: 8.5rem; max-width: 9.5rem; white-space: normal;
    overflow-wrap: anywhere }
  .matrix .group span { left: 10rem } .matrix.few tbody th { min-width: 7rem; max-width: 8rem } }
@media print { .matrix { overflow: visible; max-height: none; border: 0 } .matrix th { position: static !important }
  .matrix table { font-size: 7pt } @page { size: landscape } }
"""

_CLASSES: Final = {PASS: "p", FAIL: "f", SKIP: "s", ABSENT: "a"}


def matrix_html(found: Comparison, title: str = "KVM and the IPA size on several machines") -> str:
    """The comparison as a page."""
    failed = failures(found)
    few = len(found.runs) <= _SIDE_BY_SIDE
    return page(
        title,
        [
            "<header>",
            _badges(found),
            f"<h1>{text(title)}</h1>",
            _verdict(found, failed),
            _counts(found),
            "</header>",
            "<main>",
            *_failures(found, failed),
            *_without_report(found.runs),
            *(_side_by_side(found) if few else _many(found)),
            "</main>",
            "<footer>Written by kvmipa. A claim that is skipped on a machine is not about it, or could not be checked."
            "</footer>",
        ],
        style=_STYLE,
        wide=not few,
    )


def _badges(found: Comparison) -> str:
    realities = dict.fromkeys(run.machine.reality for run in found.runs if run.machine)
    return " ".join(map(badge, realities)) + ' <span class="quiet small">kvmipa conformance reports</span>'


def _verdict(found: Comparison, failed: list[Failure]) -> str:
    claims = len({failure.claim.name for failure in failed})
    machines = len({position for failure in failed for position in failure.positions})
    if failed:
        fail = "fails" if claims == 1 else "fail"
        kind, said = FAIL, f"{_number(claims, 'claim')} {fail} on {machines} of {_number(found.reported, 'machine')}."
    else:
        kind, said = PASS, "No claim fails on any machine."
    without = len(found.runs) - found.reported
    if without:
        kind = FAIL if failed else SKIP
        said += f" There is no report of {_number(without, 'machine')}."
    different = len(found.differing_claims)
    if len(found.runs) <= _SIDE_BY_SIDE:
        facts = ", ".join(fact.name for fact in found.differing_facts)
        said += f" {_number(different, 'claim')} came out differently." if different else " All came out the same."
        said += f" The machines differ in: {facts}." if facts else " The machines do not differ."
    return f'<p class="verdict {kind}">{text(said)}</p>'


def _number(count: int, what: str) -> str:
    """A number of things.

    >>> _number(1, "claim"), _number(2, "claim")
    ('1 claim', '2 claims')
    """
    return f"{count} {what}{'' if count == 1 else 's'}"


def _counts(found: Comparison) -> str:
    cells = Counter(kind for claim in found.claims for kind in claim.statuses)
    return counts(
        [
            ("machines", len(found.runs), ""),
            ("claims", len(found.claims), ""),
            *((WORDS[kind], cells[kind], "") for kind in (PASS, FAIL, SKIP)),
        ]
    )


def _failures(found: Comparison, failed: list[Failure]) -> Iterator[str]:
    if not failed:
        return
    yield "<h2>What does not hold</h2>"
    named: set[str] = set()
    for failure in failed:
        claim = failure.claim
        where = "" if claim.name in named else f' id="claim-{found.claims.index(claim)}"'
        named.add(claim.name)
        yield f'<section class="failure"{where}>'
        yield f'<h3>{text(claim.id)} <span class="mono">{text(claim.name)}</span> {status(FAIL)}</h3>'
        yield f"<p>{text(claim.text)}</p>"
        yield f'<p class="quiet small">{text(claim.kind)}; {text(claim.source)}</p>'
        yield mismatch_table(failure.mismatches)
        yield _names(f"On {_number(len(failure.positions), 'machine')}", [found.runs[at] for at in failure.positions])
        yield "</section>"


def _names(said: str, runs: list[Run]) -> str:
    names = [text(run.label) for run in runs]
    shown = ", ".join(names[:_NAMED])
    if len(names) <= _NAMED:
        return f'<p class="small names">{said}: {shown}</p>'
    rest = ", ".join(names[_NAMED:])
    more = f"<details><summary>and {len(names) - _NAMED} more</summary>{rest}</details>"
    return f'<div class="small names">{said}: {shown} {more}</div>'


def _without_report(runs: Iterable[Run]) -> Iterator[str]:
    """Machines that say nothing about claims are not to be overlooked."""
    missing = [run for run in runs if run.report is None]
    if missing:
        yield "<h2>Machines without a report</h2>"
        yield '<table><thead><tr><th scope="col">Machine</th><th scope="col">Why</th></tr></thead><tbody>'
        yield from (f'<tr><td>{text(run.label)}</td><td class="wrap">{text(run.note)}</td></tr>' for run in missing)
        yield "</tbody></table>"


# ------------------------------------------------------------------------------------------------ few machines


def _side_by_side(found: Comparison) -> Iterator[str]:
    head = "".join(f'<th scope="col">{text(run.label)}{_kernel(run)}</th>' for run in found.runs)
    yield "<h2>The machines</h2>"
    width = f"min-width: {12 + 9 * len(found.runs)}rem"
    table = f'<div class="matrix few"><table style="{width}"><thead><tr>'
    yield f'{table}<th scope="col">Fact</th>{head}</tr></thead><tbody>'
    differing_facts = {fact.field for fact in found.differing_facts}
    for fact in found.facts:
        kind = "fact differs" if fact.field in differing_facts else "fact"
        cells = "".join(f'<td class="{kind}">{text(_shown(fact, at))}</td>' for at in range(len(found.runs)))
        yield f'<tr><th scope="row">{text(fact.name)}</th>{cells}</tr>'
    yield "</tbody></table></div>"
    yield "<h2>The claims</h2>"
    yield '<p class="small quiet">Framed: what differs.</p>'
    yield f'{table}<th scope="col">Claim</th>{head}</tr></thead><tbody>'
    differing = {claim.name for claim in found.differing_claims}
    for number, claim in enumerate(found.claims):
        framed = claim.name in differing
        cells = "".join(_wide_cell(number, claim, at, framed=framed) for at in range(len(found.runs)))
        yield f'<tr><th scope="row" title="{text(claim.text)}">{text(claim.id)} {text(claim.name)}</th>{cells}</tr>'
    yield "</tbody></table></div>"


def _kernel(run: Run) -> str:
    return f'<br><span class="quiet">Linux {text(run.machine.kernel)}</span>' if run.machine else ""


def _shown(fact: Fact, at: int) -> str:
    return fact_text(fact.field, fact.values[at])


def _wide_cell(number: int, claim: Claim, at: int, *, framed: bool) -> str:
    kind, result = claim.statuses[at], claim.results[at]
    shown = status(kind)
    if kind == FAIL:
        shown = f'<a href="#claim-{number}">{shown}</a>'
    reason = f'<p class="small quiet">{text(result.reason)}</p>' if result and result.reason else ""
    return f'<td class="said{" differs" if framed else ""}">{shown}{reason}</td>'


# ------------------------------------------------------------------------------------------------ many machines


def _many(found: Comparison) -> Iterator[str]:
    yield from _by_release(found)
    yield "<h2>Every machine</h2>"
    yield f'<p class="small legend">{_legend()}</p>'
    # Rotated names need a height that the rows below can rely on to stick under them.
    height = 1.4 + 0.56 * max((len(claim.name) + len(claim.id) for claim in found.claims), default=0)
    yield f'<div class="matrix" style="--head: {height:.1f}rem"><table><thead><tr><th scope="col">Machine</th>'
    yield '<th scope="col">Pages</th><th scope="col">Limit</th>'
    for claim in found.claims:
        shown = f"{text(claim.id)} {text(claim.name)}"
        yield f'<th scope="col" class="turned" title="{text(claim.text)}"><span>{shown}</span></th>'
    yield "</tr></thead>"
    for release, positions in found.by_release().items():
        yield "<tbody>"
        yield _group(found, release, positions)
        yield from (_row(found, position) for position in positions)
        yield "</tbody>"
    yield "</table></div>"
    yield from _reasons(found)


def _reasons(found: Comparison) -> Iterator[str]:
    """Why claims are skipped; each reason once."""
    total = Counter(
        (claim.id, claim.name, result.reason)
        for claim in found.claims
        for result in claim.results
        if result is not None and result.status == SKIP
    )
    if not total:
        return
    yield "<h2>Why claims are skipped</h2>"
    yield '<div class="scroll"><table><thead><tr><th scope="col">Claim</th><th scope="col">Reason</th>'
    yield '<th scope="col" class="number">Machines</th></tr></thead><tbody>'
    for (number, name, reason), count in total.items():
        yield f'<tr><td class="mono wrap">{text(number)} {text(name)}</td><td class="wrap">{text(reason)}</td>'
        yield f'<td class="number">{count}</td></tr>'
    yield "</tbody></table></div>"


def _signs() -> str:
    return "".join(
        f'<span><span class="status {kind}">{SIGNS[kind] or "&nbsp;"}</span> {WORDS[kind]}</span>' for kind in STATUSES
    )


def _legend() -> str:
    return f"{_signs()}Hold the pointer over a column's head for the claim; a ✗ leads to what came."


def _group(found: Comparison, release: str, positions: list[int]) -> str:
    total = Counter(claim.statuses[at] for claim in found.claims for at in positions)
    name = f"Linux {release}" if release else "without a report"
    said = ", ".join(f"{total[kind]} {WORDS[kind]}" for kind in (PASS, FAIL, SKIP) if total[kind])
    span = len(found.claims) + 2
    return (
        f'<tr class="group"><th scope="rowgroup">{text(name)}: {_number(len(positions), "machine")}</th>'
        f'<th colspan="{span}"><span>{said}</span></th></tr>'
    )


def _row(found: Comparison, at: int) -> str:
    run = found.runs[at]
    machine = run.machine
    pages = fact_text("page_size", machine.page_size) if machine else ""
    limit = "" if machine is None else "-" if machine.host_ipa_limit is None else str(machine.host_ipa_limit)
    cells = "".join(_narrow_cell(number, claim.statuses[at]) for number, claim in enumerate(found.claims))
    return f'<tr><th scope="row">{text(run.label)}</th><td>{text(pages)}</td><td>{text(limit)}</td>{cells}</tr>'


def _narrow_cell(number: int, kind: str) -> str:
    sign = SIGNS[kind]
    if kind == FAIL:
        sign = f'<a href="#claim-{number}">{sign}</a>'
    return f'<td class="{_CLASSES[kind]}">{sign}</td>'


def _by_release(found: Comparison) -> Iterator[str]:
    """On how many machines of each release a claim holds."""
    groups = {release: positions for release, positions in found.by_release().items() if release}
    yield "<h2>Claims by release</h2>"
    yield f'<p class="small legend">On how many machines of a release: {_signs()}</p>'
    yield '<div class="matrix"><table><thead><tr><th scope="col">Claim</th>'
    for release, positions in groups.items():
        machines = f'<span class="quiet">{_number(len(positions), "machine")}</span>'
        yield f'<th scope="col">Linux {text(release)}<br>{machines}</th>'
    yield "</tr></thead><tbody>"
    for number, claim in enumerate(found.claims):
        cells = "".join(_count_cell(number, claim, positions) for positions in groups.values())
        yield f'<tr><th scope="row" title="{text(claim.text)}">{text(claim.id)} {text(claim.name)}</th>{cells}</tr>'
    yield "</tbody></table></div>"


def _count_cell(number: int, claim: Claim, positions: list[int]) -> str:
    total = Counter(claim.statuses[at] for at in positions)
    kind = next((kind for kind in (FAIL, PASS, SKIP) if total[kind]), ABSENT)
    said = " &nbsp; ".join(f"{SIGNS[one]} {total[one]}" for one in (PASS, FAIL, SKIP) if total[one])
    if kind == FAIL:
        said = f'<a href="#claim-{number}">{said}</a>'
    return f'<td class="{_CLASSES[kind]}">{said}</td>'
