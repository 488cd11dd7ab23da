"""What every feature database must do: inherit :class:`FeatureDatabaseSuite` and say how to open one.

class TestMyDatabase(FeatureDatabaseSuite):
    def open(self, folder: Path) -> FeatureDatabase: ...
"""

from __future__ import annotations

import dataclasses
import threading
from abc import ABC, abstractmethod
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from harmonicio.core.errors import Conflict, InvalidInput
from harmonicio.haste.feature_db.base import FeatureDatabase, FeatureRow, RowFilter

STREAM = "plates"
SCORES = (None, 0.0, 0.25, 0.5, 0.75, 1.0)
#: Names and values that metadata may hold, those included that a query language could trip over.
METADATA: dict[str, Any] = {
    "well": "B03",
    'quoted "name"': "it's",
    "dotted.name": 1,
    "plåne": "ü",
    "a b": 2.5,
    "is_good": True,
    "is_bad": False,
    "nothing": None,
    "beyond 64 bits": 2**70,
    "%": "100%",
}

NESTED: dict[str, Any] = {}
NESTED["itself"] = NESTED


def row(number: int, **more: Any) -> FeatureRow:
    """Return a row with the id ``m<number>``."""
    given: dict[str, Any] = {
        "stream": STREAM,
        "message_id": f"m{number}",
        "digest": f"{number:032x}",
        "size_bytes": 1000 + number,
        "tier": "A",
        "location": f"plates/m{number}",
        "features": {"sharpness": number / 7, "unknown": None},
        "score": 0.5,
        "metadata": {"number": number},
        "processed_at": 1_800_000_000.25,
        "route": "backlog",
        "image": "sha256:1",
        "emitted": 2,
    }
    return FeatureRow(**(given | more))


class FeatureDatabaseSuite(ABC):
    """The contract of :class:`~harmonicio.haste.feature_db.base.FeatureDatabase`; all rows are of one stream."""

    @abstractmethod
    def open(self, folder: Path) -> FeatureDatabase:
        """Return an empty database, which may keep what it has in ``folder``."""

    @pytest.fixture
    def database(self, tmp_path: Path) -> Iterator[FeatureDatabase]:
        database = self.open(tmp_path)
        yield database
        database.close()
        database.close()

    def test_a_row_is_read_as_it_was_committed(self, database: FeatureDatabase) -> None:
        full = row(
            1,
            attempt=3,
            reason="because",
            metadata=METADATA | {"deep": {"list": [1, "two", None]}},
            function="logistic k=4.5",
            policy_version="interval-1",
            stream_version=7,
            engine="e1",
        )
        assert database.commit(full) == full
        assert list(database.rows(RowFilter(STREAM))) == [full]

    def test_the_first_row_of_a_message_wins(self, database: FeatureDatabase) -> None:
        first = row(1)
        assert database.commit(first) == first
        assert database.commit(dataclasses.replace(first, tier="B", location="elsewhere", attempt=2)) == first
        assert database.count(RowFilter(STREAM)) == 1

    def test_a_commit_that_is_repeated_changes_nothing(self, database: FeatureDatabase) -> None:
        assert [database.commit(row(1)) for _ in range(2)] == [row(1), row(1)]
        assert database.count(RowFilter(STREAM)) == 1

    def test_the_same_id_with_other_bytes_is_a_conflict_and_changes_nothing(self, database: FeatureDatabase) -> None:
        database.commit(row(1))
        with pytest.raises(Conflict, match="other bytes"):
            database.commit(row(1, digest="f" * 32))
        assert list(database.rows(RowFilter(STREAM))) == [row(1)]

    def test_rows_that_are_committed_together_each_get_the_row_that_counts(self, database: FeatureDatabase) -> None:
        database.commit(row(1))
        later = [row(0), row(1, tier="B"), row(2), row(2, tier="B")]
        assert database.commit_many(later) == [row(0), row(1), row(2), row(2)]
        assert [each.message_id for each in database.rows(RowFilter(STREAM))] == ["m1", "m0", "m2"]

    def test_a_row_that_cannot_be_kept_hinders_no_other(self, database: FeatureDatabase) -> None:
        first, refusal, second = database.commit_many([row(1), row(3, score="high"), row(2)])
        assert [first, second] == list(database.rows(RowFilter(STREAM))) == [row(1), row(2)]
        assert isinstance(refusal, InvalidInput)

    def test_of_many_threads_that_commit_the_same_message_all_hear_of_one(self, database: FeatureDatabase) -> None:
        answers = []
        start = threading.Barrier(8)

        def commit(attempt: int) -> None:
            start.wait()
            for number in range(5):
                answers.append(database.commit(row(number, attempt=attempt)))

        threads = [threading.Thread(target=commit, args=(attempt,)) for attempt in range(1, 9)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(answers) == 8 * 5
        recorded = {each.message_id: each for each in database.rows(RowFilter(STREAM))}
        assert len(recorded) == 5
        assert all(recorded[answer.message_id] == answer for answer in answers)

    @pytest.mark.parametrize(
        "wanted",
        [
            RowFilter(STREAM),
            RowFilter(STREAM, message_id="m3"),
            RowFilter(STREAM, message_id="m99"),
            RowFilter(STREAM, tier="B"),
            RowFilter(STREAM, min_score=0.25),
            RowFilter(STREAM, max_score=0.5),
            RowFilter(STREAM, min_score=0.25, max_score=0.75, tier="A"),
            RowFilter(STREAM, min_score=0.0),
            RowFilter(STREAM, metadata={"well": "B03"}),
            RowFilter(STREAM, min_score=0.5, metadata={"well": "B03", "number": 4}),
            RowFilter("spectra"),
        ],
        ids=repr,
    )
    def test_a_filter_finds_exactly_the_rows_that_match(self, database: FeatureDatabase, wanted: RowFilter) -> None:
        rows = [
            row(number, score=score, tier="AB"[number % 2], metadata={"number": number, "well": f"B0{number % 3 + 2}"})
            for number, score in enumerate(SCORES)
        ]
        database.commit_many(rows)
        expected = [each for each in rows if wanted.matches(each)]
        assert list(database.rows(wanted)) == expected
        assert database.count(wanted) == len(expected)

    @pytest.mark.parametrize("name", METADATA)
    def test_every_name_and_value_of_metadata_can_be_asked_for(self, database: FeatureDatabase, name: str) -> None:
        database.commit_many([row(1, metadata=METADATA), row(2, metadata={name: "something else"})])
        found = database.rows(RowFilter(STREAM, metadata={name: METADATA[name]}))
        assert [each.message_id for each in found] == ["m1"]

    def test_rows_beyond_a_page_come_in_the_order_of_their_commit(self, database: FeatureDatabase) -> None:
        rows = [row(number) for number in range(1_203)]
        for at in range(0, len(rows), 200):
            database.commit_many(rows[at : at + 200])
        assert [each.message_id for each in database.rows(RowFilter(STREAM))] == [each.message_id for each in rows]

    def test_what_json_cannot_say_is_kept_as_near_as_it_can(self, database: FeatureDatabase) -> None:
        odd = {
            "bytes": b"\x01\xff",
            "nan": float("nan"),
            "tuple": (1, 2),
            "half": "\ud800",
            5: "five",
            "huge": 10**5000,
            "float32": np.float32(0.5),
            "int16": np.int16(-3),
        }
        kept = database.commit(row(1, metadata=odd, reason="\udcff"))
        assert kept.metadata == {"bytes": "01ff", "nan": None, "tuple": [1, 2], "half": "\\ud800", "5": "five"} | {
            "huge": None,
            "float32": 0.5,
            "int16": -3,
        }
        assert kept.reason == "\\udcff"
        assert list(database.rows(RowFilter(STREAM))) == [kept]

    @pytest.mark.parametrize(
        "bad",
        [
            {"stream": "../plates"},
            {"message_id": ""},
            {"message_id": "x" * 201},
            {"score": "high"},
            {"features": {"sharpness": "high"}},
            {"features": {str(number): 1.0 for number in range(5_000)}},
            {"size_bytes": -1},
            {"metadata": [1]},
            {"metadata": NESTED},
        ],
        ids=lambda bad: next(iter(bad)),
    )
    def test_a_row_that_cannot_be_kept_is_refused(self, database: FeatureDatabase, bad: dict[str, Any]) -> None:
        with pytest.raises(InvalidInput):
            database.commit(row(1, **bad))
        assert database.count(RowFilter(STREAM)) == 0
