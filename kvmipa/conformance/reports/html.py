# SPDX-License-Identifier: Apache-2.0
"""A report as one HTML file: what was found, on what machine, and what stage 2 looks like there."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from kvmipa.cli.output import runs
from kvmipa.conformance.reports.html_page import badge, counts, page, status, text
from kvmipa.conformance.results import FAIL, PASS, SKIP
from kvmipa.machine_type import DEFAULT_IPA_BITS, size_text
from kvmipa.stage2.geometry import PAGE_SIZES, Geometry
from kvmipa.stage2.picture import start_text, svg

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from kvmipa.conformance.results import ClaimResult, Machine, Mismatch, Report

_TYPES: Final = 256


def html(report: Report) -> str:
    """The report as a page."""
    machine = report.machine
    failed = [result for result in report.results if result.status == FAIL]
    return page(
        f"{machine.reality} {machine.host}: KVM and the IPA size",
        [
            "<header>",
            f'{badge(machine.reality)} <span class="quiet small">kvmipa conformance report</span>',
            f"<h1>{text(machine.model or machine.host)}</h1>",
            f'<p class="quiet">{text(_subtitle(machine))}</p>',
            _verdict(report),
            _counts(report),
            '<nav class="small"><a href="#machine">The machine</a> <a href="#types">Machine types</a>',
            '<a href="#stage2">Stage 2</a> <a href="#claims">All claims</a></nav>',
            "</header>",
            "<main>",
            *_failures(failed),
            *_machine(machine),
            *_sizes(machine),
            *_shapes(machine),
            *_claims(report.results),
            "</main>",
            f"<footer>kvmipa {text(report.version)}, run on {text(report.started)} in {report.seconds:g} s. "
            "Sizes of addresses are in bits.</footer>",
        ],
    )


def _subtitle(machine: Machine) -> str:
    said = "An emulated host" if machine.reality == "EMULATED" else f"KVM behind {machine.host}"
    return f"{said}, Linux {machine.kernel}, {machine.page_size >> 10}K pages, mode {machine.mode}"


def _verdict(report: Report) -> str:
    failed, passed = report.count(FAIL), report.count(PASS)
    if failed:
        kind, said = FAIL, f"{failed} of {failed + passed} claims that were checked do not hold."
    elif passed:
        kind, said = PASS, f"All {passed} claims that were checked hold."
    else:
        kind, said = SKIP, "No claim could be checked here."
    if report.missing:
        said += f" Interrupted: {len(report.missing)} more were not checked: {', '.join(report.missing)}."
        kind = FAIL if failed else SKIP
    return f'<p class="verdict {kind}">{text(said)}</p>'


def _counts(report: Report) -> str:
    observations = sum(result.observations for result in report.results)
    return counts(
        [
            ("passed", report.count(PASS), ""),
            ("failed", report.count(FAIL), ""),
            ("skipped", report.count(SKIP), ""),
            ("answers compared", observations, ""),
        ]
    )


def _machine(machine: Machine) -> Iterator[str]:
    facts = [
        ("Host IPA limit", "no such capability" if machine.host_ipa_limit is None else _bits(machine.host_ipa_limit)),
        ("Page size", size_text(machine.page_size) if machine.page_size > 0 else machine.page_size),
        ("PARange of the CPU", "not shown" if machine.parange_bits is None else _bits(machine.parange_bits)),
        ("KVM's mode", machine.mode),
        ("Interrupt controller", machine.gic or "none with virtualisation"),
        ("CPUs", machine.cpus),
        ("CPU", machine.cpu),
        ("CPU set", machine.cpu_set),
        ("Transparent huge pages", machine.transparent_hugepages),
        ("Architecture", machine.architecture),
        ("Host", machine.host),
        ("Kernel", machine.kernel),
    ]
    yield '<h2 id="machine">The machine</h2>'
    yield '<dl class="facts">'
    for name, value in facts:
        if value != "":
            yield f"<div><dt>{name}</dt><dd>{text(value)}</dd></div>"
    if machine.source:
        yield f'<div class="whole"><dt>Where these numbers are from</dt><dd>{text(machine.source)}</dd></div>'
    yield "</dl>"


def _bits(bits: int) -> str:
    return f"{bits} bits ({size_text(1 << bits)})" if 0 < bits <= 64 else f"{bits} bits"


def _sizes(machine: Machine) -> Iterator[str]:
    """A bar of all machine types of eight bits: those that make a VM."""
    accepted = frozenset(machine.sizes)
    said = runs(sorted(accepted)) or "none"
    yield '<h2 id="types">Machine types that make a VM</h2>'
    zero = f" (0 is the default of {DEFAULT_IPA_BITS} bits)" if 0 in accepted else ""
    yield f"<p>Of 0 to {_TYPES - 1}, KVM_CREATE_VM accepts <b>{text(said)}</b>{zero}.</p>"
    label = f"Machine types 0 to {_TYPES - 1}; accepted: {said}"
    yield f'<div class="scroll sizes"><svg viewBox="0 0 1044 58" role="img" aria-label="{text(label)}">'
    for number in range(_TYPES):
        kind = "on" if number in accepted else "off"
        yield f'<rect class="{kind}" x="{10 + 4 * number}" y="8" width="3.4" height="26"/>'
    ticks = (0, 32, 40, 52, 64, 96, 128, 160, 192, 224, 255)
    yield "".join(f'<text x="{12 + 4 * number}" y="52" text-anchor="middle">{number}</text>' for number in ticks)
    yield "</svg></div>"


def _failures(failed: list[ClaimResult]) -> Iterator[str]:
    if not failed:
        return
    yield "<h2>What does not hold</h2>"
    for number, result in enumerate(failed):
        yield f'<section class="failure" id="failure-{number}">'
        yield f'<h3>{text(result.id)} <span class="mono">{text(result.name)}</span> {status(FAIL)}</h3>'
        yield f"<p>{text(result.text)}</p>"
        yield f'<p class="quiet small">{text(_background(result))}</p>'
        yield mismatch_table(result.mismatches)
        if result.trace:
            yield "<details><summary>The system calls, as <code>kvmipa replay</code> reads them</summary>"
            yield f"<pre>{text(result.trace)}</pre></details>"
        yield "</section>"


def _background(result: ClaimResult) -> str:
    """Where a claim is from, and how it is tested."""
    rests = f" Rests on {', '.join(map(str, result.rests_on))}." if result.rests_on else ""
    return f"{result.kind}; {result.source}. {result.how}{rests}".strip()


def mismatch_table(mismatches: Iterable[Mismatch]) -> str:
    """What was expected, and what came instead."""
    rows = "".join(
        f'<tr><td class="wrap">{text(one.what)}</td><td class="wrap mono">{text(one.expected)}</td>'
        f'<td class="wrap mono">{text(one.came)}</td></tr>'
        for one in mismatches
    )
    return (
        '<div class="scroll"><table><thead><tr><th scope="col">What was asked</th><th scope="col">Expected</th>'
        f'<th scope="col">Came</th></tr></thead><tbody>{rows}</tbody></table></div>'
    )


def _claims(results: Iterable[ClaimResult]) -> Iterator[str]:
    yield '<h2 id="claims">All claims</h2>'
    yield '<table class="claims"><thead><tr><th scope="col">Claim</th><th scope="col">Outcome</th>'
    yield '<th scope="col">What is claimed</th><th scope="col" class="number">Answers</th>'
    yield '<th scope="col" class="number">Time</th></tr></thead><tbody>'
    failed = 0
    for result in results:
        outcome = status(result.status)
        if result.status == FAIL:
            outcome = f'<a href="#failure-{failed}">{outcome}</a>'
            failed += 1
        reason = f'<p class="small">Skipped: {text(result.reason)}</p>' if result.reason else ""
        yield (
            f"<tr><td><b>{text(result.id)}</b></td><td>{outcome}</td>"
            f'<td class="said wrap"><span class="mono">{text(result.name)}</span><p>{text(result.text)}</p>{reason}'
            f'<p class="quiet small">{text(_background(result))}</p></td>'
            f'<td class="number">{result.observations}</td><td class="number">{1000 * result.seconds:.1f} ms</td></tr>'
        )
    yield "</tbody></table>"


# ------------------------------------------------------------------------------------------------ stage 2


def _shapes(machine: Machine) -> Iterator[str]:
    """The tables of the sizes that the machine has: a row for each shape, and a picture of each."""
    shapes = list(_distinct_shapes(machine))
    if not shapes:
        return
    yield '<h2 id="stage2">Stage 2 on this machine</h2>'
    yield f"<p>With {machine.page_size >> 10}K pages, the size of a VM decides how many levels its tables have.</p>"
    yield '<div class="scroll"><table><thead><tr><th scope="col">IPA bits</th><th scope="col">Levels</th>'
    yield '<th scope="col">First level</th><th scope="col">What the walk starts with, at the largest</th>'
    yield "</tr></thead><tbody>"
    for sizes in shapes:
        shape = sizes[-1]
        yield f"<tr><td>{text(runs([one.ipa_bits for one in sizes]))}</td><td>{shape.levels}</td>"
        yield f"<td>{shape.start_level}</td><td>{text(start_text(shape))}</td></tr>"
    yield "</tbody></table></div>"
    pictured = {sizes[-1].ipa_bits: sizes[-1] for sizes in reversed(shapes)}
    default = next((one for sizes in shapes for one in sizes if one.ipa_bits == DEFAULT_IPA_BITS), None)
    if default is not None:
        pictured.setdefault(DEFAULT_IPA_BITS, default)
    for number, shape in enumerate(pictured.values()):
        named = ", the limit" if shape.ipa_bits == machine.host_ipa_limit else ""
        named += ", the default" if shape.ipa_bits == DEFAULT_IPA_BITS else ""
        yield f"<details{' open' if number == 0 else ''}><summary>{shape.ipa_bits} bits{named}</summary>"
        yield f'<div class="scroll shape">{_inline(svg(shape), number)}</div></details>'


def _distinct_shapes(machine: Machine) -> Iterator[list[Geometry]]:
    """Sizes that the machine makes VMs of, together where levels and first level are the same."""
    if machine.page_size not in PAGE_SIZES:
        return
    sizes: list[Geometry] = []
    for bits in sorted(size for size in machine.sizes if 32 <= size <= 52):
        shape = Geometry(machine.page_size, bits)
        if sizes and (sizes[-1].levels, sizes[-1].start_level) != (shape.levels, shape.start_level):
            yield sizes
            sizes = []
        sizes.append(shape)
    if sizes:
        yield sizes


def _inline(drawing: str, number: int) -> str:
    """An SVG as a part of a page: its style is the page's, and its ids are not those of another one."""
    drawing = re.sub(r"<style>.*?</style>\n?", "", drawing, flags=re.DOTALL)
    for name in ("title", "desc"):
        drawing = drawing.replace(f'id="{name}"', f'id="{name}-{number}"')
    return drawing.replace('aria-labelledby="title desc"', f'aria-labelledby="title-{number} desc-{number}"')
