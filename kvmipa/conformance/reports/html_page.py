# SPDX-License-Identifier: Apache-2.0
"""What the HTML reports have in common: the page around them, its style, and text in HTML.

A page is one file: no script, nothing from elsewhere, and a policy in its head that keeps browsers to that. It has
colours for light and dark, and is plain black on white on paper. Whatever comes from a report goes through text().
"""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING, Final

from kvmipa.conformance.results import FAIL, PASS, SKIP

if TYPE_CHECKING:
    from collections.abc import Iterable

#: How a status is shown: in words, as a sign, and by its CSS class. The sign is for those who do not see colours.
WORDS: Final = {PASS: "passed", FAIL: "failed", SKIP: "skipped", "absent": "not in this report"}
SIGNS: Final = {PASS: "✓", FAIL: "✗", SKIP: "\N{EN DASH}", "absent": ""}

# Colours have a contrast of 4.5:1 at least on what they are shown on, in either scheme.
_COLOURS: Final = """\
:root { color-scheme: light dark;
  --paper: #ffffff; --panel: #f6f8fa; --text: #1f2328; --quiet: #59636e; --line: #d1d9e0; --link: #0a58ca;
  --pass: #116329; --pass-back: #dafbe1; --fail: #a40e26; --fail-back: #ffebe9; --skip: #6b4a00; --skip-back: #fff3cf;
  --bits: #ddf4ff; --page: #dafbe1; --stroke: #818b98; --on: #1a7f37; --off: #d8dee4 }
"""
_DARK: Final = """\
@media screen and (prefers-color-scheme: dark) { :root {
  --paper: #0d1117; --panel: #151b23; --text: #f0f6fc; --quiet: #a9b3bf; --line: #3d444d; --link: #79b8ff;
  --pass: #7ee2a0; --pass-back: #0b3420; --fail: #ffb1a8; --fail-back: #52151a; --skip: #f0cc73; --skip-back: #3d2f0b;
  --bits: #0c2d6b; --page: #033a16; --stroke: #7d8590; --on: #2ea043; --off: #2a313b } }
"""
_STYLE: Final = """\
* { box-sizing: border-box }
body { margin: 0 auto; padding: 1.5rem 1.25rem 4rem; max-width: 76rem; background: var(--paper); color: var(--text);
  font: 16px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Noto Sans", "DejaVu Sans", sans-serif }
body.wide { max-width: none }
h1 { font-size: 1.7rem; line-height: 1.25; margin: .6rem 0 .2rem; overflow-wrap: anywhere }
h2 { font-size: 1.25rem; margin: 2.4rem 0 .8rem; padding-bottom: .3rem; border-bottom: 1px solid var(--line) }
h3 { font-size: 1rem; margin: 0 0 .3rem }
nav a { display: inline-block; margin-right: 1rem }
p { margin: .3rem 0 }
a { color: var(--link) }
code, pre, .mono { font-family: ui-monospace, "SF Mono", Menlo, Consolas, "DejaVu Sans Mono", monospace;
  font-size: .9em }
.quiet { color: var(--quiet) }
.small { font-size: .875rem }
.badge { display: inline-block; padding: .1rem .6rem; border-radius: 1rem; font-weight: 700; font-size: .8rem;
  letter-spacing: .06em; border: 1px solid currentColor }
.badge.real { color: var(--pass); background: var(--pass-back) }
.badge.emulated { color: var(--link); background: var(--panel) }
.status { display: inline-block; padding: 0 .5rem; border-radius: .3rem; font-size: .85rem; font-weight: 600;
  white-space: nowrap }
.pass { color: var(--pass); background: var(--pass-back) }
.fail { color: var(--fail); background: var(--fail-back) }
.skip { color: var(--skip); background: var(--skip-back) }
.absent { color: var(--quiet) }
.verdict { display: block; margin: 1.2rem 0; padding: .8rem 1rem; border-radius: .5rem; font-size: 1.1rem;
  font-weight: 600; border: 1px solid currentColor }
.counts { display: flex; flex-wrap: wrap; gap: .75rem; margin: 1rem 0; padding: 0; list-style: none }
.counts li { flex: 1 1 8rem; padding: .6rem .9rem; border: 1px solid var(--line); border-radius: .5rem;
  background: var(--panel) }
.counts b { display: block; font-size: 1.6rem; line-height: 1.2; font-variant-numeric: tabular-nums }
dl.facts { display: grid; grid-template-columns: repeat(auto-fill, minmax(15rem, 1fr)); gap: .1rem 1.5rem; margin: 0 }
dl.facts div { padding: .45rem 0; border-bottom: 1px solid var(--line) }
dl.facts dt { color: var(--quiet); font-size: .85rem }
dl.facts dd { margin: 0; overflow-wrap: anywhere }
dl.facts .whole { grid-column: 1 / -1 }
.scroll { overflow-x: auto }
table { border-collapse: collapse; width: 100%; font-size: .95rem }
th, td { padding: .5rem .6rem; text-align: left; vertical-align: top; border-bottom: 1px solid var(--line) }
thead th { color: var(--quiet); font-weight: 600; font-size: .85rem }
td.number, th.number { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap }
td.wrap { overflow-wrap: anywhere }
.failure { border: 1px solid var(--fail); border-radius: .5rem; padding: .9rem 1rem; margin: 0 0 1rem }
.failure table { margin: .6rem 0; background: var(--panel) }
details { margin: .5rem 0 }
summary { cursor: pointer; color: var(--link) }
pre { margin: .5rem 0; padding: .8rem; background: var(--panel); border: 1px solid var(--line); border-radius: .4rem;
  overflow: auto; max-height: 28rem }
svg { display: block }
.sizes svg { width: 100%; height: auto; min-width: 40rem }
.sizes .on { fill: var(--on) } .sizes .off { fill: var(--off) } .sizes text { fill: var(--quiet); font-size: 12px }
.shape svg { max-width: 100%; min-width: 42rem; height: auto }
.shape text { fill: var(--text); font-size: 14px } .shape .head, .shape .title { font-weight: bold }
.shape .title { font-size: 18px } .shape .quiet { fill: var(--quiet) } .shape .mono { font-size: 14px }
.shape rect { stroke: var(--stroke); fill: var(--bits) } .shape .page { fill: var(--page) }
.shape .paper { fill: none; stroke: none } .shape path { stroke: var(--stroke); fill: none }
footer { margin-top: 3rem; padding-top: .8rem; border-top: 1px solid var(--line); color: var(--quiet);
  font-size: .875rem }
"""
_NARROW: Final = """\
@media (max-width: 40rem) {
  body { padding: 1rem .9rem 3rem } h1 { font-size: 1.35rem }
  dl.facts { grid-template-columns: 1fr 1fr } .counts li { flex-basis: 40% }
  table.claims thead { display: none }
  table.claims tr { display: grid; grid-template-columns: auto 1fr; gap: 0 .6rem; padding: .7rem 0;
    border-bottom: 1px solid var(--line) }
  table.claims td { border: 0; padding: .1rem 0 } table.claims td.said { grid-column: 1 / -1 }
  table.claims td.number { display: none }
}
"""
_PRINTED: Final = """\
@media print {
  :root { color-scheme: light } body { max-width: none; padding: 0; font-size: 10pt }
  h2 { break-after: avoid } .failure, .shape, tr { break-inside: avoid } pre { max-height: none; white-space: pre-wrap }
  .scroll { overflow: visible } nav { display: none } a { color: inherit; text-decoration: none }
  * { print-color-adjust: exact; -webkit-print-color-adjust: exact }
}
"""


def text(value: object) -> str:
    """Anything as text in HTML: between tags, or in an attribute with quotes.

    >>> text('<b title="x">')
    '&lt;b title=&quot;x&quot;&gt;'
    """
    return escape(str(value))


def status(kind: str) -> str:
    """A status in a box of its colour.

    >>> status("pass")
    '<span class="status pass">✓ passed</span>'
    """
    return f'<span class="status {text(kind)}">{SIGNS.get(kind, "")} {text(WORDS.get(kind, kind))}</span>'


def badge(reality: str) -> str:
    """REAL or EMULATED, which nobody should overlook."""
    kind = "real" if reality == "REAL" else "emulated"
    return f'<span class="badge {kind}">{text(reality)}</span>'


def counts(numbers: Iterable[tuple[str, object, str]]) -> str:
    """Numbers that are to be seen from afar: what it is, the number, a CSS class."""
    items = "".join(f'<li><b class="{kind}">{text(number)}</b>{text(name)}</li>' for name, number, kind in numbers)
    return f'<ul class="counts">{items}</ul>'


def page(title: str, body: Iterable[str], *, style: str = "", wide: bool = False) -> str:
    """A whole page; style: CSS beside what all have; wide: for a table that needs all the room that there is."""
    return "\n".join(
        [
            "<!DOCTYPE html>",
            '<html lang="en">',
            "<head>",
            '<meta charset="utf-8">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">",
            '<meta name="generator" content="kvmipa">',
            f"<title>{text(title)}</title>",
            f"<style>\n{_COLOURS}{_DARK}{_STYLE}{style}{_NARROW}{_PRINTED}</style>",
            "</head>",
            '<body class="wide">' if wide else "<body>",
            *body,
            "</body>",
            "</html>\n",
        ]
    )
