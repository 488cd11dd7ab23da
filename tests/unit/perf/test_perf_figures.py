"""Sizes, pairs, quartiles and what is told of them."""

from __future__ import annotations

import json
from xml.etree import ElementTree

import pytest

from micro.pairs import Spread, interleaved, percentile, ratios
from micro.plot import as_svg
from micro.report import as_json, as_table, cells, figure
from micro.row import Effort, Row, missing_row, row_of
from micro.sizes import messages_of, parse_size, parse_sizes, size_text, window_of


def a_row(*pairs: tuple[float, float], at_least: float | None = None, at_most: float | None = None) -> Row:
    return row_of("peer to peer", 10**6, 2, list(pairs) or [(9.0, 10.0)], at_least=at_least, at_most=at_most)


# ── sizes ────────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("text", "size_bytes"),
    [("100B", 100), ("100", 100), ("1KB", 1000), ("1 kb", 1000), ("2.5MB", 2_500_000), ("1GB", 10**9)],
)
def test_a_size_is_read_in_powers_of_ten(text: str, size_bytes: int) -> None:
    assert parse_size(text) == size_bytes


@pytest.mark.parametrize("text", ["", "MB", "1TB", "1KiB", "-1KB", "0B", "1KB2"])
def test_what_is_no_size_is_refused_by_name(text: str) -> None:
    with pytest.raises(ValueError, match=f"'{text}' is no size"):
        parse_size(text)


def test_sizes_are_separated_by_commas_and_are_told_as_they_were_given() -> None:
    assert [size_text(each) for each in parse_sizes("100B,1KB,2.5MB,10MB")] == ["100 B", "1 KB", "2.5 MB", "10 MB"]


def test_the_window_is_64_and_6_from_10_mb_on() -> None:
    assert [window_of(parse_size(each)) for each in ("1KB", "9MB", "10MB", "1GB")] == [64, 64, 6, 6]


def test_a_run_has_at_least_two_windows_of_messages_and_more_the_longer_it_takes() -> None:
    assert messages_of(10**7, 0.01) == 12
    assert messages_of(10**6, 1.0) == 4000
    assert messages_of(100, 2.0) == 200_000


# ── pairs ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_pairs_begin_with_the_limit_and_with_ours_in_turn() -> None:
    order: list[str] = []

    def run(name: str) -> str:
        order.append(name)
        return name

    results = interleaved(3, lambda: run("ours"), lambda: run("limit"))
    assert order == ["limit", "ours", "ours", "limit", "limit", "ours"]
    assert results == [("ours", "limit")] * 3


def test_a_spread_has_the_median_and_the_quartiles_whatever_the_order() -> None:
    assert Spread.of([5, 1, 4, 2, 3]) == Spread(3, 2, 4)


def test_one_value_is_its_own_quartiles() -> None:
    assert Spread.of([7.0]) == Spread(7.0, 7.0, 7.0)


def test_a_ratio_is_made_within_its_pair_and_not_of_the_medians() -> None:
    # The machine was ten times as fast in the last pair: the ratios tell the same as ever.
    assert ratios([(1, 2), (2, 4), (20, 40)]) == Spread(0.5, 0.5, 0.5)


def test_nothing_beside_a_limit_of_zero_is_told_as_zero() -> None:
    assert ratios([(1, 0)]).median == 0.0


def test_a_percentile_is_one_of_the_values() -> None:
    values = [float(each) for each in range(100, 0, -1)]
    assert (percentile(values, 0.5), percentile(values, 0.99), percentile([3.0], 0.99)) == (51.0, 100.0, 3.0)


# ── rows ─────────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_row_is_judged_by_the_median_of_its_ratio() -> None:
    assert a_row((8, 10), (9, 10), (10, 10), at_least=0.9).is_reached is True
    assert a_row((8, 10), (9, 10), (10, 10), at_least=0.91).is_reached is False
    assert a_row((13, 10), at_most=1.25).is_reached is False
    assert a_row((12, 10), at_most=1.25).is_reached is True


def test_a_row_of_which_nothing_is_asked_is_not_judged_and_neither_is_a_missing_one() -> None:
    assert a_row().is_reached is None
    assert missing_row("Ray", "not installed: ray").is_reached is None


def test_a_smoke_run_takes_the_first_of_the_usual_sizes_unless_others_are_asked_for() -> None:
    assert Effort().sizes_or(1, 2) == (1, 2)
    assert Effort(is_smoke=True).sizes_or(1, 2) == (1,)
    assert Effort(is_smoke=True, sizes=(3, 4), engines=(5,)).sizes_or(1, 2) == (3, 4)
    assert Effort(is_smoke=True, engines=(5,)).engines_or(1, 2) == (5,)


# ── what is told ─────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.1234, "0.123"), (12.34, "12.3"), (999.4, "999"), (1234.5, "1,230"), (123_456.0, "123,000"), (0.0, "0")],
)
def test_a_figure_has_three_digits(value: float, text: str) -> None:
    assert figure(value) == text


def test_a_line_of_the_table_has_a_cell_for_each_heading() -> None:
    table = as_table([a_row((8, 10), (9, 10), (10, 10), at_least=0.95), missing_row("Ray", "not installed: ray")])
    heading, rule, measured, missing = table.splitlines()
    assert heading.count("|") == rule.count("|") == measured.count("|") == missing.count("|")
    assert (
        "| peer to peer | 1 MB | 2 | tcp | 9 messages/s | 10 (raw TCP) | 0.90 | 0.85–0.95 | ≥ 0.95 | no |" in measured
    )
    assert "missing: not installed: ray" in missing


def test_further_figures_are_named_in_the_last_cell() -> None:
    row = row_of("latency", 1000, 1, [(2.0, 1.0)], unit="µs", at_most=2.0, more={"p99_us": 1234.0})
    assert cells(row)[-2:] == ("yes", "p99_us 1,230")


def test_the_document_has_the_facts_of_the_machine_and_four_digits_of_each_figure() -> None:
    document = json.loads(as_json("p2p", {"cpus": 2}, [a_row((1.0, 3.0), at_least=0.9)]))
    assert document["bench"] == "p2p"
    assert document["machine"] == {"cpus": 2}
    (row,) = document["rows"]
    assert row["ratio"] == {"median": 0.3333, "low_quartile": 0.3333, "high_quartile": 0.3333}
    assert (row["size_bytes"], row["at_least"], row["missing"]) == (10**6, 0.9, "")


def test_the_drawing_is_xml_with_a_bar_for_each_row_that_was_measured() -> None:
    rows = [a_row((19, 10), at_least=2.0), a_row((2000, 10)), missing_row("<Ray>", "gone")]
    drawing = ElementTree.fromstring(as_svg("ratio & limit", rows))
    bars = drawing.findall("{http://www.w3.org/2000/svg}rect")
    assert len(bars) == 2
    # The one far beyond the end is cut, so the other one can still be seen.
    assert float(bars[0].attrib["width"]) > 0.4 * float(bars[1].attrib["width"])
    assert "200.00" in [each.text for each in drawing.iter("{http://www.w3.org/2000/svg}text")]
