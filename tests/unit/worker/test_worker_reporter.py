"""The threads that talk to the master."""

from __future__ import annotations

import itertools
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import closing

import pytest

from harmonicio.control.client import MasterClient
from harmonicio.control.messages import (
    Desired,
    EngineExit,
    EngineReport,
    ReportAnswer,
    RunningMessage,
    WorkerRegistration,
    WorkerReport,
    WorkerWelcome,
)
from harmonicio.core.engine import Availability, ExitReason
from harmonicio.core.errors import InvalidInput, MasterUnavailable
from harmonicio.core.stream import StreamDeclaration
from harmonicio.testing.small_master import SmallMaster
from harmonicio.testing.waiting import wait_until
from harmonicio.worker import reporter as reporter_module
from harmonicio.worker.reporter import SHORTEST_GAP_S, Reporter

IMAGES = StreamDeclaration("images", handler="images.py", version=1)


class Worker:
    """A reporter and what it has heard."""

    def __init__(
        self,
        master: SmallMaster | MasterClient,
        make_report: Callable[[int], WorkerReport] = lambda sequence: WorkerReport(sequence, ()),
    ) -> None:
        self.welcomes: list[WorkerWelcome] = []
        self.wanted: list[Desired] = []
        self.answered: list[WorkerReport] = []
        self.reporter = Reporter(
            master,
            WorkerRegistration("w-1", "host", 2, "memory", "0"),
            make_report=make_report,
            on_welcome=self.welcomes.append,
            on_desired=self.wanted.append,
            on_answered=lambda report, _: self.answered.append(report),
        )


@pytest.fixture
def master() -> SmallMaster:
    return SmallMaster()


@pytest.fixture
def start(master: SmallMaster) -> Iterator[Callable[..., Worker]]:
    started = []

    def start(*make_report: Callable[[int], WorkerReport]) -> Worker:
        worker = Worker(master, *make_report)
        worker.reporter.start()
        started.append(worker)
        return worker

    yield start
    for worker in started:
        worker.reporter.close(is_leaving=False)


def test_a_worker_registers_then_reports_and_hears_what_is_wanted(
    master: SmallMaster, start: Callable[..., Worker]
) -> None:
    worker = start()
    wait_until(lambda: worker.answered)
    master.want((IMAGES, 2))
    wait_until(lambda: worker.wanted)
    assert [each.worker for each in master.registrations] == ["w-1"]
    assert worker.welcomes[0].ticket_key == master.key
    assert worker.wanted[-1].streams[0].count == 2
    wait_until(lambda: len(master.reports) >= 3)
    sequences = [report.sequence for _, report in master.reports]
    assert sequences == sorted(set(sequences))


def test_a_change_is_reported_soon_and_many_changes_not_too_often(
    master: SmallMaster, start: Callable[..., Worker]
) -> None:
    worker = start()
    wait_until(lambda: len(master.reports) == 1)
    began = time.monotonic()
    worker.reporter.report_within(0.0)
    wait_until(lambda: len(master.reports) == 2)
    assert time.monotonic() - began < 0.3
    while time.monotonic() - began < 0.5:
        worker.reporter.report_within(0.0)
        time.sleep(0.001)
    moments = [at for at, _ in master.reports]
    assert len(moments) >= 4
    assert all(later - earlier > 0.8 * SHORTEST_GAP_S for earlier, later in itertools.pairwise(moments))


def test_a_less_urgent_change_waits_for_company(master: SmallMaster, start: Callable[..., Worker]) -> None:
    worker = start()
    wait_until(lambda: len(master.reports) == 1)
    worker.reporter.report_within(0.3)
    worker.reporter.report_within(0.2)
    wait_until(lambda: len(master.reports) == 2)
    assert master.reports[1][0] - master.reports[0][0] >= 0.15


def test_a_master_that_has_forgotten_the_worker_is_told_again_who_it_is(
    master: SmallMaster, start: Callable[..., Worker]
) -> None:
    worker = start()
    master.want((IMAGES, 1))
    wait_until(lambda: worker.wanted)
    master.forget()
    wait_until(lambda: len(master.registrations) == 2)
    count = len(worker.answered)
    wait_until(lambda: len(worker.answered) > count)
    master.want((IMAGES, 2))
    wait_until(lambda: worker.wanted[-1].streams[0].count == 2)


def test_a_master_that_is_away_is_tried_more_and_more_seldom_and_found_again(
    master: SmallMaster, start: Callable[..., Worker], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(reporter_module, "LONGEST_DELAY_S", 0.4)
    attempts: list[float] = []
    register = master.register_worker

    def count(registration: WorkerRegistration) -> WorkerWelcome:
        attempts.append(time.monotonic())
        return register(registration)

    monkeypatch.setattr(master, "register_worker", count)
    master.is_away = True
    worker = start()
    wait_until(lambda: len(attempts) >= 5)
    delays = [later - earlier for earlier, later in itertools.pairwise(attempts)]
    assert delays[0] >= 0.09
    assert max(delays) >= 0.19
    master.is_away = False
    wait_until(lambda: worker.answered)
    assert caplog.text.count("The master is away") == 1


def test_a_report_that_was_not_answered_is_not_acknowledged(
    master: SmallMaster, start: Callable[..., Worker], monkeypatch: pytest.MonkeyPatch
) -> None:
    received = []

    def lose_the_answer(worker: str, report: WorkerReport) -> ReportAnswer:
        received.append(report)
        raise MasterUnavailable("The answer was lost.")

    monkeypatch.setattr(master, "report", lose_the_answer)
    worker = start()
    wait_until(lambda: len(received) >= 2)
    assert worker.answered == []


@pytest.mark.parametrize("tolerated", ["held", "names"])
def test_a_report_that_is_too_long_is_told_without_what_makes_it_so(
    tolerated: str,
    master: SmallMaster,
    start: Callable[..., Worker],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    running, ended = (
        (RunningMessage("m-1", 0.0),),
        EngineExit("e-2", "images", ExitReason.CRASHED, "It broke.", ("m-2",)),
    )
    engine = EngineReport("e-1", "images", 1, Availability.BUSY, 0.0, running=running)
    take = master.report

    def refuse(worker: str, report: WorkerReport) -> ReportAnswer:
        if report.engines[0].running or (tolerated == "names" and report.exits[0].held):
            raise InvalidInput("A WorkerReport of 2000000 bytes is too long.")
        return take(worker, report)

    monkeypatch.setattr(master, "report", refuse)
    worker = start(lambda sequence: WorkerReport(sequence, (engine,), (ended,)))
    wait_until(lambda: len(worker.answered) >= 2)
    assert [each.engine for each in master.engines()] == ["e-1"]
    assert master.exits["e-2"].reason is ExitReason.CRASHED
    assert master.exits["e-2"].held == (("m-2",) if tolerated == "held" else ())
    assert worker.answered[0].exits == (ended,)
    assert caplog.text.count("takes no whole reports") == 1


def test_a_worker_that_leaves_reports_once_more_and_says_goodbye(master: SmallMaster) -> None:
    worker = Worker(master)
    worker.reporter.start()
    wait_until(lambda: worker.answered)
    count = len(master.reports)
    worker.reporter.close(is_leaving=True)
    worker.reporter.close(is_leaving=True)
    assert master.is_left
    assert len(master.reports) > count


def test_leaving_a_master_that_is_away_is_no_error(master: SmallMaster) -> None:
    worker = Worker(master)
    worker.reporter.start()
    wait_until(lambda: worker.answered)
    master.is_away = True
    worker.reporter.close(is_leaving=True)


def test_the_end_of_a_worker_does_not_wait_for_a_master_that_never_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reporter_module, "LEAVE_WITHIN_S", 0.3)
    with socket.create_server(("127.0.0.1", 0)) as silent, closing(MasterClient(url_of(silent))) as client:
        worker = Worker(client)
        worker.reporter.start()
        connection, _ = silent.accept()
        with connection:
            began = time.monotonic()
            worker.reporter.close(is_leaving=True)
            assert time.monotonic() - began < 3.0


def url_of(server: socket.socket) -> str:
    return f"http://127.0.0.1:{server.getsockname()[1]}"


def test_a_reporter_that_was_never_started_can_be_closed(master: SmallMaster) -> None:
    Worker(master).reporter.close(is_leaving=True)
