"""``python -m harmonicio.engine`` as a controller runs it: configuration on standard input, signals, exit codes."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest

from harmonicio.control import json_codec
from harmonicio.control.engine_messages import EngineConfiguration, EngineOrder
from harmonicio.control.handler_board import BOARD_NAME, read_board
from harmonicio.core.errors import ConnectionEnded
from harmonicio.core.message import Outcome, OutcomeKind, RejectReason
from harmonicio.core.stream import StreamDeclaration
from harmonicio.testing.bare_peers import BareConnector, BareController, BareMaster, configuration_of, lease_ticket
from harmonicio.testing.waiting import wait_until
from harmonicio.wire.frames import Flag

NOOP = "@handler\ndef noop(message): return None"
SLOW = "import time\n@handler\ndef slow(message): time.sleep(message.metadata.get('seconds', 0.02))"


@dataclass
class Running:
    """One engine process and its peers."""

    process: subprocess.Popen[bytes]
    configuration: EngineConfiguration
    master: BareMaster
    controller: BareController
    log: Path

    def connector(self) -> BareConnector:
        wait_until(lambda: self.controller.last and self.controller.last.address, 20, what="the engine's address")
        report = self.controller.last
        assert report is not None
        assert report.address is not None
        return BareConnector(report.address, lease_ticket(self.configuration), "cells")

    def exit_code(self, timeout_s: float = 20.0) -> int:
        return self.process.wait(timeout_s)

    @property
    def last_line(self) -> str:
        return self.log.read_text().splitlines()[-1]


Start = Callable[..., Running]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    with ExitStack() as exits:

        def start_process(
            code: str, *, folder: Path = tmp_path, orphan_after_s: float = 60.0, **fields: Any
        ) -> Running:
            path = tmp_path / "mine.py"
            path.write_text("from harmonicio.engine import handler\n" + dedent(code))
            master, controller = BareMaster(), BareController(folder / "control.sock")
            exits.callback(master.close)
            exits.callback(controller.close)
            configuration = configuration_of(
                folder,
                StreamDeclaration("cells", handler=str(path), **fields),
                master_data=master.address,
                orphan_after_s=orphan_after_s,
            )
            log = tmp_path / "engine.log"
            with log.open("wb") as output:
                process = subprocess.Popen(
                    [sys.executable, "-m", "harmonicio.engine", str(path)], stdin=subprocess.PIPE, stderr=output
                )
            exits.callback(process.wait)
            exits.callback(process.kill)
            assert process.stdin is not None
            process.stdin.write(json_codec.dumps(configuration) + b"\n")
            process.stdin.close()
            return Running(process, configuration, master, controller, log)

        yield start_process


def test_an_engine_starts_works_and_drains_on_its_controllers_order(start: Start) -> None:
    engine = start(NOOP)
    with engine.connector() as connector:
        connector.send_many(bytes(1000), 2_000)
        assert {each.kind for each in connector.wait_for_outcomes(2_000).values()} == {OutcomeKind.DONE}
        engine.controller.order(EngineOrder(10.0))
        connector.wait(lambda: connector.drain is not None)
    assert engine.exit_code() == 0
    assert engine.controller.states[-1] == "draining"
    assert engine.controller.last is not None
    assert (engine.controller.last.pid, engine.controller.last.handled) == (engine.process.pid, 2_000)


def test_sigterm_under_load_answers_every_message_once_and_exits_0(start: Start) -> None:
    engine = start("@handler\ndef count(message):\n    return sum(message.payload[:2000])")
    with engine.connector() as connector:
        connector.send_many(bytes(5_000), 1_000)
        stop_at = threading.Timer(0.1, engine.process.send_signal, [signal.SIGTERM])
        stop_at.start()
        while connector.drain is None:
            connector.send_many(bytes(5_000), 20)
        sent = connector.credit.sent
        outcomes = dict(connector.wait_for_outcomes(sent))
        stop_at.join()
    assert engine.exit_code() == 0
    assert len(outcomes) == sent
    assert {_kind(outcome) for outcome in outcomes.values()} <= {OutcomeKind.DONE, RejectReason.DRAINING}
    done = sum(outcome.kind is OutcomeKind.DONE for outcome in outcomes.values())
    assert engine.controller.last is not None
    assert 0 < done == engine.controller.last.handled


def test_a_handler_that_runs_beyond_the_deadline_is_left_behind_with_exit_code_1(start: Start) -> None:
    engine = start(SLOW)
    with engine.connector() as connector:
        connector.send(metadata={"seconds": 60})
        wait_until(lambda: engine.controller.last and engine.controller.last.running)
        engine.controller.order(EngineOrder(0.3))
        assert engine.exit_code() == 1
        with pytest.raises(ConnectionEnded):
            connector.wait_for_outcomes(1)
    assert "deadline" in engine.last_line


def test_a_second_signal_ends_an_engine_at_once(start: Start) -> None:
    engine = start(SLOW)
    with engine.connector() as connector:
        connector.send(metadata={"seconds": 60})
        wait_until(lambda: engine.controller.last and engine.controller.last.running)
        engine.process.send_signal(signal.SIGTERM)
        connector.wait(lambda: connector.drain is not None)
        assert engine.process.poll() is None
        engine.process.send_signal(signal.SIGTERM)
        assert engine.exit_code() == 1
    assert "deadline" in engine.last_line


CLOSES_FILES = """
    import os, time
    @handler
    def close(message):
        if message.metadata.get("close"):
            os.closerange(3, 1024)
        time.sleep(message.metadata.get("seconds", 0.0))
"""


@pytest.mark.parametrize(
    ("said", "blamed"),
    [
        ({"flags": int(Flag.SUSPECT), "metadata": {"close": True}}, ["m-1"]),
        ({"flags": int(Flag.SUSPECT), "metadata": {"close": True, "seconds": 60}}, ["m-1"]),
        ({"metadata": {"close": True}}, []),
        ({"metadata": {"close": True, "seconds": 60}}, []),
    ],
    ids=["a suspect", "a suspect that goes on", "another", "another that goes on"],
)
def test_an_engine_whose_own_parts_are_gone_ends_and_only_a_suspect_is_blamed(
    start: Start, tmp_path: Path, said: dict[str, Any], blamed: list[str]
) -> None:
    engine = start(CLOSES_FILES, concurrency=2)
    with engine.connector() as connector:
        connector.send(message_id="m-1", **said)
        assert engine.exit_code() == 4
    assert "is gone: a handler has broken its process" in engine.last_line
    board = read_board(tmp_path / BOARD_NAME, 2)
    assert board is not None
    assert [each.message for each in board] == blamed


STUCK_LOG = """
import logging, threading, time
from harmonicio.engine.run import _end_broken

is_stuck = threading.Event()

class Stuck(logging.Handler):
    def emit(self, record):
        is_stuck.set()
        time.sleep(600)

logging.getLogger().addHandler(Stuck())
threading.Thread(target=logging.warning, args=("x",), daemon=True).start()
is_stuck.wait()
_end_broken("A part is gone.")
"""


def test_a_log_that_stands_still_keeps_no_broken_engine_from_ending_nor_from_saying_why() -> None:
    ended = subprocess.run([sys.executable, "-c", STUCK_LOG], capture_output=True, text=True, check=False, timeout=30)
    assert (ended.returncode, ended.stderr) == (4, "harmonicio engine: A part is gone.\n")


CLOSES_LISTENER = """
    import os, socket, stat, time
    @handler
    def close(message):
        time.sleep(message.metadata["seconds"])
        for fd in range(3, 200):
            try:
                if stat.S_ISSOCK(os.fstat(fd).st_mode):
                    with socket.socket(fileno=os.dup(fd)) as each:
                        if each.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
                            os.close(fd)
            except OSError:
                pass
"""


def test_a_suspect_is_not_blamed_for_what_was_broken_before_it(start: Start, tmp_path: Path) -> None:
    engine = start(CLOSES_LISTENER)
    with engine.connector() as connector:
        connector.send(message_id="m-1", metadata={"seconds": 1.0})
        wait_until(lambda: engine.master.is_connected and engine.controller.last and engine.controller.last.running)
        engine.master.push(message_id="m-2", flags=int(Flag.SUSPECT), metadata={"seconds": 60})
        assert engine.exit_code() == 4
    assert "The data port of the engine is gone" in engine.last_line
    assert read_board(tmp_path / BOARD_NAME, 1) == ()


def test_an_engine_whose_board_is_gone_ends(start: Start, tmp_path: Path) -> None:
    engine = start("import os\n@handler\ndef f(message): os.unlink(message.metadata['path'])")
    with engine.connector() as connector:
        connector.send(metadata={"path": str(tmp_path / BOARD_NAME)})
        assert engine.exit_code() == 4
    assert "The board of the engine is gone" in engine.last_line


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("import no_such_library_here", "No module named 'no_such_library_here'"),
        ("def plain(message): ...", "has no handler"),
        ("def fail(p): 1 / 0\n@handler(setup=fail)\ndef f(message, state): ...", "ZeroDivisionError: division by zero"),
        ("def f(p): raise RuntimeError('no GPU\\nat all')\n@handler(setup=f)\ndef g(m, s): ...", "no GPU at all"),
    ],
)
def test_an_engine_that_cannot_start_says_why_in_its_last_line_and_exits_3(start: Start, code: str, said: str) -> None:
    engine = start(code)
    assert engine.exit_code() == 3
    assert said in engine.last_line
    assert "mine.py" in engine.last_line


PARAMETERS = "@handler\ndef scale(message, *, gain: float): return gain"


def test_the_streams_parameters_reach_the_handler(start: Start) -> None:
    with start(PARAMETERS, parameters={"gain": 2.5}).connector() as connector:
        assert connector.outcome(connector.send()).result == 2.5


@pytest.mark.parametrize(
    ("parameters", "said"),
    [
        ({}, "is missing. It may be: float."),
        ({"gain": "2.5"}, "cannot be '2.5'. It may be: float."),
        ({"gain": 1, "gian": 2}, "Parameter 'gian' is unknown to the handler scale in"),
    ],
)
def test_parameters_that_do_not_fit_keep_the_engine_from_starting(
    start: Start, parameters: dict[str, Any], said: str
) -> None:
    engine = start(PARAMETERS, parameters=parameters)
    assert engine.exit_code() == 3
    assert said in engine.last_line


def test_temporary_files_of_the_handler_lie_on_the_scratch_volume(start: Start, tmp_path: Path) -> None:
    code = """
        import subprocess, tempfile
        kept_since_its_import = tempfile.mkstemp()[1]
        @handler
        def tell(message):
            return [kept_since_its_import, subprocess.check_output(["mktemp", "-u"], text=True)]
    """
    with start(code).connector() as connector:
        paths = connector.outcome(connector.send()).result
    assert [str(Path(path).parent) for path in paths] == [str(tmp_path / "scratch")] * 2


def test_an_unknown_plugin_keeps_the_engine_from_starting(start: Start) -> None:
    engine = start(NOOP, plugins={"nonesuch": {}})
    assert engine.exit_code() == 3
    assert "There is no engine plugin 'nonesuch'" in engine.last_line


def test_a_signal_during_a_slow_setup_ends_the_engine_at_once(start: Start) -> None:
    engine = start("import time\n@handler(setup=lambda p: time.sleep(60))\ndef f(message, state): ...")
    wait_until(lambda: engine.controller.states == ["starting"])
    engine.process.send_signal(signal.SIGTERM)
    assert engine.exit_code() == 0


def test_an_engine_without_a_controller_ends_by_itself(start: Start) -> None:
    engine = start(NOOP, orphan_after_s=0.5)
    wait_until(lambda: engine.controller.states[-1:] == ["idle"], 20)
    engine.controller.close()
    assert engine.exit_code() == 0
    assert "No controller for" in engine.log.read_text()


def test_an_engine_finds_the_next_controller_at_the_same_path(start: Start) -> None:
    engine = start(NOOP)
    wait_until(lambda: engine.controller.states[-1:] == ["idle"], 20)
    engine.controller.close()
    following = BareController(engine.controller.path)
    try:
        wait_until(lambda: following.last is not None)
        following.order(EngineOrder(5.0))
        assert engine.exit_code() == 0
    finally:
        following.close()


def test_a_control_socket_at_a_long_path_is_found(start: Start, tmp_path: Path) -> None:
    folder = tmp_path / ("long-" * 20) / ("path-" * 20)
    folder.mkdir(parents=True)
    engine = start(NOOP, folder=folder)
    wait_until(lambda: engine.controller.states[-1:] == ["idle"], 20)
    engine.controller.order(EngineOrder(5.0))
    assert engine.exit_code() == 0


@pytest.mark.parametrize("line", [b"", b"not json\n", b'{"engine": "e1"}\n'])
def test_without_a_usable_configuration_the_engine_says_so_and_exits_2(tmp_path: Path, line: bytes) -> None:
    run = subprocess.run(
        [sys.executable, "-m", "harmonicio.engine", "any.py"], input=line, capture_output=True, timeout=30, check=False
    )
    assert run.returncode == 2
    assert b"no configuration on standard input" in run.stderr


def _kind(outcome: Outcome) -> OutcomeKind | RejectReason | None:
    return outcome.reason if outcome.kind is OutcomeKind.REJECTED else outcome.kind


NOTES = """
    from pathlib import Path
    @handler
    def note(message):
        Path(__file__).with_name("given.txt").write_text(str(len(message.payload)))
"""
FRAME_BYTES = 20_000_000


def test_an_engine_that_is_killed_at_any_tenth_of_a_frame_has_given_its_handler_nothing(
    start: Start, tmp_path: Path
) -> None:
    payload, engines = bytes(FRAME_BYTES), []
    for tenth in range(10):
        (folder := tmp_path / str(tenth)).mkdir()
        engines.append(start(NOTES, folder=folder))
    for tenth, engine in enumerate(engines):
        with engine.connector() as connector:
            connector.wait(partial(connector.credit.can_send, FRAME_BYTES))
            connector.link.send(connector.prefix(FRAME_BYTES), memoryview(payload)[: tenth * FRAME_BYTES // 10])
            engine.process.kill()
            with pytest.raises(ConnectionEnded):
                connector.wait_for_outcomes(1)
    assert not (tmp_path / "given.txt").exists()
