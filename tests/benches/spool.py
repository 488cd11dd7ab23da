"""Spools on a real disk that end with their test."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from harmonicio.stream_connector.sources import read_whole
from harmonicio.stream_connector.spool.records import Draft, Record
from harmonicio.stream_connector.spool.spool import Entry, Spool

_made: list[Spool] = []


def close_all() -> None:
    """Close what :func:`spool_at` has made since."""
    while _made:
        _made.pop().close()


def spool_at(folder: Path, *, stream: str = "images", max_bytes: int = 10**9, is_synced: bool = False) -> Spool:
    """Return a spool that :func:`close_all` closes."""
    _made.append(Spool(folder, stream, max_bytes=max_bytes, is_synced=is_synced))
    return _made[-1]


def put(spool: Spool, name: str, payload: bytes) -> Entry:
    record = Record(name, 3, b"section", len(payload))
    draft = Draft(record, payload)
    assert spool.reserve(draft)
    return spool.keep(record, draft)


def content(entries: Sequence[Entry]) -> dict[str, bytes]:
    return {each.record.message_id: bytes(read_whole(each.payload.reader())) for each in entries}


def segments(spool: Spool) -> list[Path]:
    return sorted(spool.folder.glob("*.segment"))


def aside(spool: Spool) -> str:
    return "".join(each.read_text() for each in sorted((spool.folder / "aside").glob("*.txt")))
