"""Reports: what the tables count, what the page shows, and that nothing that came with the data can act in it."""

from __future__ import annotations

import csv
import io
import math
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from numpy.typing import NDArray

from harmonicio.core.errors import InvalidInput, StorageError
from harmonicio.haste.feature_db.base import FeatureRow
from harmonicio.haste.reports.report import ReportOptions, write_report
from harmonicio.haste.reports.summary import Hierarchy, Traffic
from harmonicio.haste.reports.thumbnails import thumbnail

INTERVALS = ((0.0, 0.25, "D"), (0.25, 0.5, "C"), (0.5, 0.75, "B"), (0.75, 1.0, "A"))
PLATES = Hierarchy("plates", "focus", INTERVALS, "logistic of focus, k = 4.5, x0 = -1.4")
SEVERAL = 40


def row(number: int, score: float | None, tier: str, **more: object) -> FeatureRow:
    given: dict[str, object] = {
        "stream": "plates",
        "message_id": f"m{number:02d}",
        "digest": f"{number:032x}",
        "size_bytes": 2_000_000,
        "tier": tier,
        "location": f"plates/m{number:02d}",
        "features": {} if score is None else {"focus": 2 * score - 3},
        "score": score,
        "processed_at": 1_800_000_000.0 + number / 10,
    }
    return FeatureRow(**(given | more))  # type: ignore[arg-type]


def sorted_rows() -> list[FeatureRow]:
    scores = [(number + 0.5) / SEVERAL for number in range(SEVERAL)]
    return [row(number, score, "DCBA"[int(score * 4)]) for number, score in enumerate(scores)]


def tiff(seed: int) -> bytes:
    encoded = io.BytesIO()
    tifffile.imwrite(encoded, np.random.default_rng(seed).integers(0, 4000, (300, 400)).astype(np.uint16))
    return encoded.getvalue()


def options(**more: object) -> ReportOptions:
    return ReportOptions(**({"written_at": 1_800_000_000.0, "hierarchies": {"plates": PLATES}} | more))  # type: ignore[arg-type]


class Page(HTMLParser):
    """Collects what a browser would act on, and checks that every element that is opened is closed."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self._open: list[str] = []
        self.feed(text)
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in ("meta", "img"):
            self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words.append(data)

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]

    @property
    def text(self) -> str:
        return " ".join(self.words)


def read_csv(file: Path) -> list[dict[str, str]]:
    with file.open(newline="") as opened:
        return list(csv.DictReader(opened))


def test_the_rows_file_has_one_line_per_message_with_its_features_and_metadata(tmp_path: Path) -> None:
    rows = [*sorted_rows(), row(99, None, "unscored", reason="no cell", metadata={"well": "B03", "deep": [1, 2]})]
    lines = read_csv(write_report(rows, tmp_path, options()).rows)
    assert len(lines) == len(rows)
    assert float(lines[0]["feature.focus"]) == pytest.approx(-2.975)
    assert lines[-1]["metadata.well"] == "B03"
    assert lines[-1]["metadata.deep"] == "[1, 2]"
    assert (lines[-1]["score"], lines[-1]["reason"]) == ("", "no cell")


def test_the_tier_table_counts_messages_and_megabytes_of_every_tier(tmp_path: Path) -> None:
    lines = read_csv(write_report([*sorted_rows(), row(99, None, "unscored")], tmp_path, options()).tiers)
    assert [(line["tier"], line["messages"], line["size_mb"]) for line in lines] == [
        *((tier, "10", "20.0") for tier in "ABCD"),
        ("unscored", "1", "2.0"),
    ]
    assert sum(float(line["share"]) for line in lines) == pytest.approx(1)


def test_a_tier_without_messages_keeps_its_line(tmp_path: Path) -> None:
    lines = read_csv(write_report(sorted_rows()[:5], tmp_path, options()).tiers)
    assert [line["messages"] for line in lines] == ["0", "0", "0", "5"]


def test_the_page_needs_nothing_but_itself_and_runs_nothing(tmp_path: Path) -> None:
    text = write_report(sorted_rows(), tmp_path, options(read_payload=lambda each: tiff(1))).page.read_text()
    page = Page(text)
    assert not {"script", "link", "iframe", "object", "form", "a"} & {tag for tag, _ in page.tags}
    assert not re.search(r"https?:|url\(|@import", text)
    assert all((image["src"] or "").startswith("data:image/png;base64,") for image in page.all("img"))
    assert any("default-src 'none'" in (meta.get("content") or "") for meta in page.all("meta"))


def test_the_page_shows_both_histograms_with_the_edges_of_the_tiers(tmp_path: Path) -> None:
    page = Page(write_report(sorted_rows(), tmp_path, options()).page.read_text())
    charts = [str(chart["aria-label"]) for chart in page.all("svg")]
    assert charts[0] == "Histogram of focus: 40 values from -2.975 to -1.025."
    assert charts[2] == "Histogram of score: 40 values from 0.0125 to 0.9875."
    assert [word for word in page.words if word.startswith("edge at")] == [
        *(f"edge at {2 * edge - 3:.4g}" for edge in (0.25, 0.5, 0.75)),
        *(f"edge at {edge:.4g}" for edge in 2 * (0.25, 0.5, 0.75)),
    ]
    assert page.words.count("A") >= 2


def test_the_bars_of_a_histogram_hold_every_message_once(tmp_path: Path) -> None:
    page = Page(write_report(sorted_rows(), tmp_path, options()).page.read_text())
    bars = [re.fullmatch(r"[A-D]: (\d+) from .*", word) for word in page.words]
    assert sum(int(bar[1]) for bar in bars if bar) == 2 * SEVERAL


def test_the_page_shows_routes_and_throughput_as_measured(tmp_path: Path) -> None:
    page = Page(write_report(sorted_rows(), tmp_path, options(traffic=Traffic(31, 9, 8.0))).page.read_text())
    for figure in ("31", "9", "10.0 MB/s", "5.0 messages/s over 8.0\xa0s"):
        assert figure in page.words


def test_without_a_measured_duration_the_rows_tell_the_throughput(tmp_path: Path) -> None:
    page = Page(write_report(sorted_rows(), tmp_path, options()).page.read_text())
    assert "20.0 MB/s" in page.words
    assert "10.0 messages/s over 3.9\xa0s" in page.words


def test_examples_of_each_tier_are_spread_over_its_scores(tmp_path: Path) -> None:
    given = options(read_payload=lambda each: tiff(1), examples_per_tier=3)
    page = Page(write_report(sorted_rows(), tmp_path, given).page.read_text())
    shown = [image["alt"] for image in page.all("img")]
    assert len(shown) == 3 * 4
    assert shown[0] == "m39, score 0.988"
    assert shown[2] == "m30, score 0.762"


def test_payloads_that_are_gone_or_no_images_have_no_picture(tmp_path: Path) -> None:
    def read(each: FeatureRow) -> bytes:
        if each.tier == "A":
            raise StorageError("gone")
        return b"<xml/>" if each.tier == "B" else tiff(1)

    page = Page(write_report(sorted_rows(), tmp_path, options(read_payload=read)).page.read_text())
    assert {str(image["alt"])[:2] for image in page.all("img")} == {"m0", "m1"}


HOSTILE = '"><script>alert(1)</script><img src=x onerror=alert(2)>&\x00'


def test_hostile_names_are_shown_and_never_act(tmp_path: Path) -> None:
    rows = [
        row(1, 0.9, "A", message_id=HOSTILE, metadata={HOSTILE: HOSTILE}, features={HOSTILE: 1.0}),
        row(2, None, HOSTILE, reason=HOSTILE),
    ]
    given = options(title=HOSTILE, hierarchies={"plates": Hierarchy("plates", HOSTILE, INTERVALS, HOSTILE)})
    page = Page(write_report(rows, tmp_path, given).page.read_text())
    assert "script" not in {tag for tag, _ in page.tags}
    assert not [attributes for _, attributes in page.tags if any(key.startswith("on") for key in attributes)]
    assert "<script>alert(1)</script>" in page.text
    assert "\x00" not in page.text


def test_text_that_a_spreadsheet_would_run_is_quoted(tmp_path: Path) -> None:
    lines = read_csv(write_report([row(1, 0.9, "A", message_id="=HYPERLINK(0)")], tmp_path, options()).rows)
    assert lines[0]["message_id"] == "'=HYPERLINK(0)"
    assert lines[0]["feature.focus"] == "-1.2"


def test_unscored_messages_are_listed_by_their_reason(tmp_path: Path) -> None:
    rows = [row(number, None, "unscored", reason="no cell" if number < 3 else "too dark") for number in range(4)]
    page = Page(write_report(rows, tmp_path, options()).page.read_text())
    assert page.words.index("no cell") < page.words.index("too dark")


def test_a_stream_that_nobody_described_is_drawn_over_its_first_feature(tmp_path: Path) -> None:
    page = Page(write_report(sorted_rows(), tmp_path, options(hierarchies={})).page.read_text())
    assert "Histogram of focus" in str(page.all("svg")[0]["aria-label"])


def test_a_report_without_rows_is_a_page_all_the_same(tmp_path: Path) -> None:
    files = write_report([], tmp_path / "new" / "folder", options())
    assert "0" in Page(files.page.read_text()).words
    assert read_csv(files.rows) == read_csv(files.tiers) == []


def test_messages_that_all_have_the_same_score_are_drawn(tmp_path: Path) -> None:
    page = Page(write_report([row(1, 1.0, "A"), row(2, 1.0, "A")], tmp_path, options()).page.read_text())
    assert len(page.all("svg")) == 3


def test_a_folder_that_cannot_be_written_is_a_storage_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(StorageError, match="cannot be written"):
        write_report(sorted_rows(), tmp_path / "file" / "report", options())


def test_a_report_replaces_the_one_before_and_leaves_nothing_else(tmp_path: Path) -> None:
    for rows in (sorted_rows(), sorted_rows()[:3]):
        files = write_report(rows, tmp_path, options())
    assert len(read_csv(files.rows)) == 3
    assert sorted(each.name for each in tmp_path.iterdir()) == ["report.html", "rows.csv", "tiers.csv"]


@pytest.mark.parametrize("shape", [(5, 4), (1, 900), (700, 300), (200, 300, 3), (64, 64, 4), (64, 64, 2)], ids=str)
def test_a_thumbnail_is_a_small_png_of_any_image(shape: tuple[int, ...]) -> None:
    image = np.arange(math.prod(shape), dtype=np.float32).reshape(shape)
    assert thumbnail(image).startswith("data:image/png;base64,iVBOR")


@pytest.mark.parametrize("image", [np.full((8, 8), np.nan), np.full((8, 8), 1 + 1j)], ids=["nothing finite", "complex"])
def test_there_is_no_thumbnail_of_what_has_no_grey(image: NDArray[Any]) -> None:
    with pytest.raises(InvalidInput, match="There is no thumbnail"):
        thumbnail(image)


def test_routes_are_counted_from_the_rows_that_name_one() -> None:
    rows = [row(number, 0.5, "A", route=route) for number, route in enumerate(("engine", "backlog", "engine", ""))]
    assert Traffic.of(rows) == Traffic(peer_to_peer=2, backlog=1)
