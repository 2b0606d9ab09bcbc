"""The look of the page: light and dark, wide and narrow, screen and paper."""

from __future__ import annotations

import base64
import hashlib

#: No `<` in here: the sheet stands in the page as it is.
SHEET = """
:root {
  color-scheme: light dark;
  --page: #ffffff; --card: #f6f8fa; --ink: #1b1f24; --quiet: #57606a; --line: #d0d7de;
  --answer: #0b63ce; --good: #19692f; --warn: #7d5200; --bad: #b3261e;
  --good-tint: #e9f6ec; --warn-tint: #fdf4dc; --bad-tint: #fdecea;
}
@media screen and (prefers-color-scheme: dark) {
  :root {
    --page: #14171a; --card: #1d2125; --ink: #e6e8ea; --quiet: #a3abb3; --line: #3d454d;
    --answer: #6cb0ff; --good: #63d17e; --warn: #e8bf5a; --bad: #ff8f85;
    --good-tint: #16281b; --warn-tint: #2c2513; --bad-tint: #331b19;
  }
}
* { box-sizing: border-box; }
body {
  margin: 0 auto; padding: 1.25rem; max-width: 72rem; background: var(--page); color: var(--ink);
  font: 1rem/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Noto Sans", sans-serif; overflow-wrap: anywhere;
}
h1 { margin: 0; font-size: 1.6rem; line-height: 1.25; }
h2 { margin: 2.25rem 0 .75rem; font-size: 1.2rem; border-bottom: 1px solid var(--line); padding-bottom: .25rem; }
h3 { margin: 0 0 .5rem; font-size: 1rem; }
p { margin: .5rem 0; }
.quiet, caption, figcaption { color: var(--quiet); font-size: .875rem; }
.verdict { padding: 1rem 1.25rem; border-left: .4rem solid; border-radius: .4rem; }
.verdict p { color: var(--ink); }
.verdict.good { color: var(--good); background: var(--good-tint); }
.verdict.warn { color: var(--warn); background: var(--warn-tint); }
.verdict.bad { color: var(--bad); background: var(--bad-tint); }
.cards { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(15rem, 100%), 1fr)); gap: 1rem; }
.card, article { background: var(--card); border: 1px solid var(--line); border-radius: .4rem; padding: .9rem 1rem; }
article { margin: 0 0 1rem; }
article.trouble { border-left: .4rem solid var(--bad); }
dl { margin: 0; }
.card dl div { display: flex; justify-content: space-between; gap: 1rem; }
article dl div { display: grid; grid-template-columns: 5.25rem 1fr; gap: .75rem; padding: .15rem 0; }
dt { color: var(--quiet); overflow-wrap: break-word; }
dd { margin: 0; }
.card dd { text-align: right; white-space: nowrap; font-variant-numeric: tabular-nums; }
.fix dd { font-weight: 600; }
.run { margin: 1rem 0 0; display: flex; flex-wrap: wrap; gap: .25rem 1.5rem; font-size: .875rem; }
.run div { display: flex; gap: .4rem; }
.scroll { overflow-x: auto; margin: 0 0 1.25rem; }
table { border-collapse: collapse; width: 100%; font-size: .9rem; }
caption { text-align: left; padding: 0 0 .35rem; }
th, td { text-align: left; vertical-align: top; padding: .35rem .75rem .35rem 0; border-bottom: 1px solid var(--line); }
td { min-width: 7rem; }
tbody th { min-width: min(9rem, 30vw); }
.wide tbody th { min-width: 11rem; }
.wide td:not(.number) { min-width: 9rem; }
code { font-size: .92em; white-space: nowrap; }
thead th { color: var(--quiet); font-weight: 600; white-space: nowrap; }
tbody th { font-weight: 500; }
.number { text-align: right; padding-left: .75rem; padding-right: .25rem; font-variant-numeric: tabular-nums; }
td.number { white-space: nowrap; min-width: 0; }
figure { margin: 0 0 1.25rem; }
svg { display: block; width: 100%; overflow: visible; font: 12px system-ui, sans-serif; }
svg text { fill: var(--quiet); }
.track { fill: var(--card); stroke: var(--line); }
.grid { stroke: var(--line); }
.answer { fill: var(--answer); }
.failed { fill: var(--bad); }
.lost { fill: var(--page); stroke: var(--bad); stroke-width: 2; }
.left { fill: var(--quiet); }
.wait { fill: var(--quiet); opacity: .55; }
.range { fill: var(--ink); opacity: .6; }
.limit { stroke: var(--ink); stroke-width: 2; stroke-dasharray: 4 3; }
.mark { stroke: var(--ink); stroke-dasharray: 3 3; }
svg .strong { fill: var(--ink); }
figcaption { margin-top: .35rem; }
.legend { list-style: none; display: flex; flex-wrap: wrap; gap: .25rem 1.25rem; margin: .5rem 0 0; padding: 0; }
.legend li { display: flex; align-items: center; gap: .4rem; font-size: .875rem; }
.legend svg { width: 22px; flex: none; }
ul.plain { margin: 0; padding-left: 1.2rem; }
details { border-bottom: 1px solid var(--line); }
summary { padding: .4rem .25rem; cursor: pointer; }
summary .quiet { white-space: nowrap; }
summary .name { overflow-wrap: anywhere; }
.outcome { display: inline-block; min-width: 5.5rem; font-weight: 600; }
.outcome.good { color: var(--good); }
.outcome.warn { color: var(--warn); }
.outcome.bad { color: var(--bad); }
.call { margin: 0 0 .75rem 1.25rem; padding-left: .75rem; border-left: 2px solid var(--line); }
.text p { margin: .5rem 0 .15rem; }
pre { margin: 0; padding: .5rem .75rem; background: var(--card); border: 1px solid var(--line); border-radius: .3rem;
  white-space: pre-wrap; overflow-wrap: anywhere; font: .85rem/1.45 ui-monospace, "Cascadia Mono", Menlo, monospace; }
footer { margin-top: 2.5rem; }
:focus-visible { outline: 2px solid var(--answer); outline-offset: 2px; }
@media (max-width: 40rem) {
  body { padding: .75rem; }
  article dl div { grid-template-columns: 1fr; gap: 0; padding: .3rem 0; }
  table { font-size: .85rem; }
  .number { padding-left: .4rem; }
  tbody th { min-width: 5.5rem; }
  .wide tbody th { min-width: 8rem; }
}
@media print {
  body { max-width: none; padding: 0; font-size: 10pt; print-color-adjust: exact; -webkit-print-color-adjust: exact; }
  article, .card, figure, tr { break-inside: avoid; }
  h2, h3, caption { break-after: avoid; }
  .scroll { overflow: visible; }
  table { font-size: 8.5pt; }
  th, td, tbody th, .wide tbody th, .wide td:not(.number), thead th { min-width: 4.25rem; padding-right: .4rem; }
  th.number, td.number { min-width: 0; }
  thead th, code { white-space: normal; overflow-wrap: normal; }
  .number { padding-left: .4rem; }
  details::details-content { content-visibility: visible; display: block; }
}
"""


def policy() -> str:
    """Return the page's Content-Security-Policy: nothing is loaded or run, and this one sheet applies.

    A sheet is named by its hash, as CSP level 2 defines it; style attributes are refused.
    """
    digest = base64.b64encode(hashlib.sha256(SHEET.encode()).digest()).decode("ascii")
    return f"default-src 'none'; style-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'"
