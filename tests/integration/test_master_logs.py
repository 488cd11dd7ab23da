"""Parts of logs on their way from a worker, which a test plays, over a real master to who reads them."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from benches.master import LOGGED as PART
from benches.master import PLATES, LogWorker, client_of, run_master
from harmonicio.control.client import MasterClient
from harmonicio.control.log_messages import LOG_PART_BYTES, LogAnswer, LogPart, LogWish
from harmonicio.control.messages import EngineExit, WorkerReport
from harmonicio.core.engine import ExitReason
from harmonicio.core.errors import InvalidInput, NotFound, Unavailable
from harmonicio.core.roles import Role
from harmonicio.master import log_desk
from harmonicio.master.service import MasterService
from harmonicio.testing.waiting import wait_until


@pytest.fixture
def service(tmp_path: Path) -> Iterator[MasterService]:
    with run_master(tmp_path / "master", lost_after_s=1.0) as running:
        yield running


@pytest.fixture
def viewer(service: MasterService) -> Iterator[MasterClient]:
    with client_of(service, Role.VIEWER) as client:
        yield client


@pytest.fixture
def worker(service: MasterService, admin: MasterClient) -> Iterator[LogWorker]:
    admin.declare_stream(PLATES)
    with client_of(service, Role.WORKER) as client:
        yield LogWorker(client)


@pytest.fixture
def beside() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(32) as pool:
        yield pool


def test_a_wish_reaches_the_worker_at_once_and_its_answer_the_reader(
    worker: LogWorker, viewer: MasterClient, beside: ThreadPoolExecutor
) -> None:
    served = beside.submit(worker.serve)
    assert viewer.engine_log("e1", "3", 7.5) == PART
    wish = served.result()
    assert (wish.engine, wish.after, wish.wait_s) == ("e1", "3", 7.5)
    assert worker.client.desired("w1").logs == ()


def test_each_reader_gets_what_was_wished_for(
    worker: LogWorker, viewer: MasterClient, beside: ThreadPoolExecutor
) -> None:
    reading = {after: beside.submit(viewer.engine_log, "e1", after, 10.0) for after in "123"}
    wishes: list[LogWish] = []
    while len(wishes) < 3:
        wishes += worker.wishes()
    for wish in wishes:
        worker.client.answer_log("w1", LogAnswer(wish.wish, LogPart(f"after {wish.after}", "9")))
    assert {after: each.result().text for after, each in reading.items()} == {each: f"after {each}" for each in "123"}


def test_a_full_part_of_characters_that_take_much_room_arrives(
    worker: LogWorker, viewer: MasterClient, beside: ThreadPoolExecutor
) -> None:
    part = LogPart("\x1b\ufffd" * (LOG_PART_BYTES // 2), "6", is_over=True)
    served = beside.submit(worker.serve, part)
    assert viewer.engine_log("e1") == part
    served.result()


def test_what_keeps_the_worker_from_reading_is_told(
    worker: LogWorker, viewer: MasterClient, beside: ThreadPoolExecutor
) -> None:
    for code, kind in (("not_found", NotFound), ("unavailable", Unavailable), ("", Unavailable)):
        reading = beside.submit(viewer.engine_log, "e1")
        (wish,) = worker.wishes()
        worker.client.answer_log("w1", LogAnswer(wish.wish, code=code, text="It is slow.", hint="Wait."))
        with pytest.raises(kind, match=r"It is slow. Wait."):
            reading.result()


def test_the_log_of_an_engine_that_has_ended_is_asked_for_where_it_was(
    worker: LogWorker, viewer: MasterClient, beside: ThreadPoolExecutor
) -> None:
    ended = EngineExit("e1", "plates", ExitReason.ORDERED)
    worker.client.report("w1", WorkerReport(9, (), (ended,)))
    assert viewer.engines() == ()
    served = beside.submit(worker.serve)
    assert viewer.engine_log("e1") == PART
    assert served.result().engine == "e1"


def test_an_engine_that_nobody_knows_has_no_log_and_the_hint_says_where_logs_are(
    worker: LogWorker, viewer: MasterClient
) -> None:
    worker.client.desired("w1", wait_s=10.0)  # The master has settled when it says what shall run.
    with pytest.raises(NotFound, match=r"There is no engine 'e-unknown'.*engine-logs"):
        viewer.engine_log("e-unknown")


def test_after_a_restart_engines_may_not_be_known_yet(tmp_path: Path) -> None:
    with run_master(tmp_path) as first, client_of(first, Role.ADMIN) as admin:
        admin.declare_stream(PLATES)
    with (
        run_master(tmp_path, settle_s=60.0) as second,
        client_of(second, Role.VIEWER) as viewer,
        pytest.raises(Unavailable, match="not known yet"),
    ):
        viewer.engine_log("e1")


def test_the_log_of_an_engine_of_a_lost_worker_cannot_be_read_now(worker: LogWorker, viewer: MasterClient) -> None:
    wait_until(lambda: viewer.worker("w1").state == "lost")
    with pytest.raises(Unavailable, match=r"'w1', which has engine 'e1', does not report.*worker ls"):
        viewer.engine_log("e1")


def test_a_worker_that_leaves_keeps_no_reader_waiting(
    worker: LogWorker, viewer: MasterClient, beside: ThreadPoolExecutor
) -> None:
    reading = beside.submit(viewer.engine_log, "e1", "3", 10.0)
    worker.wishes()
    worker.client.leave_worker("w1")
    with pytest.raises(Unavailable, match="does not hand over"):
        reading.result(5)
    with pytest.raises(NotFound, match="no engine 'e1'"):
        viewer.engine_log("e1")


def test_a_worker_that_does_not_answer_is_not_waited_for_long(
    worker: LogWorker, viewer: MasterClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(log_desk, "ANSWER_WITHIN_S", 0.1)
    with pytest.raises(Unavailable, match=r"Worker 'w1' does not hand over the log of engine 'e1'.*Try again"):
        viewer.engine_log("e1")
    assert worker.client.desired("w1").logs == ()


def test_readers_that_wait_are_capped_and_take_no_place_of_workers(
    service: MasterService, worker: LogWorker, viewer: MasterClient, beside: ThreadPoolExecutor
) -> None:
    clients = [client_of(service, Role.VIEWER) for _ in range(log_desk.MAX_HELD_LOGS)]
    reading = [beside.submit(client.engine_log, "e1", "3", 10.0) for client in clients]
    wait_until(lambda: f"{log_desk.MAX_HELD_LOGS} wishes" in repr(service.master.logs))
    with pytest.raises(Unavailable, match="held already"):
        viewer.engine_log("e1")
    assert service.master.held_requests == 0
    service.master.stop_waiting()
    for each, client in zip(reading, clients, strict=True):
        assert isinstance(each.exception(5), Unavailable)
        client.close()
    assert "0 wishes" in repr(service.master.logs)


def test_a_mark_or_a_part_that_is_too_long_is_refused(worker: LogWorker, viewer: MasterClient) -> None:
    with pytest.raises(InvalidInput, match="no mark"):
        viewer.engine_log("e1", "x" * 101)
    with pytest.raises(InvalidInput, match="at most 65536"):
        worker.client.answer_log("w1", LogAnswer("any", LogPart("x" * (LOG_PART_BYTES + 1), "")))


def test_a_reader_who_asks_for_no_number_of_seconds_is_answered(
    worker: LogWorker, viewer: MasterClient, beside: ThreadPoolExecutor
) -> None:
    for wait_s in (float("nan"), -1.0, 1e300):
        served = beside.submit(worker.serve)
        answer = viewer._ask_plain("GET", "/api/v1/engines/e1/log", query={"wait_s": wait_s})
        assert answer["text"] == PART.text
        assert 0.0 <= served.result().wait_s <= 10.0
