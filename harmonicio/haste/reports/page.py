"""The page of a report: one HTML file without scripts, fonts, images or styles from elsewhere.

    title
    key figures                    messages, MB, throughput, peer to peer, backlog, unscored
    per stream: tier table (the paper's Table 2) | feature, function and score (Figure 3) | examples per tier (Figure 4)
    why messages are unscored

Everything that came with the data is escaped; a policy in the page forbids the browser to load or run anything.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from harmonicio.haste.feature_db.base import FeatureRow
from harmonicio.haste.features import UNITS
from harmonicio.haste.reports import charts, summary
from harmonicio.haste.reports.markup import Child, Markup, element, join
from harmonicio.haste.reports.style import STYLE, tier_colours
from harmonicio.haste.reports.summary import MB, Hierarchy, Traffic

MAX_REASONS = 20
MAX_SHOWN_LENGTH = 200


@dataclass(frozen=True, slots=True)
class Example:
    """One example image: its row and its picture as a ``data:`` URI."""

    row: FeatureRow
    picture: str


@dataclass(frozen=True, slots=True)
class StreamSection:
    """One stream's part of the page; ``examples`` by tier, tiers without pictures left out."""

    hierarchy: Hierarchy
    rows: Sequence[FeatureRow]
    examples: Mapping[str, Sequence[Example]]


def page(title: str, sections: Sequence[StreamSection], traffic: Traffic | None, written_at: float) -> str:
    """Return the whole page.

    Args:
        written_at: Wall clock in seconds, for the page's head.
    """
    rows = [row for section in sections for row in section.rows]
    head = element(
        "head",
        element("meta", charset="utf-8"),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element(
            "meta",
            http_equiv="Content-Security-Policy",
            content="default-src 'none'; style-src 'unsafe-inline'; img-src data:",
        ),
        element("title", title),
        element("style", Markup(STYLE)),
    )
    written = datetime.fromtimestamp(written_at, UTC).strftime("%-d %B %Y, %H:%M UTC")
    body = element(
        "body",
        element("header", element("h1", title), element("p", f"Written {written}.", class_="quiet")),
        _key_figures(rows, traffic),
        [_section(section) for section in sections],
        _reasons(rows),
        _footer(),
    )
    return f"<!doctype html>\n{element('html', head, body, lang='en')}\n"


# ── parts of the page ────────────────────────────────────────────────────────────────────────────────────────────────


def _key_figures(rows: Sequence[FeatureRow], traffic: Traffic | None) -> Markup:
    unscored = sum(row.score is None for row in rows)
    figures = [
        ("messages", f"{len(rows):,}", ""),
        ("data", f"{_mb(sum(row.size_bytes for row in rows))} MB", ""),
        (
            "unscored",
            f"{unscored:,}",
            "without a score, kept with the reason" if unscored else "every message has a score",
        ),
    ]
    rate = summary.throughput(rows, traffic.duration_s if traffic else None)
    if rate is not None:
        note = f"{rate.messages_per_s:,.1f} messages/s over {rate.duration_s:,.1f}\N{NO-BREAK SPACE}s"
        figures.insert(2, ("throughput", f"{_mb(rate.mb_per_s * MB)} MB/s", note))
    if traffic is not None:
        figures.insert(-1, ("peer to peer", f"{traffic.peer_to_peer:,}", "straight from source to engine"))
        figures.insert(-1, ("by the backlog", f"{traffic.backlog:,}", "waited at the master"))
    cards = [
        element("div", element("dt", name), element("dd", value), element("p", note, class_="quiet"))
        for name, value, note in figures
    ]
    return element("dl", cards, class_="figures")


def _section(section: StreamSection) -> Markup:
    hierarchy, rows = section.hierarchy, section.rows
    tiers = hierarchy.tiers(rows)
    colours = tier_colours(tiers, len({tier for _, _, tier in hierarchy.intervals}))
    return element(
        "section",
        element("h2", "Stream ", element("em", hierarchy.stream)),
        element("p", hierarchy.function, class_="quiet") if hierarchy.function else "",
        _tier_table(rows, tiers, colours),
        _charts(hierarchy, rows, tiers, colours),
        _examples(section, tiers, colours),
    )


def _tier_table(rows: Sequence[FeatureRow], tiers: Iterable[str], colours: Mapping[str, str]) -> Markup:
    lines = summary.tier_lines(rows, tiers)
    total = len(rows)
    body = [
        element(
            "tr",
            element("th", _swatch(colours[line.tier]), line.tier, scope="row"),
            element("td", f"{line.messages:,}"),
            element("td", _mb(line.size_bytes)),
            element("td", f"{100 * line.messages / (total or 1):.1f} %"),
            element("td", _share_bar(line.messages / (total or 1), colours[line.tier]), class_="bar"),
        )
        for line in lines
    ]
    sum_line = element(
        "tr",
        element("th", "Total", scope="row"),
        element("td", f"{total:,}"),
        element("td", _mb(sum(line.size_bytes for line in lines))),
        element("td", ""),
        element("td", ""),
    )
    names = element("tr", [element("th", name, scope="col") for name in ("Tier", "Messages", "Data (MB)", "Share", "")])
    return element("table", element("thead", names), element("tbody", body), element("tfoot", sum_line))


def _charts(
    hierarchy: Hierarchy, rows: Sequence[FeatureRow], tiers: Sequence[str], colours: Mapping[str, str]
) -> Markup:
    found = [(tier, summary.points(rows, tier, hierarchy.feature)) for tier in reversed(tiers)]
    by_tier = {tier: points for tier, points in found if points}
    if not by_tier:
        return element("p", "No message of this stream has a score and this feature: there is nothing to draw.")
    features = [charts.Group(tier, colours[tier], [x for x, _ in points]) for tier, points in by_tier.items()]
    scores = [charts.Group(tier, colours[tier], [y for _, y in points]) for tier, points in by_tier.items()]
    points = [point for group in by_tier.values() for point in group]
    unit = UNITS.get(hierarchy.feature)
    label = hierarchy.feature.replace("_", " ") + (f" ({unit})" if unit else "")
    names = [tier for _, _, tier in hierarchy.intervals]
    edges = summary.feature_edges(points, hierarchy.edges)
    is_falling = edges != sorted(edges)
    return element(
        "div",
        _figure(
            charts.histogram(features, label, edges=sorted(edges), parts=names[::-1] if is_falling else names),
            "The feature: dashed lines stand where the scores cross the tier edges.",
        ),
        _figure(
            charts.curve(
                [(group, other.values) for group, other in zip(features, scores, strict=True)],
                label,
                horizontal_edges=hierarchy.edges,
            ),
            "The interestingness function, as it was applied; dashed lines are the edges between the tiers.",
        ),
        _figure(
            charts.histogram(scores, "score", bounds=(0.0, 1.0), edges=hierarchy.edges, parts=names),
            "The scores, with the edges between the tiers.",
        ),
        class_="charts",
    )


def _examples(section: StreamSection, tiers: Iterable[str], colours: Mapping[str, str]) -> Markup:
    shown = [
        element(
            "div",
            element("h3", _swatch(colours[tier]), "Tier ", tier),
            element("div", [_example(example) for example in section.examples[tier]], class_="examples"),
            class_="tier",
        )
        for tier in tiers
        if section.examples.get(tier)
    ]
    if not shown:
        return join(())
    note = (
        "Spread over the scores of each tier, the highest first. The contrast of each picture is stretched by itself."
    )
    return join((element("h3", "Examples", class_="examples-title"), element("p", note, class_="quiet"), shown))


def _example(example: Example) -> Markup:
    row = example.row
    name = _short(row.message_id)
    score = "unscored" if row.score is None else f"score {row.score:.3f}"
    caption = element("figcaption", element("b", score), element("span", name, title=row.message_id))
    return element("figure", element("img", src=example.picture, alt=f"{name}, {score}"), caption)


def _reasons(rows: Sequence[FeatureRow]) -> Markup:
    found = summary.reasons(rows)
    if not found:
        return join(())
    lines = [
        element(
            "tr",
            element("td", f"{len(group):,}"),
            element("td", _short(reason)),
            element("td", _short(group[0].message_id), " of ", group[0].stream),
        )
        for reason, group in found[:MAX_REASONS]
    ]
    left = len(found) - MAX_REASONS
    names = element("tr", [element("th", name, scope="col") for name in ("Messages", "Reason", "For example")])
    return element(
        "section",
        element("h2", "Why messages are unscored"),
        element("table", element("thead", names), element("tbody", lines), class_="reasons"),
        element("p", f"{left} more reasons stand in rows.csv.", class_="quiet") if left > 0 else "",
    )


def _footer() -> Markup:
    text = (
        "Features, function, score, policy and tier as in Blamey et al., Rapid development of cloud-native intelligent "
        "data pipelines for scientific data streams using the HASTE Toolkit (2021). 1 MB is 1,000,000 bytes. "
        "The tables behind this page are rows.csv and tiers.csv beside it."
    )
    return element("footer", element("p", text, class_="quiet"))


# ── small things ─────────────────────────────────────────────────────────────────────────────────────────────────────


def _figure(chart: Markup, caption: Child) -> Markup:
    return element("figure", chart, element("figcaption", caption))


def _swatch(colour: str) -> Markup:
    return element("span", "", class_="swatch", style=f"background:{colour}")


def _share_bar(share: float, colour: str) -> Markup:
    return element("span", "", class_="share", style=f"width:{100 * share:.4g}%;background:{colour}")


def _mb(size_bytes: float) -> str:
    mb = size_bytes / MB
    return f"{mb:,.0f}" if mb >= 1000 else f"{mb:,.1f}" if mb >= 1 else f"{mb:.3f}"


def _short(text: str) -> str:
    return text if len(text) <= MAX_SHOWN_LENGTH else text[: MAX_SHOWN_LENGTH - 1] + "…"
