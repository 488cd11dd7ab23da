"""Feature rows in SQLite: write-ahead log, synchronous FULL, one writer at a time.

``commit_many`` commits a whole group at once: a commit costs an fsync, a row next to nothing.
"""

from __future__ import annotations

import fcntl
import json
import os
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects.sqlite import insert
from sqlalchemy.exc import SQLAlchemyError

from harmonicio.control.lone_sqlite import VFS
from harmonicio.core.errors import StorageError
from harmonicio.haste.feature_db.base import (
    Answer,
    FeatureDatabase,
    FeatureRow,
    RowDamaged,
    RowFilter,
    as_plain,
    canonical_or_error,
    plain_value,
)
from harmonicio.haste.options import check_options, path_option

_JSON_FIELDS = ("features", "metadata")
_METADATA = sa.MetaData()
_ROWS = sa.Table(
    "feature_rows",
    _METADATA,
    sa.Column("number", sa.Integer, primary_key=True),
    sa.Column("stream", sa.Text, nullable=False),
    sa.Column("message_id", sa.Text, nullable=False),
    sa.Column("digest", sa.Text, nullable=False),
    sa.Column("size_bytes", sa.Integer, nullable=False),
    sa.Column("tier", sa.Text, nullable=False),
    sa.Column("location", sa.Text, nullable=False),
    sa.Column("attempt", sa.Integer, nullable=False),
    sa.Column("features", sa.Text, nullable=False),
    sa.Column("score", sa.Float),
    sa.Column("reason", sa.Text, nullable=False),
    sa.Column("metadata", sa.Text, nullable=False),
    sa.Column("function", sa.Text, nullable=False),
    sa.Column("policy_version", sa.Text, nullable=False),
    sa.Column("stream_version", sa.Integer, nullable=False),
    sa.Column("engine", sa.Text, nullable=False),
    sa.Column("processed_at", sa.Float, nullable=False),
    sa.Column("route", sa.Text, nullable=False, server_default=""),
    sa.Column("image", sa.Text, nullable=False, server_default=""),
    sa.Column("emitted", sa.Integer),
    sa.UniqueConstraint("stream", "message_id"),
    sa.Index("feature_rows_by_score", "stream", "score"),
)
#: What earlier releases did not have.
_LATER_COLUMNS = {"route": "TEXT NOT NULL DEFAULT ''", "image": "TEXT NOT NULL DEFAULT ''", "emitted": "INTEGER"}
_PAGE_ROWS = 500
#: How long somebody waits for each of what he may have to wait for.
WAIT_S = 30.0


class SqliteFeatureDatabase(FeatureDatabase):
    """Keeps rows in one file.

    Args:
        is_alone: Nobody else opens the file meanwhile; it can then be opened on a full disk, too.
        wait_s: How long somebody waits for each of: his turn to commit; a connection, where others read; the file, to
            open one more connection; and the file again, to use it.

    Raises:
        StorageError: the file cannot be opened or written.
    """

    def __init__(self, file: Path, *, is_alone: bool = False, wait_s: float = WAIT_S) -> None:
        self._file = file
        self._wait_s = wait_s
        self._writing = threading.Lock()
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            url = sa.URL.create("sqlite", database=str(file))
            if is_alone:
                url = url.set(database=file.absolute().as_uri(), query={"vfs": VFS, "uri": "true"})
            self._engine = sa.create_engine(url, pool_timeout=wait_s, connect_args={"timeout": wait_s})
            sa.event.listen(self._engine, "connect", _prepare)
            with _alone_in(file.parent):
                _METADATA.create_all(self._engine)
                _add_later_columns(self._engine)
        except (OSError, SQLAlchemyError) as error:
            raise self._broken(error) from None

    def __repr__(self) -> str:
        return f"<SqliteFeatureDatabase {self._file}>"

    def commit_many(self, rows: Sequence[FeatureRow]) -> list[Answer]:
        given = [canonical_or_error(row) for row in rows]
        try:
            with self._turn(), self._engine.begin() as connection:
                return [_commit(connection, row) if isinstance(row, FeatureRow) else row for row in given]
        except (TimeoutError, SQLAlchemyError) as error:
            raise self._broken(error) from None

    @contextmanager
    def _turn(self) -> Iterator[None]:
        """Wait to be the one that writes, within bounds: what each waits for the file must not add up for the last."""
        if not self._writing.acquire(timeout=self._wait_s):
            raise TimeoutError(f"others have been writing for {self._wait_s:g} s")
        try:
            yield
        finally:
            self._writing.release()

    def rows(self, wanted: RowFilter) -> Iterator[FeatureRow]:
        after = 0
        while page := self.page(wanted, after, _PAGE_ROWS):
            yield from (row for _, row in page)
            after = page[-1][0]

    def page(self, wanted: RowFilter, after: int, limit: int) -> list[tuple[int, FeatureRow]]:
        """Return up to ``limit`` rows behind row number ``after``, each with its number."""
        query = sa.select(_ROWS).where(_condition(wanted), _ROWS.c.number > after).order_by(_ROWS.c.number)
        return [(each.number, _row(each)) for each in self._read(query.limit(limit))]

    def count(self, wanted: RowFilter) -> int:
        (row,) = self._read(sa.select(sa.func.count()).select_from(_ROWS).where(_condition(wanted)))
        return int(row[0])

    def _read(self, query: sa.Select[Any]) -> Sequence[sa.Row[Any]]:
        try:
            with self._engine.connect() as connection:
                return connection.execute(query).all()
        except SQLAlchemyError as error:
            raise self._broken(error) from None

    def close(self) -> None:
        self._engine.dispose()

    def _broken(self, error: Exception) -> StorageError:
        reason = str(getattr(error, "orig", None) or error)
        return StorageError(
            f"The feature database {self._file} cannot be used: {reason}.",
            hint="See that there is room, and that nobody else keeps it locked.",
        )


def create(options: Mapping[str, Any], client: Any) -> SqliteFeatureDatabase:
    """Options: ``file``, an absolute path."""
    return SqliteFeatureDatabase(file_of(options))


def file_of(options: Mapping[str, Any]) -> Path:
    """Return the file that the options name."""
    what = "The feature database 'sqlite'"
    check_options(what, options, ("file",))
    return path_option(what, options, "file")


@contextmanager
def _alone_in(folder: Path) -> Iterator[None]:
    """Lock a folder: of two processes that set up the same new file at once, one would find it locked or half done."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _prepare(connection: Any, _: Any) -> None:
    for pragma in ("journal_mode=WAL", "synchronous=FULL"):
        connection.execute(f"PRAGMA {pragma}")


def _add_later_columns(engine: sa.Engine) -> None:
    """Give a file of an earlier release the columns that it lacks."""
    known = {column["name"] for column in sa.inspect(engine).get_columns(_ROWS.name)}
    for name, kind in _LATER_COLUMNS.items():
        if name not in known:
            with engine.begin() as connection:
                connection.execute(sa.text(f"ALTER TABLE feature_rows ADD COLUMN {name} {kind}"))


def _commit(connection: sa.Connection, row: FeatureRow) -> Answer:
    written = connection.execute(insert(_ROWS).values(_values(row)).on_conflict_do_nothing())
    if written.rowcount:
        return row
    is_known = (_ROWS.c.stream == row.stream) & (_ROWS.c.message_id == row.message_id)
    try:
        return _row(connection.execute(sa.select(_ROWS).where(is_known)).one())
    except RowDamaged as error:
        return error


def _condition(wanted: RowFilter) -> sa.ColumnElement[bool]:
    conditions: list[sa.ColumnElement[bool]] = [sa.true()]
    if wanted.stream is not None:
        conditions.append(_ROWS.c.stream == wanted.stream)
    if wanted.message_id is not None:
        conditions.append(_ROWS.c.message_id == wanted.message_id)
    if wanted.tier is not None:
        conditions.append(_ROWS.c.tier == wanted.tier)
    if wanted.min_score is not None:
        conditions.append(_ROWS.c.score >= wanted.min_score)
    if wanted.max_score is not None:
        conditions.append(_ROWS.c.score <= wanted.max_score)
    conditions.extend(_has_entry(key, plain_value(value)) for key, value in wanted.metadata.items())
    return sa.and_(*conditions)


def _has_entry(key: str, value: Any) -> sa.ColumnElement[bool]:
    """Return the condition that metadata has an entry; not by a JSON path, which cannot express every key."""
    entry = sa.func.json_each(_ROWS.c.metadata).table_valued("key", "value", "type").alias()
    same_key = sa.select(entry.c.key).where(entry.c.key == key)
    if value is None:
        return ~same_key.where(entry.c.type != "null").exists()
    return same_key.where(entry.c.value == value).exists()


def _values(row: FeatureRow) -> dict[str, Any]:
    plain = as_plain(row)
    return {**plain, **{name: json.dumps(plain[name], allow_nan=False) for name in _JSON_FIELDS}}


def _row(stored: sa.Row[Any]) -> FeatureRow:
    """Return a row as it was committed.

    Raises:
        RowDamaged: says which it is.
    """
    fields = dict(stored._mapping)
    number = fields.pop("number")
    try:
        read = {name: json.loads(fields[name]) for name in _JSON_FIELDS}
        if not all(isinstance(each, dict) for each in read.values()):
            raise ValueError("it is no object")
    except (ValueError, TypeError, RecursionError) as error:
        raise RowDamaged(
            f"Feature row {number}, of message {fields['message_id']!r} of stream {fields['stream']!r}, is damaged: "
            f"{error}.",
            hint="Mend that row in the feature database, or delete it: then its message counts as not processed.",
        ) from error
    return FeatureRow(**{**fields, **read})
