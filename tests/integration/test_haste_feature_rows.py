"""Feature rows from engines to the master and back to people, over HTTP, with the master's own guards."""

from __future__ import annotations

import math
import sqlite3
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import requests

from harmonicio.control import paths, tickets
from harmonicio.control.client import MasterClient
from harmonicio.control.messages import WorkerRegistration
from harmonicio.core.errors import Conflict, NotAllowed, StorageError
from harmonicio.core.lease import Claims, TicketKind
from harmonicio.core.roles import Role
from harmonicio.haste import master_extension
from harmonicio.haste.feature_db.base import RowFilter, as_plain
from harmonicio.haste.feature_db.master import MasterFeatureDatabase
from harmonicio.haste.storage_client import StorageClient
from harmonicio.master.log_desk import MAX_HELD_LOGS
from harmonicio.master.master import MAX_HELD_REQUESTS
from harmonicio.master.service import FREE_THREADS, MasterOptions, MasterService
from harmonicio.testing.feature_db_suite import row as a_row
from harmonicio.testing.waiting import wait_until

STREAM = "plates"


def run_master(folder: Path) -> MasterService:
    return MasterService(MasterOptions(folder, port=0, data_port=0))


@pytest.fixture
def service(tmp_path: Path) -> Iterator[MasterService]:
    with run_master(tmp_path / "master") as running:
        yield running


def client_of(service: MasterService, role: Role) -> MasterClient:
    return MasterClient(service.url, service.token_file(role).read_text().strip())


def engine_client(service: MasterService) -> MasterClient:
    with client_of(service, Role.WORKER) as worker:
        key = worker.register_worker(WorkerRegistration("w1", "127.0.0.1", 1, "memory", "1")).ticket_key
    claims = Claims(TicketKind.ENGINE, STREAM, tickets.ENGINE_TICKET_TERM_S, time.time(), 0, engine="e1")
    ticket = tickets.sign(tickets.derive_key(key, "engine", "e1"), claims)
    return MasterClient(service.url, tickets.engine_bearer("w1", "e1", ticket))


def storage(folder: Path, client: MasterClient) -> StorageClient:
    options: dict[str, Any] = {
        "function": {"name": "feature", "feature": "focus"},
        "policy": {"intervals": [[0, 0.5, "B"], [0.5, 1, "A"]]},
        "tiers": {name: {"folder": str(folder / name)} for name in ("A", "B", "unscored")},
    }
    return StorageClient.from_options(options, client=client, default_feature_db="master")


def read(service: MasterService, **wanted: Any) -> list[str]:
    """Return the message ids that a viewer sees."""
    with client_of(service, Role.VIEWER) as viewer:
        return [row.message_id for row in MasterFeatureDatabase(viewer).rows(RowFilter(STREAM, **wanted))]


def test_what_an_engine_keeps_a_viewer_finds_by_tier_and_score(service: MasterService, tmp_path: Path) -> None:
    with engine_client(service) as engine, storage(tmp_path, engine) as kept:
        for number in range(10):
            kept.save(b"%d" % number, features={"focus": number / 10}, message_id=f"m{number}", stream=STREAM)
    assert read(service) == [f"m{number}" for number in range(10)]
    assert read(service, tier="A") == ["m5", "m6", "m7", "m8", "m9"]
    assert read(service, min_score=0.2, max_score=0.4) == ["m2", "m3", "m4"]
    assert read(service, message_id="m3") == ["m3"]


def test_a_feature_that_is_nan_survives_the_way_as_none(service: MasterService, tmp_path: Path) -> None:
    with engine_client(service) as engine, storage(tmp_path, engine) as kept:
        row = kept.save(b"x", features={"focus": math.nan, "mean": 2.5}, message_id="m1", stream=STREAM)
        assert (row.tier, row.features) == ("unscored", {"focus": None, "mean": 2.5})
    assert read(service, tier="unscored") == ["m1"]


def test_two_engines_that_race_for_one_message_agree_and_keep_one_copy(service: MasterService, tmp_path: Path) -> None:
    def attempt(number: int) -> tuple[int, str]:
        with engine_client(service) as engine, storage(tmp_path, engine) as kept:
            row = kept.save(b"x", features={"focus": number % 2}, message_id="m1", stream=STREAM, attempt=number)
            return row.attempt, row.tier

    with ThreadPoolExecutor(4) as threads:
        answers = set(threads.map(attempt, range(1, 9)))
    ((_, tier),) = answers
    assert [path.parent.parent.name for path in tmp_path.glob("[AB]/plates/*")] == [tier]
    assert read(service) == ["m1"]


def test_other_bytes_under_a_known_id_are_a_conflict_over_http_too(service: MasterService, tmp_path: Path) -> None:
    with engine_client(service) as engine, storage(tmp_path, engine) as kept:
        kept.save(b"first", features={"focus": 0.7}, message_id="m1", stream=STREAM)
        with pytest.raises(Conflict):
            kept.save(b"other", features={"focus": 0.7}, message_id="m1", stream=STREAM)
        with client_of(service, Role.VIEWER) as viewer:
            (row,) = MasterFeatureDatabase(viewer).rows(RowFilter(STREAM))
        assert kept.read(row) == b"first"


@pytest.mark.row("S27")
@pytest.mark.parametrize("role", [Role.SOURCE, Role.VIEWER, Role.WORKER])
def test_nobody_but_an_engine_writes_rows(service: MasterService, tmp_path: Path, role: Role) -> None:
    with client_of(service, role) as client, storage(tmp_path, client) as kept, pytest.raises(NotAllowed):
        kept.save(b"x", features={"focus": 0.7}, message_id="m1", stream=STREAM)
    assert read(service) == []


@pytest.mark.row("S27")
def test_an_engine_writes_rows_of_its_own_stream_only(service: MasterService, tmp_path: Path) -> None:
    with engine_client(service) as engine, storage(tmp_path, engine) as kept:
        with pytest.raises(NotAllowed, match="own"):
            kept.save(b"x", features={"focus": 0.7}, message_id="m1", stream="spectra")
        (answer,) = engine.post_feature_rows(STREAM, [as_plain(a_row(1, stream="spectra"))])["rows"]
    assert "not of stream" in answer["invalid"], "nor under the name of its own"
    with client_of(service, Role.VIEWER) as viewer:
        assert list(MasterFeatureDatabase(viewer).rows(RowFilter("spectra"))) == []


@pytest.mark.row("S27")
def test_a_row_names_the_engine_that_wrote_it_whatever_that_engine_says(service: MasterService) -> None:
    with engine_client(service) as engine, client_of(service, Role.VIEWER) as viewer:
        for said in ("", "e2", "e1"):
            engine.post_feature_rows(STREAM, [as_plain(a_row(1, message_id=f"m{said}", engine=said))])
        assert [row.engine for row in MasterFeatureDatabase(viewer).rows(RowFilter(STREAM))] == ["e1"] * 3


@pytest.mark.row("S27")
def test_a_row_that_an_engine_wrote_for_a_message_of_another_is_no_silent_end_of_it(
    service: MasterService, tmp_path: Path
) -> None:
    with engine_client(service) as engine, storage(tmp_path, engine) as kept:
        engine.post_feature_rows(STREAM, [as_plain(a_row(1, message_id="m1"))])
        with pytest.raises(Conflict, match="other bytes"):
            kept.save(b"the message", features={"focus": 0.7}, message_id="m1", stream=STREAM)


def test_rows_survive_a_restart_of_the_master(tmp_path: Path) -> None:
    with (
        run_master(tmp_path / "master") as service,
        engine_client(service) as engine,
        storage(tmp_path, engine) as kept,
    ):
        kept.save(b"x", features={"focus": 0.7}, message_id="m1", stream=STREAM)
    with run_master(tmp_path / "master") as service:
        assert read(service) == ["m1"]


def test_while_the_master_is_away_a_message_fails_and_may_be_tried_again(tmp_path: Path) -> None:
    with run_master(tmp_path / "master") as service:
        engine = engine_client(service)
    with engine, storage(tmp_path, engine) as kept, pytest.raises(StorageError) as raised:
        kept.save(b"x", features={"focus": 0.7}, message_id="m1", stream=STREAM)
    assert raised.value.retryable


def test_while_the_feature_database_is_locked_commits_do_not_take_the_control_plane_along(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(master_extension, "WAIT_S", 20.0)
    answers: list[requests.Response] = []
    with (
        run_master(tmp_path / "master") as service,
        engine_client(service) as engine,
        ThreadPoolExecutor(200) as threads,
    ):
        url = service.url + paths.fill(paths.STREAM_FEATURE_ROWS, stream=STREAM)
        headers = {"Authorization": f"Bearer {engine._token}"}

        def post(number: int) -> None:
            answers.append(requests.post(url, json=[as_plain(a_row(number))], headers=headers, timeout=60))

        with closing(sqlite3.connect(tmp_path / "master" / "features.sqlite", isolation_level=None)) as other:
            other.execute("BEGIN EXCLUSIVE")
            # As many as the web server has threads.
            posts = [threads.submit(post, n) for n in range(MAX_HELD_REQUESTS + MAX_HELD_LOGS + FREE_THREADS)]
            wait_until(lambda: len(answers) >= len(posts) - master_extension.MAX_COMMITS, 10, what="refusals")
            assert not any(answer.ok for answer in answers)
            assert {(answer.status_code, answer.headers.get("Retry-After")) for answer in answers} == {(503, "1")}
            begun = time.monotonic()
            with client_of(service, Role.ADMIN) as admin:
                admin.status()
            assert read(service) == []
            assert time.monotonic() - begun < 1.0
            other.execute("ROLLBACK")
        for each in posts:
            each.result()
        kept = [answer.json()["rows"][0]["row"]["message_id"] for answer in answers if answer.ok]
        assert sorted(read(service)) == sorted(kept)
        assert len(kept) >= master_extension.MAX_COMMITS, "who waited has been served"
