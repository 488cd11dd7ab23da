"""A worker with real engines, under a master of a few lines."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

from benches.worker import (
    BUSY,
    DRAINING,
    IDLE,
    STARTING,
    connect,
    obedient,
    pids,
    running,
    small_master,
    worker_options,
    write_code,
)
from harmonicio.control.log_messages import LogWish
from harmonicio.core.engine import ExitReason
from harmonicio.core.errors import ConfigurationError, Conflict, InvalidInput, StorageError
from harmonicio.core.message import OutcomeKind
from harmonicio.core.stream import StreamDeclaration
from harmonicio.testing.small_master import SmallMaster
from harmonicio.testing.waiting import wait_until
from harmonicio.worker.options import WorkerOptions
from harmonicio.worker.service import WorkerService


@pytest.fixture
def write_handler(tmp_path: Path) -> Callable[[str, str], str]:
    return partial(write_code, tmp_path)


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
    master.want((replace(images, timeout_s=61.0, version=2), 1))
    master.wait_for(
        lambda: [each.stream_version for each in master.engines(IDLE)] == [2] and len(master.engines()) == 1
    )
    able = [
        [each for each in report.engines if each.state.can_be_leased and each.address]
        for _, report in master.reports[seen:]
    ]
    assert all(able)
    assert master.exits[old].reason is ExitReason.ORDERED


def test_logs_are_handed_over_when_they_are_wished_for_also_of_engines_that_have_ended(
    worker: WorkerService, master: SmallMaster, images: StreamDeclaration
) -> None:
    master.want((images, 1))
    (engine,) = master.wait_for_engines(1, IDLE)
    begun = master.want_log(LogWish("w-1", engine)).part
    assert begun is not None and f"Engine {engine} serves stream images" in begun.text
    assert not begun.is_over
    master.want((images, 0))
    rest = master.want_log(LogWish("w-2", engine, begun.mark, wait_s=10.0)).part
    assert rest is not None and rest.text.count("\n") >= 1 and begun.text not in rest.text
    master.wait_for(lambda: engine in master.exits)
    end = master.want_log(LogWish("w-3", engine, rest.mark, wait_s=10.0)).part
    assert end is not None and end.is_over
    unknown = master.want_log(LogWish("w-4", "e-unknown"))
    assert (unknown.part, unknown.code) == (None, "not_found")


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
