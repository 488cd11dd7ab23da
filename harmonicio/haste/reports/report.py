"""Writes a report: reads example payloads from their tiers, and leaves three files in a folder.

The folder's files are replaced one by one, each as a whole, so that nobody opens half a page.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from harmonicio.core.errors import HarmonicIOError, StorageError
from harmonicio.haste.feature_db.base import FeatureRow
from harmonicio.haste.features.images import decode
from harmonicio.haste.reports import summary, tables
from harmonicio.haste.reports.page import Example, StreamSection, page
from harmonicio.haste.reports.summary import Hierarchy, Traffic
from harmonicio.haste.reports.thumbnails import thumbnail

_log = logging.getLogger(__name__)

#: Larger payloads are not read for the sake of a thumbnail.
MAX_EXAMPLE_BYTES = 128 * 1024**2
#: How many payloads of a tier are tried for each picture wanted, where some are no images.
TRIES_PER_EXAMPLE = 2

#: Returns a row's payload from its tier.
PayloadReader = Callable[[FeatureRow], bytes]


@dataclass(frozen=True, slots=True)
class ReportOptions:
    """What goes into a report besides the rows.

    Attributes:
        written_at: Wall clock in seconds.
        hierarchies: By stream; one that is missing is drawn without edges, one that names no feature over the first.
        traffic: Routes and duration, where they are known.
        read_payload: Reads examples; without it, the page has no pictures.
        examples_per_tier: Pictures for each tier of each stream.
    """

    written_at: float
    title: str = "HarmonicIO report"
    hierarchies: Mapping[str, Hierarchy] = field(default_factory=dict)
    traffic: Traffic | None = None
    read_payload: PayloadReader | None = None
    examples_per_tier: int = 7


@dataclass(frozen=True, slots=True)
class ReportFiles:
    """Where the report is."""

    page: Path
    rows: Path
    tiers: Path


def write_report(rows: Iterable[FeatureRow], folder: Path, options: ReportOptions) -> ReportFiles:
    """Write ``report.html``, ``rows.csv`` and ``tiers.csv`` into a folder, which is made where it is missing.

    Raises:
        StorageError: the folder cannot be written.
    """
    ordered = sorted(rows, key=lambda row: (row.stream, row.processed_at, row.message_id))
    sections = [_section(stream, group, options) for stream, group in _by_stream(ordered).items()]
    files = ReportFiles(folder / "report.html", folder / "rows.csv", folder / "tiers.csv")
    lines = {
        section.hierarchy.stream: summary.tier_lines(section.rows, section.hierarchy.tiers(section.rows))
        for section in sections
    }
    text = page(options.title, sections, options.traffic, options.written_at)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _replace(files.rows, lambda part: tables.write_rows(part, ordered))
        _replace(files.tiers, lambda part: tables.write_tiers(part, lines))
        _replace(files.page, lambda part: _write_text(part, text))
    except OSError as error:
        raise StorageError(f"The report cannot be written to {folder}: {error.strerror}.") from error
    return files


def _by_stream(rows: Iterable[FeatureRow]) -> dict[str, list[FeatureRow]]:
    streams: dict[str, list[FeatureRow]] = {}
    for row in rows:
        streams.setdefault(row.stream, []).append(row)
    return streams


def _section(stream: str, rows: Sequence[FeatureRow], options: ReportOptions) -> StreamSection:
    hierarchy = options.hierarchies.get(stream, Hierarchy(stream, ""))
    if not hierarchy.feature:
        hierarchy = replace(hierarchy, feature=_first_feature(rows))
    examples = {tier: _examples([row for row in rows if row.tier == tier], options) for tier in hierarchy.tiers(rows)}
    return StreamSection(hierarchy, rows, {tier: found for tier, found in examples.items() if found})


def _first_feature(rows: Iterable[FeatureRow]) -> str:
    return next((name for row in rows for name in row.features), "")


def _examples(rows: Sequence[FeatureRow], options: ReportOptions) -> list[Example]:
    if options.read_payload is None:
        return []
    found: list[Example] = []
    for row in summary.examples(rows, options.examples_per_tier * TRIES_PER_EXAMPLE):
        picture = _picture(row, options.read_payload) if row.size_bytes <= MAX_EXAMPLE_BYTES else None
        if picture is not None:
            found.append(Example(row, picture))
    return summary.spread(found, options.examples_per_tier)


def _picture(row: FeatureRow, read_payload: PayloadReader) -> str | None:
    """Return a thumbnail of a row's payload; ``None`` where it is kept nowhere or is no image."""
    try:
        return thumbnail(decode(read_payload(row), row.metadata))
    except HarmonicIOError as error:
        _log.debug("There is no thumbnail of %s: %s", row.message_id, error)
        return None


def _replace(file: Path, write: Callable[[Path], None]) -> None:
    part = file.with_name(f".{file.name}.part")
    write(part)
    part.replace(file)


def _write_text(file: Path, text: str) -> None:
    file.write_bytes(text.encode("utf-8", "backslashreplace"))
