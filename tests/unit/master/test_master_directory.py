"""The directory knows who is there, and who went silent."""

from __future__ import annotations

import dataclasses

import pytest

from harmonicio.control.messages import EngineExit, EngineReport, RunningMessage, WorkerRegistration, WorkerReport
from harmonicio.core.engine import Availability, ExitReason
from harmonicio.core.errors import Conflict, InvalidInput
from harmonicio.core.lease import Address
from harmonicio.master import directory as directory_module
from harmonicio.master.directory import Directory


def registration(worker: str = "w1", max_engines: int = 4) -> WorkerRegistration:
    return WorkerRegistration(worker, "127.0.0.1", max_engines, "process", "1.0")


def engine(name: str = "w1-e1", state: Availability = Availability.IDLE, since_s: float = 0.0) -> EngineReport:
    return EngineReport(name, "plates", 1, state, since_s, address=Address("127.0.0.1", 4000))


def report(sequence: int, *engines: EngineReport, exits: tuple[EngineExit, ...] = ()) -> WorkerReport:
    return WorkerReport(sequence, engines, exits=exits)


@pytest.fixture
def directory() -> Directory:
    known = Directory(lost_after_s=5.0, forget_after_s=100.0)
    known.register(registration(), now=0.0)
    return known


def test_a_worker_takes_part_from_its_first_report_on(directory: Directory) -> None:
    worker = directory.worker("w1")
    assert worker is not None and worker.state == "joining"
    assert directory.report("w1", report(0, engine()), now=1.0).has_returned
    assert worker.state == "present" and directory.can_be_leased("w1-e1")


def test_a_report_of_an_unknown_worker_is_answered_so() -> None:
    assert not Directory().report("w9", report(0), now=0.0).is_known


def test_a_silent_worker_is_lost_with_its_engines(directory: Directory) -> None:
    directory.report("w1", report(0, engine()), now=1.0)
    assert directory.expire(now=6.0) == ()
    assert directory.expire(now=6.1) == ("w1-e1",)
    known = directory.engine("w1-e1")
    assert known is not None and known.state is Availability.LOST and known.since == 6.1
    assert not directory.can_be_leased("w1-e1")
    assert directory.expire(now=7.0) == ()


def test_engines_that_have_handled_more_than_before_are_told(directory: Directory) -> None:
    slow, quick = engine("w1-slow"), engine("w1-quick")
    directory.report("w1", report(0, slow, quick), now=1.0)
    more = dataclasses.replace(quick, handled=3)
    assert directory.report("w1", report(1, slow, more), now=2.0).progressed == ("w1-quick",)
    assert directory.report("w1", report(2, slow, more), now=3.0).progressed == ()
    assert directory.report("w1", report(1, slow, quick), now=4.0).progressed == ()


def test_an_engine_whose_handler_has_just_returned_has_progressed(directory: Directory) -> None:
    runs = dataclasses.replace(engine("w1-slow"), running=(RunningMessage("m", 500.0),))
    keeps = dataclasses.replace(runs, running=(RunningMessage("m", 0.5, has_returned=True),))
    progressed = [directory.report("w1", report(at, said), now=at).progressed for at, said in enumerate((runs, runs))]
    assert progressed == [(), ()]
    assert directory.report("w1", report(2, keeps), now=2.0).progressed == ("w1-slow",)
    assert directory.report("w1", report(3, keeps), now=3.0).progressed == ()


@pytest.mark.parametrize("has_returned", [False, True])
def test_an_engine_whose_plugin_calls_the_handler_again_has_progressed(
    directory: Directory, *, has_returned: bool
) -> None:
    progressed = []
    for at, seconds in enumerate((490.0, 500.0, 9.9, 19.9)):
        said = dataclasses.replace(engine("w1-e1"), running=(RunningMessage("m", seconds, has_returned=has_returned),))
        progressed.append(directory.report("w1", report(at, said), now=at).progressed)
    assert progressed == [(), (), ("w1-e1",), ()]


def test_a_lost_workers_next_report_brings_its_engines_back(directory: Directory) -> None:
    directory.report("w1", report(0, engine()), now=1.0)
    directory.expire(now=20.0)
    assert directory.report("w1", report(1, engine()), now=21.0).has_returned
    assert directory.can_be_leased("w1-e1")


def test_a_name_belongs_to_one_worker_until_that_is_lost(directory: Directory) -> None:
    other = dataclasses.replace(registration(), host="elsewhere", identity="other")
    directory.report("w1", report(0, engine()), now=1.0)
    with pytest.raises(Conflict, match="has the name 'w1'"):
        directory.register(other, now=2.0)
    assert directory.can_be_leased("w1-e1")
    directory.register(registration(), now=3.0)
    directory.expire(now=20.0)
    directory.register(other, now=21.0)
    with pytest.raises(Conflict):
        directory.register(registration(), now=22.0)


def test_a_late_report_changes_nothing(directory: Directory) -> None:
    directory.report("w1", report(5, engine()), now=1.0)
    assert directory.report("w1", report(4), now=1.1).is_known
    assert directory.report("w1", report(5), now=1.2).is_known
    assert directory.can_be_leased("w1-e1")


def test_a_controller_that_was_restarted_counts_from_zero_again_and_stays_present(directory: Directory) -> None:
    directory.report("w1", report(50, engine()), now=1.0)
    directory.register(registration(), now=2.0)
    worker = directory.worker("w1")
    assert worker is not None and worker.is_present
    directory.report("w1", report(0, engine("w1-e2")), now=2.5)
    assert [name for name, _ in directory.engines()] == ["w1-e2"]


@pytest.mark.parametrize("state", [Availability.STARTING, Availability.DRAINING, Availability.LOST])
def test_an_engine_that_stops_taking_messages_is_reported_as_unavailable(
    directory: Directory, state: Availability
) -> None:
    directory.report("w1", report(0, engine("w1-e1"), engine("w1-e2")), now=1.0)
    heard = directory.report("w1", report(1, engine("w1-e1", state), engine("w1-e2", Availability.BUSY)), now=2.0)
    assert heard.unavailable == ("w1-e1",)


def test_an_engine_without_an_address_cannot_be_leased(directory: Directory) -> None:
    directory.report("w1", report(0, EngineReport("w1-e1", "plates", 1, Availability.IDLE, 0.0)), now=1.0)
    assert not directory.can_be_leased("w1-e1")


def test_an_exit_that_is_reported_again_is_heard_once(directory: Directory) -> None:
    ended = EngineExit("w1-e1", "plates", ExitReason.CRASHED, "signal 9")
    assert directory.report("w1", report(0, exits=(ended,)), now=1.0).exits == (ended,)
    assert directory.report("w1", report(1, exits=(ended,)), now=2.0).exits == ()
    assert directory.exits() == (ended,)


def test_an_engine_that_ended_by_itself_is_shown_as_lost_for_a_while(directory: Directory) -> None:
    directory.report("w1", report(0, engine(), engine("w1-e2")), now=1.0)
    ended = EngineExit("w1-e1", "plates", ExitReason.CRASHED, "signal 9")
    heard = directory.report("w1", report(1, engine("w1-e2"), exits=(ended,)), now=2.0)
    assert heard.unavailable == ("w1-e1",)
    for sequence, now in ((2, 2.5), (3, 61.0)):
        directory.report("w1", report(sequence, engine("w1-e2")), now=now)
        known = directory.engine("w1-e1")
        assert known is not None and (known.state, known.since) == (Availability.LOST, 2.0)
        assert not directory.can_be_leased("w1-e1")
    directory.report("w1", report(4, engine("w1-e2")), now=62.0)
    assert [name for name, _ in directory.engines()] == ["w1-e2"]


def test_an_engine_that_was_told_to_end_is_not_shown_any_more(directory: Directory) -> None:
    directory.report("w1", report(0, engine()), now=1.0)
    ended = EngineExit("w1-e1", "plates", ExitReason.ORDERED)
    directory.report("w1", report(1, exits=(ended,)), now=2.0)
    assert directory.engine("w1-e1") is None


def test_ended_engines_that_are_shown_are_bounded(directory: Directory) -> None:
    for number in range(100):
        name = f"e{number}"
        directory.report("w1", report(2 * number, engine(name)), now=1.0)
        directory.report("w1", report(2 * number + 1, exits=(EngineExit(name, "plates", ExitReason.CRASHED),)), now=1.0)
    assert len(list(directory.engines())) == directory_module.MAX_ENDED_SHOWN


def test_a_worker_cannot_report_the_end_of_another_ones_engine(directory: Directory) -> None:
    directory.register(registration("w2"), now=0.0)
    directory.report("w1", report(0, engine()), now=1.0)
    heard = directory.report("w2", report(0, exits=(EngineExit("w1-e1", "plates", ExitReason.CRASHED),)), now=1.0)
    assert heard.exits == ()
    assert directory.can_be_leased("w1-e1")


def test_remembered_exits_are_bounded(directory: Directory, monkeypatch: pytest.MonkeyPatch) -> None:
    exits = tuple(EngineExit(f"e{n}", "plates", ExitReason.CRASHED) for n in range(1_500))
    directory.report("w1", report(0, exits=exits), now=1.0)
    assert len(directory.exits()) == directory_module.MAX_REMEMBERED_EXITS


def test_an_engine_id_belongs_to_the_worker_that_reported_it_first(directory: Directory) -> None:
    directory.register(registration("w2"), now=0.0)
    directory.report("w1", report(0, engine()), now=1.0)
    directory.report("w2", report(0, engine()), now=1.0)
    known = directory.engine("w1-e1")
    assert known is not None and known.worker == "w1"
    directory.report("w2", report(1, engine()), now=9.0)
    directory.expire(now=9.0)
    directory.report("w2", report(2, engine()), now=9.5)
    known = directory.engine("w1-e1")
    assert known is not None and known.worker == "w2"


def test_a_worker_that_leaves_takes_its_engines_along(directory: Directory) -> None:
    directory.report("w1", report(0, engine()), now=1.0)
    assert directory.leave("w1") == ("w1-e1",)
    assert directory.engine("w1-e1") is None and directory.worker("w1") is None
    assert directory.leave("w1") == ()


def test_a_worker_that_was_lost_for_long_is_forgotten(directory: Directory) -> None:
    directory.report("w1", report(0, engine()), now=0.0)
    directory.expire(now=10.0)
    directory.expire(now=100.1)
    assert directory.worker("w1") is None and directory.engine("w1-e1") is None


@pytest.mark.parametrize(
    "bad",
    [
        report(0, engine("../etc")),
        report(0, EngineReport("e1", "a/b", 1, Availability.IDLE, 0.0)),
    ],
)
def test_a_report_that_cannot_be_used_changes_nothing(directory: Directory, bad: WorkerReport) -> None:
    directory.report("w1", report(0, engine()), now=1.0)
    with pytest.raises(InvalidInput):
        directory.report("w1", bad, now=2.0)
    assert directory.can_be_leased("w1-e1")


@pytest.mark.parametrize(
    "address", [Address("127.0.0.1", 0), Address("127.0.0.1", 70_000), Address("", 1), Address("h" * 999, 1)]
)
def test_an_engine_without_a_usable_address_is_not_leased_and_costs_its_worker_nothing(
    directory: Directory, address: Address, caplog: pytest.LogCaptureFixture
) -> None:
    bad = dataclasses.replace(engine("w1-e2"), address=address)
    for sequence in range(3):
        assert directory.report("w1", report(sequence, engine(), bad), now=1.0).is_known
    assert directory.can_be_leased("w1-e1")
    assert not directory.can_be_leased("w1-e2")
    assert directory.engine("w1-e2") is not None
    assert caplog.text.count("Engine w1-e2 of worker w1 cannot be leased") == 1
    directory.report("w1", report(3, engine(), engine("w1-e2")), now=2.0)
    assert directory.can_be_leased("w1-e2")


@pytest.mark.parametrize(("worker", "max_engines"), [("a b", 1), ("", 1), ("w" * 101, 1), ("w1", -1), ("w1", 10_001)])
def test_a_registration_that_cannot_be_used_is_refused(worker: str, max_engines: int) -> None:
    with pytest.raises(InvalidInput):
        Directory().register(registration(worker, max_engines), now=0.0)
