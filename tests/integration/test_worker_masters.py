"""Controllers and masters that come and go, and errors of our own: the engines stay watched."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from selectors import DefaultSelector
from typing import Any

import pytest

from benches.worker import (
    IDLE,
    connect,
    obedient,
    pids,
    running,
    small_master,
    worker_options,
)
from harmonicio.control import tickets
from harmonicio.control.handler_board import read_board
from harmonicio.core.engine import ExitReason
from harmonicio.core.message import OutcomeKind
from harmonicio.core.stream import StreamDeclaration
from harmonicio.testing.small_master import SmallMaster
from harmonicio.testing.waiting import wait_until
from harmonicio.worker.control_desk import ControlDesk
from harmonicio.worker.controller import Controller
from harmonicio.worker.instructions import Tick
from harmonicio.worker.options import WorkerOptions
from harmonicio.worker.outfit import Outfitter
from harmonicio.worker.service import WorkerService


@pytest.fixture
def images(tmp_path: Path) -> StreamDeclaration:
    return obedient(tmp_path)


@pytest.fixture
def master() -> Iterator[SmallMaster]:
    with small_master() as running_master:
        yield running_master


@pytest.fixture
def options(tmp_path: Path) -> WorkerOptions:
    return worker_options(tmp_path)


@pytest.fixture
def worker(options: WorkerOptions, master: SmallMaster) -> Iterator[WorkerService]:
    with running(options, master) as service:
        yield service


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
        errors.setattr(board, lambda path, rows: read_board(path, rows) if has_ended.is_set() else None)
        connector.send(b"abort", message_id="m-poison")
        master.wait_for(lambda: engine in master.exits)
    assert master.exits[engine].held == ("m-poison",)
    assert master.wait_for_engines(1, IDLE) != [engine]


def test_an_engine_is_forgotten_although_one_of_the_steps_fails(
    worker: WorkerService,
    master: SmallMaster,
    images: StreamDeclaration,
    options: WorkerOptions,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    master.want((images, 1))
    (engine,) = master.wait_for_engines(1, IDLE)
    with monkeypatch.context() as errors:
        fail_once(errors, ControlDesk, "close", str)
        os.kill(pids(master)[engine], signal.SIGKILL)
        master.wait_for(lambda: engine in master.exits)
        master.wait_for_engines(1, IDLE)
    wait_until(lambda: engine not in os.listdir(options.data_folder / "engines"))


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
        wait_until(lambda: [path.name for path in (options.data_folder / "engines").iterdir()] == [other])


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
