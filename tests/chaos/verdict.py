"""The verdict: gives the auditor what was seen from outside, and says whether the ledger is clean.

Where a message is in the end:

    dead        a row of the backlog's index with a failure
    waiting     one without
    shed        a record of that
    processed   a feature row, or a row among the finished, or its source was told `done` by an engine; of a message
                that came out of a spool, whose source was told nothing, also: its handler returned

What each source has sent into an ordered stream must have been handled in that order. A source that was killed sends
first what it had not heard to be safe, so that is the order of its numbers.

A message that a handler emitted counts as safe when the one that it was emitted for is processed.

Read from the journals, from the files of the tiers, and from the master's SQLite files once the master has ended.
"""

from __future__ import annotations

import sqlite3
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from urllib.parse import unquote

from benches.auditor import DEAD, PROCESSED, SHED, WAITING, Auditor
from chaos import journals
from chaos.load import PLATES, STEPS, STREAMS, digest_of, emitted


class Books:
    """All that a run has left in its folder, by stream."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.auditors = {each: Auditor(has_effects=each == PLATES) for each in STREAMS}
        self.violations: list[str] = []
        self._streams: dict[str, str] = {}
        self._done: dict[str, set[str]] = {each: set() for each in STREAMS}
        self._emitting: list[str] = []
        self._kept: set[str] = set()
        self._in_backlog: set[str] = set()
        self.ends: Counter[str] = Counter()

    def read(self) -> None:
        for path in sorted(self._folder.glob("source-*.jsonl")):
            self._read_source(path)
        returned = self._read_handlers()
        for stream, message, digest in self._copies():
            self.auditors[stream].effect(message, digest)
        self._read_tables()
        for message in self._kept & returned - self._in_backlog:
            if self._streams[message] != PLATES:  # Of those a feature row tells it.
                self._done[self._streams[message]].add(message)
        for parent in set().union(*self._done.values()).intersection(self._emitting):
            self.auditors[PLATES].told_safe(emitted(parent)[0], "emitted")
        for stream, messages in self._done.items():
            for message in messages:
                self.auditors[stream].found(message, PROCESSED)

    def _of(self, message: str) -> Auditor:
        return self.auditors[self._streams.get(message, PLATES)]

    def _read_source(self, path: Path) -> None:
        steps: dict[str, int] = {}
        for line in journals.read(path):
            if "sent" in line:
                self._streams[line["sent"]] = line["stream"]
                self._of(line["sent"]).sent(line["sent"], line["digest"])
                if line["stream"] == STEPS:
                    steps[line["sent"]] = line["number"]
                if line["emits"]:
                    self._expect_emitted(line["sent"])
            elif "kept" in line:
                self._kept.add(line["kept"])
                self._of(line["kept"]).told_safe(line["kept"], "spooled")
            elif "safe" in line:
                message, how = line["safe"], line["how"]
                self._of(message).told_safe(message, how)
                if how == "done":
                    self._done[self._streams[message]].add(message)
            else:
                self._read_end(line["end"], line["state"], line["text"])
        self.auditors[STEPS].in_order(sorted(steps, key=steps.__getitem__))

    def _read_handlers(self) -> set[str]:
        """Return the messages whose handler came to its end at least once."""
        returned = set()
        for line in journals.read(self._folder / "handled.jsonl"):
            if "handled" in line:
                self._of(line["handled"]).executed(line["handled"], line["digest"])
            else:
                returned.add(line["returned"])
        return returned

    def _expect_emitted(self, parent: str) -> None:
        message, payload = emitted(parent)
        self._emitting.append(parent)
        self._streams[message] = PLATES
        self.auditors[PLATES].sent(message, digest_of(payload))

    def _read_end(self, message: str, state: str, text: str) -> None:
        self.ends[state] += 1
        if state in (PROCESSED, DEAD, SHED):
            self._of(message).told_end(message, state)
        else:
            self.violations.append(f"the source of message {message!r} was told that it is {state}: {text}")

    def _copies(self) -> Iterator[tuple[str, str, str]]:
        """Yield stream, message and digest of every file in the tiers; drafts of killed engines are no copies."""
        for path in sorted((self._folder / "tiers").glob("*/*/*")):
            if not path.name.startswith(".draft-"):
                yield path.parent.name, unquote(path.name.partition("~")[0]), digest_of(path.read_bytes())

    def _read_tables(self) -> None:
        master = self._folder / "home" / "master"
        (index,) = (master / "backlog").glob("*.sqlite")
        for stream, message, is_dead in _rows(index, "SELECT stream, message_id, failure IS NOT NULL FROM entries"):
            self.auditors[stream].found(message, DEAD if is_dead else WAITING)
            self._in_backlog.add(message)
        for stream, message in _rows(index, "SELECT stream, message_id FROM shed"):
            self.auditors[stream].found(message, SHED)
            self._in_backlog.add(message)
        for stream, message in _rows(index, "SELECT stream, message_id FROM finished WHERE NOT is_shed"):
            self._done[stream].add(message)
        rows = _rows(master / "features.sqlite", "SELECT stream, message_id FROM feature_rows")
        counted = Counter((stream, message) for stream, message in rows)
        for (stream, message), count in counted.items():
            self._done[stream].add(message)
            if count > 1:
                self.violations.append(f"message {message!r} has {count} feature rows")

    def all_violations(self) -> list[str]:
        return self.violations + [
            f"{stream}: {text}" for stream, auditor in self.auditors.items() for text in auditor.violations()
        ]

    def figures(self) -> Counter[str]:
        """Return the figures of all streams together."""
        return sum((Counter(each.figures()) for each in self.auditors.values()), Counter())


def _rows(path: Path, query: str) -> list[tuple[object, ...]]:
    with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as connection:
        return connection.execute(query).fetchall()
