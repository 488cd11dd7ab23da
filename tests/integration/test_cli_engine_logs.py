"""``harmonicio engine logs``: the log of an engine of a real cluster, to its end and while it is written."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from textwrap import dedent

import pytest

from benches.master import IDLE, LogWorker, client_of, run_master
from harmonicio.cli import engine_log
from harmonicio.cli.__main__ import main
from harmonicio.cli.local_cluster import LocalCluster
from harmonicio.control.log_messages import LogPart
from harmonicio.core.roles import Role
from harmonicio.core.stream import StreamDeclaration
from harmonicio.stream_connector import StreamConnector
from harmonicio.testing.waiting import wait_until

ECHO = """
    import sys
    from harmonicio.engine import handler

    @handler
    def echo(message):
        sys.stdout.write(bytes(message.payload).decode())
        sys.stdout.flush()
"""


@pytest.fixture
def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[LocalCluster]:
    """A cluster with one engine that prints what it is sent."""
    (tmp_path / "echo.py").write_text(dedent(ECHO))
    with LocalCluster(tmp_path, max_engines=2) as cluster:
        cluster.declare(StreamDeclaration("echo", handler=str(tmp_path / "echo.py")))
        cluster.wait_for_engines("echo", 1)
        monkeypatch.setenv("HARMONICIO_HOME", str(tmp_path))
        monkeypatch.setenv("HARMONICIO_MASTER_URL", cluster.url)
        yield cluster


@pytest.fixture
def engine(cluster: LocalCluster) -> str:
    return cluster.client.engines()[0].engine


@pytest.fixture
def say(cluster: LocalCluster) -> Iterator[Callable[[str], None]]:
    """Have the engine print a text."""
    with StreamConnector("echo", master=cluster.url, token=cluster.source_token) as connector:

        def say(text: str) -> None:
            connector.send(text.encode())
            connector.flush("processed")

        yield say


class Follower:
    """A command that follows a log, and what it has printed by now."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        self.printed = ""
        assert process.stdout is not None
        self._output = process.stdout
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _read(self) -> None:
        while text := self._output.read(1):
            self.printed += text

    def wait_for(self, text: str) -> None:
        wait_until(lambda: text in self.printed, what=f"{text!r} after {self.printed!r}")

    def end(self) -> int:
        """Wait for its end, and return its exit code."""
        exit_code = self.process.wait(20)
        self._thread.join(5)
        return exit_code


@contextmanager
def following(engine: str, *options: str) -> Iterator[Follower]:
    command = [sys.executable, "-m", "harmonicio.cli", "engine", "logs", engine, "-f", *options]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=os.environ) as run:
        try:
            yield Follower(run)
        finally:
            run.kill()


def logged(engine: str, capsys: pytest.CaptureFixture[str], *options: str) -> str:
    """Return what the command prints of a log."""
    capsys.readouterr()
    assert main(["engine", "logs", engine, *options]) == 0
    return capsys.readouterr().out


def test_the_end_of_a_log_is_printed_and_nothing_in_it_is_obeyed(
    engine: str, say: Callable[[str], None], capsys: pytest.CaptureFixture[str]
) -> None:
    say("plate\t1: 3 µm\n\x1b[2J\x07 [red]50%\r100%\nhalf a line")
    printed = logged(engine, capsys)
    assert f"Engine {engine} serves stream echo" in printed
    assert printed.endswith("plate\t1: 3 µm\n\\x1b[2J\\x07 [red]50%\\r100%\nhalf a line")
    assert logged(engine, capsys, "--lines", "2") == "\\x1b[2J\\x07 [red]50%\\r100%\nhalf a line"
    assert logged(engine, capsys, "-n", "0") == ""


def test_a_log_is_followed_until_the_engine_has_ended(
    cluster: LocalCluster, engine: str, say: Callable[[str], None], capsys: pytest.CaptureFixture[str]
) -> None:
    say("before\n")
    with following(engine, "--lines", "1") as follower:
        follower.wait_for("before\n")
        for number in range(3):
            say(f"line {number}\n")
            follower.wait_for(f"line {number}\n")
        say("last, and long: " + "x" * 200_000 + "\n")
        cluster.client.scale_stream("echo", 0)
        assert follower.end() == 0
    assert follower.printed.startswith("before\nline 0\nline 1\nline 2\nlast, and long: xxx")
    assert follower.printed.count("x") == 200_000
    wait_until(lambda: cluster.client.engines() == ())
    assert f"Engine {engine} drains" in logged(engine, capsys)


def test_ctrl_c_ends_the_following_at_once(engine: str, say: Callable[[str], None]) -> None:
    with following(engine) as follower:
        follower.wait_for("serves stream echo")
        say("seen\n")
        follower.wait_for("seen\n")
        follower.process.send_signal(signal.SIGINT)
        assert follower.process.wait(5) == 0
        follower.end()
    assert follower.printed.endswith("seen\n")


def test_several_follow_one_log(engine: str, say: Callable[[str], None]) -> None:
    with following(engine, "-n", "0") as one, following(engine) as other:
        other.wait_for("serves stream echo")
        say("both\n")
        other.wait_for("both\n")

        def is_heard() -> bool:  # It prints what comes after it has begun, whenever that is.
            say("and again\n")
            return "and again\n" in one.printed

        wait_until(is_heard, 30, what="what is said while it follows")


def test_a_log_is_followed_on_after_its_worker_was_away(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine_log, "RETRY_S", 0.05)
    with (
        run_master(tmp_path / "master", lost_after_s=0.5) as service,
        client_of(service, Role.ADMIN) as client,
        ThreadPoolExecutor(1) as beside,
    ):
        worker = LogWorker(client)
        wait_until(lambda: client.worker("w1").state == "lost")
        following = beside.submit(engine_log.follow_until, client, "e1", "3", threading.Event())
        wait_until(lambda: "does not report" in capsys.readouterr().err)
        worker.report(e1=IDLE)
        assert worker.serve(LogPart("back\n", "8", is_over=True)).after == "3"
        following.result()
    written = capsys.readouterr()
    assert (written.out, written.err) == ("back\n", "")


def test_an_unknown_engine_is_an_error_with_a_hint(cluster: LocalCluster, capsys: pytest.CaptureFixture[str]) -> None:
    for options in ((), ("-f",)):
        assert main(["engine", "logs", "e-unknown", *options]) == 1
        assert "error: There is no engine 'e-unknown'" in capsys.readouterr().err
    assert main(["engine", "logs", "../../tokens"]) == 2


def test_a_source_may_not_read_logs(
    cluster: LocalCluster, engine: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    token = str(tmp_path / "master" / "tokens" / "source.token")
    assert main(["--token-file", token, "engine", "logs", engine]) == 1
    assert "may not do this. Use a token of one of these roles: admin, viewer." in capsys.readouterr().err


@pytest.mark.parametrize(
    ("count", "shown"), [(None, "a\n\x0bb\nc"), (0, ""), (1, "c"), (2, "\x0bb\nc"), (9, "a\n\x0bb\nc")]
)
def test_the_last_lines_of_a_text_may_have_no_end(count: int | None, shown: str) -> None:
    assert engine_log.last_lines("a\n\x0bb\nc", count) == shown
