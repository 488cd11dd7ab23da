"""Every feature database keeps the contract: in memory, in SQLite, and by way of the master's routes."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path

import pytest
import sqlalchemy as sa

from benches.feature_routes import Routes
from harmonicio.control.caller import _body_of
from harmonicio.control.paths import MAX_BODY_BYTES
from harmonicio.core.errors import InvalidInput, StorageError, Unavailable
from harmonicio.haste.feature_db import master as by_master
from harmonicio.haste.feature_db.base import FeatureDatabase, RowDamaged, RowFilter, as_plain
from harmonicio.haste.feature_db.master import MasterFeatureDatabase
from harmonicio.haste.feature_db.memory import MemoryFeatureDatabase
from harmonicio.haste.feature_db.sqlite import SqliteFeatureDatabase
from harmonicio.haste.master_extension import FILE_NAME, create
from harmonicio.testing.feature_db_suite import STREAM, FeatureDatabaseSuite, row


@contextmanager
def locked(file: Path) -> Iterator[None]:
    """Somebody else has this file for himself."""
    with closing(sqlite3.connect(file, isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        yield
        other.execute("ROLLBACK")


def damage_row(file: Path, damage: str) -> None:
    """Spoil what is kept of message ``m1``."""
    with closing(sqlite3.connect(file)) as other:
        other.execute("UPDATE feature_rows SET features = ? WHERE message_id = 'm1'", (damage,))
        other.commit()


def check_a_damaged_row_hinders_no_other(database: FeatureDatabase, file: Path) -> None:
    database.commit(row(1))
    damage_row(file, "{")
    seventh, damaged, eighth = database.commit_many([row(7), row(1), row(8)])
    assert [seventh, eighth] == [row(7), row(8)]
    assert isinstance(damaged, RowDamaged)
    with pytest.raises(StorageError, match=r"'m1'.* is damaged.*delete it") as raised:
        database.commit(row(1))
    assert not raised.value.retryable, "it stays final, however far it travels"
    assert [list(database.rows(RowFilter(STREAM, f"m{number}"))) for number in (7, 8)] == [[row(7)], [row(8)]]


class TestMemory(FeatureDatabaseSuite):
    def open(self, folder: Path) -> FeatureDatabase:
        return MemoryFeatureDatabase()

    def test_it_is_full_at_its_bound(self) -> None:
        database = MemoryFeatureDatabase(max_rows=1)
        database.commit(row(1))
        with pytest.raises(StorageError, match="takes no more"):
            database.commit(row(2))


class TestSqlite(FeatureDatabaseSuite):
    def open(self, folder: Path) -> FeatureDatabase:
        return SqliteFeatureDatabase(folder / "new" / "features ?#%.sqlite")

    def test_rows_survive_the_process(self, tmp_path: Path) -> None:
        for number in (1, 2):
            database = SqliteFeatureDatabase(tmp_path / "features.sqlite")
            database.commit(row(number))
            database.close()
        database = SqliteFeatureDatabase(tmp_path / "features.sqlite")
        assert [each.message_id for each in database.rows(RowFilter())] == ["m1", "m2"]
        database.close()

    @pytest.mark.parametrize("damage", ["{", "3", "\0"])
    def test_a_damaged_row_says_which_it_is_and_what_to_do(self, tmp_path: Path, damage: str) -> None:
        file = tmp_path / "features.sqlite"
        database = SqliteFeatureDatabase(file)
        database.commit(row(1))
        database.commit(row(2))
        damage_row(file, damage)
        with pytest.raises(StorageError, match=r"'m1'.* is damaged.*delete it") as caught:
            list(database.rows(RowFilter(message_id="m1")))
        assert not caught.value.retryable
        assert [each.message_id for each in database.rows(RowFilter(message_id="m2"))] == ["m2"]
        database.close()

    def test_a_damaged_row_hinders_no_other(self, tmp_path: Path) -> None:
        with closing(SqliteFeatureDatabase(tmp_path / FILE_NAME)) as database:
            check_a_damaged_row_hinders_no_other(database, tmp_path / FILE_NAME)

    def test_a_file_of_an_earlier_release_gets_the_columns_that_it_lacks(self, tmp_path: Path) -> None:
        file = tmp_path / "features.sqlite"
        SqliteFeatureDatabase(file).close()
        with closing(sqlite3.connect(file)) as old:
            for later in ("route", "image", "emitted"):
                old.execute(f"ALTER TABLE feature_rows DROP COLUMN {later}")
            values = "1, 'plates', 'm0', '', 0, 'A', '', 1, '{}', 0.5, '', '{}', '', '', 0, '', 0"
            old.execute(f"INSERT INTO feature_rows VALUES ({values})")
            old.commit()
        database = SqliteFeatureDatabase(file)
        database.commit(row(1))
        assert [(each.route, each.image) for each in database.rows(RowFilter())] == [("", ""), ("backlog", "sha256:1")]
        database.close()

    def test_a_file_that_is_no_database_is_a_storage_error(self, tmp_path: Path) -> None:
        (tmp_path / "features.sqlite").write_bytes(b"no database, but long enough to look like one " * 100)
        with pytest.raises(StorageError, match="not a database"):
            SqliteFeatureDatabase(tmp_path / "features.sqlite")

    def test_while_others_have_the_file_commits_wait_side_by_side_and_may_be_tried_again(self, tmp_path: Path) -> None:
        file, errors = tmp_path / "features.sqlite", []
        database = SqliteFeatureDatabase(file, wait_s=0.5)
        database.commit(row(0))

        def commit(number: int) -> float:
            begun = time.monotonic()
            with pytest.raises(StorageError, match=r"is locked|been writing for 0\.5 s") as raised:
                database.commit(row(number))
            errors.append(raised.value)
            return time.monotonic() - begun

        with locked(file), ThreadPoolExecutor(10) as threads:
            taken_s = list(threads.map(commit, range(1, 11)))
            assert [each.message_id for each in database.rows(RowFilter())] == ["m0"], "readers wait for nobody"
        assert max(taken_s) < 2.0, "one wait for the turn and one for the file, not ten"
        assert all(error.retryable for error in errors)
        assert database.commit(row(1)) == row(1)
        database.close()

    def test_who_reads_while_too_many_others_do_waits_within_bounds_and_may_try_again(self, tmp_path: Path) -> None:
        database = SqliteFeatureDatabase(tmp_path / FILE_NAME, wait_s=0.2)
        database.commit(row(1))
        with ExitStack() as reading:
            with pytest.raises(sa.exc.TimeoutError):
                while True:
                    reading.enter_context(database._engine.connect())
            begun = time.monotonic()
            for ask in (lambda: list(database.rows(RowFilter())), lambda: database.commit(row(2))):
                with pytest.raises(StorageError, match="cannot be used") as raised:
                    ask()
                assert raised.value.retryable
            assert time.monotonic() - begun < 5.0
        assert list(database.rows(RowFilter())) == [row(1)]
        database.close()

    def test_a_folder_that_cannot_be_made_is_a_storage_error(self, tmp_path: Path) -> None:
        (tmp_path / "file").write_text("in the way")
        with pytest.raises(StorageError, match="cannot be used"):
            SqliteFeatureDatabase(tmp_path / "file" / "features.sqlite")


class _AtMaster(MasterFeatureDatabase):
    """Closes the extension, too, because nobody else does here."""

    def __init__(self, routes: Routes) -> None:
        super().__init__(routes)
        self.routes = routes

    def close(self) -> None:
        super().close()
        self.routes.close()


class TestMaster(FeatureDatabaseSuite):
    def open(self, folder: Path) -> _AtMaster:
        return _AtMaster(Routes(create(folder)))

    def test_a_master_that_is_away_is_a_storage_error_that_may_be_tried_again(self, tmp_path: Path) -> None:
        database = self.open(tmp_path)
        database.routes.is_away = True
        with pytest.raises(StorageError, match="cannot reach the master") as raised:
            database.commit(row(1))
        assert raised.value.retryable
        database.routes.is_away = False
        assert database.commit(row(1)) == row(1)
        database.close()

    def test_a_master_that_is_busy_is_asked_again_for_a_moment_only(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(by_master, "ASK_AGAIN_FOR_S", 0.2)
        database = self.open(tmp_path)
        database.routes.refusals = [Unavailable("Too many.", retry_after_s=0.01)] * 3
        assert database.commit(row(1)) == row(1)
        database.routes.refusals = [Unavailable("Too many.", retry_after_s=0.01)] * 1000
        with pytest.raises(StorageError, match="Too many") as raised:
            database.commit(row(2))
        assert raised.value.retryable
        assert 990 < len(database.routes.refusals) < 1000
        database.close()

    def test_a_damaged_row_hinders_no_other(self, tmp_path: Path) -> None:
        with closing(self.open(tmp_path)) as database:
            check_a_damaged_row_hinders_no_other(database, tmp_path / FILE_NAME)

    def test_the_master_knows_what_a_row_says_is_done(self, tmp_path: Path) -> None:
        extension = create(tmp_path)
        routes = Routes(extension)
        database = _AtMaster(routes)
        quiet, loud, unknown = row(1, emitted=0), row(2, emitted=1), row(3, emitted=None)
        database.commit_many([quiet, loud, unknown])
        found = [extension.recorded({}, "plates", each.message_id, each.size_bytes) for each in (quiet, loud, unknown)]
        assert found == [quiet.result, None, None]
        assert extension.recorded({}, "plates", "m1", quiet.size_bytes + 1) is None
        elsewhere = {"feature_db": {"driver": "sqlite", "file": "/rows"}}
        assert extension.recorded(elsewhere, "plates", "m1", quiet.size_bytes) is None
        database.close()

    def test_many_rows_travel_in_few_requests(self, tmp_path: Path) -> None:
        database = self.open(tmp_path)
        database.commit_many([row(number) for number in range(500)])
        assert database.routes.requests == [200, 200, 100]
        database.close()

    def test_rows_that_are_long_travel_in_more_requests(self, tmp_path: Path) -> None:
        database = self.open(tmp_path)
        rows = [row(number, metadata={"notes": "x" * 100_000}) for number in range(30)]
        assert database.commit_many(rows) == rows
        assert sum(database.routes.requests) == 30
        database.close()

    @pytest.mark.parametrize("free_bytes", [0, MAX_BODY_BYTES // 4])
    def test_a_row_travels_alone_if_it_is_as_long_as_a_request_may_be(self, tmp_path: Path, free_bytes: int) -> None:
        database = self.open(tmp_path)
        frame_bytes = len(_body_of([as_plain(row(2, metadata={"notes": ""}))]))
        long = row(2, metadata={"notes": "x" * (MAX_BODY_BYTES - frame_bytes - free_bytes)})
        assert len(_body_of([as_plain(long)])) == MAX_BODY_BYTES - free_bytes
        assert database.commit_many([row(1), long, row(3)]) == [row(1), long, row(3)]
        assert database.routes.requests == [1, 1, 1]
        database.close()

    def test_a_row_that_is_too_long_by_itself_is_refused_alone_and_for_good(self, tmp_path: Path) -> None:
        database = self.open(tmp_path)
        long = row(2, features={"x" * 400 + str(number): 0.5 for number in range(4000)})
        first, refusal, third = database.commit_many([row(1), long, row(3)])
        assert [first, third] == list(database.rows(RowFilter(STREAM))) == [row(1), row(3)]
        with pytest.raises(InvalidInput, match=r"'m2' has \d+ bytes.*fewer features"):
            raise refusal
        database.close()

    def test_rows_of_several_streams_travel_apart(self, tmp_path: Path) -> None:
        database = self.open(tmp_path)
        rows = [row(1), row(2, stream="spectra"), row(3)]
        assert database.commit_many(rows) == rows
        assert [each.message_id for each in database.rows(RowFilter("spectra"))] == ["m2"]
        database.close()

    def test_all_rows_of_all_streams_cannot_be_asked_for(self, tmp_path: Path) -> None:
        database = self.open(tmp_path)
        with pytest.raises(InvalidInput, match="one stream at a time"):
            list(database.rows(RowFilter()))
        database.close()
