"""A worker with real engines, under a master of a few lines."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from selectors import DefaultSelector
from textwrap import dedent
from typing import Any

import pytest

from harmonicio.control import tickets
from harmonicio.control.handler_board import read_board
from harmonicio.core.engine import Availability, ExitReason
from harmonicio.core.errors import ConfigurationError, Conflict, InvalidInput, StorageError
from harmonicio.core.lease import Claims, TicketKind
from harmonicio.core.message import OutcomeKind
from harmonicio.core.stream import StreamDeclaration
from harmonicio.testing.bare_peers import BareConnector
from harmonicio.testing.small_master import SmallMaster
from harmonicio.testing.waiting import wait_until
from harmonicio.worker.control_desk import ControlDesk
from harmonicio.worker.controller import Controller
from harmonicio.worker.instructions import Tick
from harmonicio.worker.outfit import Outfitter
from harmonicio.worker.service import WorkerOptions, WorkerService

IDLE, BUSY, STARTING, DRAINING = Availability.IDLE, Availability.BUSY, Availability.STARTING, Availability.DRAINING

#: A handler that does what the message says.
OBEDIENT = """
    import os, time
    from harmonicio.engine import handler

    @handler
    def obey(message):
        word = bytes(message.payload).decode()
        if word.startswith("sleep"):
            time.sleep(float(word.split()[1]))
        if word == "abort":
            os.abort()
        return word
"""


@pytest.fixture
def write_handler(tmp_path: Path) -> Callable[[str, str], str]:
    def write(name: str, code: str) -> str:
        path = tmp_path / f"{name}.py"
        path.write_text(dedent(code))
        return str(path)

    return write


@pytest.fixture
def images(write_handler: Callable[[str, str], str]) -> StreamDeclaration:
    return StreamDeclaration("images", handler=write_handler("obey", OBEDIENT), timeout_s=60.0, version=1)


@pytest.fixture
def master() -> Iterator[SmallMaster]:
    """A master; in the end no engine that it ever heard of may run."""
    master = SmallMaster()
    yield master
    pids = {engine.pid for _, report in master.reports for engine in report.engines} - {0}
    wait_until(lambda: not [pid for pid in pids if is_running(pid)], 5, what="all engines to be gone")


@pytest.fixture
def options(tmp_path: Path) -> WorkerOptions:
    return WorkerOptions("w-1", tmp_path / "worker", tmp_path / "scratch", max_engines=4, orphan_after_s=5.0)


@contextmanager
def running(options: WorkerOptions, master: SmallMaster) -> Iterator[WorkerService]:
    service = WorkerService(options, master)
    try:
        service.start()
        yield service
    finally:
        service.stop(0.0)


@pytest.fixture
def worker(options: WorkerOptions, master: SmallMaster) -> Iterator[WorkerService]:
    with running(options, master) as service:
        yield service


def is_running(pid: int) -> bool:
    try:
        return Path("/proc", str(pid), "stat").read_bytes().rpartition(b")")[2].split()[0] != b"Z"
    except OSError:
        return False


def connect(master: SmallMaster, engine: str) -> BareConnector:
    """Connect to an engine with a lease that the master would give."""
    (report,) = (each for each in master.engines() if each.engine == engine)
    assert report.address is not None
    claims = Claims(TicketKind.LEASE, report.stream, 60.0, time.time(), 1, lease="l-1", engine=engine, source="source")
    ticket = tickets.sign(tickets.derive_key(master.key, "engine", engine), claims)
    return BareConnector(report.address, ticket, report.stream)


def pids(master: SmallMaster) -> dict[str, int]:
    return {each.engine: each.pid for each in master.engines()}


# ── running ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_wanted_engines_run_and_serve_and_are_gone_after_stop(
    options: WorkerOptions, worker: WorkerService, master: SmallMaster, images: StreamDeclaration
) -> None:
    master.want((images, 2))
    first, _ = master.wait_for_engines(2, IDLE)
    with connect(master, first) as connector:
        outcome = connector.outcome(connector.send(b"hello"))
    assert (outcome.kind, outcome.result) == (OutcomeKind.DONE, "hello")
    assert f"Engine {first} serves stream images" in worker.logs(first)
    load = master.reports[-1][1].load
    assert load is not None and load.memory_total_bytes > load.memory_used_bytes > 0
    assert worker.stop(10.0)
    assert worker.stop(10.0)
    assert master.is_left
    assert list((options.data_folder / "engines").iterdir()) == []
    assert {each.reason for each in master.exits.values()} == {ExitReason.ORDERED}


def test_an_engine_that_is_told_to_drain_finishes_its_message(
    worker: WorkerService, master: SmallMaster, images: StreamDeclaration
) -> None:
    master.want((images, 1))
    (engine,) = master.wait_for_engines(1, IDLE)
    with connect(master, engine) as connector:
        number = connector.send(b"sleep 3")
        master.wait_for_engines(1, BUSY)
        master.wait_for(lambda: len(master.engines()[0].running) == 1)
        master.want()
        master.wait_for_engines(1, DRAINING)
        assert connector.outcome(number).kind is OutcomeKind.DONE
    master.wait_for_engines(0)
    assert master.exits[engine].reason is ExitReason.ORDERED


def test_stopping_without_patience_kills(worker: WorkerService, master: SmallMaster, images: StreamDeclaration) -> None:
    master.want((images, 1))
    (engine,) = master.wait_for_engines(1, IDLE)
    with connect(master, engine) as connector:
        connector.send(b"sleep 600")
        master.wait_for_engines(1, BUSY)
        assert not worker.stop(0.2)
    assert master.exits[engine].reason is ExitReason.ORDERED


def test_a_new_declaration_replaces_the_engines(
    worker: WorkerService, master: SmallMaster, images: StreamDeclaration
) -> None:
    master.want((images, 1))
    (old,) = master.wait_for_engines(1, IDLE)
    seen = len(master.reports)
    master.want((replace(images, parameters={"k": 1}, version=2), 1))
    master.wait_for(
        lambda: [each.stream_version for each in master.engines(IDLE)] == [2] and len(master.engines()) == 1
    )
    able = [
        [each for each in report.engines if each.state.can_be_leased and each.address]
        for _, report in master.reports[seen:]
    ]
    assert all(able)
    assert master.exits[old].reason is ExitReason.ORDERED


def test_an_engine_in_a_long_setup_can_be_stopped(
    worker: WorkerService, master: SmallMaster, write_handler: Callable[[str, str], str]
) -> None:
    code = """
        import time
        from harmonicio.engine import handler

        def load_model(parameters):
            print("loading", flush=True)
            time.sleep(600)

        @handler(setup=load_model)
        def handle(message, model):
            return None
    """
    master.want((StreamDeclaration("slow", handler=write_handler("slow", code), version=1), 1))
    (engine,) = master.wait_for_engines(1, STARTING)
    wait_until(lambda: "loading" in worker.logs(engine))
    assert worker.stop(10.0)


# ── failures ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_an_engine_that_nobody_could_start_takes_no_place(
    worker: WorkerService, master: SmallMaster, images: StreamDeclaration
) -> None:
    broken = StreamDeclaration("broken", handler="a\0b.py", version=1)  # A master refuses to declare it.
    master.want((broken, 1))
    master.wait_for(lambda: master.exits)
    (exited,) = list(master.exits.values())[:1]
    assert (exited.reason, "null byte" in exited.text) == (ExitReason.FAILED_TO_START, True)
    master.want((images, 2))
    master.wait_for_engines(2, IDLE)


@pytest.mark.parametrize(
    ("code", "words"),
    [
        ("import a_package_that_is_not_there", "a_package_that_is_not_there"),
        ("x = 1", "has no handler"),
        ("def broken(:", "broken.py"),
    ],
)
def test_a_handler_that_cannot_be_loaded_is_said_and_tried_again_with_pauses(
    worker: WorkerService, master: SmallMaster, write_handler: Callable[[str, str], str], code: str, words: str
) -> None:
    master.want((StreamDeclaration("broken", handler=write_handler("broken", code), version=1), 1))
    began = time.monotonic()
    master.wait_for(lambda: len(master.exits) >= 2)
    assert time.monotonic() - began > 0.375
    (trouble,) = master.reports[-1][1].troubles
    assert trouble.stream == "broken"
    assert words in trouble.text
    first = next(iter(master.exits.values()))
    assert first.reason is ExitReason.FAILED_TO_START
    assert "exit code 3" in first.text
    assert words in worker.logs(first.engine)


def test_a_handler_file_that_is_missing_is_said(worker: WorkerService, master: SmallMaster) -> None:
    master.want((StreamDeclaration("missing", handler="/nowhere/handler.py", version=1), 1))
    master.wait_for(lambda: master.exits)
    assert "/nowhere/handler.py" in next(iter(master.exits.values())).text


def test_a_killed_engine_is_replaced(worker: WorkerService, master: SmallMaster, images: StreamDeclaration) -> None:
    master.want((images, 1))
    (engine,) = master.wait_for_engines(1, IDLE)
    os.kill(pids(master)[engine], signal.SIGKILL)
    master.wait_for(lambda: engine in master.exits)
    master.wait_for_engines(1, IDLE)
    assert master.exits[engine].reason is ExitReason.CRASHED
    assert master.exits[engine].text.startswith("It ended by signal 9.")


def test_a_crash_names_the_message_that_was_running(
    worker: WorkerService, master: SmallMaster, images: StreamDeclaration
) -> None:
    master.want((images, 1))
    (engine,) = master.wait_for_engines(1, IDLE)
    with connect(master, engine) as connector:
        connector.send(b"sleep 0.5", message_id="m-before")
        connector.outcome(0)
        connector.send(b"sleep 600", message_id="m-poison")
        master.wait_for(lambda: "m-poison" in [each.message for on in master.engines() for each in on.running])
        os.kill(pids(master)[engine], signal.SIGSEGV)
        master.wait_for(lambda: engine in master.exits)
    assert master.exits[engine].held == ("m-poison",)


def test_a_message_that_runs_too_long_costs_its_engine(
    worker: WorkerService, master: SmallMaster, images: StreamDeclaration
) -> None:
    master.want((replace(images, timeout_s=1.0), 1))
    (engine,) = master.wait_for_engines(1, IDLE)
    with connect(master, engine) as connector:
        connector.send(b"sleep 600", message_id="m-slow")
        master.wait_for(lambda: engine in master.exits)
    ended = master.exits[engine]
    assert (ended.reason, ended.held) == (ExitReason.TIMED_OUT, ("m-slow",))
    master.wait_for(lambda: [each.engine for each in master.engines(IDLE)] not in ([], [engine]))


def test_a_frozen_engine_is_killed_when_its_message_has_had_its_time(
    worker: WorkerService, master: SmallMaster, images: StreamDeclaration
) -> None:
    master.want((replace(images, timeout_s=2.0), 1))
    (engine,) = master.wait_for_engines(1, IDLE)
    with connect(master, engine) as connector:
        connector.send(b"sleep 600", message_id="m-1")
        master.wait_for_engines(1, BUSY)
        os.kill(pids(master)[engine], signal.SIGSTOP)
        master.wait_for(lambda: engine in master.exits)
    ended = master.exits[engine]
    assert (ended.reason, ended.held) == (ExitReason.TIMED_OUT, ("m-1",))


# ── controllers and masters that come and go ─────────────────────────────────────────────────────────────────────────


def test_a_master_that_goes_away_stops_no_engine(
    worker: WorkerService, master: SmallMaster, images: StreamDeclaration
) -> None:
    master.want((images, 1))
    (engine,) = master.wait_for_engines(1, IDLE)
    with connect(master, engine) as connector:
        master.is_away = True
        master.forget()
        assert connector.outcome(connector.send(b"still here")).result == "still here"
        master.is_away = False
        registered = len(master.registrations)
        master.wait_for(lambda: len(master.registrations) > registered)
    count = len(master.reports)
    master.wait_for(lambda: len(master.reports) > count)
    assert master.wait_for_engines(1, IDLE) == [engine]


def test_another_master_gets_engines_of_its_own(
    worker: WorkerService, master: SmallMaster, images: StreamDeclaration
) -> None:
    master.want((images, 1))
    (old,) = master.wait_for_engines(1, IDLE)
    master.key = tickets.new_key()
    master.forget()
    master.wait_for(
        lambda: len(master.engines()) == 1 and [each.engine for each in master.engines(IDLE)] not in ([], [old])
    )
    (new,) = master.wait_for_engines(1, IDLE)
    with connect(master, new) as connector:
        assert connector.outcome(connector.send(b"hello")).kind is OutcomeKind.DONE


def fail_once(monkeypatch: pytest.MonkeyPatch, noun: type, verb: str, kind: type = object) -> None:
    """Have a method raise the first time that its first argument is of this kind."""
    act, has_failed = getattr(noun, verb), threading.Event()

    def fail_or_act(self: Any, first: Any, *others: Any) -> Any:
        if isinstance(first, kind) and not has_failed.is_set():
            has_failed.set()
            raise MemoryError(f"{verb}, once")
        return act(self, first, *others)

    monkeypatch.setattr(noun, verb, fail_or_act)


@pytest.mark.parametrize(
    ("noun", "verb", "kind"),
    [
        (Controller, "handle", Tick),
        (Controller, "report", int),
        (ControlDesk, "serve", tuple),
        (ControlDesk, "announce_epoch", int),
        (DefaultSelector, "select", float),
    ],
)
def test_one_error_of_its_own_ends_neither_the_worker_nor_its_reports(
    options: WorkerOptions,
    master: SmallMaster,
    images: StreamDeclaration,
    noun: type,
    verb: str,
    kind: type,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    fail_once(monkeypatch, noun, verb, kind)
    with running(options, master):
        master.want((images, 1))
        master.wait_for_engines(1, IDLE)
    assert f"MemoryError: {verb}, once" in caplog.text


def test_an_error_of_its_own_shows_no_key_in_the_log(
    options: WorkerOptions, master: SmallMaster, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    fail_once(monkeypatch, Outfitter, "bond")
    with running(options, master):
        wait_until(lambda: "The worker goes on without this: _take(WorkerWelcome)" in caplog.text)
    assert master.key not in caplog.text


def test_the_end_of_an_engine_and_what_it_held_are_noticed_although_its_last_words_could_not_be_heard(
    worker: WorkerService, master: SmallMaster, images: StreamDeclaration, monkeypatch: pytest.MonkeyPatch
) -> None:
    master.want((images, 1))
    (engine,) = master.wait_for_engines(1, IDLE)
    has_ended = threading.Event()

    def fail(*_: Any) -> None:
        has_ended.set()
        raise MemoryError("once")

    with monkeypatch.context() as errors, connect(master, engine) as connector:
        errors.setattr(ControlDesk, "last_words", fail)
        board = "harmonicio.worker.service.read_board"
        errors.setattr(board, lambda path: read_board(path) if has_ended.is_set() else None)
        connector.send(b"abort", message_id="m-poison")
        master.wait_for(lambda: engine in master.exits)
    assert master.exits[engine].held == ("m-poison",)
    assert master.wait_for_engines(1, IDLE) != [engine]


def test_the_next_service_adopts_the_engines_of_an_abandoned_one(
    options: WorkerOptions, master: SmallMaster, images: StreamDeclaration
) -> None:
    first = WorkerService(options, master)
    first.start()
    master.want((images, 2))
    before = set(master.wait_for_engines(2, IDLE))
    engine = min(before)
    processes = pids(master)
    with connect(master, engine) as connector:
        first.abandon()
        first.abandon()
        assert first.stop(0.0)  # There is nothing left to stop.
        assert connector.outcome(connector.send(b"nobody watches")).kind is OutcomeKind.DONE
        count = len(master.reports)
        with running(options, master):
            master.wait_for(lambda: len(master.reports) > count)
            assert set(master.wait_for_engines(2, IDLE)) == before
            assert pids(master) == processes
            assert connector.outcome(connector.send(b"untouched")).kind is OutcomeKind.DONE
            os.kill(processes[engine], signal.SIGKILL)
            master.wait_for(lambda: engine in master.exits)
            master.wait_for_engines(2, IDLE)


def test_an_engine_that_ended_while_nobody_watched_is_told(
    options: WorkerOptions, master: SmallMaster, images: StreamDeclaration
) -> None:
    first = WorkerService(options, master)
    first.start()
    master.want((images, 1))
    (engine,) = master.wait_for_engines(1, IDLE)
    pid = pids(master)[engine]
    first.abandon()
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    (options.data_folder / "engines" / "e-cut-off").mkdir()
    with running(options, master):
        master.wait_for(lambda: engine in master.exits)
        assert master.exits[engine].reason is ExitReason.UNKNOWN
        (other,) = master.wait_for_engines(1, IDLE)
        assert [path.name for path in (options.data_folder / "engines").iterdir()] == [other]


def test_an_engine_without_a_controller_ends_by_itself(
    options: WorkerOptions, master: SmallMaster, images: StreamDeclaration
) -> None:
    service = WorkerService(replace(options, orphan_after_s=1.0), master)
    service.start()
    master.want((images, 1))
    (engine,) = master.wait_for_engines(1, IDLE)
    pid = pids(master)[engine]
    service.abandon()
    _, status = os.waitpid(pid, 0)
    assert os.waitstatus_to_exitcode(status) == 0


# ── what cannot be used ──────────────────────────────────────────────────────────────────────────────────────────────


def test_a_data_folder_belongs_to_one_worker_at_a_time(options: WorkerOptions, worker: WorkerService) -> None:
    with pytest.raises(Conflict, match="Another worker uses"):
        WorkerService(options, SmallMaster())
    worker.stop(0.0)
    WorkerService(options, SmallMaster()).stop(0.0)


def test_a_data_folder_with_a_long_path_is_fine(
    tmp_path: Path, options: WorkerOptions, master: SmallMaster, images: StreamDeclaration
) -> None:
    far_away = tmp_path / ("deep" * 20) / ("deeper" * 20)
    with running(replace(options, data_folder=far_away), master):
        master.want((images, 1))
        master.wait_for_engines(1, IDLE)


def test_options_that_cannot_be_used_are_refused(tmp_path: Path, options: WorkerOptions) -> None:
    (tmp_path / "file").write_text("")
    for given, error in (
        (replace(options, name="../w"), InvalidInput),
        (replace(options, runtime="abacus"), ConfigurationError),
        (replace(options, data_folder=tmp_path / "file"), StorageError),
        (replace(options, scratch_folder=tmp_path / "file" / "scratch"), StorageError),
    ):
        with pytest.raises(error):
            WorkerService(given, SmallMaster())
    WorkerService(options, SmallMaster()).stop(0.0)
