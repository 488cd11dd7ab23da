"""What the master answers about feature rows, also to others than our own database."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from benches.feature_routes import Routes
from harmonicio.control.caller import READ_TIMEOUT_S
from harmonicio.core.errors import Conflict, InvalidInput, StorageError, Unavailable
from harmonicio.haste import master_extension
from harmonicio.haste.feature_db.base import Answer, FeatureRow, as_plain
from harmonicio.haste.feature_db.master import MasterFeatureDatabase
from harmonicio.haste.feature_db.sqlite import SqliteFeatureDatabase
from harmonicio.haste.master_extension import FILE_NAME, MAX_COMMITS, HasteExtension, create
from harmonicio.master.service import FREE_THREADS
from harmonicio.testing.feature_db_suite import STREAM, row
from harmonicio.testing.waiting import wait_until


@pytest.fixture
def routes(tmp_path: Path) -> Any:
    routes = Routes(create(tmp_path))
    yield routes
    routes.close()


def test_a_row_that_cannot_be_kept_hinders_no_other(routes: Routes) -> None:
    spoilt = [as_plain(row(1)), {"stream": STREAM}, as_plain(row(2, stream="spectra")), as_plain(row(3)), 7]
    answer = routes.post_feature_rows(STREAM, spoilt)["rows"]
    assert ["row" in each for each in answer] == [True, False, False, True, False]
    assert "not of stream 'plates'" in answer[2]["invalid"]
    assert [each["row"]["message_id"] for each in routes.feature_rows(STREAM)["rows"]] == ["m1", "m3"]


def test_other_bytes_are_answered_with_the_row_that_counts(routes: Routes) -> None:
    routes.post_feature_rows(STREAM, [as_plain(row(1))])
    answer = routes.post_feature_rows(STREAM, [as_plain(row(1, digest="f" * 32))])["rows"]
    assert answer[0]["row"]["digest"] == row(1).digest
    with pytest.raises(Conflict):
        MasterFeatureDatabase(routes).commit(row(1, digest="f" * 32))


def test_a_person_may_ask_with_plain_text(routes: Routes) -> None:
    routes.post_feature_rows(STREAM, [as_plain(row(1, metadata={"well": "B03", "sigma": 1.5}, score=0.9))])
    asked = {"min_score": 0.8, "metadata.well": "B03", "metadata.sigma": "1.5"}
    assert len(routes.feature_rows(STREAM, **asked)["rows"]) == 1
    assert routes.feature_rows(STREAM, min_score=0.95)["rows"] == []
    assert routes.feature_rows(STREAM, after="1e300")["rows"] == []
    assert routes.feature_rows(STREAM, **{"metadata.sigma": "1" + 30 * "0"})["rows"] == []


@pytest.mark.parametrize(
    ("query", "complaint"),
    [
        ({"colour": "red"}, "no filter 'colour'"),
        ({"min_score": "high"}, "'min_score' is not a number"),
        ({"min_score": "nan"}, "'min_score' is not a number"),
        ({"after": "inf"}, "'after' is not a number"),
        ({"after": "nan"}, "'after' is not a number"),
        ({"metadata.well": "[1]"}, "can be filtered by text"),
    ],
)
def test_a_filter_that_cannot_be_used_is_refused(routes: Routes, query: dict[str, str], complaint: str) -> None:
    with pytest.raises(InvalidInput, match=complaint):
        routes.feature_rows(STREAM, **query)


class Failing(SqliteFeatureDatabase):
    """One whose disk is full."""

    def commit_many(self, rows: Sequence[FeatureRow]) -> list[Answer]:
        raise StorageError("No room.")


def test_a_commit_that_fails_is_no_answer_but_an_error(tmp_path: Path) -> None:
    routes = Routes(HasteExtension(Failing(tmp_path / FILE_NAME)))
    with pytest.raises(StorageError, match="No room") as raised:
        routes.post_feature_rows(STREAM, [as_plain(row(1))])
    assert raised.value.retryable
    routes.close()


class Stuck(SqliteFeatureDatabase):
    """One whose disk does not answer."""

    def __init__(self, file: Path) -> None:
        super().__init__(file)
        self.commits: list[int] = []
        self.goes_on = threading.Event()

    def commit_many(self, rows: Sequence[FeatureRow]) -> list[Answer]:
        self.commits.append(len(rows))
        self.goes_on.wait()
        return super().commit_many(rows)


def test_few_commits_wait_for_a_disk_and_what_is_beyond_is_refused_at_once(tmp_path: Path) -> None:
    database = Stuck(tmp_path / FILE_NAME)
    extension = HasteExtension(database)
    routes = Routes(extension)

    def post(number: int) -> Any:
        return routes.post_feature_rows(STREAM, [as_plain(row(number))])

    with ThreadPoolExecutor(MAX_COMMITS) as threads:
        committing = [threads.submit(post, number) for number in range(MAX_COMMITS)]
        wait_until(lambda: f"committing, {MAX_COMMITS - 1} rows waiting" in repr(extension))
        with pytest.raises(Unavailable, match="feature rows of 32 requests wait") as refused:
            post(MAX_COMMITS)
        assert refused.value.retry_after_s
        assert routes.feature_rows(STREAM)["rows"] == [], "who reads is answered"
        database.goes_on.set()
        assert all(each.result()["rows"] for each in committing)
    assert database.commits == [1, MAX_COMMITS - 1], "what came meanwhile is committed together"
    assert post(MAX_COMMITS)["rows"], "its place is free again"
    assert len(routes.feature_rows(STREAM)["rows"]) == MAX_COMMITS + 1
    routes.close()


def test_commits_leave_threads_to_others_and_end_before_those_who_brought_them_have_gone() -> None:
    assert 2 * MAX_COMMITS <= FREE_THREADS
    assert 4 * master_extension.WAIT_S < READ_TIMEOUT_S, "the turn, a connection, to open it, and the file"


@pytest.mark.parametrize("body", [None, {}, "rows", [{}] * 1001], ids=str)
def test_a_body_that_is_no_list_of_rows_is_refused(routes: Routes, body: Any) -> None:
    with pytest.raises(InvalidInput, match="list of at most 1000"):
        routes._call("POST", STREAM, body, {})
