"""What the master must not forget is in one private file."""

from __future__ import annotations

import sqlite3
import stat
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from harmonicio.core.errors import ConfigurationError, StorageError
from harmonicio.core.roles import Role
from harmonicio.core.stream import StreamDeclaration
from harmonicio.master.store import MasterStore, StoredToken

PLATES = StreamDeclaration(
    "plates", handler="/h.py", parameters={"k": 4.5}, plugins={"haste": {"tiers": ["a"]}}, version=3
)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "master.sqlite"


@pytest.fixture
def store(path: Path) -> Iterator[MasterStore]:
    opened = MasterStore(path)
    yield opened
    opened.close()


def reopened(store: MasterStore, path: Path) -> MasterStore:
    store.close()
    return MasterStore(path)


def test_the_key_and_the_epoch_are_drawn_once_and_kept(store: MasterStore, path: Path, tmp_path: Path) -> None:
    key, epoch = store.ticket_key, store.raise_epoch()
    again = reopened(store, path)
    assert (again.ticket_key, again.epoch) == (key, epoch) and (len(key), epoch) == (64, 2)
    other = MasterStore(tmp_path / "other.sqlite")
    assert other.ticket_key != key
    for opened in (again, other):
        opened.close()


def test_a_stream_is_kept_as_it_was_declared(store: MasterStore, path: Path) -> None:
    store.put_stream(PLATES)
    store.put_stream(replace(PLATES, engines=7))
    again = reopened(store, path)
    assert again.streams() == (replace(PLATES, engines=7),)
    again.close()


def test_the_version_of_a_deleted_stream_stays_used(store: MasterStore) -> None:
    assert store.last_version("plates") == 0
    store.put_stream(PLATES)
    store.drop_stream("plates")
    assert store.streams() == () and store.last_version("plates") == 3


def test_tokens_are_added_all_or_none(store: MasterStore) -> None:
    token = StoredToken("a", Role.SOURCE, b"digest", 1.5)
    store.put_tokens([token])
    with pytest.raises(StorageError):
        store.put_tokens([replace(token, name="b"), token])
    assert store.tokens() == (token,)
    store.drop_token("a")
    assert store.tokens() == ()


@pytest.mark.row("S26")
def test_only_the_owner_can_read_the_file_even_if_it_was_open_to_all_before(path: Path) -> None:
    path.touch(mode=0o644)
    MasterStore(path).close()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_every_change_is_synced(store: MasterStore) -> None:
    assert store._database.execute("PRAGMA synchronous").fetchone() == (2,)
    assert store._database.execute("PRAGMA journal_mode").fetchone() == ("wal",)


def test_on_a_full_disk_a_change_is_tried_once_more_when_room_was_made(path: Path) -> None:
    def make_room() -> None:
        asked.append(True)
        store._database.execute(f"PRAGMA max_page_count = {pages + 100 * len(asked)}")

    asked: list[bool] = []
    store = MasterStore(path, make_room)
    (pages,) = store._database.execute("PRAGMA page_count").fetchone()
    store._database.execute(f"PRAGMA max_page_count = {pages}")
    large = replace(PLATES, parameters={"text": "x" * 50_000})
    store.put_stream(large)
    assert (store.streams(), asked) == ((large,), [True])
    with pytest.raises(StorageError, match="full"):
        store.put_stream(replace(large, parameters={"text": "x" * 5_000_000}))
    assert (store.streams(), asked) == ((large,), [True, True])
    store.close()


def test_a_file_of_a_newer_version_is_left_alone(store: MasterStore, path: Path) -> None:
    store.close()
    database = sqlite3.connect(path)
    database.execute("PRAGMA user_version = 99")
    database.close()
    with pytest.raises(ConfigurationError, match="newer version"):
        MasterStore(path)


def test_what_is_no_database_is_one_clear_error(path: Path, tmp_path: Path) -> None:
    path.write_bytes(b"not a database " * 100)
    with pytest.raises(StorageError, match=r"master\.sqlite"):
        MasterStore(path)
    with pytest.raises(StorageError):
        MasterStore(tmp_path / "missing" / "master.sqlite")
