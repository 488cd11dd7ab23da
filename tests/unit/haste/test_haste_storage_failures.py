"""The storage client: what a crash or a failure leaves, and declarations that cannot be used."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from benches.storage import PAPER, STREAM, files_in, options, save
from harmonicio.core.errors import ConfigurationError, InvalidInput, StorageError
from harmonicio.haste.feature_db.base import Answer, FeatureDatabase
from harmonicio.haste.feature_db.memory import MemoryFeatureDatabase
from harmonicio.haste.interestingness.base import create_function
from harmonicio.haste.policies.base import create_policy
from harmonicio.haste.storage_client import StorageClient
from harmonicio.haste.tiers.base import create_tiers


@pytest.fixture
def client(tmp_path: Path) -> Iterator[StorageClient]:
    with StorageClient.from_options(options(tmp_path)) as opened:
        yield opened


# ── failures ─────────────────────────────────────────────────────────────────────────────────────────────────────────


class FailingOnce(MemoryFeatureDatabase):
    """A database whose first commit fails, as if the machine had stopped there."""

    def __init__(self) -> None:
        super().__init__()
        self._has_failed = False

    def commit_many(self, rows: Any) -> list[Answer]:
        if not self._has_failed:
            self._has_failed = True
            raise StorageError("The machine stopped.")
        return super().commit_many(rows)


def with_database(folder: Path, database: FeatureDatabase) -> StorageClient:
    tiers = create_tiers(options(folder)["tiers"])
    function = create_function({"name": "feature", "feature": "focus"})
    return StorageClient(
        function=function, policy=create_policy({"intervals": PAPER}, tiers), tiers=tiers, feature_db=database
    )


def age(folder: Path) -> None:
    """Make everything that is kept look two hours old."""
    for name in files_in(folder):
        about = (folder / name).stat()
        os.utime(folder / name, (about.st_atime - 7200, about.st_mtime - 7200))


def test_a_crash_before_the_commit_costs_nothing_when_the_message_comes_again(tmp_path: Path) -> None:
    client = with_database(tmp_path, FailingOnce())
    with pytest.raises(StorageError):
        save(client, 0.8)
    assert client.rows() == []
    save(client, 0.8, attempt=2)
    assert files_in(tmp_path) == ["A/plates/m1"]
    age(tmp_path)
    assert client.reconcile(STREAM).removed == ()


def test_what_a_crash_has_left_is_removed_once_it_is_old(tmp_path: Path) -> None:
    client = with_database(tmp_path, FailingOnce())
    with pytest.raises(StorageError):
        save(client, 0.8)
    save(client, 0.1, attempt=2)
    assert client.reconcile(STREAM).removed == ()
    age(tmp_path)
    assert client.reconcile(STREAM).removed == ("A:plates/m1",)
    assert files_in(tmp_path) == ["D/plates/m1"]


def test_what_a_crash_has_left_is_spared_once_it_is_taken_up_again(tmp_path: Path) -> None:
    client = with_database(tmp_path, database := FailingOnce())
    with pytest.raises(StorageError):
        save(client, 0.8)
    age(tmp_path)

    def reconcile_first(rows: Any) -> list[Answer]:
        assert client.reconcile(STREAM).removed == ()
        return MemoryFeatureDatabase.commit_many(database, rows)

    database.commit_many = reconcile_first  # type: ignore[method-assign]
    row = save(client, 0.8, attempt=2)
    assert client.read(row) == b"pixels"


def test_a_row_whose_payload_is_gone_is_named(client: StorageClient, tmp_path: Path) -> None:
    save(client, 0.8)
    save(client, 0.9, "m2")
    (tmp_path / "A" / "plates" / "m1").unlink()
    assert client.reconcile(STREAM).missing == ("A:plates/m1",)


def test_what_went_to_the_trash_has_a_row_and_misses_nothing(tmp_path: Path) -> None:
    tiers = {"A": {"folder": str(tmp_path / "A")}, "trash": {"driver": "trash"}, "unscored": {"driver": "memory"}}
    policy = {"intervals": [[0, 0.5, "trash"], [0.5, 1, "A"]]}
    with StorageClient.from_options(options(tmp_path, tiers=tiers, policy=policy)) as client:
        row = save(client, 0.2)
        assert (row.tier, row.score, row.location, row.size_bytes) == ("trash", 0.2, "", 6)
        assert client.reconcile(STREAM).missing == ()
        assert files_in(tmp_path) == []


def test_a_tier_that_cannot_be_written_leaves_no_row(client: StorageClient, tmp_path: Path) -> None:
    (tmp_path / "A").write_text("in the way")
    with pytest.raises(StorageError, match="'A' cannot be written"):
        save(client, 0.8)
    assert client.rows() == []


def test_a_row_that_cannot_be_kept_leaves_no_payload(client: StorageClient, tmp_path: Path) -> None:
    endless: dict[str, Any] = {}
    endless["itself"] = endless
    with pytest.raises(InvalidInput, match="nested"):
        client.save(b"pixels", score=0.8, metadata=endless)
    assert files_in(tmp_path) == []


@pytest.mark.parametrize(
    "bad", [{"stream": "../x"}, {"message_id": "a\0b"}, {"message_id": "x" * 4096}, {"message_id": ""}]
)
def test_names_that_are_none_are_refused_before_anything_is_written(
    client: StorageClient, tmp_path: Path, bad: dict[str, str]
) -> None:
    with pytest.raises(InvalidInput):
        client.save(b"pixels", score=0.5, **bad)  # type: ignore[arg-type]
    assert files_in(tmp_path) == []


def test_a_row_of_another_clients_tier_cannot_be_read(client: StorageClient) -> None:
    row = dataclasses.replace(save(client, 0.8), tier="cold")
    with pytest.raises(InvalidInput, match="no tier 'cold'"):
        client.read(row)


# ── declaring ────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("more", "complaint"),
    [
        ({"tier": {}}, "no option 'tier'"),
        ({"function": None}, "needs a table 'function'"),
        ({"policy": PAPER}, "needs a table 'policy'"),
        ({"tiers": []}, "needs a table 'tiers'"),
        ({"feature_db": "features.sqlite"}, "needs a table 'feature_db'"),
        ({"feature_db": {"driver": "mongo"}}, "no feature database 'mongo'"),
        ({"feature_db": {"driver": "sqlite", "file": "relative"}}, "absolute 'file'"),
        ({"feature_db": {"driver": "sqlite"}}, "absolute 'file', not None"),
        ({"feature_db": {"driver": "sqlite", "file": "/features\0"}}, "absolute 'file'"),
        ({"feature_db": {"driver": "sqlite", "file": ["/features"]}}, "absolute 'file'"),
        ({"feature_db": {"driver": ["sqlite"]}}, "no feature database"),
        ({"feature_db": {"driver": "memory", "colour": 1}}, "no option 'colour'"),
        ({"feature_db": {"driver": "memory", "max_rows": "x"}}, "has 'x' as 'max_rows'"),
        ({"feature_db": {"driver": "memory", "max_rows": True}}, "has True as 'max_rows'"),
        ({"feature_db": {"driver": "memory", "max_rows": 2.5}}, "has 2.5 as 'max_rows'"),
        ({"feature_db": {"driver": "memory", "max_rows": 0}}, "an integer of at least 1"),
        ({"feature_db": {"driver": "memory", "max_rows": 10**5000}}, "type int as 'max_rows'"),
        ({"policy": {"intervals": [[0, 1, "Z"]]}}, "'Z', which is not declared"),
        ({"policy": {"intervals": [[0, 1, "unscored"]]}}, "'unscored', which is not declared"),
        ({"tiers": {tier: {"driver": "memory"} for tier in "ABCD"}}, "no tier 'unscored'"),
    ],
)
def test_a_declaration_that_cannot_be_used_is_refused(tmp_path: Path, more: dict[str, Any], complaint: str) -> None:
    given = options(tmp_path, **more)
    with pytest.raises(ConfigurationError, match=complaint):
        StorageClient.from_options(given)
    with pytest.raises(ConfigurationError, match=complaint):
        StorageClient.check(given)


def test_a_declaration_is_checked_without_opening_or_executing_anything(tmp_path: Path) -> None:
    own = {"name": f"{tmp_path / 'of_a_worker.py'}:score"}
    database = {"driver": "sqlite", "file": str(tmp_path / "elsewhere" / "features.sqlite")}
    StorageClient.check(options(tmp_path, function=own, feature_db=database))
    StorageClient.check({**options(tmp_path), "feature_db": {}}, default_feature_db="master")
    assert list(tmp_path.iterdir()) == []
