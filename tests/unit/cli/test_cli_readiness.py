"""What is said about engines that come up, come late or do not come."""

from __future__ import annotations

from harmonicio.cli.readiness import READY_WITHIN_S, Readiness
from harmonicio.control.messages import BacklogFigures, StreamTrouble, StreamView, WorkerView
from harmonicio.core.stream import StreamDeclaration


def view(name: str, running: int, desired: int, unplaced: int = 0) -> StreamView:
    figures = BacklogFigures(name, 0, 0, 0, 0, 0.0, 0, 0)
    return StreamView(StreamDeclaration(name, handler="h.py", engines=desired), desired, running, unplaced, figures)


def worker(*troubles: StreamTrouble) -> WorkerView:
    return WorkerView("w", "127.0.0.1", "present", 2, 0, 0, True, 0.1, troubles=troubles)


def test_a_stream_that_is_ready_is_said_once() -> None:
    readiness = Readiness(["plates"])
    assert readiness.news([view("plates", 0, 1)], [worker()], 0.5) == []
    assert not readiness.is_settled
    assert readiness.news([view("plates", 1, 1)], [worker()], 1.0) == ["Stream 'plates' is ready with 1 engine."]
    assert readiness.news([view("plates", 1, 1)], [worker()], 2.0) == []
    assert readiness.is_settled


def test_the_worker_s_trouble_is_said_as_soon_as_it_is_known() -> None:
    readiness = Readiness(["plates"])
    trouble = StreamTrouble("plates", "SyntaxError: invalid syntax.", 4.0)
    (line,) = readiness.news([view("plates", 0, 2)], [worker(trouble)], 1.0)
    assert line == "Stream 'plates' has 0 of 2 engines: SyntaxError: invalid syntax."
    assert readiness.is_settled


def test_a_trouble_that_the_next_engine_has_too_is_said_once() -> None:
    readiness, missing = Readiness(["plates"]), [view("plates", 0, 1)]
    first = StreamTrouble("plates", "Engine e-1: ImportError: no module lab.", 1.0)
    second = StreamTrouble("plates", "Engine e-2: ImportError: no module lab.", 2.0)
    (line,) = readiness.news(missing, [worker(first)], 1.0)
    assert line == "Stream 'plates' has 0 of 1 engine: ImportError: no module lab."
    assert readiness.news(missing, [worker(second)], 2.0) == []


def test_who_holds_the_places_that_are_missing_is_named_with_the_way_to_free_them() -> None:
    readiness = Readiness(["plates"])
    views = [view("plates", 1, 2, unplaced=1), view("echo", 1, 1)]
    assert readiness.news(views, [worker()], 1.0) == []
    (line,) = readiness.news(views, [worker()], 5.0)
    assert "1 of 2 engines" in line
    assert "'echo' holds 1; free them with: harmonicio stream rm NAME" in line


def test_engines_that_are_late_are_said_once_and_ready_later_all_the_same() -> None:
    readiness = Readiness(["plates"])
    assert readiness.news([view("plates", 0, 1)], [worker()], READY_WITHIN_S - 1) == []
    (line,) = readiness.news([view("plates", 0, 1)], [worker()], READY_WITHIN_S + 1)
    assert line == "Stream 'plates' has 0 of 1 engine after 60 s. See: harmonicio status"
    assert readiness.news([view("plates", 0, 1)], [worker()], READY_WITHIN_S + 2) == []
    assert readiness.news([view("plates", 1, 1)], [worker()], 90.0) == ["Stream 'plates' is ready with 1 engine."]


def test_a_stream_that_somebody_removed_is_said() -> None:
    assert Readiness(["plates"]).news([], [worker()], 1.0) == ["Stream 'plates' has been removed."]


def test_an_engine_that_is_replaced_is_not_late_at_once_however_long_all_has_run() -> None:
    readiness = Readiness(["plates"])
    ready = ["Stream 'plates' is ready with 1 engine."]
    assert readiness.news([view("plates", 1, 1)], [worker()], 500.0) == ready
    assert readiness.news([view("plates", 0, 1)], [worker()], 501.0) == []
    assert len(readiness.news([view("plates", 0, 1)], [worker()], 500.0 + READY_WITHIN_S)) == 1
