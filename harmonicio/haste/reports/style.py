"""How a report looks: its style sheet, and the colour that stands for each tier.

Tiers with a rank share one hue, the most interesting the darkest, so that order can be seen without reading; the
colours differ in lightness and can be told apart in grey. What has no rank (unscored, trash) is amber or grey.
"""

from __future__ import annotations

from collections.abc import Sequence

_DARKEST, _LIGHTEST = (12, 68, 96), (170, 211, 222)
_UNRANKED = ("#d08a1d", "#9a9a94", "#b9785a", "#7d7f9c")

STYLE = """
:root { color-scheme: light; --ink: #1d2a31; --quiet: #5c6b73; --line: #dfe5e8; --paper: #ffffff; --ground: #f5f7f8; }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 2.5rem 1.5rem 3rem; max-width: 76rem; background: var(--ground); color: var(--ink);
       font: 16px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Liberation Sans", "DejaVu Sans", sans-serif; }
h1 { font-size: 1.9rem; line-height: 1.2; margin: 0; font-weight: 650; overflow-wrap: anywhere; }
h2 { font-size: 1.3rem; margin: 0; font-weight: 600; overflow-wrap: anywhere; }
h2 em { font-style: normal; color: #0c5a7d; }
h3 { font-size: 1rem; margin: 1.25rem 0 .5rem; font-weight: 600; overflow-wrap: anywhere; }
header p { margin: .25rem 0 0; }
.quiet { color: var(--quiet); font-size: .9rem; margin: .25rem 0; }
section, .figures > div { background: var(--paper); border: 1px solid var(--line); border-radius: 10px; }
section { padding: 1.5rem; margin: 1.5rem 0; }
.figures { display: grid; grid-template-columns: repeat(auto-fit, minmax(10.5rem, 1fr)); gap: .75rem;
           margin: 1.5rem 0; }
.figures > div { padding: .9rem 1.1rem; }
.figures dt { color: var(--quiet); font-size: .85rem; }
.figures dd { margin: 0; font-size: 1.35rem; font-weight: 600; white-space: nowrap; }
table { border-collapse: collapse; width: 100%; margin: 1rem 0; font-variant-numeric: tabular-nums; }
th, td { padding: .42rem .75rem; text-align: right; border-bottom: 1px solid var(--line); }
th, td { white-space: nowrap; }
th:first-child { text-align: left; white-space: normal; overflow-wrap: anywhere; min-width: 5rem; }
thead th { color: var(--quiet); font-weight: 500; font-size: .85rem; }
tbody th { font-weight: 600; }
tfoot th, tfoot td { border-bottom: 0; font-weight: 600; }
td.bar { width: 38%; text-align: left; }
.share { display: block; height: .8rem; min-width: 1px; border-radius: 2px; }
.reasons th, .reasons td { text-align: left; vertical-align: top; white-space: normal; overflow-wrap: anywhere; }
.reasons td:first-child { width: 6rem; }
.swatch { display: inline-block; width: .8em; height: .8em; margin-right: .55em; border-radius: 2px; }
.charts { display: grid; grid-template-columns: repeat(auto-fit, minmax(20rem, 1fr)); gap: 1.25rem; margin: 1.25rem 0; }
figure { margin: 0; }
figcaption { color: var(--quiet); font-size: .82rem; }
.chart { display: block; width: 100%; height: auto; }
.chart text { font: 12px system-ui, -apple-system, "Segoe UI", Roboto, "Liberation Sans", "DejaVu Sans", sans-serif;
              fill: var(--quiet); }
.chart .label { fill: var(--ink); }
.chart .part { fill: var(--ink); font-weight: 600; }
.chart .grid { stroke: #eaeef0; }
.chart .axis { stroke: #9fadb4; }
.chart .edge { stroke: #b3401f; stroke-width: 1.2; stroke-dasharray: 4 3; }
.examples-title { margin-top: 1.75rem; }
.examples { display: grid; grid-template-columns: repeat(auto-fill, minmax(9rem, 1fr)); gap: .75rem; }
.examples img { display: block; width: 100%; aspect-ratio: 1; object-fit: cover; border-radius: 6px;
                background: #0b0f12; }
.examples figcaption { margin-top: .3rem; line-height: 1.35; }
.examples figcaption b { display: block; color: var(--ink); font-weight: 600; }
.examples figcaption span { display: -webkit-box; -webkit-box-orient: vertical; -webkit-line-clamp: 3; overflow: hidden;
                            overflow-wrap: anywhere; }
footer { margin-top: 2rem; max-width: 60rem; }
@media (max-width: 40rem) { body { padding: 1.25rem .75rem; } section { padding: 1rem; } td.bar { display: none; }
                            thead th:empty, tfoot td:last-child { display: none; } th, td { padding: .42rem .4rem; } }
@media print { body { background: none; padding: 0; } section { break-inside: avoid; } }
"""


def tier_colours(tiers: Sequence[str], ranked: int) -> dict[str, str]:
    """Return a colour for each tier.

    Args:
        tiers: The first ``ranked`` of them from the most to the least interesting, then the others.
    """
    colours = {tier: _between(at / max(ranked - 1, 1)) for at, tier in enumerate(tiers[:ranked])}
    others = {tier: _UNRANKED[at % len(_UNRANKED)] for at, tier in enumerate(sorted(tiers[ranked:], reverse=True))}
    return colours | others


def _between(part: float) -> str:
    mixed = (round(dark + part * (light - dark)) for dark, light in zip(_DARKEST, _LIGHTEST, strict=True))
    return "#" + "".join(f"{channel:02x}" for channel in mixed)
